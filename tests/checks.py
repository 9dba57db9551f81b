"""Checks that hold for any right implementation and fail for the known wrong ones (see test_checks.py)."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minidalle.dalle import DALLE
from minidalle.transformer import FORMS, Transformer

TOLERANCE = 1e-5  # of float32 numbers of about size 1

# ------------------------------------------------------------------------------- the rules, with loops


def row_rule(i: int, j: int, h: int, w: int, kernel: int) -> bool:
    """Query i sees key j: itself and the w tokens before it in raster order."""
    return any(j == i - back for back in range(w + 1))


def column_rule(i: int, j: int, h: int, w: int, kernel: int) -> bool:
    """The same column, this row and the rows above."""
    return j % w == i % w and j // w <= i // w


def convolution_rule(i: int, j: int, h: int, w: int, kernel: int) -> bool:
    """The past half of a kernel×kernel window that slides over the raster and wraps at row ends."""
    if j > i:
        return False
    for up in range(kernel // 2 + 1):
        middle = i - up * w
        if middle - kernel // 2 <= j <= middle + kernel // 2:
            return True
    return False


def full_rule(i: int, j: int, h: int, w: int, kernel: int) -> bool:
    """Everything before, and itself."""
    return j <= i


RULES = {
    "row": row_rule,
    "column": column_rule,
    "convolution": convolution_rule,
    "full": full_rule,
}


def image_matrix(kind: str, h: int, w: int, kernel: int) -> Tensor:
    """The rule of one kind for every pair of raster positions, (N, N)."""
    N, rule = h * w, RULES[kind]
    return torch.tensor([[rule(i, j, h, w, kernel) for j in range(N)] for i in range(N)])


def stream_matrix(kind: str, prefix: int, h: int, w: int, kernel: int) -> Tensor:
    """The rule of one kind for the whole stream: causal prefix, seen by every image position."""
    n = prefix + h * w
    matrix = torch.zeros(n, n, dtype=torch.bool)
    for q in range(n):
        for k in range(n):
            if q < prefix:
                matrix[q, k] = k <= q
            elif k < prefix:
                matrix[q, k] = True
            else:
                matrix[q, k] = RULES[kind](q - prefix, k - prefix, h, w, kernel)
    return matrix


# -------------------------------------------------------------------------------- what sees what


def receptive_field(function: Callable[[Tensor], Tensor], n: int, D: int) -> Tensor:
    """Which inputs each output depends on, by gradients: (n, n) bool, function (1, n, D) → (1, n, ·).

    In 64 bit, so that no gradient is 0 by rounding.
    """
    x = torch.randn(1, n, D, dtype=torch.float64, requires_grad=True)
    y = function(x)
    weights = torch.randn(y.shape[-1], dtype=y.dtype)
    rows = [torch.autograd.grad(y[0, q] @ weights, x, retain_graph=True)[0] for q in range(n)]
    return torch.stack([row[0].abs().amax(-1) > 0 for row in rows])


def assert_receptive_field(function: Callable[[Tensor], Tensor], D: int, expected: Tensor) -> None:
    """Output q depends on input k exactly where ``expected`` (n, n) says so."""
    seen = receptive_field(function, len(expected), D)
    wrong = (seen != expected).nonzero().tolist()
    assert not wrong, f"positions (query, key) that differ from the rule: {wrong[:5]}"


def stream_logits(model: DALLE) -> Callable[[Tensor], list[Tensor]]:
    """Text and image tokens as one row (T + N,) → the logits that predict each of them."""
    T = model.config.T

    def logits(stream: Tensor) -> list[Tensor]:
        with torch.no_grad():
            text, image = model(stream[None, :T], stream[None, T:])
        return [*text[0], *image[0]]

    return logits


def assert_causal(
    logits_of: Callable[[Tensor], Sequence[Tensor]], tokens: Tensor, sizes: Sequence[int]
) -> None:
    """Changing token t leaves the logits of tokens 0 … t alone and moves the logits of a later one.

    tokens (n,); sizes: how many ids token t can have; logits_of gives one vector of logits a token.
    """
    before = logits_of(tokens)
    assert len(before) == len(tokens)
    for t, size in enumerate(sizes):
        changed = tokens.clone()
        changed[t] = (changed[t] + 1) % size
        after = logits_of(changed)
        moved = [
            k
            for k, (a, b) in enumerate(zip(before, after, strict=True))
            if (a - b).abs().max() > TOLERANCE
        ]
        leaks = [k for k in moved if k <= t]
        assert not leaks, f"token {t} moves the logits that predict tokens {leaks}"
        assert moved or t == len(tokens) - 1, f"token {t} moves nothing that comes after it"


def assert_own_heads(model: DALLE, text: Tensor, image: Tensor) -> None:
    """Token k is predicted at the position before it, under the head of its own vocabulary and no other."""
    T, states = model.config.T, {}
    hook = model.transformer.norm.register_forward_hook(lambda m, a, out: states.update(x=out))
    both = model(text[:1], image[:1])
    hook.remove()
    heads = (model.text_head.weight, model.image_head.weight)
    for own, (logits, first) in enumerate(zip(both, (0, T + 1), strict=True)):
        for k in range(logits.shape[1]):
            x, *reached = torch.autograd.grad(
                logits[0, k].sum(), (states["x"], *heads), retain_graph=True, allow_unused=True
            )
            at = x[0].abs().amax(-1).nonzero().flatten().tolist()
            assert at == [first + k], f"token {k} is predicted at {at}, not at {first + k}"
            assert reached[own].any(), f"token {k} is not predicted by its own head"
            assert reached[1 - own] is None, f"token {k} reaches the other vocabulary's head"


# ------------------------------------------------------------------------------- three forms


def assert_forms_agree(model: Transformer, x: Tensor, tolerance: float) -> None:
    """All `FORMS` of attention give the same outputs and gradients, in the dtype of x.

    tolerance: of the norm of each difference, as a share of the dense form's norm.
    """
    weights = torch.randn(x.shape).to(x.dtype)
    found = {}
    for form in FORMS:
        model.form = form
        y = model(x.requires_grad_())
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad((y * weights).sum(), (x, *parameters))
        found[form] = dict(zip(("output", "x", *names), (y, *gradients), strict=True))
    scale = max(float(each.detach().norm()) for each in found["dense"].values())
    for form, tensors in found.items():
        for name, tensor in tensors.items():
            tensor, expected = tensor.detach(), found["dense"][name].detach().double()
            # A bias of the keys moves all scores of a query alike: its gradient is 0, up to rounding.
            size = max(float(expected.norm()), 0.01 * scale)
            error = float((tensor.double() - expected).norm()) / size
            assert error <= tolerance, f"{form} and dense differ by {error:.2g} of {name}"


# ------------------------------------------------------------------------------------- the cache


def assert_decoding_reads_only(model: Transformer, x: Tensor, allowed: Tensor) -> None:
    """With a cache, position k fetches nothing but what ``allowed`` (n, n) says: the rest is poisoned.

    A key that is fetched and then masked still costs its fetch; and 0 · NaN is NaN.
    """
    with torch.no_grad():
        expected = model(x)
        for k in range(model.config.prefix, x.shape[1]):
            cache = model.new_cache(len(x))
            model.extend(x[:, :k], cache)
            for kv in cache.layers:
                kv[:, :, :, ~allowed[k]] = torch.nan
            found = model.extend(x[:, k : k + 1], cache)[:, 0]
            error = (found - expected[:, k]).abs().max()
            assert error < TOLERANCE * 10, (
                f"position {k} reads keys outside its mask, or misses some"
            )


def assert_same_with_cache(model: Transformer, x: Tensor, pieces: Sequence[int]) -> None:
    """The stream x (B, n, D), appended in pieces of the given lengths, gives what `forward` gives."""
    assert sum(pieces) == x.shape[1]
    with torch.no_grad():
        expected = model(x)
        cache = model.new_cache(len(x))
        for kv in cache.layers:  # what is not written yet must not be read
            kv.fill_(torch.nan)
        found = torch.cat([model.extend(part, cache) for part in x.split(list(pieces), 1)], 1)
    error = (found - expected).abs().amax((0, 2))
    wrong = (~(error < TOLERANCE * 10)).nonzero().flatten().tolist()
    assert not wrong, f"cached and uncached outputs differ at positions {wrong}"


def assert_same_logits_with_cache(model: DALLE, text: Tensor, image: Tensor, known: int) -> None:
    """begin, one step over ``known`` image tokens, then single steps: the logits of `forward`."""
    with torch.no_grad():
        _, expected = model(text, image)
        logits, cache = model.begin(text)
        found = {0: logits}
        if known:
            found[known] = model.step(image[:, :known], cache)
        for k in range(known, image.shape[1] - 1):
            found[k + 1] = model.step(image[:, k : k + 1], cache)
    for k, logits in found.items():
        if k < image.shape[1]:
            error = (logits - expected[:, k]).abs().max()
            assert error < TOLERANCE * 10, f"logits of image token {k} differ by {error:.2g}"


class PositionCounter:
    """Counts the positions that go through a model's first layer, call by call."""

    def __init__(self, layer: nn.Module):
        self.counts: list[int] = []
        layer.register_forward_hook(lambda module, args, out: self.counts.append(out.shape[1]))


def assert_one_position_per_step(
    model: DALLE, draw: Callable[[], object], prefixes: int = 1
) -> None:
    """Drawing computes the prefix once and then a single new position for every token but the last.

    prefixes: how many there are, 2 with guidance.
    """
    counter = PositionCounter(model.transformer.layers[0].attention.qkv)
    draw()
    c = model.config
    expected = [c.T + 2] * prefixes + [1] * (c.N - 1)
    assert counter.counts == expected, f"positions a call: {counter.counts}, not {expected}"


# ------------------------------------------------------------------------------------ sampling


def assert_guided_as_uncached(
    model: DALLE, text: Tensor, guidance: float, draw: Callable[[], Tensor]
) -> None:
    """Greedy guided drawing equals two full forward passes a token, with the caption and without one."""
    c = model.config
    image = torch.zeros(len(text), c.N, dtype=torch.int64)
    empty = torch.arange(c.V, c.V + c.T).expand_as(text)
    for k in range(c.N):
        with torch.no_grad():
            captioned, blank = (model(each, image)[1][:, k] for each in (text, empty))
        image[:, k] = (blank + guidance * (captioned - blank)).argmax(-1)
    assert torch.equal(draw(), image)


def assert_keeps_k(keep: Callable[[Tensor, int], Tensor]) -> None:
    """keep(logits (B, K), k) leaves exactly k codes of each row, the largest; k = 1 is greedy."""
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 0.0]])
    for k in (1, 2, 3, 4):
        kept = keep(logits, k)
        assert (kept.isfinite().sum(-1) == k).all(), f"k = {k} keeps another number of codes"
        worst = logits.sort(-1, descending=True).values[:, k - 1 : k]
        assert (kept.isfinite() <= (logits >= worst)).all(), f"k = {k} keeps a smaller logit"
    assert torch.equal(keep(logits, 1).argmax(-1), logits.argmax(-1))


# ------------------------------------------------------------------------------------ the tokenizer


def assert_lossless(
    ids: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], text: str
) -> None:
    """Decoding the ids of a (normalised) text gives the text back."""
    found = decode(ids(text))
    assert found == text, f"{text!r} came back as {found!r}"


def assert_padding_is_apart(ids: Sequence[int], row: Sequence[int], V: int) -> None:
    """A row of T tokens is the text's own ids, all in 0 … V − 1, then V + p at every later position p."""
    text, padding = list(row[: len(ids)]), list(row[len(ids) :])
    assert text == list(ids) and all(0 <= token < V for token in text), f"text in {row}"
    assert padding == [V + p for p in range(len(ids), len(row))], f"padding in {row}"


# ------------------------------------------------------------------------------- the dVAE's parts


def assert_pictures(x: Tensor, B: int, size: int) -> None:
    """Pictures as they are everywhere outside a model: float32 (B, 3, H, W) in [0, 1]."""
    assert x.shape == (B, 3, size, size), f"the shape is {tuple(x.shape)}"
    assert x.dtype == torch.float32, f"the type is {x.dtype}"
    assert x.min() >= 0 and x.max() <= 1, f"they go from {x.min():.3g} to {x.max():.3g}"


def assert_encodes_the_same_twice(encode: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """No noise in what stage 2 learns from."""
    assert torch.equal(encode(x), encode(x)), "encoding is random"


def assert_frozen(dvae: nn.Module, step: Callable[[], object]) -> None:
    """A step of stage 2 leaves every parameter of the dVAE bit for bit as it was."""
    assert_untouched(step, *dvae.parameters(), *dvae.buffers())


def assert_kl_is_per_token(kl: Callable[[Tensor], Tensor], K: int = 7) -> None:
    """kl of logits (B, K, h, w): 0 for uniform, ln K for one-hot, ≥ 0, the same for a doubled batch."""
    shape = (2, K, 3, 2)
    torch.testing.assert_close(kl(torch.zeros(shape)), torch.tensor(0.0), atol=1e-5, rtol=0)
    codes = torch.randint(K, (2, 3, 2))
    one_hot = 1e3 * torch.nn.functional.one_hot(codes, K).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(kl(one_hot), torch.tensor(math.log(K)))
    logits = torch.randn(shape)
    assert kl(logits) >= 0
    torch.testing.assert_close(kl(torch.cat([logits, logits])), kl(logits))


def assert_relaxes_the_categorical(
    sample: Callable[[Tensor, float], Tensor], draws: int = 4000
) -> None:
    """sample(logits (B, K, h, w), τ): a distribution over dim 1 whose argmax follows softmax(logits)."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).view(1, 4, 1, 1)
    z = sample(logits.expand(draws, 4, 2, 3), 0.7)
    torch.testing.assert_close(z.sum(1), torch.ones(draws, 2, 3))
    assert 0.01 < z.amax(1).mean() < 0.99, "neither flat nor a hard one-hot"
    frequency = torch.bincount(z.argmax(1).flatten(), minlength=4) / (draws * 6)
    p = logits.flatten().softmax(0)
    spread = (p * (1 - p) / (draws * 6)).sqrt()
    assert ((frequency - p).abs() < 5 * spread).all(), f"{frequency.tolist()} for {p.tolist()}"


def assert_stays_finite(sample: Callable[[Tensor, float], Tensor]) -> None:
    """sample(logits (B, K, h, w), τ) is a distribution however far apart the logits and however cold."""
    for size in (0.0, 1e2, 1e4):
        logits = size * torch.linspace(-1, 1, 5).view(1, 5, 1, 1).expand(2000, 5, 2, 2)
        for tau in (1.0, 1 / 16, 1e-3):
            z = sample(logits, tau)
            assert z.isfinite().all(), f"logits to ±{size:g} at τ = {tau:g}"
            torch.testing.assert_close(z.sum(1), torch.ones(2000, 2, 2))


def assert_warns_of_collapse(said: Callable[[Tensor, int], str]) -> None:
    """said(tokens, K): a warning where few of K codes are used, or few for nearly all; else silence."""
    K = 40
    every = torch.arange(K).repeat(50)
    nearly = torch.cat([torch.arange(K), torch.zeros(4000, dtype=torch.int64)])
    third, tenth = every % 13, every % 4
    for name, tokens in {"one code": 0 * every, "a tenth": tenth, "nearly all one": nearly}.items():
        assert said(tokens, K), f"no warning: {name}"
    for name, tokens in {"every code": every, "a third of them": third}.items():
        assert not said(tokens, K), f"a warning: {name}"


# ------------------------------------------------------------------------------------ schedules


def assert_schedule_is_pure(schedule: Callable[[int], float], steps: int) -> None:
    """The value depends on the step alone: in any order and asked again, it is the same."""
    forwards = [schedule(step) for step in range(steps)]
    order = list(range(steps))
    random.Random(0).shuffle(order)
    shuffled = {step: schedule(step) for step in order}
    assert forwards == [shuffled[step] for step in range(steps)]


def assert_monotone(schedule: Callable[[int], float], steps: int) -> None:
    """It never turns round, not even where an epoch would end."""
    values = [schedule(step) for step in range(steps)]
    ups = [b >= a for a, b in zip(values, values[1:], strict=False)]
    downs = [b <= a for a, b in zip(values, values[1:], strict=False)]
    assert all(ups) or all(downs)


def assert_half_cosine(
    schedule: Callable[[int], float], first: float, last: float, steps: int
) -> None:
    """first + (last − first) · (1 − cos(π · step / steps)) / 2, then constant; steps divisible by 4."""
    bent = (1 - math.sqrt(0.5)) / 2  # of the way after a quarter of the steps
    shares = {0: 0.0, steps // 4: bent, steps // 2: 0.5, 3 * steps // 4: 1 - bent, steps: 1.0}
    for step, share in {**shares, 2 * steps: 1.0}.items():
        expected = first + (last - first) * share
        assert math.isclose(schedule(step), expected, rel_tol=1e-9, abs_tol=1e-12), step


# ------------------------------------------------------------------------------------ files


def assert_file_holds(path: Path, pictures: np.ndarray) -> None:
    """The PNG at ``path`` has these values (H, W, 3), uint8: no pixel changed, stretched or recoloured."""
    with Image.open(path) as image:
        assert image.format == "PNG", f"a {image.format}"
        found = np.array(image)
    assert found.shape == pictures.shape, f"the shape is {found.shape}"
    assert (found == pictures).all(), "other values"


def assert_all_found(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Every picture by its whole name, with its own caption."""
    assert not (lost := set(expected) - set(found)), f"lost: {sorted(lost)}"
    assert found == expected


def assert_splits_disjoint(split: Callable[[], Mapping[str, Iterable]], everything: set) -> None:
    """Each thing in exactly one split, and in the same one when asked again."""
    parts = [set(each) for each in split().values()]
    assert set().union(*parts) == everything, "some are in no split"
    assert sum(map(len, parts)) == len(everything), "some are in two splits"
    assert [set(each) for each in split().values()] == parts, "some have moved"


# ------------------------------------------------------------------------------------ arguments


def assert_refuses_ids(call: Callable[[Tensor], object], ids: Tensor, size: int) -> None:
    """A ValueError that has the range and the id, before any kernel, wherever one is out of range."""
    call(ids)
    for wrong in (-100, -1, size, size + 1000):
        for place in (0, ids.shape[1] - 1):
            bad = ids.clone()
            bad[-1, place] = wrong
            try:
                call(bad)
            except ValueError as error:
                assert f"0 … {size - 1}" in str(error) and str(wrong) in str(error), str(error)
            except (IndexError, RuntimeError) as error:
                raise AssertionError(f"a kernel met {wrong}: {error}") from error
            else:
                raise AssertionError(f"{wrong} was taken for an id")


def assert_untouched(call: Callable[[], object], *tensors: Tensor) -> None:
    """The call leaves these tensors bit for bit as they were."""
    before = [tensor.detach().clone() for tensor in tensors]
    call()
    for k, (old, new) in enumerate(zip(before, tensors, strict=True)):
        assert old.shape == new.shape and torch.equal(old, new), f"tensor {k} was written into"
