// The sweep over time, backward, of any compiled cell.
#pragma once
#include "../outer_product.h"
#include "grad_norms.h"
#include "plan.h"
#include "stages.h"

namespace {

template <class V>
class Backward {
  using T = typename V::Scalar;
  static constexpr Index W = Tile<V>::width;
  friend struct Stages<V>;

 public:
  static void run(const void* cell, const unrolled_call* call) { Backward(cell, call, call->work).run_all(); }
  static int64_t work_bytes(const void* cell, const unrolled_call* call) {
    return Backward(cell, call, nullptr).plan.bytes();
  }

 private:
  Backward(const void* cell, const unrolled_call* call, void* work)
      : plan(*as<Compiled<V>>(cell), call, true, work), norms(plan), numbers(plan.numbers), H(plan.H) {
    Arena& arena = plan.arena;
    const Index P = plan.P, G = numbers.staged ? 0 : plan.G, Q = plan.Q;
    grads = arena.take<T>(plan.rows * Q * H);
    previous_rows = arena.take<const T*>(plan.rows);
    plan.packed = arena.take<T>(Plan<V>::recurrent_size(numbers, H, true));
    packed_in = arena.take<T>(panels<V>(plan.inputs) * W * P * H);
    sums = arena.take<T>(plan.threads * Q * plan.padded);
    carry = arena.take<T>(plan.S * plan.batch * plan.padded);
    if (call->d_x && call->lengths && !call->offsets) d_x_rows = arena.take<T*>(plan.rows);
    Segment* const of_product = arena.take<Segment>(G);
    Segment* const of_projected = arena.take<Segment>(P);
    Segment* const product_chunks = arena.take<Segment>(G * chunks_of<V>(H));
    Segment* const projected_chunks = arena.take<Segment>(P * chunks_of<V>(H));
    if (numbers.staged) operands = Stages<V>::shared(plan, numbers.backward, false);
    const Index in_loop = numbers.staged ? Stages<V>::scratch_size(plan) : plan.loop_size();
    plan.take_scratch((std::max(in_loop, outer_scratch<V>(std::max(plan.inputs, H))) + 15) / 16 * 16);
    if (!work) return;
    product_runs = runs(numbers.d_product, static_cast<int>(G), H, of_product);
    projected_runs = runs(numbers.d_projected, plan.P, H, of_projected);
    product_parts = chunks<V>(product_runs, product_chunks);
    projected_parts = chunks<V>(projected_runs, projected_chunks);
    plan.prepare();
  }

  void run_all() {
    const unrolled_call& call = plan.call;
    unrolled::parallel(plan.threads, [&](const Thread& me) {
      pack_weights(me);
      if (call.d_weight_in) plan.find_x_rows(me);
      if (call.d_weight && !numbers.staged) find_previous_rows(me, 0);
      clear_ended(me);
      std::fill_n(sums + me.id * plan.Q * plan.padded, plan.Q * plan.padded, T(0));
      norms.clear(me);
      me.barrier->wait();
      plan.sweep(me, [&](const Group& group, Index first, Index last) {
        if (numbers.staged) {
          Stages<V>(plan, me, group, operands, steps_of(me, group)).backward(*this);
        } else {
          loop(me, group, first, last);
        }
      });
      me.barrier->wait();
      weight_in_gradient(me);
      weight_gradient(me);
      x_gradient(me);
      if (me.id) return;
      add_sums(me);
      norms.finish(me);
    });
  }

  // --- Before the loop -----------------------------------------------------------------------------

  void pack_weights(const Thread& me) const {
    const unrolled_call& call = plan.call;
    const Index G = plan.G, D = plan.inputs;
    if (numbers.staged) {
      Stages<V>::pack_all(plan, me, numbers.backward);
    } else if (G > 0) {
      const auto mine = me.part(panels<V>(H));
      pack<V>(as<T>(call.weight), numbers.transposed ? H : 1, numbers.transposed ? 1 : G * H, G * H, H, mine.first,
              mine.last, plan.packed);
    }
    if (call.d_x && call.weight_in) {
      const auto mine = me.part(panels<V>(D));
      pack<V>(as<T>(call.weight_in), D, 1, plan.P * H, D, mine.first, mine.last, packed_in);
    }
  }

  void find_previous_rows(const Thread& me, int s) const {
    const auto mine = me.part(plan.steps);
    plan.for_rows(mine.first, mine.last, [&](Index row, Index t, Index b, Index length) {
      previous_rows[row] = plan.previous(s, t, b, length);
    });
  }

  // Steps beyond a sequence's length: their gradients are zero, and no row will write them.
  void clear_ended(const Thread& me) const {
    const unrolled_call& call = plan.call;
    const auto mine = me.part(plan.batch);
    for (Index b = mine.first; b < mine.last; ++b) {
      const Index length = plan.length_of(b);
      for (Index t = length; t < plan.steps; ++t) {
        if (call.d_x && !call.offsets) std::fill_n(as<T>(call.d_x) + plan.at(t, b) * plan.inputs, plan.inputs, T(0));
        for (int s = 0; s < plan.S; ++s)
          if (call.norms[s]) as<T>(call.norms[s])[t * plan.batch + b] = 0;
      }
      for (int s = 0; s < plan.S; ++s)
        if (call.d_initial[s] && !length) {
          T* out = as<T>(call.d_initial[s]) + b * H;
          if (call.d_finals[s]) {
            std::memcpy(out, as<T>(call.d_finals[s]) + b * H, H * sizeof(T));
          } else {
            std::fill_n(out, H, T(0));
          }
        }
    }
  }

  // --- The loop over time --------------------------------------------------------------------------

  Step<V> steps_of(const Thread& me, const Group& group) const {
    Step<V> at = plan.steps_of(group);
    at.clips = plan.clips(), at.wants_squares = norms.wanted;
    at.sums = sums + me.id * plan.Q * plan.padded, at.grads = grads, at.carry = carry;
    return at;
  }

  T* grad_row(const Group& group, Index t, Index q) const {
    return grads + plan.row(t, group.sequence[q]) * plan.Q * H;
  }

  // Σ_g d_product_g W_g for one panel of units and n sequences, whose gradients stand at a[q], into z.
  void product_back(const T* const* a, Index n, Index j, T* z) const {
    multiply_panel<V>(a, n, product_parts, plan.packed + j * plan.G * H, vectors_of<V>(H, j), z);
  }

  // The same for one or two sequences and all panels of a thread, one after the other in z.
  void product_back_narrow(const T* const* a, Index n, Index first, Index last, T* z) const {
    const Index depth = plan.G * H, panel = first / W, count = panels<V>(last) - panel;
    for (const Segment& part : product_parts) {
      const T* rows[narrow_rows];
      for (Index q = 0; q < n; ++q) rows[q] = a[q] + part.a;
      multiply_narrow<V>(rows, n, plan.packed + (panel * depth + part.b) * W, depth * W, count, part.length, z, n * W,
                         &part != product_parts.begin());
    }
    if (product_parts.empty()) std::fill_n(z, count * n * W, T(0));
  }

  void loop(const Thread& me, const Group& group, Index first, Index last) const {
    T* const z = plan.scratch_of(me);
    Step<V> at = steps_of(me, group);
    plan.find_addresses(me, group.size, at);
    const T** later = plan.addresses(me, group.size, 2 * plan.S);  // gradients of each sequence's next step, or zeros
    at.squares = plan.squares_of(me, group.size);
    Index n = 0;
    for (Index i = plan.steps; i-- > 0;) {
      const Index t = plan.step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) {
        const Index b = group.sequence[q], length = group.length[q];
        plan.find_rows(at, q, length);
        const bool last_step = plan.ends(t, length) || plan.cut(plan.after(t), b);
        later[q] = last_step ? plan.zeros : grad_row(group, plan.after(t), q);
        if (last_step)
          for (int s = 0; s < plan.S; ++s) begin_carry(s, b, plan.ends(t, length), first, last);
      }
      if (norms.wanted) std::fill_n(at.squares, plan.S * n * Squares<V>::of_a_row, T(0));
      const bool narrow = n <= narrow_rows;
      if (narrow && n) product_back_narrow(later, n, first, last, z);
      const auto products = [&](Index j) { return z + (narrow ? (j - first) * n : 0); };
      if (plan.clips()) {
        for (Index j = first; j < last; j += W) {
          if (!narrow) product_back(later, n, j, z);
          norms.gather(at, j, vectors_of<V>(H, j), products(j));
        }
        norms.clip(me, at, first, last);
      }
      for (Index j = first; j < last; j += W) {
        if (!narrow && !plan.clips()) product_back(later, n, j, z);
        run_statements<V>(plan.cell.backward, at, j, vectors_of<V>(H, j), products(j));
      }
      if (norms.wanted && !plan.clips()) norms.note(me, at);
      if (plan.by_units) me.barrier->wait();
    }
    finish_sequences(group, first, last, later, z);
  }

  // The gradient that reaches a sequence's last step from beyond it: that of its final state, or nothing.
  void begin_carry(int s, Index b, bool final_step, Index first, Index last) const {
    T* row = carry + (s * plan.batch + b) * plan.padded;
    if (final_step && plan.call.d_finals[s]) {
      std::memcpy(row + first, as<T>(plan.call.d_finals[s]) + b * H + first, (last - first) * sizeof(T));
    } else {
      std::fill(row + first, row + last, T(0));
    }
  }

  // The gradient that leaves each sequence's first step: that of its initial state.
  void finish_sequences(const Group& group, Index first, Index last, const T** later, T* z) const {
    const unrolled_call& call = plan.call;
    bool wanted = false;
    for (int s = 0; s < plan.S; ++s) wanted = wanted || call.d_initial[s];
    if (!wanted) return;
    Index n = 0;
    while (n < group.size && group.length[n] > 0) {
      const Index t = call.reverse ? group.length[n] - 1 : 0;
      later[n] = plan.cut_at_start(t, group.sequence[n]) ? plan.zeros : grad_row(group, t, n);
      ++n;
    }
    for (Index j = first; j < last; j += W) {
      if (call.d_initial[0]) product_back(later, n, j, z);
      const Index some = std::min(W, H - j);
      for (int s = 0; s < plan.S; ++s) {
        if (!call.d_initial[s]) continue;
        for (Index q = 0; q < n; ++q) {
          const T* row = carry + (s * plan.batch + group.sequence[q]) * plan.padded + j;
          T* out = as<T>(call.d_initial[s]) + group.sequence[q] * H + j;
          const bool nothing = later[q] == plan.zeros;
          for (Index i = 0; i < some; ++i) out[i] = nothing ? T(0) : row[i] + (s == 0 ? z[q * W + i] : T(0));
        }
      }
    }
  }

  // --- The products over all rows, and the sums over rows ------------------------------------------

  // The rows of a weight's gradient that belong to blocks which the step does not read.
  void clear_unread(const Thread& me, const int* blocks, int count, Index width, void* out) const {
    for (int i = 0; i < count && !me.id; ++i)
      if (blocks[i] < 0) std::fill_n(as<T>(out) + i * H * width, H * width, T(0));
  }

  // The gradient of a weight that multiplies `rows` of n numbers.
  void outer(const Thread& me, Segments all, const T* const* rows, Index n, void* out) const {
    for (const Segment& run : all) {
      const auto part = me.part(run.length, Tile<V>::rows);
      multiply_outer<V>({grads + run.a, plan.Q * H}, part.first, part.last, {nullptr, 0, rows}, n, plan.rows,
                        as<T>(out) + run.b * n, n, plan.scratch_of(me));
    }
  }

  void weight_in_gradient(const Thread& me) const {
    if (!plan.call.d_weight_in) return;
    clear_unread(me, numbers.d_projected, plan.P, plan.inputs, plan.call.d_weight_in);
    outer(me, projected_runs, plan.x_rows, plan.inputs, plan.call.d_weight_in);
  }

  void weight_gradient(const Thread& me) const {
    const Index G = plan.G;
    T* const out = as<T>(plan.call.d_weight);
    if (!out) return;
    if (numbers.staged) return Stages<V>::weight_gradients(*this, me);
    if (numbers.transposed) {
      clear_unread(me, numbers.d_product, plan.G, H, out);
      return outer(me, product_runs, previous_rows, H, out);
    }
    for (Index g = 0; g < G && !me.id; ++g)
      for (Index u = 0; u < H && numbers.d_product[g] < 0; ++u) std::fill_n(out + u * G * H + g * H, H, T(0));
    for (const Segment& run : product_runs) {
      const auto part = me.part(H, Tile<V>::rows);
      for (Index block = 0; block < run.length; block += H)
        multiply_outer<V>({nullptr, 0, previous_rows}, part.first, part.last, {grads + run.a + block, plan.Q * H}, H,
                          plan.rows, out + run.b + block, G * H, plan.scratch_of(me));
    }
  }

  void x_gradient(const Thread& me) const {
    const unrolled_call& call = plan.call;
    const Index D = plan.inputs;
    if (!call.d_x) return;
    const Rows<const T> gradients{grads, plan.Q * H};
    Rows<T> out{as<T>(call.d_x), D};
    if (d_x_rows) {
      const auto mine = me.part(plan.steps);
      plan.for_rows(mine.first, mine.last,
                    [&](Index row, Index t, Index b, Index) { d_x_rows[row] = as<T>(call.d_x) + plan.at(t, b) * D; });
      me.barrier->wait();
      out.table = d_x_rows;
    }
    const auto mine = me.part(plan.rows, Tile<V>::rows);
    if (call.weight_in && projected_runs.empty()) {
      for (Index r = mine.first; r < mine.last; ++r) std::fill_n(out[r], D, T(0));
    } else if (call.weight_in) {
      multiply_rows<V>(gradients, mine.first, mine.last, projected_parts, packed_in, plan.P * H, D, nullptr, out);
    } else {
      for (Index r = mine.first; r < mine.last; ++r)
        give(out[r], numbers.d_projected, plan.P, gradients[r], H);
    }
  }

  // For each of `count` blocks of H, which of the gradients that stand `stride` apart it is, or zero.
  void give(void* out, const int* blocks, int count, const T* from, Index stride) const {
    for (int i = 0; i < count && out; ++i) {
      T* to = as<T>(out) + i * H;
      if (blocks[i] < 0) {
        std::fill_n(to, H, T(0));
      } else {
        std::memcpy(to, from + blocks[i] * stride, H * sizeof(T));
      }
    }
  }

  void add_sums(const Thread& me) const {
    for (int m = 1; m < me.count; ++m)
      for (Index i = 0; i < plan.Q * plan.padded; ++i) sums[i] += sums[m * plan.Q * plan.padded + i];
    give(plan.call.d_bias, numbers.d_projected, plan.P, sums, plan.padded);
    give(plan.call.d_vectors, numbers.d_vector, plan.U, sums, plan.padded);
  }

  Plan<V> plan;
  const GradNorms<V> norms;
  const Numbers& numbers;
  const Index H;
  T *grads, *packed_in, *sums, *carry;
  const T** previous_rows;
  T** d_x_rows = nullptr;
  // Blocks of the gradients that meet rows of the weights: as they are, and in chunks.
  Segments product_runs, projected_runs, product_parts, projected_parts;
  const typename Stages<V>::Operand* operands = nullptr;
};

}  // namespace
