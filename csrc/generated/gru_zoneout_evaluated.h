// Compiled from unrolled.cells.GRU.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The gated recurrent unit: one gate mixes the old state with a new one.
//     r = σ(U_r x_t + W_r h_{t-1} + b_r)
//     z = σ(U_z x_t + W_z h_{t-1} + b_z)
//     n = tanh(U_n x_t + b_n + r ⊙ (W_n h_{t-1} + b'_n))
//     h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}
struct GruZoneoutEvaluated {
  static constexpr const char* name = "gru_zoneout_evaluated 4c42f30363d8bc8b";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 3, noise = 0, products = 3, vectors = 5;
  static constexpr int states = 1, kept = 4, grads = 4;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 3> d_projected = {0, 1, 2};
  static constexpr std::array<int, 3> d_product = {0, 1, 3};
  static constexpr std::array<int, 5> d_vector = {0, 1, 3, -1, -1};

  // One vector of units of one sequence.
  template <class V>
  static UNROLLED_INLINE void forward([[maybe_unused]] const V* projected,
                                      [[maybe_unused]] const V* noise,
                                      [[maybe_unused]] const V* product,
                                      [[maybe_unused]] const V* vector,
                                      [[maybe_unused]] const V* state,
                                      V* next, [[maybe_unused]] V* keep) {
    const V v0 = sigmoid(projected[0] + product[0] + vector[0]);
    const V v1 = product[2] + vector[2];
    const V v2 = tanh(projected[2] + v0 * v1);
    const V v3 = sigmoid(projected[1] + product[1] + vector[1]);
    next[0] = state[0] * vector[3] + (v2 + v3 * (state[0] - v2)) * vector[4];
    keep[0] = v0;
    keep[1] = v1;
    keep[2] = v2;
    keep[3] = v3;
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    const V v0 = d_next[0] * vector[4];
    const V v1 = v0 * kept[3];
    const V v2 = (v0 - v1) * (V(1.0) - kept[2] * kept[2]);
    grad[0] = v2 * kept[1] * kept[0] * (V(1.0) - kept[0]);
    grad[1] = v0 * (state[0] - kept[2]) * kept[3] * (V(1.0) - kept[3]);
    grad[2] = v2;
    grad[3] = v2 * kept[0];
    d_state[0] = d_next[0] * vector[3] + v1;
  }
};

}  // namespace
