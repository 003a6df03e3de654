// Compiled from unrolled.cells.PeepholeLSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// Long short-term memory with peepholes: each gate sees the cell state of its own unit.
//     i = σ(U_i x_t + W_i h_{t-1} + p_i ⊙ c_{t-1} + b_i)
//     f = σ(U_f x_t + W_f h_{t-1} + p_f ⊙ c_{t-1} + b_f)
//     g = tanh(U_g x_t + W_g h_{t-1} + b_g)
//     c_t = f ⊙ c_{t-1} + i ⊙ g
//     o = σ(U_o x_t + W_o h_{t-1} + p_o ⊙ c_t + b_o)
//     h_t = o ⊙ tanh(c_t)
struct PeepholeLstmRecurrentDropout {
  static constexpr const char* name = "peephole_lstm_recurrent_dropout 83b184d8b1094a04";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 4, noise = 1, products = 0, vectors = 3;
  static constexpr int states = 2, kept = 6, grads = 7;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 4> d_projected = {0, 1, 2, 3};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 3> d_vector = {4, 5, 6};
  static constexpr int weight_blocks = 4, widest_product = 4;
  static constexpr int staging = 1, sums = 0;
  static constexpr int forward_stages = 2;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 4, 1, -1, {0}}}};
  static constexpr std::array<int, 3> forward_first = {0, 0, 1};
  static constexpr std::array<int, 3> forward_sums = {0, 0, 0};
  static constexpr int backward_stages = 2;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 4, -1, {0, 1, 2, 3}}}};
  static constexpr std::array<int, 3> backward_first = {0, 0, 1};
  static constexpr std::array<int, 3> backward_sums = {0, 0, 0};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 4, 1, {0, 1, 2, 3}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.state(0) * at.noise(0);
      at.set_staging(0, v0);
      at.set_kept(0, v0);
    }
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(1) + at.product(1) + at.vector(1) * at.state(1));
      const V v1 = sigmoid(at.projected(0) + at.product(0) + at.vector(0) * at.state(1));
      const V v2 = tanh(at.projected(2) + at.product(2));
      const V v3 = v0 * at.state(1) + v1 * v2;
      const V v4 = sigmoid(at.projected(3) + at.product(3) + at.vector(2) * v3);
      const V v5 = tanh(v3);
      at.set_kept(1, v0);
      at.set_kept(2, v1);
      at.set_kept(3, v2);
      at.set_kept(4, v4);
      at.set_kept(5, v5);
      at.set_next(0, v4 * v5);
      at.set_next(1, v3);
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * at.kept(5) * at.kept(4) * (V(1.0) - at.kept(4));
      const V v1 = at.d_next(1) + at.d_next(0) * at.kept(4) * (V(1.0) - at.kept(5) * at.kept(5)) + v0 * at.vector(2);
      const V v2 = v1 * at.state(1) * at.kept(1) * (V(1.0) - at.kept(1));
      const V v3 = v1 * at.kept(3) * at.kept(2) * (V(1.0) - at.kept(2));
      at.set_staging(0, v1 * at.kept(1) + v2 * at.vector(1) + v3 * at.vector(0));
      at.set_grad(0, v3);
      at.set_grad(1, v2);
      at.set_grad(2, v1 * at.kept(2) * (V(1.0) - at.kept(3) * at.kept(3)));
      at.set_grad(3, v0);
      at.set_grad(4, v3 * at.state(1));
      at.set_grad(5, v2 * at.state(1));
      at.set_grad(6, v0 * at.next(1));
    }
    if constexpr (stage == 1) {
      at.set_d_state(0, at.product(0) * at.noise(0));
      at.set_d_state(1, at.staging(0));
    }
  }
};

}  // namespace
