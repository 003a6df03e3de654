"""The covariates of a table as numbers and codes, a step or a series each."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unrolled.errors import DataError
from unrolled.series.data.plan import Column, Plan
from unrolled.series.data.rows import Groups, Rows
from unrolled.series.data.steps import Layout

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

UNKNOWN = 0  # the code of what is missing, or was not there in training


class Covariates:
    """Reads each column as the plan says, or where there is none yet as the user or its type does."""

    def __init__(self, rows: Rows, groups: Groups, layout: Layout, plan: Plan | None) -> None:
        self.rows, self.groups, self.layout, self.plan = rows, groups, layout, plan
        self.levels: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[str, bool] = {}

    def is_category(self, name: str) -> bool:
        """Whether a column is of categories."""
        if name not in self._kinds:
            table, roles = self.rows.table, self.rows.roles
            if self.plan is not None:
                self._kinds[name] = self.plan.column(name).type == "category"
            else:
                is_text = table.kind(name) == "text" and not table.is_numbers(name)
                self._kinds[name] = name in roles.categories or is_text
        return self._kinds[name]

    def stepped(self, role: str) -> tuple[Floats, Integers]:
        """The numbers and the codes of the columns of "past" or "known", of all steps."""
        numbers, categories = self._names(role)
        scattered = self.layout.scattered
        order = self.groups.order
        values = [scattered(self.rows.numbers(name, role)[order], np.nan) for name in numbers]
        codes = [scattered(self._coded(name)[order], UNKNOWN) for name in categories]
        return _columns(values, self.layout.count, np.float64), _columns(
            codes, self.layout.count, np.int64
        )

    def static(self) -> tuple[Floats, Integers]:
        """The numbers and the codes of the static columns, of each series.

        Raises:
            DataError: a column changes within a series.
        """
        numbers, categories = self._names("static")
        order, count = self.groups.order, len(self.groups.keys)
        values, codes = [], []
        for name in numbers:
            found = self.rows.numbers(name, "static")[order]
            values.append(self._constant(name, "static", found, ~np.isnan(found), np.nan))
        for name in categories:
            coded = self._coded(name)[order]
            raw = self.rows.levels(name)[0][order]
            self._constant(name, "static", raw, raw >= 0, -1)  # also of levels that are all unknown
            codes.append(self._constant(name, "static", coded, raw >= 0, UNKNOWN))
        return _columns(values, count, np.float64), _columns(codes, count, np.int64)

    def labels(self) -> NDArray[Any] | None:
        """The label of each series, as the table has it; of categories as text, numbers or truths.

        Raises:
            DataError: a series has none, or two.
        """
        name = self.rows.roles.label
        if name is None:
            return None
        order, groups = self.groups.order, self.groups
        found: NDArray[Any]
        if self.is_category(name):
            self._coded(name)
            found = self.rows.levels(name)[0][order]
            there = found >= 0
        else:
            found = self.rows.numbers(name, "label")[order]
            there = ~np.isnan(found)
        self._constant(name, "label", found, there, -1)
        at = np.minimum.reduceat(np.where(there, np.arange(len(found)), len(found)), groups.starts)
        lacking = np.flatnonzero(at == len(found))
        if len(lacking):
            series = int(lacking[0])
            raise DataError(
                f"{self.rows.at(int(groups.firsts[series]))}: the column {name!r} (label) is empty in "
                f"all rows of {groups.name(series)}, expected its label"
            )
        if not self.is_category(name):
            return np.asarray(found[at])
        column = self.rows.table.arrow(name).take(order[at])
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def described(self, values: dict[str, Any]) -> tuple[Column, ...]:
        """What is in each column of a role, from the arrays that were made of them."""
        found = []
        taken: dict[tuple[str, str], int] = {}
        for name, role in self.rows.roles.of_columns():
            if role in ("time", "series"):
                found.append(Column(name, role, "time" if role == "time" else "key"))
                continue
            is_category = role != "target" and self.is_category(name)
            if role == "label":
                levels = self.levels[name] if is_category else ()
                labels = np.zeros(0) if is_category else values["labels"]
                kind = Column(name, role, "category", levels=levels)
                found.append(kind if is_category else _of_numbers(name, role, labels))
                continue
            array = "targets" if role == "target" else f"{role}_codes" if is_category else role
            place = taken.setdefault((role, array), 0)
            taken[role, array] += 1
            column = values[array][:, place]
            if is_category:
                missing = float((column == UNKNOWN).mean())
                found.append(Column(name, role, "category", missing, self.levels[name]))
            else:
                found.append(_of_numbers(name, role, column))
        return tuple(found)

    def _names(self, role: str) -> tuple[list[str], list[str]]:
        names = getattr(self.rows.roles, role)
        numbers = [name for name in names if not self.is_category(name)]
        return numbers, [name for name in names if name not in numbers]

    def _coded(self, name: str) -> Integers:
        """The code of each row of the table."""
        found, texts = self.rows.levels(name)
        if self.plan is not None:
            levels = self.plan.column(name).levels
        else:
            there = np.unique(found)
            levels = tuple(sorted(texts[k] for k in there[there >= 0].tolist()))
        self.levels[name] = levels
        code = {level: k for k, level in enumerate(levels, start=UNKNOWN + 1)}
        return np.array([*(code.get(text, UNKNOWN) for text in texts), UNKNOWN], dtype=np.int64)[
            found
        ]

    def _constant(
        self, name: str, role: str, values: Any, there: NDArray[np.bool_], missing: float
    ) -> Any:
        """The one value of each series, ``missing`` if it has none."""
        groups = self.groups
        rows = np.where(there, np.arange(len(values)), len(values))
        at = np.minimum.reduceat(rows, groups.starts)
        has = at < len(values)
        found = np.full(len(at), missing, dtype=values.dtype)
        found[has] = values[at[has]]
        wrong = there & (values != np.repeat(found, groups.sizes))
        if wrong.any():
            row = int(wrong.argmax())
            series = int(groups.of_row[row])
            raise DataError(
                f"{self.rows.at(int(groups.order[row]))}: the column {name!r} ({role}) has another value "
                f"than in {self.rows.table.row(int(groups.order[at[series]]))}, in "
                f"{groups.name(series)}; expected one value a series"
                + ("; of a column that changes, say past or known" if role == "static" else "")
            )
        return found


def _columns(arrays: list[Any], count: int, dtype: type[np.generic]) -> Any:
    return np.stack(arrays, axis=1) if arrays else np.empty((count, 0), dtype=dtype)


def _of_numbers(name: str, role: str, values: Floats) -> Column:
    there = values[~np.isnan(values)]
    if not len(there):
        return Column(name, role, "number", missing=1.0)
    return Column(
        name,
        role,
        "number",
        missing=1 - len(there) / len(values),
        least=float(there.min()),
        most=float(there.max()),
        is_whole=bool((there == np.rint(there)).all()),
    )
