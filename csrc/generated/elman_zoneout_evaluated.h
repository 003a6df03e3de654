// Compiled from unrolled.cells.Elman.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The simple recurrent network: s_t = f(U x_t + W s_{t-1} + b).
struct ElmanZoneoutEvaluated {
  static constexpr const char* name = "elman_zoneout_evaluated 7fc8a82d9ef9df65";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 1, noise = 0, products = 1, vectors = 2;
  static constexpr int states = 1, kept = 1, grads = 1;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 1> d_product = {0};
  static constexpr std::array<int, 2> d_vector = {-1, -1};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = tanh(projected[0] + product[0]);
    next[0] = state[0] * vector[0] + v0 * vector[1];
    keep[0] = v0;
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    grad[0] = d_next[0] * vector[1] * (V(1.0) - kept[0] * kept[0]);
    d_state[0] = d_next[0] * vector[0];
  }
};

}  // namespace
