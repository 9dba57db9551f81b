"""What it takes to train in several processes, and to stop them.  (Chapter 13)

`accelerate` starts them and wraps the model: DDP (a copy in each, gradients averaged) or FSDP (a shard of
every tensor in each).
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from .device import choose_device, choose_precision


def accelerator(rank: int) -> Accelerator:
    """The processes of this run, on the device and with the loss scaling that `device` chose.

    rank: of PowerSGD, or 0. With it the buckets of gradients keep their first form (a side effect of
    looking for unused parameters), so that a resumed run compresses the same ones as the run before it.
    """
    device = choose_device()
    scaled = choose_precision(device)[0] == torch.float16
    return Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,  # the loop moves its model, before the optimiser is made
        mixed_precision="fp16" if scaled else "no",  # autocast is ours, see `Objective`
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=rank > 0)],
    )


def shard_as_asked(accelerator: Accelerator, blocks: Sequence[str], model: nn.Module) -> None:
    """Prepare accelerate for FSDP where ``accelerate launch --use_fsdp`` asked for it, on CPUs too.

    It leaves FSDP out on CPUs without a word, although PyTorch can do it there.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if not asked or accelerator.num_processes == 1:
        return
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(blocks),
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    for p in model.parameters():
        p.data = p.data.contiguous()  # shards of other layouts are not implemented in PyTorch


def whole(tensor: Tensor) -> Tensor:
    """A tensor as if there were one process: the shards of FSDP put together."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def place(tensor: Tensor, into: Tensor) -> None:
    """Copy a whole tensor into one that may be a shard."""
    if isinstance(into, DTensor):
        tensor = distribute_tensor(tensor.to(into.device), into.device_mesh, into.placements)
    into.copy_(tensor)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """PyTorch's global generators, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Tensor]) -> None:
    """Set what `random_states` gave. Cloned: PyTorch crashes on a row of a table (seen with 2.13)."""
    torch.set_rng_state(states["cpu"].cpu().clone())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu().clone())


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """An event that is set by the first Ctrl-C (or the request of a scheduler to end), so that a step is
    never left half done; the second Ctrl-C interrupts as ever."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may receive signals
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def ask(kind: int, frame: object) -> None:
        asked.set()
        signal.signal(kind, before[kind])

    for kind in kinds:
        signal.signal(kind, ask)
    try:
        yield asked
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
