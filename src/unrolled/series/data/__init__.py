"""From a table to arrays: columns and their roles, times and their frequency, gaps, scales."""

from unrolled.series.data.frames import Table, frame_like, table_of
from unrolled.series.data.frequency import Frequency
from unrolled.series.data.panel import Panel, Series, split_bounds
from unrolled.series.data.plan import Column, Plan, Roles
from unrolled.series.data.reading import panel_of
from unrolled.series.data.scale import RunningScale, Scaling, running_scale
from unrolled.series.data.tables import read_table, write_table

__all__ = [
    "Column",
    "Frequency",
    "Panel",
    "Plan",
    "Roles",
    "RunningScale",
    "Scaling",
    "Series",
    "Table",
    "frame_like",
    "panel_of",
    "read_table",
    "running_scale",
    "split_bounds",
    "table_of",
    "write_table",
]
