"""What every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed every test alike, so that none depends on which ran before it."""
    torch.manual_seed(0)
