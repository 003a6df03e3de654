// The shared library's own tests, by its C interface alone. Every instruction set that this processor
// has is compared with serial, and serial with finite differences. Every buffer has exactly the size
// that unrolled.h states, and scratch memory and outputs begin as NaN: under AddressSanitizer an
// overrun by one number is an error, and a number that was never written is a difference. No call may
// allocate memory: every `new` is counted while one runs, under a sanitizer every `malloc` too.
//
//     unrolled_tests [CASES]      so many random choices of options a shape; 3 unless told
#include "../unrolled.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNROLLED_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNROLLED_SANITIZER 1
#endif
#endif

int test_math_serial();
#if defined(__x86_64__)
int test_math_avx2();
int test_math_avx512();
#elif defined(__aarch64__)
int test_math_neon();
#endif

// --- What is allocated while a kernel runs ---------------------------------------------------------

namespace {

std::atomic<bool> counting{false};
std::atomic<int> allocations{0};

void note_allocation() {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

#if defined(UNROLLED_SANITIZER)
// Its `new` is left as it is, so that it still knows one that is freed by another's `delete`.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, size_t),
                                                         void (*)(const volatile void*));
void watch_allocations() {
  __sanitizer_install_malloc_and_free_hooks([](const volatile void*, size_t) { note_allocation(); },
                                            [](const volatile void*) {});
}
#else
void watch_allocations() {}
void* operator new(size_t n) {
  note_allocation();
  if (void* p = std::malloc(n ? n : 1)) return p;
  throw std::bad_alloc();
}
void* operator new(size_t n, const std::nothrow_t&) noexcept {
  note_allocation();
  return std::malloc(n ? n : 1);
}
void* operator new(size_t n, std::align_val_t alignment) {
  note_allocation();
  const size_t whole = (n + static_cast<size_t>(alignment) - 1) / static_cast<size_t>(alignment);
  if (void* p = std::aligned_alloc(static_cast<size_t>(alignment), whole * static_cast<size_t>(alignment))) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace {

using Index = int64_t;
constexpr int S = UNROLLED_STATES;

int allocating = 0;        // calls that did
bool may_allocate = true;  // where other threads do meanwhile, and where the first call starts threads

template <class Call>
int allocated_by(void (*function)(const Call*), const Call* call) {
  allocations = 0, counting = true;
  function(call);
  counting = false;
  return allocations;
}

template <class Call>
void run_call(void (*function)(const Call*), const Call* call, const char* name, const char* what) {
  if (may_allocate) return function(call);
  const int count = allocated_by(function, call);
  if (count && ++allocating <= 3)
    std::printf("FAILED: %s, %s with at most %d threads, allocates memory %d times\n", name, what,
                static_cast<int>(call->threads), count);
}

// Numbers that are the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 1) {}
  uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_ * 0x2545F4914F6CDD1Dull >> 16;
  }
  bool flip() { return next() >> 7 & 1; }
  Index below(Index n) { return static_cast<Index>(next() % static_cast<uint64_t>(n)); }
  double uniform() { return static_cast<double>(next() % 2000001) / 1e6 - 1; }  // -1 … 1

 private:
  uint64_t state_;
};

// Exactly n numbers on the heap, aligned to no more than one number needs.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Index n) : n_(n), memory_(new char[(n + 1) * sizeof(T)]) {
    std::memset(data(), 0xFF, n * sizeof(T));
  }
  T* data() const { return memory_ ? reinterpret_cast<T*>(memory_.get() + sizeof(T)) : nullptr; }
  T& operator[](Index i) const { return data()[i]; }
  Index size() const { return n_; }
  explicit operator bool() const { return static_cast<bool>(memory_); }

 private:
  Index n_ = 0;
  std::shared_ptr<char[]> memory_;
};

struct Shape {
  Index T, B, D, H;
};
struct Options {
  bool lengths, resets, reverse, initial, keep, every, norms, clip, bias, second_bias, vectors, d_states,
      d_finals;
  int layout, d_layout, unwanted;
};

// What a call is given, the same for every instruction set.
template <class T>
struct Given {
  const unrolled_cell* cell;
  Shape shape;
  Options options;
  Index rows;
  Buffer<T> x, weight_in, bias[2], weight, vectors, noise, initial[S], d_states[S], d_finals[S];
  Index x_step, x_batch, noise_step, d_step, d_batch;
  Buffer<int64_t> lengths;
  Buffer<uint8_t> resets;

  Given(const unrolled_cell* c, Shape size, Options o, uint64_t seed, double scale = 1)
      : cell(c), shape(size), options(o) {
    Random random(seed);
    const auto [steps, batch, D, H] = shape;
    const Index P = cell->projected, N = cell->noise;
    const auto make = [&](Index n, double by) {
      Buffer<T> b(n);
      for (Index i = 0; i < n; ++i) b[i] = static_cast<T>(by * random.uniform());
      return b;
    };
    const double weights = 1 / std::sqrt(static_cast<double>(H));
    x = make(o.layout == 2 ? steps * D : steps * batch * D, scale);
    x_step = o.layout == 0 ? batch * D : D;
    x_batch = o.layout == 0 ? D : o.layout == 1 ? steps * D : 0;
    weight_in = make(P * H * D, weights);
    if (o.bias) bias[0] = make(P * H, scale);
    if (o.second_bias) bias[1] = make(P * H, 1);
    if (cell->weight_blocks) weight = make(cell->weight_blocks * H * H, weights);
    if (cell->vectors && o.vectors) vectors = make(cell->vectors * H, 1);
    noise_step = o.layout == 2 ? 0 : batch * N * H;
    if (N) noise = Buffer<T>((noise_step ? steps : 1) * batch * N * H);
    for (Index i = 0; i < noise.size(); ++i) noise[i] = static_cast<T>((random.uniform() + 1) / 2);
    d_step = o.d_layout == 2 ? 0 : o.d_layout == 1 ? H : batch * H;
    d_batch = o.d_layout == 2 ? 0 : o.d_layout == 1 ? steps * H : H;
    for (int s = 0; s < cell->states; ++s) {
      if (o.initial) initial[s] = make(batch * H, 1);
      if (o.d_states && (s == 0 || !o.d_finals)) d_states[s] = make(o.d_layout == 2 ? H : steps * batch * H, 1);
      if (o.d_finals) d_finals[s] = make(batch * H, 1);
    }
    rows = steps * batch;
    if (o.lengths) {
      lengths = Buffer<int64_t>(batch);
      rows = 0;
      for (Index b = 0; b < batch; ++b) {
        lengths[b] = b % 5 == 3 ? 0 : random.below(steps + 1);
        rows += lengths[b];
      }
    }
    if (o.resets) {
      resets = Buffer<uint8_t>(steps * batch);
      for (Index i = 0; i < steps * batch; ++i) resets[i] = random.below(4) == 0;
    }
  }
  Index length(Index b) const { return lengths ? lengths[b] : shape.T; }
};

// What comes back, by name.
template <class T>
struct Result {
  std::vector<std::pair<std::string, Buffer<T>>> parts;
  Buffer<T> add(const std::string& name, Index n) {
    parts.emplace_back(name, Buffer<T>(n));
    return parts.back().second;
  }
  const Buffer<T>& operator[](const std::string& name) const {
    for (const auto& part : parts)
      if (part.first == name) return part.second;
    std::abort();
  }
};

// Forward, and backward unless `threads_back` is 0; with as many threads if it is -1.
template <class T>
Result<T> run(const unrolled_kernel* kernel, const Given<T>& given, Index threads, Index threads_back = -1) {
  const Options& o = given.options;
  const unrolled_cell* cell = given.cell;
  const auto [steps, batch, D, H] = given.shape;
  const Index P = cell->projected, K = cell->kept, blocks = cell->weight_blocks;
  Result<T> result;
  unrolled_call call = {};
  call.steps = steps, call.batch = batch, call.inputs = D, call.units = H;
  call.threads = threads, call.reverse = o.reverse, call.keep = o.keep, call.every = o.every;
  call.x = given.x.data(), call.x_step = given.x_step, call.x_batch = given.x_batch;
  call.lengths = given.lengths.data(), call.resets = given.resets.data();
  call.weight_in = given.weight_in.data(), call.weight = given.weight.data(), call.vectors = given.vectors.data();
  call.noise = given.noise.data(), call.noise_step = given.noise_step, call.noise_batch = cell->noise * H;
  for (int i = 0; i < 2; ++i) call.bias[i] = given.bias[i].data();
  Buffer<T> scratch_states[S];
  for (int s = 0; s < cell->states; ++s) {
    call.initial[s] = given.initial[s].data();
    if (s == 0 || o.every || o.keep) {
      call.states[s] = result.add("state " + std::to_string(s), steps * batch * H).data();
    } else {
      scratch_states[s] = Buffer<T>(batch * H);
      call.states[s] = scratch_states[s].data();
    }
    call.finals[s] = result.add("final " + std::to_string(s), batch * H).data();
  }
  const Buffer<T> kept(given.rows * (cell->staged ? P + K : std::max(P, K)) * H);
  call.kept = kept.data();
  const auto bytes = [](Index n) { return Buffer<char>(n); };
  const Buffer<char> packed = bytes(kernel->packed_bytes(&call));
  {
    const Buffer<char> work = bytes(kernel->work_bytes(&call, 0));
    call.packed = packed.data(), call.work = work.data();
    run_call(kernel->forward, &call, cell->name, "forward");
  }
  if (!o.keep) {  // again, with weights that are packed already
    const Buffer<T> first = result["state 0"];
    const Buffer<T> again(first.size());
    const Buffer<char> work = bytes(kernel->work_bytes(&call, 0));
    call.states[0] = again.data(), call.work = work.data(), call.packed_ready = 1;
    for (int s = 0; s < S; ++s) call.finals[s] = nullptr;
    run_call(kernel->forward, &call, cell->name, "forward");
    if (std::memcmp(first.data(), again.data(), first.size() * sizeof(T))) {
      std::printf("FAILED: %s: packed_ready gives other states\n", cell->name);
      std::exit(1);
    }
    return result;
  }
  if (!threads_back) return result;
  if (threads_back > 0) call.threads = threads_back;
  call.packed = nullptr, call.work = nullptr;
  call.clip = o.clip ? 0.5 : 0;
  for (int s = 0; s < cell->states; ++s) {
    call.finals[s] = nullptr;
    call.d_states[s] = given.d_states[s].data();
    call.d_step[s] = given.d_step, call.d_batch[s] = given.d_batch;
    call.d_finals[s] = given.d_finals[s].data();
    if (o.norms) call.norms[s] = result.add("norm " + std::to_string(s), steps * batch).data();
    if (o.unwanted != 1) call.d_initial[s] = result.add("d initial " + std::to_string(s), batch * H).data();
  }
  if (o.unwanted != 2) call.d_x = result.add("d x", steps * batch * D).data();
  if (o.unwanted != 3) call.d_weight_in = result.add("d weight_in", P * H * D).data();
  if (o.unwanted != 4) call.d_bias = result.add("d bias", P * H).data();
  if (o.unwanted != 5 && blocks) call.d_weight = result.add("d weight", blocks * H * H).data();
  if (o.unwanted != 4 && cell->vectors) call.d_vectors = result.add("d vectors", cell->vectors * H).data();
  const Buffer<char> work = bytes(kernel->work_bytes(&call, 1));
  call.work = work.data();
  run_call(kernel->backward, &call, cell->name, "backward");
  return result;
}

// The largest difference, in units of rounding at 1 or at the largest number there, whichever is more.
template <class T>
double difference(const Result<T>& a, const Result<T>& b, std::string* where) {
  double worst = 0;
  for (size_t p = 0; p < a.parts.size(); ++p) {
    const auto& [name, expected] = a.parts[p];
    const Buffer<T>& got = b.parts[p].second;
    double largest = 1;
    for (Index i = 0; i < expected.size(); ++i)
      if (std::abs(expected[i]) > largest) largest = std::abs(expected[i]);
    for (Index i = 0; i < expected.size(); ++i) {
      const double found = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i])) / largest /
                           static_cast<double>(std::numeric_limits<T>::epsilon());
      if (found <= worst) continue;  // false if it is NaN
      *where = name + "[" + std::to_string(i) + "]";
      if (std::isnan(found)) {
        *where += std::isnan(expected[i]) ? ", which is NaN in serial too," : ", which is NaN,";
        return std::numeric_limits<double>::infinity();
      }
      worst = found;
    }
  }
  return worst;
}

template <class T>
bool same_bits(const Result<T>& a, const Result<T>& b, std::string* where) {
  for (size_t p = 0; p < a.parts.size(); ++p) {
    const Buffer<T>&x = a.parts[p].second, &y = b.parts[p].second;
    if (!std::memcmp(x.data(), y.data(), x.size() * sizeof(T))) continue;
    *where = a.parts[p].first;
    return false;
  }
  return true;
}

Options choose(Random& random) {
  Options o = {};
  for (bool* option : {&o.lengths, &o.resets, &o.reverse, &o.initial, &o.every, &o.norms, &o.clip, &o.second_bias,
                       &o.d_states, &o.d_finals})
    *option = random.flip();
  o.keep = random.below(5) != 0;
  o.bias = random.below(4) != 0, o.vectors = random.below(4) != 0;
  if (!o.d_states && !o.d_finals) o.d_states = true;
  o.layout = static_cast<int>(random.below(3)), o.d_layout = static_cast<int>(random.below(3));
  o.unwanted = static_cast<int>(random.below(12));
  return o;
}
Options plain() {
  Options o = {};
  o.initial = o.keep = o.norms = o.bias = o.second_bias = o.vectors = o.d_states = o.d_finals = true;
  return o;
}
std::string describe(const Shape& s, const Options& o) {
  char text[300];
  std::snprintf(text, sizeof text,
                "T=%d B=%d D=%d H=%d lengths=%d resets=%d reverse=%d initial=%d keep=%d every=%d norms=%d clip=%d "
                "bias=%d%d vectors=%d d_states=%d d_finals=%d layout=%d%d unwanted=%d",
                static_cast<int>(s.T), static_cast<int>(s.B), static_cast<int>(s.D), static_cast<int>(s.H), o.lengths,
                o.resets, o.reverse, o.initial, o.keep, o.every, o.norms, o.clip, o.bias, o.second_bias, o.vectors,
                o.d_states, o.d_finals, o.layout, o.d_layout, o.unwanted);
  return text;
}

// Small ones for every edge; large ones so that the work is shared out: by sequences, by units, and, with
// one sequence of few units, by neither in the loop over time; and more than one chunk of each depth.
const Shape shapes[] = {
    {1, 1, 1, 1},     {1, 7, 17, 33},  {7, 1, 7, 7},    {17, 3, 33, 7},  {7, 33, 1, 17},   {33, 2, 17, 33},
    {17, 1, 7, 100},  {17, 3, 33, 100}, {9, 33, 17, 100}, {150, 1, 7, 64}, {3, 5, 300, 17}, {2, 3, 7, 270},
};
constexpr double tolerance = 300;  // roundings: sums of a few hundred terms, over up to 150 steps

struct Tally {
  int calls = 0, failures = 0;
  double worst = 0;
};

std::vector<std::string> supported() {
  std::vector<std::string> names;
  std::string name;
  for (const char* c = unrolled_built(); *c; ++c) {
    if (*c != ' ') {
      name += *c;
      continue;
    }
    if (unrolled_supports(name.c_str())) names.push_back(name);
    name.clear();
  }
  if (!name.empty() && unrolled_supports(name.c_str())) names.push_back(name);
  return names;
}

// Every shape and choice of options, with 1, 2 and 3 threads, which may change between forward and
// backward, against serial with one.
template <class T>
int compare(int cell, int cases) {
  const unrolled_kernel* serial = unrolled_kernel_at("serial", sizeof(T), cell);
  const auto names = supported();
  std::vector<Tally> tallies(names.size());
  uint64_t seed = 1;
  for (const Shape& shape : shapes)
    for (int i = 0; i < cases; ++i) {
      Random random(++seed * 31 + static_cast<uint64_t>(cell) * 1000003);
      const Options options = i ? choose(random) : plain();
      const Given<T> given(serial->cell, shape, options, seed);
      const Result<T> expected = run(serial, given, 1);
      for (size_t n = 0; n < names.size(); ++n) {
        const unrolled_kernel* kernel = unrolled_kernel_at(names[n].c_str(), sizeof(T), cell);
        const std::pair<int, int> counts[] = {{1, 1}, {2, 2}, {3, 3}, {2, 3}};
        for (const auto& [threads, threads_back] : counts) {
          std::string where;
          const double found = difference(expected, run(kernel, given, threads, threads_back), &where);
          ++tallies[n].calls;
          tallies[n].worst = std::max(tallies[n].worst, found);
          if (found <= tolerance) continue;
          if (++tallies[n].failures <= 3)
            std::printf("FAILED: %s %s float%d, %d threads (backward %d), %s: %s differs by %g roundings\n",
                        names[n].c_str(), serial->cell->name, static_cast<int>(8 * sizeof(T)), threads, threads_back,
                        describe(shape, options).c_str(), where.c_str(), found);
        }
      }
    }
  int failures = 0;
  for (size_t n = 0; n < names.size(); ++n) {
    const Tally& tally = tallies[n];
    std::printf("%-7s %-14s float%d  %d calls, at most %.0f roundings from serial%s\n", names[n].c_str(),
                serial->cell->name, static_cast<int>(8 * sizeof(T)), tally.calls, tally.worst,
                tally.failures ? "  FAILED" : "");
    failures += tally.failures;
  }
  std::fflush(stdout);
  return failures;
}

// Serial in float64 against central differences of L = Σ d_state·state + Σ d_final·final.
int differentiate(int cell) {
  const unrolled_kernel* serial = unrolled_kernel_at("serial", 8, cell);
  const Shape shape = {4, 5, 2, 3};
  double worst = 0;
  int failures = 0;
  for (int i = 0; i < 4; ++i) {
    Options o = plain();
    o.reverse = i & 1, o.resets = o.lengths = i & 2;
    Given<double> given(serial->cell, shape, o, 77 + static_cast<uint64_t>(i));
    for (int s = 1; s < serial->cell->states; ++s) {
      Random random(5);
      given.d_states[s] = Buffer<double>(shape.T * shape.B * shape.H);
      for (Index j = 0; j < given.d_states[s].size(); ++j) given.d_states[s][j] = random.uniform();
    }
    const Result<double> result = run(serial, given, 1);
    const auto loss = [&] {
      const Result<double> r = run(serial, given, 1, 0);
      double total = 0;
      for (int s = 0; s < serial->cell->states; ++s) {
        const Buffer<double>&state = r["state " + std::to_string(s)], &last = r["final " + std::to_string(s)];
        for (Index j = 0; j < state.size(); ++j) total += given.d_states[s][j] * state[j];
        for (Index j = 0; j < last.size(); ++j) total += given.d_finals[s][j] * last[j];
      }
      return total;
    };
    const auto check = [&](const std::string& name, const Buffer<double>& input) {
      const Buffer<double>& gradient = result[name];
      for (Index j = 0; j < input.size(); ++j) {
        const double value = input[j], by = 1e-5;
        input[j] = value + by;
        const double above = loss();
        input[j] = value - by;
        const double below = loss();
        input[j] = value;
        const double error = std::abs((above - below) / (2 * by) - gradient[j]) / std::max(1.0, std::abs(gradient[j]));
        worst = std::max(worst, error);
        if (error < 1e-7) continue;
        if (++failures <= 3)
          std::printf("FAILED: serial %s, %s: %s[%d] is %g, by differences %g\n", serial->cell->name,
                      describe(shape, o).c_str(), name.c_str(), static_cast<int>(j), gradient[j],
                      (above - below) / (2 * by));
      }
    };
    check("d x", given.x);
    check("d weight_in", given.weight_in);
    check("d bias", given.bias[0]);
    if (serial->cell->weight_blocks) check("d weight", given.weight);
    if (serial->cell->vectors) check("d vectors", given.vectors);
    for (int s = 0; s < serial->cell->states; ++s) check("d initial " + std::to_string(s), given.initial[s]);
  }
  std::printf("serial  %-14s float64  gradients within %.1g of finite differences%s\n", serial->cell->name, worst,
              failures ? "  FAILED" : "");
  return failures;
}

// Large inputs give numbers, a NaN stays in its sequence, and the same call gives the same bits.
template <class T>
int endure(const std::string& set, int cell) {
  const unrolled_kernel* kernel = unrolled_kernel_at(set.c_str(), sizeof(T), cell);
  int failures = 0;
  const auto fail = [&](const char* what, Index threads, const std::string& where) {
    std::printf("FAILED: %s %s float%d, %d threads: %s, in %s\n", set.c_str(), kernel->cell->name,
                static_cast<int>(8 * sizeof(T)), static_cast<int>(threads), what, where.c_str());
    ++failures;
  };
  for (const Shape& shape : {Shape{5, 7, 7, 33}, Shape{17, 3, 7, 100}})
    for (const Index threads : {1, 2}) {
      std::string where;
      const Given<T> large(kernel->cell, shape, plain(), 3, 1e4);
      for (const auto& [name, values] : run(kernel, large, threads).parts)
        for (Index i = 0; i < values.size(); ++i)
          if (std::isnan(values[i])) {
            fail("inputs of 1e4 give NaN", threads, name);
            break;
          }
      Given<T> given(kernel->cell, shape, plain(), 4);
      const Result<T> clean = run(kernel, given, threads);
      if (!same_bits(clean, run(kernel, given, threads), &where))
        fail("a second call gives other bits", threads, where);
      const auto [steps, batch, D, H] = shape;
      for (Index d = 0; d < D; ++d) given.x[(2 * batch + 1) * D + d] = static_cast<T>(NAN);  // step 2 of sequence 1
      const Result<T> spoilt = run(kernel, given, threads);
      for (size_t p = 0; p < clean.parts.size(); ++p) {
        const auto& [name, a] = clean.parts[p];
        const Buffer<T>& b = spoilt.parts[p].second;
        if (!(name[0] == 's' || name[0] == 'f' || name[0] == 'n' || name == "d x" || name[2] == 'i')) continue;
        const Index width = name == "d x" ? D : name[0] == 'n' ? 1 : H;
        for (Index i = 0; i < a.size(); ++i)
          if (i / width % batch != 1 && std::memcmp(&a[i], &b[i], sizeof(T))) {
            fail("a NaN in one sequence changes another", threads, name);
            break;
          }
      }
      const Buffer<T>& states = spoilt["state 0"];
      if (!std::isnan(states[((steps - 1) * batch + 1) * H]))
        fail("a NaN is lost in its own sequence", threads, "state 0");
    }
  return failures;
}

// The library's own threads are started when they are first needed, which is no call's doing.
void start_threads() {
  const Given<float> given(unrolled_kernel_at("serial", 4, 0)->cell, {9, 33, 17, 100}, plain(), 1);
  run(unrolled_kernel_at("serial", 4, 0), given, 3);
}

int check_that_allocations_are_counted() {
  const unrolled_call call = {};
  const auto allocate = [](const unrolled_call*) { ::operator delete(::operator new(1)); };
  const int count = allocated_by<unrolled_call>(allocate, &call);
  if (count != 1) std::printf("FAILED: one allocation is counted as %d\n", count);
  return count != 1;
}

// Several callers at once, each with threads of its own.
int crowd() {
  may_allocate = true;
  const auto names = supported();
  int failures = 0;
  for (const std::string& set : names)
    for (const int cell : {0, 4, 5}) {
      const unrolled_kernel* kernel = unrolled_kernel_at(set.c_str(), 4, cell);
      if (!kernel) continue;
      const Shape crowded[] = {{9, 33, 17, 100}, {17, 3, 33, 100}, {150, 1, 7, 64}, {9, 20, 17, 100}};
      constexpr int callers = 4;
      int wrong[callers] = {};
      std::vector<std::thread> threads;
      for (int c = 0; c < callers; ++c)
        threads.emplace_back([&, c] {
          Options o = plain();
          o.reverse = c & 1, o.lengths = o.resets = c & 2;
          const Given<float> given(kernel->cell, crowded[c], o, 9);
          const Result<float> expected = run(kernel, given, 1);
          std::string where;
          for (int i = 0; i < 3; ++i)
            wrong[c] += !(difference(expected, run(kernel, given, 1 + (c + i) % 3), &where) <= tolerance);
        });
      for (std::thread& thread : threads) thread.join();
      for (int c = 0; c < callers; ++c) {
        if (!wrong[c]) continue;
        std::printf("FAILED: %s %s with %d callers at once: caller %d\n", set.c_str(), kernel->cell->name, callers, c);
        ++failures;
      }
    }
  std::printf("four callers at once: %s\n", failures ? "FAILED" : "as alone");
  return failures;
}

// Softmax and cross-entropy by their definition, in float64, against every instruction set.
template <class T>
int cross_entropy(const std::string& set) {
  const unrolled_cross_entropy* kernel = unrolled_cross_entropy_of(set.c_str(), sizeof(T));
  constexpr Index sizes[][3] = {{1, 1, 2}, {7, 33, 7}, {33, 7, 33}, {131, 200, 101}};
  int failures = 0;
  for (const auto& [N, E, C] : sizes)
    for (int asked = 0; asked < 16; ++asked)
      for (const Index threads : {1, 2, 3}) {
        Random random(static_cast<uint64_t>(N * 16 + asked));
        const bool biased = asked & 8;
        const Buffer<T> x(N * E), weight(C * E), bias = biased ? Buffer<T>(C) : Buffer<T>(), losses(N);
        for (const Buffer<T>* buffer : {&x, &weight, &bias})
          for (Index i = 0; i < buffer->size(); ++i) (*buffer)[i] = static_cast<T>(random.uniform());
        const Buffer<int64_t> targets(N);
        for (Index n = 0; n < N; ++n) targets[n] = random.below(C);
        const Buffer<T> d_x = asked & 1 ? Buffer<T>(N * E) : Buffer<T>();
        const Buffer<T> d_weight = asked & 2 ? Buffer<T>(C * E) : Buffer<T>();
        const Buffer<T> d_bias = asked & 4 ? Buffer<T>(C) : Buffer<T>();
        unrolled_cross_entropy_call call = {N, E, C, threads, x.data(), weight.data(), bias.data(), targets.data(),
                                      losses.data(), d_x.data(), d_weight.data(), d_bias.data(), nullptr};
        const Buffer<char> work(kernel->work_bytes(&call));
        call.work = work.data();
        run_call(kernel->run, &call, "cross-entropy", set.c_str());

        std::vector<double> right_x(N * E), right_weight(C * E), right_bias(C), right_losses(N), p(C);
        for (Index n = 0; n < N; ++n) {
          double all = 0;
          for (Index c = 0; c < C; ++c) {
            double logit = biased ? bias[c] : 0;
            for (Index e = 0; e < E; ++e) logit += double{x[n * E + e]} * weight[c * E + e];
            all += p[c] = std::exp(logit);
          }
          right_losses[n] = -std::log(p[targets[n]] / all);
          for (Index c = 0; c < C; ++c) {
            const double d = (p[c] / all - (c == targets[n])) / static_cast<double>(N);
            right_bias[c] += d;
            for (Index e = 0; e < E; ++e) {
              right_x[n * E + e] += d * weight[c * E + e];
              right_weight[c * E + e] += d * x[n * E + e];
            }
          }
        }
        const auto check = [&](const char* name, const Buffer<T>& got, const std::vector<double>& expected) {
          double scale = 0, worst = 0;
          for (const double value : expected) scale = std::max(scale, std::abs(value));
          for (Index i = 0; i < got.size(); ++i) {
            const double off = std::abs(got[i] - expected[i]) / scale;
            worst = off <= worst ? worst : off;  // a NaN is the worst
          }
          if (worst <= 200 * static_cast<double>(std::numeric_limits<T>::epsilon())) return;
          ++failures;
          std::printf("FAILED: %s cross-entropy float%d, N%d E%d C%d, %d threads: %s is off by %g\n", set.c_str(),
                      static_cast<int>(8 * sizeof(T)), static_cast<int>(N), static_cast<int>(E),
                      static_cast<int>(C), static_cast<int>(threads), name, worst);
        };
        check("the loss", losses, right_losses);
        check("d_x", d_x, right_x);
        check("d_weight", d_weight, right_weight);
        check("d_bias", d_bias, right_bias);
      }
  return failures;
}

int mathematics() {
  int failures = test_math_serial();
  for (const std::string& set : supported()) {
#if defined(__x86_64__)
    if (set == "avx2") failures += test_math_avx2();
    if (set == "avx512") failures += test_math_avx512();
#elif defined(__aarch64__)
    if (set == "neon") failures += test_math_neon();
#endif
  }
  return failures;
}

}  // namespace

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 3;
  if (unrolled_version() != UNROLLED_VERSION) {
    std::printf("FAILED: the library has interface %d, the header %d\n", static_cast<int>(unrolled_version()),
                UNROLLED_VERSION);
    return 1;
  }
  std::printf("built: %s; here:", unrolled_built());
  for (const std::string& set : supported()) std::printf(" %s", set.c_str());
  std::printf("\n");
  watch_allocations();
  int failures = mathematics() + check_that_allocations_are_counted();
  start_threads();
  may_allocate = false;
  for (int cell = 0; unrolled_kernel_at("serial", 8, cell); ++cell) {
    failures += differentiate(cell);
    failures += compare<float>(cell, cases) + compare<double>(cell, cases);
    for (const std::string& set : supported()) failures += endure<float>(set, cell) + endure<double>(set, cell);
  }
  for (const std::string& set : supported()) failures += cross_entropy<float>(set) + cross_entropy<double>(set);
  failures += allocating;
  std::printf("no call allocates memory%s\n", allocating ? ": FAILED" : "");
  failures += crowd();
  std::printf(failures ? "%d failures\n" : "all passed\n", failures);
  return failures != 0;
}
