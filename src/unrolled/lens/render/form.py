"""The form of a record, which one that was read from a file is held to."""

import math
from typing import Any

KNOWN, NORM = "a finite number", "a finite number of at least 0"
NUMBER, LENGTH = (KNOWN, None), (NORM, None)
PLACE = {"layer": str, "level": int, "direction": int}
VERDICT = {
    "state": str,
    "growth": NUMBER,
    "horizon": NUMBER,
    "evidence": str,
    "remedies": [{"name": str, "effect": str}],
}
VIEW = {
    "states": [[NUMBER]],
    "every": int,
    "lags": [[LENGTH]],
    "estimated": bool,
    "eigenvalues": {str: [[NUMBER]]},
    "gate": ({"name": str, "mean": NUMBER, "time_scale": [LENGTH]}, None),
}
ROW = PLACE | {
    "ends": str,
    "least": LENGTH,
    "norms": [LENGTH],
    "spread": [LENGTH],
    "verdict": (VERDICT, None),
    "view": (VIEW, None),
}
SPIKE = {"call": int, "norm": LENGTH, "bound": LENGTH}
LATER = {"least", "every"}  # what a record of 0.1 does not have
FORM = {
    "rows": [ROW],
    "notes": [str],
    "broken": (PLACE | {"where": str, "value": str, "step": int, "sequence": int}, None),
    "clipping": ({"calls": int, "clipped": int, "factor": LENGTH, "spikes": [SPIKE]}, None),
}
"""What a page reads of a record. A tuple has the forms that may be, a list that of all its entries."""


def check(record: Any) -> dict[str, Any]:
    """``record``, or an error unless it has the form that ``Report.record`` gives it.

    Raises:
        ValueError: it has another.
    """
    broken = record.get("broken") if isinstance(record, dict) else None
    if isinstance(broken, dict) and "lane" in broken:  # as the first records of 0.1 name it
        record = record | {"broken": broken | {"sequence": broken["lane"]}}
    _check("record", record, FORM)
    for i, row in enumerate(record["rows"]):
        _check_length(f"record.rows[{i}].spread", row["spread"], len(row["norms"]))
        view = row["view"] or {"lags": [], "eigenvalues": {}}
        for line in view["lags"]:
            _check_length(f"record.rows[{i}].view.lags", line, len(view["lags"]))
        for pair in (pair for values in view["eigenvalues"].values() for pair in values):
            _check_length(f"record.rows[{i}].view.eigenvalues", pair, 2)
    return record  # type: ignore[no-any-return]


def _check(name: str, value: Any, form: Any) -> None:
    if isinstance(form, tuple):
        if value is not None:
            _check(name, value, form[0])
    elif isinstance(form, list):
        _check(name, value, list)
        for i, entry in enumerate(value):
            _check(f"{name}[{i}]", entry, form[0])
    elif isinstance(form, dict):
        _check(name, value, dict)
        for key in value if str in form else form:
            if key not in value:
                if key in LATER:
                    continue
                raise ValueError(f"{name}: no {key!r}")
            _check(f"{name}.{key}", value[key], form.get(key, form.get(str)))
    elif form in (KNOWN, NORM):
        least = 0 if form == NORM else -math.inf
        if type(value) not in (int, float) or not least <= value or not math.isfinite(value):
            raise ValueError(f"{name}: got {_short(value)}, expected {form} or null")
    elif type(value) is not form:
        raise ValueError(f"{name}: got {_short(value)}, expected {form.__name__}")


def _check_length(name: str, entries: list[Any], expected: int) -> None:
    if len(entries) != expected:
        raise ValueError(f"{name}: got {len(entries)} entries, expected {expected}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
