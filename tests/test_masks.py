"""Masks against matrices written out by hand, and against rules written with loops."""

import pytest
import torch
from checks import RULES, image_matrix, stream_matrix
from hypothesis import given
from hypothesis import strategies as st

from minidalle.masks import (
    KINDS,
    causal_mask,
    image_mask,
    layer_schedule,
    stream_blocks,
    stream_mask,
    visible_keys,
)

sides = st.integers(1, 6)
kernels = st.sampled_from([1, 3, 5, 7])


def matrix(text: str) -> torch.Tensor:
    """Lines of x and . as a bool matrix."""
    return torch.tensor([[letter == "x" for letter in line] for line in text.split()])


BY_HAND = {  # a grid of 2 rows and 3 columns: positions 0 1 2 / 3 4 5
    "row": "x..... xx.... xxx... xxxx.. .xxxx. ..xxxx",
    "column": "x..... .x.... ..x... x..x.. .x..x. ..x..x",
    "convolution": "x..... xx.... xxx... xxxx.. xxxxx. .xxxxx",
    "full": "x..... xx.... xxx... xxxx.. xxxxx. xxxxxx",
}
TALL_BY_HAND = {  # 3 rows and 2 columns: positions 0 1 / 2 3 / 4 5
    "row": "x..... xx.... xxx... .xxx.. ..xxx. ...xxx",
    "column": "x..... .x.... x.x... .x.x.. x.x.x. .x.x.x",
    "convolution": "x..... xx.... xxx... xxxx.. .xxxx. ..xxxx",
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_wide_grid_by_hand(kind):
    """2×3: what one can check with a pencil."""
    assert torch.equal(image_mask(kind, 2, 3, 3), matrix(BY_HAND[kind]))


@pytest.mark.parametrize("kind", TALL_BY_HAND)
def test_a_tall_grid_by_hand(kind):
    """3×2: height and width are not mixed up."""
    assert torch.equal(image_mask(kind, 3, 2, 3), matrix(TALL_BY_HAND[kind]))


def test_a_convolution_by_hand_where_it_is_smaller_than_the_grid():
    """4×5, kernel 3: the query at row 2, column 2 sees three keys above, one to the left, itself."""
    seen = image_mask("convolution", 4, 5, 3)[12].nonzero().flatten().tolist()
    assert seen == [6, 7, 8, 11, 12]


def test_the_farthest_key_of_a_row_mask_stands_right_above():
    """The paper's figure 11: a raster window over the row's end, not the own row."""
    seen = image_mask("row", 4, 5, 3)[12].nonzero().flatten().tolist()
    assert seen == [7, 8, 9, 10, 11, 12]


def test_the_stream_by_hand():
    """Prefix of 2, grid 1×2: the prefix is causal and sees no image; the image sees all of it."""
    assert torch.equal(stream_mask("row", 2, 1, 2, 3), matrix("x... xx.. xxx. xxxx"))
    assert torch.equal(stream_mask("column", 2, 1, 2, 3), matrix("x... xx.. xxx. xx.x"))


@given(st.sampled_from(KINDS), sides, sides, kernels)
def test_image_masks_follow_the_rules(kind, h, w, kernel):
    """Vectorised and looped forms agree on every grid."""
    assert torch.equal(image_mask(kind, h, w, kernel), image_matrix(kind, h, w, kernel))


@given(st.sampled_from(KINDS), st.integers(1, 5), sides, sides, kernels)
def test_stream_masks_follow_the_rules(kind, prefix, h, w, kernel):
    """The four quarters of the stream's mask are where they belong."""
    expected = stream_matrix(kind, prefix, h, w, kernel)
    assert torch.equal(stream_mask(kind, prefix, h, w, kernel), expected)


@given(st.sampled_from(KINDS), st.integers(1, 5), sides, sides, kernels)
def test_no_mask_leaks_and_no_row_is_empty(kind, prefix, h, w, kernel):
    """Nothing above the diagonal, and everything on it."""
    mask = stream_mask(kind, prefix, h, w, kernel)
    assert not mask.triu(1).any()
    assert mask.diagonal().all()
    assert mask.dtype == torch.bool


@given(st.sampled_from(KINDS), st.integers(1, 5), sides, sides, kernels)
def test_visible_keys_are_the_rows_of_the_mask(kind, prefix, h, w, kernel):
    """What decoding fetches of the image for each position is what the mask allows, each key once."""
    mask = image_matrix(kind, h, w, kernel)
    stream = torch.arange(prefix + h * w)
    for row, where in zip(mask, visible_keys(kind, prefix, h, w, kernel), strict=True):
        assert stream[where].tolist() == (prefix + row.nonzero().flatten()).tolist()


@given(sides, sides, kernels)
def test_every_kind_is_part_of_full(h, w, kernel):
    """Sparse masks only take away."""
    full = image_mask("full", h, w, kernel)
    assert torch.equal(full, causal_mask(h * w))
    assert all((image_mask(kind, h, w, kernel) <= full).all() for kind in KINDS)


@given(st.integers(1, 200))
def test_the_schedule_of_layers_is_the_papers_formula(L):
    """Last layer convolutional; layer i is column where (i − 2) mod 4 = 0, else row."""
    kinds = layer_schedule(L)
    assert len(kinds) == L
    for i, kind in enumerate(kinds, start=1):
        expected = "row"
        if i in range(2, 2 * L, 4):
            expected = "column"
        if i == L:
            expected = "convolution"
        assert kind == expected


def test_the_schedule_of_seven_layers_in_words():
    """Row, column, row, row, row, column, convolution."""
    letters = "".join(kind[:3] + " " for kind in layer_schedule(7))
    assert letters == "row col row row row col con "


@pytest.mark.parametrize("kernel", [0, 2, 4, -1])
def test_an_even_kernel_is_an_error(kernel):
    """It would have no middle; the message names it."""
    with pytest.raises(ValueError, match=str(kernel)):
        image_mask("convolution", 3, 3, kernel)


def test_a_grid_that_is_none_is_an_error():
    """Before anything of its size is made."""
    with pytest.raises(ValueError, match="h must be at least 1, not -1"):
        image_mask("row", -1, 3, 3)
    with pytest.raises(ValueError, match="prefix must be at least 1, not 0"):
        stream_blocks("row", 0, 2, 2, 3)
    with pytest.raises(ValueError, match=r"w must be a whole number, not 2\.5"):
        image_mask("row", 3, 2.5, 3)


def test_an_unknown_kind_is_an_error_that_lists_the_known():
    """The message helps."""
    with pytest.raises(ValueError, match="diagonal.*row, column, convolution"):
        image_mask("diagonal", 3, 3, 3)


def test_all_kinds_are_tested_here():
    """A new kind of layer needs a rule in checks.py."""
    assert set(RULES) == set(KINDS)
