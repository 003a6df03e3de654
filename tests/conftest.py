"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed every test alike, so that none depends on which ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The models of the tests are too small to gain from more than one thread."""
    torch.set_num_threads(1)
