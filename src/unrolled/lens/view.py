"""What there is to show of one scan."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from unrolled.lens.causes import Causes
from unrolled.lens.lags import estimated_lags, lags_of
from unrolled.lens.recurrence import Recurrence

UNITS, COLUMNS = 64, 128  # of a state, at most; the steps at which it is shown
REACH = 4096  # steps of which the states are computed, at most
EXACT = 128  # the widest state whose lags are measured in all directions
LAG_PROBES = 16  # random directions, of a wider one


@dataclass(frozen=True)
class View:
    """What there is to show of one scan: of one sequence, over the steps that were taken apart, S of them.

    ``states``: h_t of at most 64 units, evenly chosen, at each of its steps or ``every`` so many, up to the
    4096th, ``[C, U]``. ``lags``: as ``lag_matrix``, ``[S, S]``; ``estimated`` from 16 random directions
    where the state is wider than 128. Both in the order of time.
    """

    states: Tensor = field(repr=False)
    every: int
    lags: Tensor = field(repr=False)
    estimated: bool
    causes: Causes

    def record(self) -> dict[str, Any]:
        """As plain data; see ``Report.record``."""
        causes = self.causes
        values = {
            name: torch.view_as_real(matrix.eigenvalues).tolist()
            for name, matrix in causes.matrices.items()
        }
        gate = causes.gate
        return {
            "states": self.states.tolist(),
            "every": self.every,
            "lags": self.lags.tolist(),
            "estimated": self.estimated,
            "eigenvalues": values,
            "gate": gate
            and {"name": gate.name, "mean": gate.mean, "time_scale": gate.time_scale.tolist()},
            "slopes": causes.slopes and asdict(causes.slopes),
            "factors": causes.factors and dict(causes.factors),
        }


def view_of(scan: Recurrence, causes: Causes, whole: Recurrence) -> View:
    """What to show of the first sequence of ``scan``, and of ``whole``, which may have more steps."""
    scan = scan.of_sequences(slice(0, 1))
    estimated = scan.width > EXACT
    lags = estimated_lags(scan, LAG_PROBES) if estimated else lags_of(scan, scan.steps, "rms")
    states = whole.in_time(whole.states[0][1:, 0])
    every = math.ceil(whole.steps / COLUMNS)
    width = states.shape[1]
    units = torch.linspace(
        0, width - 1, min(UNITS, width), dtype=torch.float32, device=states.device
    )
    chosen = states[::every, units.long()].double()
    return View(chosen.cpu(), every, scan.in_time(lags).cpu(), estimated, causes)
