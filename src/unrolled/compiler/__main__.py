"""Write the built-in cells' C++ into ``csrc/generated``, or with ``--check`` compare it."""

import argparse
import sys
from pathlib import Path

from unrolled.compiler import BUILTINS, generated, struct_name

FOLDER = Path(__file__).parents[3] / "csrc" / "generated"


def files() -> dict[Path, str]:
    """Each generated file and its text."""
    headers = {FOLDER / f"{name}.h": generated(name) for name in BUILTINS}
    includes = "\n".join(f'#include "{path.name}"' for path in sorted(headers))
    cells = " \\\n  ".join(f"X({struct_name(name)})" for name in BUILTINS)
    text = (
        "// The built-in cells; `make generate` writes it, a test compares.\n"
        f"#pragma once\n{includes}\n\n#define UNROLLED_CELLS(X) \\\n  {cells}\n"
    )
    return {**headers, FOLDER / "cells.h": text}


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
        print(f"{'differs' if check else 'wrote'}: {path.relative_to(FOLDER.parents[1])}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
