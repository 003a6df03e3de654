"""``DistributedDataParallel``: two processes have the gradients of one on the joined batch."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tests.compare import assert_close_by_name
from tests.composition.layers import Model, input_of, make

PROCESSES, STEPS, BATCH_SIZE = 2, 4, 6
KINDS = ["RNN", "LSTM", "GRU", "Recurrent GRU", "Recurrent Leaky"]


def loss(model: torch.nn.Module, x: Tensor) -> Tensor:
    return model(x)[0].square().mean()


def worker(rank: int, folder: Path) -> None:
    """Run every model on this process's share of the sequences, and keep the gradients."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(folder / "store"), PROCESSES)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    given = torch.load(folder / "given.pt", weights_only=True)
    found = {}
    for kind in KINDS:
        model = Model(make(kind))
        if rank == 0:  # the others get the weights from it
            model.load_state_dict(given[kind])
        parallel = DistributedDataParallel(model)
        loss(parallel, given["x"].chunk(PROCESSES, 1)[rank]).backward()
        found[kind] = {name: p.grad for name, p in model.named_parameters()}
    torch.save(found, folder / f"found{rank}.pt")
    distributed.barrier()
    # Without PyTorch's own end of it: taking a process group down hung in one of ten runs, where this
    # function had returned and its objects were being freed.
    os._exit(0)


def ended(folder: Path, seconds: float) -> bool:
    """Whether all processes end in that time; raises what one has raised."""
    context = multiprocessing.spawn(worker, (folder,), nprocs=PROCESSES, join=False)
    try:
        deadline = time.monotonic() + seconds
        while not context.join(timeout=1):  # true when all have ended
            if time.monotonic() > deadline:
                return False
        return True
    finally:
        for process in context.processes:
            process.kill()


@pytest.mark.skipif(
    not distributed.is_available(), reason="PyTorch is built without torch.distributed"
)
def test_two_processes_have_the_gradients_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {kind: Model(make(kind)) for kind in KINDS}
    x = input_of(STEPS, BATCH_SIZE)
    given = {kind: model.state_dict() for kind, model in models.items()}
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    torch.save(given | {"x": x}, tmp_path / "given.pt")
    assert ended(tmp_path, seconds=180), "the processes have not ended in 180 seconds"
    for kind, model in models.items():
        loss(model, x).backward()
        expected = {name: p.grad for name, p in model.named_parameters()}
        for rank in range(PROCESSES):
            found = torch.load(tmp_path / f"found{rank}.pt", weights_only=True)[kind]
            assert_close_by_name(found, expected, STEPS)
