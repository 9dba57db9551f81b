"""What all tests share: no progress bars, fixed seeds, a calm profile for property tests."""

import os

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("MINIDALLE_QUIET", "1")
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def _seeded(request):
    """Every test starts from the same global seed, and tiny models do not wait for threads."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if request.node.get_closest_marker("slow") else 1)
    yield
    torch.set_num_threads(threads)
