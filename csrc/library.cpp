// What the shared library exports: the kernels of each instruction set, chosen by name.
#include <chrono>
#include <cstring>

#include "threads.h"
#include "unrolled.h"

// The sets of this processor family, worst first, as CMakeLists.txt builds them.
#if defined(__x86_64__)
#define UNROLLED_SETS(X) X(serial) X(avx2) X(avx512)
#elif defined(__aarch64__)
#define UNROLLED_SETS(X) X(serial) X(neon)
#else
#define UNROLLED_SETS(X) X(serial)
#endif

namespace unrolled {
#define UNROLLED_SET(name)                                   \
  const unrolled_kernel* kernel_at_##name(int64_t, int64_t); \
  const unrolled_engine* engine_of_##name(int64_t);          \
  const unrolled_cross_entropy* cross_entropy_of_##name(int64_t);        \
  double fma_peak_##name(int64_t);
UNROLLED_SETS(UNROLLED_SET)
#undef UNROLLED_SET
}  // namespace unrolled

namespace {

bool has_serial() { return true; }
#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && has_avx2();
}
#elif defined(__aarch64__)
bool has_neon() { return true; }
#endif

struct Set {
  const char* name;
  bool (*supported)();
  const unrolled_kernel* (*kernel_at)(int64_t, int64_t);
  const unrolled_engine* (*engine_of)(int64_t);
  const unrolled_cross_entropy* (*cross_entropy_of)(int64_t);
  double (*fma_peak)(int64_t);
};
const Set sets[] = {
#define UNROLLED_SET(name)                                                                                       \
  {#name, has_##name, unrolled::kernel_at_##name, unrolled::engine_of_##name, unrolled::cross_entropy_of_##name,  \
   unrolled::fma_peak_##name},
    UNROLLED_SETS(UNROLLED_SET)
#undef UNROLLED_SET
};
const Set* find(const char* name) {
  for (const Set& set : sets)
    if (!std::strcmp(set.name, name)) return set.supported() ? &set : nullptr;
  return nullptr;
}

}  // namespace

extern "C" {

int64_t unrolled_version(void) { return UNROLLED_VERSION; }

const char* unrolled_built(void) {
#define UNROLLED_SET(name) #name " "
  return UNROLLED_SETS(UNROLLED_SET);
#undef UNROLLED_SET
}

int64_t unrolled_supports(const char* instruction_set) { return find(instruction_set) != nullptr; }

const unrolled_kernel* unrolled_kernel_at(const char* instruction_set, int64_t element_bytes, int64_t i) {
  const Set* set = find(instruction_set);
  return set && i >= 0 ? set->kernel_at(element_bytes, i) : nullptr;
}

const unrolled_engine* unrolled_engine_of(const char* instruction_set, int64_t element_bytes) {
  const Set* set = find(instruction_set);
  return set ? set->engine_of(element_bytes) : nullptr;
}

const unrolled_cross_entropy* unrolled_cross_entropy_of(const char* instruction_set, int64_t element_bytes) {
  const Set* set = find(instruction_set);
  return set ? set->cross_entropy_of(element_bytes) : nullptr;
}

void unrolled_use_openmp(void* parallel, void* thread_num, void* num_threads) {
  unrolled::use_openmp(parallel, thread_num, num_threads);
}

double unrolled_fma_peak(const char* instruction_set) {
  const Set* set = find(instruction_set);
  if (!set) return 0;
  const auto begin = std::chrono::steady_clock::now();
  const double operations = set->fma_peak(20000000);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return operations / seconds.count() / 1e9;
}

}  // extern "C"
