"""The committed C++ of the built-in cells."""

import pytest

from unrolled.compiler import BUILTINS, generated, others
from unrolled.compiler.__main__ import FOLDER, HEADER, INTERFACE, main
from unrolled.compiler.header import structures


def test_it_is_current():
    """Of every cell by itself, and with all options at once; `make check` compares all the rest."""
    options = ("layer_norm", "dropout", "zoneout", "evaluated", "unbiased")
    found = {path.stem for path in FOLDER.glob("*.h")} - {"cells"}
    some = {name for name in found if not name.endswith(options)}
    some |= {name for name in found if name.endswith("_layer_norm_recurrent_dropout_zoneout")}
    made = {name: generated(name) for name in BUILTINS} | others(some)
    assert set(made) == some
    stale = [name for name in made if (FOLDER / f"{name}.h").read_text("utf-8") != made[name]]
    assert not stale, "run: python -m unrolled.compiler"


def test_the_interface_in_python_is_that_of_the_header():
    made = structures(HEADER.read_text("utf-8"))
    assert INTERFACE.read_text("utf-8") == made, "run: python -m unrolled.compiler"


def test_a_declaration_of_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="of type 'float', expected one of"):
        structures("typedef struct {\n  float x;  // a number\n} unrolled_point;")


def test_check_names_what_differs_and_changes_nothing(monkeypatch, capsys, tmp_path):
    path = tmp_path / "csrc" / "generated" / "lstm.h"
    monkeypatch.setattr("unrolled.compiler.__main__.ROOT", tmp_path)
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
