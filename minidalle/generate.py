"""From logits to pictures' tokens, one position at a time, with a cache.  (Chapters 9 and 10)

Paper: §2.6 (t = 1, then reranking by CLIP, chapter 11) and figure 14 (image prompts). Later than the paper,
or not in it: top-k and top-p (Fan et al. 2018; Holtzman et al. 2019) and guidance (Ho and Salimans 2021).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .dalle import DALLE
from .device import decoding
from .masks import check_sizes, check_whole
from .show import quiet
from .transformer import Cache


@dataclass(frozen=True)
class Sampling:
    """How a code is chosen from logits. The defaults are the paper's: the model's own distribution.

    temperature: divides the logits; 0 takes the likeliest code. top_k: only the k likeliest codes can be
    chosen. top_p: only the fewest likeliest codes whose probabilities reach p. guidance: see `guide`; other
    than 1 it doubles the work and needs a model that was trained with some captions left out.
    Raises ValueError for settings that mean nothing; top-k is checked where K is known.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"the temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top-p must lie in (0, 1], not {self.top_p}")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be 0 or more (1 is none), not {self.guidance}")
        if not isinstance(self.top_k, Integral | None):
            raise ValueError(f"top-k must be a whole number of codes, not {self.top_k!r}")

    def check(self, K: int) -> None:
        """Raise ValueError unless top-k lies in 1 … K, the number of image codes."""
        if self.top_k is not None and not 1 <= self.top_k <= K:
            raise ValueError(
                f"top-k must lie in 1 … {K}, the number of image codes, not {self.top_k}"
            )


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits of each row (B, K), the first of equal ones; the others become −∞."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    drop = torch.ones_like(order, dtype=torch.bool).scatter(-1, order[..., :k], False)
    return logits.masked_fill(drop, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest most likely codes of each row whose probabilities sum to p or more; 1 keeps them all."""
    if p == 1:  # sums of thousands of codes reach 1 by rounding before their end
        return logits
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # mass of the codes that are likelier
    drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(drop, -torch.inf)


def choose(logits: Tensor, u: Tensor, sampling: Sampling = Sampling()) -> Tensor:
    """One code a row: logits (B, K) and uniform numbers u (B,) in [0, 1) → ids (B,).

    The inverse of the cumulative distribution at u, so that the numbers alone decide; temperature 0
    is greedy and ignores them. Raises ValueError for a top-k that is no number of codes, for another number
    of rows, for numbers outside [0, 1) and for logits without a finite largest one.
    """
    sampling.check(logits.shape[-1])
    if logits.ndim != 2 or u.shape != logits.shape[:1]:
        shapes = tuple(logits.shape), tuple(u.shape)
        raise ValueError(
            "logits (B, K) need numbers (B,); their shapes are {} and {}".format(*shapes)
        )
    top = logits.amax(-1, keepdim=True).double()
    if not top.isfinite().all():
        worst = float(top[~top.isfinite()][0])
        raise ValueError(
            f"the largest logit of a row must be finite, not {worst}; look for damaged weights, or a "
            f"guidance (here {sampling.guidance}) that is too large"
        )
    if sampling.temperature == 0:
        return logits.argmax(-1)
    if not ((u >= 0) & (u < 1)).all():
        raise ValueError(f"numbers must lie in [0, 1); these go from {u.min()} to {u.max()}")
    logits = logits.double()
    logits = (logits - top) / sampling.temperature  # the largest is 0, finite however cold
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    cumulative = logits.softmax(-1).cumsum(-1)
    target = u.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def uniforms(B: int, N: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers (B, N), drawn picture by picture: the first pictures do not depend on B."""
    return torch.stack([torch.rand(N, generator=generator) for _ in range(B)])


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Logits with and without the caption (2R, K), first the R with it → guided logits (R, K).

    without + guidance · (with − without): 1 is no guidance, 0 forgets the caption, more than 1 exaggerates
    what the caption says. Classifier-free guidance, Ho and Salimans 2021.
    """
    captioned, empty = logits.chunk(2)
    return empty + guidance * (captioned - empty)


@torch.no_grad()  # in inference mode autocast would cast all weights again at every step
def generate(
    model: DALLE,
    text: Tensor,
    generator: torch.Generator,
    n: int = 1,
    sampling: Sampling = Sampling(),
    image: Tensor | None = None,
    rows: int = 0,
    batch: int = 64,
) -> Tensor:
    """n pictures' tokens for each caption: text (C, T) → image tokens (C · n, N), caption by caption.

    image (C, N): image tokens of which the first ``rows`` rows are given and kept, the rest is drawn.
    Each caption's prefix, with its given rows, is computed once and shared by its candidates of a batch. The
    result depends on the generator (a CPU one), not on ``batch``, the number of pictures at a time, up to
    rounding: products of other shapes round differently, which can turn a code whose number lay on the edge
    (of 80 pictures of 42 tokens none or one in 32 bit, a few in 16 bit). Raises ValueError for settings out
    of range and shapes that do not fit.
    """
    check_sizes(batch=batch)
    owners, u, given = _prepare(model, text, generator, n, sampling, image, rows)
    pieces = []
    left = model.config.N - given.shape[1]
    total = len(owners) * left
    with tqdm(total=total, unit="token", desc="drawing", disable=quiet(), leave=False) as bar:
        for mine, noise in zip(owners.split(batch), u.split(batch), strict=True):
            for tokens, known in _decode(model, text, mine, noise, given, sampling):
                bar.update(len(mine))
                if known == model.config.N:
                    pieces.append(tokens)
    return torch.cat(pieces)


def progress(
    model: DALLE,
    text: Tensor,
    generator: torch.Generator,
    n: int = 1,
    sampling: Sampling = Sampling(),
    image: Tensor | None = None,
    rows: int = 0,
) -> Iterator[tuple[Tensor, int]]:
    """`generate` that shows its work: after each row of tokens yields (tokens (C · n, N), known).

    The first ``known`` codes of every picture are drawn, the others are 0 and mean nothing yet. The last
    tokens yielded are what `generate` returns for the same arguments.
    """
    # Not in the generator, which would complain when it is first asked for tokens.
    prepared = _prepare(model, text, generator, n, sampling, image, rows)
    return _rows(model, text, *prepared, sampling)


@torch.no_grad()
def _rows(
    model: DALLE, text: Tensor, owners: Tensor, u: Tensor, given: Tensor, sampling: Sampling
) -> Iterator[tuple[Tensor, int]]:
    """The tokens of all pictures after each row of them."""
    for tokens, known in _decode(model, text, owners, u, given, sampling):
        if known % model.config.w == 0:
            yield tokens.clone(), known


def _prepare(
    model: DALLE,
    text: Tensor,
    generator: torch.Generator,
    n: int,
    sampling: Sampling,
    image: Tensor | None,
    rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Check everything; which caption each picture belongs to (C · n,), its uniform numbers (C · n, N), and
    the given tokens of each caption (C, rows · w)."""
    c = model.config
    sampling.check(c.K)
    model.check_text(text)
    if generator.device.type != "cpu":
        raise ValueError(f"the generator must be a CPU one, not on {generator.device}")
    if n < 1:
        raise ValueError(f"n, the pictures for each caption, must be at least 1, not {n}")
    if not len(text):
        raise ValueError("no caption given; text tokens must have shape (C, T) with C ≥ 1")
    check_whole(n=n, rows=rows)
    if not 0 <= rows < c.h or (image is None) != (rows == 0):
        what = "no image" if image is None else "an image"
        raise ValueError(f"rows = {rows} with {what}: give image tokens and 1 … {c.h - 1} rows")
    if image is not None:
        model.check_image(image, len(text))
    owners = torch.arange(len(text), device=text.device).repeat_interleave(n)
    u = uniforms(len(owners), c.N, generator).to(text.device)
    given = text.new_empty(len(text), 0) if image is None else image[:, : rows * c.w]
    return owners, u, given


def _decode(
    model: DALLE, text: Tensor, owners: Tensor, u: Tensor, given: Tensor, sampling: Sampling
) -> Iterator[tuple[Tensor, int]]:
    """Draw one batch: picture r belongs to caption owners[r], sorted, and uses the numbers u[r] (N,).

    Yields (tokens (R, N), known) after every token; always the same tensor, which fills up.
    """
    guided = sampling.guidance != 1
    captions, counts = owners.unique_consecutive(return_counts=True)
    logits, cache = _begin(model, text[captions], given[captions], counts)
    if guided:  # a second stream beside each, which sees the same tokens but no caption
        blank, beside = _begin(model, model.empty_text(len(captions)), given[captions], counts)
        logits, cache = torch.cat([logits, blank]), cache.beside(beside)
    first, N = given.shape[1], model.config.N
    tokens = text.new_zeros(len(owners), N)
    tokens[:, :first] = given[owners]
    for k in range(first, N):
        if guided:
            logits = guide(logits, sampling.guidance)
        tokens[:, k] = choose(logits, u[:, k], sampling)
        yield tokens, k + 1
        if k < N - 1:
            new = tokens[:, k : k + 1]
            with decoding(new.device):
                logits = model.step(new.repeat(2, 1) if guided else new, cache)


def _begin(model: DALLE, text: Tensor, given: Tensor, counts: Tensor) -> tuple[Tensor, Cache]:
    """After captions (C, T) and given codes (C, m), computed once for the counts[c] candidates of each: the
    logits of the next code (R, K), and the cache."""
    logits, cache = model.begin(text)
    if given.shape[1]:
        logits = model.step(given, cache)
    return logits.repeat_interleave(counts, 0), cache.repeat(counts)
