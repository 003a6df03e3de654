// Softmax over a vocabulary and its cross-entropy: logits, losses and every gradient in one call.
//
// A block of rows at a time: their logits, of which softmax makes the gradient in the same place while
// they are in the cache, and from that ∂L/∂x. The gradient of the weight is a product over all rows:
// for it blocks are kept, up to `most_kept` bytes of them, and then added to what there is.
#pragma once
#include <cmath>
#include <limits>

#include "arena.h"
#include "outer_product.h"
#include "unrolled.h"

namespace {

template <class V>
class CrossEntropy {
  using T = typename V::Scalar;
  static constexpr Index W = Tile<V>::width, block = 64, most_kept = Index{32} << 20;

 public:
  static void run(const unrolled_cross_entropy_call* call) { CrossEntropy(call, call->work).run_all(); }
  static int64_t work_bytes(const unrolled_cross_entropy_call* call) {
    return CrossEntropy(call, nullptr).arena_.used() + 64;
  }

 private:
  CrossEntropy(const unrolled_cross_entropy_call* call, void* work)
      : call_(*call), arena_(work ? aligned(work) : nullptr), N_(call->rows), E_(call->inputs), C_(call->classes) {
    threads_ = 2.0 * N_ * E_ * C_ < 1e6 ? 1 : std::max<Index>(1, call->threads);
    padded_ = panels<V>(C_) * W;
    stride_ = padded_ + gap;  // so that rows do not fall on the same places of the cache
    packed_ = arena_.take<T>(padded_ * E_);
    bias_ = arena_.take<T>(padded_);
    if (call->d_x) packed_back_ = arena_.take<T>(panels<V>(E_) * W * C_);
    if (call->d_bias) sums_ = arena_.take<T>(threads_ * padded_);
    at_once_ = N_;
    if (call->d_weight) {
      const Index fit = most_kept / (stride_ * static_cast<Index>(sizeof(T))) / block * block;
      at_once_ = std::min(N_, std::max(fit, threads_ * block));
      scratch_ = arena_.take<T>(threads_ * outer_scratch<V>(E_));
    }
    logits_ = arena_.take<T>((call->d_weight ? at_once_ : threads_ * block) * stride_);
    Segment* const inputs = arena_.take<Segment>(chunks_of<V>(E_));
    Segment* const classes = arena_.take<Segment>(chunks_of<V>(C_));
    if (!work) return;
    inputs_ = chunks<V>(E_, inputs), classes_ = chunks<V>(C_, classes);
  }

  static const T* as(const void* p) { return static_cast<const T*>(p); }
  static T* as(void* p) { return static_cast<T*>(p); }

  void run_all() {
    std::fill_n(bias_, padded_, T(0));
    if (call_.bias) std::memcpy(bias_, call_.bias, C_ * sizeof(T));
    if (sums_) std::fill_n(sums_, threads_ * padded_, T(0));
    unrolled::parallel(threads_, [&](const Thread& me) {
      const auto ahead = me.part(panels<V>(C_));
      pack<V>(as(call_.weight), 1, E_, E_, C_, ahead.first, ahead.last, packed_);
      if (call_.d_x) {
        const auto back = me.part(panels<V>(E_));
        pack<V>(as(call_.weight), E_, 1, C_, E_, back.first, back.last, packed_back_);
      }
      me.barrier->wait();
      for (Index start = 0; start < N_; start += at_once_) {
        const Index rows = std::min(at_once_, N_ - start);
        const auto mine = me.part(rows, Tile<V>::rows);
        for (Index r = mine.first; r < mine.last; r += block)
          run_block(me, start + r, std::min(block, mine.last - r),
                    logits_ + (call_.d_weight ? r : me.id * block) * stride_);
        if (!call_.d_weight) continue;
        me.barrier->wait();
        const auto part = me.part(C_, Tile<V>::rows);
        multiply_outer<V>({logits_, stride_}, part.first, part.last, {as(call_.x) + start * E_, E_}, E_, rows,
                          as(call_.d_weight), E_, scratch_ + me.id * outer_scratch<V>(E_), start > 0);
        me.barrier->wait();
      }
      if (!call_.d_bias) return;
      me.barrier->wait();
      const auto part = me.part(C_);
      for (Index j = part.first; j < part.last; ++j) {
        T total = 0;
        for (int m = 0; m < me.count; ++m) total += sums_[m * padded_ + j];
        as(call_.d_bias)[j] = total;
      }
    });
  }

  // Rows first … first+count-1, whose logits are to stand at `logits`.
  void run_block(const Thread& me, Index first, Index count, T* logits) {
    multiply_rows<V>({as(call_.x) + first * E_, E_}, 0, count, inputs_, packed_, E_, C_, bias_, {logits, stride_});
    for (Index i = 0; i < count; ++i) run_row(me, first + i, logits + i * stride_);
    if (call_.d_x)
      multiply_rows<V>({logits, stride_}, 0, count, classes_, packed_back_, C_, E_, nullptr,
                       {as(call_.d_x) + first * E_, E_});
  }

  // The loss of a row of logits, in whose place ∂L/∂logits is written if any gradient is wanted.
  void run_row(const Thread& me, Index n, T* row) {
    constexpr int chains = 4;  // sums side by side, so that none waits for the one before
    std::fill(row + C_, row + padded_, -std::numeric_limits<T>::infinity());
    V largest[chains], total[chains];
    for (int i = 0; i < chains; ++i) largest[i] = V::load(row), total[i] = V(0);
    Index j = 0;
    for (; j + chains * V::size <= padded_; j += chains * V::size)
      for (int i = 0; i < chains; ++i) largest[i] = max(largest[i], V::load(row + j + i * V::size));
    for (; j < padded_; j += V::size) largest[0] = max(largest[0], V::load(row + j));
    T each[chains * V::size];
    for (int i = 0; i < chains; ++i) largest[i].store(each + i * V::size);
    T top = each[0];
    for (const T one : each) top = one > top ? one : top;

    const int64_t target = call_.targets[n];
    const T meant = row[target];
    const V shift(top);
    const auto exponential = [&](Index at, V& sum) {
      const V e = exp_of_negative(V::load(row + at) - shift);
      e.store(row + at);
      sum = sum + e;
    };
    for (j = 0; j + chains * V::size <= padded_; j += chains * V::size)
      for (int i = 0; i < chains; ++i) exponential(j + i * V::size, total[i]);
    for (; j < padded_; j += V::size) exponential(j, total[0]);
    const T all = ((total[0] + total[1]) + (total[2] + total[3])).sum();
    as(call_.losses)[n] = std::log(all) + (top - meant);
    if (!call_.d_x && !call_.d_weight && !call_.d_bias) return;

    const T share = T(1) / static_cast<T>(N_);
    const V factor(share / all);
    row[target] -= all;  // p - 1, once it is scaled
    if (sums_) {
      T* sums = sums_ + me.id * padded_;
      for (j = 0; j < padded_; j += V::size) {
        const V d = V::load(row + j) * factor;
        d.store(row + j);
        (V::load(sums + j) + d).store(sums + j);
      }
    } else {
      for (j = 0; j < padded_; j += V::size) (V::load(row + j) * factor).store(row + j);
    }
  }

  const unrolled_cross_entropy_call call_;
  Arena arena_;
  const Index N_, E_, C_;  // rows, inputs, classes
  Index threads_, padded_, stride_, at_once_;
  Segments inputs_, classes_;  // in chunks
  T *packed_, *bias_, *logits_, *packed_back_ = nullptr, *sums_ = nullptr, *scratch_ = nullptr;
};

}  // namespace
