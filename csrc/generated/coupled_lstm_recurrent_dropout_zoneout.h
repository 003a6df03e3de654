// Compiled from unrolled.cells.CoupledLSTM.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// Long short-term memory with coupled gates: what is forgotten is what is written, i = 1 - f.
//     f = σ(U_f x_t + W_f h_{t-1} + b_f)        c_t = f ⊙ c_{t-1} + (1 - f) ⊙ g
//     g = tanh(U_g x_t + W_g h_{t-1} + b_g)     h_t = o ⊙ tanh(c_t)
//     o = σ(U_o x_t + W_o h_{t-1} + b_o)
struct CoupledLstmRecurrentDropoutZoneout {
  static constexpr const char* name = "coupled_lstm_recurrent_dropout_zoneout 61df66431979e427";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "";
  static constexpr bool staged = true;
  static constexpr int projected = 3, noise = 3, products = 0, vectors = 0;
  static constexpr int states = 2, kept = 5, grads = 3;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 3> d_projected = {0, 1, 2};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 0> d_vector = {};
  static constexpr int weight_blocks = 3, widest_product = 3;
  static constexpr int staging = 2, sums = 0;
  static constexpr int forward_stages = 2;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 3, 1, -1, {0}}}};
  static constexpr std::array<int, 3> forward_first = {0, 0, 1};
  static constexpr std::array<int, 3> forward_sums = {0, 0, 0};
  static constexpr int backward_stages = 2;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 3, -1, {0, 1, 2}}}};
  static constexpr std::array<int, 3> backward_first = {0, 0, 1};
  static constexpr std::array<int, 3> backward_sums = {0, 0, 0};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 3, 1, {0, 1, 2}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.state(0) * at.noise(0);
      at.set_staging(0, v0);
      at.set_kept(0, v0);
    }
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(2) + at.product(2));
      const V v1 = sigmoid(at.projected(0) + at.product(0));
      const V v2 = tanh(at.projected(1) + at.product(1));
      const V v3 = v1 * at.state(1) + (V(1.0) - v1) * v2;
      const V v4 = tanh(v3);
      at.set_kept(1, v0);
      at.set_kept(2, v1);
      at.set_kept(3, v2);
      at.set_kept(4, v4);
      at.set_next(0, at.noise(1) * at.state(0) + (V(1.0) - at.noise(1)) * v0 * v4);
      at.set_next(1, at.noise(2) * at.state(1) + (V(1.0) - at.noise(2)) * v3);
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * (V(1.0) - at.noise(1));
      const V v1 = at.d_next(1) * (V(1.0) - at.noise(2)) + v0 * at.kept(1) * (V(1.0) - at.kept(4) * at.kept(4));
      const V v2 = V(1.0) - at.kept(2);
      at.set_staging(0, at.d_next(0) * at.noise(1));
      at.set_staging(1, at.d_next(1) * at.noise(2) + v1 * at.kept(2));
      at.set_grad(0, (v1 * at.state(1) - v1 * at.kept(3)) * at.kept(2) * v2);
      at.set_grad(1, v1 * v2 * (V(1.0) - at.kept(3) * at.kept(3)));
      at.set_grad(2, v0 * at.kept(4) * at.kept(1) * (V(1.0) - at.kept(1)));
    }
    if constexpr (stage == 1) {
      at.set_d_state(0, at.staging(0) + at.product(0) * at.noise(0));
      at.set_d_state(1, at.staging(1));
    }
  }
};

}  // namespace
