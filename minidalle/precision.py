"""Sixteen bits without losing gradients: a loss scale for every residual block.  (Chapter 13)

A float16 ends at 65,504 above and at 2⁻²⁴ ≈ 6e-8 below; a gradient outside of that becomes infinite or 0. The
usual cure multiplies the loss, and with it every gradient, by one number. In a deep network there may be no
such number: what saves the blocks with small gradients overflows in those with large ones.

Paper: appendix D and figure 4. Every residual block has a scale of its own, applied where the gradient enters
the block's branch and taken back where it leaves; the identity path stays in 32 bit. A transformer of 64
layers so has 128 scales. The gradients of a branch's parameters come out multiplied by its scale: `unscaled`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

START, LOWEST, HIGHEST = 2.0**13, 2.0**7, 2.0**24  # each times the number of replicas
GROWTH, BACKOFF, WINDOW = 2 ** (1 / 1000), math.sqrt(2), 125

# ------------------------------------------------------------------------------------------ the scale


@dataclass(frozen=True)
class GradientScale:
    """The scale of one residual block and the rule by which it moves (paper, appendix D).

    replicas: M, how many data-parallel copies there are. They divide the loss by the batch of all of them
    together, so their scales are M times as large. rested: updates since the last division. growth: factor
    of a good update. window: a scale is divided at most once in so many updates.
    """

    value: float = START
    replicas: int = 1
    rested: int = WINDOW
    growth: float = GROWTH
    window: int = WINDOW

    @classmethod
    def first(cls, replicas: int = 1) -> "GradientScale":
        """The scale that training begins with, M · 2¹³. Raises ValueError for no replicas at all."""
        if replicas < 1:
            raise ValueError(f"replicas must be at least 1, not {replicas}")
        return cls(START * replicas, replicas)

    def updated(self, finite: bool) -> "GradientScale":
        """The scale for the next update. finite: whether every parameter gradient of the block was; if not,
        this update must leave the block as it is."""
        divides = not finite and self.rested >= self.window
        value = self.value * self.growth if finite else self.value
        value = value / BACKOFF if divides else value
        value = min(max(value, LOWEST * self.replicas), HIGHEST * self.replicas)
        return replace(self, value=value, rested=1 if divides else self.rested + 1)


# ----------------------------------------------------------------------------------------- the branch


class _Enter(torch.autograd.Function):
    """Forward: 32 → 16 bit. Backward: filter, 16 → 32 bit, unscale."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
        ctx.scale = scale
        return x.to(dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        filtered = gradient.where(gradient.isfinite(), 0.0)
        return filtered.float() / ctx.scale, None, None


class _Leave(torch.autograd.Function):
    """Forward: 16 → 32 bit. Backward: scale, 32 → 16 bit."""

    @staticmethod
    def forward(ctx, y: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.dtype = scale, y.dtype
        return y.float()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient * ctx.scale).to(ctx.dtype), None


def scaled(
    branch: Callable[[Tensor], Tensor],
    x: Tensor,
    scale: float,
    dtype: torch.dtype = torch.float16,
) -> Tensor:
    """What a residual branch adds to x, computed in 16 bit with scaled gradients: x + scaled(f, x, s).

    branch: maps 16 bit to 16 bit, with parameters in 16 bit or under autocast. x: 32 bit, of any shape.
    Backward, the gradient is multiplied by ``scale`` before the branch and divided by it after; what is not
    finite there becomes 0, so that an overflow stays in its block. Paper: figure 4. Raises ValueError for an
    identity path that is not in 32 bit.
    """
    if x.dtype != torch.float32:
        raise ValueError(f"the identity path must be in torch.float32, not {x.dtype}")
    return _Leave.apply(branch(_Enter.apply(x, scale, dtype)), scale)


def unscaled(parameters: Iterable[nn.Parameter], scale: float) -> tuple[list[Tensor], bool]:
    """The true gradients of a block's parameters in 32 bit, and whether all of them are finite."""
    gradients = [p.grad.float() / scale for p in parameters]
    return gradients, all(bool(g.isfinite().all()) for g in gradients)


# -------------------------------------------------------------------------------------- the underflow


class DeepNetwork(nn.Module):
    """x ← x + gainₗ · fₗ(x) for L blocks fₗ = linear · GELU · linear · LayerNorm of width D: a toy of ours.

    The gains fall from 1 to 2^−octaves, and the gradients of the blocks with them; float16 has 40 octaves
    from its smallest number to its largest. The paper reports gradients that fall from block to block; ours
    fall faster, so that few blocks are enough. A small gradient is not an unimportant one: Adam divides by
    its size, so a block learns from gradients of 1e-9 as fast as from 1, but not from 0.
    """

    def __init__(self, D: int = 32, L: int = 24, octaves: float = 42.0):
        super().__init__()
        self.gains = [2.0 ** (-octaves * k / (L - 1)) for k in range(L)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
            for _ in range(L)
        )

    def forward(self, x: Tensor, scales: Sequence[float]) -> Tensor:
        """x (B, D) in 32 bit → (B, D); each branch in its parameters' precision, with a scale of its own."""
        for block, gain, scale in zip(self.blocks, self.gains, scales, strict=True):
            x = x + gain * scaled(block, x, scale, block[1].weight.dtype)
        return x

    def gradients(self, x: Tensor, scales: Sequence[float]) -> list[tuple[Tensor, bool]]:
        """For each block, the true gradients of all of its parameters as one vector in 32 bit, and whether
        they are finite. The loss is half the sum of squares of what comes out."""
        self.zero_grad()
        (self(x, scales).square().sum() / 2).backward()
        found = []
        for block, scale in zip(self.blocks, scales, strict=True):
            gradients, finite = unscaled(block.parameters(), scale)
            found.append((torch.cat([g.flatten() for g in gradients]), finite))
        return found


class Underflow(NamedTuple):
    """Relative errors of the blocks' gradients in 16 bit against those in 32: 0 exact, 1 lost, ∞ overflown.

    sizes (L,): root mean squares of the gradients in 32 bit. scales (S,) and shared (S, L): errors with the
    same scale for all blocks, for each of S scales. own (L,): errors when every block has its own scale,
    own_scales (L,).
    """

    sizes: Tensor
    scales: Tensor
    shared: Tensor
    own: Tensor
    own_scales: Tensor


def underflow(network: DeepNetwork, x: Tensor, updates: int = 32) -> Underflow:
    """Try every shared scale from 2⁻²⁴ to 2⁴⁸, then the per-block rule, on inputs x (B, D) in 32 bit.

    The same scale in every block is what a scaled loss does, with two favours: the identity path is in 32
    bit, and the filter keeps an overflow from the blocks before. The rule runs with a fast clock: √2 instead
    of 2^(1/1000) a good update, a window of 1 instead of 125, so that ``updates`` suffice to settle. Leaves
    the network in 16 bit.
    """
    network.half()  # first, so that both precisions have the same weights
    true = [g for g, _ in network.float().gradients(x, [1.0] * len(network.blocks))]
    network.half()
    scales = 2.0 ** torch.arange(-24, 49)
    shared = [_errors(network.gradients(x, [float(s)] * len(true)), true) for s in scales]
    own = [GradientScale(growth=BACKOFF, window=1)] * len(true)
    kept = [(torch.zeros_like(g), True) for g in true]
    for _ in range(updates):
        for k, found in enumerate(network.gradients(x, [s.value for s in own])):
            own[k] = own[k].updated(finite=found[1])
            kept[k] = found if found[1] else kept[k]  # a bad update changes nothing
    sizes = torch.stack([g.square().mean().sqrt() for g in true])
    own_scales = torch.tensor([s.value for s in own])
    return Underflow(sizes, scales, torch.stack(shared), _errors(kept, true), own_scales)


def _errors(found: list[tuple[Tensor, bool]], true: list[Tensor]) -> Tensor:
    pairs = zip(found, true, strict=True)
    return torch.stack(
        [
            (g - t).norm() / t.norm() if finite else t.new_tensor(torch.inf)
            for (g, finite), t in pairs
        ]
    )
