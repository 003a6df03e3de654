// Compiled from unrolled.cells.RecurrentHighway.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// The recurrent highway network: several highway layers within one step of time.
//     s_0 = s_{t-1}        and for l = 1 … micro_depth:
//     h_l = tanh([l = 1] U_h x_t + R_hl s_{l-1} + b_hl)
//     g_l = σ([l = 1] U_g x_t + R_gl s_{l-1} + b_gl)
//     s_l = g_l ⊙ h_l + (1 - g_l) ⊙ s_{l-1}
struct RecurrentHighway {
  static constexpr const char* name = "recurrent_highway 412605ca87e29843";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 2, noise = 0, products = 0, vectors = 4;
  static constexpr int states = 1, kept = 8, grads = 6;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 2> d_projected = {0, 1};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 4> d_vector = {2, 3, 4, 5};
  static constexpr int weight_blocks = 6, widest_product = 2;
  static constexpr int staging = 3, sums = 0;
  static constexpr int forward_stages = 4;
  static constexpr std::array<Product, 3> forward_products = {{{0, 1, true, 2, 1, 0, {}}, {2, 1, true, 2, 1, -1, {0}}, {4, 1, true, 2, 1, -1, {1}}}};
  static constexpr std::array<int, 5> forward_first = {0, 0, 1, 2, 3};
  static constexpr std::array<int, 5> forward_sums = {0, 0, 0, 0, 0};
  static constexpr int backward_stages = 4;
  static constexpr std::array<Product, 3> backward_products = {{{4, 1, false, 1, 2, -1, {4, 5}}, {2, 1, false, 1, 2, -1, {2, 3}}, {0, 1, false, 1, 2, -1, {0, 1}}}};
  static constexpr std::array<int, 5> backward_first = {0, 0, 1, 2, 3};
  static constexpr std::array<int, 5> backward_sums = {0, 0, 0, 0, 0};
  static constexpr std::array<WeightGradient, 3> weight_gradients = {
      {{0, 1, true, 2, 1, {0, 1}, 0, {}}, {2, 1, true, 2, 1, {2, 3}, -1, {0}}, {4, 1, true, 2, 1, {4, 5}, -1, {1}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(1) + at.product(1));
      const V v1 = tanh(at.projected(0) + at.product(0));
      const V v2 = v0 * v1 + (V(1.0) - v0) * at.state(0);
      at.set_staging(0, v2);
      at.set_kept(0, v2);
      at.set_kept(2, v0);
      at.set_kept(3, v1);
    }
    if constexpr (stage == 2) {
      const V v0 = sigmoid(at.vector(1) + at.product(1));
      const V v1 = tanh(at.vector(0) + at.product(0));
      const V v2 = v0 * v1 + (V(1.0) - v0) * at.staging(0);
      at.set_staging(1, v2);
      at.set_kept(1, v2);
      at.set_kept(4, v0);
      at.set_kept(5, v1);
    }
    if constexpr (stage == 3) {
      const V v0 = sigmoid(at.vector(3) + at.product(1));
      const V v1 = tanh(at.vector(2) + at.product(0));
      at.set_kept(6, v0);
      at.set_kept(7, v1);
      at.set_next(0, v0 * v1 + (V(1.0) - v0) * at.staging(1));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = V(1.0) - at.kept(6);
      at.set_staging(0, at.d_next(0) * v0);
      at.set_grad(4, at.d_next(0) * at.kept(6) * (V(1.0) - at.kept(7) * at.kept(7)));
      at.set_grad(5, (at.d_next(0) * at.kept(7) - at.d_next(0) * at.kept(1)) * at.kept(6) * v0);
    }
    if constexpr (stage == 1) {
      const V v0 = at.staging(0) + at.product(0);
      const V v1 = V(1.0) - at.kept(4);
      at.set_staging(1, v0 * v1);
      at.set_grad(2, v0 * at.kept(4) * (V(1.0) - at.kept(5) * at.kept(5)));
      at.set_grad(3, (v0 * at.kept(5) - v0 * at.kept(0)) * at.kept(4) * v1);
    }
    if constexpr (stage == 2) {
      const V v0 = at.staging(1) + at.product(0);
      const V v1 = V(1.0) - at.kept(2);
      at.set_staging(2, v0 * v1);
      at.set_grad(0, v0 * at.kept(2) * (V(1.0) - at.kept(3) * at.kept(3)));
      at.set_grad(1, (v0 * at.kept(3) - v0 * at.state(0)) * at.kept(2) * v1);
    }
    if constexpr (stage == 3) {
      at.set_d_state(0, at.staging(2) + at.product(0));
    }
  }
};

}  // namespace
