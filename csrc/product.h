// Matrix products with a packed weight: packing, a register tile, and rows times one panel or all.
#pragma once
#include <algorithm>

#include "threads.h"
#include "vector.h"

namespace {

using unrolled::Index;
using unrolled::Thread;

// How an instruction set divides its registers: a tile is `rows` × `columns` vectors of sums. Products
// go in chunks of `depth`: so deep, a packed panel and the rows it meets stay in the L1 cache.
template <class V>
struct Tile {
#if defined(__AVX512F__)
  static constexpr int rows = 8, columns = 2, depth = 192;
#elif defined(__aarch64__)
  static constexpr int rows = 6, columns = 4, depth = 256;
#else
  static constexpr int rows = 6, columns = 2, depth = 256;
#endif
  static constexpr int width = columns * V::size;  // of a panel, in numbers
};

template <class V>
UNROLLED_INLINE Index panels(Index n) {
  return (n + Tile<V>::width - 1) / Tile<V>::width;
}
// How many vectors the panel that begins at column j of n has.
template <class V>
UNROLLED_INLINE int vectors_of(Index n, Index j) {
  return static_cast<int>(std::min<Index>(Tile<V>::columns, (n - j + V::size - 1) / V::size));
}

// Rows of numbers, evenly spaced or each at its own address.
template <class T>
struct Rows {
  T* base;
  Index stride;
  T* const* table = nullptr;
  UNROLLED_INLINE T* operator[](Index i) const { return table ? table[i] : base + i * stride; }
};

enum class Start { zero, sum, row };  // a tile's sums begin at 0, at what is there, or at one row

// out[M][C vectors] = start + A B: A is M rows at a[m] (or, interleaved, a[0][k*M + m]), B a packed
// panel. With few rows, U sums run side by side in each place, so that none waits for the one before.
template <class V, int M, int C, bool interleaved>
UNROLLED_INLINE void multiply(const typename V::Scalar* const* a, const typename V::Scalar* b, Index depth,
                              V (&sums)[M][C]) {
  using T = typename V::Scalar;
  constexpr int W = Tile<V>::width;
  constexpr int U = V::size == 1 || M * C >= 8 ? 1 : (8 + M * C - 1) / (M * C);
  const T* row[M];
  if constexpr (!interleaved)
    for (int m = 0; m < M; ++m) row[m] = a[m];
  V side[U][M][C];
  for (int u = 0; u < U; ++u)
    for (int m = 0; m < M; ++m)
      for (int c = 0; c < C; ++c) side[u][m][c] = V(0);
  const T* packed = interleaved ? a[0] : nullptr;
  Index k = 0;
  const auto step = [&](int u) __attribute__((always_inline)) {
    V columns[C];
    for (int c = 0; c < C; ++c) columns[c] = V::load(b + c * V::size);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const T factor = interleaved ? packed[m] : row[m][k];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) side[u][m][c].multiply_add(factor, columns[c]);
    }
    b += W;
    if constexpr (interleaved) packed += M;
    ++k;
  };
  if constexpr (U == 1) {
    while (k < depth) step(0);
  } else {
    while (k + U <= depth) {
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) step(u);
    }
    while (k < depth) step(0);
  }
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < C; ++c) {
      V total = side[0][m][c];
      for (int u = 1; u < U; ++u) total = total + side[u][m][c];
      sums[m][c] = total;
    }
}

template <class V, int M, int C, bool interleaved>
UNROLLED_NOINLINE void tile(const typename V::Scalar* const* a, const typename V::Scalar* b, Index depth,
                            typename V::Scalar* out, Index stride, Start start,
                            const typename V::Scalar* row) {
  V sums[M][C];
  multiply<V, M, C, interleaved>(a, b, depth, sums);
  for (int m = 0; m < M; ++m)
    for (int c = 0; c < C; ++c) {
      typename V::Scalar* p = out + m * stride + c * V::size;
      if (start == Start::sum) sums[m][c] = sums[m][c] + V::load(p);
      if (start == Start::row) sums[m][c] = sums[m][c] + V::load(row + c * V::size);
      sums[m][c].store(p);
    }
}

template <class V>
using TileFunction = void (*)(const typename V::Scalar* const*, const typename V::Scalar*, Index,
                              typename V::Scalar*, Index, Start, const typename V::Scalar*);

template <class V, bool interleaved, int M, int C>
constexpr TileFunction<V> tile_of(int rows, int columns) {
  if (rows == M && columns == C) return tile<V, M, C, interleaved>;
  if constexpr (C > 1) {
    if (columns < C) return tile_of<V, interleaved, M, C - 1>(rows, columns);
  }
  if constexpr (M > 1) return tile_of<V, interleaved, M - 1, C>(rows, columns);
  return nullptr;
}
// The tile of so many rows and vectors.
template <class V, bool interleaved = false>
UNROLLED_INLINE TileFunction<V> tile_for(int rows, int columns) {
  struct Table {
    TileFunction<V> of[Tile<V>::rows + 1][Tile<V>::columns + 1] = {};
    constexpr Table() {
      for (int m = 1; m <= Tile<V>::rows; ++m)
        for (int c = 1; c <= Tile<V>::columns; ++c)
          of[m][c] = tile_of<V, interleaved, Tile<V>::rows, Tile<V>::columns>(m, c);
    }
  };
  static constexpr Table table;
  return table.of[rows][columns];
}

// Divide n rows into tiles of nearly equal height, and call f(first, height) for each.
template <class V, class F>
UNROLLED_INLINE void for_tiles(Index n, const F& f) {
  const Index count = (n + Tile<V>::rows - 1) / Tile<V>::rows;
  for (Index i = 0; i < count; ++i) {
    const Index first = n * i / count, last = n * (i + 1) / count;
    f(first, static_cast<int>(last - first));
  }
}

// The same for so few rows that a tile of one panel would wait for its own sums: M rows meet N panels,
// which lie `b_step` apart. Where the results of a panel go: out[m * Tile::width], the next panel's
// `out_step` further.
constexpr int narrow_rows = 2;
template <class V, int M, int N>
UNROLLED_NOINLINE void narrow_tile(const typename V::Scalar* const* a, const typename V::Scalar* b, Index b_step,
                                   Index depth, typename V::Scalar* out, Index out_step, bool add) {
  using T = typename V::Scalar;
  constexpr int C = Tile<V>::columns, W = Tile<V>::width;
  V sums[M][N][C];
  for (int m = 0; m < M; ++m)
    for (int p = 0; p < N; ++p)
      for (int c = 0; c < C; ++c) sums[m][p][c] = add ? V::load(out + p * out_step + m * W + c * V::size) : V(0);
  const T* row[M];
  for (int m = 0; m < M; ++m) row[m] = a[m];
  for (Index k = 0; k < depth; ++k, b += W) {
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        const V column = V::load(b + p * b_step + c * V::size);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sums[m][p][c].multiply_add(row[m][k], column);
      }
  }
  for (int m = 0; m < M; ++m)
    for (int p = 0; p < N; ++p)
      for (int c = 0; c < C; ++c) sums[m][p][c].store(out + p * out_step + m * W + c * V::size);
}
template <class V, int M, int N>
UNROLLED_INLINE void narrow_panels(const typename V::Scalar* const* a, const typename V::Scalar* b, Index b_step,
                                   Index count, Index depth, typename V::Scalar* out, Index out_step, bool add) {
  for (; count >= N; count -= N, b += N * b_step, out += N * out_step)
    narrow_tile<V, M, N>(a, b, b_step, depth, out, out_step, add);
  if constexpr (N > 1) narrow_panels<V, M, N / 2>(a, b, b_step, count, depth, out, out_step, add);
}
// One or two rows times `count` panels.
template <class V>
void multiply_narrow(const typename V::Scalar* const* a, Index rows, const typename V::Scalar* b, Index b_step,
                     Index count, Index depth, typename V::Scalar* out, Index out_step, bool add) {
  constexpr int most = Tile<V>::columns < 4 ? 8 / Tile<V>::columns : 2;
  if (rows == 1) return narrow_panels<V, 1, most>(a, b, b_step, count, depth, out, out_step, add);
  narrow_panels<V, 2, most / 2>(a, b, b_step, count, depth, out, out_step, add);
}

// A run of columns of A that meets a run of rows of B: A's blocks need not be in B's order.
struct Segment {
  Index a, b, length;
};
// Some of them, one after another in memory that others own.
struct Segments {
  const Segment* first = nullptr;
  Index count = 0;
  const Segment* begin() const { return first; }
  const Segment* end() const { return first + count; }
  bool empty() const { return !count; }
};
// Block i of `height` numbers meets block blocks[i] of B's rows, or none if that is -1. Blocks that follow
// one another on both sides become one segment; `out` holds as many as there are blocks.
inline Segments runs(const int* blocks, int count, Index height, Segment* out) {
  Index n = 0;
  for (int i = 0; i < count; ++i) {
    if (blocks[i] < 0) continue;
    const Segment block{blocks[i] * height, i * height, height};
    Segment* const last = n ? out + n - 1 : nullptr;
    if (last && last->a + last->length == block.a && last->b + last->length == block.b) {
      last->length += height;
    } else {
      out[n++] = block;
    }
  }
  return {out, n};
}
// How many chunks no deeper than Tile::depth a run has.
template <class V>
Index chunks_of(Index length) {
  return (length + Tile<V>::depth - 1) / Tile<V>::depth;
}
// All of them; `out` holds as many as the runs have together.
template <class V>
Segments chunks(Segments segments, Segment* out) {
  Index n = 0;
  for (const Segment& s : segments) {
    const Index count = chunks_of<V>(s.length);
    for (Index i = 0; i < count; ++i) {
      const Index first = s.length * i / count, last = s.length * (i + 1) / count;
      out[n++] = {s.a + first, s.b + first, last - first};
    }
  }
  return {out, n};
}
template <class V>
Segments chunks(Index length, Segment* out) {
  const Segment whole{0, 0, length};
  return chunks<V>({&whole, 1}, out);
}

// out[n][Tile::width] = A times one packed panel, whose rows the parts meet; A is n rows at a[q].
template <class V>
UNROLLED_INLINE void multiply_panel(const typename V::Scalar* const* a, Index n, Segments parts,
                                    const typename V::Scalar* panel, int columns, typename V::Scalar* out) {
  using T = typename V::Scalar;
  constexpr Index W = Tile<V>::width;
  if (parts.empty()) std::fill_n(out, n * W, T(0));
  for (const Segment& part : parts)
    for_tiles<V>(n, [&](Index q, int m) {
      const T* rows[Tile<V>::rows];
      for (int r = 0; r < m; ++r) rows[r] = a[q + r] + part.a;
      tile_for<V>(m, columns)(rows, panel + part.b * W, part.length, out + q * W, W,
                              &part == parts.begin() ? Start::zero : Start::sum, nullptr);
    });
}

// Pack B [depth, n] (element (k, j) at b[k * row + j * column]) into panels of Tile::width columns:
// packed[panel][k][width], zero beyond n. This call does panels first … last-1.
template <class V>
void pack(const typename V::Scalar* b, Index row, Index column, Index depth, Index n, Index first, Index last,
          typename V::Scalar* packed) {
  constexpr Index W = Tile<V>::width;
  for (Index p = first; p < last; ++p) {
    typename V::Scalar* out = packed + p * depth * W;
    const typename V::Scalar* in = b + p * W * column;
    const Index count = std::min(W, n - p * W);
    if (count == W && column == 1) {
      for (Index k = 0; k < depth; ++k) std::memcpy(out + k * W, in + k * row, W * sizeof(*out));
      continue;
    }
    if (row == 1) {
      constexpr int N = V::size;
      for (Index j = 0; j < W; j += N)
        for (Index k = 0; k < depth; k += N) {
          const int some = static_cast<int>(std::min<Index>(N, depth - k));
          V block[N];
#pragma GCC unroll 16
          for (int i = 0; i < N; ++i)
            block[i] = j + i < count ? V::load(in + (j + i) * column + k, some) : V(0);
          transpose(block);
          for (int i = 0; i < some; ++i) block[i].store(out + (k + i) * W + j);
        }
      continue;
    }
    for (Index k = 0; k < depth; ++k) {
      Index j = 0;
      for (; j < count; ++j) out[k * W + j] = in[k * row + j * column];
      for (; j < W; ++j) out[k * W + j] = 0;
    }
  }
}

// C[first … last) = A B (+ a row, the bias), B packed in panels of `depth` rows and n columns.
template <class V>
void multiply_rows(Rows<const typename V::Scalar> a, Index first, Index last, Segments parts,
                   const typename V::Scalar* packed, Index depth, Index n, const typename V::Scalar* bias,
                   Rows<typename V::Scalar> c) {
  using T = typename V::Scalar;
  constexpr Index W = Tile<V>::width, block = 16 * Tile<V>::rows;
  T edge[Tile<V>::rows * W];
  for (Index r0 = first; r0 < last; r0 += block) {
    const Index height = std::min(block, last - r0);
    for (const Segment& part : parts) {
      for (Index p = 0; p < panels<V>(n); ++p) {
        const Index j = p * W;
        const int columns = vectors_of<V>(n, j);
        const bool whole = j + columns * V::size <= n;
        const T* b = packed + (p * depth + part.b) * W;
        for_tiles<V>(height, [&](Index i, int m) {
          const T* rows[Tile<V>::rows];
          for (int q = 0; q < m; ++q) rows[q] = a[r0 + i + q] + part.a;
          const Start start = &part != parts.begin() ? Start::sum : bias ? Start::row : Start::zero;
          const auto run = tile_for<V>(m, columns);
          // One call writes evenly spaced rows; others go through `edge`.
          if (whole && !c.table) {
            run(rows, b, part.length, c[r0 + i] + j, c.stride, start, bias + j);
            return;
          }
          const Index some = std::min<Index>(W, n - j);
          if (start == Start::sum)
            for (int q = 0; q < m; ++q) std::memcpy(edge + q * W, c[r0 + i + q] + j, some * sizeof(T));
          run(rows, b, part.length, edge, W, start, bias + j);
          for (int q = 0; q < m; ++q) std::memcpy(c[r0 + i + q] + j, edge + q * W, some * sizeof(T));
        });
      }
    }
  }
}

}  // namespace
