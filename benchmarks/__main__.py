"""Every program here at its smallest size, one after another: whether it runs and writes its results.

python -m benchmarks [NAME …]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent


def programs() -> list[str]:
    """What can be run as ``python -m benchmarks.NAME``."""
    found = {path.parent.name for path in FOLDER.glob("*/__main__.py")}
    for path in FOLDER.glob("[!_.]*.py"):
        if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8"):
            found.add(path.stem)
    return sorted(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all")
    names = parser.parse_args(arguments).names or programs()
    if unknown := set(names) - set(programs()):
        parser.error(f"NAME: got {', '.join(sorted(unknown))}, expected {', '.join(programs())}")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            begin = time.perf_counter()
            complaint = fault(name, Path(folder) / f"{name}.json")
            print(
                f"{name:12}{time.perf_counter() - begin:6.1f} s  {complaint or 'runs'}", flush=True
            )
            if complaint:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed at its smallest size: {', '.join(failed)}")


def fault(name: str, path: Path) -> str | None:
    """What is wrong with a program that is to write its results to ``path``, or ``None``."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smallest", "--json", str(path)]
    done = subprocess.run(
        command, cwd=FOLDER.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        return f"ended with {done.returncode}:\n{done.stdout}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"wrote no results: {error}"
    return None if found else "wrote empty results"


if __name__ == "__main__":
    main()
