// The C interface of the kernels: recurrent networks over time, forward and backward.
//
// T steps, B sequences, D input features, H units. A cell (see `unrolled_cell`) has P blocks of H in its
// projection, G in the product with its state, and S state tensors. Every buffer belongs to the
// caller and is only used during the call. Rows are contiguous; float32 or float64 throughout, as
// the kernel says. Nothing is checked here: the Python side does that, once, before it calls.
#pragma once
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

#define UNROLLED_API __attribute__((visibility("default")))
#define UNROLLED_VERSION 7
#define UNROLLED_STATES 4  // state tensors a cell may have

// What a compiled cell computes, and what it calls the parameters of its Python class.
typedef struct {
  const char* name;
  const char* projection;    // "weight bias …": project(x) = x weightᵀ + the sum of the biases
  const char* weight;        // the product with the state; "" if there is none
  const char* vector_names;  // parameters the step uses unit by unit
  int64_t transposed;        // 1: the weight is [G*H, H]; 0: [H, G*H]; of several: one after another
  int64_t staged;            // 1: the step has several products, or sums over units
  int64_t noise;             // blocks of H that are given for each step
  int64_t projected, products, vectors, states;
  int64_t kept;              // blocks of H that the forward pass keeps for the backward pass
  int64_t grads;             // distinct blocks of H of gradients
  int64_t weight_blocks;     // blocks of H × H of the weights of all products
} unrolled_cell;

// One call, forward or backward. Pointers that are "or 0" may be null. Strides count elements.
typedef struct {
  int64_t steps, batch, inputs, units;  // T, B, D, H
  int64_t threads;                      // at most so many
  int64_t reverse;                      // 1: time runs from the last step to the first
  int64_t keep;                         // forward: 1: keep what the backward pass needs
  int64_t packed_ready;                 // forward: 1: `packed` holds these weights already

  const void* x;                        // [T, B, D]
  int64_t x_step, x_batch;
  const int64_t* lengths;               // [B], each 0 … T, or 0
  const int64_t* offsets;               // [T], or 0. With it every array "[T, B, …]" but resets and norms
                                        // is packed: its rows are the real steps alone, sequence b of step t
                                        // at offsets[t] + b. Lengths then fall from sequence to sequence
  const uint8_t* resets;                // [T, B], or 0: 1 where a sequence begins before that step
  const void* noise;                    // [T, B, noise*H], or 0 if the cell has none
  int64_t noise_step, noise_batch;
  const void* weight_in;                // [P*H, D], or 0: x is the projection itself, D = P*H
  const void* bias[2];                  // [P*H] each, or 0
  const void* weight;                   // as `transposed` says; 0 if the cell has no product
  const void* vectors;                  // [vectors, H], or 0 for zeros
  const void* initial[UNROLLED_STATES]; // [B, H] each, or 0 for zeros

  void* states[UNROLLED_STATES];        // [T, B, H], zero beyond a sequence's length. Without `keep`,
  int64_t every;                        // states but the first are [B, H] unless `every` is 1
  void* finals[UNROLLED_STATES];        // [B, H] after each sequence's last step, or 0
  void* kept;                           // [R, slots, H], R = the sum of the lengths, slots the larger of P
                                        // and kept (staged: their sum): scratch
                                        // forward; with `keep`, handed on to the backward pass
  void* packed;                         // unrolled_packed_bytes()
  void* work;                           // unrolled_work_bytes()

  // Backward only.
  const void* d_states[UNROLLED_STATES];  // ∂L/∂state_t [T, B, H], or 0
  int64_t d_step[UNROLLED_STATES], d_batch[UNROLLED_STATES];
  const void* d_finals[UNROLLED_STATES];  // [B, H], or 0
  void* d_x;                              // [T, B, D], or 0 if not wanted, as all that follow
  void* d_weight_in;                      // [P*H, D]
  void* d_bias;                           // [P*H]
  void* d_weight;                         // as weight
  void* d_vectors;                        // [vectors, H]
  void* d_initial[UNROLLED_STATES];       // [B, H]
  void* norms[UNROLLED_STATES];           // [T, B]: the 2-norm of ∂L/∂state_t; zero beyond the length
  double clip;                            // where that norm is above this, ∂L/∂state_t is scaled down to
                                          // it before it goes on, state by state; 0: it never is
} unrolled_call;

typedef struct {
  const unrolled_cell* cell;
  void (*forward)(const unrolled_call*);
  void (*backward)(const unrolled_call*);
  int64_t (*packed_bytes)(const unrolled_call*);
  int64_t (*work_bytes)(const unrolled_call*, int64_t backward);
} unrolled_kernel;

// The sweep over time of any cell that was compiled for the same vectors (see step.h).
typedef struct {
  void (*forward)(const void* cell, const unrolled_call*);
  void (*backward)(const void* cell, const unrolled_call*);
  int64_t (*packed_bytes)(const void* cell, const unrolled_call*);
  int64_t (*work_bytes)(const void* cell, const unrolled_call*, int64_t backward);
  int64_t layout;  // of what the two pass each other: a cell of another layout is not run
} unrolled_engine;

// Softmax over C classes and its cross-entropy, of N rows of E features; every array is dense.
typedef struct {
  int64_t rows, inputs, classes;  // N, E, C
  int64_t threads;                // at most so many
  const void* x;                  // [N, E]
  const void* weight;             // [C, E]: logits = x weightᵀ + bias
  const void* bias;               // [C], or 0
  const int64_t* targets;         // [N], each 0 … C-1
  void* losses;                   // [N]: -log softmax(logits)[target]
  void* d_x;                      // [N, E]: gradient of the mean loss, or 0 if not wanted, as below
  void* d_weight;                 // [C, E]
  void* d_bias;                   // [C]
  void* work;                     // work_bytes()
} unrolled_cross_entropy_call;

typedef struct {
  void (*run)(const unrolled_cross_entropy_call*);
  int64_t (*work_bytes)(const unrolled_cross_entropy_call*);
} unrolled_cross_entropy;

// Version of this interface, so that a stale library is not called.
UNROLLED_API int64_t unrolled_version(void);
// Names of the instruction sets that were built in, separated by spaces, worst first.
UNROLLED_API const char* unrolled_built(void);
// Whether this processor has an instruction set that was built in.
UNROLLED_API int64_t unrolled_supports(const char* instruction_set);
// The i-th kernel of an instruction set for elements of 4 or 8 bytes, or 0 beyond the last.
UNROLLED_API const unrolled_kernel* unrolled_kernel_at(const char* instruction_set, int64_t element_bytes,
                                                       int64_t i);
// What runs a cell of one's own, of an instruction set for elements of 4 or 8 bytes, or 0.
UNROLLED_API const unrolled_engine* unrolled_engine_of(const char* instruction_set, int64_t element_bytes);
// The cross-entropy of an instruction set for elements of 4 or 8 bytes, or 0.
UNROLLED_API const unrolled_cross_entropy* unrolled_cross_entropy_of(const char* instruction_set,
                                                                     int64_t element_bytes);
// Run parallel regions on this OpenMP runtime (its GOMP_parallel, omp_get_thread_num and
// omp_get_num_threads) instead of threads of our own.
UNROLLED_API void unrolled_use_openmp(void* parallel, void* thread_num, void* num_threads);
// Multiply-adds a second that one thread reaches in registers, in GFLOP/s, with float32.
UNROLLED_API double unrolled_fma_peak(const char* instruction_set);

#if defined(__cplusplus)
}
#endif
