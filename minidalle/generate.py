"""From logits to pictures' tokens, one position at a time, with a cache.  (Chapters 9 and 10)

Paper: §2.6 (t = 1, then reranking by CLIP, chapter 11). Top-k and top-p are not the paper's (Fan et al. 2018;
Holtzman et al. 2019).
"""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .dalle import DALLE
from .show import quiet


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits of each row (B, K), the first of equal ones; the others become −∞."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    drop = torch.ones_like(order, dtype=torch.bool).scatter(-1, order[..., :k], False)
    return logits.masked_fill(drop, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest most likely codes of each row whose probabilities sum to p or more."""
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # mass of the codes that are likelier
    drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(drop, -torch.inf)


def choose(
    logits: Tensor, u: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """One code a row: logits (B, K) and uniform numbers u (B,) in [0, 1) → ids (B,).

    The inverse of the cumulative distribution at u, so that the numbers alone decide; temperature 0
    is greedy and ignores them.
    """
    logits = logits.double()
    if temperature == 0:
        return logits.argmax(-1)
    top = logits.amax(-1, keepdim=True)
    logits = (logits - top) / temperature  # the largest is 0, finite however cold
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    cumulative = logits.softmax(-1).cumsum(-1)
    target = u.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def uniforms(B: int, N: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers (B, N), drawn picture by picture: the first pictures do not depend on B."""
    return torch.stack([torch.rand(N, generator=generator) for _ in range(B)])


@torch.inference_mode()
def generate(
    model: DALLE,
    text: Tensor,
    generator: torch.Generator,
    n: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch: int = 64,
) -> Tensor:
    """n pictures' tokens for each caption: text (C, T) → image tokens (C · n, N), caption by caption.

    Each caption's prefix is computed once and shared by its n candidates. The result depends on the
    generator (a CPU one), not on ``batch``, the number of pictures at a time (up to rounding). Raises
    ValueError for a temperature < 0, top_k outside 1 … K, top_p outside (0, 1], n or batch < 1.
    """
    check_sampling(temperature, top_k, top_p, model.config.K)
    if n < 1 or batch < 1:
        raise ValueError(f"n and batch must be at least 1, not {n} and {batch}")
    device = text.device
    N = model.config.N
    u = uniforms(len(text) * n, N, generator).to(device)
    owners = torch.arange(len(text), device=device).repeat_interleave(n)
    pieces = []
    bar = tqdm(total=len(owners) * N, unit="token", desc="drawing", disable=quiet(), leave=False)
    with bar:
        for rows, noise in zip(owners.split(batch), u.split(batch), strict=True):
            captions, counts = rows.unique_consecutive(return_counts=True)
            logits, cache = model.begin(text[captions])
            logits = logits.repeat_interleave(counts, 0)
            cache = cache.repeat(counts)
            tokens = text.new_empty(len(rows), N)
            for k in range(N):
                tokens[:, k] = choose(logits, noise[:, k], temperature, top_k, top_p)
                if k < N - 1:
                    logits = model.step(tokens[:, k : k + 1], cache)
                bar.update(len(rows))
            pieces.append(tokens)
    return torch.cat(pieces)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None, K: int) -> None:
    """Raise ValueError for sampling settings that mean nothing."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"the temperature must be 0 (greedy) or more, not {temperature}")
    if top_k is not None and not 1 <= top_k <= K:
        raise ValueError(f"top-k must lie in 1 … {K}, the number of image codes, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top-p must lie in (0, 1], not {top_p}")
