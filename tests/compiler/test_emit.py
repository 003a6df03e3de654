"""The C++ of a step, compiled and run, against the schedule interpreted in PyTorch."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.compare import assert_close_by_name
from tests.compiler.interpret import CELLS, backward, forward, leaves_of
from tests.compiler.test_schedule import draw
from unrolled.cells import Elman
from unrolled.compiler import Unsupported, compiled, emit, schedule, struct_name, trace

CSRC = Path(__file__).parents[2] / "csrc"

# Reads one unit's leaves and prints its results, in the order of the structs' arrays.
PROGRAM = r"""
#include <cmath>
#include <cstdio>
#include <string>

struct V {
  double v;
  V() = default;
  explicit V(double a) : v(a) {}
};
static inline V operator+(V a, V b) { return V(a.v + b.v); }
static inline V operator-(V a, V b) { return V(a.v - b.v); }
static inline V operator*(V a, V b) { return V(a.v * b.v); }
static inline V operator/(V a, V b) { return V(a.v / b.v); }
static inline V operator-(V a) { return V(-a.v); }
static inline bool operator<(V a, V b) { return a.v < b.v; }
static inline bool operator>(V a, V b) { return a.v > b.v; }
static inline bool operator<=(V a, V b) { return a.v <= b.v; }
static inline bool operator>=(V a, V b) { return a.v >= b.v; }
inline V sigmoid(V a) { return V(1 / (1 + std::exp(-a.v))); }
inline V tanh(V a) { return V(std::tanh(a.v)); }
inline V relu(V a) { return V(a.v > 0 ? a.v : 0); }
inline V exp(V a) { return V(std::exp(a.v)); }
inline V log(V a) { return V(std::log(a.v)); }
inline V sqrt(V a) { return V(std::sqrt(a.v)); }
inline V abs(V a) { return V(std::fabs(a.v)); }
inline V max(V a, V b) { return a.v > b.v ? a : b; }
inline V min(V a, V b) { return a.v < b.v ? a : b; }
inline V select(bool mask, V a, V b) { return mask ? a : b; }

INCLUDES

static void read(V* to, int n) {
  for (int i = 0; i < n; ++i)
    if (std::scanf("%lf", &to[i].v) != 1) std::fprintf(stderr, "too few numbers\n");
}
static void print(const V* from, int n) {
  for (int i = 0; i < n; ++i) std::printf("%.17g ", from[i].v);
}
template <class Cell>
static void run() {
  V projected[64] = {}, noise[64] = {}, product[64] = {}, vector[64] = {}, state[64] = {}, next[64] = {};
  V keep[64] = {}, d_next[64] = {}, grad[64] = {}, d[64] = {};
  read(projected, Cell::projected);
  read(product, Cell::products);
  read(vector, Cell::vectors);
  read(state, Cell::states);
  read(d_next, Cell::states);
  Cell::template forward<V>(projected, noise, product, vector, state, next, keep);
  Cell::template backward<V>(keep, noise, vector, state, next, d_next, grad, d);
  print(next, Cell::states);
  print(keep, Cell::kept);
  print(grad, Cell::grads);
  print(d, Cell::states);
}
template <class Cell>
static void show() {
  std::printf("%s|%s|%s|%s|%d|", Cell::name, Cell::projection, Cell::weight, Cell::vector_names,
              Cell::transposed);
  for (int k : Cell::d_projected) std::printf("%d ", k);
  std::printf("|");
  for (int k : Cell::d_product) std::printf("%d ", k);
  std::printf("|");
  for (int k : Cell::d_vector) std::printf("%d ", k);
}
int main(int, char** arguments) {
  const std::string name = arguments[1], what = arguments[2];
RUNS
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """One program that holds every cell."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "these tests need a C++ compiler: install g++ or clang++"
    folder = tmp_path_factory.mktemp("cells")
    (folder / "generated").mkdir()
    shutil.copy(CSRC / "inline.h", folder)
    for name, cell in CELLS.items():
        (folder / "generated" / f"{name}.h").write_text(compiled(cell(), name), encoding="utf-8")
    includes = "\n".join(f'#include "generated/{name}.h"' for name in CELLS)
    runs = "\n".join(
        f'  if (name == "{n}") what == "run" ? run<{struct_name(n)}>() : show<{struct_name(n)}>();'
        for n in CELLS
    )
    source = PROGRAM.replace("INCLUDES", includes).replace("RUNS", runs)
    (folder / "main.cpp").write_text(source, encoding="utf-8")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    command = [compiler, *flags, "-o", str(folder / "main"), str(folder / "main.cpp")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    def call(name, what, numbers=""):
        return subprocess.run(
            [str(folder / "main"), name, what],
            input=numbers,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    return call


@pytest.mark.parametrize("name", CELLS)
def test_its_numbers_are_those_of_the_schedule(program, name):
    cell = CELLS[name]().double()
    s = schedule(trace(cell))
    with torch.no_grad():
        leaves = leaves_of(cell, s, *draw(cell))
        after, kept = forward(s, leaves)
        grads, d_state = backward(s, after, kept, leaves)
    vectors = [block for vector in s.vectors for block in leaves[vector]]
    arrays = [leaves["projected"], leaves.get("product", []), vectors, leaves["state"]]
    numbers = [float(block[0, -1]) for array in (*arrays, leaves["d_next"]) for block in array]
    printed = program(name, "run", " ".join(map(repr, numbers))).split()
    expected = [float(block[0, -1]) for array in (after, kept, grads, d_state) for block in array]
    got = torch.tensor([float(number) for number in printed], dtype=torch.float64)
    assert_close_by_name({name: got}, {name: torch.tensor(expected, dtype=torch.float64)}, 1)


@pytest.mark.parametrize("name", CELLS)
def test_it_says_what_the_schedule_says(program, name):
    s = schedule(trace(CELLS[name]()))
    (stage,) = s.forward
    fields = [name, " ".join(s.projection), stage.weight, " ".join(s.vectors)]
    fields += [str(int(stage.transposed))]
    fields += ["".join(f"{k} " for k in ks) for ks in (s.d_projected, s.d_product, s.d_vector)]
    assert program(name, "show") == "|".join(fields)


def test_a_name_must_do_as_an_identifier():
    with pytest.raises(ValueError, match=r"name: got 'My cell', expected lower case"):
        emit(schedule(trace(Elman(3, 7))), "My cell")


def test_a_constant_must_be_finite():
    cell = Elman(3, 7, activation=lambda z: z.masked_fill(z > 0, float("inf")))
    with pytest.raises(Unsupported, match="a constant that is not finite: inf"):
        compiled(cell, "cell")
