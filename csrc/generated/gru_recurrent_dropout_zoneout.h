// Compiled from unrolled.cells.GRU.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// The gated recurrent unit: one gate mixes the old state with a new one.
//     r = σ(U_r x_t + W_r h_{t-1} + b_r)
//     z = σ(U_z x_t + W_z h_{t-1} + b_z)
//     n = tanh(U_n x_t + b_n + r ⊙ (W_n h_{t-1} + b'_n))
//     h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}
struct GruRecurrentDropoutZoneout {
  static constexpr const char* name = "gru_recurrent_dropout_zoneout fe4f570993261713";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 3, noise = 2, products = 0, vectors = 3;
  static constexpr int states = 1, kept = 5, grads = 4;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 3> d_projected = {0, 1, 2};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 3> d_vector = {0, 1, 3};
  static constexpr int weight_blocks = 3, widest_product = 3;
  static constexpr int staging = 1, sums = 0;
  static constexpr int forward_stages = 2;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 3, 1, -1, {0}}}};
  static constexpr std::array<int, 3> forward_first = {0, 0, 1};
  static constexpr std::array<int, 3> forward_sums = {0, 0, 0};
  static constexpr int backward_stages = 2;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 3, -1, {0, 1, 3}}}};
  static constexpr std::array<int, 3> backward_first = {0, 0, 1};
  static constexpr std::array<int, 3> backward_sums = {0, 0, 0};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 3, 1, {0, 1, 3}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.state(0) * at.noise(0);
      at.set_staging(0, v0);
      at.set_kept(0, v0);
    }
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(0) + at.product(0) + at.vector(0));
      const V v1 = at.product(2) + at.vector(2);
      const V v2 = tanh(at.projected(2) + v0 * v1);
      const V v3 = sigmoid(at.projected(1) + at.product(1) + at.vector(1));
      at.set_kept(1, v0);
      at.set_kept(2, v1);
      at.set_kept(3, v2);
      at.set_kept(4, v3);
      at.set_next(0, at.noise(1) * at.state(0) + (V(1.0) - at.noise(1)) * (v2 + v3 * (at.state(0) - v2)));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * (V(1.0) - at.noise(1));
      const V v1 = v0 * at.kept(4);
      const V v2 = (v0 - v1) * (V(1.0) - at.kept(3) * at.kept(3));
      at.set_staging(0, at.d_next(0) * at.noise(1) + v1);
      at.set_grad(0, v2 * at.kept(2) * at.kept(1) * (V(1.0) - at.kept(1)));
      at.set_grad(1, v0 * (at.state(0) - at.kept(3)) * at.kept(4) * (V(1.0) - at.kept(4)));
      at.set_grad(2, v2);
      at.set_grad(3, v2 * at.kept(1));
    }
    if constexpr (stage == 1) {
      at.set_d_state(0, at.staging(0) + at.product(0) * at.noise(0));
    }
  }
};

}  // namespace
