"""The real command, killed at any moment, ends where it would have ended undisturbed."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Call
from tests.examples import MANY
from tests.sentences import corpus, write_corpus
from unrolled.training.files import read_tensors
from unrolled.training.run import LOCK, TRAINING, WEIGHTS

UNROLLED = Path(sysconfig.get_path("scripts")) / "unrolled"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
KILLED = 6 if MANY else 3  # operations drawn at which a command is killed
PATIENCE = 60.0  # seconds until a test gives a command up


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed command to its end."""
    command = [UNROLLED, *(a if isinstance(a, bytes) else str(a) for a in arguments)]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=ENVIRONMENT, timeout=PATIENCE,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def killed_when(ready: Callable[[], bool], *arguments: object) -> None:
    """Start the installed command, and send it SIGKILL as soon as it is ``ready``."""
    process = subprocess.Popen(
        [str(UNROLLED), *map(str, arguments)], env=ENVIRONMENT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        end = time.monotonic() + PATIENCE
        while not ready():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < end, "it never was ready to be killed"
            time.sleep(0.005)
        process.kill()
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        assert said == b""  # no terminal, no progress bar
    finally:
        process.kill()
        process.wait()


def weights(directory: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in read_tensors(directory / WEIGHTS)[0].items()}


def test_killed_while_it_prepares_and_while_it_trains_it_ends_at_the_same_bits(
    tmp_path: Path, call: Call
) -> None:
    source = random.Random(0)
    text, out, log = tmp_path / "corpus.txt", tmp_path / "run", tmp_path / "log.jsonl"
    options = ("--data", text, "--epochs", 9, "--hidden", 16, "--embedding", 8)
    options += ("--batch-tokens", 300, "--evaluations", 5, "--threads", 1, "--dropout", 0.2)
    options += ("--token-dropout", 0.1, "--learning-rate", 0.02)
    train = ("train", "cloze", *options, "--out")
    resume = (*train, out, "--resume", "--log", log, "--checkpoint-seconds", 0.02)

    # While it prepares the text: it waits for the rest of a pipe that is never filled.
    os.mkfifo(text)
    both = os.open(text, os.O_RDWR)
    try:
        os.write(both, "\n".join(corpus(50)).encode())
        killed_when((out / ".data.partial" / "train.raw").exists, *resume)
    finally:
        os.close(both)
    assert not (out / "config.json").exists()
    text.unlink()
    write_corpus(text, 300)

    # While it trains: whenever so many more lines are in the log, and a moment later.
    reached = []
    for _ in range(2 if MANY else 1):
        lines = (log.read_bytes().count(b"\n") if log.exists() else 0) + source.randrange(2, 5)

        def logged(lines: int = lines) -> bool:
            return log.exists() and log.read_bytes().count(b"\n") >= lines

        killed_when(logged, *resume)
        reached.append(read_tensors(out / TRAINING)[1]["step"])
    assert [0, *reached] == sorted({0, *reached})

    done = run(*resume)
    assert done.stderr == ""
    assert f"resumed at step {reached[-1]} of" in done.stdout

    assert call(*train, tmp_path / "undisturbed").code == 0
    assert weights(out) == weights(tmp_path / "undisturbed")
    state = (tmp_path / name / TRAINING for name in ("run", "undisturbed"))
    (tensors, notes), (expected, expected_notes) = map(read_tensors, state)
    assert notes == expected_notes
    assert all(tensors[name].equal(expected[name]) for name in expected)
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "undisturbed" / WEIGHTS).read_bytes()
    names = {"time.json", "config.json", "vocabulary.json", WEIGHTS, TRAINING, "data"}
    assert {path.name for path in out.iterdir()} - {f".{TRAINING}.partial", LOCK} == names

    # And what was trained is of use.
    filled = json.loads(call("fill", out, "老师昨天喝了一杯____。", "--json").out)
    candidates = filled["blanks"][0]["candidates"]
    assert len(candidates) == 5
    assert filled["filled"] == f"老师昨天喝了一杯{candidates[0]['text']}。"
    scores = json.loads(call("evaluate", out, "--json").out)
    assert scores["nats"] < math.log(40)  # far better than chance, of 57 tokens


def test_the_installed_command_generates_and_writes_what_utf_8_cannot_hold(lm_run: Path) -> None:
    done = run("generate", lm_run, "--prompt", b"\xe8\x80\x81\xe5\xb8\x88\xff", "--json")
    assert json.loads(done.stdout)["text"].startswith("老师")


# One import of the library for two children, whose standard output cannot be written.
OUTPUTS = r"""
import os, sys
import unrolled.cli.train, unrolled.cli.evaluate, unrolled.cli.fill, unrolled.cli.generate
import unrolled.cli.info
from unrolled.cli import main

reader, closed = os.pipe()
os.close(reader)
for output in (os.open("/dev/full", os.O_WRONLY), closed):
    child = os.fork()
    if child == 0:
        os.dup2(output, 1)
        sys.exit(main(["fill", sys.argv[1], "我____水。"]))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), file=sys.stderr)
"""


def test_output_on_a_full_disk_or_into_a_closed_pipe_is_no_traceback(cloze_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTPUTS, cloze_run], env=ENVIRONMENT, check=True,
        capture_output=True, encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    # A line about the disk and the exit code; nobody is left to hear of the pipe.
    first, code, *rest = done.stderr.splitlines()
    assert first.startswith("unrolled: error: ") and "No space left on device" in first
    assert [code, *rest] == ["1", "1"]


# A program that imports the library once, and forks a child for each training. A child counts what
# it does to files below its run directory, and kills itself when it has counted so far; just before
# a file takes its final name, half of its content may be lost, as if the kill came while it was
# being written.
KILLS = r"""
import json, os, random, signal, sys
from pathlib import Path
import torch
import unrolled.cli.train, unrolled.cli.evaluate, unrolled.cli.fill, unrolled.cli.generate
import unrolled.cli.info
from unrolled.cli import main

# What is slow to import, and is only imported by the first optimizer of a process.
torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])

text, place = sys.argv[1], Path(sys.argv[2])
TOUCHING = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}

def train(out, kill_at=0, halve=False):
    # The number of events, and the signal that ended it.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        torch.set_num_threads(1)
        count = 0
        def audit(event, arguments):
            nonlocal count
            if event not in TOUCHING or not str(arguments[0]).startswith(str(out)):
                return
            count += 1
            if count == kill_at:
                if halve and event == "os.rename" and os.path.isfile(arguments[0]):
                    os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(audit)
        sys.stdout = open(os.devnull, "w")
        code = main(["train", "cloze", "--data", text, "--out", str(out), "--resume",
                     "--epochs", "2", "--hidden", "5", "--embedding", "4", "--batch-tokens", "300",
                     "--threads", "1", "--evaluations", "2", "--checkpoint-seconds", "1e-9"])
        os.write(writer, str(count).encode())
        os._exit(code)
    os.close(writer)
    with open(reader) as pipe:
        count = int(pipe.read() or 0)
    _, status = os.waitpid(child, 0)
    return count, status

events, status = train(place / "undisturbed")
assert status == 0 and events > 30, (events, status)
source = random.Random(0)
ends = {}
for k in sorted({1, 2, 3, *source.sample(range(4, events + 1), int(sys.argv[3]))}):
    out = place / str(k)
    statuses = [train(out, k, halve=True)[1]]
    # Killed again while it takes up the run; it may be at its end before.
    statuses.append(train(out, source.randrange(1, 30), halve=bool(k % 2))[1])
    statuses.append(train(out)[1])
    ends[str(k)] = statuses
print(json.dumps(ends))
"""


def test_killed_at_any_operation_on_a_file_it_ends_at_the_same_bits(tmp_path: Path) -> None:
    text = write_corpus(tmp_path / "corpus.txt", 60)
    done = subprocess.run(
        [sys.executable, "-c", KILLS, text, tmp_path / "runs", str(KILLED)], env=ENVIRONMENT, check=False,
        capture_output=True, encoding="utf-8", timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    ends = json.loads(done.stdout)
    assert len(ends) == 3 + KILLED
    expected = weights(tmp_path / "runs" / "undisturbed")
    for k, (first, second, last) in ends.items():
        assert first == signal.SIGKILL, f"not killed at {k}"
        assert second in (0, signal.SIGKILL)
        assert last == 0, f"killed at {k}, it could not be resumed"
        assert weights(tmp_path / "runs" / k) == expected, f"killed at {k}"
