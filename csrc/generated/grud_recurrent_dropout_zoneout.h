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
struct GrudRecurrentDropoutZoneout {
  static constexpr const char* name = "grud_recurrent_dropout_zoneout a06126e72897d226";
  static constexpr const char* projection = "";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "";
  static constexpr bool staged = true;
  static constexpr int projected = 4, noise = 2, products = 0, vectors = 0;
  static constexpr int states = 1, kept = 6, grads = 4;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 4> d_projected = {0, 1, 2, 3};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 0> d_vector = {};
  static constexpr int weight_blocks = 3, widest_product = 2;
  static constexpr int staging = 5, sums = 0;
  static constexpr int forward_stages = 3;
  static constexpr std::array<Product, 2> forward_products = {{{0, 2, false, 2, 1, -1, {0}}, {2, 1, false, 1, 1, -1, {4}}}};
  static constexpr std::array<int, 4> forward_first = {0, 0, 1, 2};
  static constexpr std::array<int, 4> forward_sums = {0, 0, 0, 0};
  static constexpr int backward_stages = 3;
  static constexpr std::array<Product, 2> backward_products = {{{2, 1, true, 1, 1, -1, {3}}, {0, 2, true, 1, 2, -1, {1, 2}}}};
  static constexpr std::array<int, 4> backward_first = {0, 0, 1, 2};
  static constexpr std::array<int, 4> backward_sums = {0, 0, 0, 0};
  static constexpr std::array<WeightGradient, 2> weight_gradients = {
      {{0, 2, false, 2, 1, {1, 2}, -1, {0}}, {2, 1, false, 1, 1, {3}, -1, {1}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = exp(-relu(at.projected(0)));
      const V v1 = v0 * at.state(0);
      const V v2 = v1 * at.noise(0);
      at.set_staging(0, v2);
      at.set_staging(1, v1);
      at.set_kept(0, v2);
      at.set_kept(2, v0);
    }
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(2) + at.product(1));
      const V v1 = sigmoid(at.projected(1) + at.product(0));
      const V v2 = v1 * at.staging(0);
      at.set_staging(2, v0);
      at.set_staging(3, (V(1.0) - v0) * at.staging(1));
      at.set_staging(4, v2);
      at.set_kept(1, v2);
      at.set_kept(3, v0);
      at.set_kept(4, v1);
    }
    if constexpr (stage == 2) {
      const V v0 = tanh(at.projected(3) + at.product(0));
      at.set_kept(5, v0);
      at.set_next(0, at.noise(1) * at.staging(1) + (V(1.0) - at.noise(1)) * (at.staging(3) + at.staging(2) * v0));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * (V(1.0) - at.noise(1));
      const V v1 = V(1.0) - at.kept(3);
      at.set_staging(1, at.d_next(0) * at.noise(1) + v0 * v1);
      at.set_grad(2, (v0 * at.kept(5) - v0 * at.kept(2) * at.state(0)) * at.kept(3) * v1);
      at.set_grad(3, v0 * at.kept(3) * (V(1.0) - at.kept(5) * at.kept(5)));
    }
    if constexpr (stage == 1) {
      at.set_staging(0, at.product(0) * at.kept(4));
      at.set_grad(1, at.product(0) * at.kept(0) * at.kept(4) * (V(1.0) - at.kept(4)));
    }
    if constexpr (stage == 2) {
      const V v0 = at.staging(1) + (at.staging(0) + at.product(0)) * at.noise(0);
      at.set_grad(0, select(relu(at.projected(0)) <= V(0.0), V(0.0), -(v0 * at.state(0) * at.kept(2))));
      at.set_d_state(0, v0 * at.kept(2));
    }
  }
};

}  // namespace
