"""The paper's optimiser as pure functions: AdamW with a limit, and the average of weights.  (Chapter 13)

Paper: appendix B. Training uses PyTorch's optimisers; these are to be read, and tested against those.
"""

import math
from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Running means of the gradient and of its square, elementwise; zeros before the first update."""

    first: Tensor
    second: Tensor


def adamw(
    weight: Tensor,
    gradient: Tensor,
    moments: Moments,
    step: int,
    lr: float = 4.5e-4,
    betas: tuple[float, float] = (0.9, 0.96),
    eps: float = 1e-8,
    decay: float = 4.5e-2,
    limit: float = 5.0,
) -> tuple[Tensor, Moments]:
    """The weight and the moments after an update; nothing is changed in place. step: 1 for the first.

    limit: the running mean of squares is cut off there before it is used or kept, so that one huge gradient
    slows its weight down for a short while only. Of the means, not of the corrected ones: the paper leaves
    that open. decay: 0 for gains, biases and embeddings.
    Raises ValueError for a step before the first.
    """
    if step < 1:
        raise ValueError(f"the first update is step 1, not {step}")
    first = betas[0] * moments.first + (1 - betas[0]) * gradient
    second = betas[1] * moments.second + (1 - betas[1]) * gradient.square()
    second = second.clamp(max=limit)
    size = (second / (1 - betas[1] ** step)).sqrt() + eps  # both means began at 0: undo that
    change = first / (1 - betas[0] ** step) / size
    return weight - lr * (decay * weight + change), Moments(first, second)


def averaged(
    average: Tensor, weight: Tensor, step: int, decay: float = 0.99, every: int = 25
) -> Tensor:
    """The average after update ``step`` (1 for the first): at every 25th it moves towards the weight, which
    costs a 25th of the work."""
    return average if step % every else decay * average + (1 - decay) * weight


def half_life(decay: float = 0.99, every: int = 25) -> float:
    """Updates after which half of the average is younger: 1,724 in the paper."""
    return every * math.log(0.5) / math.log(decay)
