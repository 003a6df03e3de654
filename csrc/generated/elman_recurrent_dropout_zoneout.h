// Compiled from unrolled.cells.Elman.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// The simple recurrent network: s_t = f(U x_t + W s_{t-1} + b).
struct ElmanRecurrentDropoutZoneout {
  static constexpr const char* name = "elman_recurrent_dropout_zoneout 5983cf34feae5d56";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "";
  static constexpr bool staged = true;
  static constexpr int projected = 1, noise = 2, products = 0, vectors = 0;
  static constexpr int states = 1, kept = 2, grads = 1;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 0> d_vector = {};
  static constexpr int weight_blocks = 1, widest_product = 1;
  static constexpr int staging = 1, sums = 0;
  static constexpr int forward_stages = 2;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 1, 1, -1, {0}}}};
  static constexpr std::array<int, 3> forward_first = {0, 0, 1};
  static constexpr std::array<int, 3> forward_sums = {0, 0, 0};
  static constexpr int backward_stages = 2;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 1, -1, {0}}}};
  static constexpr std::array<int, 3> backward_first = {0, 0, 1};
  static constexpr std::array<int, 3> backward_sums = {0, 0, 0};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 1, 1, {0}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.state(0) * at.noise(0);
      at.set_staging(0, v0);
      at.set_kept(0, v0);
    }
    if constexpr (stage == 1) {
      const V v0 = tanh(at.projected(0) + at.product(0));
      at.set_kept(1, v0);
      at.set_next(0, at.noise(1) * at.state(0) + (V(1.0) - at.noise(1)) * v0);
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      at.set_staging(0, at.d_next(0) * at.noise(1));
      at.set_grad(0, at.d_next(0) * (V(1.0) - at.noise(1)) * (V(1.0) - at.kept(1) * at.kept(1)));
    }
    if constexpr (stage == 1) {
      at.set_d_state(0, at.staging(0) + at.product(0) * at.noise(0));
    }
  }
};

}  // namespace
