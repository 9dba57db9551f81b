"""What verdicts, features and tokens add up to: shares, chance, FID, IS, diversity, best of N.  (Chapter 12)

Pure functions, in 64 bit where it matters. Paper: figures 6 and 9. FID is Heusel et al. 2017, the inception
score (IS) Salimans et al. 2016; both read pictures with a classifier, FID by features and IS by classes. Here
that is our examiner instead of an Inception network, and its classes are the families, so that our figures
can be compared with each other and with nobody else's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from .data import to_float, to_uint8
from .world import Scene

# ------------------------------------------------------------------------------------------- shares


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that n independent trials had (Wilson 1927)."""
    z, p = 1.96, share
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


class Share(NamedTuple):
    """How many of n pictures were right."""

    right: int
    n: int

    @property
    def value(self) -> float:
        return self.right / self.n

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        return wilson(self.value, self.n)

    def as_json(self) -> dict[str, float]:
        """Plain numbers: right, n and the interval's ends."""
        low, high = self.interval()
        return {"right": self.right, "n": self.n, "low": low, "high": high}

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] of {self.n}"


def pooled(shares: Sequence[Share]) -> Share:
    """All pictures of several cells together; of cells of one size that is the average of their shares."""
    return Share(sum(share.right for share in shares), sum(share.n for share in shares))


def chance(scenes: Sequence[Scene]) -> float:
    """How often a true picture of another caption of the same family would be right for a caption.

    Over all ordered pairs of two scenes: the share in which the other one shows every fact that the first
    one's caption states. Raises ValueError for fewer than 2 scenes.
    """
    if len(scenes) < 2:
        raise ValueError(f"chance needs 2 scenes or more, not {len(scenes)}")
    facts = [frozenset(scene.slots.items()) for scene in scenes]
    hits = sum(stated <= shown for stated in facts for shown in facts) - len(facts)
    return hits / (len(facts) * (len(facts) - 1))


# ---------------------------------------------------------------------------------------- FID and IS


def blur(pictures: Tensor, radius: float) -> Tensor:
    """Gaussian blur of pictures (B, 3, S, S) in [0, 1], radius in pixels, as Pillow does it; 0 is none."""
    if radius == 0:
        return pictures
    how = ImageFilter.GaussianBlur(radius)
    return to_float([np.asarray(Image.fromarray(x).filter(how)) for x in to_uint8(pictures)])


def frechet(x: Tensor, y: Tensor) -> float:
    """The Fréchet distance of two sets of features (n, F) and (m, F), each taken for a Gaussian.

    |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½), in 64 bit. The estimate is too large by an amount that shrinks
    with n: compare sets of one size. Raises ValueError for fewer than 2 rows or another F.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"features must be (n, F) and (m, F) with n, m ≥ 2, not {shapes}")
    x, y = x.double(), y.double()
    return frechet_of_gaussians(x.mean(0), covariance(x), y.mean(0), covariance(y))


def covariance(x: Tensor) -> Tensor:
    """Of rows (n, F), divided by n − 1: (F, F)."""
    x = x - x.mean(0)
    return x.T @ x / (len(x) - 1)


def frechet_of_gaussians(mean1: Tensor, C1: Tensor, mean2: Tensor, C2: Tensor) -> float:
    """`frechet` of two Gaussians. The eigenvalues of C₁C₂ are those of C₁^½ C₂ C₁^½, which is symmetric, so
    that no root of a negative number can arise from rounding."""
    values, vectors = torch.linalg.eigh(C1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ C2 @ root).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + C1.trace() + C2.trace() - 2 * cross)


def without(p: Tensor, k: int) -> Tensor:
    """Class probabilities (n, classes), given that it is another class than k: float64 (n, classes − 1).

    A picture that is of class k for certain says nothing of the others: they are equally likely.
    """
    rest = torch.cat([p[:, :k], p[:, k + 1 :]], 1).double()
    rest = (
        rest + torch.finfo(torch.float32).tiny
    )  # what a softmax may have rounded to 0 in all of them
    return rest / rest.sum(1, keepdim=True)


def inception(p: Tensor) -> float:
    """The inception score of class probabilities (n, classes): exp E KL(p(y|x) ‖ p(y)).

    1 where all pictures look alike to the classifier; the number of classes where each is recognised with
    certainty and all are equally frequent.
    """
    p = p.double()
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(0))
    return float(divergence.sum(1).mean().exp())


# ------------------------------------------------------------------------------- diversity, best of N


def pairwise_difference(tokens: Tensor) -> float:
    """The share of positions at which two candidates of a caption differ: tokens (C, n, N), n ≥ 2.

    The mean over all pairs of a caption's candidates, and over captions.
    """
    C, n, N = tokens.shape
    same = sum(int((each[:, None] == each).sum()) for each in tokens) - C * n * N
    return 1 - same / (C * n * (n - 1) * N)


def chances_to_win(M: int, N: int) -> Tensor:
    """How likely the candidate of each rank, the best first, is the best of N drawn from M without
    replacement: C(M−1−k, N−1) / C(M, N), float64 (M,). Raises ValueError unless 1 ≤ N ≤ M."""
    if not 1 <= N <= M:
        raise ValueError(f"cannot draw {N} of {M} candidates without replacement")
    chances = [N / M]
    for k in range(M - 1):
        chances.append(chances[-1] * max(0, M - N - k) / (M - 1 - k))
    return torch.tensor(chances, dtype=torch.float64)


def expected_best(scores: Tensor, right: Tensor, N: int) -> Tensor:
    """How often the best-scored of N candidates is right: scores and right (C, M) → float64 (C,).

    Exact over all subsets of N of each caption's M candidates, so that one pool serves every N, and
    unbiased. Of equal scores the first wins, as with argmax.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return right.double().gather(1, order) @ chances_to_win(scores.shape[1], N)
