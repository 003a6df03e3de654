// Compiled from unrolled.cells.AntisymmetricRNN.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The antisymmetric network: an Euler step of a differential equation that neither grows nor decays.
//     a = (W - Wᵀ - γ I) h_{t-1}
//     h_t = h_{t-1} + ε tanh(a + V_h x_t + b_h)
//     z = σ(a + V_z x_t + b_z)
//     h_t = h_{t-1} + ε z ⊙ tanh(a + V_h x_t + b_h)
struct AntisymmetricRnn {
  static constexpr const char* name = "antisymmetric_rnn 6cac99ec9d3e127b";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = false;  // product = h weight
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 1, noise = 0, products = 1, vectors = 1;
  static constexpr int states = 1, kept = 1, grads = 1;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 1> d_product = {0};
  static constexpr std::array<int, 1> d_vector = {-1};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = tanh(product[0] - state[0] * vector[0] + projected[0]);
    next[0] = state[0] + v0 * vector[0];
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
    const V v0 = d_next[0] * vector[0] * (V(1.0) - kept[0] * kept[0]);
    grad[0] = v0;
    d_state[0] = d_next[0] - v0 * vector[0];
  }
};

}  // namespace
