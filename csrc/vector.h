// Vectors of N numbers, on the compiler's own vector types: one source for every instruction set.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "inline.h"

namespace {

// One number, by the C library: what every other instruction set is tested against.
template <class T>
struct Serial {
  using Scalar = T;
  using Mask = bool;
  static constexpr int size = 1;
  T v;
  Serial() = default;
  UNROLLED_INLINE explicit Serial(double a) : v(static_cast<T>(a)) {}
  static UNROLLED_INLINE Serial load(const T* p) { return wrap(*p); }
  static UNROLLED_INLINE Serial load(const T* p, int) { return wrap(*p); }
  UNROLLED_INLINE void store(T* p) const { *p = v; }
  UNROLLED_INLINE void store(T* p, int) const { *p = v; }
  static UNROLLED_INLINE Serial wrap(T a) {
    Serial s;
    s.v = a;
    return s;
  }
  UNROLLED_INLINE void multiply_add(T a, Serial b) { v += a * b.v; }
  UNROLLED_INLINE T sum() const { return v; }
};

#define UNROLLED_SERIAL(op)                                                    \
  template <class T>                                                           \
  UNROLLED_INLINE Serial<T> operator op(Serial<T> a, Serial<T> b) {            \
    return Serial<T>::wrap(a.v op b.v);                                        \
  }
UNROLLED_SERIAL(+) UNROLLED_SERIAL(-) UNROLLED_SERIAL(*) UNROLLED_SERIAL(/)
#undef UNROLLED_SERIAL
#define UNROLLED_SERIAL(op)                                        \
  template <class T>                                               \
  UNROLLED_INLINE bool operator op(Serial<T> a, Serial<T> b) {     \
    return a.v op b.v;                                             \
  }
UNROLLED_SERIAL(<) UNROLLED_SERIAL(>) UNROLLED_SERIAL(<=) UNROLLED_SERIAL(>=)
#undef UNROLLED_SERIAL
#define UNROLLED_SERIAL(name, result)                      \
  template <class T>                                       \
  UNROLLED_INLINE Serial<T> name(Serial<T> a) {            \
    return Serial<T>::wrap(result);                        \
  }
UNROLLED_SERIAL(operator-, -a.v)
UNROLLED_SERIAL(exp, std::exp(a.v))
UNROLLED_SERIAL(exp_of_negative, std::exp(a.v))
UNROLLED_SERIAL(log, std::log(a.v))
UNROLLED_SERIAL(sqrt, std::sqrt(a.v))
UNROLLED_SERIAL(abs, std::abs(a.v))
UNROLLED_SERIAL(tanh, std::tanh(a.v))
UNROLLED_SERIAL(sigmoid, T(1) / (T(1) + std::exp(-a.v)))
#undef UNROLLED_SERIAL
template <class T>
UNROLLED_INLINE Serial<T> select(bool mask, Serial<T> a, Serial<T> b) {
  return mask ? a : b;
}

// N numbers in one register.
template <class T, int N>
struct Vec {
  using Scalar = T;
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Native __attribute__((vector_size(N * sizeof(T))));
  typedef Int Ints __attribute__((vector_size(N * sizeof(T))));
  using Mask = Ints;
  static constexpr int size = N;
  Native v;
  Vec() = default;
  UNROLLED_INLINE explicit Vec(double a) : v(static_cast<T>(a) - Native{}) {}
  static UNROLLED_INLINE Vec wrap(Native a) {
    Vec r;
    r.v = a;
    return r;
  }
  static UNROLLED_INLINE Vec load(const T* p) {
    Vec r;
    std::memcpy(&r.v, p, sizeof(Native));
    return r;
  }
  UNROLLED_INLINE void store(T* p) const { std::memcpy(p, &v, sizeof(Native)); }
  // The first n numbers; the others are zero.
  static UNROLLED_INLINE Vec load(const T* p, int n) {
    if (n == N) return load(p);
#if defined(__AVX512F__)
    if constexpr (N * sizeof(T) == 64 && sizeof(T) == 4)
      return wrap((Native)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
    if constexpr (N * sizeof(T) == 64 && sizeof(T) == 8)
      return wrap((Native)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return wrap((Native)_mm256_maskload_ps(p, (__m256i)first(n)));
    if constexpr (sizeof(T) == 8) return wrap((Native)_mm256_maskload_pd(p, (__m256i)first(n)));
#endif
    T some[N] = {};
    for (int i = 0; i < n; ++i) some[i] = p[i];
    return load(some);
  }
  UNROLLED_INLINE void store(T* p, int n) const {
    if (n == N) return store(p);
#if defined(__AVX512F__)
    if constexpr (N * sizeof(T) == 64 && sizeof(T) == 4)
      return _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
    if constexpr (N * sizeof(T) == 64 && sizeof(T) == 8)
      return _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return _mm256_maskstore_ps(p, (__m256i)first(n), (__m256)v);
    if constexpr (sizeof(T) == 8) return _mm256_maskstore_pd(p, (__m256i)first(n), (__m256d)v);
#endif
    T some[N];
    store(some);
    for (int i = 0; i < n; ++i) p[i] = some[i];
  }
  UNROLLED_INLINE void multiply_add(T a, Vec b) { v += a * b.v; }  // contracted to one instruction
  UNROLLED_INLINE T sum() const {
    T total = 0;
    for (int i = 0; i < N; ++i) total += v[i];
    return total;
  }

 private:
  static UNROLLED_INLINE Ints first(int n) {
    Ints index;
    for (int i = 0; i < N; ++i) index[i] = i;
    return index < (static_cast<Int>(n) - Ints{});
  }
};

#define UNROLLED_VECTOR(op)                                                    \
  template <class T, int N>                                                    \
  UNROLLED_INLINE Vec<T, N> operator op(Vec<T, N> a, Vec<T, N> b) {            \
    return Vec<T, N>::wrap(a.v op b.v);                                        \
  }
UNROLLED_VECTOR(+) UNROLLED_VECTOR(-) UNROLLED_VECTOR(*) UNROLLED_VECTOR(/)
#undef UNROLLED_VECTOR
#define UNROLLED_VECTOR(op)                                                    \
  template <class T, int N>                                                    \
  UNROLLED_INLINE auto operator op(Vec<T, N> a, Vec<T, N> b) {                 \
    return a.v op b.v;                                                         \
  }
UNROLLED_VECTOR(<) UNROLLED_VECTOR(>) UNROLLED_VECTOR(<=) UNROLLED_VECTOR(>=)
#undef UNROLLED_VECTOR
template <class T, int N>
UNROLLED_INLINE Vec<T, N> operator-(Vec<T, N> a) {
  return Vec<T, N>::wrap(-a.v);
}
template <class T, int N>
UNROLLED_INLINE Vec<T, N> select(typename Vec<T, N>::Mask mask, Vec<T, N> a, Vec<T, N> b) {
  return Vec<T, N>::wrap(mask ? a.v : b.v);
}
#define UNROLLED_VECTOR(name)                                      \
  template <class T, int N>                                        \
  UNROLLED_INLINE Vec<T, N> name(Vec<T, N> a) {                    \
    for (int i = 0; i < N; ++i) a.v[i] = std::name(a.v[i]);        \
    return a;                                                      \
  }
UNROLLED_VECTOR(log) UNROLLED_VECTOR(sqrt)
#undef UNROLLED_VECTOR
// Where a is NaN, so is the result.
template <class V>
UNROLLED_INLINE V min(V a, V b) {
  return select(b < a, b, a);
}
template <class V>
UNROLLED_INLINE V max(V a, V b) {
  return select(b > a, b, a);
}
template <class V>
UNROLLED_INLINE V relu(V a) {
  return select(V(0) > a, V(0), a);  // NaN stays NaN
}
template <class T, int N>
UNROLLED_INLINE Vec<T, N> abs(Vec<T, N> a) {
  return select(a < Vec<T, N>(0), -a, a);
}

// N vectors as the rows of a matrix, turned into its columns: at each round, pairs of rows that are `s`
// apart exchange the halves of every block of 2s.
template <class T>
UNROLLED_INLINE void transpose(Serial<T>*) {}
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
template <int s, class V, int... j>
UNROLLED_INLINE void exchange(V& a, V& b, std::integer_sequence<int, j...>) {
  constexpr int N = V::size;
  const auto low = __builtin_shufflevector(a.v, b.v, (j & s ? N + j - s : j)...);
  const auto high = __builtin_shufflevector(a.v, b.v, (j & s ? N + j : j + s)...);
  a.v = low, b.v = high;
}
template <int s = 1, class T, int N>
UNROLLED_INLINE void transpose(Vec<T, N>* rows) {
  if constexpr (s < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
      if (!(i & s)) exchange<s>(rows[i], rows[i + s], std::make_integer_sequence<int, N>());
    transpose<2 * s>(rows);
  }
}
#else
template <class T, int N>
UNROLLED_INLINE void transpose(Vec<T, N>* rows) {
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < i; ++j) {
      const T a = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i], rows[j].v[i] = a;
    }
}
#endif

// e^x = 2^n (1 + p), where x = n ln 2 + r, |r| ≤ ln 2 / 2, and p = e^r - 1 by its Taylor series, cut
// where the rest is below rounding. For x from -limit to limit; NaN stays NaN.
template <class V>
struct Exponential {
  using T = typename V::Scalar;
  V scale, p;

  UNROLLED_INLINE explicit Exponential(V x) {
    constexpr bool single = sizeof(T) == 4;
    constexpr double shift = single ? 12582912.0 : 6755399441055744.0;  // 1.5 · 2^(mantissa bits)
    const V shifted = x * V(1.4426950408889634) + V(shift);             // rounds to whole numbers
    const V n = shifted - V(shift);
    V r = x - n * V(single ? 0.693145751953125 : 0.6931471803691238);  // ln 2 in two parts
    r = r - n * V(single ? 1.4286068203094172e-06 : 1.9082149292705877e-10);
    constexpr int terms = single ? 7 : 13;
    double factorial = 1;
    for (int i = 2; i <= terms; ++i) factorial *= i;
    V series = V(1 / factorial);
    for (int i = terms; i > 1; --i) {
      factorial /= i;
      series = series * r + V(1 / factorial);
    }
    p = series * r;
    using Ints = typename V::Ints;
    constexpr int mantissa = single ? 23 : 52, bias = single ? 127 : 1023;
    const Ints bits = ((Ints)shifted.v - (Ints)V(shift).v + bias) << mantissa;
    scale = V::wrap((typename V::Native)bits);
  }
};
template <class T, int N>
UNROLLED_INLINE Vec<T, N> exp(Vec<T, N> x) {
  using V = Vec<T, N>;
  // 2^n is out of reach just below the largest number: what is beyond `limit` is a second factor.
  constexpr double limit = sizeof(T) == 4 ? 87 : 708, most = sizeof(T) == 4 ? 88.8 : 709.8;
  const Exponential<V> e(max(min(x, V(limit)), V(-limit)));
  const V inside = e.scale * e.p + e.scale;
  const V beyond = min(x, V(most)) - V(limit);
  const Exponential<V> rest(max(beyond, V(0)));
  const V above = inside * (rest.scale * rest.p + rest.scale);
  return select(x > V(limit), above, select(x < V(-limit), V(0), inside));
}
// For x up to 0 alone, in half the time. Below -limit it is e^-limit, beside which 1 stays 1.
template <class T, int N>
UNROLLED_INLINE Vec<T, N> exp_of_negative(Vec<T, N> x) {
  using V = Vec<T, N>;
  constexpr double limit = sizeof(T) == 4 ? 87 : 708;
  const Exponential<V> e(max(x, V(-limit)));
  return e.scale * e.p + e.scale;
}
template <class T, int N>
UNROLLED_INLINE Vec<T, N> sigmoid(Vec<T, N> x) {
  using V = Vec<T, N>;
  constexpr double limit = sizeof(T) == 4 ? 87 : 708;
  const Exponential<V> e(max(min(-x, V(limit)), V(-limit)));
  return V(1) / (e.scale * e.p + (e.scale + V(1)));
}
template <class T, int N>
UNROLLED_INLINE Vec<T, N> tanh(Vec<T, N> x) {
  using V = Vec<T, N>;
  const Exponential<V> e(max(min(x + x, V(40)), V(-40)));
  const V less_one = e.scale * e.p + (e.scale - V(1));  // e^2x - 1, exact to rounding near 0 too
  return less_one / (less_one + V(2));
}

}  // namespace
