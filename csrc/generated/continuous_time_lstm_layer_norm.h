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
struct ContinuousTimeLstmLayerNorm {
  static constexpr const char* name = "continuous_time_lstm_layer_norm 83441b5bc112d1e3";
  static constexpr const char* projection = "";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 9, noise = 0, products = 0, vectors = 17;
  static constexpr int states = 4, kept = 17, grads = 22;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 9> d_projected = {0, -1, 1, 2, 3, 4, 5, 6, 7};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 17> d_vector = {8, 9, 10, 11, 12, 13, 14, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1};
  static constexpr int weight_blocks = 7, widest_product = 7;
  static constexpr int staging = 16, sums = 2;
  static constexpr int forward_stages = 4;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 7, 1, -1, {15}}}};
  static constexpr std::array<int, 5> forward_first = {0, 0, 1, 1, 1};
  static constexpr std::array<int, 5> forward_sums = {0, 0, 1, 2, 2};
  static constexpr int backward_stages = 3;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 7, -1, {15, 16, 17, 18, 19, 20, 21}}}};
  static constexpr std::array<int, 4> backward_first = {0, 0, 0, 1};
  static constexpr std::array<int, 4> backward_sums = {0, 2, 2, 2};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 7, 1, {15, 16, 17, 18, 19, 20, 21}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = exp(-(at.state(3) * at.projected(0)));
      const V v1 = at.state(2) + (at.state(1) - at.state(2)) * v0;
      const V v2 = tanh(v1);
      const V v3 = at.state(0) * v2;
      at.set_staging(14, v1);
      at.set_staging(15, v3);
      at.set_kept(0, v3);
      at.set_kept(1, v0);
      at.set_kept(2, v2);
    }
    if constexpr (stage == 1) {
      at.set_staging(0, at.product(0));
      at.set_staging(1, at.product(1));
      at.set_staging(2, at.product(2));
      at.set_staging(3, at.product(3));
      at.set_staging(4, at.product(4));
      at.set_staging(5, at.product(5));
      at.set_staging(6, at.product(6));
      at.add_sum(0, at.product(0) + at.product(1) + at.product(2) + at.product(3) + at.product(4) + at.product(5) + at.product(6));
    }
    if constexpr (stage == 2) {
      const V v0 = at.sum(0) * at.vector(14);
      const V v1 = at.staging(3) - v0;
      const V v2 = at.staging(1) - v0;
      const V v3 = at.staging(0) - v0;
      const V v4 = at.staging(2) - v0;
      const V v5 = at.staging(5) - v0;
      const V v6 = at.staging(4) - v0;
      const V v7 = at.staging(6) - v0;
      at.set_staging(7, v1);
      at.set_staging(8, v2);
      at.set_staging(9, v3);
      at.set_staging(10, v4);
      at.set_staging(11, v5);
      at.set_staging(12, v6);
      at.set_staging(13, v7);
      at.add_sum(1, v3 * v3 + v2 * v2 + v4 * v4 + v1 * v1 + v6 * v6 + v5 * v5 + v7 * v7);
    }
    if constexpr (stage == 3) {
      const V v0 = V(1.0) / sqrt(at.sum(1) * at.vector(14) + at.vector(15));
      const V v1 = at.staging(7) * v0;
      const V v2 = sigmoid(at.projected(5) + v1 * at.vector(3) + at.vector(10));
      const V v3 = at.staging(8) * v0;
      const V v4 = sigmoid(at.projected(3) + v3 * at.vector(1) + at.vector(8));
      const V v5 = at.staging(9) * v0;
      const V v6 = sigmoid(at.projected(2) + v5 * at.vector(0) + at.vector(7));
      const V v7 = at.staging(10) * v0;
      const V v8 = sigmoid(at.projected(4) + v7 * at.vector(2) + at.vector(9));
      const V v9 = at.staging(11) * v0;
      const V v10 = sigmoid(at.projected(7) + v9 * at.vector(5) + at.vector(12));
      const V v11 = at.staging(12) * v0;
      const V v12 = sigmoid(at.projected(6) + v11 * at.vector(4) + at.vector(11));
      const V v13 = at.staging(13) * v0;
      const auto v14 = at.projected(1) > at.vector(16);
      const V v15 = v8 * V(2.0) - V(1.0);
      const V v16 = at.projected(8) + v13 * at.vector(6) + at.vector(13);
      at.set_kept(3, v0);
      at.set_kept(4, v1);
      at.set_kept(5, v2);
      at.set_kept(6, v3);
      at.set_kept(7, v4);
      at.set_kept(8, v5);
      at.set_kept(9, v6);
      at.set_kept(10, v7);
      at.set_kept(11, v8);
      at.set_kept(12, v9);
      at.set_kept(13, v10);
      at.set_kept(14, v11);
      at.set_kept(15, v12);
      at.set_kept(16, v13);
      at.set_next(0, select(v14, v2, at.state(0)));
      at.set_next(1, select(v14, v4 * at.staging(14) + v6 * v15, at.staging(14)));
      at.set_next(2, select(v14, v10 * at.state(2) + v12 * v15, at.state(2)));
      at.set_next(3, select(v14, relu(v16) + log(V(1.0) + exp(-abs(v16))), at.state(3)));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const auto v0 = at.projected(1) > at.vector(16);
      const V v1 = select(v0, at.d_next(1), V(0.0));
      const V v2 = at.kept(11) * V(2.0) - V(1.0);
      const V v3 = v1 * v2 * at.kept(9) * (V(1.0) - at.kept(9));
      const V v4 = v3 * at.vector(0);
      const V v5 = at.state(1) - at.state(2);
      const V v6 = v1 * (at.state(2) + v5 * at.kept(1)) * at.kept(7) * (V(1.0) - at.kept(7));
      const V v7 = v6 * at.vector(1);
      const V v8 = select(v0, at.d_next(2), V(0.0));
      const V v9 = (v8 * at.kept(15) + v1 * at.kept(9)) * V(2.0) * at.kept(11) * (V(1.0) - at.kept(11));
      const V v10 = v9 * at.vector(2);
      const V v11 = select(v0, at.d_next(0), V(0.0)) * at.kept(5) * (V(1.0) - at.kept(5));
      const V v12 = v11 * at.vector(3);
      const V v13 = v8 * v2 * at.kept(15) * (V(1.0) - at.kept(15));
      const V v14 = v13 * at.vector(4);
      const V v15 = v8 * at.state(2) * at.kept(13) * (V(1.0) - at.kept(13));
      const V v16 = v15 * at.vector(5);
      const V v17 = select(v0, at.d_next(3), V(0.0)) * sigmoid(at.projected(8) + at.kept(16) * at.vector(6) + at.vector(13));
      const V v18 = v17 * at.vector(6);
      at.set_staging(0, v4);
      at.set_staging(1, v7);
      at.set_staging(2, v10);
      at.set_staging(3, v12);
      at.set_staging(4, v14);
      at.set_staging(5, v16);
      at.set_staging(6, v18);
      at.set_staging(7, select(v0, V(0.0), at.d_next(1)) + v1 * at.kept(7));
      at.set_staging(8, v5);
      at.set_staging(9, select(v0, V(0.0), at.d_next(0)));
      at.set_staging(10, select(v0, V(0.0), at.d_next(2)) + v8 * at.kept(13));
      at.set_staging(11, select(v0, V(0.0), at.d_next(3)));
      at.add_sum(0, v4 + v7 + v10 + v12 + v14 + v16 + v18);
      at.add_sum(1, v4 * at.kept(8) + v7 * at.kept(6) + v10 * at.kept(10) + v12 * at.kept(4) + v14 * at.kept(14) + v16 * at.kept(12) + v18 * at.kept(16));
      at.set_grad(1, v3);
      at.set_grad(2, v6);
      at.set_grad(3, v9);
      at.set_grad(4, v11);
      at.set_grad(5, v13);
      at.set_grad(6, v15);
      at.set_grad(7, v17);
      at.set_grad(8, v3 * at.kept(8));
      at.set_grad(9, v6 * at.kept(6));
      at.set_grad(10, v9 * at.kept(10));
      at.set_grad(11, v11 * at.kept(4));
      at.set_grad(12, v13 * at.kept(14));
      at.set_grad(13, v15 * at.kept(12));
      at.set_grad(14, v17 * at.kept(16));
    }
    if constexpr (stage == 1) {
      const V v0 = at.sum(0) * at.vector(14);
      const V v1 = at.sum(1) * at.vector(14);
      at.set_grad(15, at.kept(3) * (at.staging(0) - v0 - at.kept(8) * v1));
      at.set_grad(16, at.kept(3) * (at.staging(1) - v0 - at.kept(6) * v1));
      at.set_grad(17, at.kept(3) * (at.staging(2) - v0 - at.kept(10) * v1));
      at.set_grad(18, at.kept(3) * (at.staging(3) - v0 - at.kept(4) * v1));
      at.set_grad(19, at.kept(3) * (at.staging(4) - v0 - at.kept(14) * v1));
      at.set_grad(20, at.kept(3) * (at.staging(5) - v0 - at.kept(12) * v1));
      at.set_grad(21, at.kept(3) * (at.staging(6) - v0 - at.kept(16) * v1));
    }
    if constexpr (stage == 2) {
      const V v0 = at.staging(7) + at.product(0) * at.state(0) * (V(1.0) - at.kept(2) * at.kept(2));
      const V v1 = v0 * at.staging(8) * at.kept(1);
      const V v2 = v0 * at.kept(1);
      at.set_grad(0, -(at.state(3) * v1));
      at.set_d_state(0, at.staging(9) + at.product(0) * at.kept(2));
      at.set_d_state(1, v2);
      at.set_d_state(2, at.staging(10) + v0 - v2);
      at.set_d_state(3, at.staging(11) - v1 * at.projected(0));
    }
  }
};

}  // namespace
