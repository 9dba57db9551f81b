"""PowerSGD: what processes send each other is a low-rank form of the gradient.  (Chapter 13)

Paper: appendix E. A matrix M (n, m) is sent as P (n, r) and Q (m, r) with M ≈ P Qᵀ; what that loses is
added to the next step's gradient (error feedback). Q is drawn anew every step, never warm-started.
Embeddings, gains and biases are sent as they are. The algorithm is PyTorch's own; here stands what the
paper asks for beyond it, and how its state survives a restart.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from .optim import decayed

PLAIN_STEPS = 2  # sent in full: the least that PyTorch allows with error feedback


class Bucket:
    """A bucket of gradients in which those that must not be compressed are vectors, which never are."""

    def __init__(self, bucket: dist.GradBucket, matrices: set[int]):
        self.bucket, self.matrices = bucket, matrices
        self.buffer, self.index, self.is_last = bucket.buffer, bucket.index, bucket.is_last

    def gradients(self) -> list[Tensor]:
        """Views into the buffer, one a parameter."""
        pairs = zip(self.bucket.gradients(), self.bucket.parameters(), strict=True)
        return [g if id(p) in self.matrices else g.view(-1) for g, p in pairs]


class PowerSGD:
    """The communication hook of one model, and its state. rank: r, columns of P and Q."""

    def __init__(self, model: nn.Module, rank: int, seed: int):
        if rank < 1:
            raise ValueError(f"the rank of PowerSGD must be at least 1, not {rank}")
        names = set(decayed(model))
        self.matrices = {id(p) for name, p in model.named_parameters() if name in names}
        self.state = PowerSGDState(
            process_group=None,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=PLAIN_STEPS,
            min_compression_rate=1,
            use_error_feedback=True,
            warm_start=False,
            random_seed=seed % 2**32,
        )

    def hook(self, state: PowerSGDState, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """What DDP calls for every bucket of gradients.

        It waits until the bucket is done: PyTorch's hook sends P and Q from threads of its own, and without
        an order between those and whatever DDP sends next, processes take one message for another.
        """
        future = powerSGD_hook(state, Bucket(bucket, self.matrices))
        future.wait()
        return future

    def saved(self) -> float:
        """The share of numbers that need not be sent, of all steps since compression began."""
        sent, full = (
            self.state.total_numel_after_compression,
            self.state.total_numel_before_compression,
        )
        return 1 - sent / full if full else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """What this process remembers: the errors of each bucket. Others remember other ones."""
        return {f"error/{index}": error for index, error in self.state.error_dict.items()}

    def facts(self) -> dict:
        """The rest of the state, equal in all processes."""
        kind, key, position, *_ = self.state.rng.get_state()
        return {
            "iter": self.state.iter,
            "before": self.state.total_numel_before_compression,
            "after": self.state.total_numel_after_compression,
            "rng": [kind, key.tolist(), position],
        }

    def load(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """Go on from `tensors` and `facts` of an earlier process."""
        self.state.error_dict = {int(name.split("/")[1]): t for name, t in tensors.items()}
        self.state.iter = facts["iter"]
        self.state.total_numel_before_compression = facts["before"]
        self.state.total_numel_after_compression = facts["after"]
        self.state.rng.set_state(tuple(facts["rng"]))
