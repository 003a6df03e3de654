// Threads that run one function together, on PyTorch's own OpenMP threads where that is known.
#pragma once
#include <atomic>
#include <cstdint>

namespace unrolled {

using Index = int64_t;

// Where threads that run together wait for one another.
class Barrier {
 public:
  // For how many: all of them may say it, if each does before it waits.
  void expect(int threads) { threads_.store(threads, std::memory_order_relaxed); }
  void wait() {
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_.load(std::memory_order_relaxed)) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) pause(spins);
  }

 private:
  static void pause(int spins);  // gives the core away after a while: another process may need it
  std::atomic<int> threads_{1};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> round_{0};
};

// One of the threads that run together.
struct Thread {
  int id, count;
  Barrier* barrier;
  // The id-th of `count` nearly equal parts of 0 … n-1, in whole multiples of `step`.
  struct Range {
    Index first, last;
  };
  Range part(Index n, Index step = 1) const {
    const Index whole = (n + step - 1) / step;
    const Index first = whole * id / count * step, last = whole * (id + 1) / count * step;
    return {first < n ? first : n, last < n ? last : n};
  }
};

using Job = void (*)(const Thread&, const void* data);

// Run `job` on at most `threads` threads, and return when all have finished. The runtime may give
// fewer (in a nested region, say): a job must not count on a number it was not told.
void run_parallel(int threads, Job job, const void* data);
void use_openmp(void* parallel, void* thread_num, void* num_threads);

template <class F>
void parallel(Index threads, const F& work) {
  run_parallel(
      static_cast<int>(threads),
      [](const Thread& me, const void* data) { (*static_cast<const F*>(data))(me); }, &work);
}

}  // namespace unrolled
