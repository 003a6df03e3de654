// Compiled from unrolled.cells.MinLSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The minimal LSTM: forget and input gates that depend on the input alone and add up to 1.
//     f = σ(U_f x_t + b_f)        f' = f / (f + i)
//     i = σ(U_i x_t + b_i)        i' = i / (f + i)
//     h̃ = g(U_h x_t + b_h)        h_t = f' ⊙ h_{t-1} + i' ⊙ h̃
struct MinLstm {
  static constexpr const char* name = "min_lstm 0925b7a5d871e278";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 3, noise = 0, products = 0, vectors = 1;
  static constexpr int states = 1, kept = 6, grads = 3;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 3> d_projected = {0, 1, 2};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 1> d_vector = {-1};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = -projected[1];
    const V v1 = -projected[0];
    const V v2 = relu(v0) + log(V(1.0) + exp(-abs(v0))) - (relu(v1) + log(V(1.0) + exp(-abs(v1))));
    const V v3 = sigmoid(v2);
    const V v4 = sigmoid(-v2);
    const V v5 = sigmoid(projected[2]);
    next[0] = v3 * state[0] + v4 * select(projected[2] >= V(0.0), projected[2] + vector[0], v5);
    keep[0] = v0;
    keep[1] = v1;
    keep[2] = v3;
    keep[3] = v4;
    keep[4] = projected[2];
    keep[5] = v5;
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    const auto v0 = kept[4] >= V(0.0);
    const V v1 = d_next[0] * state[0] * kept[2] * (V(1.0) - kept[2]) - d_next[0] * select(v0, kept[4] + vector[0], kept[5]) * kept[3] * (V(1.0) - kept[3]);
    const V v2 = d_next[0] * kept[3];
    grad[0] = v1 * sigmoid(kept[1]);
    grad[1] = -(v1 * sigmoid(kept[0]));
    grad[2] = select(v0, V(0.0), v2) * kept[5] * (V(1.0) - kept[5]) + select(v0, v2, V(0.0));
    d_state[0] = d_next[0] * kept[2];
  }
};

}  // namespace
