from tools.sizes import MOST, MOST_OF_TESTS, faults


def test_a_long_file_needs_a_reason_and_a_short_one_none() -> None:
    lines = {
        "src/a.py": MOST + 1,
        "src/b.py": MOST,
        "tests/c.py": MOST_OF_TESTS,
        "src/d.py": MOST + 1,
    }
    found = faults(lines, {"src/b.py": "it was long", "src/d.py": "one job", "src/gone.py": "?"})
    assert [fault.split(":")[0] for fault in found] == ["src/a.py", "src/b.py", "src/gone.py"]
    assert f"got {MOST + 1} lines, expected at most {MOST}" in found[0]
    assert "short enough" in found[1]
