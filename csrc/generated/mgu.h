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
struct Mgu {
  static constexpr const char* name = "mgu fbf8b4da9d12caff";
  static constexpr const char* projection = "weight_ih bias_ih";  // x weightᵀ + biases
  static constexpr const char* weight = "weight_hh";
  static constexpr bool transposed = true;
  static constexpr const char* vector_names = "";
  static constexpr bool staged = true;
  static constexpr int projected = 2, noise = 0, products = 0, vectors = 0;
  static constexpr int states = 1, kept = 3, grads = 2;
  // Which of the gradients belongs to each block; -1: none.
  static constexpr std::array<int, 2> d_projected = {0, 1};
  static constexpr std::array<int, 0> d_product = {};
  static constexpr std::array<int, 0> d_vector = {};
  static constexpr int weight_blocks = 2, widest_product = 1;
  static constexpr int staging = 4, sums = 0;
  static constexpr int forward_stages = 3;
  static constexpr std::array<Product, 2> forward_products = {{{0, 1, false, 1, 1, 0, {}}, {1, 1, false, 1, 1, -1, {2}}}};
  static constexpr std::array<int, 4> forward_first = {0, 0, 1, 2};
  static constexpr std::array<int, 4> forward_sums = {0, 0, 0, 0};
  static constexpr int backward_stages = 3;
  static constexpr std::array<Product, 2> backward_products = {{{1, 1, true, 1, 1, -1, {1}}, {0, 1, true, 1, 1, -1, {0}}}};
  static constexpr std::array<int, 4> backward_first = {0, 0, 1, 2};
  static constexpr std::array<int, 4> backward_sums = {0, 0, 0, 0};
  static constexpr std::array<WeightGradient, 2> weight_gradients = {
      {{0, 1, false, 1, 1, {0}, 0, {}}, {1, 1, false, 1, 1, {1}, -1, {0}}}};

  // One vector of units of one sequence.
  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void forward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 1) {
      const V v0 = sigmoid(at.projected(0) + at.product(0));
      const V v1 = v0 * at.state(0);
      at.set_staging(0, v0);
      at.set_staging(1, (V(1.0) - v0) * at.state(0));
      at.set_staging(2, v1);
      at.set_kept(0, v1);
      at.set_kept(1, v0);
    }
    if constexpr (stage == 2) {
      const V v0 = tanh(at.projected(1) + at.product(0));
      at.set_kept(2, v0);
      at.set_next(0, at.staging(1) + at.staging(0) * v0);
    }
  }

  template <int stage, class V, class StepUnits>
  static UNROLLED_INLINE void backward([[maybe_unused]] const StepUnits& at) {
    if constexpr (stage == 0) {
      const V v0 = V(1.0) - at.kept(1);
      at.set_staging(0, at.d_next(0) * at.kept(2) - at.d_next(0) * at.state(0));
      at.set_staging(1, v0);
      at.set_staging(2, at.d_next(0) * v0);
      at.set_grad(1, at.d_next(0) * at.kept(1) * (V(1.0) - at.kept(2) * at.kept(2)));
    }
    if constexpr (stage == 1) {
      at.set_staging(3, at.staging(2) + at.product(0) * at.kept(1));
      at.set_grad(0, (at.staging(0) + at.product(0) * at.state(0)) * at.kept(1) * at.staging(1));
    }
    if constexpr (stage == 2) {
      at.set_d_state(0, at.staging(3) + at.product(0));
    }
  }
};

}  // namespace
