// AVX-512: vectors of 64 bytes.
#include "../vector.h"
#define UNROLLED_ISA avx512
#define UNROLLED_REGISTER(v) "+v"(v)
namespace {
template <class T>
using Vector = Vec<T, 64 / sizeof(T)>;
}
#include "all_kernels.h"
