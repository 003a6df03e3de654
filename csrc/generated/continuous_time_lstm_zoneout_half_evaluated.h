// Compiled from unrolled.cells.ContinuousTimeLSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// Long short-term memory in continuous time: between two rows its cell state decays to a target.
//     ĉ = e_{t-1} + (c_{t-1} - e_{t-1}) ⊙ exp(-d_{t-1} Δ_t)        ĥ = o_{t-1} ⊙ tanh(ĉ)
//     i = σ(U_i x_t + W_i ĥ + b_i)        j = σ(U_j x_t + W_j ĥ + b_j)
//     f = σ(U_f x_t + W_f ĥ + b_f)        k = σ(U_k x_t + W_k ĥ + b_k)
//     g = 2σ(U_g x_t + W_g ĥ + b_g) - 1   d_t = softplus(U_d x_t + W_d ĥ + b_d)
//     c_t = f ⊙ ĉ + i ⊙ g                 e_t = k ⊙ e_{t-1} + j ⊙ g
//     o_t = σ(U_o x_t + W_o ĥ + b_o)      h_t = o_t ⊙ tanh(c_t)
struct ContinuousTimeLstmZoneoutHalfEvaluated {
  static constexpr const char* name = "continuous_time_lstm_zoneout_half_evaluated 34faa5931e1c2af9";
  static constexpr const char* projection = "";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 9, noise = 0, products = 0, vectors = 1;
  static constexpr int states = 4, kept = 10, grads = 8;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 9> d_projected = {0, -1, 1, 2, 3, 4, 5, 6, 7};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 1> d_vector = {-1};
  static constexpr int weight_blocks = 7, widest_product = 7;
  static constexpr int staging = 5, sums = 0;
  static constexpr int forward_stages = 2;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 7, 1, -1, {1}}}};
  static constexpr std::array<int, 3> forward_first = {0, 0, 1};
  static constexpr std::array<int, 3> forward_sums = {0, 0, 0};
  static constexpr int backward_stages = 2;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 7, -1, {1, 2, 3, 4, 5, 6, 7}}}};
  static constexpr std::array<int, 3> backward_first = {0, 0, 1};
  static constexpr std::array<int, 3> backward_sums = {0, 0, 0};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 7, 1, {1, 2, 3, 4, 5, 6, 7}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = exp(-(at.state(3) * at.projected(0)));
      const V v1 = at.state(2) + (at.state(1) - at.state(2)) * v0;
      const V v2 = tanh(v1);
      const V v3 = at.state(0) * v2;
      at.set_staging(0, v1);
      at.set_staging(1, v3);
      at.set_kept(0, v3);
      at.set_kept(1, v0);
      at.set_kept(2, v2);
    }
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(5) + at.product(3));
      const V v1 = sigmoid(at.projected(3) + at.product(1));
      const V v2 = sigmoid(at.projected(2) + at.product(0));
      const V v3 = sigmoid(at.projected(4) + at.product(2));
      const V v4 = sigmoid(at.projected(7) + at.product(5));
      const V v5 = sigmoid(at.projected(6) + at.product(4));
      const V v6 = at.projected(8) + at.product(6);
      const auto v7 = at.projected(1) > at.vector(0);
      const V v8 = v3 * V(2.0) - V(1.0);
      at.set_kept(3, v0);
      at.set_kept(4, v1);
      at.set_kept(5, v2);
      at.set_kept(6, v3);
      at.set_kept(7, v4);
      at.set_kept(8, v5);
      at.set_kept(9, v6);
      at.set_next(0, select(v7, at.state(0) * at.vector(0) + v0 * at.vector(0), at.state(0)));
      at.set_next(1, select(v7, at.staging(0) * at.vector(0) + (v1 * at.staging(0) + v2 * v8) * at.vector(0), at.staging(0)));
      at.set_next(2, select(v7, at.state(2) * at.vector(0) + (v4 * at.state(2) + v5 * v8) * at.vector(0), at.state(2)));
      at.set_next(3, select(v7, at.state(3) * at.vector(0) + (relu(v6) + log(V(1.0) + exp(-abs(v6)))) * at.vector(0), at.state(3)));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const auto v0 = at.projected(1) > at.vector(0);
      const V v1 = select(v0, at.d_next(1), V(0.0)) * at.vector(0);
      const V v2 = at.state(1) - at.state(2);
      const V v3 = select(v0, at.d_next(0), V(0.0)) * at.vector(0);
      const V v4 = select(v0, at.d_next(2), V(0.0)) * at.vector(0);
      const V v5 = select(v0, at.d_next(3), V(0.0)) * at.vector(0);
      const V v6 = at.kept(6) * V(2.0) - V(1.0);
      at.set_staging(0, select(v0, V(0.0), at.d_next(1)) + v1 + v1 * at.kept(4));
      at.set_staging(1, v2);
      at.set_staging(2, select(v0, V(0.0), at.d_next(0)) + v3);
      at.set_staging(3, select(v0, V(0.0), at.d_next(2)) + v4 + v4 * at.kept(7));
      at.set_staging(4, select(v0, V(0.0), at.d_next(3)) + v5);
      at.set_grad(1, v1 * v6 * at.kept(5) * (V(1.0) - at.kept(5)));
      at.set_grad(2, v1 * (at.state(2) + v2 * at.kept(1)) * at.kept(4) * (V(1.0) - at.kept(4)));
      at.set_grad(3, (v4 * at.kept(8) + v1 * at.kept(5)) * V(2.0) * at.kept(6) * (V(1.0) - at.kept(6)));
      at.set_grad(4, v3 * at.kept(3) * (V(1.0) - at.kept(3)));
      at.set_grad(5, v4 * v6 * at.kept(8) * (V(1.0) - at.kept(8)));
      at.set_grad(6, v4 * at.state(2) * at.kept(7) * (V(1.0) - at.kept(7)));
      at.set_grad(7, v5 * sigmoid(at.kept(9)));
    }
    if constexpr (stage == 1) {
      const V v0 = at.staging(0) + at.product(0) * at.state(0) * (V(1.0) - at.kept(2) * at.kept(2));
      const V v1 = v0 * at.staging(1) * at.kept(1);
      const V v2 = v0 * at.kept(1);
      at.set_grad(0, -(at.state(3) * v1));
      at.set_d_state(0, at.staging(2) + at.product(0) * at.kept(2));
      at.set_d_state(1, v2);
      at.set_d_state(2, at.staging(3) + v0 - v2);
      at.set_d_state(3, at.staging(4) - v1 * at.projected(0));
    }
  }
};

}  // namespace
