// Compiled from unrolled.cells.PeepholeLSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// Long short-term memory with peepholes: each gate sees the cell state of its own unit.
//     i = σ(U_i x_t + W_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)
//     f = σ(U_f x_t + W_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
//     g = tanh(U_g x_t + W_g h_{t-1} + b_g)
//     c_t = f ⊙ c_{t-1} + i ⊙ g
//     o = σ(U_o x_t + W_o h_{t-1} + p_o ⊙ c_t + b_o)
//     h_t = o ⊙ tanh(c_t)
struct PeepholeLstmUnbiased {
  static constexpr const char* name = "peephole_lstm_unbiased dd1f2c98b066dc86";
  static constexpr const char* projection = "weight_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 4, noise = 0, products = 4, vectors = 3;
  static constexpr int states = 2, kept = 5, grads = 7;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 4> d_projected = {0, 1, 2, 3};
  static constexpr std::array<int, 4> d_product = {0, 1, 2, 3};
  static constexpr std::array<int, 3> d_vector = {4, 5, 6};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = sigmoid(projected[1] + product[1] + vector[1] * state[1]);
    const V v1 = sigmoid(projected[0] + product[0] + vector[0] * state[1]);
    const V v2 = tanh(projected[2] + product[2]);
    const V v3 = v0 * state[1] + v1 * v2;
    const V v4 = sigmoid(projected[3] + product[3] + vector[2] * v3);
    const V v5 = tanh(v3);
    next[0] = v4 * v5;
    next[1] = v3;
    keep[0] = v0;
    keep[1] = v1;
    keep[2] = v2;
    keep[3] = v4;
    keep[4] = v5;
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    const V v0 = d_next[0] * kept[4] * kept[3] * (V(1.0) - kept[3]);
    const V v1 = d_next[1] + d_next[0] * kept[3] * (V(1.0) - kept[4] * kept[4]) + v0 * vector[2];
    const V v2 = v1 * kept[2] * kept[1] * (V(1.0) - kept[1]);
    const V v3 = v1 * state[1] * kept[0] * (V(1.0) - kept[0]);
    grad[0] = v2;
    grad[1] = v3;
    grad[2] = v1 * kept[1] * (V(1.0) - kept[2] * kept[2]);
    grad[3] = v0;
    grad[4] = v2 * state[1];
    grad[5] = v3 * state[1];
    grad[6] = v0 * next[1];
    d_state[0] = V(0.0);
    d_state[1] = v1 * kept[0] + v3 * vector[1] + v2 * vector[0];
  }
};

}  // namespace
