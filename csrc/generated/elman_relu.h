// Compiled from unrolled.cells.Elman.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The simple recurrent network: s_t = f(U x_t + W s_{t-1} + b).
struct ElmanRelu {
  static constexpr const char* name = "elman_relu";
  static constexpr const char* projection = "weight_ih bias_ih bias_hh";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "";
  static constexpr bool staged = false;
  static constexpr int projected = 1, noise = 0, products = 1, vectors = 0;
  static constexpr int states = 1, kept = 0, grads = 1;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 1> d_product = {0};
  static constexpr std::array<int, 0> d_vector = {};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    next[0] = relu(projected[0] + product[0]);
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    grad[0] = select(next[0] <= V(0.0), V(0.0), d_next[0]);
    d_state[0] = V(0.0);
  }
};

}  // namespace
