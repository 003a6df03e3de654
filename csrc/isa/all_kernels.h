// Every cell of the library, for one instruction set: a file of isa/ defines UNROLLED_ISA and the vectors.
//
// The few that have a name in Python, and steps of stages enough to test the sweep, are there for every
// instruction set and dtype; all others, for float32 and vectors alone, since that is what is used.
#pragma once
#include "../cross_entropy.h"
#include "../generated/cells.h"
#include "../kernel.h"
#include "../sweep/backward.h"
#include "../sweep/forward.h"

#define UNROLLED_JOIN_(a, b) a##b
#define UNROLLED_JOIN(a, b) UNROLLED_JOIN_(a, b)

namespace {

template <class V>
const unrolled_kernel* kernel_at(int64_t i) {
#define UNROLLED_KERNEL(Cell) &Kernel<V, Cell>::kernel,
  static constexpr const unrolled_kernel* all[] = {UNROLLED_CELLS(UNROLLED_KERNEL)};
  constexpr int64_t count = sizeof(all) / sizeof(*all);
  if (i < count) return all[i];
#if !defined(UNROLLED_FEW)
  if constexpr (sizeof(typename V::Scalar) == 4 && V::size > 1) {
    static constexpr const unrolled_kernel* more[] = {UNROLLED_MORE_CELLS(UNROLLED_KERNEL)};
    if (i - count < static_cast<int64_t>(sizeof(more) / sizeof(*more))) return more[i - count];
  }
#endif
#undef UNROLLED_KERNEL
  return nullptr;
}

template <class V>
int64_t work_bytes(const void* cell, const unrolled_call* call, int64_t backward) {
  return backward ? Backward<V>::work_bytes(cell, call) : Forward<V>::work_bytes(cell, call);
}

template <class V>
const unrolled_engine* engine() {
  static constexpr unrolled_engine engine = {Forward<V>::run, Backward<V>::run, Forward<V>::packed_bytes,
                                             work_bytes<V>, layout<V>};
  return &engine;
}

template <class V>
const unrolled_cross_entropy* cross_entropy() {
  static constexpr unrolled_cross_entropy functions = {CrossEntropy<V>::run, CrossEntropy<V>::work_bytes};
  return &functions;
}

}  // namespace

namespace unrolled {

const unrolled_kernel* UNROLLED_JOIN(kernel_at_, UNROLLED_ISA)(int64_t bytes, int64_t i) {
  if (bytes == 4) return kernel_at<Vector<float>>(i);
  return bytes == 8 ? kernel_at<Vector<double>>(i) : nullptr;
}

const unrolled_engine* UNROLLED_JOIN(engine_of_, UNROLLED_ISA)(int64_t bytes) {
  if (bytes == 4) return engine<Vector<float>>();
  return bytes == 8 ? engine<Vector<double>>() : nullptr;
}

const unrolled_cross_entropy* UNROLLED_JOIN(cross_entropy_of_, UNROLLED_ISA)(int64_t bytes) {
  if (bytes == 4) return cross_entropy<Vector<float>>();
  return bytes == 8 ? cross_entropy<Vector<double>>() : nullptr;
}

// Twelve sums, so that none waits for the one before, each in a register of its own.
double UNROLLED_JOIN(fma_peak_, UNROLLED_ISA)(int64_t rounds) {
  using V = Vector<float>;
  const auto factor = V(0.999).v;
  auto a = V(1).v, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
#define UNROLLED_STEP(sum) \
  sum = sum * factor + factor; \
  asm volatile("" : UNROLLED_REGISTER(sum));
  for (int64_t round = 0; round < rounds; ++round) {
    UNROLLED_STEP(a) UNROLLED_STEP(b) UNROLLED_STEP(c) UNROLLED_STEP(d) UNROLLED_STEP(e) UNROLLED_STEP(f)
    UNROLLED_STEP(g) UNROLLED_STEP(h) UNROLLED_STEP(i) UNROLLED_STEP(j) UNROLLED_STEP(k) UNROLLED_STEP(l)
  }
#undef UNROLLED_STEP
  return 2.0 * 12 * V::size * static_cast<double>(rounds);
}

}  // namespace unrolled
