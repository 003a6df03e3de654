// Compiled from unrolled.cells.CoRNN.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// The coupled oscillatory network: damped oscillators, driven by the input and by each other.
//     z_t = z_{t-1} + Δt (tanh(W y_{t-1} + W' z_{t-1} + V x_t + b) - γ y_{t-1} - ε z_{t-1})
//     y_t = y_{t-1} + Δt z_t
struct CoRnn {
  static constexpr const char* name = "co_rnn 50eaecaa2473bf09";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 1, noise = 0, products = 0, vectors = 3;
  static constexpr int states = 2, kept = 1, grads = 1;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 3> d_vector = {-1, -1, -1};
  static constexpr int weight_blocks = 2, widest_product = 2;
  static constexpr int staging = 2, sums = 0;
  static constexpr int forward_stages = 2;
  static constexpr std::array<Product, 2> forward_products = {{{0, 1, true, 1, 1, 0, {}}, {1, 1, true, 1, 1, 1, {}}}};
  static constexpr std::array<int, 3> forward_first = {0, 0, 2};
  static constexpr std::array<int, 3> forward_sums = {0, 0, 0};
  static constexpr int backward_stages = 2;
  static constexpr std::array<Product, 2> backward_products = {{{0, 1, false, 1, 1, -1, {0}}, {1, 1, false, 1, 1, -1, {0}}}};
  static constexpr std::array<int, 3> backward_first = {0, 0, 2};
  static constexpr std::array<int, 3> backward_sums = {0, 0, 0};
  static constexpr std::array<WeightGradient, 2> weight_gradients = {
      {{0, 1, true, 1, 1, {0}, 0, {}}, {1, 1, true, 1, 1, {0}, 1, {}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 1) {
      const V v0 = tanh(at.projected(0) + at.product(0) + at.product(1));
      const V v1 = at.state(1) + (v0 - at.state(0) * at.vector(0) - at.state(1) * at.vector(1)) * at.vector(2);
      at.set_kept(0, v0);
      at.set_next(0, at.state(0) + v1 * at.vector(2));
      at.set_next(1, v1);
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(1) + at.d_next(0) * at.vector(2);
      const V v1 = v0 * at.vector(2);
      at.set_staging(0, at.d_next(0) - v1 * at.vector(0));
      at.set_staging(1, v0 - v1 * at.vector(1));
      at.set_grad(0, v1 * (V(1.0) - at.kept(0) * at.kept(0)));
    }
    if constexpr (stage == 1) {
      at.set_d_state(0, at.staging(0) + at.product(0));
      at.set_d_state(1, at.staging(1) + at.product(1));
    }
  }
};

}  // namespace
