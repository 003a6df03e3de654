import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ADDING = Path(__file__).parent.parent / "examples" / "adding_problem.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adding_problem", ADDING)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("length", "batch_size"), [(2, 1), (11, 300)])
def test_each_half_has_one_mark_and_the_target_is_the_sum_of_the_marked_numbers(
    example: ModuleType, length: int, batch_size: int
) -> None:
    x, sums = example.sequences(length, batch_size, torch.Generator().manual_seed(1))
    assert x.shape == (length, batch_size, 2) and sums.shape == (batch_size,)
    numbers, marks = x.unbind(-1)
    assert numbers.min() >= 0 and numbers.max() < 1
    for sequence in range(batch_size):
        first, second = (t for t in range(length) if marks[t, sequence])
        assert first < length // 2 <= second
        assert marks[first, sequence] == marks[second, sequence] == 1
        assert sums[sequence] == numbers[first, sequence] + numbers[second, sequence]
    everywhere = set(marks.nonzero()[:, 0].tolist())
    assert everywhere == set(
        range(length)
    )  # a step is left out of 300 sequences once in 1e22 draws


def test_always_saying_one_has_the_error_of_a_guess(example: ModuleType) -> None:
    _, sums = example.sequences(4, 20_000, torch.Generator().manual_seed(2))
    # (sum - 1)² has a variance of 1/15 - 1/36; five standard errors of the mean of 20,000.
    tolerance = 5 * math.sqrt((1 / 15 - 1 / 36) / 20_000)
    assert float((sums - 1).square().mean()) == pytest.approx(example.GUESS, abs=tolerance)


@pytest.mark.parametrize(("net", "state"), [("sigmoid", "vanishing"), ("chrono", "healthy")])
def test_the_lens_looks_at_all_steps_and_leaves_no_gradient(
    example: ModuleType, net: str, state: str
) -> None:
    torch.manual_seed(3)
    model = example.Adder(example.NETS[net](20))
    x, sums = example.sequences(20, 2, torch.Generator().manual_seed(3))
    found = example.seen(model, x, sums)
    assert found["state"] == state
    assert all(p.grad is None for p in model.parameters())

    # The ratio by autograd alone: what h_1 and h_T weigh in the loss, step by step.
    cell, states = model.layer.cells[0], []
    given = tuple(torch.zeros(2, example.H) for _ in cell.state_sizes)
    for projected in cell.project(x):
        given = cell.step(projected, given)
        given[0].retain_grad()
        states.append(given[0])
    (model.head(states[-1]).squeeze(-1) - sums).square().mean().backward()
    first, last = (float(s.grad.norm(dim=1).mean()) for s in (states[0], states[-1]))
    # Twenty steps of rounding in float32, each some 1e-7 of a sum of 64 or 256 terms.
    assert found["ratio"] == pytest.approx(first / last, rel=1e-4)


def test_the_comparison_counts_where_the_verdict_was_right(example: ModuleType) -> None:
    found = {("healthy", True): 4, ("healthy", False): 1, ("vanishing", True): 2}
    found |= {("vanishing", False): 3, ("exploding", False): 5}
    runs = [
        {
            "before": {"state": state},
            "solved": solved,
            "after": {"state": "healthy"} if solved else None,
        }
        for (state, solved), count in found.items()
        for _ in range(count)
    ]
    counts = dict(re.findall(r"^ *([a-z ]+?) +(\d+ +\d+)$", example.comparison(runs), re.M))
    assert {name: [int(n) for n in both.split()] for name, both in counts.items()} == {
        "healthy": [4, 1],
        "not healthy": [2, 8],
        "vanishing": [2, 3],
        "exploding": [0, 5],
    }
    assert "right about 12 of 15 runs" in example.comparison(runs)
    ends = dict(re.findall(r"^  of those (\w+) +(\d+ of \d+)$", example.comparison(runs), re.M))
    assert ends == {"solved": "6 of 6", "not": "0 of 9"}


def test_a_gru_beats_the_guess_and_the_table_says_so(tmp_path: Path, example: ModuleType) -> None:
    options = "--lengths 10 --seeds 0 --nets IRNN GRU --minutes 0.1 --watch --json found.json"
    run = subprocess.run(
        [sys.executable, "-W", "error", str(ADDING), *options.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    runs = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {(r["net"], r["T"], r["seed"]) for r in runs} == {("IRNN", 10, 0), ("GRU", 10, 0)}
    for r in runs:
        row = rf"^{r['net']} +10  {r['before']['state']} .* {int(r['solved'])} of 1 "
        assert re.search(row, run.stdout, re.M), run.stdout
        assert 0 <= r["best"] <= r["final"] and r["steps"] % example.EVERY == 0
        assert [at["steps"] for at in r["path"]] == list(range(200, r["steps"] + 1, 200))
        assert len(re.findall(rf"^{r['net']} +10 +[\d,]+ +0\.", run.stdout, re.M)) == len(r["path"])
        assert (
            r["path"][-1]["growth"] == r["after"]["growth"] and r["path"][-1]["error"] == r["final"]
        )
    (gru,) = (r for r in runs if r["net"] == "GRU")
    assert gru["best"] < 0.5 * example.GUESS
    assert re.search(r"^the rule was right about [012] of 2 runs$", run.stdout, re.M)


def test_a_length_without_two_halves_is_refused(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(ADDING), "--lengths", "1"])
    with pytest.raises(SystemExit):
        example.main()
    assert "--lengths: got 1, expected 2 or more" in capsys.readouterr().err
