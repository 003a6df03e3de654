"""The layers against their peers on a CPU: torch.nn, JAX, ONNX Runtime, all in one run.

``python -m benchmarks.layers [--only SECTION …] [--cells …] [--sizes T,B,H …] [--rounds N] [--smallest]
[--json FILE]`` measures, in this order:

- ``training``: forward and backward of a fixed random cotangent, with the gradients of the input and
  of every parameter; ``inference``: forward alone, with no gradient. RNN, LSTM and GRU, one and two
  directions, D = H, float32.
- ``streaming``: one step of an LSTM for one sequence, the state carried on.
- ``ragged``: sequences of lengths evenly spread over 1 … T, in random order.
- ``model``: whole steps of training a cloze model, and where their time goes.

How it is measured:

- Every contestant of a row has the same weights and input. Its outputs, and in training its
  gradients, are compared with ``torch.nn``'s before it is timed (tolerances: ``measuring.py``); one
  that is wrong ends the program. What is not installed is named and left out.
- The contestants of a row take turns: in each of ``--rounds`` rounds everyone is timed once, over as
  many calls as take 20 ms, and another one begins. Ratios are those of the medians over the rounds.
  A row ends early, after three rounds at least, when it has taken ``PATIENCE`` seconds.
- Every library has ``torch.get_num_threads()`` threads. PyTorch's, ONNX Runtime's and OpenBLAS's
  threads go on spinning for a while after their work and would disturb the next contestant: so
  there is a pause between turns, and a call that is not timed wakes the threads up again. JAX's
  client has a pool of its own, made once, whose size is set by ``NPROC``; its calls run on the
  caller's thread (``jax_cpu_enable_async_dispatch`` off), which is quicker here for small ones.
- Compiling (JAX) and making a session (ONNX Runtime) are not timed. Of several ways to call a peer
  the one that is quickest here is timed.
- GFLOP/s count the matrix products alone: 2·T·B·G·H·(D+H) for a direction's forward pass, three
  times that for training. They stand beside the peaks that were measured in the same run
  (``benchmarks.peaks``).
"""
