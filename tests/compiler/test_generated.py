"""The committed C++ of the built-in cells."""

import subprocess
import sys

import pytest

from unrolled.compiler.__main__ import files, main


def test_it_is_current():
    stale = [p.name for p, text in files().items() if p.read_text(encoding="utf-8") != text]
    assert not stale, "run: python -m unrolled.compiler"


def test_check_names_what_differs_and_changes_nothing(monkeypatch, capsys, tmp_path):
    path = tmp_path / "csrc" / "generated" / "lstm.h"
    monkeypatch.setattr("unrolled.compiler.__main__.FOLDER", path.parent)
    monkeypatch.setattr("unrolled.compiler.__main__.BUILTINS", ["lstm"])
    monkeypatch.setattr("unrolled.compiler.__main__.others", dict)
    monkeypatch.setattr("sys.argv", ["unrolled.compiler", "--check"])
    assert main() == 1
    assert "differs: csrc/generated/lstm.h" in capsys.readouterr().out.replace("\\", "/")
    assert not path.exists()
    monkeypatch.setattr("sys.argv", ["unrolled.compiler"])
    assert main() == 0
    path.write_text("stale", encoding="utf-8")
    assert main() == 0
    monkeypatch.setattr("sys.argv", ["unrolled.compiler", "--check"])
    assert main() == 0


@pytest.mark.parametrize("module", ["torch.fx.experimental.proxy_tensor", "networkx"])
def test_neither_library_nor_compiler_imports_what_is_slow(module):
    code = f"import unrolled, unrolled.compiler, sys; sys.exit({module!r} in sys.modules)"
    plain = f"import torch, sys; sys.exit({module!r} in sys.modules)"
    ours, torchs = (subprocess.run([sys.executable, "-c", c]).returncode for c in (code, plain))
    assert ours == torchs
