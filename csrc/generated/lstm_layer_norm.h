// Compiled from unrolled.cells.LSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// Long short-term memory: a cell state c that is added to, so that its gradient need not decay.
//     i = σ(U_i x_t + W_i h_{t-1} + b_i)        g = tanh(U_g x_t + W_g h_{t-1} + b_g)
//     f = σ(U_f x_t + W_f h_{t-1} + b_f)        c_t = f ⊙ c_{t-1} + i ⊙ g
//     o = σ(U_o x_t + W_o h_{t-1} + b_o)        h_t = o ⊙ tanh(c_t)
struct LstmLayerNorm {
  static constexpr const char* name = "lstm_layer_norm 55ba5abca21c8981";
  static constexpr const char* projection = "weight_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 4, noise = 0, products = 0, vectors = 25;
  static constexpr int states = 2, kept = 14, grads = 22;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 4> d_projected = {0, 1, 2, 3};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 25> d_vector = {4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 16, 17, 8, 9, 10, 11, -1, -1, -1};
  static constexpr int weight_blocks = 4, widest_product = 4;
  static constexpr int staging = 19, sums = 6;
  static constexpr int forward_stages = 6;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 4, 1, 0, {}}}};
  static constexpr std::array<int, 7> forward_first = {0, 0, 1, 1, 1, 1, 1};
  static constexpr std::array<int, 7> forward_sums = {0, 1, 3, 4, 5, 6, 6};
  static constexpr int backward_stages = 4;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 4, -1, {18, 19, 20, 21}}}};
  static constexpr std::array<int, 5> backward_first = {0, 0, 0, 0, 1};
  static constexpr std::array<int, 5> backward_sums = {0, 2, 6, 6, 6};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 4, 1, {18, 19, 20, 21}, 0, {}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      at.add_sum(0, at.projected(0) + at.projected(1) + at.projected(2) + at.projected(3));
    }
    if constexpr (stage == 1) {
      const V v0 = at.sum(0) * at.vector(22);
      const V v1 = at.projected(3) - v0;
      const V v2 = at.projected(1) - v0;
      const V v3 = at.projected(0) - v0;
      const V v4 = at.projected(2) - v0;
      at.set_staging(0, at.product(0));
      at.set_staging(1, at.product(1));
      at.set_staging(2, at.product(2));
      at.set_staging(3, at.product(3));
      at.set_staging(5, v1);
      at.set_staging(8, v2);
      at.set_staging(11, v3);
      at.set_staging(14, v4);
      at.add_sum(1, v3 * v3 + v2 * v2 + v4 * v4 + v1 * v1);
      at.add_sum(2, at.product(0) + at.product(1) + at.product(2) + at.product(3));
      at.set_kept(0, v0);
    }
    if constexpr (stage == 2) {
      const V v0 = at.sum(2) * at.vector(22);
      const V v1 = at.staging(3) - v0;
      const V v2 = V(1.0) / sqrt(at.sum(1) * at.vector(22) + at.vector(23));
      const V v3 = at.staging(1) - v0;
      const V v4 = at.staging(0) - v0;
      const V v5 = at.staging(2) - v0;
      at.set_staging(4, v1);
      at.set_staging(6, at.staging(5) * v2 * at.vector(3) + at.vector(7) + at.vector(21));
      at.set_staging(7, v3);
      at.set_staging(9, at.staging(8) * v2 * at.vector(1) + at.vector(5) + at.vector(19));
      at.set_staging(10, v4);
      at.set_staging(12, at.staging(11) * v2 * at.vector(0) + at.vector(4) + at.vector(18));
      at.set_staging(13, v5);
      at.set_staging(15, at.staging(14) * v2 * at.vector(2) + at.vector(6) + at.vector(20));
      at.add_sum(3, v4 * v4 + v3 * v3 + v5 * v5 + v1 * v1);
      at.set_kept(1, v2);
    }
    if constexpr (stage == 3) {
      const V v0 = V(1.0) / sqrt(at.sum(3) * at.vector(22) + at.vector(23));
      const V v1 = at.staging(7) * v0;
      const V v2 = sigmoid(at.staging(9) + v1 * at.vector(9) + at.vector(13));
      const V v3 = at.staging(10) * v0;
      const V v4 = sigmoid(at.staging(12) + v3 * at.vector(8) + at.vector(12));
      const V v5 = at.staging(13) * v0;
      const V v6 = tanh(at.staging(15) + v5 * at.vector(10) + at.vector(14));
      const V v7 = v2 * at.state(1) + v4 * v6;
      const V v8 = at.staging(4) * v0;
      const V v9 = sigmoid(at.staging(6) + v8 * at.vector(11) + at.vector(15));
      at.set_staging(16, v7);
      at.set_staging(18, v9);
      at.add_sum(4, v7);
      at.set_kept(2, v0);
      at.set_kept(3, v8);
      at.set_kept(4, v9);
      at.set_kept(5, v1);
      at.set_kept(6, v2);
      at.set_kept(7, v3);
      at.set_kept(8, v4);
      at.set_kept(9, v5);
      at.set_kept(10, v6);
    }
    if constexpr (stage == 4) {
      const V v0 = at.staging(16) - at.sum(4) * at.vector(24);
      at.set_staging(17, v0);
      at.add_sum(5, v0 * v0);
    }
    if constexpr (stage == 5) {
      const V v0 = V(1.0) / sqrt(at.sum(5) * at.vector(24) + at.vector(23));
      const V v1 = at.staging(17) * v0;
      const V v2 = tanh(v1 * at.vector(16) + at.vector(17));
      at.set_kept(11, v0);
      at.set_kept(12, v1);
      at.set_kept(13, v2);
      at.set_next(0, at.staging(18) * v2);
      at.set_next(1, at.staging(16));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * at.kept(4) * (V(1.0) - at.kept(13) * at.kept(13));
      const V v1 = v0 * at.vector(16);
      const V v2 = at.d_next(0) * at.kept(13) * at.kept(4) * (V(1.0) - at.kept(4));
      const V v3 = v2 * at.vector(3);
      const V v4 = (at.projected(3) - at.kept(0)) * at.kept(1);
      const V v5 = v2 * at.vector(11);
      at.set_staging(0, v1);
      at.set_staging(1, at.d_next(1));
      at.set_staging(2, v3);
      at.set_staging(4, v3 * v4);
      at.set_staging(10, v4);
      at.set_staging(11, v5);
      at.set_staging(13, v5 * at.kept(3));
      at.add_sum(0, v1);
      at.add_sum(1, v1 * at.kept(12));
      at.set_grad(7, v2 * v4);
      at.set_grad(11, v2);
      at.set_grad(15, v2 * at.kept(3));
      at.set_grad(16, v0 * at.kept(12));
      at.set_grad(17, v0);
    }
    if constexpr (stage == 1) {
      const V v0 = at.staging(1) + at.kept(11) * (at.staging(0) - at.sum(0) * at.vector(24) - at.kept(12) * at.sum(1) * at.vector(24));
      const V v1 = v0 * at.kept(10) * at.kept(8) * (V(1.0) - at.kept(8));
      const V v2 = v1 * at.vector(0);
      const V v3 = (at.projected(0) - at.kept(0)) * at.kept(1);
      const V v4 = v0 * at.state(1) * at.kept(6) * (V(1.0) - at.kept(6));
      const V v5 = v4 * at.vector(1);
      const V v6 = (at.projected(1) - at.kept(0)) * at.kept(1);
      const V v7 = v0 * at.kept(8) * (V(1.0) - at.kept(10) * at.kept(10));
      const V v8 = v7 * at.vector(2);
      const V v9 = (at.projected(2) - at.kept(0)) * at.kept(1);
      const V v10 = v1 * at.vector(8);
      const V v11 = v4 * at.vector(9);
      const V v12 = v7 * at.vector(10);
      at.set_staging(3, v2);
      at.set_staging(5, v3);
      at.set_staging(6, v5);
      at.set_staging(7, v6);
      at.set_staging(8, v8);
      at.set_staging(9, v9);
      at.set_staging(12, v10);
      at.set_staging(14, v11);
      at.set_staging(15, v12);
      at.set_staging(16, v0 * at.kept(6));
      at.add_sum(2, v2 + v5 + v8 + at.staging(2));
      at.add_sum(3, v2 * v3 + v5 * v6 + v8 * v9 + at.staging(4));
      at.add_sum(4, v10 + v11 + v12 + at.staging(11));
      at.add_sum(5, v10 * at.kept(7) + v11 * at.kept(5) + v12 * at.kept(9) + at.staging(13));
      at.set_grad(4, v1 * v3);
      at.set_grad(5, v4 * v6);
      at.set_grad(6, v7 * v9);
      at.set_grad(8, v1);
      at.set_grad(9, v4);
      at.set_grad(10, v7);
      at.set_grad(12, v1 * at.kept(7));
      at.set_grad(13, v4 * at.kept(5));
      at.set_grad(14, v7 * at.kept(9));
    }
    if constexpr (stage == 2) {
      const V v0 = at.sum(2) * at.vector(22);
      const V v1 = at.sum(3) * at.vector(22);
      const V v2 = at.sum(4) * at.vector(22);
      const V v3 = at.sum(5) * at.vector(22);
      at.set_grad(0, at.kept(1) * (at.staging(3) - v0 - at.staging(5) * v1));
      at.set_grad(1, at.kept(1) * (at.staging(6) - v0 - at.staging(7) * v1));
      at.set_grad(2, at.kept(1) * (at.staging(8) - v0 - at.staging(9) * v1));
      at.set_grad(3, at.kept(1) * (at.staging(2) - v0 - at.staging(10) * v1));
      at.set_grad(18, at.kept(2) * (at.staging(12) - v2 - at.kept(7) * v3));
      at.set_grad(19, at.kept(2) * (at.staging(14) - v2 - at.kept(5) * v3));
      at.set_grad(20, at.kept(2) * (at.staging(15) - v2 - at.kept(9) * v3));
      at.set_grad(21, at.kept(2) * (at.staging(11) - v2 - at.kept(3) * v3));
    }
    if constexpr (stage == 3) {
      at.set_d_state(0, at.product(0));
      at.set_d_state(1, at.staging(16));
    }
  }
};

}  // namespace
