// The loop over time of a step with several products, or with sums over units.
//
// Such a step is a list of *stages*. A stage begins with its products and goes on, panel by panel of
// units, with the cell's pointwise statements; what a later stage needs is *staged*, in a small memory of
// the sequence, and what the backward pass needs stands in its row of `kept`. A product needs all units of
// what it multiplies, and a sum is known when all units have been added: these two divide the stages.
#pragma once
#include "../outer_product.h"
#include "grad_norms.h"
#include "plan.h"

namespace {

template <class V>
class Backward;

template <class V>
struct Stages {
  using T = typename V::Scalar;
  static constexpr Index W = Tile<V>::width;

  // What a product multiplies: the blocks that are there, in chunks, and the packed weight.
  struct Operand {
    Segments parts;
    const T* packed;
  };

  // --- The packed weights --------------------------------------------------------------------------

  static Index packed_size(const Pass& pass, Index units) {
    Index size = 0;
    for (int k = 0; k < pass.product_count; ++k) {
      const Product& p = pass.products[k];
      size += panels<V>(units) * W * p.outputs * p.depth * units;
    }
    return size;
  }
  static void pack_all(const Plan<V>& plan, const Thread& me, const Pass& pass) {
    const Index H = plan.H, count = panels<V>(H);
    T* out = plan.packed;
    for (int k = 0; k < pass.product_count; ++k) {
      const Product& p = pass.products[k];
      const T* w = as<T>(plan.call.weight) + p.first * H * H;
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
  // --- Memory --------------------------------------------------------------------------------------

  // The operands of all products, which the threads share: from the arena, if it has memory.
  static const Operand* shared(Plan<V>& plan, const Pass& pass, bool is_forward) {
    const Index H = plan.H, from = is_forward ? plan.padded : H;  // numbers between two blocks
    Operand* const all = plan.arena.template take<Operand>(pass.product_count);
    const T* packed = plan.packed;
    for (int i = 0; i < pass.product_count; ++i) {
      const Product& p = pass.products[i];
      Segment* out = plan.arena.template take<Segment>(p.depth * chunks_of<V>(H));
      if (!plan.arena) continue;
      all[i] = {{out, 0}, packed};
      packed += panels<V>(H) * W * p.outputs * p.depth * H;
      for (int k = 0; k < p.depth; ++k) {
        if (p.state < 0 && p.operand[k] < 0) continue;
        const Segment block{p.state < 0 ? p.operand[k] * from : 0, k * H, H};
        all[i].parts.count += chunks<V>({&block, 1}, out + all[i].parts.count).count;
      }
    }
    return all;
  }

  static Index products_size(const Numbers& cell, Index n) { return std::max(cell.widest_product, 1) * n * W; }
  static Index staging_size(const Numbers& cell, Index n, Index padded) { return n * cell.staging * padded; }
  // Of one thread.
  static Index scratch_size(const Plan<V>& plan) {
    const Numbers& cell = plan.numbers;
    const Index n = plan.largest_group, sums = n * cell.sums * (V::size + 1) + n * cell.states;
    const Index addresses = n * (2 * cell.states + 1) * static_cast<Index>(sizeof(void*) / sizeof(T));
    return (products_size(cell, n) + staging_size(cell, n, plan.padded) + sums + addresses + 64 + 15) / 16 * 16;
  }

  Stages(const Plan<V>& p, const Thread& thread, const Group& sequences, const Operand* all, const Step<V>& step)
      : plan(p), cell(p.numbers), me(thread), group(sequences), operands(all), S(cell.states), most(sequences.size),
        H(p.H), padded(p.padded), at(step), z(p.scratch_of(thread)) {
    at.staging = z + products_size(cell, most);
    at.partial = at.staging + staging_size(cell, most, padded);
    at.scalars = at.partial + most * cell.sums * V::size;
    auto* end = at.scalars + most * cell.sums;
    auto** tables = reinterpret_cast<const T**>((reinterpret_cast<uintptr_t>(end) + 7) / 8 * 8);
    for (int s = 0; s < S; ++s) {
      at.old[s] = tables + 2 * s * most;
      at.now[s] = const_cast<T**>(tables + (2 * s + 1) * most);
    }
    rows_of_operands = tables + 2 * S * most;
  }

  // --- Forward -------------------------------------------------------------------------------------

  void forward() {
    Index n = most;
    for (Index i = 0; i < plan.steps; ++i) {
      const Index t = plan.step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) plan.find_rows(at, q, group.length[q]);
      run_stages(cell.forward, plan.cell.forward, true);
    }
  }

  void backward(const Backward<V>& back) {
    Index n = 0;
    for (Index i = plan.steps; i-- > 0;) {
      const Index t = plan.step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) {
        const Index b = group.sequence[q], length = group.length[q];
        plan.find_rows(at, q, length);
        const bool last = plan.ends(t, length);
        if (last || plan.cut(plan.after(t), b))
          for (int s = 0; s < S; ++s) back.begin_carry(s, b, last, 0, H);
      }
      if (plan.clips()) clip(back.norms);
      if (back.norms.wanted) note_norms();
      run_stages(cell.backward, plan.cell.backward, false);
    }
    finish_sequences();
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
        multiply(product, operands[p], is_forward, n, j, columns, z + place * n * W);
        place += product.outputs;
      }
      run_statements<V>(statements, at, j, columns, z);
    }
    for (Index q = 0; q < n; ++q)
      for (int r = first_sum; r < last_sum; ++r)
        at.scalars[q * cell.sums + r] = V::load(at.partial + (q * cell.sums + r) * V::size).sum();
  }

  void multiply(const Product& product, const Operand& operand, bool is_forward, Index n, Index j, int columns,
                T* out) {
    const T** rows = rows_of_operands;
    if (product.state >= 0) {
      rows = at.old[product.state];
    } else {
      for (Index q = 0; q < n; ++q)
        rows[q] = is_forward ? at.staging + q * cell.staging * padded
                             : at.grads + at.row(at.t, at.sequence[q]) * cell.grads * H;
    }
    const Index size = product.depth * H * W;
    for (int g = 0; g < product.outputs; ++g)
      multiply_panel<V>(rows, n, operand.parts, operand.packed + (j / W * product.outputs + g) * size, columns,
                        out + g * n * W);
  }

  // Whether what the caller gives of ∂L/∂state_t is still to be added to the carry.
  bool is_given(int s) const { return plan.call.d_states[s] && !plan.clips(); }

  T norm_of(int s, Index b) const {
    const T* carry = at.carry_row(s, b);
    const T* given = is_given(s) ? at.d_state_row(s, b) : plan.zeros;
    T squares[Squares<V>::sums] = {};
    for (Index u = 0; u < H; ++u) Squares<V>::add(carry[u] + given[u], squares);
    return GradNorms<V>::norm_of_numbers(squares);
  }

  void note_norms() {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < at.n && plan.call.norms[s]; ++q) {
        const Index b = group.sequence[q];
        as<T>(plan.call.norms[s])[at.t * plan.batch + b] = norm_of(s, b);
      }
  }

  // Gathers ∂L/∂state_t in the carry, and scales it down where its norm is above the bound.
  void clip(const GradNorms<V>& norms) {
    for (int s = 0; s < S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const Index b = group.sequence[q];
        T* carry = at.carry_row(s, b);
        const T* given = plan.call.d_states[s] ? at.d_state_row(s, b) : plan.zeros;
        for (Index u = 0; u < H; ++u) carry[u] += given[u];
        norms.clip_row(carry, 0, H, norm_of(s, b));
      }
  }

  // The gradient of each sequence's initial state.
  void finish_sequences() {
    for (Index q = 0; q < most; ++q) {
      const Index b = group.sequence[q], length = group.length[q];
      if (!length) continue;
      const bool nothing = plan.cut_at_start(plan.call.reverse ? length - 1 : 0, b);
      for (int s = 0; s < S; ++s) {
        if (!plan.call.d_initial[s]) continue;
        T* out = as<T>(plan.call.d_initial[s]) + b * H;
        if (nothing) {
          std::fill_n(out, H, T(0));
        } else {
          std::memcpy(out, at.carry_row(s, b), H * sizeof(T));
        }
      }
    }
  }

  // --- Once all gradients are there ----------------------------------------------------------------

  static void weight_gradients(const Backward<V>& back, const Thread& me) {
    const Plan<V>& plan = back.plan;
    const Numbers& cell = plan.numbers;
    const Index H = plan.H, rows = plan.rows, slots = plan.slots;
    T* const all = as<T>(plan.call.d_weight);
    T* const scratch = plan.scratch_of(me);
    const auto some = me.part(cell.weight_blocks * H * H);
    std::fill(all + some.first, all + some.last, T(0));
    me.barrier->wait();
    const auto mine = me.part(H, Tile<V>::rows);
    for (int i = 0; i < cell.weight_gradient_count; ++i) {
      const WeightGradient& w = cell.weight_gradients[i];
      if (w.state >= 0) {
        back.find_previous_rows(me, w.state);
        me.barrier->wait();
      }
      T* const here = all + w.first * H * H;
      const Index stride = w.columns * H;
      for (int k = 0; k < w.operands; ++k) {
        Rows<const T> operand{nullptr, 0, back.previous_rows};
        if (w.state < 0) operand = {as<T>(plan.call.kept) + (cell.projected + w.operand[k]) * H, slots * H};
        if (w.gradients_are_rows) {
          Segment memory[std::tuple_size<decltype(w.gradient)>::value];
          for (const Segment& run : runs(w.gradient.data(), w.gradients, H, memory)) {
            const auto part = me.part(run.length, Tile<V>::rows);
            multiply_outer<V>({back.grads + run.a, cell.grads * H}, part.first, part.last, operand, H, rows,
                              here + run.b * stride + k * H, stride, scratch, true);
          }
        } else {
          for (int g = 0; g < w.gradients; ++g)
            if (w.gradient[g] >= 0)
              multiply_outer<V>(operand, mine.first, mine.last, {back.grads + w.gradient[g] * H, cell.grads * H}, H,
                                rows, here + k * H * stride + g * H, stride, scratch, true);
        }
      }
      if (w.state >= 0) me.barrier->wait();  // before the table is written anew
    }
  }

  const Plan<V>& plan;
  const Numbers& cell;
  const Thread& me;
  const Group& group;
  const Operand* const operands;
  const int S;
  const Index most, H, padded;
  Step<V> at;
  T* const z;
  const T** rows_of_operands;
};

}  // namespace
