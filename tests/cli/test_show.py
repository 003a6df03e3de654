"""``unrolled show``: a picture and a formula in the terminal."""

import errno
import os

import pytest

from tests.cli.conftest import Call
from tests.cli.test_commands import failed, misused
from unrolled import Recurrent, cells, lens
from unrolled.cli.show import CELLS, FEWEST

SHOWN = """\
         o_1      o_2      o_3
          ↑        ↑        ↑
          V        V        V
s_0 ─W─→ s_1 ─W─→ s_2 ─W─→ s_3
          ↑        ↑        ↑
          U        U        U
         x_1      x_2      x_3

o_3 = g(V f(U x_3 + W f(U x_2 + W f(U x_1 + W s_0))))
where f(z) = tanh(z + b); s_0 = 0; V and g are the head's
"""


def test_it_prints_the_picture_and_the_formula(call: Call) -> None:
    assert call("show", "--cell", "elman", "--steps", 3) == (0, SHOWN, "")


def test_elman_and_four_steps_by_default(call: Call) -> None:
    done = call("show")
    assert done == call("show", "--cell", "elman", "--steps", 4)
    assert done.out.startswith(lens.draw(Recurrent(cells.Elman, 1, 1)).text + "\n\no_4 = ")


@pytest.mark.parametrize("name", CELLS)
def test_every_cell(name: str, call: Call) -> None:
    assert {cells.Elman, cells.LSTM, cells.GRU, cells.LRU} <= set(CELLS.values())
    layer = Recurrent(CELLS[name], FEWEST.get(name, 1), 1, depth=2, bidirectional=True)
    drawing, formula = lens.draw(layer, 3), lens.expand(layer, 2, 3)
    done = call("show", "--cell", name, "--steps", 3, "--depth", 2, "--bidirectional")
    assert done == (0, f"{drawing}\n\n{formula}\nwhere {formula.where}\n", "")


def test_the_formula_of_another_step_and_as_latex(call: Call) -> None:
    layer = Recurrent(cells.Elman, 1, 1, bidirectional=True)
    done = call("show", "--bidirectional", "--at", 4, "--latex")
    assert done.out.split("\n")[-3] == lens.expand(layer, 4, 4).latex
    assert "\ny_2 = g(" in call("show", "--bidirectional").out  # the middle one


def test_it_writes_the_picture(call: Call, tmp_path) -> None:
    path = tmp_path / "net.svg"
    done = call("show", "--steps", 3, "--svg", path)
    assert done == (0, SHOWN, f"unrolled: note: the picture is in {path}\n")
    expected = lens.draw(Recurrent(cells.Elman, 1, 1), 3).svg
    assert path.read_text(encoding="utf-8") == expected


def test_a_picture_on_a_full_disk_is_named(call: Call, tmp_path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "net.svg"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    done = call("show", "--steps", 3, "--svg", path)
    failed(done, 1, f"{path}: No space left")
    assert done.out == SHOWN and path.read_text() == "old"


def test_a_formula_that_is_too_long_is_left_out(call: Call) -> None:
    done = call("show", "--bidirectional", "--depth", 4, "--steps", 20)
    assert done.code == 0 and "y_20" in done.out and "where" not in done.out
    assert done.err.startswith("unrolled: note: no formula: t: got 10 of 20 steps in 4 layers")
    assert done.err.count("\n") == 1


def test_bad_calls(call: Call, tmp_path) -> None:
    misused(call("show", "--cell", "transformer"), "--cell", "'transformer'", "elman")
    misused(call("show", "--steps", 0), "--steps", "'0'", "from 1 to 64")
    misused(call("show", "--steps", 65), "--steps", "'65'")
    misused(call("show", "--depth", "two"), "--depth", "'two'")
    failed(call("show", "--at", 5), 2, "--at: got 5", "up to --steps, which is 4")
    misused(call("show", "--svg", "net.png"), "--svg: got 'net.png'", "ends in .svg")
    misused(call("show", "--svg", tmp_path / "no" / "net.svg"), "net.svg", "a folder that is there")
