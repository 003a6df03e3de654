// Compiled from unrolled.cells.MGU.step by unrolled.compiler; `make generate` writes it, a test compares.
#pragma once
#include <array>

#include "../inline.h"
#include "../step.h"

namespace {

// The minimal gated unit: one gate says both what is read of the old state and what is replaced.
//     f = σ(U_f x_t + W_f h_{t-1} + b_f)
//     h̃ = tanh(U_h x_t + W_h (f ⊙ h_{t-1}) + b_h)
//     h_t = (1 - f) ⊙ h_{t-1} + f ⊙ h̃
struct MguLayerNormZoneoutHalfEvaluated {
  static constexpr const char* name = "mgu_layer_norm_zoneout_half_evaluated 52af45333ae1d46e";
  static constexpr const char* projection = "weight_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "bias_hh";
  static constexpr bool staged = true;
  static constexpr int projected = 2, noise = 0, products = 0, vectors = 13;
  static constexpr int states = 1, kept = 11, grads = 10;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 2> d_projected = {0, 1};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 13> d_vector = {2, 3, 4, 5, 6, 7, 4, 5, 4, 5, -1, -1, -1};
  static constexpr int weight_blocks = 2, widest_product = 1;
  static constexpr int staging = 11, sums = 8;
  static constexpr int forward_stages = 7;
  static constexpr std::array<Product, 2> forward_products = {{{0, 1, false, 1, 1, 0, {}}, {1, 1, false, 1, 1, -1, {10}}}};
  static constexpr std::array<int, 8> forward_first = {0, 0, 1, 1, 1, 2, 2, 2};
  static constexpr std::array<int, 8> forward_sums = {0, 2, 5, 6, 6, 7, 8, 8};
  static constexpr int backward_stages = 5;
  static constexpr std::array<Product, 2> backward_products = {{{1, 1, true, 1, 1, -1, {9}}, {0, 1, true, 1, 1, -1, {8}}}};
  static constexpr std::array<int, 6> backward_first = {0, 0, 0, 1, 1, 2};
  static constexpr std::array<int, 6> backward_sums = {0, 4, 4, 8, 8, 8};
  static constexpr std::array<WeightGradient, 2> weight_gradients = {
      {{0, 1, false, 1, 1, {8}, 0, {}}, {1, 1, false, 1, 1, {9}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      at.add_sum(0, at.projected(0));
      at.add_sum(1, at.projected(1));
    }
    if constexpr (stage == 1) {
      const V v0 = at.projected(0) - at.sum(0) * at.vector(10);
      const V v1 = at.projected(1) - at.sum(1) * at.vector(10);
      at.set_staging(0, v0);
      at.set_staging(1, at.product(0));
      at.set_staging(4, v1);
      at.add_sum(2, v0 * v0);
      at.add_sum(3, at.product(0));
      at.add_sum(4, v1 * v1);
    }
    if constexpr (stage == 2) {
      const V v0 = at.staging(1) - at.sum(3) * at.vector(10);
      const V v1 = V(1.0) / sqrt(at.sum(2) * at.vector(10) + at.vector(11));
      const V v2 = at.staging(0) * v1;
      const V v3 = V(1.0) / sqrt(at.sum(4) * at.vector(10) + at.vector(11));
      const V v4 = at.staging(4) * v3;
      at.set_staging(2, v0);
      at.set_staging(3, v2 * at.vector(0) + at.vector(2) + at.vector(8));
      at.set_staging(7, v4 * at.vector(1) + at.vector(3) + at.vector(9));
      at.add_sum(5, v0 * v0);
      at.set_kept(1, v1);
      at.set_kept(2, v2);
      at.set_kept(6, v3);
      at.set_kept(7, v4);
    }
    if constexpr (stage == 3) {
      const V v0 = V(1.0) / sqrt(at.sum(5) * at.vector(10) + at.vector(11));
      const V v1 = at.staging(2) * v0;
      const V v2 = sigmoid(at.staging(3) + v1 * at.vector(4) + at.vector(6));
      const V v3 = v2 * at.state(0);
      at.set_staging(8, v2);
      at.set_staging(9, (V(1.0) - v2) * at.state(0));
      at.set_staging(10, v3);
      at.set_kept(0, v3);
      at.set_kept(3, v0);
      at.set_kept(4, v1);
      at.set_kept(5, v2);
    }
    if constexpr (stage == 4) {
      at.set_staging(5, at.product(0));
      at.add_sum(6, at.product(0));
    }
    if constexpr (stage == 5) {
      const V v0 = at.staging(5) - at.sum(6) * at.vector(10);
      at.set_staging(6, v0);
      at.add_sum(7, v0 * v0);
    }
    if constexpr (stage == 6) {
      const V v0 = V(1.0) / sqrt(at.sum(7) * at.vector(10) + at.vector(11));
      const V v1 = at.staging(6) * v0;
      const V v2 = tanh(at.staging(7) + v1 * at.vector(5) + at.vector(7));
      at.set_kept(8, v0);
      at.set_kept(9, v1);
      at.set_kept(10, v2);
      at.set_next(0, at.state(0) * at.vector(12) + (at.staging(9) + at.staging(8) * v2) * at.vector(12));
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = at.d_next(0) * at.vector(12);
      const V v1 = v0 * at.kept(5) * (V(1.0) - at.kept(10) * at.kept(10));
      const V v2 = v1 * at.vector(5);
      const V v3 = V(1.0) - at.kept(5);
      const V v4 = v1 * at.vector(1);
      at.set_staging(0, v2);
      at.set_staging(1, v0 * at.kept(10) - v0 * at.state(0));
      at.set_staging(2, v3);
      at.set_staging(4, v4);
      at.set_staging(6, v0 + v0 * v3);
      at.add_sum(0, v2);
      at.add_sum(1, v2 * at.kept(9));
      at.add_sum(2, v4);
      at.add_sum(3, v4 * at.kept(7));
      at.set_grad(3, v1 * at.kept(7));
      at.set_grad(5, v1);
      at.set_grad(7, v1 * at.kept(9));
    }
    if constexpr (stage == 1) {
      at.set_grad(1, at.kept(6) * (at.staging(4) - at.sum(2) * at.vector(10) - at.kept(7) * at.sum(3) * at.vector(10)));
      at.set_grad(9, at.kept(8) * (at.staging(0) - at.sum(0) * at.vector(10) - at.kept(9) * at.sum(1) * at.vector(10)));
    }
    if constexpr (stage == 2) {
      const V v0 = (at.staging(1) + at.product(0) * at.state(0)) * at.kept(5) * at.staging(2);
      const V v1 = v0 * at.vector(0);
      const V v2 = v0 * at.vector(4);
      at.set_staging(3, v1);
      at.set_staging(5, v2);
      at.set_staging(7, at.staging(6) + at.product(0) * at.kept(5));
      at.add_sum(4, v1);
      at.add_sum(5, v1 * at.kept(2));
      at.add_sum(6, v2);
      at.add_sum(7, v2 * at.kept(4));
      at.set_grad(2, v0 * at.kept(2));
      at.set_grad(4, v0);
      at.set_grad(6, v0 * at.kept(4));
    }
    if constexpr (stage == 3) {
      at.set_grad(0, at.kept(1) * (at.staging(3) - at.sum(4) * at.vector(10) - at.kept(2) * at.sum(5) * at.vector(10)));
      at.set_grad(8, at.kept(3) * (at.staging(5) - at.sum(6) * at.vector(10) - at.kept(4) * at.sum(7) * at.vector(10)));
    }
    if constexpr (stage == 4) {
      at.set_d_state(0, at.staging(7) + at.product(0));
    }
  }
};

}  // namespace
