// Compiled from unrolled.cells.GRUD.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// GRU-D: a value that is missing fades from the last one to the mean, and the state fades with time.
//     γ_x = exp(-max(0, w_x ⊙ δ_t + b_x))          γ_h = exp(-max(0, W_γ δ_t + b_γ))
//     x̂ = m_t ⊙ x_t + (1 - m_t) ⊙ (γ_x ⊙ x' + (1 - γ_x) ⊙ x̃)
//     ĥ = γ_h ⊙ h_{t-1}
//     r = σ(U_r x̂ + W_r ĥ + V_r m_t + b_r)
//     z = σ(U_z x̂ + W_z ĥ + V_z m_t + b_z)
//     n = tanh(U_n x̂ + W_n (r ⊙ ĥ) + V_n m_t + b_n)
//     h_t = (1 - z) ⊙ ĥ + z ⊙ n
struct GrudLayerNormRecurrentDropoutZoneout {
  static constexpr const char* name = "grud_layer_norm_recurrent_dropout_zoneout 0d8f495b676a0192";
  static constexpr const char* projection = "";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 4, noise = 2, products = 0, vectors = 9;
  static constexpr int states = 1, kept = 11, grads = 10;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 4> d_projected = {0, 1, 2, 3};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 9> d_vector = {4, 5, 6, 1, 2, 3, -1, -1, -1};
  static constexpr int weight_blocks = 3, widest_product = 2;
  static constexpr int staging = 11, sums = 4;
  static constexpr int forward_stages = 7;
  static constexpr std::array<Product, 2> forward_products = {{{0, 2, false, 2, 1, -1, {3}}, {2, 1, false, 1, 1, -1, {10}}}};
  static constexpr std::array<int, 8> forward_first = {0, 0, 1, 1, 1, 2, 2, 2};
  static constexpr std::array<int, 8> forward_sums = {0, 0, 1, 2, 2, 3, 4, 4};
  static constexpr int backward_stages = 5;
  static constexpr std::array<Product, 2> backward_products = {{{2, 1, true, 1, 1, -1, {9}}, {0, 2, true, 1, 2, -1, {7, 8}}}};
  static constexpr std::array<int, 6> backward_first = {0, 0, 0, 1, 1, 2};
  static constexpr std::array<int, 6> backward_sums = {0, 2, 2, 4, 4, 4};
  static constexpr std::array<WeightGradient, 2> weight_gradients = {
      {{0, 2, false, 2, 1, {7, 8}, -1, {0}}, {2, 1, false, 1, 1, {9}, -1, {1}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = exp(-relu(at.projected(0)));
      const V v1 = v0 * at.state(0);
      const V v2 = v1 * at.noise(0);
      at.set_staging(3, v2);
      at.set_staging(7, v1);
      at.set_kept(0, v2);
      at.set_kept(2, v0);
    }
    if constexpr (stage == 1) {
      at.set_staging(0, at.product(0));
      at.set_staging(1, at.product(1));
      at.add_sum(0, at.product(0) + at.product(1));
    }
    if constexpr (stage == 2) {
      const V v0 = at.sum(0) * at.vector(6);
      const V v1 = at.staging(0) - v0;
      const V v2 = at.staging(1) - v0;
      at.set_staging(2, v1);
      at.set_staging(4, v2);
      at.add_sum(1, v1 * v1 + v2 * v2);
    }
    if constexpr (stage == 3) {
      const V v0 = V(1.0) / sqrt(at.sum(1) * at.vector(6) + at.vector(7));
      const V v1 = at.staging(4) * v0;
      const V v2 = sigmoid(at.projected(2) + v1 * at.vector(1) + at.vector(4));
      const V v3 = at.staging(2) * v0;
      const V v4 = sigmoid(at.projected(1) + v3 * at.vector(0) + at.vector(3));
      const V v5 = v4 * at.staging(3);
      at.set_staging(8, v2);
      at.set_staging(9, (V(1.0) - v2) * at.staging(7));
      at.set_staging(10, v5);
      at.set_kept(1, v5);
      at.set_kept(3, v0);
      at.set_kept(4, v1);
      at.set_kept(5, v2);
      at.set_kept(6, v3);
      at.set_kept(7, v4);
    }
    if constexpr (stage == 4) {
      at.set_staging(5, at.product(0));
      at.add_sum(2, at.product(0));
    }
    if constexpr (stage == 5) {
      const V v0 = at.staging(5) - at.sum(2) * at.vector(8);
      at.set_staging(6, v0);
      at.add_sum(3, v0 * v0);
    }
    if constexpr (stage == 6) {
      const V v0 = V(1.0) / sqrt(at.sum(3) * at.vector(8) + at.vector(7));
      const V v1 = at.staging(6) * v0;
      const V v2 = tanh(at.projected(3) + v1 * at.vector(2) + at.vector(5));
      at.set_kept(8, v0);
      at.set_kept(9, v1);
      at.set_kept(10, v2);
      at.set_next(0, at.noise(1) * at.staging(7) + (V(1.0) - at.noise(1)) * (at.staging(9) + at.staging(8) * v2));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * (V(1.0) - at.noise(1));
      const V v1 = v0 * at.kept(5) * (V(1.0) - at.kept(10) * at.kept(10));
      const V v2 = v1 * at.vector(2);
      const V v3 = V(1.0) - at.kept(5);
      const V v4 = (v0 * at.kept(10) - v0 * at.kept(2) * at.state(0)) * at.kept(5) * v3;
      const V v5 = v4 * at.vector(1);
      at.set_staging(0, v2);
      at.set_staging(1, v5);
      at.set_staging(3, v5 * at.kept(4));
      at.set_staging(5, at.d_next(0) * at.noise(1) + v0 * v3);
      at.add_sum(0, v2);
      at.add_sum(1, v2 * at.kept(9));
      at.set_grad(2, v4);
      at.set_grad(3, v1);
      at.set_grad(5, v4 * at.kept(4));
      at.set_grad(6, v1 * at.kept(9));
    }
    if constexpr (stage == 1) {
      at.set_grad(9, at.kept(8) * (at.staging(0) - at.sum(0) * at.vector(8) - at.kept(9) * at.sum(1) * at.vector(8)));
    }
    if constexpr (stage == 2) {
      const V v0 = at.product(0) * at.kept(0) * at.kept(7) * (V(1.0) - at.kept(7));
      const V v1 = v0 * at.vector(0);
      at.set_staging(2, v1);
      at.set_staging(4, at.product(0) * at.kept(7));
      at.add_sum(2, v1 + at.staging(1));
      at.add_sum(3, v1 * at.kept(6) + at.staging(3));
      at.set_grad(1, v0);
      at.set_grad(4, v0 * at.kept(6));
    }
    if constexpr (stage == 3) {
      const V v0 = at.sum(2) * at.vector(6);
      const V v1 = at.sum(3) * at.vector(6);
      at.set_grad(7, at.kept(3) * (at.staging(2) - v0 - at.kept(6) * v1));
      at.set_grad(8, at.kept(3) * (at.staging(1) - v0 - at.kept(4) * v1));
    }
    if constexpr (stage == 4) {
      const V v0 = at.staging(5) + (at.staging(4) + at.product(0)) * at.noise(0);
      at.set_grad(0, select(relu(at.projected(0)) <= V(0.0), V(0.0), -(v0 * at.state(0) * at.kept(2))));
      at.set_d_state(0, v0 * at.kept(2));
    }
  }
};

}  // namespace
