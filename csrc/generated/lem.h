// Compiled from unrolled.cells.LEM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// Long expressive memory: two states, each with its own step sizes, which the network learns.
//     a = Δt σ(W_a y_{t-1} + V_a x_t + b_a)
//     e = Δt σ(W_e y_{t-1} + V_e x_t + b_e)
//     z_t = (1 - a) ⊙ z_{t-1} + a ⊙ tanh(W_z y_{t-1} + V_z x_t + b_z)
//     y_t = (1 - e) ⊙ y_{t-1} + e ⊙ tanh(W_y z_t + V_y x_t + b_y)
struct Lem {
  static constexpr const char* name = "lem 780e63b090b8f905";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "";
  static constexpr bool staged = true;
  static constexpr int projected = 4, noise = 0, products = 0, vectors = 0;
  static constexpr int states = 2, kept = 5, grads = 4;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 4> d_projected = {0, 1, 2, 3};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 0> d_vector = {};
  static constexpr int weight_blocks = 4, widest_product = 3;
  static constexpr int staging = 3, sums = 0;
  static constexpr int forward_stages = 3;
  static constexpr std::array<Product, 2> forward_products = {{{0, 1, true, 3, 1, 0, {}}, {3, 1, true, 1, 1, -1, {2}}}};
  static constexpr std::array<int, 4> forward_first = {0, 0, 1, 2};
  static constexpr std::array<int, 4> forward_sums = {0, 0, 0, 0};
  static constexpr int backward_stages = 3;
  static constexpr std::array<Product, 2> backward_products = {{{3, 1, false, 1, 1, -1, {3}}, {0, 1, false, 1, 3, -1, {0, 1, 2}}}};
  static constexpr std::array<int, 4> backward_first = {0, 0, 1, 2};
  static constexpr std::array<int, 4> backward_sums = {0, 0, 0, 0};
  static constexpr std::array<WeightGradient, 2> weight_gradients = {
      {{0, 1, true, 3, 1, {0, 1, 2}, 0, {}}, {3, 1, true, 1, 1, {3}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(1) + at.product(1));
      const V v1 = sigmoid(at.projected(0) + at.product(0));
      const V v2 = tanh(at.projected(2) + at.product(2));
      const V v3 = (V(1.0) - v1) * at.state(1) + v1 * v2;
      at.set_staging(0, v0);
      at.set_staging(1, (V(1.0) - v0) * at.state(0));
      at.set_staging(2, v3);
      at.set_kept(0, v3);
      at.set_kept(1, v0);
      at.set_kept(2, v1);
      at.set_kept(3, v2);
    }
    if constexpr (stage == 2) {
      const V v0 = tanh(at.projected(3) + at.product(0));
      at.set_kept(4, v0);
      at.set_next(0, at.staging(1) + at.staging(0) * v0);
      at.set_next(1, at.staging(2));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = V(1.0) - at.kept(1);
      at.set_staging(0, at.d_next(1));
      at.set_staging(1, at.d_next(0) * v0);
      at.set_grad(1, (at.d_next(0) * at.kept(4) - at.d_next(0) * at.state(0)) * at.kept(1) * v0);
      at.set_grad(3, at.d_next(0) * at.kept(1) * (V(1.0) - at.kept(4) * at.kept(4)));
    }
    if constexpr (stage == 1) {
      const V v0 = at.staging(0) + at.product(0);
      const V v1 = V(1.0) - at.kept(2);
      at.set_staging(2, v0 * v1);
      at.set_grad(0, (v0 * at.kept(3) - v0 * at.state(1)) * at.kept(2) * v1);
      at.set_grad(2, v0 * at.kept(2) * (V(1.0) - at.kept(3) * at.kept(3)));
    }
    if constexpr (stage == 2) {
      at.set_d_state(0, at.staging(1) + at.product(0));
      at.set_d_state(1, at.staging(2));
    }
  }
};

}  // namespace
