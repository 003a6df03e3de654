// One compiled cell as the C interface shows it: its statements, run by the engine of its vectors.
#pragma once
#include "step.h"

namespace {

template <class V>
const unrolled_engine* engine();  // defined by whoever includes this

template <class V, class Cell>
struct Kernel {
  using Parts = std::conditional_t<Cell::staged, Staged<V, Cell>, Simple<V, Cell>>;
  static constexpr const Compiled<V>* compiled = &Parts::compiled;
  static void forward(const unrolled_call* call) { engine<V>()->forward(compiled, call); }
  static void backward(const unrolled_call* call) { engine<V>()->backward(compiled, call); }
  static int64_t packed_bytes(const unrolled_call* call) { return engine<V>()->packed_bytes(compiled, call); }
  static int64_t work_bytes(const unrolled_call* call, int64_t backward) {
    return engine<V>()->work_bytes(compiled, call, backward);
  }

  static constexpr unrolled_cell cell = {Cell::name,         Cell::projection, Cell::weight,
                                         Cell::vector_names, Cell::transposed, Cell::staged,
                                         Cell::noise,        Cell::projected,  Cell::products,
                                         Cell::vectors,      Cell::states,     Cell::kept,
                                         Cell::grads,        Parts::compiled.numbers.weight_blocks};
  static constexpr unrolled_kernel kernel = {&cell, forward, backward, packed_bytes, work_bytes};
};

}  // namespace
