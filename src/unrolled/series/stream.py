"""A forecaster that takes the rows of its series as they come, and says at each what comes next."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unrolled.errors import CallError, DataError
from unrolled.series.ahead import Block, Calendar, Given, Known, joined
from unrolled.series.data import RowReader, RunningScale, panel_of, table_of
from unrolled.series.data.frames import level_of
from unrolled.series.data.origins import FURTHEST, filled, seasons_of, standardized
from unrolled.series.data.rows import Rows, grouped
from unrolled.series.data.steps import timeline_of
from unrolled.series.data.stream import Row
from unrolled.series.head import Head
from unrolled.series.models import ForecastNetwork
from unrolled.series.passes import Asked, states_at
from unrolled.series.run import ForecastRun

Floats = NDArray[np.float64]
Float32 = NDArray[np.float32]
Integers = NDArray[np.int64]
Key = tuple[str, ...]

LONGEST_GAP = 10_000  # missing steps before a row
FORMAT = 1  # of what is saved
LEAST, MOST = np.array(-FURTHEST), np.array(FURTHEST)


class _Series:
    """What is kept of one series: all that a forecast depends on, and where it stands."""

    def __init__(self, key: Key, targets: int, behind: int, static: Float32) -> None:
        self.key = key
        self.time = self.first = 0  # of its last row; from when its steps are counted
        self.step = -1  # that of its last row
        self.block: Block | None = None
        self.scaling = RunningScale(targets)
        self.location, self.scale = np.zeros((targets, 1)), np.ones((targets, 1))
        self.lacks = list(range(targets))  # those that had no value yet
        self.state: list[NDArray[Any]] = []  # of the layers; while others take their steps
        self.recent = np.full((2 * behind, targets), np.nan)  # twice, so that the last are together
        self.place = -1  # of its last row there
        self.holes = behind * targets  # of these values that are missing
        self.static = static

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the series {' / '.join(self.key)}" if self.key else "the series"


class ForecastStream:
    """Forecasts of series whose rows come one by one: ``told = stream(row)``.

    A row is a mapping by the names of the table's columns, of any series; one that is new begins with its
    first row. ``told`` is ``[horizon, levels]``, or of several targets ``[horizon, targets, levels]``: the
    quantiles of what comes after the row, NaN of a target that had no value yet.

    Missing values are missing, and so are the steps of a regular frequency for which no row came.
    What it says is what ``Forecaster.predict`` would on the rows up to there, but for the rounding of
    float32: the kernels round otherwise when they read many steps at once. Saved at any row
    (``state_dict``) and resumed, also elsewhere, it equals a stream without a stop to the bit, on
    the same machine with as many threads.

        >>> import numpy as np
        >>> from unrolled.series import Forecaster
        >>> t = np.arange(400)
        >>> frame = {"t": t, "y": 10 + np.sin(t * np.pi / 6)}
        >>> forecaster = Forecaster(horizon=6, epochs=2).fit(frame, time="t", target="y")
        >>> stream = forecaster.stream(frame)
        >>> stream({"t": 400, "y": 10.0}).shape
        (6, 3)

    ``forecaster.stream()`` makes one; the weights are as they were then.

    Args:
        run: that of the forecaster.
        network: in eval mode.
        spread: by what its quantiles are stretched.
        levels: of the quantiles that are told.
    """

    def __init__(
        self, run: ForecastRun, network: ForecastNetwork, spread: Tensor, levels: Sequence[float]
    ) -> None:
        self.plan, self.network, self.levels = run.plan, network, tuple(levels)
        self._origins_of, self._statistics = run.origins, run.statistics
        self._head = Head(network, spread, levels)
        self._bare = network.layers.stream(1).bare()
        self._fresh = self._bare.state
        self._calendar = Calendar(self.plan, run.statistics, self._head)
        self._reader = RowReader(replace(self.plan, cycles=()))
        self._series: dict[Key, _Series] = {}
        self._given: dict[Key, Given] = {}
        self._current: _Series | None = None
        self._y: NDArray[Any] = self._fresh[0]
        self._lay_out()

    def _lay_out(self) -> None:
        """Where what stands in an input, and among the last values."""
        plan, network = self.plan, self.network
        targets, past, static = len(plan.targets), len(plan.past), len(plan.static)
        known = len(plan.known)
        first = 3 * targets + 2 * past
        own = len(self._statistics.known) - self._calendar.size
        self._of_known = slice(first, first + known)
        self._of_own, self._of_calendar = (
            slice(first, first + own),
            slice(first + own, first + known),
        )
        self._of_static = slice(first + known, first + known + static)
        place = first + known + static
        self._embeddings: list[tuple[slice, Float32]] = []
        for embedding in network.input_embeddings:
            weight = embedding.weight.detach().numpy().copy()  # type: ignore[operator]
            self._embeddings.append((slice(place, place + weight.shape[1]), weight))
            place += weight.shape[1]
        self._gap_at = place
        self._first = first
        self._known_names = plan.roles.known
        self._past, self._known_statistics = self._statistics.past, self._statistics.known[:own]
        self._unknown = [0] * len(plan.categories("known"))
        seasons = seasons_of(plan)
        self._behind = max([1, *seasons])
        ahead = np.arange(1, network.horizon + 1)
        rows = [np.zeros_like(ahead), *(ahead - s * -(-ahead // s) for s in seasons)]
        self._lag_rows = (
            self._behind - 1 + np.stack(rows, -1)
        )  # [horizon, lags], of the last values
        self._lagged = np.empty((*self._lag_rows.shape, targets))
        self._by_target = self._lagged.swapaxes(1, 2)
        self._is_lacking = np.empty(self._lagged.shape, dtype=bool)

    # --- Rows ------------------------------------------------------------------------------------

    def __call__(self, row: Mapping[str, Any], *, known: Any = None) -> Floats:
        """Take a row, and say what comes after it.

        Args:
            row: values by the columns' names, ``None`` or NaN where one is missing. The first one of a
                series has its static columns. What was given ahead need not be in it again.
            known: rows of what is known ahead, as of ``known``.

        Raises:
            DataError: a value or the time cannot be read, the time is not later than that of the series'
                last row, or what is known ahead was not given. Nothing has been taken then.
        """
        if known is not None:
            self.known(known)
        series, ahead = self._arrive(row, tells=True)
        return self._forecast(series, ahead)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take a row, and say nothing: in a third of the time, and without what is known ahead."""
        self._arrive(row, tells=False)

    def forecast(self, *key: object) -> Floats:
        """What comes after the last row of a series, named by the values of its key columns.

        Raises:
            CallError: no row of it has come.
            DataError: what is known ahead was not given.
        """
        series = self._find(key)
        return self._forecast(series, self._ahead(series, series.time, series.step))

    def read(self, frame: Any, *, future: Any = None) -> None:
        """Read the histories of a table's series in one pass; each begins anew with its first row.

        Args:
            frame: as of ``Forecaster.predict``. Rows after the last target of a series are what is known
                ahead.
            future: more such rows.

        Raises:
            CallError, DataError: as of ``Forecaster.predict``.
        """
        panel = panel_of(frame, self.plan)
        data = self._origins_of(panel)
        asked = Asked(panel.lengths - 1, np.arange(len(panel)))
        static = filled(standardized(panel.static, self._statistics.static)).astype(np.float32)
        begins = panel.offsets[:-1].tolist()
        for places, _, whole in states_at(self.network, data, asked, is_whole=True):
            scans = [s for scan in self.network.layers.by_scan(whole) for s in scan]
            states = np.stack([scan.numpy() for scan in scans], 1)  # [n, scans' states, H]
            for place, state in zip(places.tolist(), states, strict=True):
                begin, length = begins[place], int(panel.lengths[place])
                codes = panel.static_codes[place]
                series = self._new(panel.keys[place], static[place], codes.tolist())
                series.state = [s.copy() for s in state]
                self._begin_at(series, int(panel.times[begin]))
                series.step += length
                series.time = int(panel.times[begin + length - 1])
                self._see(series, panel.targets[begin : begin + length])
                self._series[series.key] = series
        self._current = None
        if self._known_names:
            self._take_future(frame, panel.lengths)
            if future is not None:
                self.known(future)

    def known(self, rows: Any) -> None:
        """What is known ahead of steps to come, of any series; it may be given again when it changes.

        Args:
            rows: a frame, or rows as mappings, with the columns of the series and of the time and those
                that are known ahead.

        Raises:
            CallError: the table has no column that is known ahead.
            DataError: a value or a time cannot be read.
        """
        if not self._known_names:
            raise CallError(
                "known: got rows, expected none: the forecaster was fitted without columns that are "
                "known ahead, fit(…, known=…)"
            )
        self._give(rows if _is_rows(rows) else _rows_of(table_of(rows, "known")))

    def forget(self, *key: object) -> None:
        """Forget a series: its next row is a first one.

        Raises:
            CallError: no row of it has come.
        """
        series = self._find(key)
        del self._series[series.key]
        self._given.pop(series.key, None)
        if self._current is series:
            self._current = None

    @property
    def keys(self) -> list[Key]:
        """The series of which a row has come."""
        return list(self._series)

    def _find(self, key: tuple[object, ...]) -> _Series:
        series = self._series.get(tuple(map(level_of, key)))
        if series is None:
            some = ", ".join(" / ".join(known) for known in self.keys[:3])
            raise CallError(
                f"key: got {', '.join(map(repr, key)) or 'none'}, expected one of a series of which a row "
                f"has come{some and f': {some}'}{', …' * (len(self._series) > 3)}"
            )
        return series

    # --- Where a row stands ----------------------------------------------------------------------

    def _arrive(self, row: Mapping[str, Any], *, tells: bool) -> tuple[_Series, Float32 | None]:
        """Take a row, after the missing steps before it; nothing is taken if it is refused.

        Returns:
            Its series, and the part of what is known ahead, if something is told.
        """
        read = self._reader.read(row, 0)
        series = self._series.get(read.key)
        is_new = series is None
        if series is None:
            static, codes = self._reader.static(row)
            numbers = filled(standardized(np.array([static]), self._statistics.static))
            series = self._new(read.key, numbers[0].astype(np.float32), codes)
            self._begin_at(series, read.time)
        time, step = self._place(series, read.time, is_new)
        ahead = self._ahead(series, time, step) if tells else None
        self._series[read.key] = series
        if step - series.step > 1:
            nothing = Row(
                read.key, 0, [math.nan] * len(read.targets), [math.nan] * len(read.past), [],
                [0] * len(read.past_codes), [],
            )  # fmt: skip
            for missing in range(series.step + 1, step):
                block = self._block(series, missing)
                self._step(series, block.times[missing - block.begin], missing, nothing, False)
        says = any(name in row for name in self._known_names)
        self._step(series, time, step, read, says)
        return series, ahead

    def _place(self, series: _Series, time: int, is_new: bool) -> tuple[int, int]:
        """The time and the step of a row."""
        step = series.step + 1
        clock = self.plan.clock
        if clock.kind == "order":
            return step, step
        if is_new:
            return time, step
        if time <= series.time:
            last, now = clock.text(series.time), clock.text(time)
            how = f"has {now} a second time" if now == last else f"goes back from {last} to {now}"
            raise DataError(f"the row: {series.name} {how}; expected a later time")
        if self.plan.frequency is None:
            return time, step
        block = self._block(series, step)
        if time != block.times[step - block.begin]:
            step = self._calendar.step(series.first, time)
            if step <= series.step:
                raise DataError(
                    f"the row: {clock.text(time)} of {series.name} falls into the step of the row before, "
                    f"{clock.text(series.time)}; expected a row {clock.every(self.plan.frequency)}"
                )
            if step - series.step > LONGEST_GAP:
                raise DataError(
                    f"the row: {step - series.step - 1:,} steps of {series.name} are missing before "
                    f"{clock.text(time)}, expected at most {LONGEST_GAP:,}; stream.forget(…) lets it begin "
                    "anew"
                )
        return time, step

    def _begin_at(self, series: _Series, time: int) -> None:
        """Count the steps of a series whose first row is at ``time``: it stands before that."""
        if self.plan.frequency is not None:
            series.first, step = self._calendar.start(
                0 if self.plan.clock.kind == "order" else time
            )
            series.step = step - 1

    def _new(self, key: Key, static: Float32, codes: Sequence[int]) -> _Series:
        """A series of which nothing has come."""
        embedded = [
            weight[code]
            for (_, weight), code in zip(
                self._embeddings[len(self._embeddings) - len(codes) :], codes, strict=True
            )
        ]
        series = _Series(
            key, len(self.plan.targets), self._behind, np.concatenate([static, *embedded])
        )
        series.state = [s.copy() for s in self._fresh]
        return series

    def _block(self, series: _Series, step: int) -> Block:
        """The block of a step of a series at a regular frequency."""
        block = series.block
        if (
            block is None
            or not block.begin <= step < block.begin + len(block.times) - self.network.horizon - 1
        ):
            block = series.block = self._calendar.block(series.first, step)
        return block

    # --- What is known ahead ---------------------------------------------------------------------

    def _give(self, rows: Iterable[Mapping[str, Any]], steps: Iterable[int] | None = None) -> None:
        """Rows of what is known; ``steps`` where there are no times."""
        by_key: dict[Key, list[Row]] = {}
        counted = None if steps is None else iter(steps)
        for row in rows:
            read = self._reader.read(row, 0 if counted is None else next(counted))
            by_key.setdefault(read.key, []).append(read)
        for key, found in by_key.items():
            given = self._given.setdefault(key, Given())
            if self.plan.clock.kind == "order" and steps is None:
                series = self._series.get(key)
                next_one = (
                    given.times[-1] + 1 if given.times else 0 if series is None else series.step + 1
                )
                times = next_one + np.arange(len(found))
            else:
                times = np.array([read.time for read in found], np.int64)
            own = np.array([read.known for read in found])
            codes = np.array([read.known_codes for read in found], np.int64)
            given.add(
                times,
                self._known(times, own.reshape(len(found), -1), codes.reshape(len(found), -1)),
            )

    def _known(self, times: Integers, own: Floats, codes: Integers) -> Known:
        """What is known at ``times``: of columns ``[n, …]``, and of the calendar."""
        numbers = filled(standardized(own, self._known_statistics)).astype(np.float32)
        inputs = np.concatenate([numbers, self._calendar.features(times)], 1)
        return Known(inputs, codes, self._head.of_known(inputs, codes))

    def _ahead(self, series: _Series, time: int, step: int) -> Float32 | None:
        """The part of what is known ahead of a step, ``[horizon, width]``, if anything can be.

        Raises:
            DataError: it was not given.
        """
        horizon = self.network.horizon
        if self._known_names:
            return self._given_ahead(series, time, step)
        if self.plan.frequency is None:
            if not self._calendar.size:
                return None
            times = time + self.plan.unit * np.arange(1, horizon + 1)
            return self._calendar.known(times).parts
        block = self._block(series, step)
        if block.known.parts is None:
            return None
        at = step - block.begin + 1
        return block.known.parts[at : at + horizon]

    def _given_ahead(self, series: _Series, time: int, step: int) -> Float32 | None:
        """The same where rows have to be given."""
        horizon, clock = self.network.horizon, self.plan.clock
        given = self._given.get(series.key)
        times, known = ([], None) if given is None else given.after(time, horizon)
        expected = times
        if self.plan.frequency is not None:
            block = self._block(series, step)
            at = step - block.begin + 1
            expected = block.times[at : at + horizon]
        if known is not None and times == expected and len(times) == horizon:
            return known.parts
        lacking = sorted(set(expected) - set(times))
        where = f", from {clock.text(lacking[0])} to {clock.text(lacking[-1])}" if lacking else ""
        raise DataError(
            f"the row: {len(lacking) or horizon - len(times)} of the {horizon} rows after "
            f"{clock.text(time)} of {series.name} are missing{where}; expected what is known ahead, "
            f"{', '.join(self._known_names)}: stream.known(rows) before"
        )

    def _take_future(self, frame: Any, lengths: Integers) -> None:
        """The rows of a table after the last targets, as what is known ahead."""
        table = table_of(frame)
        rows = Rows(table, None, self.plan.roles)
        groups = grouped(rows)
        line = timeline_of(rows, groups, self.plan, None, None)
        later = np.flatnonzero(line.steps >= lengths[groups.of_row])
        if len(later):
            steps = line.steps[later] if self.plan.clock.kind == "order" else line.times[later]
            self._give(_rows_of(table, groups.order[later]), steps.tolist())

    # --- A step ----------------------------------------------------------------------------------

    def _step(self, series: _Series, time: int, step: int, read: Row, says: bool) -> None:
        """Read what stands at a step; ``says``: the row itself has what is known ahead."""
        if self._current is not series:
            self._switch(series)
        targets = read.targets
        location, scale = series.scaling.step(targets)
        numbers, there, levels = [], [], []
        for value, middle, width in zip(targets, location, scale, strict=True):
            is_there = value == value
            there.append(1.0 if is_there else 0.0)
            away = (value - middle) / width if is_there else 0.0
            numbers.append(min(max(away, -FURTHEST), FURTHEST))
            levels.append(math.asinh(middle / width))
        numbers += there + levels
        if read.past:
            numbers += _standardized(read.past, self._past)
            numbers += [1.0 if value == value else 0.0 for value in read.past]
        x = self._bare.x
        x[: self._first] = numbers
        codes = self._read_known(series, time, step, read, says)
        gap = 0.0 if series.place < 0 else 1.0
        if gap and self.plan.frequency is None:
            gap = (time - series.time) / self.plan.unit
        seen = 1.0 in there or any(value == value for value in read.past)
        x[self._gap_at], x[self._gap_at + 1] = gap, seen
        if self._embeddings:
            for (span, weight), code in zip(
                self._embeddings, [*read.past_codes, *codes], strict=False
            ):
                x[span] = weight[code]
        self._y = self._bare.step()
        place = series.place = (series.place + 1) % self._behind
        if series.holes or 0.0 in there:
            series.holes += there.count(0.0) - int(np.isnan(series.recent[place]).sum())
        series.recent[place] = series.recent[place + self._behind] = targets
        series.location[:, 0], series.scale[:, 0] = location, scale
        if series.lacks:
            series.lacks = [k for k in series.lacks if not there[k]]
        series.time, series.step = time, step

    def _read_known(
        self, series: _Series, time: int, step: int, read: Row, says: bool
    ) -> Sequence[int]:
        """Put into the input what is known at a step, by its row or ahead of it; its codes."""
        x = self._bare.x
        if self._known_names and not says:
            given = self._given.get(series.key)
            found = None if given is None else given.at(time)
            if found is not None:
                x[self._of_known] = found.inputs[0]
                codes: list[int] = found.codes[0].tolist()
                return codes
        if self._calendar.size:
            if self.plan.frequency is None:
                x[self._of_calendar] = self._calendar.features(np.array([time]))[0]
            else:
                block = self._block(series, step)
                x[self._of_calendar] = block.known.inputs[step - block.begin]
        if not self._known_names:
            return ()
        if not says:
            x[self._of_own] = 0.0
            return self._unknown
        if read.known:
            x[self._of_own] = _standardized(read.known, self._known_statistics)
        return read.known_codes

    def _switch(self, series: _Series) -> None:
        """Let a series take the next steps."""
        if self._current is not None:
            self._current.state = self._bare.state
        self._bare.state = series.state
        self._y = series.state[-len(series.state) // self.network.layers.depth]
        self._current = series
        static = len(self.plan.static)
        x = self._bare.x
        x[self._of_static] = series.static[:static]
        embedded = len(series.static) - static
        if embedded:
            x[self._gap_at - embedded : self._gap_at] = series.static[static:]

    def _forecast(self, series: _Series, ahead: Float32 | None) -> Floats:
        """What comes after the last row of a series, with the part of what is known ahead."""
        if self._current is not series:
            self._switch(series)
        window = series.recent[series.place + 1 : series.place + 1 + self._behind]
        lagged, location, scale = self._lagged, series.location, series.scale
        window.take(self._lag_rows, axis=0, out=lagged, mode="clip")
        np.subtract(lagged, location[:, 0], out=lagged)
        np.divide(lagged, scale[:, 0], out=lagged)
        np.minimum(np.maximum(lagged, LEAST, out=lagged), MOST, out=lagged)
        if series.holes:
            np.copyto(lagged, 0.0, where=np.isnan(lagged, out=self._is_lacking))
        self._head.lags[:] = self._by_target
        told = self._head(self._y, ahead, location, scale)
        if series.lacks:
            told[:, series.lacks] = np.nan
        return told[:, 0] if told.shape[1] == 1 else told

    def _see(self, series: _Series, values: Floats) -> None:
        """Keep of a history ``[T, targets]`` what forecasts depend on beside the state."""
        series.scaling = RunningScale.after(values)
        now = np.array(series.scaling.state_dict()["now"])
        series.location[:], series.scale[:] = now[:, :1], now[:, 1:]
        series.lacks = np.flatnonzero(np.isnan(values).all(0)).tolist()
        last = values[-self._behind :]
        series.place = self._behind - 1
        series.recent[self._behind - len(last) : self._behind] = last
        series.recent[2 * self._behind - len(last) :] = last
        series.holes = int(np.isnan(series.recent[: self._behind]).sum())

    # --- Saved -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that it has seen, for ``torch.save``: ``torch.load(…, weights_only=True)`` reads it."""
        if self._current is not None:
            self._current.state = self._bare.state
        every = list(self._series.values())
        given = {key: g for key, g in self._given.items() if g.known is not None}
        shared = joined([g.known for g in given.values() if g.known is not None]) if given else None
        return {
            "format": FORMAT,
            "network": self._fingerprint(),
            "keys": [list(series.key) for series in every],
            "times": torch.tensor([[s.time, s.first, s.step] for s in every], dtype=torch.int64),
            "state": torch.from_numpy(np.array([s.state for s in every])),
            "scaling": torch.from_numpy(np.array([_numbers_of(s.scaling) for s in every])),
            "values": torch.from_numpy(np.array([self._window(s) for s in every])),
            "static": torch.from_numpy(np.array([s.static for s in every])),
            "given": {
                "keys": [list(key) for key in given],
                "counts": [len(g.times) for g in given.values()],
                "times": torch.tensor(
                    [t for g in given.values() for t in g.times], dtype=torch.int64
                ),
                "inputs": None if shared is None else torch.from_numpy(shared.inputs),
                "codes": None if shared is None else torch.from_numpy(shared.codes),
            },
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, whatever has come here.

        Raises:
            CallError: it is not of this forecaster.
        """
        if saved.get("format") != FORMAT or saved.get("network") != self._fingerprint():
            raise CallError(
                "saved: got the state of another forecaster, expected one of the same weights; "
                "stream.read(frame) reads the histories anew"
            )
        self._series, self._given, self._current = {}, {}, None
        names = ("times", "state", "scaling", "values", "static")
        arrays = [saved[name].numpy() for name in names]
        for key, times, state, scaling, values, static in zip(saved["keys"], *arrays, strict=True):
            series = _Series(tuple(key), len(self.plan.targets), self._behind, static.copy())
            series.time, series.first, series.step = times.tolist()
            series.state = [s.copy() for s in state]
            sums, now = scaling[:, :-2], scaling[:, -2:]
            series.scaling.load_state_dict({"sums": sums.tolist(), "now": now.tolist()})
            series.location[:], series.scale[:] = now[:, :1], now[:, 1:]
            series.lacks = np.flatnonzero(scaling[:, 0] == 0).tolist()
            series.place = self._behind - 1
            series.recent[: self._behind] = series.recent[self._behind :] = values
            series.holes = int(np.isnan(values).sum())
            self._series[series.key] = series
        given, begin = saved["given"], 0
        for key, count in zip(given["keys"], given["counts"], strict=True):
            rows = slice(begin, begin + count)
            inputs, codes = given["inputs"][rows].numpy(), given["codes"][rows].numpy()
            found = self._given[tuple(key)] = Given()
            found.add(
                given["times"][rows].numpy(),
                Known(inputs, codes, self._head.of_known(inputs, codes)),
            )
            begin += count

    def _window(self, series: _Series) -> Floats:
        return series.recent[series.place + 1 : series.place + 1 + self._behind]

    def _fingerprint(self) -> str:
        """Which weights these are."""
        digest = hashlib.blake2b(digest_size=16)
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + weight.numpy().tobytes())
        return digest.hexdigest()


def _standardized(values: list[float], statistics: Sequence[Sequence[float]]) -> list[float]:
    """``standardized`` and ``filled`` of one row."""
    found = []
    for value, (mean, spread) in zip(values, statistics, strict=True):
        away = (value - mean) / spread if value == value else 0.0
        found.append(min(max(away, -FURTHEST), FURTHEST))
    return found


def _numbers_of(scaling: RunningScale) -> list[list[float]]:
    saved = scaling.state_dict()
    return [[*sums, *now] for sums, now in zip(saved["sums"], saved["now"], strict=True)]


def _is_rows(rows: Any) -> bool:
    return isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows)


def _rows_of(table: Any, chosen: Integers | None = None) -> list[dict[str, Any]]:
    """The rows of a table as mappings."""
    columns = {name: table.arrow(name) for name in table.names}
    if chosen is not None:
        columns = {name: column.take(chosen) for name, column in columns.items()}
    lists = [column.to_pylist() for column in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
