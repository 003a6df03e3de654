"""Write what is generated, the built-in cells' C++ and the C interface in Python; or ``--check`` it."""

import argparse
import sys
from pathlib import Path

from unrolled.compiler import BUILTINS, EVERYWHERE, generated, others, struct_name
from unrolled.compiler.header import structures

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "csrc" / "generated"
HEADER = ROOT / "csrc" / "unrolled.h"
INTERFACE = ROOT / "src" / "unrolled" / "scan" / "native" / "interface.py"


def files() -> dict[Path, str]:
    """Each generated file and its text."""
    made = {**{name: generated(name) for name in BUILTINS}, **others()}
    more = [name for name in made if name not in (*BUILTINS, *EVERYWHERE)]
    lists = {"UNROLLED_CELLS": (*BUILTINS, *EVERYWHERE), "UNROLLED_MORE_CELLS": more}
    text = "// The library's cells; `make generate` writes it, a test compares.\n#pragma once\n"
    text += "".join(f'#include "{name}.h"\n' for name in sorted(made))
    for title, names in lists.items():
        cells = " \\\n  ".join(f"X({struct_name(name)})" for name in names)
        text += f"\n#define {title}(X) \\\n  {cells}\n"
    headers = {FOLDER / f"{name}.h": header for name, header in made.items()}
    interface = structures(HEADER.read_text(encoding="utf-8"))
    return {**headers, FOLDER / "cells.h": text, INTERFACE: interface}


def main() -> int:
    """Write or compare; 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m unrolled.compiler", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if any differs")
    check = parser.parse_args().check
    stale = [
        (path, text)
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        print(f"{'differs' if check else 'wrote'}: {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
