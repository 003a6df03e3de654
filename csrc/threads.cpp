#include "threads.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace unrolled {

void Barrier::pause(int spins) {
  if (spins >= 4096) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

namespace {

std::atomic<void (*)(void (*)(void*), void*, unsigned, unsigned)> openmp_parallel{nullptr};
std::atomic<int (*)()> openmp_thread_num{nullptr}, openmp_num_threads{nullptr};

// OpenMP says only inside the region how many threads it has.
struct OpenMPRegion {
  Job job;
  const void* data;
  Barrier barrier;
};

void openmp_thread(void* opaque) {
  auto* region = static_cast<OpenMPRegion*>(opaque);
  const int id = openmp_thread_num.load()(), count = openmp_num_threads.load()();
  region->barrier.expect(count);
  region->job(Thread{id, count, &region->barrier}, region->data);
}

// Our own threads, for where PyTorch's are not known: they sleep between regions, so that they never
// take a core from PyTorch's. One region at a time; a caller that finds the pool busy works alone.
class Pool {
 public:
  // Never destroyed, since its threads may outlive static destructors; a forked child makes its own.
  static Pool& instance() {
    static std::mutex making;
    static Pool* pool = nullptr;
    static pid_t owner = 0;
    std::lock_guard<std::mutex> lock(making);
    if (owner != getpid()) pool = new Pool, owner = getpid();
    return *pool;
  }
  bool run(int count, Job job, const void* data) {
    std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
    if (!busy) return false;
    Barrier barrier;
    barrier.expect(count);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < count - 1) {
        const int id = static_cast<int>(threads_.size()) + 1;
        threads_.emplace_back([this, id] { serve(id); });
        threads_.back().detach();
      }
      job_ = job, data_ = data, barrier_ = &barrier, count_ = count, left_ = count - 1;
      ++round_;
    }
    wake_.notify_all();
    job(Thread{0, count, &barrier}, data);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
    return true;
  }

 private:
  void serve(int id) {
    unsigned seen = 0;
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return round_ != seen && id < count_; });
      seen = round_;
      const Thread me{id, count_, barrier_};
      const Job job = job_;
      const void* data = data_;
      lock.unlock();
      job(me, data);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }
  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job job_{};
  const void* data_{};
  Barrier* barrier_{};
  int count_ = 0, left_ = 0;
  unsigned round_ = 0;
};

}  // namespace

void use_openmp(void* parallel, void* thread_num, void* num_threads) {
  openmp_thread_num = reinterpret_cast<int (*)()>(thread_num);
  openmp_num_threads = reinterpret_cast<int (*)()>(num_threads);
  openmp_parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(parallel);
}

void run_parallel(int threads, Job job, const void* data) {
  if (threads > 1) {
    if (auto run = openmp_parallel.load()) {
      OpenMPRegion region{job, data, {}};
      run(openmp_thread, &region, static_cast<unsigned>(threads), 0);
      return;
    }
    if (Pool::instance().run(threads, job, data)) return;
  }
  Barrier alone;
  job(Thread{0, 1, &alone}, data);
}

}  // namespace unrolled
