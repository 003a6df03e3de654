// Compiled from unrolled.cells.CoupledLSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// Long short-term memory with coupled gates: what is forgotten is what is written, i = 1 - f.
//     f = σ(U_f x_t + W_f h_{t-1} + b_f)        c_t = f ⊙ c_{t-1} + (1 - f) ⊙ g
//     g = tanh(U_g x_t + W_g h_{t-1} + b_g)     h_t = o ⊙ tanh(c_t)
//     o = σ(U_o x_t + W_o h_{t-1} + b_o)
struct CoupledLstm {
  static constexpr const char* name = "coupled_lstm e3383c6586691119";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "";
  static constexpr bool staged = false;
  static constexpr int projected = 3, noise = 0, products = 3, vectors = 0;
  static constexpr int states = 2, kept = 4, grads = 3;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 3> d_projected = {0, 1, 2};
  static constexpr std::array<int, 3> d_product = {0, 1, 2};
  static constexpr std::array<int, 0> d_vector = {};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = sigmoid(projected[2] + product[2]);
    const V v1 = sigmoid(projected[0] + product[0]);
    const V v2 = tanh(projected[1] + product[1]);
    const V v3 = v1 * state[1] + (V(1.0) - v1) * v2;
    const V v4 = tanh(v3);
    next[0] = v0 * v4;
    next[1] = v3;
    keep[0] = v0;
    keep[1] = v1;
    keep[2] = v2;
    keep[3] = v4;
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    const V v0 = d_next[1] + d_next[0] * kept[0] * (V(1.0) - kept[3] * kept[3]);
    const V v1 = V(1.0) - kept[1];
    grad[0] = (v0 * state[1] - v0 * kept[2]) * kept[1] * v1;
    grad[1] = v0 * v1 * (V(1.0) - kept[2] * kept[2]);
    grad[2] = d_next[0] * kept[3] * kept[0] * (V(1.0) - kept[0]);
    d_state[0] = V(0.0);
    d_state[1] = v0 * kept[1];
  }
};

}  // namespace
