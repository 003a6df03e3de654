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
struct GruLayerNormZoneoutEvaluated {
  static constexpr const char* name = "gru_layer_norm_zoneout_evaluated b70ecfd1b868a78d";
  static constexpr const char* projection = "weight_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 3, noise = 0, products = 0, vectors = 23;
  static constexpr int states = 1, kept = 12, grads = 16;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 3> d_projected = {0, 1, 2};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 23> d_vector = {3, 4, 5, 3, 4, 6, 7, 8, 9, 3, 4, 5, 10, 11, 12, 3, 4, 6, -1, -1, -1, -1, -1};
  static constexpr int weight_blocks = 3, widest_product = 3;
  static constexpr int staging = 12, sums = 8;
  static constexpr int forward_stages = 4;
  static constexpr std::array<Product, 1> forward_products = {{{0, 1, true, 3, 1, 0, {}}}};
  static constexpr std::array<int, 5> forward_first = {0, 0, 1, 1, 1};
  static constexpr std::array<int, 5> forward_sums = {0, 2, 6, 8, 8};
  static constexpr int backward_stages = 3;
  static constexpr std::array<Product, 1> backward_products = {{{0, 1, false, 1, 3, -1, {13, 14, 15}}}};
  static constexpr std::array<int, 4> backward_first = {0, 0, 0, 1};
  static constexpr std::array<int, 4> backward_sums = {0, 8, 8, 8};
  static constexpr std::array<WeightGradient, 1> weight_gradients = {
      {{0, 1, true, 3, 1, {13, 14, 15}, 0, {}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      at.add_sum(0, at.projected(2));
      at.add_sum(1, at.projected(0) + at.projected(1));
    }
    if constexpr (stage == 1) {
      const V v0 = at.projected(2) - at.sum(0) * at.vector(18);
      const V v1 = at.sum(1) * at.vector(19);
      const V v2 = at.projected(0) - v1;
      const V v3 = at.projected(1) - v1;
      at.set_staging(0, v0);
      at.set_staging(1, at.product(0));
      at.set_staging(2, at.product(1));
      at.set_staging(4, v2);
      at.set_staging(6, at.product(2));
      at.set_staging(10, v3);
      at.add_sum(2, v0 * v0);
      at.add_sum(3, v2 * v2 + v3 * v3);
      at.add_sum(4, at.product(0) + at.product(1));
      at.add_sum(5, at.product(2));
      at.set_kept(2, v1);
    }
    if constexpr (stage == 2) {
      const V v0 = at.sum(4) * at.vector(19);
      const V v1 = at.staging(1) - v0;
      const V v2 = V(1.0) / sqrt(at.sum(3) * at.vector(19) + at.vector(20));
      const V v3 = at.staging(6) - at.sum(5) * at.vector(18);
      const V v4 = V(1.0) / sqrt(at.sum(2) * at.vector(18) + at.vector(20));
      const V v5 = at.staging(0) * v4;
      const V v6 = at.staging(2) - v0;
      at.set_staging(3, v1);
      at.set_staging(5, at.staging(4) * v2 * at.vector(6) + at.vector(9) + at.vector(0));
      at.set_staging(7, v3);
      at.set_staging(8, v5 * at.vector(8) + at.vector(11) + at.vector(2));
      at.set_staging(9, v6);
      at.set_staging(11, at.staging(10) * v2 * at.vector(7) + at.vector(10) + at.vector(1));
      at.add_sum(6, v1 * v1 + v6 * v6);
      at.add_sum(7, v3 * v3);
      at.set_kept(0, v4);
      at.set_kept(1, v5);
      at.set_kept(3, v2);
    }
    if constexpr (stage == 3) {
      const V v0 = V(1.0) / sqrt(at.sum(6) * at.vector(19) + at.vector(20));
      const V v1 = at.staging(3) * v0;
      const V v2 = sigmoid(at.staging(5) + v1 * at.vector(12) + at.vector(15) + at.vector(3));
      const V v3 = V(1.0) / sqrt(at.sum(7) * at.vector(18) + at.vector(20));
      const V v4 = at.staging(7) * v3;
      const V v5 = tanh(at.staging(8) + v2 * (v4 * at.vector(14) + at.vector(17) + at.vector(5)));
      const V v6 = at.staging(9) * v0;
      const V v7 = sigmoid(at.staging(11) + v6 * at.vector(13) + at.vector(16) + at.vector(4));
      at.set_kept(4, v0);
      at.set_kept(5, v1);
      at.set_kept(6, v2);
      at.set_kept(7, v3);
      at.set_kept(8, v4);
      at.set_kept(9, v5);
      at.set_kept(10, v6);
      at.set_kept(11, v7);
      at.set_next(0, at.state(0) * at.vector(21) + (v5 + v7 * (at.state(0) - v5)) * at.vector(22));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * at.vector(22);
      const V v1 = v0 * at.kept(11);
      const V v2 = (v0 - v1) * (V(1.0) - at.kept(9) * at.kept(9));
      const V v3 = v2 * (at.kept(8) * at.vector(14) + at.vector(17) + at.vector(5)) * at.kept(6) * (V(1.0) - at.kept(6));
      const V v4 = v3 * at.vector(6);
      const V v5 = (at.projected(0) - at.kept(2)) * at.kept(3);
      const V v6 = v0 * (at.state(0) - at.kept(9)) * at.kept(11) * (V(1.0) - at.kept(11));
      const V v7 = v6 * at.vector(7);
      const V v8 = (at.projected(1) - at.kept(2)) * at.kept(3);
      const V v9 = v2 * at.vector(8);
      const V v10 = v3 * at.vector(12);
      const V v11 = v6 * at.vector(13);
      const V v12 = v2 * at.kept(6);
      const V v13 = v12 * at.vector(14);
      at.set_staging(0, v4);
      at.set_staging(1, v5);
      at.set_staging(2, v7);
      at.set_staging(3, v8);
      at.set_staging(4, v9);
      at.set_staging(5, v10);
      at.set_staging(6, v11);
      at.set_staging(7, v13);
      at.set_staging(8, at.d_next(0) * at.vector(21) + v1);
      at.add_sum(0, v4 + v7);
      at.add_sum(1, v4 * v5 + v7 * v8);
      at.add_sum(2, v9);
      at.add_sum(3, v9 * at.kept(1));
      at.add_sum(4, v10 + v11);
      at.add_sum(5, v10 * at.kept(5) + v11 * at.kept(10));
      at.add_sum(6, v13);
      at.add_sum(7, v13 * at.kept(8));
      at.set_grad(3, v3);
      at.set_grad(4, v6);
      at.set_grad(5, v2);
      at.set_grad(6, v12);
      at.set_grad(7, v3 * v5);
      at.set_grad(8, v6 * v8);
      at.set_grad(9, v2 * at.kept(1));
      at.set_grad(10, v3 * at.kept(5));
      at.set_grad(11, v6 * at.kept(10));
      at.set_grad(12, v12 * at.kept(8));
    }
    if constexpr (stage == 1) {
      const V v0 = at.sum(0) * at.vector(19);
      const V v1 = at.sum(1) * at.vector(19);
      const V v2 = at.sum(4) * at.vector(19);
      const V v3 = at.sum(5) * at.vector(19);
      at.set_grad(0, at.kept(3) * (at.staging(0) - v0 - at.staging(1) * v1));
      at.set_grad(1, at.kept(3) * (at.staging(2) - v0 - at.staging(3) * v1));
      at.set_grad(2, at.kept(0) * (at.staging(4) - at.sum(2) * at.vector(18) - at.kept(1) * at.sum(3) * at.vector(18)));
      at.set_grad(13, at.kept(4) * (at.staging(5) - v2 - at.kept(5) * v3));
      at.set_grad(14, at.kept(4) * (at.staging(6) - v2 - at.kept(10) * v3));
      at.set_grad(15, at.kept(7) * (at.staging(7) - at.sum(6) * at.vector(18) - at.kept(8) * at.sum(7) * at.vector(18)));
    }
    if constexpr (stage == 2) {
      at.set_d_state(0, at.staging(8) + at.product(0));
    }
  }
};

}  // namespace
