// The sweep over time, forward, of any compiled cell.
#pragma once
#include "plan.h"
#include "stages.h"

namespace {

template <class V>
class Forward {
  using T = typename V::Scalar;
  static constexpr Index W = Tile<V>::width;

 public:
  static void run(const void* cell, const unrolled_call* call) { Forward(cell, call, call->work).run_all(); }
  static int64_t work_bytes(const void* cell, const unrolled_call* call) {
    return Forward(cell, call, nullptr).plan.bytes();
  }
  static int64_t packed_bytes(const void* cell, const unrolled_call* call) {
    const Numbers& numbers = as<Compiled<V>>(cell)->numbers;
    const Index recurrent = Plan<V>::recurrent_size(numbers, call->units, false);
    const Index inputs = call->weight_in ? packed_in_size(numbers, *call) : 0;
    return (inputs + recurrent) * static_cast<Index>(sizeof(T)) + 192;
  }

 private:
  static Index packed_in_size(const Numbers& numbers, const unrolled_call& call) {
    return panels<V>(numbers.projected * call.units) * W * call.inputs;
  }

  Forward(const void* cell, const unrolled_call* call, void* work)
      : plan(*as<Compiled<V>>(cell), call, false, work), H(plan.H), projected(plan.P * plan.H),
        bias(plan.arena.template take<T>(panels<V>(projected) * W)) {
    Segment* const of_inputs = plan.arena.template take<Segment>(chunks_of<V>(plan.inputs));
    Segment* const of_units = plan.arena.template take<Segment>(chunks_of<V>(H));
    if (work) {
      packed_in = as<T>(aligned(call->packed));
      plan.packed = packed_in + (call->weight_in ? (packed_in_size(plan.numbers, *call) + 15) / 16 * 16 : 0);
    }
    if (plan.numbers.staged) operands = Stages<V>::shared(plan, plan.numbers.forward, true);
    plan.take_scratch(plan.numbers.staged ? Stages<V>::scratch_size(plan) : plan.loop_size());
    if (!work) return;
    input_parts = chunks<V>(plan.inputs, of_inputs), unit_parts = chunks<V>(H, of_units);
    plan.prepare();
  }

  void run_all() {
    const unrolled_call& call = plan.call;
    std::fill_n(bias, panels<V>(projected) * W, T(0));
    for (const void* one : call.bias)
      if (one)
        for (Index j = 0; j < projected; ++j) bias[j] += as<T>(one)[j];
    unrolled::parallel(plan.threads, [&](const Thread& me) {
      if (!call.packed_ready) pack_weights(me);
      plan.find_x_rows(me);
      me.barrier->wait();
      project(me);
      me.barrier->wait();
      plan.sweep(me, [&](const Group& group, Index first, Index last) {
        if (plan.numbers.staged) {
          Stages<V>(plan, me, group, operands, plan.steps_of(group)).forward();
        } else {
          loop(me, group, first, last);
        }
      });
      finish(me);
    });
  }

  void pack_weights(const Thread& me) const {
    const unrolled_call& call = plan.call;
    const auto in = me.part(panels<V>(projected));
    if (call.weight_in)
      pack<V>(as<T>(call.weight_in), 1, plan.inputs, plan.inputs, projected, in.first, in.last, packed_in);
    if (plan.numbers.staged) {
      Stages<V>::pack_all(plan, me, plan.numbers.forward);
    } else if (plan.G > 0) {
      const auto mine = me.part(panels<V>(H) * plan.G);
      for (Index i = mine.first; i < mine.last; ++i) pack_recurrent(i / plan.G, i % plan.G);
    }
  }

  void pack_recurrent(Index panel, Index g) const {
    const Index G = plan.G, j = panel * W, n = std::min(W, H - j);
    T* out = plan.packed + (panel * G + g) * H * W;
    const T* w = as<T>(plan.call.weight);
    if (plan.numbers.transposed) {
      pack<V>(w + (g * H + j) * H, 1, H, H, n, 0, 1, out);
    } else {
      pack<V>(w + g * H + j, G * H, 1, H, n, 0, 1, out);
    }
  }

  // x weight_inᵀ + biases of all rows, or what is given as that.
  void project(const Thread& me) const {
    const unrolled_call& call = plan.call;
    const Index stride = plan.slots * H;
    T* const out = as<T>(call.kept);
    const auto mine = me.part(plan.rows, Tile<V>::rows);
    if (call.weight_in) {
      multiply_rows<V>({nullptr, 0, plan.x_rows}, mine.first, mine.last, input_parts, packed_in, plan.inputs,
                       projected, call.bias[0] || call.bias[1] ? bias : nullptr, {out, stride});
    } else {
      for (Index r = mine.first; r < mine.last; ++r)
        std::memcpy(out + r * stride, plan.x_rows[r], plan.inputs * sizeof(T));
    }
  }

  void loop(const Thread& me, const Group& group, Index first, Index last) const {
    const Index G = plan.G;
    const T* const packed = plan.packed;
    T* const z = plan.scratch_of(me);
    Step<V> at = plan.steps_of(group);
    plan.find_addresses(me, group.size, at);
    Index n = group.size;
    for (Index i = 0; i < plan.steps; ++i) {
      const Index t = plan.step(i);
      n = group.live(t, n);
      at.t = t, at.n = n;
      for (Index q = 0; q < n; ++q) plan.find_rows(at, q, group.length[q]);
      const bool narrow = n <= narrow_rows;
      if (G > 0 && narrow && n)
        multiply_narrow<V>(at.old[0], n, packed + first / W * G * H * W, H * W, G * (panels<V>(last) - first / W), H,
                           z, n * W, false);
      for (Index j = first; j < last; j += W) {
        const int columns = vectors_of<V>(H, j);
        if (!narrow)
          for (Index g = 0; g < G; ++g)
            multiply_panel<V>(at.old[0], n, unit_parts, packed + (j / W * G + g) * H * W, columns, z + g * n * W);
        run_statements<V>(plan.cell.forward, at, j, columns, z + (narrow ? (j - first) * G * n : 0));
      }
      if (plan.by_units) me.barrier->wait();
    }
  }

  // Zeros beyond each sequence's length, and the state after its last step.
  void finish(const Thread& me) const {
    const unrolled_call& call = plan.call;
    if (me.count > 1) me.barrier->wait();
    const auto mine = me.part(plan.batch);
    for (Index b = mine.first; b < mine.last; ++b) {
      const Index length = plan.length_of(b);
      for (int s = 0; s < plan.S; ++s) {
        if (!call.offsets && plan.has_all_steps(s))
          for (Index t = length; t < plan.steps; ++t) std::fill_n(plan.state(s, t, b), H, T(0));
        if (!call.finals[s]) continue;
        const T* last = length ? plan.state(s, call.reverse ? 0 : length - 1, b) : plan.initial(s, b);
        std::memcpy(as<T>(call.finals[s]) + b * H, last, H * sizeof(T));
      }
    }
  }

  Plan<V> plan;
  const Index H, projected;
  T* const bias;
  T* packed_in = nullptr;
  Segments input_parts, unit_parts;
  const typename Stages<V>::Operand* operands = nullptr;
};

}  // namespace
