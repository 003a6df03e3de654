// Compiled from unrolled.cells.LRU.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The linear recurrent unit: complex and diagonal, so that all steps can be had at once.
//     λ = exp(-exp(ν) + i exp(θ))
//     s_t = λ ⊙ s_{t-1} + exp(γ) ⊙ (B x_t)
//     y_t = Re(C s_t)
struct Lru {
  static constexpr const char* name = "lru 01a21ad688d248a6";
  static constexpr const char* projection = "weight_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 2, noise = 0, products = 0, vectors = 3;
  static constexpr int states = 2, kept = 2, grads = 5;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 2> d_projected = {0, 1};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 3> d_vector = {2, 3, 4};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    next[0] = vector[0] * state[0] - vector[1] * state[1] + vector[2] * projected[0];
    next[1] = vector[0] * state[1] + vector[1] * state[0] + vector[2] * projected[1];
    keep[0] = projected[0];
    keep[1] = projected[1];
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    grad[0] = d_next[0] * vector[2];
    grad[1] = d_next[1] * vector[2];
    grad[2] = d_next[1] * state[1] + d_next[0] * state[0];
    grad[3] = d_next[1] * state[0] - d_next[0] * state[1];
    grad[4] = d_next[1] * kept[1] + d_next[0] * kept[0];
    d_state[0] = d_next[1] * vector[1] + d_next[0] * vector[0];
    d_state[1] = d_next[1] * vector[0] - d_next[0] * vector[1];
  }
};

}  // namespace
