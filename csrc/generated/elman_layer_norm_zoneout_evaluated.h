// Compiled from unrolled.cells.Elman.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// The simple recurrent network: s_t = f(U x_t + W s_{t-1} + b).
struct ElmanLayerNormZoneoutEvaluated {
  static constexpr const char* name = "elman_layer_norm_zoneout_evaluated 922cda317d88a3d7";
  static constexpr const char* projection = "weight_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 1, noise = 0, products = 0, vectors = 9;
  static constexpr int states = 1, kept = 5, grads = 5;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 9> d_vector = {1, 2, 3, 2, 2, -1, -1, -1, -1};
  static constexpr int weight_blocks = 1, widest_product = 1;
  static constexpr int staging = 4, sums = 4;
  static constexpr int forward_stages = 4;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 1, 1, 0, {}}}};
  static constexpr std::array<int, 5> forward_first = {0, 0, 1, 1, 1};
  static constexpr std::array<int, 5> forward_sums = {0, 1, 3, 4, 4};
  static constexpr int backward_stages = 3;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 1, -1, {4}}}};
  static constexpr std::array<int, 4> backward_first = {0, 0, 0, 1};
  static constexpr std::array<int, 4> backward_sums = {0, 4, 4, 4};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 1, 1, {4}, 0, {}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      at.add_sum(0, at.projected(0));
    }
    if constexpr (stage == 1) {
      const V v0 = at.projected(0) - at.sum(0) * at.vector(5);
      at.set_staging(0, v0);
      at.set_staging(1, at.product(0));
      at.add_sum(1, v0 * v0);
      at.add_sum(2, at.product(0));
    }
    if constexpr (stage == 2) {
      const V v0 = at.staging(1) - at.sum(2) * at.vector(5);
      const V v1 = V(1.0) / sqrt(at.sum(1) * at.vector(5) + at.vector(6));
      const V v2 = at.staging(0) * v1;
      at.set_staging(2, v0);
      at.set_staging(3, v2 * at.vector(0) + at.vector(1) + at.vector(4));
      at.add_sum(3, v0 * v0);
      at.set_kept(0, v1);
      at.set_kept(1, v2);
    }
    if constexpr (stage == 3) {
      const V v0 = V(1.0) / sqrt(at.sum(3) * at.vector(5) + at.vector(6));
      const V v1 = at.staging(2) * v0;
      const V v2 = tanh(at.staging(3) + v1 * at.vector(2) + at.vector(3));
      at.set_kept(2, v0);
      at.set_kept(3, v1);
      at.set_kept(4, v2);
      at.set_next(0, at.state(0) * at.vector(7) + v2 * at.vector(8));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * at.vector(8) * (V(1.0) - at.kept(4) * at.kept(4));
      const V v1 = v0 * at.vector(0);
      const V v2 = v0 * at.vector(2);
      at.set_staging(0, v1);
      at.set_staging(1, v2);
      at.set_staging(2, at.d_next(0) * at.vector(7));
      at.add_sum(0, v1);
      at.add_sum(1, v1 * at.kept(1));
      at.add_sum(2, v2);
      at.add_sum(3, v2 * at.kept(3));
      at.set_grad(1, v0 * at.kept(1));
      at.set_grad(2, v0);
      at.set_grad(3, v0 * at.kept(3));
    }
    if constexpr (stage == 1) {
      at.set_grad(0, at.kept(0) * (at.staging(0) - at.sum(0) * at.vector(5) - at.kept(1) * at.sum(1) * at.vector(5)));
      at.set_grad(4, at.kept(2) * (at.staging(1) - at.sum(2) * at.vector(5) - at.kept(3) * at.sum(3) * at.vector(5)));
    }
    if constexpr (stage == 2) {
      at.set_d_state(0, at.staging(2) + at.product(0));
    }
  }
};

}  // namespace
