"""From a table to arrays: columns and their roles, times and their frequency, gaps, scales."""

from unrolled.series.data.clock import Clock
from unrolled.series.data.frames import Table, frame_like, table_of
from unrolled.series.data.frequency import Frequency
from unrolled.series.data.panel import Panel, Series, panel_of, split_bounds, split_of_keys
from unrolled.series.data.plan import Column, Plan
from unrolled.series.data.roles import Roles
from unrolled.series.data.scale import RunningScale, Scaling, running_scale, running_scales
from unrolled.series.data.sequences import Sequences, ragged, sequence_roles, sequences_of
from unrolled.series.data.stream import Row, RowReader
from unrolled.series.data.tables import read_table, write_table

__all__ = [
    "Clock",
    "Column",
    "Frequency",
    "Panel",
    "Plan",
    "Roles",
    "Row",
    "RowReader",
    "RunningScale",
    "Scaling",
    "Sequences",
    "Series",
    "Table",
    "frame_like",
    "panel_of",
    "ragged",
    "read_table",
    "running_scale",
    "running_scales",
    "sequence_roles",
    "sequences_of",
    "split_bounds",
    "split_of_keys",
    "table_of",
    "write_table",
]
