// The sweep over time, forward and backward, of any compiled cell: what is the same for all cells.
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
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cmath>
#include <numeric>

#include "product.h"
#include "stages.h"
#include "unrolled.h"

namespace {

// Hands out pieces of the caller's scratch memory; without memory it only adds up their sizes.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(Index count) {
    used_ = (used_ + 63) / 64 * 64;
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += count * static_cast<Index>(sizeof(T));
    return piece;
  }
  Index used() const { return used_ + 64; }

 private:
  char* base_;
  Index used_ = 0;
};
inline void* aligned(void* p) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + 63) / 64 * 64);
}

// Ask for large pages under a big buffer: fewer faults when it is first touched, fewer misses later.
inline void prefer_large_pages(const void* p, Index bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2u << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p), end = begin + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (p && last >= first + 2 * page) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

template <class V>
class Sweep {
  using T = typename V::Scalar;
  static constexpr Index W = Tile<V>::width;
  static constexpr Index squares_of_a_row = Squares<V>::of_a_row;
  friend struct Stages<V>;

 public:
  static void forward(const void* cell, const unrolled_call* call) {
    Sweep(compiled(cell), call, false, call->work).run_forward();
  }
  static void backward(const void* cell, const unrolled_call* call) {
    Sweep(compiled(cell), call, true, call->work).run_backward();
  }
  static int64_t work_bytes(const void* cell, const unrolled_call* call, int64_t backward) {
    return Sweep(compiled(cell), call, backward, nullptr).arena_.used() + 64;
  }
  static int64_t packed_bytes(const void* cell, const unrolled_call* call) {
    const Numbers& numbers = compiled(cell).numbers;
    const Index inputs = call->weight_in ? panels<V>(numbers.projected * call->units) * W * call->inputs : 0;
    return (inputs + recurrent_size(numbers, call->units, false)) * static_cast<Index>(sizeof(T)) + 192;
  }

 private:
  static const Compiled<V>& compiled(const void* cell) { return *static_cast<const Compiled<V>*>(cell); }

  // How many numbers the packed weights of the products in the loop are.
  static Index recurrent_size(const Numbers& numbers, Index units, bool backward) {
    if (numbers.staged) return Stages<V>::packed_size(backward ? numbers.backward : numbers.forward, units);
    return numbers.products * panels<V>(units) * W * units;
  }

  Sweep(const Compiled<V>& cell, const unrolled_call* call, bool backward, void* work)
      : cell_(cell), P(cell.numbers.projected), G(cell.numbers.products), S(cell.numbers.states),
        K(cell.numbers.kept), Q(cell.numbers.grads), U(cell.numbers.vectors), staged_(cell.numbers.staged),
        slots(staged_ ? P + K : std::max(P, K)), call_(*call), arena_(work ? aligned(work) : nullptr) {
    T_ = call->steps, B_ = call->batch, D_ = call->inputs, H_ = call->units;
    padded_ = panels<V>(H_) * W;
    choose_threads(backward);
    plan_sequences();
    zeros_ = arena_.take<T>(std::max<Index>(Q + 1, slots) * padded_);
    x_rows_ = arena_.take<const T*>(rows_);
    scratch_ = threads_ * scratch_of_thread();
    vectors_ = arena_.take<T>(U * padded_);
    if (backward) {
      grads_ = arena_.take<T>(rows_ * Q * H_);
      previous_rows_ = arena_.take<const T*>(rows_);
      packed_ = arena_.take<T>(recurrent_size(cell_.numbers, H_, true));
      packed_in_ = arena_.take<T>(panels<V>(D_) * W * P * H_);
      sums_ = arena_.take<T>(threads_ * Q * padded_);
      carry_ = arena_.take<T>(S * B_ * padded_);
      if ((wants_norms() || clips()) && by_units_) lengths_ = arena_.take<T>(threads_ * S * T_ * B_);
      if (call->d_x && irregular_ && !call->offsets) d_x_rows_ = arena_.take<T*>(rows_);
      outer_ = outer_scratch<V>(std::max(D_, H_));
      scratch_ = std::max(scratch_, threads_ * outer_);
    } else {
      bias_ = arena_.take<T>(panels<V>(P * H_) * W);
    }
    scratch_base_ = arena_.take<T>(scratch_);
    if (!work) return;
    const Index number = static_cast<Index>(sizeof(T)), places = call->offsets ? rows_ : T_ * B_;
    prefer_large_pages(work, arena_.used());
    prefer_large_pages(call->kept, rows_ * slots * H_ * number);
    prefer_large_pages(call->d_x, places * D_ * number);
    for (int s = 0; s < S; ++s)
      if (s == 0 || call->every || call->keep) prefer_large_pages(call->states[s], places * H_ * number);
    std::fill_n(zeros_, std::max<Index>(Q + 1, slots) * padded_, T(0));
    for (int j = 0; j < U; ++j) {
      std::fill_n(vectors_ + j * padded_, padded_, T(0));
      if (call->vectors) std::memcpy(vectors_ + j * padded_, as(call->vectors) + j * H_, H_ * sizeof(T));
    }
  }

  static const T* as(const void* p) { return static_cast<const T*>(p); }
  static T* as(void* p) { return static_cast<T*>(p); }
  bool clips() const { return call_.clip > 0; }
  bool wants_norms() const {
    for (int s = 0; s < S; ++s)
      if (call_.norms[s]) return true;
    return false;
  }

  // Whether threads share out sequences, and never wait for one another, or units, and meet at every step.
  void choose_threads(bool backward) {
    const double step = 2.0 * B_ * H_ * (static_cast<double>(recurrent_size(cell_.numbers, H_, backward)) / H_ + 40.0 * S);
    const double all = step * T_;
    const double outside = 2.0 * T_ * B_ * P * H_ * D_ * (backward ? 3 : 1);
    Index threads = std::max<Index>(1, call_.threads);
    by_units_ = false;
    if (all + outside < 8e6) threads = 1;  // done before a sleeping thread has woken
    threads_ = static_cast<int>(threads);
    // With few sequences each thread would read all the weights for a row or two.
    by_units_ = !staged_ && threads > 1 && B_ < 4 * threads && panels<V>(H_) >= 2 * threads && step > 60e3;
  }

  void plan_sequences() {
    const int64_t* lengths = call_.lengths;
    irregular_ = lengths != nullptr;
    const Index count = by_units_ ? 1 : std::max<Index>(1, std::min<Index>(threads_, B_));
    groups_.resize(count);
    first_row_.resize(B_);
    if (!irregular_) {
      rows_ = T_ * B_;
      for (Index g = 0; g < count; ++g) {
        const Index first = B_ * g / count, last = B_ * (g + 1) / count;
        Group& group = groups_[g];
        for (Index b = first; b < last; ++b) group.sequence.push_back(b), group.length.push_back(T_);
      }
      row_step_ = B_;
      std::iota(first_row_.begin(), first_row_.end(), 0);
      return;
    }
    std::vector<Index> order(B_);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return lengths[a] > lengths[b]; });
    for (Index i = 0; i < B_; ++i) {  // dealt out to and fro, so that every group has as many rows
      const Index turn = i / count, place = i % count;
      Group& group = groups_[turn % 2 ? count - 1 - place : place];
      group.sequence.push_back(order[i]), group.length.push_back(lengths[order[i]]);
    }
    row_step_ = 1;
    rows_ = 0;
    for (Index b = 0; b < B_; ++b) first_row_[b] = rows_, rows_ += lengths[b];
  }
  Places places() const { return {&call_, first_row_.data(), row_step_}; }
  Index row(Index t, Index b) const { return places().row(t, b); }
  Index at(Index t, Index b) const { return places().at(t, b); }
  Index at(Index t, Index b, Index t_stride, Index b_stride) const { return places().at(t, b, t_stride, b_stride); }

  // What the statements of the cell are given at every step of a group.
  Step<V> steps_of(const Thread& me, const Group& group) const {
    Step<V> at = {};
    static_cast<Places&>(at) = places();
    at.H = H_, at.padded = padded_, at.width = W, at.sequence = group.sequence.data(), at.vectors = vectors_;
    at.clips = clips(), at.wants_squares = wants_squares_;
    if (sums_) at.sums = sums_ + me.id * Q * padded_;
    at.grads = grads_, at.carry = carry_;
    return at;
  }

  Index largest_group() const {
    Index most = 0;
    for (const Group& group : groups_) most = std::max<Index>(most, static_cast<Index>(group.sequence.size()));
    return most;
  }
  // The products of n rows with one panel, or with all of them if the rows are few.
  Index products_of_thread(Index n) const {
    const Index panel = std::max<Index>(G, 1) * W, all = std::max<Index>(G, 1) * padded_;
    return (std::max(n * panel, std::min<Index>(n, narrow_rows) * all) + 15) / 16 * 16;
  }
  // The products, the addresses of rows (before and after for each state, and later ones),
  // and sums of squares.
  Index scratch_of_thread() const {
    const Index n = largest_group();
    if (staged_) return Stages<V>::scratch(cell_.numbers, n, H_);
    const Index addresses = n * (2 * S + 1) * (static_cast<Index>(sizeof(void*)) / static_cast<Index>(sizeof(T))) + 64;
    return products_of_thread(n) + (addresses + S * n * squares_of_a_row + 64 + 15) / 16 * 16;  // of addresses too
  }

  // For every row: f(row, step, sequence, length).
  template <class F>
  void for_rows(Index first, Index last, const F& f) const {
    for (const Group& group : groups_) {
      Index n = static_cast<Index>(group.sequence.size());
      for (Index t = first; t < last; ++t) {
        n = group.live(t, n);
        for (Index i = 0; i < n; ++i) f(row(t, group.sequence[i]), t, group.sequence[i], group.length[i]);
      }
    }
  }

  // --- Where the state before a step, and what comes after it, are found ---------------------------

  bool fresh(Index t, Index b) const { return call_.resets && call_.resets[t * B_ + b]; }
  // Whether nothing of the state crosses from step t to the step that is processed before it.
  bool cut(Index t, Index b) const {
    if (!call_.resets) return false;
    return call_.reverse ? t + 1 < T_ && fresh(t + 1, b) : fresh(t, b);
  }
  bool begins(Index t, Index length) const { return t == (call_.reverse ? length - 1 : 0); }
  bool ends(Index t, Index length) const { return t == (call_.reverse ? 0 : length - 1); }
  Index before(Index t) const { return call_.reverse ? t + 1 : t - 1; }
  Index after(Index t) const { return call_.reverse ? t - 1 : t + 1; }
  Index step(Index i) const { return call_.reverse ? T_ - 1 - i : i; }

  T* state(int s, Index t, Index b) const {
    const bool all = s == 0 || call_.every || call_.keep;
    return as(call_.states[s]) + (all ? at(t, b) : b) * H_;
  }
  const T* initial(int s, Index b) const {
    return call_.initial[s] ? as(call_.initial[s]) + b * H_ : zeros_;
  }
  const T* previous(int s, Index t, Index b, Index length) const {
    if (begins(t, length)) return cut_at_start(t, b) ? zeros_ : initial(s, b);
    return cut(t, b) ? zeros_ : state(s, before(t), b);
  }
  bool cut_at_start(Index t, Index b) const { return !call_.reverse && fresh(t, b); }

  // --- Forward -------------------------------------------------------------------------------------

  void run_forward() {
    T* packed = as(aligned(call_.packed));
    packed_in_ = packed;
    packed_ = packed + (call_.weight_in ? (panels<V>(P * H_) * W * D_ + 15) / 16 * 16 : 0);
    const bool pack_now = !call_.packed_ready;
    std::fill_n(bias_, panels<V>(P * H_) * W, T(0));
    for (const void* bias : call_.bias)
      if (bias)
        for (Index j = 0; j < P * H_; ++j) bias_[j] += as(bias)[j];
    unrolled::parallel(threads_, [&](const Thread& me) {
      if (pack_now) {
        const auto in = me.part(panels<V>(P * H_));
        if (call_.weight_in) pack<V>(as(call_.weight_in), 1, D_, D_, P * H_, in.first, in.last, packed_in_);
        if (staged_) {
          Stages<V>::pack_all(*this, me, cell_.numbers.forward);
        } else if (G > 0) {
          const Index blocks = panels<V>(H_) * G;
          const auto mine = me.part(blocks);
          for (Index i = mine.first; i < mine.last; ++i) pack_recurrent(i / G, i % G);
        }
      }
      find_x_rows(me);
      me.barrier->wait();
      const auto rows = me.part(rows_, Tile<V>::rows);
      const std::vector<Segment> parts = chunks<V>({{0, 0, D_}});
      const bool biased = call_.bias[0] || call_.bias[1];
      if (call_.weight_in) {
        multiply_rows<V>({nullptr, 0, x_rows_}, rows.first, rows.last, parts, packed_in_, D_, P * H_,
                         biased ? bias_ : nullptr, {as(call_.kept), slots * H_});
      } else {
        for (Index r = rows.first; r < rows.last; ++r)
          std::memcpy(as(call_.kept) + r * slots * H_, x_rows_[r], D_ * sizeof(T));
      }
      me.barrier->wait();
      sweep(me, [&](const Group& group, Index units0, Index units1) {
        if (staged_) {
          Stages<V>(*this, me, group).forward();
        } else {
          forward_in(me, group, units0, units1);
        }
      });
      finish_forward(me);
    });
  }

  void pack_recurrent(Index panel, Index g) {
    T* out = packed_ + (panel * G + g) * H_ * W;
    const Index j = panel * W, n = std::min(W, H_ - j);
    const T* w = as(call_.weight);
    if (cell_.numbers.transposed) {
      pack<V>(w + (g * H_ + j) * H_, 1, H_, H_, n, 0, 1, out);
    } else {
      pack<V>(w + g * H_ + j, G * H_, 1, H_, n, 0, 1, out);
    }
  }

  void find_x_rows(const Thread& me) {
    const auto steps = me.part(T_);
    for_rows(steps.first, steps.last, [&](Index row, Index t, Index b, Index) {
      x_rows_[row] = as(call_.x) + at(t, b, call_.x_step, call_.x_batch);
    });
  }

  // Call f(group, first unit, last unit) for what this thread sweeps.
  template <class F>
  void sweep(const Thread& me, const F& f) {
    if (by_units_) {
      const auto units = me.part(panels<V>(H_));
      f(groups_[0], units.first * W, std::min(H_, units.last * W));
      return;
    }
    for (Index g = me.id; g < static_cast<Index>(groups_.size()); g += me.count) f(groups_[g], 0, H_);
  }

  void forward_in(const Thread& me, const Group& group, Index first, Index last) {
    const Index most = static_cast<Index>(group.sequence.size());
    T* z = thread_scratch(me);
    Step<V> at = steps_of(me, group);
    find_addresses(me, most, at);
    const std::vector<Segment> parts = chunks<V>({{0, 0, H_}});
    Index n = most;
    for (Index i = 0; i < T_; ++i) {
      const Index t = step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) find_rows(at, q, group.length[q]);
      const bool narrow = n <= narrow_rows;
      if (G > 0 && narrow && n) {
        const Index panel = first / W;
        multiply_narrow<V>(at.old[0], n, packed_ + panel * G * H_ * W, H_ * W, G * (panels<V>(last) - panel), H_,
                           z, n * W, false);
      }
      for (Index j = first; j < last; j += W) {
        const int columns = vectors_of<V>(H_, j);
        if (G > 0 && !narrow)
          for (int g = 0; g < G; ++g)
            for (size_t part = 0; part < parts.size(); ++part)
              for_tiles<V>(n, [&](Index q, int m) {
                const T* rows[Tile<V>::rows];
                for (int r = 0; r < m; ++r) rows[r] = at.old[0][q + r] + parts[part].a;
                const T* b = packed_ + ((j / W * G + g) * H_ + parts[part].b) * W;
                tile_for<V>(m, columns)(rows, b, parts[part].length, z + (g * n + q) * W, W,
                                        part ? Start::sum : Start::zero, nullptr);
              });
        const T* products = z + (narrow ? (j - first) * G * n : 0);
        for (int c = 0; c < columns; ++c) {
          const Index u = j + c * V::size;
          const bool whole = u + V::size <= H_;
          cell_.forward[whole](at, u, whole ? V::size : static_cast<int>(H_ - u), products + c * V::size);
        }
      }
      if (by_units_) me.barrier->wait();
    }
  }

  // The states of one sequence before a step and after it.
  void find_rows(const Step<V>& at, Index q, Index length) const {
    const Index b = at.sequence[q];
    for (int s = 0; s < S; ++s) {
      at.old[s][q] = previous(s, at.t, b, length);
      at.now[s][q] = state(s, at.t, b);
    }
  }
  void find_addresses(const Thread& me, Index most, Step<V>& at) const {
    for (int s = 0; s < S; ++s) {
      at.old[s] = addresses(me, most, 2 * s);
      at.now[s] = const_cast<T**>(addresses(me, most, 2 * s + 1));
    }
  }

  // Zeros beyond each sequence's length, and the state after its last step.
  void finish_forward(const Thread& me) {
    if (me.count > 1) me.barrier->wait();
    const auto mine = me.part(B_);
    for (Index b = mine.first; b < mine.last; ++b) {
      const Index length = irregular_ ? call_.lengths[b] : T_;
      for (int s = 0; s < S; ++s) {
        if (!call_.offsets && (s == 0 || call_.every || call_.keep))
          for (Index t = length; t < T_; ++t) std::fill_n(state(s, t, b), H_, T(0));
        if (!call_.finals[s]) continue;
        const T* last = length ? state(s, call_.reverse ? 0 : length - 1, b) : initial(s, b);
        std::memcpy(as(call_.finals[s]) + b * H_, last, H_ * sizeof(T));
      }
    }
  }

  T* thread_scratch(const Thread& me) const { return scratch_base_ + me.id * scratch_of_thread(); }
  const T** addresses(const Thread& me, Index most, int i) const {
    T* end = thread_scratch(me) + products_of_thread(most);
    return reinterpret_cast<const T**>(end) + i * most;
  }
  T* squares_of(const Thread& me, Index most) const {
    const T** end = addresses(me, most, 2 * S + 1);
    return reinterpret_cast<T*>(const_cast<T**>(end));
  }

  // --- Backward ------------------------------------------------------------------------------------

  // The product's gradient blocks as runs of columns of `grads`, each with its rows of the weight.
  static std::vector<Segment> runs(const int* blocks, int count, Index height) {
    std::vector<Segment> result;
    for (int g = 0; g < count; ++g) {
      if (blocks[g] < 0) continue;
      if (!result.empty() && result.back().a + result.back().length == blocks[g] * height &&
          result.back().b + result.back().length == g * height) {
        result.back().length += height;
      } else {
        result.push_back({blocks[g] * height, g * height, height});
      }
    }
    return result;
  }

  void run_backward() {
    const Numbers& numbers = cell_.numbers;
    const std::vector<Segment> product_runs = runs(numbers.d_product, G, H_);
    const std::vector<Segment> projected_runs = runs(numbers.d_projected, P, H_);
    const std::vector<Segment> parts = chunks<V>(product_runs);
    wants_squares_ = wants_norms() || clips();
    unrolled::parallel(threads_, [&](const Thread& me) {
      if (staged_) {
        Stages<V>::pack_all(*this, me, numbers.backward);
      } else if (G > 0) {
        const auto mine = me.part(panels<V>(H_));
        const T* w = as(call_.weight);
        pack<V>(w, numbers.transposed ? H_ : 1, numbers.transposed ? 1 : G * H_, G * H_, H_, mine.first, mine.last,
                packed_);
      }
      if (call_.d_x && call_.weight_in) {
        const auto mine = me.part(panels<V>(D_));
        pack<V>(as(call_.weight_in), D_, 1, P * H_, D_, mine.first, mine.last, packed_in_);
      }
      if (call_.d_weight_in) find_x_rows(me);
      if (call_.d_weight && !staged_) {
        const auto steps = me.part(T_);
        for_rows(steps.first, steps.last, [&](Index row, Index t, Index b, Index length) {
          previous_rows_[row] = previous(0, t, b, length);
        });
      }
      clear_ended(me);
      std::fill_n(sums_ + me.id * Q * padded_, Q * padded_, T(0));
      if (lengths_) std::fill_n(lengths_ + me.id * S * T_ * B_, S * T_ * B_, T(0));
      me.barrier->wait();
      sweep(me, [&](const Group& group, Index u0, Index u1) {
        if (staged_) {
          Stages<V>(*this, me, group).backward();
        } else {
          backward_in(me, group, parts, u0, u1);
        }
      });
      me.barrier->wait();
      after_backward(me, product_runs, projected_runs);
    });
  }

  // Steps beyond a sequence's length: their gradients are zero, and no row will write them.
  void clear_ended(const Thread& me) {
    const auto mine = me.part(B_);
    for (Index b = mine.first; b < mine.last; ++b) {
      const Index length = irregular_ ? call_.lengths[b] : T_;
      for (Index t = length; t < T_; ++t) {
        if (call_.d_x && !call_.offsets) std::fill_n(as(call_.d_x) + at(t, b) * D_, D_, T(0));
        for (int s = 0; s < S; ++s)
          if (call_.norms[s]) as(call_.norms[s])[t * B_ + b] = 0;
      }
      for (int s = 0; s < S; ++s)
        if (call_.d_initial[s] && !length) {
          T* out = as(call_.d_initial[s]) + b * H_;
          if (call_.d_finals[s]) {
            std::memcpy(out, as(call_.d_finals[s]) + b * H_, H_ * sizeof(T));
          } else {
            std::fill_n(out, H_, T(0));
          }
        }
    }
  }

  T* grad_row(const Group& group, Index t, Index q) const { return grads_ + row(t, group.sequence[q]) * Q * H_; }

  // Σ_g d_product_g W_g for one panel of units and n sequences, whose gradients stand at a[q], into z.
  void product_back(const T* const* a, Index n, Index j, const std::vector<Segment>& parts, T* z) const {
    const int columns = vectors_of<V>(H_, j);
    for (size_t part = 0; part < parts.size(); ++part)
      for_tiles<V>(n, [&](Index q, int m) {
        const T* rows[Tile<V>::rows];
        for (int r = 0; r < m; ++r) rows[r] = a[q + r] + parts[part].a;
        const T* b = packed_ + (j / W * G * H_ + parts[part].b) * W;
        tile_for<V>(m, columns)(rows, b, parts[part].length, z + q * W, W, part ? Start::sum : Start::zero,
                                nullptr);
      });
    if (parts.empty())
      for (Index q = 0; q < n; ++q) std::fill_n(z + q * W, W, T(0));
  }

  // The same for one or two sequences and all panels of a thread, one after the other in z.
  void product_back_narrow(const T* const* a, Index n, Index first, Index last, const std::vector<Segment>& parts,
                           T* z) const {
    const Index panel = first / W, count = panels<V>(last) - panel;
    for (size_t part = 0; part < parts.size(); ++part) {
      const T* rows[narrow_rows];
      for (Index q = 0; q < n; ++q) rows[q] = a[q] + parts[part].a;
      multiply_narrow<V>(rows, n, packed_ + (panel * G * H_ + parts[part].b) * W, G * H_ * W, count,
                         parts[part].length, z, n * W, part > 0);
    }
    if (parts.empty()) std::fill_n(z, count * n * W, T(0));
  }

  void backward_in(const Thread& me, const Group& group, const std::vector<Segment>& parts, Index first,
                   Index last) {
    const Index most = static_cast<Index>(group.sequence.size());
    T* z = thread_scratch(me);
    Step<V> at = steps_of(me, group);
    find_addresses(me, most, at);
    const T** later = addresses(me, most, 2 * S);  // gradients of each sequence's next step, or zeros
    T* const squares = at.squares = squares_of(me, most);
    Index n = 0;
    for (Index i = T_; i-- > 0;) {
      const Index t = step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) {
        const Index b = group.sequence[q], length = group.length[q];
        find_rows(at, q, length);
        const bool last_step = ends(t, length) || cut(after(t), b);
        later[q] = last_step ? zeros_ : grad_row(group, after(t), q);
        if (last_step)
          for (int s = 0; s < S; ++s) begin_carry(s, b, ends(t, length), first, last);
      }
      if (wants_squares_) std::fill_n(squares, S * n * squares_of_a_row, T(0));
      const bool narrow = n <= narrow_rows;
      if (narrow && n) product_back_narrow(later, n, first, last, parts, z);
      if (clips()) clip(me, at, first, last, parts, later, z);
      for (Index j = first; j < last; j += W) {
        if (!narrow && !clips()) product_back(later, n, j, parts, z);
        const T* products = z + (narrow ? (j - first) * n : 0);
        const int columns = vectors_of<V>(H_, j);
        for (int c = 0; c < columns; ++c) {
          const Index u = j + c * V::size;
          const bool whole = u + V::size <= H_;
          cell_.backward[whole](at, u, whole ? V::size : static_cast<int>(H_ - u), products + c * V::size);
        }
      }
      if (wants_squares_ && !clips()) note_norms(me, at);
      if (by_units_) me.barrier->wait();
    }
    finish_sequences(group, parts, first, last, later, z);
  }

  // From the three sums, each `size` numbers that are still to be added up.
  template <class Sum>
  static T norm_of(const T* sums, int size, Sum sum) {
    const T up = sum(sums), plain = sum(sums + size);
    if (std::isfinite(up)) return std::sqrt(up) * Squares<V>::small;
    return std::isfinite(plain) ? std::sqrt(plain) : std::sqrt(sum(sums + 2 * size)) * Squares<V>::large;
  }
  static T norm_of(const T* sums) {
    return norm_of(sums, V::size, [](const T* p) { return V::load(p).sum(); });
  }
  static T norm_of_numbers(const T* sums) {
    return norm_of(sums, 1, [](const T* p) { return *p; });
  }

  // The gradient that reaches a sequence's last step from beyond it: that of its final state, or nothing.
  void begin_carry(int s, Index b, bool final_step, Index first, Index last) const {
    T* carry = carry_ + (s * B_ + b) * padded_;
    if (final_step && call_.d_finals[s]) {
      std::memcpy(carry + first, as(call_.d_finals[s]) + b * H_ + first, (last - first) * sizeof(T));
    } else {
      std::fill(carry + first, carry + last, T(0));
    }
  }

  // Gathers ∂L/∂state_t of all units in the carry, and scales it down where its norm is above the bound:
  // the norm is known only when every panel has been added.
  void clip(const Thread& me, const Step<V>& at, Index first, Index last, const std::vector<Segment>& parts,
            const T* const* later, T* z) {
    const Index n = at.n;
    const bool narrow = n <= narrow_rows;
    for (Index j = first; j < last; j += W) {
      if (!narrow) product_back(later, n, j, parts, z);
      const T* products = z + (narrow ? (j - first) * n : 0);
      const int columns = vectors_of<V>(H_, j);
      for (int c = 0; c < columns; ++c) {
        const Index u = j + c * V::size;
        if (u + V::size <= H_) {
          gather<true>(at, u, products + c * V::size, V::size);
        } else {
          gather<false>(at, u, products + c * V::size, static_cast<int>(H_ - u));
        }
      }
    }
    note_norms(me, at);
    if (by_units_) me.barrier->wait();
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < n; ++q) {
        const Index b = at.sequence[q];
        const T norm =
            by_units_ ? norm_of_all(me, s, at.t * B_ + b) : norm_of(at.squares + (s * n + q) * squares_of_a_row);
        clip_row(at.carry_row(s, b), first, last, norm);
      }
  }

  template <bool whole>
  void gather(const Step<V>& at, Index u, const T* z, int some) const {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const Index b = at.sequence[q];
        const V d = at.template reaching<whole>(s, b, u, G ? z + q * W : nullptr, some);
        Squares<V>::add(d, at.squares + (s * at.n + q) * squares_of_a_row);
        store<V, whole>(d, at.carry_row(s, b) + u, some);
      }
  }

  // A gradient whose norm is above the bound, scaled down to it; NaN is left as it is.
  void clip_row(T* gradient, Index first, Index last, T norm) const {
    if (!(norm > call_.clip)) return;
    const T scale = static_cast<T>(call_.clip / norm);
    for (Index u = first; u < last; ++u) gradient[u] *= scale;
  }
  T bounded(T norm) const { return clips() && norm > call_.clip ? static_cast<T>(call_.clip) : norm; }

  // The norm of a row of which each thread has its units'.
  T norm_of_all(const Thread& me, int s, Index at) const {
    T squares[Squares<V>::sums] = {};
    for (int m = 0; m < me.count; ++m) Squares<V>::add(lengths_[(m * S + s) * T_ * B_ + at], squares);
    return norm_of_numbers(squares);
  }

  void note_norms(const Thread& me, const Step<V>& at) {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const T norm = norm_of(at.squares + (s * at.n + q) * squares_of_a_row);
        const Index place = at.t * B_ + at.sequence[q];
        if (by_units_) {
          lengths_[(me.id * S + s) * T_ * B_ + place] = norm;
        } else if (call_.norms[s]) {
          as(call_.norms[s])[place] = bounded(norm);
        }
      }
  }

  // The gradient that leaves each sequence's first step: that of its initial state.
  void finish_sequences(const Group& group, const std::vector<Segment>& parts, Index first, Index last,
                    const T** later, T* z) {
    bool wanted = false;
    for (int s = 0; s < S; ++s) wanted = wanted || call_.d_initial[s];
    if (!wanted) return;
    Index n = 0;
    while (n < static_cast<Index>(group.sequence.size()) && group.length[n] > 0) {
      const Index t = call_.reverse ? group.length[n] - 1 : 0;
      later[n] = cut_at_start(t, group.sequence[n]) ? zeros_ : grad_row(group, t, n);
      ++n;
    }
    for (Index j = first; j < last; j += W) {
      if (call_.d_initial[0]) product_back(later, n, j, parts, z);
      const Index some = std::min(W, H_ - j);
      for (int s = 0; s < S; ++s) {
        if (!call_.d_initial[s]) continue;
        for (Index q = 0; q < n; ++q) {
          const T* carry = carry_ + (s * B_ + group.sequence[q]) * padded_ + j;
          T* out = as(call_.d_initial[s]) + group.sequence[q] * H_ + j;
          const bool nothing = later[q] == zeros_;
          for (Index i = 0; i < some; ++i)
            out[i] = nothing ? T(0) : carry[i] + (s == 0 ? z[q * W + i] : T(0));
        }
      }
    }
  }

  // The rows of a weight's gradient that belong to blocks which the step does not read.
  void clear_unread(const Thread& me, const int* blocks, int count, Index width, void* out) const {
    for (int i = 0; i < count && !me.id; ++i)
      if (blocks[i] < 0) std::fill_n(as(out) + i * H_ * width, H_ * width, T(0));
  }

  // The products over all rows, and the sums over rows.
  void after_backward(const Thread& me, const std::vector<Segment>& product_runs,
                      const std::vector<Segment>& projected_runs) {
    const Numbers& numbers = cell_.numbers;
    T* scratch = scratch_base_ + me.id * outer_;
    const Rows<const T> grads{grads_, Q * H_};
    const auto outer = [&](const std::vector<Segment>& all, const T* const* rows, Index n, void* out) {
      for (const Segment& run : all) {
        const auto part = me.part(run.length, Tile<V>::rows);
        multiply_outer<V>({grads_ + run.a, Q * H_}, part.first, part.last, {nullptr, 0, rows}, n, rows_,
                          as(out) + run.b * n, n, scratch);
      }
    };
    if (call_.d_weight_in) {
      clear_unread(me, numbers.d_projected, P, D_, call_.d_weight_in);
      outer(projected_runs, x_rows_, D_, call_.d_weight_in);
    }
    if (staged_) {
      if (call_.d_weight) Stages<V>::weight_gradients(*this, me, scratch);
    } else if (G > 0) {
      if (call_.d_weight) {
        if (numbers.transposed) {
          clear_unread(me, numbers.d_product, G, H_, call_.d_weight);
          outer(product_runs, previous_rows_, H_, call_.d_weight);
        } else {
          for (int g = 0; g < G && !me.id; ++g)
            for (Index u = 0; u < H_ && numbers.d_product[g] < 0; ++u)
              std::fill_n(as(call_.d_weight) + u * G * H_ + g * H_, H_, T(0));
          for (const Segment& run : product_runs) {
            const auto part = me.part(H_, Tile<V>::rows);
            for (Index block = 0; block < run.length; block += H_)
              multiply_outer<V>({nullptr, 0, previous_rows_}, part.first, part.last,
                                {grads_ + run.a + block, Q * H_}, H_, rows_, as(call_.d_weight) + run.b + block,
                                G * H_, scratch);
          }
        }
      }
    }
    if (call_.d_x) {
      const auto rows = me.part(rows_, Tile<V>::rows);
      Rows<T> out{as(call_.d_x), D_};
      if (d_x_rows_) {
        const auto steps = me.part(T_);
        for_rows(steps.first, steps.last,
                 [&](Index row, Index t, Index b, Index) { d_x_rows_[row] = as(call_.d_x) + at(t, b) * D_; });
        me.barrier->wait();
        out.table = d_x_rows_;
      }
      if (call_.weight_in && projected_runs.empty()) {
        for (Index r = rows.first; r < rows.last; ++r) std::fill_n(out[r], D_, T(0));
      } else if (call_.weight_in) {
        multiply_rows<V>(grads, rows.first, rows.last, chunks<V>(projected_runs), packed_in_, P * H_, D_, nullptr,
                         out);
      } else {
        for (Index r = rows.first; r < rows.last; ++r)
          for (int i = 0; i < P; ++i) {
            if (numbers.d_projected[i] < 0) {
              std::fill_n(out[r] + i * H_, H_, T(0));
            } else {
              std::memcpy(out[r] + i * H_, grads[r] + numbers.d_projected[i] * H_, H_ * sizeof(T));
            }
          }
      }
    }
    if (me.id) return;
    for (int m = 1; m < me.count; ++m)
      for (Index i = 0; i < Q * padded_; ++i) sums_[i] += sums_[m * Q * padded_ + i];
    const auto give = [&](void* out, const int* blocks, int count) {
      if (!out) return;
      for (int i = 0; i < count; ++i) {
        T* to = as(out) + i * H_;
        if (blocks[i] < 0) {
          std::fill_n(to, H_, T(0));
        } else {
          std::memcpy(to, sums_ + blocks[i] * padded_, H_ * sizeof(T));
        }
      }
    };
    give(call_.d_bias, numbers.d_projected, P);
    give(call_.d_vectors, numbers.d_vector, U);
    if (lengths_)
      for (int s = 0; s < S; ++s) {
        if (!call_.norms[s]) continue;
        for (Index at = 0; at < T_ * B_; ++at)
          as(call_.norms[s])[at] = bounded(norm_of_all(me, s, at));
      }
  }

  const Compiled<V>& cell_;
  const int P, G, S, K, Q, U;
  const bool staged_;
  // Blocks of H in a row of `kept`: the projection's memory is the kept values', unless later stages read it.
  const Index slots;
  const unrolled_call call_;
  Arena arena_;
  Index T_, B_, D_, H_, padded_, rows_, scratch_, outer_ = 0;
  int threads_ = 1;
  bool by_units_ = false, irregular_ = false, wants_squares_ = false;
  std::vector<Group> groups_;
  std::vector<Index> first_row_;  // of each sequence
  Index row_step_;                // from one step of a sequence to the next
  T *zeros_, *vectors_, *bias_ = nullptr, *grads_ = nullptr, *packed_ = nullptr, *packed_in_ = nullptr;
  T *sums_ = nullptr, *carry_ = nullptr, *lengths_ = nullptr, *scratch_base_ = nullptr;
  const T **x_rows_, **previous_rows_ = nullptr;
  T** d_x_rows_ = nullptr;
};

}  // namespace
