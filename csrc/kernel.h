// One compiled cell as the C interface shows it.
#pragma once
#include "sweep.h"

namespace {

template <class V, class Cell>
struct Kernel {
  static constexpr unrolled_cell cell = {Cell::name,       Cell::projection, Cell::weight,
                                         Cell::vector_names, Cell::transposed, Cell::staged,
                                         Cell::noise,      Cell::projected,  Cell::products,
                                         Cell::vectors,    Cell::states,     Cell::kept,
                                         Cell::grads};
  static constexpr unrolled_kernel kernel = {&cell, Sweep<V, Cell>::forward, Sweep<V, Cell>::backward,
                                             Sweep<V, Cell>::packed_bytes, Sweep<V, Cell>::work_bytes};
};

}  // namespace
