"""A scale for every block: the rule, the two functions around a branch, and a network that needs them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minidalle.masks import stream_mask
from minidalle.precision import DeepNetwork, GradientScale, scaled, underflow, unscaled
from minidalle.transformer import Layer

OCTAVES = math.log2(65504) + 24  # of float16, from its smallest subnormal to its largest number


def updated(scale: GradientScale, *finite: bool) -> GradientScale:
    """The scale after a history of updates."""
    for each in finite:
        scale = scale.updated(each)
    return scale


# ------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("M", [1, 3, 1024])
def test_the_scale_starts_and_ends_where_the_paper_says(M):
    """M · 2¹³ at first, never above M · 2²⁴ nor below M · 2⁷."""
    first = GradientScale.first(M)
    assert first.value == M * 2**13
    assert updated(first, *[True] * 12_000).value == M * 2**24
    assert updated(replace(first, window=1), *[False] * 100).value == M * 2**7


def test_a_thousand_good_updates_double_the_scale():
    """Each multiplies by 2^(1/1000)."""
    assert updated(GradientScale(), True).value == pytest.approx(2**13 * 2**0.001, rel=1e-12)
    assert updated(GradientScale(), *[True] * 1000).value == pytest.approx(2**14, rel=1e-9)


def test_a_bad_update_divides_by_the_root_of_two():
    """The very first may do so; the scale that it is called on stays as it is."""
    scale = GradientScale()
    assert scale.updated(finite=False).value == pytest.approx(2**12.5)
    assert scale == GradientScale()


def test_a_scale_is_divided_once_in_125_updates():
    """Bad updates 1 to 124 after a division change nothing, the 125th divides again."""
    once = GradientScale().updated(finite=False)
    rested = updated(once, *[False] * 124)
    assert rested.value == once.value
    assert rested.updated(finite=False).value == pytest.approx(2**12)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 8), st.integers(1, 9))
def test_any_history_stays_in_bounds(history, M, window):
    """Within the clamp; divisions at least a window apart; only good updates raise, only bad ones lower."""
    scale, divided = replace(GradientScale.first(M), window=window), []
    for k, finite in enumerate(history):
        after = scale.updated(finite)
        assert M * 2**7 <= after.value <= M * 2**24
        assert after.value >= scale.value if finite else after.value <= scale.value
        divided += [k] if after.value < scale.value else []
        scale = after
    assert all(b - a >= window for a, b in zip(divided, divided[1:], strict=False))


def test_there_is_no_scale_for_no_replicas():
    """The message has the number."""
    with pytest.raises(ValueError, match="at least 1, not 0"):
        GradientScale.first(0)


# ----------------------------------------------------------------------------------------- the branch


def test_a_scale_changes_no_gradient_that_fits():
    """x and the true parameter gradients get what the plain block gives, bit for bit for a power of two;
    the parameters' own are multiplied by the scale."""
    branch = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    x, g = torch.randn(2, 3, 4), torch.randn(3, 4)
    plain, own = x[0].requires_grad_(), x[0].detach().clone().requires_grad_()
    (plain + branch(plain)).backward(g)
    expected = [p.grad.clone() for p in branch.parameters()]
    branch.zero_grad()
    out = own + scaled(branch, own, 1024.0, torch.float32)
    assert torch.equal(out, plain + branch(plain))
    out.backward(g)
    assert torch.equal(own.grad, plain.grad)
    found, finite = unscaled(branch.parameters(), 1024.0)
    assert finite and all(map(torch.equal, found, expected))
    assert torch.equal(branch[0].weight.grad, 1024 * expected[0])


def test_the_branch_is_in_16_bit_and_the_identity_path_in_32():
    """What the branch sees, in both directions; and x keeps differences that float16 has not."""
    seen = []

    def branch(x):
        x.register_hook(lambda g: seen.append(g.dtype))
        seen.append(x.dtype)
        return 2 * x

    x = torch.full((1,), 1 + 2**-20, requires_grad=True)
    out = x + 0.0 * scaled(branch, x, 2.0)
    assert out.dtype == torch.float32 and out.item() == 1 + 2**-20
    out.backward()
    assert seen == [torch.float16, torch.float16] and x.grad.dtype == torch.float32


def test_a_gradient_too_small_for_float16_comes_through():
    """1e-10 is 0 in float16; with a scale of 2²⁰ it is itself, within float16's rounding."""
    for scale, expected in ((1.0, 0.0), (2.0**20, 1e-10)):
        x = torch.ones(3, requires_grad=True)
        scaled(lambda x: x * 1, x, scale).backward(torch.full((3,), 1e-10))
        torch.testing.assert_close(x.grad, torch.full((3,), expected), rtol=1e-3, atol=0)


def test_an_overflow_stays_in_its_block():
    """Of three blocks the second overflows: it is told so, the first gets the identity path's gradient, and
    neither it nor the third is asked to lower its scale."""
    blocks = [nn.Linear(1, 1, bias=False).half() for _ in range(3)]
    for block in blocks:
        nn.init.ones_(block.weight)
    x = torch.ones(1, requires_grad=True)
    y = x
    for block, scale in zip(blocks, (1.0, 2.0**20, 1.0), strict=True):
        y = y + scaled(block, y, scale)
    y.backward()
    finite = [unscaled(block.parameters(), 1.0)[1] for block in blocks]
    assert finite == [True, False, True]
    assert x.grad.item() == 4.0, (
        "2 from the third block, nothing from the second, times 2 in the first"
    )


def test_the_identity_path_must_be_in_32_bit():
    """The message has the dtype that was given."""
    with pytest.raises(ValueError, match=r"torch\.float32, not torch\.float16"):
        scaled(lambda x: x, torch.ones(1).half(), 1.0)


def test_it_fits_around_the_branches_of_a_layer():
    """DALL·E's own layer in 16 bit with gradients of 1e-9: exact to float16's rounding with scales of
    2²⁴, and gone without."""
    layer = Layer(16, 2).half()
    mask = stream_mask("row", 3, 3, 4, 3)
    x = torch.randn(2, 15, 16)

    def gradients(scale: float | None) -> list[torch.Tensor]:
        layer.float() if scale is None else layer.half()
        layer.zero_grad()
        y = x
        for branch in layer.branches(mask):
            y = y + (branch(y) if scale is None else scaled(branch, y, scale))
        (1e-9 * y.square().sum()).backward()
        return unscaled(layer.parameters(), scale or 1.0)[0]

    exact, kept, lost = gradients(None), gradients(2.0**24), gradients(1.0)
    for a, b, c in zip(exact, kept, lost, strict=True):
        size = a.norm()
        if size > 1e-10:  # but the keys' biases, which change no softmax
            assert (a - b).norm() < 0.03 * size
            assert (a - c).norm() > 0.5 * size


# -------------------------------------------------------------------------------------- the underflow


@pytest.fixture(scope="module")
def demonstration():
    """The toy of chapter 13."""
    torch.manual_seed(0)
    return underflow(DeepNetwork(), torch.randn(64, 32))


def test_no_shared_scale_keeps_every_block(demonstration):
    """Gradients span more than float16 does; whichever scale all blocks share, in at least three of 24 half
    of the gradient or more is wrong, in at least five more than a few per cent."""
    u = demonstration
    assert (u.sizes.max() / u.sizes.min()).log2() > OCTAVES
    assert ((u.shared > 0.5).sum(1) >= 3).all()
    assert ((u.shared > 0.05).sum(1) >= 5).all()


def test_scales_between_the_ones_tried_are_no_better(demonstration):
    """A scale between two neighbours loses what underflows at the larger and what overflows at the smaller:
    that alone is two blocks or more, whatever the scale."""
    lost = (demonstration.shared > 0.5) & demonstration.shared.isfinite()
    overflown = demonstration.shared.isinf()
    assert ((lost[1:] | overflown[:-1]).sum(1) >= 2).all()


def test_the_gradients_of_the_activations_span_more_than_float16():
    """What enters the branches backward, in 32 bit, where nothing is lost."""
    network, outputs = DeepNetwork(), []

    def keep(_module, _inputs, output):
        output.retain_grad()
        outputs.append(output)

    for block in network.blocks:
        block.register_forward_hook(keep)
    network.gradients(torch.randn(64, 32), [1.0] * len(network.blocks))
    sizes = torch.stack([y.grad.square().mean().sqrt() for y in outputs])
    assert (sizes.diff() < 0).all() and (sizes[0] / sizes[-1]).log2() > OCTAVES


def test_scales_beyond_the_ones_tried_are_worse_still(demonstration):
    """At the smallest nearly all is lost below, at the largest above; in between both ends lose."""
    shared = demonstration.shared
    assert (shared[0] > 0.99).sum() >= 22 and not shared[0].isinf().any()
    assert shared[-1].isinf().sum() >= 19
    middle = shared[len(shared) // 2]
    assert middle[0] == torch.inf and middle[-1] == 1.0


def test_scales_of_their_own_keep_every_block(demonstration):
    """All within two per cent of the gradients in 32 bit, with scales inside the paper's clamp."""
    u = demonstration
    assert u.own.max() < 0.02
    assert u.own_scales.min() >= 2**7 and u.own_scales.max() == 2**24
    assert (u.own_scales.diff() >= 0).all(), "the smaller the gradients, the larger the scale"
