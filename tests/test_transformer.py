"""One layer sees what its mask says; many layers leak nothing; the cached form gives the same numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import shake, tiny_transformer
from checks import (
    assert_decoding_reads_only,
    assert_forms_agree,
    assert_receptive_field,
    assert_same_with_cache,
    assert_untouched,
    receptive_field,
    stream_matrix,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from minidalle import device as device_room
from minidalle import masks, transformer
from minidalle.device import SHORT_STREAM, WHOLE_STREAM, choose_attention, choose_decoding
from minidalle.masks import (
    BLOCK,
    KINDS,
    layer_schedule,
    stream_blocks,
    stream_mask,
    stream_pieces,
)
from minidalle.transformer import (
    FORMS,
    Attention,
    Layer,
    Transformer,
    TransformerConfig,
    attend,
    attend_blocks,
    attend_fused,
    attend_pieces,
)

GRIDS = [(3, 4), (4, 2), (1, 5), (5, 1)]
STACKS = [(kind,) * 2 for kind in KINDS] + [layer_schedule(7)]


@pytest.fixture(params=[0, 1000], ids=["keys apart", "keys together"])
def route(request, monkeypatch):
    """Either way of decoding, however many streams there are."""
    monkeypatch.setattr(device_room, "FEW_STREAMS", request.param)


both_routes = pytest.mark.usefixtures("route")


def pieces_of(n: int, prefix: int) -> list[tuple[int, ...]]:
    """Ways to append n positions: all at once, one by one, prefix then one by one, in uneven pieces."""
    ways = [(n,), (1,) * n, (prefix,) + (1,) * (n - prefix), (prefix, 4) + (1,) * (n - prefix - 4)]
    return [*ways, (1, 2, prefix, n - prefix - 3)]


def test_attention_by_hand():
    """Two keys, one head, numbers one can follow: weights are softmax(q·k / √2)."""
    q = torch.tensor([[[[1.0, 1.0]]]])
    k = torch.tensor([[[[1.0, 0.0], [1.0, 2.0]]]])
    v = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    a, b = math.exp(1 / math.sqrt(2)), math.exp(3 / math.sqrt(2))
    out = attend(q, k, v, torch.tensor([[True, True]]))
    torch.testing.assert_close(out.flatten(), torch.tensor([a / (a + b), b / (a + b)]))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_torchs(kind):
    """The readable form gives what scaled_dot_product_attention gives."""
    mask = stream_mask(kind, 3, 3, 4, 3)
    q, k, v = torch.randn(3, 2, 2, 15, 8)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), expected)


def test_attention_forbids_even_huge_scores():
    """A masked key has weight exactly 0, however large its score and its value."""
    q = k = torch.full((1, 1, 2, 4), 30.0)
    v = torch.tensor([1.0, 1e9]).view(1, 1, 2, 1)
    out = attend(q, k, v, torch.ones(2, 2, dtype=torch.bool).tril())
    assert out[0, 0, 0, 0] == 1.0


# ------------------------------------------------------------- dense, fused, pieces, structured

# Forms agree to a rounding of their dtype: 64 bit shows that they mean the same, the others that they hold.
PRECISIONS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-2}
ODD = [(3, 5, 7), (1, 7, 5), (40, 9, 11), (2, 1, 6), (5, 6, 1)]  # prefix, h, w


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("sizes", ODD, ids=str)
@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_the_forms_agree_in_outputs_and_gradients(kinds, sizes, dtype):
    """At depth ≥ 2, batch 1, for every mask and the paper's schedule, on odd grids."""
    prefix, h, w = sizes
    model = tiny_transformer(kinds, h, w, prefix, len(kinds), kernel=5).to(dtype)
    x = torch.randn(1, prefix + h * w, 8).to(dtype)
    assert_forms_agree(model, x, PRECISIONS[dtype])


@given(st.sampled_from(KINDS), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9), st.data())
def test_blocked_attention_is_attention(kind, prefix, h, w, data):
    """For every kind, any prefix, any grid, any kernel, one head or several, one stream or several."""
    kernel = data.draw(st.sampled_from([1, 3, 5, 7, 11]))
    B, H = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    q, k, v = torch.randn(3, B, H, prefix + h * w, 4, dtype=torch.float64)
    expected = attend(q, k, v, stream_mask(kind, prefix, h, w, kernel))
    found = attend_blocks(q, k, v, stream_blocks(kind, prefix, h, w, kernel))
    torch.testing.assert_close(found, expected)
    fused = attend_fused(q, k, v, stream_mask(kind, prefix, h, w, kernel))
    torch.testing.assert_close(fused, expected)


@given(
    st.sampled_from(KINDS),
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 70),
)
def test_attention_in_pieces_is_attention(kind, prefix, h, w, piece):
    """However long the pieces are, and of all pieces only those that hold a visible key are met."""
    q, k, v = torch.randn(3, 2, 2, prefix + h * w, 4, dtype=torch.float64)
    mask = stream_mask(kind, prefix, h, w, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "PIECE", piece)
        pieces = stream_pieces(kind, prefix, h, w, 3)
    torch.testing.assert_close(attend_pieces(q, k, v, pieces), attend(q, k, v, mask))
    assert sum(pieces.sizes) == prefix + h * w and max(pieces.sizes) <= piece
    parts = [row.split(pieces.sizes, 1) for row in mask.split(pieces.sizes)]
    assert pieces.seen == [[n for n, part in enumerate(row) if part.any()] for row in parts]


def test_pieces_leave_out_what_no_query_sees():
    """A row layer of a 16×16 grid after 80 text positions: half of the scores, and none of the far rows."""
    pieces = stream_pieces("row", 82, 16, 16, 5)
    assert pieces.seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 3, 4], [0, 1, 4, 5]]
    assert sum(allowed.numel() for allowed in pieces.allowed) < 338**2 / 2


def test_a_stream_of_middling_length_trains_in_pieces(monkeypatch):
    """Without being asked, with the outputs of the dense form."""
    model, x = tiny_transformer(L=4, h=17, w=16), torch.randn(1, 275, 8)
    met = []

    def noted(*arguments):
        met.append(1)
        return attend_pieces(*arguments)

    monkeypatch.setitem(FORMS, "pieces", noted)
    found = model(x)
    model.form = "dense"
    assert len(met) == 4
    torch.testing.assert_close(found, model(x), atol=1e-4, rtol=1e-4)


@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_blocks_say_what_the_mask_says(kind, prefix, h, w):
    """Every pair of query and key that may meet does so once, and no other pair."""
    blocks = stream_blocks(kind, prefix, h, w, 5)
    n = prefix + h * w
    met = torch.zeros(n, n, dtype=torch.int64)
    for place in blocks.places.tolist():
        b, row = divmod(place, blocks.queries.shape[1])
        keys = blocks.keys[b][blocks.allowed[b, row]]
        met[blocks.queries[b, row]].index_add_(0, keys, torch.ones_like(keys))
    assert torch.equal(met, stream_mask(kind, prefix, h, w, 5).long())


@pytest.mark.parametrize("kind", ["row", "column", "convolution"])
def test_blocks_cost_no_more_than_n_times_w(kind):
    """Scores for each query, counted: the prefix, and a few times the keys that the mask allows."""
    for side in (16, 32, 64):
        blocks = stream_blocks(kind, 18, side, side, 11)
        scores = blocks.allowed.numel() / (18 + side**2)
        allowed = {"row": side, "column": side, "convolution": 11 * 6}[kind]
        assert scores <= 2 * (18 + 3 * allowed + BLOCK), (side, scores)


def test_an_unknown_form_is_an_error_that_lists_the_known():
    """The message helps."""
    with pytest.raises(ValueError, match="sparse.*dense, fused, pieces, structured"):
        Transformer(TransformerConfig(3, 2, 2, 8, 2, 2, 3), form="sparse")


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
@pytest.mark.parametrize(
    "length", [1, WHOLE_STREAM, WHOLE_STREAM + 1, SHORT_STREAM, SHORT_STREAM + 1, 10**5]
)
def test_the_choice_of_a_form_has_a_reason(device, length):
    """One of the forms, with the length in the reason; long streams are never dense."""
    form, reason = choose_attention(torch.device(device), length)
    assert form in FORMS and str(length) in reason
    assert (form == "structured") == (length > SHORT_STREAM)
    assert (form == "pieces") == (device == "cpu" and WHOLE_STREAM < length <= SHORT_STREAM)


def test_long_streams_train_in_the_structured_form():
    """Without being asked: the dense mask of such a stream is never made."""
    model = tiny_transformer(("row", "convolution"), h=25, w=25)
    x = torch.randn(1, 628, 8)
    found = model(x)
    model.form = "dense"
    torch.testing.assert_close(found, model(x), atol=1e-4, rtol=1e-4)
    asked = []
    model.form, model.geometry = None, lambda form, device: asked.append(form) or [None, None]
    with pytest.raises(AttributeError):
        model(x)
    assert asked == ["structured"]


# --------------------------------------------------------------------------------- what sees what


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_receptive_field_of_a_layer_is_the_rule(kind, grid):
    """By gradients, on grids that are no squares; residual and MLP widen nothing."""
    layer = shake(Layer(8, 2)).double()
    mask = stream_mask(kind, 3, *grid, 3)
    expected = stream_matrix(kind, 3, *grid, 3)
    assert_receptive_field(lambda x: layer(x, mask), 8, expected)


@given(st.sampled_from(KINDS), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3, 5]))
def test_the_receptive_field_of_attention_is_the_rule(kind, h, w, kernel):
    """The same for the attention alone, on any small grid."""
    attention = shake(Attention(8, 2)).double()
    mask = stream_mask(kind, 2, h, w, kernel)
    expected = stream_matrix(kind, 2, h, w, kernel)
    assert_receptive_field(lambda x: attention(x, mask), 8, expected)


@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_a_stack_of_layers_leaks_nothing(kinds):
    """At any depth, no output depends on a later input; the prefix sees no picture."""
    model = tiny_transformer(kinds, L=len(kinds)).double()
    seen = receptive_field(model, 15, 8)
    assert not seen.triu(1).any()
    assert seen.diagonal().all()
    assert seen[3:, :3].all(), "every image position sees the whole prefix"


def test_every_layer_has_the_mask_of_its_kind():
    """Which mask goes to which layer, seen from outside by the first layer's field."""
    for kind in KINDS:
        model = tiny_transformer((kind,), L=1).double()
        expected = stream_matrix(kind, 3, 3, 4, 3)
        assert_receptive_field(model, 8, expected)


def test_by_default_the_layers_follow_the_papers_schedule():
    """An empty ``kinds`` means the schedule."""
    assert tiny_transformer(L=6).kinds == layer_schedule(6)


@both_routes
@pytest.mark.parametrize("grid", [(3, 4), (4, 3)])
@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
@pytest.mark.parametrize("way", range(5))
def test_cached_equals_uncached(kinds, grid, way):
    """At depth ≥ 2, for every kind and the paper's schedule, in whatever pieces the stream arrives."""
    model = tiny_transformer(kinds, *grid, L=len(kinds))
    assert_same_with_cache(model, torch.randn(1, 15, 8), pieces_of(15, 3)[way])


@both_routes
@pytest.mark.parametrize("grid", [(3, 4), (4, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_reads_only_the_keys_of_the_mask(kind, grid):
    """Row, column and convolutional layers fetch what they see and nothing else; at depth 2."""
    model = tiny_transformer((kind, kind), *grid)
    assert_decoding_reads_only(model, torch.randn(2, 15, 8), stream_matrix(kind, 3, *grid, 3))


@both_routes
def test_cached_equals_uncached_in_bfloat16():
    """As far as 8 bits of precision go, against the dense form in 64 bit."""
    model, x = tiny_transformer(L=3), torch.randn(2, 15, 8)
    with torch.no_grad():
        expected = model.double()(x.double())
        model.bfloat16()
        cache = model.new_cache(2)
        pieces = x.bfloat16().split([3] + [1] * 12, 1)
        found = torch.cat([model.extend(piece, cache) for piece in pieces], 1)
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).norm() < 0.05 * expected.norm()


@both_routes
def test_cached_equals_uncached_for_several_streams():
    """Rows of a batch do not mix in the cache."""
    assert_same_with_cache(tiny_transformer(L=3), torch.randn(3, 15, 8), (3, 5) + (1,) * 7)


def test_rows_of_a_batch_do_not_mix():
    """A stream's output does not depend on its neighbours."""
    model, x = tiny_transformer(L=3), torch.randn(3, 15, 8)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=1e-5)


@both_routes
@pytest.mark.parametrize("n", [3, torch.tensor([2, 1])])
def test_a_repeated_cache_continues_each_row(n):
    """After `repeat`, every candidate goes on from its own row's prefix, and the original is intact."""
    model, x = tiny_transformer(L=3), torch.randn(2, 15, 8)
    rows = torch.arange(2).repeat_interleave(n)
    with torch.no_grad():
        cache = model.new_cache(2)
        model.extend(x[:, :5], cache)
        many = cache.repeat(n)
        found = model.extend(x[rows][:, 5:6], many)
        expected = model(x)[rows][:, 5:6]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (cache.length, many.length) == (5, 6)


def candidates(model, x, n=3):
    """Outputs of n candidates of every stream of x (B, P + N, D), whose image positions differ: by the
    repeated cache of the prefix, and by the whole streams at once."""
    P = model.config.prefix
    streams = x.repeat_interleave(n, 0)
    streams[:, P:] = torch.randn_like(streams[:, P:])
    with torch.no_grad():
        cache = model.new_cache(len(x))
        model.extend(x[:, :P], cache)
        many = cache.repeat(n)
        found = [model.extend(each, many) for each in streams[:, P:].split(1, 1)]
        return torch.cat(found, 1), model(streams)[:, P:]


@both_routes
@pytest.mark.parametrize("kinds", STACKS, ids="-".join)
def test_candidates_share_their_prefix(kinds):
    """Two captions with three candidates each: as if every stream had been computed alone."""
    model = tiny_transformer(kinds, L=len(kinds))
    torch.testing.assert_close(*candidates(model, torch.randn(2, 15, 8)), atol=1e-4, rtol=1e-4)


def test_a_common_prefix_is_read_once():
    """The copies that other candidates have of it are never looked at, also beside a second cache."""
    model, x = tiny_transformer(L=3), torch.randn(4, 15, 8)
    with torch.no_grad():
        caches = [model.new_cache(2) for _ in range(2)]
        for cache, rows in zip(caches, x.chunk(2), strict=True):
            model.extend(rows[:, :3], cache)
        many = caches[0].repeat(2).beside(caches[1].repeat(torch.tensor([2, 2])))
        for kv in many.layers:
            kv[:, 1::2, :, :3] = torch.nan
        assert many.alike == 2
        assert model.extend(x.repeat_interleave(2, 0)[:, 3:4], many).isfinite().all()
        assert caches[0].repeat(torch.tensor([2, 1])).alike == 1, "uneven: nothing is shared"


@both_routes
def test_what_is_added_to_a_prefix_may_differ():
    """A cache that is repeated in the middle of the prefix shares nothing that comes later."""
    model, x = tiny_transformer(L=3), torch.randn(1, 15, 8)
    streams = x.repeat(2, 1, 1)
    streams[:, 1:] = torch.randn(2, 14, 8)
    with torch.no_grad():
        cache = model.new_cache(1)
        model.extend(x[:, :1], cache)
        many = cache.repeat(2)
        found = torch.cat([model.extend(each, many) for each in streams[:, 1:].split(1, 1)], 1)
        expected = model(streams)[:, 1:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@both_routes
def test_decoding_under_autocast_keeps_scores_and_cache_in_32_bit(monkeypatch):
    """As far as 8 bits of precision in the other products go, against no autocast at all."""
    model, x = tiny_transformer(L=3), torch.randn(2, 15, 8)
    torch.manual_seed(1)
    expected, _ = candidates(model, x)
    torch.manual_seed(1)
    dtypes = set()

    def noted(ours):
        def call(*tensors):
            dtypes.update([*(x.dtype for x in tensors), (out := ours(*tensors)).dtype])
            return out

        return call

    for name in ("multiply", "attend_fused"):
        monkeypatch.setattr(transformer, name, noted(getattr(transformer, name)))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = candidates(model, x)
    assert dtypes == {torch.float32}
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("autocast", [False, True], ids=["32 bit", "bfloat16"])
@pytest.mark.parametrize("form", ["dense", "structured"])
def test_checkpointing_changes_no_gradient(form, autocast):
    """Loss and every gradient bit for bit, in both forms of attention and under autocast."""
    gradients = []
    model, x = tiny_transformer(L=5), torch.randn(2, 15, 8, requires_grad=True)
    model.form = form
    for model.checkpointing in (False, True):
        model.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(x).square().mean()
        loss.backward()
        gradients.append([loss, x.grad, *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *gradients))


def test_checkpointing_computes_each_branch_twice_and_keeps_its_input_alone():
    """Ten branches of five layers; kept are ten inputs of (2, 15, 8), the last norm's, and its two figures
    for each position."""
    model, x = tiny_transformer(L=5), torch.randn(2, 15, 8)
    calls = []
    for name, module in model.named_modules():
        if name.endswith(("attention_norm", "mlp_norm")):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.checkpointing = True
    kept = {}
    parameters = {p.data_ptr() for p in model.parameters()}
    with saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        loss = model(x).square().mean()
    values = sum(t.numel() for at, t in kept.items() if at not in parameters)
    stream = 2 * 15 * 8
    assert values == 10 * stream + stream + 2 * 2 * 15 + stream, "the last is the square's"
    assert len(calls) == 10
    loss.backward()
    assert len(calls) == 20 and len(set(calls)) == 10


def test_a_full_stream_takes_no_more():
    """The message has both numbers."""
    model = tiny_transformer()
    cache = model.new_cache(1)
    model.extend(torch.randn(1, 14, 8), cache)
    with pytest.raises(ValueError, match="2 new positions.*room for 1"):
        model.extend(torch.randn(1, 2, 8), cache)
    assert cache.length == 14


@pytest.mark.parametrize("shape", [(2, 1, 8), (1, 1, 9), (1, 8)])
def test_new_positions_of_another_shape_are_errors(shape):
    """Other streams than the cache has, another width, no batch: both shapes are named."""
    model = tiny_transformer()
    with pytest.raises(ValueError, match=rf"\(1, n, 8\).*{shape[0]}"):
        model.extend(torch.randn(shape), model.new_cache(1))


def test_forward_and_extend_leave_their_input_alone():
    """What the caller gives is read, not written."""
    model, x = tiny_transformer(), torch.randn(1, 15, 8)
    masks = [model.mask(kind) for kind in set(model.kinds)]
    assert_untouched(lambda: model(x), x, *masks)
    assert_untouched(lambda: model.extend(x, model.new_cache(1)), x, *masks)


def test_heads_split_the_width():
    """q, k and v are the three thirds of one projection, each cut into H heads."""
    attention, x = Attention(8, 2), torch.randn(1, 5, 8)
    q, k, v = attention.heads(x)
    thirds = attention.qkv(x).chunk(3, -1)
    for head, third in zip((q, k, v), thirds, strict=True):
        assert head.shape == (1, 2, 5, 4)
        torch.testing.assert_close(head[0, 1], third[0, :, 4:])


def test_masks_are_no_part_of_the_weights():
    """They follow from the configuration, so a file of weights need not hold them."""
    assert not [name for name in tiny_transformer(L=4).state_dict() if "mask" in name]


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"D": 10, "H": 4}, "10.*4"),
        ({"L": 3}, "2.*3"),
        ({"kernel": 4}, "odd, not 4; try 5"),
        ({"kernel": 0}, "kernel must be at least 1, not 0"),
        ({"h": 0}, "h must be at least 1, not 0"),
        ({"prefix": 0}, "prefix must be at least 1, not 0"),
        ({"kinds": ("row", "diagonal")}, "diagonal"),
    ],
)
def test_sizes_that_do_not_fit_are_errors(changes, numbers):
    """The message has the two numbers that disagree."""
    sizes = {"prefix": 3, "h": 2, "w": 2, "D": 8, "H": 2, "L": 2, "kernel": 3}
    with pytest.raises(ValueError, match=numbers):
        Transformer(TransformerConfig(**{**sizes, "kinds": ("row", "row"), **changes}))


def test_the_way_of_decoding_has_a_reason():
    """One fused call for few streams, none for many."""
    assert [choose_decoding(n)[0] for n in (1, 4, 5, 64)] == ["together"] * 2 + ["apart"] * 2
    assert all("streams" in choose_decoding(n)[1] for n in (1, 64))


def test_the_text_alone_makes_no_mask_of_the_picture(monkeypatch):
    """On a grid of 64×64 that would be 17 million entries for nothing."""
    model = tiny_transformer()
    monkeypatch.setattr(transformer, "stream_mask", lambda *_: pytest.fail("a mask was made"))
    transformer.geometry.cache_clear()
    model.extend(torch.randn(1, 3, 8), model.new_cache(1))
