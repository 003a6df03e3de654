// NEON: vectors of 16 bytes.
#include "../vector.h"
#define UNROLLED_ISA neon
#define UNROLLED_REGISTER(v) "+w"(v)
namespace {
template <class T>
using Vector = Vec<T, 16 / sizeof(T)>;
}
#include "all_kernels.h"
