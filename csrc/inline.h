// What the generated cells need to know about the compiler.
#pragma once

#define UNROLLED_INLINE inline __attribute__((always_inline))
#define UNROLLED_NOINLINE __attribute__((noinline))
