// Pieces of the caller's scratch memory.
#pragma once
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "threads.h"

namespace {

using unrolled::Index;

// Hands them out, one after another; without memory it only adds up their sizes.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(Index count) {
    used_ = (used_ + 63) / 64 * 64;
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += count * static_cast<Index>(sizeof(T));
    return piece;
  }
  explicit operator bool() const { return base_ != nullptr; }
  Index used() const { return used_ + 64; }

 private:
  char* base_;
  Index used_ = 0;
};
inline void* aligned(void* p) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(p) + 63) / 64 * 64);
}

// Ask for large pages under a big buffer: fewer faults when it is first touched, fewer misses later.
inline void prefer_large_pages(const void* p, Index bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2u << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p), end = begin + static_cast<uintptr_t>(bytes);
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (p && last >= first + 2 * page) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

}  // namespace
