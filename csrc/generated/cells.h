// The built-in cells; `make generate` writes it, a test compares.
#pragma once
#include "elman_identity.h"
#include "elman_relu.h"
#include "elman_sigmoid.h"
#include "elman_tanh.h"
#include "gru.h"
#include "lstm.h"

#define UNROLLED_CELLS(X) \
  X(ElmanTanh) \
  X(ElmanRelu) \
  X(ElmanSigmoid) \
  X(ElmanIdentity) \
  X(Lstm) \
  X(Gru)
