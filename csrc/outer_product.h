// The product over all rows that yields the gradient of a weight.
#pragma once
#include "product.h"

namespace {

// C[i, j] = Σ_r A[r, i] B[r, j], for i in first … last-1 and all j < n; `add`ed to what C holds, if so
// asked. Both sides are packed, a chunk of rows at a time; `gap` keeps neighbouring tiles and panels from falling on the same places of the cache.
// `scratch` holds outer_scratch() numbers.
constexpr Index gap = 16, outer_block = 512;
template <class V>
Index outer_scratch(Index n) {
  const Index tiles = (outer_block + Tile<V>::rows - 1) / Tile<V>::rows;
  return tiles * (Tile<V>::depth * Tile<V>::rows + gap) + panels<V>(n) * (Tile<V>::depth * Tile<V>::width + gap);
}
template <class V>
void multiply_outer(Rows<const typename V::Scalar> a, Index first, Index last, Rows<const typename V::Scalar> b,
                    Index n, Index rows, typename V::Scalar* c, Index stride, typename V::Scalar* scratch,
                    bool add = false) {
  using T = typename V::Scalar;
  constexpr Index W = Tile<V>::width, K = Tile<V>::depth, M = Tile<V>::rows;
  if (first >= last) return;
  T* const right = scratch + (outer_block + M - 1) / M * (K * M + gap);
  T edge[M * W];
  const Index count = (rows + K - 1) / K;
  for (Index chunk = 0; chunk < count; ++chunk) {
    const Index r0 = rows * chunk / count, depth = rows * (chunk + 1) / count - r0;
    const Index panel_size = depth * W + gap;
    for (Index k = 0; k < depth; ++k) {
      const T* br = b[r0 + k];
      for (Index p = 0; p < panels<V>(n); ++p) {
        const Index some = std::min(W, n - p * W);
        T* out = right + p * panel_size + k * W;
        if (some == W) {
          std::memcpy(out, br + p * W, W * sizeof(T));
        } else {
          std::memcpy(out, br + p * W, some * sizeof(T));
          std::fill(out + some, out + W, T(0));
        }
      }
    }
    for (Index i0 = first; i0 < last; i0 += outer_block) {
      const Index height = std::min(outer_block, last - i0);
      const Index tile_size = depth * M + gap;
      for (Index k = 0; k < depth; ++k) {
        const T* ar = a[r0 + k] + i0;
        T* out = scratch + k * M;
        Index i = 0;
        for (; i + M <= height; i += M, out += tile_size) std::memcpy(out, ar + i, M * sizeof(T));
        if (i < height) {
          std::memcpy(out, ar + i, (height - i) * sizeof(T));
          std::fill(out + (height - i), out + M, T(0));
        }
      }
      for (Index p = 0; p < panels<V>(n); ++p) {
        const Index j = p * W;
        const int columns = vectors_of<V>(n, j);
        const Index some = std::min(W, n - j);
        const auto run = tile_for<V, true>(M, columns);
        const T* left = scratch;
        for (Index i = 0; i < height; i += M, left += tile_size) {
          const Index m = std::min(M, height - i);
          T* out = c + (i0 + i) * stride + j;
          if (m == M && j + columns * V::size <= n) {
            run(&left, right + p * panel_size, depth, out, stride, chunk || add ? Start::sum : Start::zero, nullptr);
            continue;
          }
          run(&left, right + p * panel_size, depth, edge, W, Start::zero, nullptr);
          for (Index q = 0; q < m; ++q)
            for (Index r = 0; r < some; ++r)
              out[q * stride + r] = (chunk || add ? out[q * stride + r] : T(0)) + edge[q * W + r];
        }
      }
    }
  }
  if (!count && !add)
    for (Index i = first; i < last; ++i) std::fill_n(c + i * stride, n, T(0));
}

}  // namespace
