// Compiled from unrolled.cells.IndRNN.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The independently recurrent network: each unit hears of the past from itself alone.
//     h_t = relu(U x_t + w ⊙ h_{t-1} + b)
struct IndRnn {
  static constexpr const char* name = "ind_rnn 4fa9acfacc4a15f2";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 1, noise = 0, products = 0, vectors = 1;
  static constexpr int states = 1, kept = 0, grads = 2;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 1> d_vector = {1};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    next[0] = relu(projected[0] + vector[0] * state[0]);
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    const V v0 = select(next[0] <= V(0.0), V(0.0), d_next[0]);
    grad[0] = v0;
    grad[1] = v0 * state[0];
    d_state[0] = v0 * vector[0];
  }
};

}  // namespace
