// The norms of ∂L/∂state_t, state by state, and gradients scaled down to a bound on them.
#pragma once
#include <cmath>

#include "plan.h"

namespace {

template <class V>
class GradNorms {
  using T = typename V::Scalar;

 public:
  explicit GradNorms(Plan<V>& p) : wanted(p.wants_norms() || p.clips()), plan(p), places(p.steps * p.batch) {
    if (wanted && p.by_units) of_threads = p.arena.template take<T>(p.threads * p.S * places);
  }

  static T norm_of(const T* sums) {
    return root(sums, V::size, [](const T* p) { return V::load(p).sum(); });
  }
  static T norm_of_numbers(const T* sums) {
    return root(sums, 1, [](const T* p) { return *p; });
  }

  // Before the sweep: what this thread will not write is zero.
  void clear(const Thread& me) const {
    if (of_threads) std::fill_n(of_threads + me.id * plan.S * places, plan.S * places, T(0));
  }

  // From the squares of a step: the norms, or those of this thread's units.
  void note(const Thread& me, const Step<V>& at) const {
    for (int s = 0; s < plan.S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const T norm = norm_of(at.squares + (s * at.n + q) * Squares<V>::of_a_row);
        const Index place = at.t * plan.batch + at.sequence[q];
        if (of_threads) {
          of_threads[(me.id * plan.S + s) * places + place] = norm;
        } else if (plan.call.norms[s]) {
          as<T>(plan.call.norms[s])[place] = bounded(norm);
        }
      }
  }

  // Adds up ∂L/∂state_t of one panel of units in the carry, and its squares.
  void gather(const Step<V>& at, Index u, int vectors, const T* z) const {
    for (int c = 0; c < vectors; ++c, u += V::size, z += V::size) {
      if (u + V::size <= plan.H) {
        gather<true>(at, u, z, V::size);
      } else {
        gather<false>(at, u, z, static_cast<int>(plan.H - u));
      }
    }
  }

  // Once every panel has been gathered: the norms are known, and what is above the bound is scaled down.
  void clip(const Thread& me, const Step<V>& at, Index first, Index last) const {
    note(me, at);
    if (plan.by_units) me.barrier->wait();
    for (int s = 0; s < plan.S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const Index b = at.sequence[q];
        const T norm = of_threads ? norm_of_all(me, s, at.t * plan.batch + b)
                                  : norm_of(at.squares + (s * at.n + q) * Squares<V>::of_a_row);
        clip_row(at.carry_row(s, b), first, last, norm);
      }
  }

  // A gradient whose norm is above the bound, scaled down to it; NaN is left as it is.
  void clip_row(T* gradient, Index first, Index last, T norm) const {
    if (!(norm > plan.call.clip)) return;
    const T scale = static_cast<T>(plan.call.clip / norm);
    for (Index u = first; u < last; ++u) gradient[u] *= scale;
  }

  // After the sweep, by one thread: the norms of rows of which each thread had its units'.
  void finish(const Thread& me) const {
    for (int s = 0; s < plan.S && of_threads; ++s)
      for (Index at = 0; at < places && plan.call.norms[s]; ++at)
        as<T>(plan.call.norms[s])[at] = bounded(norm_of_all(me, s, at));
  }

  const bool wanted;

 private:
  // From the three sums of Squares, each `size` numbers that are still to be added up.
  template <class Sum>
  static T root(const T* sums, int size, Sum sum) {
    const T up = sum(sums), plain = sum(sums + size);
    if (std::isfinite(up)) return std::sqrt(up) * Squares<V>::small;
    return std::isfinite(plain) ? std::sqrt(plain) : std::sqrt(sum(sums + 2 * size)) * Squares<V>::large;
  }

  template <bool whole>
  void gather(const Step<V>& at, Index u, const T* z, int some) const {
    for (int s = 0; s < plan.S; ++s)
      for (Index q = 0; q < at.n; ++q) {
        const Index b = at.sequence[q];
        const V d = at.template reaching<whole>(s, b, u, plan.G ? z + q * at.width : nullptr, some);
        Squares<V>::add(d, at.squares + (s * at.n + q) * Squares<V>::of_a_row);
        store<V, whole>(d, at.carry_row(s, b) + u, some);
      }
  }

  T bounded(T norm) const { return plan.clips() && norm > plan.call.clip ? static_cast<T>(plan.call.clip) : norm; }

  T norm_of_all(const Thread& me, int s, Index at) const {
    T squares[Squares<V>::sums] = {};
    for (int m = 0; m < me.count; ++m) Squares<V>::add(of_threads[(m * plan.S + s) * places + at], squares);
    return norm_of_numbers(squares);
  }

  const Plan<V>& plan;
  const Index places;        // T × B
  T* of_threads = nullptr;  // [threads, S, T, B], where threads share out units: the norms of those
};

}  // namespace
