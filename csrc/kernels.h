// Every built-in cell, for one instruction set: a file of isa/ defines UNROLLED_ISA and the vectors.
#pragma once
#include "generated/cells.h"
#include "sweep.h"

#define UNROLLED_JOIN_(a, b) a##b
#define UNROLLED_JOIN(a, b) UNROLLED_JOIN_(a, b)

namespace {

template <class V, class Cell>
struct Kernel {
  static constexpr unrolled_cell cell = {Cell::name,      Cell::projection, Cell::weight,   Cell::vector_names,
                                         Cell::transposed, Cell::projected, Cell::products, Cell::vectors,
                                         Cell::states,     Cell::kept,      Cell::grads};
  static constexpr unrolled_kernel kernel = {&cell, Sweep<V, Cell>::forward, Sweep<V, Cell>::backward,
                                             Sweep<V, Cell>::packed_bytes, Sweep<V, Cell>::work_bytes};
};

template <class V>
const unrolled_kernel* kernel_at(int64_t i) {
#define UNROLLED_KERNEL(Cell) &Kernel<V, Cell>::kernel,
  static constexpr const unrolled_kernel* all[] = {UNROLLED_CELLS(UNROLLED_KERNEL)};
#undef UNROLLED_KERNEL
  return i < static_cast<int64_t>(sizeof(all) / sizeof(*all)) ? all[i] : nullptr;
}

}  // namespace

namespace unrolled {

const unrolled_kernel* UNROLLED_JOIN(kernel_at_, UNROLLED_ISA)(int64_t bytes, int64_t i) {
  if (bytes == 4) return kernel_at<Vector<float>>(i);
  return bytes == 8 ? kernel_at<Vector<double>>(i) : nullptr;
}

double UNROLLED_JOIN(fma_peak_, UNROLLED_ISA)(int64_t rounds) {
  using V = Vector<float>;
  constexpr int sums = 12;
  V v[sums], factor = V(0.999);
  for (V& s : v) s = V(1);
  float a = 0.999f;
  asm volatile("" : "+m"(a));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < sums; ++s) {
      v[s].v = v[s].v * factor.v + factor.v;
      asm volatile("" : UNROLLED_REGISTER(v[s].v));
    }
  }
  V total = V(0);
  for (const V& s : v) total = total + s;
  volatile float sink = total.sum();
  (void)sink;
  return 2.0 * sums * V::size * static_cast<double>(rounds);
}

}  // namespace unrolled
