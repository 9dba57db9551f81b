"""What all tests share: no progress bars, fixed seeds, a calm profile for property tests."""

import os
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("MINIDALLE_QUIET", "1")
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ci")


THREADS = torch.get_num_threads()
if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker and the programs that it starts
    THREADS, os.environ["OMP_NUM_THREADS"] = 1, "1"


def pytest_addoption(parser):
    parser.addoption(
        "--seeds", type=int, default=1, help="how often ci is trained for the scores it promises"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Tiny models do not wait for threads, and two runs that must agree to the bit have equally many: set
    before any fixture is made, since a fixture may train too."""
    torch.set_num_threads(THREADS if item.get_closest_marker("slow") else 1)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same global seed."""
    torch.manual_seed(0)


@pytest.fixture
def tell(capsys) -> Callable[[str], None]:
    """Prints figures also when the test passes: they are what it is about. To standard error, which the
    processes of pytest-xdist share."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", file=sys.stderr, flush=True)

    return say
