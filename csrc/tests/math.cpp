// The vector mathematics of one instruction set against the C library in long double. Compiled once a
// set, with that set's flags; UNROLLED_TEST_SET names it, UNROLLED_TEST_BYTES is the vector's width.
#include "../vector.h"

#include <cfloat>
#include <cstdio>
#include <initializer_list>

#define UNROLLED_JOIN_(a, b) a##b
#define UNROLLED_JOIN(a, b) UNROLLED_JOIN_(a, b)
#define UNROLLED_TEXT_(a) #a
#define UNROLLED_TEXT(a) UNROLLED_TEXT_(a)

namespace {

#if UNROLLED_TEST_BYTES
template <class T>
using Vector = Vec<T, UNROLLED_TEST_BYTES / sizeof(T)>;
#else
template <class T>
using Vector = Serial<T>;
#endif

struct Exp {
  static constexpr const char* name = "exp";
  static long double exact(long double x) { return std::exp(x); }
  template <class V>
  static V of(V x) {
    return exp(x);
  }
};
struct Sigmoid {
  static constexpr const char* name = "sigmoid";
  static long double exact(long double x) { return 1 / (1 + std::exp(-x)); }
  template <class V>
  static V of(V x) {
    return sigmoid(x);
  }
};
struct Tanh {
  static constexpr const char* name = "tanh";
  static long double exact(long double x) { return std::tanh(x); }
  template <class V>
  static V of(V x) {
    return tanh(x);
  }
};

// The function of one number, in every place of a vector, which must all agree.
template <class F, class T>
bool apply(T x, T* y) {
  using V = Vector<T>;
  T in[V::size], out[V::size];
  for (int i = 0; i < V::size; ++i) in[i] = x;
  F::template of<V>(V::load(in)).store(out);
  *y = out[0];
  for (int i = 1; i < V::size; ++i)
    if (std::memcmp(&out[i], &out[0], sizeof(T))) return false;
  return true;
}

template <class T>
struct Errors {
  double ulps = 0;      // the largest error where the result is a normal number
  T where = 0;
  double absolute = 0;  // and where it is smaller, in units of the smallest normal number
  int differing = 0;    // results that are not a number, or differ between the places of a vector

  template <class F>
  void at(T x) {
    constexpr T tiny = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
    T y;
    const bool same = apply<F, T>(x, &y);
    const long double exact = F::exact(static_cast<long double>(x));
    if (!same || std::isnan(y)) {
      ++differing;
      return;
    }
    const long double size = std::fabs(exact), error = std::fabs(static_cast<long double>(y) - exact);
    if (size <= 4 * tiny) {
      const double units = static_cast<double>(error / tiny);
      if (units > absolute) absolute = units;
      return;
    }
    int exponent;
    std::frexp(size, &exponent);
    const double found =
        static_cast<double>(error / std::ldexp(1.0L, exponent - (sizeof(T) == 4 ? FLT_MANT_DIG : DBL_MANT_DIG)));
    if (found > ulps) ulps = found, where = x;
  }
};

// What must hold exactly, or nearly so, outside the grid.
template <class F, class T>
int limits(bool* nan_stays, bool* ends) {
  T y;
  *nan_stays = apply<F, T>(static_cast<T>(NAN), &y) && std::isnan(y);
  const bool exponential = F::name[0] == 'e';
  const T high = exponential ? static_cast<T>(INFINITY) : T(1), low = F::name[0] == 't' ? T(-1) : T(0);
  const T tiny = sizeof(T) == 4 ? T(FLT_MIN) : T(DBL_MIN);
  *ends = true;
  for (const T x : {T(1e4), static_cast<T>(INFINITY)}) {
    *ends = apply<F, T>(x, &y) && y == high && *ends;
    *ends = apply<F, T>(-x, &y) && (y == low || std::fabs(y - low) <= 4 * tiny) && *ends;
  }
  return !*nan_stays || !*ends;
}

template <class F, class T>
int check(double bound) {
  // Emulated long double is slow: fewer points where it is not the processor's own.
  const int points = LDBL_MANT_DIG == 113 ? 8000 : 60000;
  const double end = F::name[0] == 'e' ? (sizeof(T) == 4 ? 87.2 : 708.2) : (sizeof(T) == 4 ? 86 : 700);
  Errors<T> errors;
  for (int i = 0; i <= points; ++i) {
    const double part = static_cast<double>(i) / points;
    for (const double scale : {end, 20.0, 1.0}) {
      errors.template at<F>(static_cast<T>(scale * part));
      errors.template at<F>(static_cast<T>(-scale * part));
    }
    // From the smallest normal number up to 1, evenly in the exponent.
    const T small = static_cast<T>(std::exp2((sizeof(T) == 4 ? -126 : -1022) * part));
    errors.template at<F>(small);
    errors.template at<F>(-small);
  }
  const double beyond[] = {end, 100, 800, 1e4};
  for (const double x : beyond) {
    if (F::name[0] == 'e' && x > end) continue;  // it overflows: see limits()
    errors.template at<F>(static_cast<T>(x));
    errors.template at<F>(static_cast<T>(-x));
  }
  bool nan_stays, ends;
  const int wrong = limits<F, T>(&nan_stays, &ends);
  const bool passes = !wrong && !errors.differing && errors.ulps <= bound && errors.absolute <= 4;
  std::printf("%-7s %-8s float%d  %.2f ulp at most (bound %.1f), at %.9g%s%s%s\n", UNROLLED_TEXT(UNROLLED_TEST_SET),
              F::name, static_cast<int>(8 * sizeof(T)), errors.ulps, bound, static_cast<double>(errors.where),
              nan_stays ? "" : "  FAILED: NaN does not stay NaN", ends ? "" : "  FAILED: wrong at 1e4 or infinity",
              passes || wrong ? "" : "  FAILED");
  if (errors.differing)
    std::printf("        FAILED: %d results are NaN, or differ between the places of a vector\n", errors.differing);
  if (errors.absolute > 4)
    std::printf("        FAILED: near zero the error is %.3g smallest normal numbers\n", errors.absolute);
  return !passes;
}

}  // namespace

int UNROLLED_JOIN(test_math_, UNROLLED_TEST_SET)() {
  int failures = 0;
  failures += check<Exp, float>(2) + check<Sigmoid, float>(4) + check<Tanh, float>(4);
  failures += check<Exp, double>(2) + check<Sigmoid, double>(4) + check<Tanh, double>(4);
  return failures;
}
