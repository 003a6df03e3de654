// Compiled from unrolled.cells.MinGRU.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"

namespace {

// The minimal GRU: a running mean whose rate and whose new value depend on the input alone.
//     z = σ(U_z x_t + b_z)
//     h̃ = g(U_h x_t + b_h)
//     h_t = (1 - z) ⊙ h_{t-1} + z ⊙ h̃
struct MinGru {
  static constexpr const char* name = "min_gru e78b73a7eaf759a0";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "";
  static constexpr bool transposed = true;  // product = h weightᵀ
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = false;
  static constexpr int projected = 2, noise = 0, products = 0, vectors = 1;
  static constexpr int states = 1, kept = 4, grads = 2;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 2> d_projected = {0, 1};
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
    const V v0 = sigmoid(-projected[0]);
    const V v1 = sigmoid(projected[0]);
    const V v2 = sigmoid(projected[1]);
    next[0] = v0 * state[0] + v1 * select(projected[1] >= V(0.0), projected[1] + vector[0], v2);
    keep[0] = v0;
    keep[1] = v1;
    keep[2] = projected[1];
    keep[3] = v2;
  }

  template <class V>
  static UNROLLED_INLINE void backward([[maybe_unused]] const V* kept,
                                       [[maybe_unused]] const V* noise,
                                       [[maybe_unused]] const V* vector,
                                       [[maybe_unused]] const V* state,
                                       [[maybe_unused]] const V* next,
                                       [[maybe_unused]] const V* d_next,
                                       [[maybe_unused]] V* grad, V* d_state) {
    const auto v0 = kept[2] >= V(0.0);
    const V v1 = d_next[0] * kept[1];
    grad[0] = d_next[0] * select(v0, kept[2] + vector[0], kept[3]) * kept[1] * (V(1.0) - kept[1]) - d_next[0] * state[0] * kept[0] * (V(1.0) - kept[0]);
    grad[1] = select(v0, V(0.0), v1) * kept[3] * (V(1.0) - kept[3]) + select(v0, v1, V(0.0));
    d_state[0] = d_next[0] * kept[0];
  }
};

}  // namespace
