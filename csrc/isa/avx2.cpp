// AVX2+FMA: vectors of 32 bytes.
#include "../vector.h"
#define UNROLLED_ISA avx2
#define UNROLLED_REGISTER(v) "+x"(v)
namespace {
template <class T>
using Vector = Vec<T, 32 / sizeof(T)>;
}
#include "all_kernels.h"
