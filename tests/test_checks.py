"""Every check fails on the fault that it is there to catch; the faults are kept here."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import shake, tiny_dalle, tiny_dvae, tiny_tokens, tiny_transformer
from checks import (
    assert_all_found,
    assert_causal,
    assert_decoding_reads_only,
    assert_encodes_the_same_twice,
    assert_file_holds,
    assert_forms_agree,
    assert_frozen,
    assert_guided_as_uncached,
    assert_half_cosine,
    assert_keeps_k,
    assert_kl_is_per_token,
    assert_lossless,
    assert_monotone,
    assert_one_position_per_step,
    assert_own_heads,
    assert_padding_is_apart,
    assert_pictures,
    assert_receptive_field,
    assert_refuses_ids,
    assert_relaxes_the_categorical,
    assert_same_logits_with_cache,
    assert_same_with_cache,
    assert_schedule_is_pure,
    assert_splits_disjoint,
    assert_stays_finite,
    assert_untouched,
    assert_warns_of_collapse,
    stream_logits,
    stream_matrix,
)
from PIL import Image

from minidalle import masks
from minidalle.dvae import code_usage, collapse, gumbel_softmax, kl_to_uniform
from minidalle.generate import Sampling, generate, guide, keep_top_k
from minidalle.masks import stream_mask
from minidalle.schedules import cosine, linear
from minidalle.transformer import (
    FORMS,
    Attention,
    Cache,
    Transformer,
    attend_blocks,
    attend_pieces,
    geometry,
)

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


def first_image_token_under_the_text_head(model):
    """An off-by-one of the slice, where both heads happen to be wide enough."""

    def forward(text, image):
        x = model.transformer(torch.cat([model.embed_prefix(text), model.embed_image(image)], 1))
        T, K = model.config.T, model.config.K
        first = model.text_head(x[:, T + 1 : T + 2])[..., :K]
        image_logits = torch.cat([first, model.image_head(x[:, T + 2 : -1])], 1)
        return model.text_head(x[:, :T]), image_logits

    return forward


def last_text_token_from_start_of_image(model):
    """Text positions are counted from one too late."""

    def forward(text, image):
        x = model.transformer(torch.cat([model.embed_prefix(text), model.embed_image(image)], 1))
        T = model.config.T
        return model.text_head(x[:, 1 : T + 1]), model.image_head(x[:, T + 1 : -1])

    return forward


@pytest.mark.parametrize(
    "fault", [first_image_token_under_the_text_head, last_text_token_from_start_of_image]
)
def test_a_token_under_the_wrong_head_is_noticed(fault):
    """Or at the wrong position."""
    model = tiny_dalle()
    tokens = tiny_tokens(model, 1)
    assert_own_heads(model, *tokens)
    model.forward = fault(model)
    with fails:
        assert_own_heads(model, *tokens)


# ----------------------------------------------------------------------------------------- forms


def unmasked(q, k, v, blocks):
    """Fetches the keys of the block and forgets which of them each query may see."""
    return attend_blocks(q, k, v, blocks._replace(allowed=torch.ones_like(blocks.allowed)))


def out_of_place(q, k, v, blocks):
    """The blocks' outputs are put back in the blocks' order."""
    n = len(blocks.places)
    order = blocks.queries.flatten().unique(return_inverse=True)[1]
    return attend_blocks(q, k, v, blocks._replace(places=order[:n]))


def one_key_short(q, k, v, blocks):
    """The first key of the text is left out."""
    allowed = blocks.allowed.clone()
    allowed[..., 0] &= blocks.queries[..., None].lt(1)[..., 0]
    return attend_blocks(q, k, v, blocks._replace(allowed=allowed))


def without_gradient(q, k, v, blocks):
    """The right outputs; values that learn nothing."""
    return attend_blocks(q, k, v.detach(), blocks)


@pytest.mark.parametrize("fault", [unmasked, out_of_place, one_key_short, without_gradient])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_wrong_structured_form_is_noticed(fault, dtype, monkeypatch):
    """In outputs or in gradients; also at the tolerance that 8 bits of precision need."""
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 6e-2}[dtype]
    model, x = tiny_transformer(L=3, h=5, w=7).to(dtype), torch.randn(1, 38, 8).to(dtype)
    assert_forms_agree(model, x, tolerance)
    monkeypatch.setitem(FORMS, "structured", fault)
    with fails:
        assert_forms_agree(model, x, tolerance)


def own_piece_only(q, k, v, pieces):
    """Every piece meets itself and none of those before it."""
    own = [[n] for n in range(len(pieces.sizes))]
    ends = zip(pieces.allowed, pieces.sizes, strict=True)
    return attend_pieces(q, k, v, pieces._replace(seen=own, allowed=[a[:, -n:] for a, n in ends]))


def everything_allowed(q, k, v, pieces):
    """Meets the right pieces, and all of their keys."""
    everything = [torch.ones_like(a) for a in pieces.allowed]
    return attend_pieces(q, k, v, pieces._replace(allowed=everything))


def keys_of_a_neighbour(q, k, v, pieces):
    """Values and masks of the right pieces; keys of the piece before."""
    return attend_pieces(q, k.roll(pieces.sizes[0], 2), v, pieces)


@pytest.mark.parametrize("fault", [own_piece_only, everything_allowed, keys_of_a_neighbour])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_wrong_pieces_are_noticed(fault, dtype, monkeypatch):
    """As above; three rows of a 5×7 grid and what stands before it are pieces of their own."""
    tolerance = {torch.float32: 2e-5, torch.bfloat16: 6e-2}[dtype]
    model, x = tiny_transformer(L=3, h=5, w=7).to(dtype), torch.randn(1, 38, 8).to(dtype)
    monkeypatch.setattr(masks, "PIECE", 14)
    geometry.cache_clear()
    assert_forms_agree(model, x, tolerance)
    monkeypatch.setitem(FORMS, "pieces", fault)
    with fails:
        assert_forms_agree(model, x, tolerance)
    geometry.cache_clear()


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


class FetchesAll(Transformer):
    """Decodes against every cached key under a mask: the right numbers at the dense price."""

    def extend(self, x, cache):
        end = cache.length + x.shape[1]
        masks = [self.mask(kind)[cache.length : end, :end] for kind in self.kinds]
        for layer, kv, mask in zip(self.layers, cache.layers, masks, strict=True):
            x = layer.extend(x, kv, cache.length, [slice(0, end)], mask)
        cache.length = end
        return self.norm(x)


def test_a_cache_that_fetches_what_the_mask_forbids_is_noticed():
    """Its outputs are right, so only the poisoned keys tell."""
    model, x = tiny_transformer(("row", "row")), torch.randn(1, 15, 8)
    expected = stream_matrix("row", 3, 3, 4, 3)
    assert_decoding_reads_only(model, x, expected)
    model.__class__ = FetchesAll
    assert_same_with_cache(model, x, (3,) + (1,) * 12)
    with fails:
        assert_decoding_reads_only(model, x, expected)


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


# -------------------------------------------------------------------------------------- guidance


def shares_the_caption(model):
    """The stream without a caption is given the caption after all."""
    begin, seen = model.begin, []

    def wrong(text):
        seen.append(text)
        return begin(seen[0])

    return wrong


def shares_the_cache(model):
    """Both streams write into one cache: the second continues the first's keys."""
    begin, caches = model.begin, []

    def wrong(text):
        logits, cache = begin(text)
        caches.append(cache)
        return logits, caches[0]

    return wrong


@pytest.mark.parametrize("fault", [shares_the_caption, shares_the_cache])
def test_wrong_guidance_is_noticed(fault):
    """By the pictures it draws."""
    model = tiny_dalle()
    text, _ = tiny_tokens(model, 5)

    strong = 30.0  # so that what a caption adds decides which code is likeliest

    def draw():
        return generate(model, text, torch.Generator(), sampling=Sampling(0.0, guidance=strong))

    assert_guided_as_uncached(model, text, strong, draw)
    model.begin = fault(model)
    with fails:
        assert_guided_as_uncached(model, text, strong, draw)


def test_guidance_that_zeroes_the_prompt_is_noticed():
    """The caption is blanked where it stands, so the caller has lost it."""
    model = tiny_dalle()
    text, _ = tiny_tokens(model, 2)

    def draw(text):
        captioned = model.begin(text)[0]
        return guide(torch.cat([captioned, model.begin(text.mul_(0))[0]]), 2.0)

    with fails:
        assert_untouched(lambda: draw(text), text)


# ----------------------------------------------------------------------------------------- top-k


def share_of_the_joint_vocabulary(logits, k, V=20):
    """A share of text and image logits together, as if there were so many codes."""
    return keep_top_k(logits, max(1, round(k / logits.shape[-1] * (V + logits.shape[-1])) - V))


def above_the_kth(logits, k):
    """A threshold, which lets all equals in."""
    return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)


WRONG_TOP_K = {
    "share of the joint vocabulary": share_of_the_joint_vocabulary,
    "threshold": above_the_kth,
    "ignored": lambda logits, k: logits,
    "the smallest": lambda logits, k: keep_top_k(-logits, k),
    "one too many": lambda logits, k: keep_top_k(logits, min(k + 1, logits.shape[-1])),
}


@pytest.mark.parametrize("fault", WRONG_TOP_K)
def test_a_wrong_top_k_is_noticed(fault):
    """Each of the ways in which it has been got wrong."""
    assert_keeps_k(keep_top_k)
    with fails:
        assert_keeps_k(WRONG_TOP_K[fault])


# ------------------------------------------------------------------------------------- tokenizer

WORDS = {"a": 0, "red": 1, "circle": 2}


def test_a_tokenizer_that_drops_text_is_noticed():
    """Unknown words vanish; the first id is taken for padding."""

    def ids(text):
        return [WORDS[word] for word in text.split() if word in WORDS]

    def decode(ids):
        return " ".join(list(WORDS)[i] for i in ids)

    assert_lossless(ids, decode, "a red circle")
    with fails:
        assert_lossless(ids, decode, "a crimson circle")
    with fails:
        assert_lossless(ids, lambda ids: decode([i for i in ids if i != 0]), "a red circle")


def test_padding_that_is_a_real_token_is_noticed():
    """Id 0 for both, one padding for all positions, or positions counted from the caption's end."""
    text = [5, 0, 3]
    assert_padding_is_apart(text, [5, 0, 3, 13, 14], 10)
    for padding in ([0, 0], [10, 10], [10, 11]):
        with fails:
            assert_padding_is_apart(text, text + padding, 10)
    with fails:
        assert_padding_is_apart([5, 12], [5, 12, 12], 10)


# -------------------------------------------------------------------------------- dVAE, pictures

WRONG_PICTURES = {
    "from −1 to 1": lambda x: 2 * x - 1,
    "bytes": lambda x: (255 * x).byte(),
    "0 to 255": lambda x: 255 * x,
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "double": lambda x: x.double(),
}


@pytest.mark.parametrize("fault", WRONG_PICTURES)
def test_pictures_that_break_the_contract_are_noticed(fault):
    """Another range, type or order than everywhere else."""
    x = torch.rand(2, 3, 8, 8)
    assert_pictures(x, 2, 8)
    with fails:
        assert_pictures(WRONG_PICTURES[fault](x), 2, 8)


def test_a_dvae_that_samples_its_tokens_is_noticed():
    """Noise at encode time: stage 2 would learn from another picture each time."""
    dvae, x = shake(tiny_dvae(logit_norm=True)), torch.rand(8, 3, 8, 8)
    assert_encodes_the_same_twice(dvae.encode, x)
    with fails:
        assert_encodes_the_same_twice(lambda x: gumbel_softmax(dvae.logits(x), 1.0).argmax(1), x)


def test_a_frozen_dvae_that_decays_is_noticed():
    """It gets no gradient to speak of, but it is in the optimiser, and weight decay shrinks it."""
    dvae, model = tiny_dvae(), tiny_dalle(K=11, h=2, w=2)
    text, image = tiny_tokens(model)
    for p in dvae.parameters():
        p.grad = torch.zeros_like(p)

    def step(*modules):
        parameters = [p for module in modules for p in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)
        model.loss(text, image).loss.backward()
        optimizer.step()

    assert_frozen(dvae, lambda: step(model))
    with fails:
        assert_frozen(dvae, lambda: step(model, dvae))


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


def softmax_by_hand(logits, tau):
    """Without taking the largest away first: ∞ / ∞."""
    y = ((logits - torch.empty_like(logits).exponential_().log()) / tau).exp()
    return y / y.sum(1, keepdim=True)


def noise_that_can_be_infinite(logits, tau):
    """−ln(−ln u) of a u that can be 1, here once in 64: torch.rand is below 1, but not all generators are."""
    u = (64 * torch.rand_like(logits)).ceil() / 64
    return ((logits - (-u.log()).log()) / tau).softmax(1)


@pytest.mark.parametrize("fault", [softmax_by_hand, noise_that_can_be_infinite])
def test_a_relaxation_that_overflows_is_noticed(fault):
    """NaN at extreme values."""
    assert_stays_finite(gumbel_softmax)
    with fails:
        assert_stays_finite(fault)


def said_of(tokens, K):
    return collapse(*code_usage(tokens, K), K)


WRONG_WARNINGS = {
    "never": lambda tokens, K: "",
    "always": lambda tokens, K: "warning",
    "of the count alone": lambda tokens, K: "warning" * (code_usage(tokens, K)[0] < K / 4),
    "of the most frequent code": lambda tokens, K: (
        "warning" * bool(tokens.bincount().max() > len(tokens) / 2)
    ),
}


@pytest.mark.parametrize("fault", WRONG_WARNINGS)
def test_a_collapse_that_nobody_is_told_of_is_noticed(fault):
    """Nor is a warning that always comes one."""
    assert_warns_of_collapse(said_of)
    with fails:
        assert_warns_of_collapse(WRONG_WARNINGS[fault])


# ------------------------------------------------------------------------------------- schedules


def test_a_straight_line_is_no_cosine():
    """Both are pure, monotone, and equal at the ends and in the middle."""
    assert_half_cosine(lambda step: cosine(step, 1.0, 1 / 16, 80), 1.0, 1 / 16, 80)
    for fault in (
        lambda step: linear(step, 1.0, 1 / 16, 80),
        lambda step: cosine(step, 1.0, 1 / 16, 160),  # half of it
        lambda step: 1 / 16 + 15 / 16 * (1 + math.cos(math.pi * step / 80)) / 2,  # comes back
    ):
        with fails:
            assert_half_cosine(fault, 1.0, 1 / 16, 80)


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


# ------------------------------------------------------------------------------------- files, splits


def stretched(picture, path):
    """As a plot does that scales to the data's smallest and largest value."""
    low, high = picture.min(), picture.max()
    Image.fromarray((255.0 * (picture - low) / (high - low)).astype(np.uint8)).save(path, "PNG")


WRONG_FILES = {
    "values stretched": stretched,
    "lossy": lambda picture, path: Image.fromarray(picture).save(path, "JPEG"),
    "resized": lambda picture, path: Image.fromarray(picture).resize((16, 16)).save(path, "PNG"),
    "blue for red": lambda picture, path: Image.fromarray(picture[..., ::-1].copy()).save(
        path, "PNG"
    ),
    "turned": lambda picture, path: Image.fromarray(picture.swapaxes(0, 1).copy()).save(
        path, "PNG"
    ),
}


@pytest.mark.parametrize("fault", WRONG_FILES)
def test_a_file_that_is_not_the_picture_is_noticed(fault, tmp_path):
    """Each of the ways in which saving has changed pictures."""
    picture = np.random.default_rng(0).integers(60, 200, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "right.png")
    assert_file_holds(tmp_path / "right.png", picture)
    WRONG_FILES[fault](picture, tmp_path / "wrong.png")
    with fails:
        assert_file_holds(tmp_path / "wrong.png", picture)


WRONG_LOADERS = {
    "by stem": lambda names: {Path(name).stem: caption for name, caption in names.items()},
    "the last of a stem": lambda names: {
        name: max(c for n, c in names.items() if Path(n).stem == Path(name).stem) for name in names
    },
    "lower-case suffixes": lambda names: {
        name: caption for name, caption in names.items() if name.endswith((".png", ".jpg"))
    },
}


@pytest.mark.parametrize("fault", WRONG_LOADERS)
def test_a_lost_picture_is_noticed(fault):
    """One file overwrites another's entry, or a suffix is not known."""
    names = {"a/x.png": "one", "b/x.png": "two", "b/y.JPG": "three"}
    assert_all_found(dict(names), names)
    with fails:
        assert_all_found(WRONG_LOADERS[fault](names), names)


def with_replacement():
    """Two draws of a list: some in both, some in none."""
    chance = random.Random(0)
    return {"train": chance.choices(range(40), k=36), "test": chance.choices(range(40), k=4)}


ANEW = random.Random(1)


def shuffled_anew():
    """Disjoint each time, and another split each time."""
    order = ANEW.sample(range(40), 40)
    return {"train": order[:36], "test": order[36:]}


@pytest.mark.parametrize("fault", [with_replacement, shuffled_anew])
def test_a_split_that_leaks_is_noticed(fault):
    """Trained on what is tested, in one run or from one run to the next."""
    assert_splits_disjoint(lambda: {"train": range(36), "test": range(36, 40)}, set(range(40)))
    with fails:
        assert_splits_disjoint(fault, set(range(40)))


# ------------------------------------------------------------------------------------- arguments


def test_ids_that_reach_a_kernel_are_noticed():
    """An embedding that says "index out of range in self"; a clamp that lets them pass."""
    model = tiny_dalle()
    text, image = tiny_tokens(model)
    assert_refuses_ids(lambda ids: model(text, ids), image, 11)
    with fails:
        assert_refuses_ids(lambda ids: model.image_embedding(ids), image, 11)
    with fails:
        assert_refuses_ids(lambda ids: model(text, ids.clamp(0, 10)), image, 11)


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
