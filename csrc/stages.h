// The loop over time of a step with several products, or with sums over units.
//
// Such a step is a list of *stages*. A stage begins with its products and goes on, panel by panel of
// units, with the cell's pointwise statements; what a later stage needs stands on the lane's *desk*, and
// what the backward pass needs, in the lane's row of `kept`. A product needs all units of what it
// multiplies, and a sum is known when all units have been added: these two divide the stages.
#pragma once
#include <array>

#include "product.h"
#include "unrolled.h"

namespace {

// out = v Wᵀ (transposed) or v W, in blocks of H: one product of a stage.
struct Product {
  int first;        // where W begins among the weights, in blocks of H × H
  int columns;      // of W, in blocks
  bool transposed;
  int outputs, depth;            // blocks of the result, and of v
  int state;                     // v is this state before the step, or -1:
  std::array<int, 16> operand;   // the blocks of v, forward on the desk, backward among the gradients; -1: zero
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

template <class V, class Cell>
class Sweep;

// One vector of units of one lane at one step, as the cell's statements see it.
template <class V, class Cell, bool whole>
struct Place {
  using T = typename V::Scalar;
  static constexpr int P = Cell::projected, S = Cell::states;
  Index H, padded, z_step;
  int some;  // how many units there are
  const T *slot, *given, *all_vectors, *z, *scalars;
  T *on_desk, *partial, *kept_out, *all_grads, *totals;
  const T *old[S], *now[S];
  T *out[S];
  V d[S];

  UNROLLED_INLINE V read(const T* p) const { return whole ? V::load(p) : V::load(p, some); }
  UNROLLED_INLINE void write(V v, T* p) const { whole ? v.store(p) : v.store(p, some); }

  UNROLLED_INLINE V projected(int i) const { return read(slot + i * H); }
  UNROLLED_INLINE V noise(int i) const { return read(given + i * H); }
  UNROLLED_INLINE V product(int i) const { return V::load(z + i * z_step); }
  UNROLLED_INLINE V vector(int i) const { return V::load(all_vectors + i * padded); }
  UNROLLED_INLINE V state(int s) const { return read(old[s]); }
  UNROLLED_INLINE V next(int s) const { return read(now[s]); }
  UNROLLED_INLINE V kept(int i) const { return read(slot + (P + i) * H); }
  UNROLLED_INLINE V d_next(int s) const { return d[s]; }
  UNROLLED_INLINE V desk(int i) const { return V::load(on_desk + i * padded); }
  UNROLLED_INLINE V sum(int i) const { return V(static_cast<double>(scalars[i])); }

  UNROLLED_INLINE void set_next(int s, V v) const { write(v, out[s]); }
  UNROLLED_INLINE void set_d_state(int s, V v) const { write(v, out[s]); }
  UNROLLED_INLINE void set_desk(int i, V v) const { v.store(on_desk + i * padded); }
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
struct Stages {
  using T = typename V::Scalar;
  using Parent = Sweep<V, Cell>;
  static constexpr Index W = Tile<V>::width;
  static constexpr int S = Cell::states, P = Cell::projected, Q = Cell::grads;

  // --- The packed weights --------------------------------------------------------------------------

  template <class List>
  static Index packed_size(const List& products, Index units) {
    Index size = 0;
    for (const Product& p : products) size += panels<V>(units) * W * p.outputs * p.depth * units;
    return size;
  }
  static Index packed_size(Index units, bool backward) {
    return backward ? packed_size(Cell::backward_products, units) : packed_size(Cell::forward_products, units);
  }
  template <class List>
  static void pack_list(const Parent& sweep, const Member& me, const List& products) {
    const Index H = sweep.H_, count = panels<V>(H);
    T* out = sweep.packed_;
    for (const Product& p : products) {
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
  static void pack_all(const Parent& sweep, const Member& me, bool backward) {
    if (backward) {
      pack_list(sweep, me, Cell::backward_products);
    } else {
      pack_list(sweep, me, Cell::forward_products);
    }
  }

  // --- A member's memory ---------------------------------------------------------------------------

  static Index products_size(Index n) { return std::max(Cell::widest_product, 1) * n * W; }
  static Index desk_size(Index n, Index units) { return n * Cell::desk * panels<V>(units) * W; }
  static Index scratch(Index n, Index units) {
    const Index numbers = products_size(n) + desk_size(n, units) + n * Cell::sums * (V::size + 1) + n * S;
    const Index addresses = n * (2 * S + 1) * static_cast<Index>(sizeof(void*) / sizeof(T));
    return (numbers + addresses + 64 + 15) / 16 * 16;
  }

  Stages(const Parent& parent, const Member& member, const typename Parent::LaneGroup& lanes)
      : sweep(parent), me(member), group(lanes), H(parent.H_), padded(parent.padded_) {
    most = static_cast<Index>(group.lane.size());
    z = sweep.scratch_base_ + me.id * sweep.scratch_of_member();
    desk = z + products_size(most);
    partial = desk + desk_size(most, H);
    scalars = partial + most * Cell::sums * V::size;
    auto* end = scalars + most * Cell::sums;
    auto** tables = reinterpret_cast<const T**>((reinterpret_cast<uintptr_t>(end) + 7) / 8 * 8);
    for (int s = 0; s < S; ++s) old_rows[s] = tables + 2 * s * most, now_rows[s] = tables + (2 * s + 1) * most;
    operands = tables + 2 * S * most;
  }

  // --- Forward -------------------------------------------------------------------------------------

  void forward() {
    plan(Cell::forward_products, true);
    Index n = most;
    for (Index i = 0; i < sweep.T_; ++i) {
      t = sweep.step(i);
      n = group.live(t, n);
      for (Index q = 0; q < n; ++q) find_rows(q);
      run_stages<true, 0>(n);
    }
  }

  void backward() {
    plan(Cell::backward_products, false);
    Index n = 0;
    for (Index i = sweep.T_; i-- > 0;) {
      t = sweep.step(i);
      n = group.live(t, n);
      for (Index q = 0; q < n; ++q) {
        const Index b = group.lane[q], length = group.length[q];
        find_rows(q);
        const bool last = sweep.ends(t, length);
        if (last || sweep.cut(sweep.after(t), b))
          for (int s = 0; s < S; ++s) sweep.begin_carry(s, b, last, 0, H);
      }
      if (sweep.clips()) clip(n);
      if (sweep.wants_squares_) note_norms(n);
      run_stages<false, 0>(n);
    }
    finish_lanes();
  }

  // The blocks of an operand that are there, in chunks, for each product.
  template <class List>
  void plan(const List& products, bool on_desk) {
    parts.clear(), packed.clear();
    const T* from = sweep.packed_;
    for (const Product& p : products) {
      std::vector<Segment> blocks;
      for (int k = 0; k < p.depth; ++k) {
        if (p.state >= 0) {
          blocks.push_back({0, 0, H});
        } else if (p.operand[k] >= 0) {
          blocks.push_back({p.operand[k] * (on_desk ? padded : H), k * H, H});
        }
      }
      parts.push_back(chunks<V>(blocks));
      packed.push_back(from);
      from += panels<V>(H) * W * p.outputs * p.depth * H;
    }
  }

  void find_rows(Index q) {
    const Index b = group.lane[q];
    for (int s = 0; s < S; ++s) {
      old_rows[s][q] = sweep.previous(s, t, b, group.length[q]);
      now_rows[s][q] = sweep.state(s, t, b);
    }
  }

  template <bool is_forward, int stage>
  void run_stages(Index n) {
    constexpr int count = is_forward ? Cell::forward_stages : Cell::backward_stages;
    if constexpr (stage < count) {
      run_stage<is_forward, stage>(n);
      run_stages<is_forward, stage + 1>(n);
    }
  }

  template <bool is_forward, int stage>
  UNROLLED_NOINLINE void run_stage(Index n) {
    constexpr auto& first = firsts<is_forward>();
    constexpr auto& sum = sums<is_forward>();
    if constexpr (sum[stage] < sum[stage + 1]) std::fill_n(partial, n * Cell::sums * V::size, T(0));
    for (Index j = 0; j < H; j += W) {
      const int columns = vectors_of<V>(H, j);
      int place = 0;
      for (int p = first[stage]; p < first[stage + 1]; ++p) {
        const Product& product = list<is_forward>()[p];
        multiply_panel(product, p, is_forward, n, j, columns, z + place * n * W);
        place += product.outputs;
      }
      for (int c = 0; c < columns; ++c) {
        const Index u = j + c * V::size;
        if (u + V::size <= H) {
          pointwise<is_forward, stage, true>(n, u, z + c * V::size, V::size);
        } else {
          pointwise<is_forward, stage, false>(n, u, z + c * V::size, static_cast<int>(H - u));
        }
      }
    }
    for (Index q = 0; q < n; ++q)
      for (int r = sum[stage]; r < sum[stage + 1]; ++r)
        scalars[q * Cell::sums + r] = V::load(partial + (q * Cell::sums + r) * V::size).sum();
  }
  template <bool is_forward>
  static constexpr const auto& firsts() {
    if constexpr (is_forward) return Cell::forward_first;
    else return Cell::backward_first;
  }
  template <bool is_forward>
  static constexpr const auto& sums() {
    if constexpr (is_forward) return Cell::forward_sums;
    else return Cell::backward_sums;
  }
  template <bool is_forward>
  static constexpr const auto& list() {
    if constexpr (is_forward) return Cell::forward_products;
    else return Cell::backward_products;
  }

  void multiply_panel(const Product& product, int p, bool is_forward, Index n, Index j, int columns, T* out) {
    const T** rows_of = operands;
    if (product.state >= 0) {
      rows_of = old_rows[product.state];
    } else {
      for (Index q = 0; q < n; ++q)
        operands[q] = is_forward ? desk + q * Cell::desk * padded : sweep.grad_row(group, t, q);
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

  template <bool is_forward, int stage, bool whole>
  void pointwise(Index n, Index u, const T* products, int some) {
    Place<V, Cell, whole> at;
    at.H = H, at.padded = padded, at.z_step = n * W, at.some = some;
    at.all_vectors = sweep.vectors_ + u;
    at.totals = is_forward ? nullptr : sweep.sums_ + me.id * Q * padded + u;
    for (Index q = 0; q < n; ++q) {
      const Index b = group.lane[q];
      T* const slot = Parent::as(sweep.call_.kept) + sweep.row(t, b) * Parent::slots * H + u;
      at.slot = slot;
      at.kept_out = sweep.call_.keep ? slot + P * H : nullptr;
      at.given = Cell::noise ? sweep.noise_row(t, b) + u : nullptr;
      at.z = products + q * W;
      at.on_desk = desk + q * Cell::desk * padded + u;
      at.partial = partial + q * Cell::sums * V::size;
      at.scalars = scalars + q * Cell::sums;
      for (int s = 0; s < S; ++s) at.old[s] = old_rows[s][q] + u;
      if constexpr (is_forward) {
        for (int s = 0; s < S; ++s) at.out[s] = const_cast<T*>(now_rows[s][q]) + u;
        Cell::template forward<stage, V>(at);
      } else {
        at.all_grads = sweep.grad_row(group, t, q) + u;
        for (int s = 0; s < S; ++s) {
          at.now[s] = now_rows[s][q] + u;
          at.out[s] = sweep.carry_ + (s * sweep.B_ + b) * padded + u;
          if constexpr (stage == 0) {
            at.d[s] = at.read(at.out[s]);
            if (is_given(s)) at.d[s] = at.d[s] + at.read(d_state_row(s, b) + u);
          }
        }
        Cell::template backward<stage, V>(at);
      }
    }
  }
  const T* d_state_row(int s, Index b) const {
    const unrolled_call& call = sweep.call_;
    return Parent::as(call.d_states[s]) + sweep.at(t, b, call.d_step[s], call.d_lane[s]);
  }

  // Whether what the caller gives of ∂L/∂state_t is still to be added to the carry.
  bool is_given(int s) const { return sweep.call_.d_states[s] && !sweep.clips(); }

  T norm_of(int s, Index b) const {
    const T* carry = sweep.carry_ + (s * sweep.B_ + b) * padded;
    const T* given = is_given(s) ? d_state_row(s, b) : sweep.zeros_;
    T squares[Parent::sums_of_squares] = {};
    for (Index u = 0; u < H; ++u) Parent::add_squares(carry[u] + given[u], squares);
    return Parent::norm_of_numbers(squares);
  }

  void note_norms(Index n) {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < n && sweep.call_.norms[s]; ++q) {
        const Index b = group.lane[q];
        Parent::as(sweep.call_.norms[s])[t * sweep.B_ + b] = norm_of(s, b);
      }
  }

  // Gathers ∂L/∂state_t in the carry, and scales it down where its norm is above the bound.
  void clip(Index n) {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < n; ++q) {
        const Index b = group.lane[q];
        T* carry = sweep.carry_ + (s * sweep.B_ + b) * padded;
        const T* given = sweep.call_.d_states[s] ? d_state_row(s, b) : sweep.zeros_;
        for (Index u = 0; u < H; ++u) carry[u] += given[u];
        sweep.shorten(carry, 0, H, norm_of(s, b));
      }
  }

  // The gradient of each lane's initial state.
  void finish_lanes() {
    for (Index q = 0; q < most; ++q) {
      const Index b = group.lane[q], length = group.length[q];
      if (!length) continue;
      const bool nothing = sweep.cut_at_start(sweep.call_.reverse ? length - 1 : 0, b);
      for (int s = 0; s < S; ++s) {
        if (!sweep.call_.d_initial[s]) continue;
        T* out = Parent::as(sweep.call_.d_initial[s]) + b * H;
        if (nothing) {
          std::fill_n(out, H, T(0));
        } else {
          std::memcpy(out, sweep.carry_ + (s * sweep.B_ + b) * padded, H * sizeof(T));
        }
      }
    }
  }

  // --- Once all gradients are there ----------------------------------------------------------------

  static void weight_gradients(const Parent& sweep, const Member& me, T* scratch) {
    const Index H = sweep.H_, rows = sweep.rows_;
    T* const all = Parent::as(sweep.call_.d_weight);
    const auto some = me.part(Cell::weight_blocks * H * H);
    std::fill(all + some.first, all + some.last, T(0));
    me.barrier->wait();
    const auto mine = me.part(H, Tile<V>::rows);
    for (const WeightGradient& w : Cell::weight_gradients) {
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
        if (w.state < 0) operand = {Parent::as(sweep.call_.kept) + (P + w.operand[k]) * H, Parent::slots * H};
        if (w.gradients_are_rows) {
          for (const Segment& run : Parent::runs(w.gradient.data(), w.gradients, H)) {
            const auto part = me.part(run.length, Tile<V>::rows);
            multiply_outer<V>({sweep.grads_ + run.a, Q * H}, part.first, part.last, operand, H, rows,
                              here + run.b * stride + k * H, stride, scratch, true);
          }
        } else {
          for (int i = 0; i < w.gradients; ++i)
            if (w.gradient[i] >= 0)
              multiply_outer<V>(operand, mine.first, mine.last, {sweep.grads_ + w.gradient[i] * H, Q * H}, H, rows,
                                here + k * H * stride + i * H, stride, scratch, true);
        }
      }
      if (w.state >= 0) me.barrier->wait();  // before the table is written anew
    }
  }

  const Parent& sweep;
  const Member& me;
  const typename Parent::LaneGroup& group;
  const Index H, padded;
  Index most, t = 0;
  T *z, *desk, *partial, *scalars;
  const T** old_rows[S];
  const T** now_rows[S];
  const T** operands;
  std::vector<std::vector<Segment>> parts;
  std::vector<const T*> packed;
};

}  // namespace
