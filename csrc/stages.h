// The loop over time of a step with several products, or with sums over units.
//
// Such a step is a list of *stages*. A stage begins with its products and goes on, panel by panel of
// units, with the cell's pointwise statements; what a later stage needs is *staged*, in a small memory of
// the sequence, and what the backward pass needs stands in its row of `kept`. A product needs all units of
// what it multiplies, and a sum is known when all units have been added: these two divide the stages.
#pragma once
#include <vector>

#include "product.h"
#include "step.h"

namespace {

// The sequences that one thread sweeps, longest first.
struct Group {
  std::vector<Index> sequence, length;
  Index live(Index t, Index before) const {  // how many have step t, if `before` had the step beside it
    Index n = before;
    const Index all = static_cast<Index>(sequence.size());
    while (n < all && length[n] > t) ++n;
    while (n > 0 && length[n - 1] <= t) --n;
    return n;
  }
};

template <class V>
class Sweep;

template <class V>
struct Stages {
  using T = typename V::Scalar;
  using Parent = Sweep<V>;
  static constexpr Index W = Tile<V>::width;

  // --- The packed weights --------------------------------------------------------------------------

  static Index packed_size(const Pass& pass, Index units) {
    Index size = 0;
    for (int k = 0; k < pass.product_count; ++k) {
      const Product& p = pass.products[k];
      size += panels<V>(units) * W * p.outputs * p.depth * units;
    }
    return size;
  }
  static void pack_all(const Parent& sweep, const Thread& me, const Pass& pass) {
    const Index H = sweep.H_, count = panels<V>(H);
    T* out = sweep.packed_;
    for (int k = 0; k < pass.product_count; ++k) {
      const Product& p = pass.products[k];
      const T* w = Parent::as(sweep.call_.weight) + p.first * H * H;
      const Index stride = p.columns * H, depth = p.depth * H;
      const auto mine = me.part(count * p.outputs);
      for (Index i = mine.first; i < mine.last; ++i) {
        const Index j = i / p.outputs * W, from = i % p.outputs * H + j;
        const T* start = p.transposed ? w + from * stride : w + from;
        pack<V>(start, p.transposed ? 1 : stride, p.transposed ? stride : 1, depth, std::min(W, H - j), 0, 1,
                out + i * depth * W);
      }
      out += count * W * p.outputs * depth;
    }
  }
  // --- A thread's memory ---------------------------------------------------------------------------

  static Index products_size(const Numbers& cell, Index n) { return std::max(cell.widest_product, 1) * n * W; }
  static Index staging_size(const Numbers& cell, Index n, Index units) {
    return n * cell.staging * panels<V>(units) * W;
  }
  static Index scratch(const Numbers& cell, Index n, Index units) {
    const Index sums = n * cell.sums * (V::size + 1) + n * cell.states;
    const Index addresses = n * (2 * cell.states + 1) * static_cast<Index>(sizeof(void*) / sizeof(T));
    return (products_size(cell, n) + staging_size(cell, n, units) + sums + addresses + 64 + 15) / 16 * 16;
  }

  Stages(const Parent& parent, const Thread& thread, const Group& sequences)
      : sweep(parent), cell(parent.cell_.numbers), me(thread), group(sequences), S(cell.states), H(parent.H_),
        padded(parent.padded_), at(parent.steps_of(thread, sequences)) {
    most = static_cast<Index>(group.sequence.size());
    z = sweep.scratch_base_ + me.id * sweep.scratch_of_thread();
    at.staging = z + products_size(cell, most);
    at.partial = at.staging + staging_size(cell, most, H);
    at.scalars = at.partial + most * cell.sums * V::size;
    auto* end = at.scalars + most * cell.sums;
    auto** tables = reinterpret_cast<const T**>((reinterpret_cast<uintptr_t>(end) + 7) / 8 * 8);
    for (int s = 0; s < S; ++s) {
      at.old[s] = tables + 2 * s * most;
      at.now[s] = const_cast<T**>(tables + (2 * s + 1) * most);
    }
    operands = tables + 2 * S * most;
  }

  // --- Forward -------------------------------------------------------------------------------------

  void forward() {
    plan(cell.forward, true);
    Index n = most;
    for (Index i = 0; i < sweep.T_; ++i) {
      const Index t = sweep.step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) sweep.find_rows(at, q, group.length[q]);
      run_stages(cell.forward, sweep.cell_.forward, true);
    }
  }

  void backward() {
    plan(cell.backward, false);
    Index n = 0;
    for (Index i = sweep.T_; i-- > 0;) {
      const Index t = sweep.step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) {
        const Index b = group.sequence[q], length = group.length[q];
        sweep.find_rows(at, q, length);
        const bool last = sweep.ends(t, length);
        if (last || sweep.cut(sweep.after(t), b))
          for (int s = 0; s < S; ++s) sweep.begin_carry(s, b, last, 0, H);
      }
      if (sweep.clips()) clip();
      if (sweep.wants_squares_) note_norms();
      run_stages(cell.backward, sweep.cell_.backward, false);
    }
    finish_sequences();
  }

  // The blocks of an operand that are there, in chunks, for each product.
  void plan(const Pass& pass, bool staging) {
    parts.clear(), packed.clear();
    const T* from = sweep.packed_;
    for (int i = 0; i < pass.product_count; ++i) {
      const Product& p = pass.products[i];
      std::vector<Segment> blocks;
      for (int k = 0; k < p.depth; ++k) {
        if (p.state >= 0) {
          blocks.push_back({0, 0, H});
        } else if (p.operand[k] >= 0) {
          blocks.push_back({p.operand[k] * (staging ? padded : H), k * H, H});
        }
      }
      parts.push_back(chunks<V>(blocks));
      packed.push_back(from);
      from += panels<V>(H) * W * p.outputs * p.depth * H;
    }
  }

  void run_stages(const Pass& pass, const Statements<V>* statements, bool is_forward) {
    for (int stage = 0; stage < pass.stages; ++stage) run_stage(pass, stage, statements + 2 * stage, is_forward);
  }

  void run_stage(const Pass& pass, int stage, const Statements<V>* statements, bool is_forward) {
    const Index n = at.n;
    const int first_sum = pass.first_sum[stage], last_sum = pass.first_sum[stage + 1];
    if (first_sum < last_sum) std::fill_n(at.partial, n * cell.sums * V::size, T(0));
    for (Index j = 0; j < H; j += W) {
      const int columns = vectors_of<V>(H, j);
      int place = 0;
      for (int p = pass.first[stage]; p < pass.first[stage + 1]; ++p) {
        const Product& product = pass.products[p];
        multiply_panel(product, p, is_forward, n, j, columns, z + place * n * W);
        place += product.outputs;
      }
      for (int c = 0; c < columns; ++c) {
        const Index u = j + c * V::size;
        const bool whole = u + V::size <= H;
        statements[whole](at, u, whole ? V::size : static_cast<int>(H - u), z + c * V::size);
      }
    }
    for (Index q = 0; q < n; ++q)
      for (int r = first_sum; r < last_sum; ++r)
        at.scalars[q * cell.sums + r] = V::load(at.partial + (q * cell.sums + r) * V::size).sum();
  }

  void multiply_panel(const Product& product, int p, bool is_forward, Index n, Index j, int columns, T* out) {
    const T** rows_of = operands;
    if (product.state >= 0) {
      rows_of = at.old[product.state];
    } else {
      for (Index q = 0; q < n; ++q)
        operands[q] = is_forward ? at.staging + q * cell.staging * padded : sweep.grad_row(group, at.t, q);
    }
    const Index depth = product.depth * H;
    for (int g = 0; g < product.outputs; ++g) {
      const T* panel = packed[p] + (j / W * product.outputs + g) * depth * W;
      T* result = out + g * n * W;
      if (parts[p].empty()) std::fill_n(result, n * W, T(0));
      for (size_t part = 0; part < parts[p].size(); ++part) {
        const Segment& run = parts[p][part];
        for_tiles<V>(n, [&](Index q, int m) {
          const T* rows[Tile<V>::rows];
          for (int r = 0; r < m; ++r) rows[r] = rows_of[q + r] + run.a;
          tile_for<V>(m, columns)(rows, panel + run.b * W, run.length, result + q * W, W,
                                  part ? Start::sum : Start::zero, nullptr);
        });
      }
    }
  }

  // Whether what the caller gives of ∂L/∂state_t is still to be added to the carry.
  bool is_given(int s) const { return sweep.call_.d_states[s] && !sweep.clips(); }

  T norm_of(int s, Index b) const {
    const T* carry = at.carry_row(s, b);
    const T* given = is_given(s) ? at.d_state_row(s, b) : sweep.zeros_;
    T squares[Squares<V>::sums] = {};
    for (Index u = 0; u < H; ++u) Squares<V>::add(carry[u] + given[u], squares);
    return Parent::norm_of_numbers(squares);
  }

  void note_norms() {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < at.n && sweep.call_.norms[s]; ++q) {
        const Index b = group.sequence[q];
        Parent::as(sweep.call_.norms[s])[at.t * sweep.B_ + b] = norm_of(s, b);
      }
  }

  // Gathers ∂L/∂state_t in the carry, and scales it down where its norm is above the bound.
  void clip() {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const Index b = group.sequence[q];
        T* carry = at.carry_row(s, b);
        const T* given = sweep.call_.d_states[s] ? at.d_state_row(s, b) : sweep.zeros_;
        for (Index u = 0; u < H; ++u) carry[u] += given[u];
        sweep.clip_row(carry, 0, H, norm_of(s, b));
      }
  }

  // The gradient of each sequence's initial state.
  void finish_sequences() {
    for (Index q = 0; q < most; ++q) {
      const Index b = group.sequence[q], length = group.length[q];
      if (!length) continue;
      const bool nothing = sweep.cut_at_start(sweep.call_.reverse ? length - 1 : 0, b);
      for (int s = 0; s < S; ++s) {
        if (!sweep.call_.d_initial[s]) continue;
        T* out = Parent::as(sweep.call_.d_initial[s]) + b * H;
        if (nothing) {
          std::fill_n(out, H, T(0));
        } else {
          std::memcpy(out, at.carry_row(s, b), H * sizeof(T));
        }
      }
    }
  }

  // --- Once all gradients are there ----------------------------------------------------------------

  static void weight_gradients(const Parent& sweep, const Thread& me, T* scratch) {
    const Numbers& cell = sweep.cell_.numbers;
    const Index H = sweep.H_, rows = sweep.rows_, slots = sweep.slots;
    T* const all = Parent::as(sweep.call_.d_weight);
    const auto some = me.part(cell.weight_blocks * H * H);
    std::fill(all + some.first, all + some.last, T(0));
    me.barrier->wait();
    const auto mine = me.part(H, Tile<V>::rows);
    for (int i = 0; i < cell.weight_gradient_count; ++i) {
      const WeightGradient& w = cell.weight_gradients[i];
      if (w.state >= 0) {
        const auto steps = me.part(sweep.T_);
        sweep.for_rows(steps.first, steps.last, [&](Index row, Index t, Index b, Index length) {
          sweep.previous_rows_[row] = sweep.previous(w.state, t, b, length);
        });
        me.barrier->wait();
      }
      T* const here = all + w.first * H * H;
      const Index stride = w.columns * H;
      for (int k = 0; k < w.operands; ++k) {
        Rows<const T> operand{nullptr, 0, sweep.previous_rows_};
        if (w.state < 0) operand = {Parent::as(sweep.call_.kept) + (cell.projected + w.operand[k]) * H, slots * H};
        if (w.gradients_are_rows) {
          for (const Segment& run : Parent::runs(w.gradient.data(), w.gradients, H)) {
            const auto part = me.part(run.length, Tile<V>::rows);
            multiply_outer<V>({sweep.grads_ + run.a, cell.grads * H}, part.first, part.last, operand, H, rows,
                              here + run.b * stride + k * H, stride, scratch, true);
          }
        } else {
          for (int g = 0; g < w.gradients; ++g)
            if (w.gradient[g] >= 0)
              multiply_outer<V>(operand, mine.first, mine.last, {sweep.grads_ + w.gradient[g] * H, cell.grads * H}, H,
                                rows, here + k * H * stride + g * H, stride, scratch, true);
        }
      }
      if (w.state >= 0) me.barrier->wait();  // before the table is written anew
    }
  }

  const Parent& sweep;
  const Numbers& cell;
  const Thread& me;
  const Group& group;
  const int S;
  const Index H, padded;
  Step<V> at;
  Index most;
  T* z;
  const T** operands;
  std::vector<std::vector<Segment>> parts;
  std::vector<const T*> packed;
};

}  // namespace
