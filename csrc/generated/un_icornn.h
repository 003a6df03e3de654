// Compiled from unrolled.cells.UnICORNN.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The undamped independent controlled oscillatory network: a Hamiltonian system in each unit.
//     τ = Δt σ(c)
//     z_t = z_{t-1} - τ ⊙ (tanh(w ⊙ y_{t-1} + V x_t + b) + α y_{t-1})
//     y_t = y_{t-1} + τ ⊙ z_t
struct UnIcornn {
  static constexpr const char* name = "un_icornn eea6264a67e41333";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 1, noise = 0, products = 0, vectors = 2;
  static constexpr int states = 2, kept = 1, grads = 3;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 1> d_projected = {0};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 2> d_vector = {1, 2};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = tanh(vector[0] * state[0] + projected[0]);
    const V v1 = state[1] - vector[1] * (v0 + state[0]);
    next[0] = state[0] + vector[1] * v1;
    next[1] = v1;
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
    const V v0 = d_next[1] + d_next[0] * vector[1];
    const V v1 = v0 * vector[1];
    const V v2 = v1 * (V(1.0) - kept[0] * kept[0]);
    grad[0] = -v2;
    grad[1] = -(v2 * state[0]);
    grad[2] = d_next[0] * next[1] - v0 * (kept[0] + state[0]);
    d_state[0] = d_next[0] - v1 - v2 * vector[0];
    d_state[1] = v0;
  }
};

}  // namespace
