"""What turns gradients into new weights: parameter groups, optimisers, averages.  (Chapters 5, 8, 13)

Paper: appendices A.2 and B.2. AdamW throughout, an exponential average of the weights. Which weights decay
is not said there: ours are all but gains, biases and embeddings. Muon is later (Jordan et al. 2024) and an
option of ours.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .device import choose_precision

# Layers whose weights decay; all else (gains, biases, embeddings) never does.
DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d)


def decayed(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay pulls towards 0: the matrices that multiply activations."""
    return [
        f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, DECAYED)
    ]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimiser, with decay and without; frozen parameters are in neither."""
    names = set(decayed(model))
    groups = {True: [], False: []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups[name in names].append(p)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def adamw(
    model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """The paper's optimiser: AdamW, eps 1e-8, decay on matrices alone; without its limit on the second moment
    (see `adamw.py`)."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True)


def muon_and_adamw(
    model: nn.Module,
    matrices: Iterable[Tensor],
    muon_lr: float,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Muon for the given matrices and kernels, AdamW for everything else of the model.

    Muon reaches the same loss in fewer steps at our size, which is what counts on two cores.
    """
    matrices = list(matrices)
    chosen = {id(p) for p in matrices}
    groups = parameter_groups(model, weight_decay)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
    return Together(
        [
            Muon(matrices, muon_lr),
            torch.optim.AdamW(
                [g for g in groups if g["params"]], lr=lr, betas=betas, eps=1e-8, fused=True
            ),
        ]
    )


class Muon(torch.optim.Optimizer):
    """Steps of equal length in every direction of a matrix: momentum, made orthogonal. Jordan et al. 2024.

    As `torch.optim.Muon` without decay, which takes matrices alone; a convolution's kernel of shape
    (n_out, n_in, k, k) is a matrix (n_out, n_in·k·k) here. Raises ValueError for a vector, which has no
    directions to even out.
    """

    momentum = 0.95

    def __init__(self, matrices: Iterable[Tensor], lr: float):
        super().__init__(matrices, {"lr": lr})
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"]]
        if vectors := [shape for shape in shapes if len(shape) < 2]:
            raise ValueError(f"Muon is for matrices and kernels, not for shape {vectors[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of every matrix that has a gradient; products take those of one shape together."""
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.flatten(1).shape].append(p)
            for (rows, columns), parameters in alike.items():
                updates = torch.stack([self._momentum(p).flatten(1) for p in parameters])
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for p, update in zip(parameters, orthogonal(updates), strict=True):
                    p.add_(update.view_as(p), alpha=-rate)

    def _momentum(self, p: Tensor) -> Tensor:
        """The average of the gradients so far, with Nesterov's look ahead."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].lerp_(p.grad, 1 - self.momentum)
        return p.grad.lerp(buffer, self.momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """About U Vᵀ of every matrix U S Vᵀ, (n, rows, columns): five steps of a Newton–Schulz iteration bring
    every singular value near 1 (between 0.7 and 1.2, which is near enough). In bfloat16 where the device has
    it; float16 would lose small values, so a device that has that alone gets float32, as most CPUs do."""
    a, b, c = (
        3.4445,
        -4.7750,
        2.0315,
    )  # steep at 0, so that small values grow fast (Jordan et al. 2024)
    wide = matrices.shape[1] <= matrices.shape[2]
    fast = choose_precision(matrices.device)[0] == torch.bfloat16
    matrices = matrices.to(torch.bfloat16 if fast else torch.float32)
    X = matrices if wide else matrices.mT
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X if wide else X.mT


class Together(torch.optim.Optimizer):
    """Several optimisers, each for parameters of its own, as one: all groups, one state, one step."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = list(parts)
        self.sizes = [len(part.param_groups) for part in self.parts]
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of each. The groups are handed out anew: whoever wraps this may have replaced them."""
        first = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            part.param_groups, part.state = self.param_groups[first : first + size], self.state
            part.step()
            first += size


def move_averages(decay: float, averages: list[Tensor], values: list[Tensor], n: int) -> None:
    """Move exponential averages, in place, towards values that are the n-th of their kind. The decay grows
    with n up to its final value, so that the random initial weights are soon forgotten."""
    now = min(decay, (1 + int(n)) / (10 + int(n)))
    torch._foreach_lerp_(averages, values, 1 - now)


class Average:
    """The exponential average of parameters: of their values after every ``every``-th step.

    Paper: decay 0.999 for the dVAE; 0.99 of every 25th step for the transformer. That it grows to there (see
    `move_averages`) is ours.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float, every: int = 1):
        self.values = [p.detach().clone() for p in parameters]
        self.decay, self.every, self.n = decay, every, 0

    def update(self, step: int, parameters: Iterable[Tensor]) -> None:
        """Take in the parameters after ``step`` steps; the first ones replace the initial weights."""
        if step % self.every:
            return
        averages, values = shards(self.values), shards(p.detach() for p in parameters)
        if self.n:
            move_averages(self.decay, averages, values, self.n)
        else:
            torch._foreach_copy_(averages, values)
        self.n += 1


def shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parts of tensors that this process holds: all of them, unless FSDP has divided them."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
