// One number at a time, with the C library's functions: the oracle of the tests.
#include "../vector.h"
#define UNROLLED_ISA serial
#define UNROLLED_REGISTER(v) "+m"(v)
namespace {
template <class T>
using Vector = Serial<T>;
}
#include "all_kernels.h"
