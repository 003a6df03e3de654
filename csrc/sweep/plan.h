// The plan of one call: who sweeps what, how rows are numbered, and where everything stands in memory.
//
// Only what must wait for the state is inside the loop over time: the product with the state, and the
// cell's pointwise step right after it, panel by panel of units, while the product is still in the
// L1 cache. Everything else is one product over all rows, before or after the loop.
//
// A *row* is one real step of one sequence; steps beyond a sequence's length have none, so finished
// sequences cost nothing. How rows are numbered depends on the lengths alone, since forward and backward,
// whose threads may differ, share what is kept. Sequences are sorted by length, so that those that have a
// step are always the first ones of their group.
#pragma once
#include "../arena.h"
#include "../product.h"
#include "../step.h"

namespace {

// The sequences that one thread sweeps, longest first.
struct Group {
  Index *sequence, *length;
  Index size;
  Index live(Index t, Index before) const {  // how many have step t, if `before` had the step beside it
    Index n = before;
    while (n < size && length[n] > t) ++n;
    while (n > 0 && length[n - 1] <= t) --n;
    return n;
  }
};

template <class T>
const T* as(const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* as(void* p) {
  return static_cast<T*>(p);
}

template <class V>
struct Stages;  // see stages.h

template <class V>
struct Plan {
  using T = typename V::Scalar;
  static constexpr Index W = Tile<V>::width;

  // Without `work` it only counts the bytes that it needs.
  Plan(const Compiled<V>& compiled, const unrolled_call* given, bool is_backward, void* work)
      : cell(compiled), numbers(compiled.numbers), call(*given), arena(work ? aligned(work) : nullptr),
        P(numbers.projected), G(numbers.products), S(numbers.states), K(numbers.kept), Q(numbers.grads),
        U(numbers.vectors), steps(call.steps), batch(call.batch), inputs(call.inputs), H(call.units),
        padded(panels<V>(H) * W), slots(numbers.staged ? P + K : std::max(P, K)) {
    choose_threads(is_backward);
    divide_sequences();
    zeros = arena.template take<T>(zero_count());
    vectors = arena.template take<T>(U * padded);
    x_rows = arena.template take<const T*>(rows);
  }

  // How many numbers the packed weights of the products in the loop are.
  static Index recurrent_size(const Numbers& numbers, Index units, bool backward) {
    if (numbers.staged) return Stages<V>::packed_size(backward ? numbers.backward : numbers.forward, units);
    return numbers.products * panels<V>(units) * W * units;
  }

  bool clips() const { return call.clip > 0; }
  bool wants_norms() const {
    for (int s = 0; s < S; ++s)
      if (call.norms[s]) return true;
    return false;
  }

  // --- Memory --------------------------------------------------------------------------------------

  // What all threads share is taken first, and then what each has for itself: so many numbers.
  void take_scratch(Index of_thread) {
    scratch_of_thread = of_thread;
    scratch = arena.template take<T>(threads * of_thread);
  }
  Index bytes() const { return arena.used() + 64; }

  void prepare() {
    const Index number = static_cast<Index>(sizeof(T)), places = call.offsets ? rows : steps * batch;
    prefer_large_pages(call.work, arena.used());
    prefer_large_pages(call.kept, rows * slots * H * number);
    prefer_large_pages(call.d_x, places * inputs * number);
    for (int s = 0; s < S; ++s)
      if (has_all_steps(s)) prefer_large_pages(call.states[s], places * H * number);
    std::fill_n(zeros, zero_count(), T(0));
    for (int j = 0; j < U; ++j) {
      std::fill_n(vectors + j * padded, padded, T(0));
      if (call.vectors) std::memcpy(vectors + j * padded, as<T>(call.vectors) + j * H, H * sizeof(T));
    }
  }

  // Of the loop over time of a step of one product, for one thread: the products of n rows with one panel,
  // or with all of them if the rows are few; the addresses of rows, before and after for each state, and
  // later ones; and sums of squares.
  Index products_size(Index n) const {
    const Index panel = std::max<Index>(G, 1) * W, all = std::max<Index>(G, 1) * padded;
    return (std::max(n * panel, std::min<Index>(n, narrow_rows) * all) + 15) / 16 * 16;
  }
  Index loop_size() const {
    const Index n = largest_group, of_address = static_cast<Index>(sizeof(void*) / sizeof(T));
    const Index addresses = n * (2 * S + 1) * of_address + 64;
    return products_size(n) + (addresses + S * n * Squares<V>::of_a_row + 64 + 15) / 16 * 16;  // of addresses too
  }
  T* scratch_of(const Thread& me) const { return scratch + me.id * scratch_of_thread; }
  const T** addresses(const Thread& me, Index most, int i) const {
    return reinterpret_cast<const T**>(scratch_of(me) + products_size(most)) + i * most;
  }
  T* squares_of(const Thread& me, Index most) const {
    return reinterpret_cast<T*>(const_cast<T**>(addresses(me, most, 2 * S + 1)));
  }
  void find_addresses(const Thread& me, Index most, Step<V>& at) const {
    for (int s = 0; s < S; ++s) {
      at.old[s] = addresses(me, most, 2 * s);
      at.now[s] = const_cast<T**>(addresses(me, most, 2 * s + 1));
    }
  }

  // --- Rows ----------------------------------------------------------------------------------------

  RowIndex row_index() const { return {&call, first_row, row_step}; }
  Index row(Index t, Index b) const { return row_index().row(t, b); }
  Index at(Index t, Index b) const { return row_index().at(t, b); }
  Index at(Index t, Index b, Index t_stride, Index b_stride) const { return row_index().at(t, b, t_stride, b_stride); }
  Index length_of(Index b) const { return call.lengths ? call.lengths[b] : steps; }

  // For every row: f(row, step, sequence, length).
  template <class F>
  void for_rows(Index first, Index last, const F& f) const {
    for (Index g = 0; g < group_count; ++g) {
      const Group& group = groups[g];
      Index n = group.size;
      for (Index t = first; t < last; ++t) {
        n = group.live(t, n);
        for (Index i = 0; i < n; ++i) f(row(t, group.sequence[i]), t, group.sequence[i], group.length[i]);
      }
    }
  }
  void find_x_rows(const Thread& me) const {
    const auto mine = me.part(steps);
    for_rows(mine.first, mine.last, [&](Index row, Index t, Index b, Index) {
      x_rows[row] = as<T>(call.x) + at(t, b, call.x_step, call.x_batch);
    });
  }

  // Call f(group, first unit, last unit) for what this thread sweeps.
  template <class F>
  void sweep(const Thread& me, const F& f) const {
    if (by_units) {
      const auto units = me.part(panels<V>(H));
      f(groups[0], units.first * W, std::min(H, units.last * W));
      return;
    }
    for (Index g = me.id; g < group_count; g += me.count) f(groups[g], 0, H);
  }

  // What the statements of the cell are given at every step of a group.
  Step<V> steps_of(const Group& group) const {
    Step<V> at = {};
    static_cast<RowIndex&>(at) = row_index();
    at.H = H, at.padded = padded, at.width = W, at.sequence = group.sequence, at.vectors = vectors;
    return at;
  }

  // --- Where the state before a step, and what comes after it, are found ---------------------------

  bool fresh(Index t, Index b) const { return call.resets && call.resets[t * batch + b]; }
  // Whether nothing of the state crosses from step t to the step that is processed before it.
  bool cut(Index t, Index b) const {
    if (!call.resets) return false;
    return call.reverse ? t + 1 < steps && fresh(t + 1, b) : fresh(t, b);
  }
  bool cut_at_start(Index t, Index b) const { return !call.reverse && fresh(t, b); }
  bool begins(Index t, Index length) const { return t == (call.reverse ? length - 1 : 0); }
  bool ends(Index t, Index length) const { return t == (call.reverse ? 0 : length - 1); }
  Index before(Index t) const { return call.reverse ? t + 1 : t - 1; }
  Index after(Index t) const { return call.reverse ? t - 1 : t + 1; }
  Index step(Index i) const { return call.reverse ? steps - 1 - i : i; }

  bool has_all_steps(int s) const { return s == 0 || call.every || call.keep; }
  T* state(int s, Index t, Index b) const { return as<T>(call.states[s]) + (has_all_steps(s) ? at(t, b) : b) * H; }
  const T* initial(int s, Index b) const { return call.initial[s] ? as<T>(call.initial[s]) + b * H : zeros; }
  const T* previous(int s, Index t, Index b, Index length) const {
    if (begins(t, length)) return cut_at_start(t, b) ? zeros : initial(s, b);
    return cut(t, b) ? zeros : state(s, before(t), b);
  }
  // The states of one sequence before a step and after it.
  void find_rows(const Step<V>& at, Index q, Index length) const {
    const Index b = at.sequence[q];
    for (int s = 0; s < S; ++s) {
      at.old[s][q] = previous(s, at.t, b, length);
      at.now[s][q] = state(s, at.t, b);
    }
  }

  const Compiled<V>& cell;
  const Numbers& numbers;
  const unrolled_call call;
  Arena arena;
  const int P, G, S, K, Q, U;
  const Index steps, batch, inputs, H, padded;
  // Blocks of H in a row of `kept`: the projection's memory is the kept values', unless later stages read it.
  const Index slots;
  Index rows = 0, threads = 1, group_count = 1, largest_group = 0, scratch_of_thread = 0;
  bool by_units = false;  // each thread sweeps some units of all sequences, not all of some
  Group* groups;
  Index* first_row;  // of each sequence
  Index row_step;    // from one step of a sequence to the next
  T *zeros, *vectors, *scratch = nullptr, *packed = nullptr;
  const T** x_rows;

 private:
  Index zero_count() const { return std::max<Index>(Q + 1, slots) * padded; }

  // Whether threads share out sequences, and never wait for one another, or units, and meet at every step.
  void choose_threads(bool backward) {
    const double weights = static_cast<double>(recurrent_size(numbers, H, backward)) / static_cast<double>(H);
    const double step = 2.0 * batch * H * (weights + 40.0 * S);
    const double outside = 2.0 * steps * batch * P * H * inputs * (backward ? 3 : 1);
    threads = std::max<Index>(1, call.threads);
    if (step * steps + outside < 8e6) threads = 1;  // done before a sleeping thread has woken
    // With few sequences each thread would read all the weights for a row or two.
    by_units = !numbers.staged && threads > 1 && batch < 4 * threads && panels<V>(H) >= 2 * threads && step > 60e3;
  }

  void divide_sequences() {
    const int64_t* const lengths = call.lengths;
    group_count = by_units ? 1 : std::max<Index>(1, std::min<Index>(threads, batch));
    largest_group = (batch + group_count - 1) / group_count;
    row_step = lengths ? 1 : batch;
    if (!lengths) rows = steps * batch;
    for (Index b = 0; b < batch && lengths; ++b) rows += lengths[b];
    groups = arena.template take<Group>(group_count);
    first_row = arena.template take<Index>(batch);
    Index* const order = arena.template take<Index>(batch);
    Index* const members = arena.template take<Index>(2 * group_count * largest_group);
    if (!arena) return;
    for (Index g = 0; g < group_count; ++g)
      groups[g] = {members + 2 * g * largest_group, members + (2 * g + 1) * largest_group, 0};
    Index row = 0;
    for (Index b = 0; b < batch; ++b) order[b] = b, first_row[b] = row, row += lengths ? lengths[b] : 1;
    const auto add = [&](Group& group, Index b) {
      group.sequence[group.size] = b;
      group.length[group.size++] = length_of(b);
    };
    if (!lengths) {
      for (Index g = 0; g < group_count; ++g)
        for (Index b = batch * g / group_count; b < batch * (g + 1) / group_count; ++b) add(groups[g], b);
      return;
    }
    std::sort(order, order + batch, [&](Index a, Index b) {
      return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b;
    });
    for (Index i = 0; i < batch; ++i) {  // dealt out to and fro, so that every group has as many rows
      const Index turn = i / group_count, place = i % group_count;
      add(groups[turn % 2 ? group_count - 1 - place : place], order[i]);
    }
  }
};

}  // namespace
