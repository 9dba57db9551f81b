"""What all tests share: no progress bars, fixed seeds, a calm profile for property tests."""

import os

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("MINIDALLE_QUIET", "1")
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same global seed, whatever ran before it."""
    torch.manual_seed(0)
