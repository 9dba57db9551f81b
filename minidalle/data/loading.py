"""Examples that other processes load while this one computes.  (Chapter 13)"""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

A = TypeVar("A")
B = TypeVar("B")


def load_ahead(load: Callable[[A], B], items: Sequence[A], workers: int) -> Iterator[B]:
    """``load`` of every item, in order. workers: processes that do it ahead of time, each every n-th item;
    0 is this process, when an item's turn has come."""
    if not workers:
        return map(load, items)
    return iter(
        DataLoader(
            items,
            batch_size=None,
            collate_fn=load,
            num_workers=workers,
            worker_init_fn=deaf,
            multiprocessing_context="fork",  # what loads is not to be sent
            generator=torch.Generator(),  # else the loader would draw from the global one
        )
    )


def deaf(worker: int) -> None:
    """Let a worker ignore Ctrl-C: the process that computes decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
