// What is compiled for each cell: its numbers, and its statements for one vector of units of some sequences.
//
// The loop over time, the products and the threads are compiled once an instruction set, for all cells,
// and call the statements by their addresses. So one more cell costs little to compile, and one of a
// user's own runs on the sweep of the library.
#pragma once
#include <array>
#include <utility>

#include "threads.h"
#include "unrolled.h"
#include "vector.h"

namespace {

using unrolled::Index;

// --- The numbers of a cell -------------------------------------------------------------------------

// Of a step of stages (see stages.h): out = v Wᵀ (transposed) or v W, in blocks of H, one product of a stage.
struct Product {
  int first;        // where W begins among the weights, in blocks of H × H
  int columns;      // of W, in blocks
  bool transposed;
  int outputs, depth;            // blocks of the result, and of v
  int state;                     // v is this state before the step, or -1:
  std::array<int, 16> operand;   // the blocks of v, forward of the staging, backward of the gradients; -1: zero
};
// W's gradient: Σ over rows of (the gradients' blocks)ᵀ (what was multiplied), or the other way round.
struct WeightGradient {
  int first, columns;
  bool gradients_are_rows;
  int gradients, operands;
  std::array<int, 16> gradient;  // among `grads`, -1: zero
  int state;                     // what was multiplied is this state before the step, or -1:
  std::array<int, 16> operand;   // these blocks of `kept`
};
// All stages of one direction.
struct Pass {
  int stages, product_count;
  const Product* products;
  const int *first, *first_sum;  // where the products and the sums of each stage begin; one more at the end
};

struct Numbers {
  bool staged, transposed;
  int projected, noise, products, vectors, states, kept, grads;  // as in unrolled_cell
  const int *d_projected, *d_product, *d_vector;  // which of the gradients belongs to each block; -1: none
  // Of a step of stages alone:
  int weight_blocks, widest_product, staging, sums;
  Pass forward, backward;
  int weight_gradient_count;
  const WeightGradient* weight_gradients;
};

// --- What its statements are given -----------------------------------------------------------------

// Sums of squares whose roots T can hold, although it cannot hold the squares: of d times a large number,
// of d, and of d times a small one. The first that does not overflow has lost nothing to underflow.
template <class V>
struct Squares {
  using T = typename V::Scalar;
  static constexpr int sums = 3;
  static constexpr Index of_a_row = sums * V::size;
  static constexpr T large = sizeof(T) == 4 ? T(0x1p76) : T(0x1p600), small = 1 / large;

  UNROLLED_INLINE static void add(V d, T* to) {
    const V scaled[] = {d * V(large), d, d * V(small)};
    for (int i = 0; i < sums; ++i) (V::load(to + i * V::size) + scaled[i] * scaled[i]).store(to + i * V::size);
  }
  static void add(T d, T* to) {
    const T scaled[] = {d * large, d, d * small};
    for (int i = 0; i < sums; ++i) to[i] += scaled[i] * scaled[i];
  }
};

template <class V, bool whole>
UNROLLED_INLINE V load(const typename V::Scalar* p, int some) {
  return whole ? V::load(p) : V::load(p, some);
}
template <class V, bool whole>
UNROLLED_INLINE void store(V v, typename V::Scalar* p, int some) {
  whole ? v.store(p) : v.store(p, some);
}

// Where a row of a call stands in its memory.
struct RowIndex {
  const unrolled_call* call;
  const Index* first_row;  // of each sequence
  Index row_step;          // from one step of a sequence to the next

  // Where step t of sequence b stands in the caller's arrays: which row, and how many numbers from the first.
  UNROLLED_INLINE Index at(Index t, Index b) const {
    return call->offsets ? call->offsets[t] + b : t * call->batch + b;
  }
  UNROLLED_INLINE Index at(Index t, Index b, Index t_stride, Index b_stride) const {
    return call->offsets ? at(t, b) * b_stride : t * t_stride + b * b_stride;
  }
  UNROLLED_INLINE Index row(Index t, Index b) const {
    return call->offsets ? at(t, b) : first_row[b] + t * row_step;
  }
};

// One step of some sequences.
template <class V>
struct Step : RowIndex {
  using T = typename V::Scalar;
  Index H, padded, width;  // width: of a panel of products
  Index t, n;              // n: how many sequences have this step, which are the first ones of `sequence`
  const Index* sequence;
  const T** old[UNROLLED_STATES];  // of each sequence, its states before the step
  T** now[UNROLLED_STATES];        // and after it
  const T* vectors;
  bool clips, wants_squares;
  T *sums, *grads, *carry, *squares;  // of the backward pass alone
  T *staging, *partial, *scalars;        // of stages alone

  const T* noise_row(Index b) const {
    return static_cast<const T*>(call->noise) + t * call->noise_step + b * call->noise_batch;
  }
  T* carry_row(int s, Index b) const { return carry + (s * call->batch + b) * padded; }
  const T* d_state_row(int s, Index b) const {
    return static_cast<const T*>(call->d_states[s]) + at(t, b, call->d_step[s], call->d_batch[s]);
  }
  // ∂L/∂state_t of one vector of units: what comes from later steps, by the product at z, and from the caller.
  template <bool whole>
  UNROLLED_INLINE V reaching(int s, Index b, Index u, const T* z, int some) const {
    V d = load<V, whole>(carry_row(s, b) + u, some);
    if (call->d_states[s]) d = d + load<V, whole>(d_state_row(s, b) + u, some);
    if (z && s == 0) d = d + load<V, whole>(z, some);
    return d;
  }
};

// For the units from u on, all of a vector or `some`; z: the products of the first sequence.
template <class V>
using Statements = void (*)(const Step<V>&, Index u, int some, const typename V::Scalar* z);

// The statements of one panel of units, from u on: whole vectors, and perhaps some units of one more.
template <class V>
UNROLLED_INLINE void run_statements(const Statements<V>* statements, const Step<V>& at, Index u, int vectors,
                                    const typename V::Scalar* z) {
  for (int c = 0; c < vectors; ++c, u += V::size, z += V::size) {
    const bool whole = u + V::size <= at.H;
    statements[whole](at, u, whole ? V::size : static_cast<int>(at.H - u), z);
  }
}

// A cell as the sweep sees it. The statements of stage k stand at 2 k, for whole vectors at 2 k + 1.
template <class V>
struct Compiled {
  Numbers numbers;
  const Statements<V>*forward, *backward;
};

// Changes with what the statements and the sweep pass each other.
template <class V>
constexpr int64_t layout = sizeof(Step<V>) * 100003 + sizeof(Numbers) * 101 + sizeof(Product) + UNROLLED_VERSION;

// --- A step of one product -------------------------------------------------------------------------

template <class V, class Cell>
struct Simple {
  using T = typename V::Scalar;
  static constexpr int P = Cell::projected, G = Cell::products, S = Cell::states;
  static constexpr int K = Cell::kept, Q = Cell::grads, U = Cell::vectors, N = Cell::noise;
  static constexpr Index slots = P > K ? P : K;

  template <bool whole>
  static UNROLLED_INLINE void load_noise(const Step<V>& at, V* noise, Index b, Index u, int some) {
    if constexpr (N > 0)
      for (int i = 0; i < N; ++i) noise[i] = load<V, whole>(at.noise_row(b) + i * at.H + u, some);
  }

  template <bool whole>
  static void forward(const Step<V>& at, Index u, int some, const T* z) {
    const Index H = at.H, n = at.n;
    T* const kept = static_cast<T*>(at.call->kept) + u;
    const bool keeping = at.call->keep;
    V vectors[U + 1];
    for (int i = 0; i < U; ++i) vectors[i] = V::load(at.vectors + i * at.padded + u);
    for (Index q = 0; q < n; ++q) {
      T* slot = kept + at.row(at.t, at.sequence[q]) * slots * H;
      V projected[P + 1], noise[N + 1], product[G + 1], old[S], now[S], keep[K + 1];
      for (int i = 0; i < P; ++i) projected[i] = load<V, whole>(slot + i * H, some);
      for (int g = 0; g < G; ++g) product[g] = V::load(z + (g * n + q) * at.width);
      for (int s = 0; s < S; ++s) old[s] = load<V, whole>(at.old[s][q] + u, some);
      load_noise<whole>(at, noise, at.sequence[q], u, some);
      Cell::forward(projected, noise, product, vectors, old, now, keep);
      for (int s = 0; s < S; ++s) store<V, whole>(now[s], at.now[s][q] + u, some);
      if (keeping)
        for (int i = 0; i < K; ++i) store<V, whole>(keep[i], slot + i * H, some);
    }
  }

  template <bool whole>
  static void backward(const Step<V>& at, Index u, int some, const T* z) {
    const Index H = at.H, n = at.n;
    V vectors[U + 1], sums[Q + 1];
    for (int i = 0; i < U; ++i) vectors[i] = V::load(at.vectors + i * at.padded + u);
    T* const total = at.sums + u;
    const bool summing = at.call->d_bias || at.call->d_vectors;
    for (int i = 0; i < Q; ++i) sums[i] = V::load(total + i * at.padded);
    const T* const all_kept = static_cast<const T*>(at.call->kept) + u;
    for (Index q = 0; q < n; ++q) {
      const Index b = at.sequence[q], row = at.row(at.t, b);
      const T* kept = all_kept + row * slots * H;
      V keep[K + 1], noise[N + 1], old[S], now[S], d[S], grad[Q + 1], d_old[S];
      for (int i = 0; i < K; ++i) keep[i] = load<V, whole>(kept + i * H, some);
      for (int s = 0; s < S; ++s) {
        old[s] = load<V, whole>(at.old[s][q] + u, some);
        now[s] = load<V, whole>(at.now[s][q] + u, some);
        d[s] = at.clips ? load<V, whole>(at.carry_row(s, b) + u, some)
                        : at.template reaching<whole>(s, b, u, G ? z + q * at.width : nullptr, some);
      }
      if (at.wants_squares && !at.clips)
        for (int s = 0; s < S; ++s) Squares<V>::add(d[s], at.squares + (s * n + q) * Squares<V>::of_a_row);
      load_noise<whole>(at, noise, b, u, some);
      Cell::backward(keep, noise, vectors, old, now, d, grad, d_old);
      T* out = at.grads + row * Q * H + u;
      for (int i = 0; i < Q; ++i) {
        store<V, whole>(grad[i], out + i * H, some);
        sums[i] = sums[i] + grad[i];
      }
      for (int s = 0; s < S; ++s) store<V, whole>(d_old[s], at.carry_row(s, b) + u, some);
    }
    if (summing)
      for (int i = 0; i < Q; ++i) sums[i].store(total + i * at.padded);
  }

  static constexpr Statements<V> all_forward[] = {forward<false>, forward<true>};
  static constexpr Statements<V> all_backward[] = {backward<false>, backward<true>};
  static constexpr Compiled<V> compiled = {
      {false, Cell::transposed, P, N, G, U, S, K, Q, Cell::d_projected.data(), Cell::d_product.data(),
       Cell::d_vector.data(), G, 0, 0, 0, {}, {}, 0, nullptr},
      all_forward, all_backward};
};

// --- A step of stages ------------------------------------------------------------------------------

// One vector of units of one sequence at one step, as the cell's statements see it.
template <class V, class Cell, bool whole>
struct StepUnits {
  using T = typename V::Scalar;
  static constexpr int P = Cell::projected, S = Cell::states;
  Index H, padded, z_step;
  int some;  // how many units there are
  const T *slot, *given, *all_vectors, *z, *scalars;
  T *staged, *partial, *kept_out, *all_grads, *totals;
  const T *old[S], *now[S];
  T *out[S];
  V d[S];

  UNROLLED_INLINE V read(const T* p) const { return load<V, whole>(p, some); }
  UNROLLED_INLINE void write(V v, T* p) const { store<V, whole>(v, p, some); }

  UNROLLED_INLINE V projected(int i) const { return read(slot + i * H); }
  UNROLLED_INLINE V noise(int i) const { return read(given + i * H); }
  UNROLLED_INLINE V product(int i) const { return V::load(z + i * z_step); }
  UNROLLED_INLINE V vector(int i) const { return V::load(all_vectors + i * padded); }
  UNROLLED_INLINE V state(int s) const { return read(old[s]); }
  UNROLLED_INLINE V next(int s) const { return read(now[s]); }
  UNROLLED_INLINE V kept(int i) const { return read(slot + (P + i) * H); }
  UNROLLED_INLINE V d_next(int s) const { return d[s]; }
  UNROLLED_INLINE V staging(int i) const { return V::load(staged + i * padded); }
  UNROLLED_INLINE V sum(int i) const { return V(static_cast<double>(scalars[i])); }

  UNROLLED_INLINE void set_next(int s, V v) const { write(v, out[s]); }
  UNROLLED_INLINE void set_d_state(int s, V v) const { write(v, out[s]); }
  UNROLLED_INLINE void set_staging(int i, V v) const { v.store(staged + i * padded); }
  UNROLLED_INLINE void set_kept(int i, V v) const {
    if (kept_out) write(v, kept_out + i * H);
  }
  UNROLLED_INLINE void set_grad(int i, V v) const {
    write(v, all_grads + i * H);
    T* total = totals + i * padded;
    (V::load(total) + v).store(total);
  }
  UNROLLED_INLINE void add_sum(int i, V v) const {
    T* total = partial + i * V::size;
    if constexpr (!whole) {
      T real[V::size];
      v.store(real);
      v = V::load(real, some);
    }
    (V::load(total) + v).store(total);
  }
};

template <class V, class Cell>
struct Staged {
  using T = typename V::Scalar;
  static constexpr int P = Cell::projected, S = Cell::states, K = Cell::kept, Q = Cell::grads;

  template <bool is_forward, int stage, bool whole>
  static void statements(const Step<V>& step, Index u, int some, const T* products) {
    const Index H = step.H, padded = step.padded;
    StepUnits<V, Cell, whole> at;
    at.H = H, at.padded = padded, at.z_step = step.n * step.width, at.some = some;
    at.all_vectors = step.vectors + u;
    at.totals = is_forward ? nullptr : step.sums + u;
    for (Index q = 0; q < step.n; ++q) {
      const Index b = step.sequence[q], row = step.row(step.t, b);
      T* const slot = static_cast<T*>(step.call->kept) + row * (P + K) * H + u;
      at.slot = slot;
      at.kept_out = step.call->keep ? slot + P * H : nullptr;
      at.given = Cell::noise ? step.noise_row(b) + u : nullptr;
      at.z = products + q * step.width;
      at.staged = step.staging + q * Cell::staging * padded + u;
      at.partial = step.partial + q * Cell::sums * V::size;
      at.scalars = step.scalars + q * Cell::sums;
      for (int s = 0; s < S; ++s) at.old[s] = step.old[s][q] + u;
      if constexpr (is_forward) {
        for (int s = 0; s < S; ++s) at.out[s] = step.now[s][q] + u;
        Cell::template forward<stage, V>(at);
      } else {
        at.all_grads = step.grads + row * Q * H + u;
        for (int s = 0; s < S; ++s) {
          at.now[s] = step.now[s][q] + u;
          at.out[s] = step.carry_row(s, b) + u;
          if constexpr (stage == 0) {
            at.d[s] = at.read(at.out[s]);
            if (step.call->d_states[s] && !step.clips) at.d[s] = at.d[s] + at.read(step.d_state_row(s, b) + u);
          }
        }
        Cell::template backward<stage, V>(at);
      }
    }
  }

  template <bool is_forward, int... entry>
  static constexpr std::array<Statements<V>, sizeof...(entry)> all(std::integer_sequence<int, entry...>) {
    return {statements<is_forward, entry / 2, entry % 2 == 1>...};
  }
  static constexpr auto all_forward = all<true>(std::make_integer_sequence<int, 2 * Cell::forward_stages>());
  static constexpr auto all_backward = all<false>(std::make_integer_sequence<int, 2 * Cell::backward_stages>());
  static constexpr Compiled<V> compiled = {
      {true, true, P, Cell::noise, 0, Cell::vectors, S, K, Q, Cell::d_projected.data(), nullptr,
       Cell::d_vector.data(), Cell::weight_blocks, Cell::widest_product, Cell::staging, Cell::sums,
       {Cell::forward_stages, static_cast<int>(Cell::forward_products.size()), Cell::forward_products.data(),
        Cell::forward_first.data(), Cell::forward_sums.data()},
       {Cell::backward_stages, static_cast<int>(Cell::backward_products.size()), Cell::backward_products.data(),
        Cell::backward_first.data(), Cell::backward_sums.data()},
       static_cast<int>(Cell::weight_gradients.size()), Cell::weight_gradients.data()},
      all_forward.data(), all_backward.data()};
};

}  // namespace
