"""Every check fails on the fault that it is there to catch; the faults are kept here."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import shake, tiny_dalle, tiny_tokens, tiny_transformer
from checks import (
    assert_causal,
    assert_kl_is_per_token,
    assert_monotone,
    assert_one_position_per_step,
    assert_receptive_field,
    assert_relaxes_the_categorical,
    assert_same_logits_with_cache,
    assert_same_with_cache,
    assert_schedule_is_pure,
    assert_untouched,
    stream_logits,
    stream_matrix,
)

from minidalle.dvae import gumbel_softmax, kl_to_uniform
from minidalle.generate import Sampling, generate, keep_top_k
from minidalle.masks import stream_mask
from minidalle.transformer import Attention, Cache, Transformer

fails = pytest.raises(AssertionError)

# -------------------------------------------------------------------------- masks, receptive fields


def own_row_only(h, w):
    """The commonest mistake: a row mask that stops at the row's beginning."""
    i, j = torch.arange(h * w)[:, None], torch.arange(h * w)
    return (j <= i) & (j // w == i // w)


def one_quadrant(h, w, kernel):
    """A convolution that looks up and left only."""
    i, j = torch.arange(h * w)[:, None], torch.arange(h * w)
    up, left = i // w - j // w, i % w - j % w
    return (up >= 0) & (up <= kernel // 2) & (left >= 0) & (left <= kernel // 2)


def without_wrap(h, w, kernel):
    """A convolution that stops at the edges: not the rule that we state."""
    i, j = torch.arange(h * w)[:, None], torch.arange(h * w)
    up, left = i // w - j // w, i % w - j % w
    return (j <= i) & (up <= kernel // 2) & (left.abs() <= kernel // 2)


def transposed(h, w):
    """A column mask on the grid's transpose: right only where h = w."""
    i, j = torch.arange(h * w)[:, None], torch.arange(h * w)
    return (j <= i) & ((i - j) % h == 0)


def field_of(image, kind, h=3, w=4, prefix=3, shift=0):
    """Compare one layer of attention with ``image`` in its corner with the rule of ``kind``.

    shift: how many positions too late (or too early) in the stream the corner begins.
    """
    n, first = prefix + h * w, prefix + shift
    mask = torch.ones(n + 1, n + 1, dtype=torch.bool).tril()
    mask[first : first + h * w, first : first + h * w] = image
    mask = mask[:n, :n]
    attention = shake(Attention(8, 2)).double()
    assert_receptive_field(lambda x: attention(x, mask), 8, stream_matrix(kind, prefix, h, w, 3))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (own_row_only(3, 4), "row"),
        (one_quadrant(3, 4, 3), "convolution"),
        (without_wrap(3, 4, 3), "convolution"),
        (transposed(3, 4), "column"),
        (torch.ones(12, 12, dtype=torch.bool), "full"),
    ],
    ids=["own row", "one quadrant", "no wrap", "transposed", "leak"],
)
def test_a_wrong_mask_is_noticed(image, kind):
    """By the receptive field of a single layer on a grid of 3×4."""
    with fails:
        field_of(image, kind)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize("kind", ["row", "column", "convolution"])
def test_an_off_by_one_between_text_and_image_is_noticed(kind, shift):
    """The first image token counts as text, or start-of-image as a picture's token."""
    image = stream_matrix(kind, 0, 3, 4, 3)
    field_of(image, kind)
    with fails:
        field_of(image, kind, shift=shift)


def test_a_transposed_mask_passes_on_a_square_and_fails_on_another_grid():
    """Why the grids of our tests have h ≠ w."""
    field_of(transposed(3, 3), "column", h=3, w=3)
    with fails:
        field_of(transposed(2, 4), "column", h=2, w=4)


# ---------------------------------------------------------------------------------------- leaks


def causal(model):
    """Run the check on a tiny model."""
    text, image = tiny_tokens(model, 1)
    text = text.clamp_max(model.config.V - 1)
    sizes = [model.config.V] * 4 + [model.config.K] * 6
    assert_causal(stream_logits(model), torch.cat([text, image], 1)[0], sizes)


@pytest.mark.parametrize("place", [(0, 1), (3, 7), (6, 7), (10, 11)])
def test_a_single_leak_anywhere_is_noticed(place):
    """One bit too many above the diagonal of one layer's mask."""
    model = tiny_dalle(L=2)
    causal(model)
    row, convolution = (model.transformer.mask(kind) for kind in ("row", "convolution"))
    convolution[place] = True
    model.transformer.geometry = lambda form, device: [row, convolution]
    with fails:
        causal(model)


def test_logits_that_are_one_late_are_noticed():
    """Position k predicts token k instead of k + 1: it can copy, and the loss looks splendid."""
    model = tiny_dalle()
    T = model.config.T

    def forward(text, image):
        x = torch.cat([model.embed_prefix(text), model.embed_image(image)], 1)
        x = model.transformer(x)
        return model.text_head(x[:, 1 : T + 1]), model.image_head(x[:, T + 2 :])

    model.forward = forward
    with fails:
        causal(model)


def test_a_model_that_reads_nothing_is_noticed():
    """Constant logits leak nothing, so the check asks for influence too."""
    with fails:
        assert_causal(lambda tokens: [torch.zeros(3)] * len(tokens), torch.zeros(4).long(), [3] * 4)


# ---------------------------------------------------------------------------------------- caches


class SharedByLayers(Transformer):
    """All layers write into the same keys and values."""

    def new_cache(self, B):
        cache = super().new_cache(B)
        return Cache(cache.layers[:1] * len(self.layers))


class Forgetful(Transformer):
    """Keeps the last four positions."""

    def extend(self, x, cache):
        for kv in cache.layers:
            kv[:, :, :, : max(0, cache.length - 4)] = 0
        return super().extend(x, cache)


class Misplaced(Transformer):
    """Uses the mask's rows from the start of the stream for every piece."""

    def extend(self, x, cache):
        kinds, self.kinds = self.kinds, ["full"] * len(self.layers)
        try:
            return super().extend(x, cache)
        finally:
            self.kinds = kinds


class Blind(Transformer):
    """Takes every piece for the beginning of a stream."""

    def extend(self, x, cache):
        return super().extend(x, Cache(cache.layers, 0))


@pytest.mark.parametrize("fault", [SharedByLayers, Forgetful, Misplaced, Blind])
def test_a_wrong_cache_is_noticed(fault):
    """At depth 2 and with the paper's schedule."""
    model = tiny_transformer(("row", "full"))
    x = torch.randn(1, 15, 8)
    pieces = (3,) + (1,) * 12
    assert_same_with_cache(model, x, pieces)
    model.__class__ = fault
    with fails:
        assert_same_with_cache(model, x, pieces)


def test_a_position_that_restarts_with_every_step_is_noticed():
    """Row and column embeddings of raster position 0 for every new token."""
    model = tiny_dalle()
    text, image = tiny_tokens(model, 1)
    assert_same_logits_with_cache(model, text, image, 2)
    embed = model.embed_image
    model.embed_image = lambda tokens, first=0: embed(tokens, 0)
    with fails:
        assert_same_logits_with_cache(model, text, image, 2)


def test_a_cache_that_is_not_used_is_noticed():
    """The right pictures, at the cost of the whole stream for every token."""
    model = tiny_dalle()
    text, _ = tiny_tokens(model, 1)
    known = []

    def step(tokens, cache):
        known.append(tokens)
        so_far = torch.cat(known, 1)
        rest = so_far.new_zeros(1, model.config.N - so_far.shape[1])
        return model(text, torch.cat([so_far, rest], 1))[1][:, so_far.shape[1]]

    def draw():
        return generate(model, text, torch.Generator().manual_seed(0), sampling=Sampling(top_k=3))

    expected = draw()
    model.step = step
    assert torch.equal(draw(), expected)
    known.clear()
    with fails:
        assert_one_position_per_step(model, draw)


# ------------------------------------------------------------------------------------ KL, Gumbel

WRONG_KL = {
    "sum over the batch": lambda z: kl_to_uniform(z).sum(0).mean(),
    "batchmean of an elementwise loss": lambda z: F.kl_div(
        torch.full_like(z, -math.log(z.shape[1])), z.softmax(1), reduction="batchmean"
    ),
    "mean over the codes too": lambda z: kl_to_uniform(z).mean() / z.shape[1],
    "over the wrong axis": lambda z: kl_to_uniform(z, dim=-1).mean(),
    "the other way round": lambda z: (
        F.kl_div(z.log_softmax(1), torch.full_like(z, 1 / z.shape[1]), reduction="sum")
        / z[:, 0].numel()
    ),
    "negative": lambda z: -kl_to_uniform(z).mean(),
    "entropy": lambda z: math.log(z.shape[1]) - kl_to_uniform(z).mean(),
}


@pytest.mark.parametrize("fault", WRONG_KL)
def test_a_wrong_kl_is_noticed(fault):
    """Each of the ways in which it has been got wrong."""
    with fails:
        assert_kl_is_per_token(WRONG_KL[fault])


WRONG_RELAXATION = {
    "over the wrong axis": lambda z, tau: gumbel_softmax(z, tau, dim=-1),
    "over the batch": lambda z, tau: gumbel_softmax(z, tau, dim=0),
    "probabilities for logits": lambda z, tau: gumbel_softmax(z.softmax(1), tau),
    "no noise": lambda z, tau: (z / tau).softmax(1),
    "normal noise": lambda z, tau: ((z + torch.randn_like(z)) / tau).softmax(1),
    "noise of the wrong sign": lambda z, tau: (
        (z + torch.empty_like(z).exponential_().log()) / tau
    ).softmax(1),
    "noise divided, logits not": lambda z, tau: (
        z - torch.empty_like(z).exponential_().log() / tau
    ).softmax(1),
    "hard": lambda z, tau: F.gumbel_softmax(z, tau, hard=True, dim=1),
    "not normalised": lambda z, tau: 2 * gumbel_softmax(z, tau),
}


@pytest.mark.parametrize("fault", WRONG_RELAXATION)
def test_a_wrong_relaxation_is_noticed(fault):
    """Each of the ways in which it has been got wrong."""
    with fails:
        assert_relaxes_the_categorical(WRONG_RELAXATION[fault])


# ------------------------------------------------------------------------------------- schedules


def test_a_schedule_that_compounds_on_itself_is_noticed():
    """τ ← τ · exp(−rate · step) forgets that τ has already fallen."""
    state = {"tau": 1.0}

    def compounding(step):
        state["tau"] = max(state["tau"] * math.exp(-1e-3 * step), 1 / 16)
        return state["tau"]

    with fails:
        assert_schedule_is_pure(compounding, 50)


def test_a_schedule_of_the_position_within_an_epoch_is_noticed():
    """A saw instead of a slope."""
    with fails:
        assert_monotone(lambda step: math.cos(math.pi * (step % 20) / 40), 50)


# ------------------------------------------------------------------------------------- arguments


def test_a_function_that_writes_into_its_argument_is_noticed():
    """−∞ written into the caller's logits; padding written into the caller's captions."""
    logits, text = torch.randn(2, 5), torch.tensor([[1, 2, 24]])
    assert_untouched(lambda: keep_top_k(logits, 2), logits)
    with fails:
        assert_untouched(lambda: logits[:, 2:].fill_(-torch.inf), logits)
    with fails:
        assert_untouched(lambda: text.clamp_(max=20), text)


def test_a_function_that_reshapes_its_argument_is_noticed():
    """In place, so that the caller's tensor has another shape."""
    x = torch.zeros(2, 3)
    with fails:
        assert_untouched(lambda: x.t_(), x)


def test_the_masks_of_the_package_pass_where_the_wrong_ones_fail():
    """The checks are not simply against everything."""
    for kind in ("row", "column", "convolution", "full"):
        field_of(stream_mask(kind, 3, 3, 4, 3)[3:, 3:], kind)
