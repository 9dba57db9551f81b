"""CLIP: the contrastive loss, both towers, and the choice among candidates."""

import math

import numpy as np
import pytest
import torch
from builders import tiny_clip
from hypothesis import given
from hypothesis import strategies as st

from minidalle.clip import (
    CLIP,
    LARGEST_SCALE,
    CLIPConfig,
    best_of,
    contrast,
    initialise,
    same_rows,
)
from minidalle.presets import preset
from minidalle.stages import clip_optimizer


def unit(*shape: int) -> torch.Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def words(model: CLIP, *lengths: int) -> torch.Tensor:
    """Random captions of some lengths, padded by position."""
    c = model.config
    rows = [[*torch.randint(c.V, (n,)).tolist(), *range(c.V + n, c.V + c.T)] for n in lengths]
    return torch.tensor(rows)


def pictures(model: CLIP, B: int) -> torch.Tensor:
    """Random pictures."""
    return torch.rand(B, 3, model.config.size, model.config.size)


# ------------------------------------------------------------------------------------------- the loss


def reference(images: np.ndarray, texts: np.ndarray, scale: float, captions: list) -> float:
    """The loss by its definition, pair by pair: for every picture −ln of its caption's share among the
    captions that are its own or other ones, for every caption the same among pictures."""
    B, total = len(images), 0.0
    for k in range(B):
        rivals = [j for j in range(B) if j == k or captions[j] != captions[k]]
        for one, others in ((images, texts), (texts, images)):
            e = [math.exp(scale * float(one[k] @ others[j])) for j in rivals]
            total -= math.log(e[rivals.index(k)] / sum(e)) / (2 * B)
    return total


@given(
    st.integers(1, 7),
    st.floats(0.1, 30),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 2), min_size=7),
)
def test_the_loss_is_its_definition(B, scale, seed, captions):
    """Both directions, with and without equal captions in the batch."""
    torch.manual_seed(seed)
    images, texts, captions = unit(B, 5).double(), unit(B, 5).double(), captions[:B]
    factor = torch.tensor(scale, dtype=torch.float64)
    same = torch.tensor([[a == b for a in captions] for b in captions])
    found = contrast(images, texts, factor, same).loss
    expected = reference(images.numpy(), texts.numpy(), scale, captions)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    plain = contrast(images, texts, factor).loss
    expected = reference(images.numpy(), texts.numpy(), scale, list(range(B)))
    assert float(plain) == pytest.approx(expected, rel=1e-9)


def test_a_perfectly_aligned_batch_finds_everything():
    """Orthogonal pairs: all found, and the loss is what the scale allows; swapped pairs: none found."""
    x, scale = torch.eye(6), torch.tensor(30.0)
    right, wrong = contrast(x, x, scale), contrast(x, x.roll(1, 0), scale)
    assert right.captions_found == right.pictures_found == 1 and right.loss < 1e-6
    assert wrong.captions_found == wrong.pictures_found == 0 and wrong.loss > 29


def test_the_two_shares_are_two_directions():
    """Both pictures find their caption, but only the second caption its picture; and the other way round."""
    similarities, one = torch.tensor([[2.0, 1.0], [3.0, 4.0]]), torch.tensor(1.0)
    found = contrast(similarities, torch.eye(2), one)
    assert (found.captions_found, found.pictures_found) == (1, 0.5)
    found = contrast(torch.eye(2), similarities, one)
    assert (found.captions_found, found.pictures_found) == (0.5, 1)


def test_equal_captions_are_no_negatives():
    """What the similarity of a picture and another one's equal caption is does not matter; all others do."""
    images, texts, scale = unit(3, 8), unit(3, 8).requires_grad_(), torch.tensor(10.0)
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    loss = contrast(images, texts, scale, same).loss
    # A step of caption 0 along picture 1 alone, orthogonal to the others, changes only their similarity.
    basis = torch.linalg.qr(images[[0, 2, 1]].T).Q.T
    along = basis[2]
    assert abs(along @ images[1]) > 0.1
    assert abs(torch.autograd.grad(loss, texts)[0][0] @ along) < 1e-5
    plain = contrast(images, texts, scale).loss
    assert abs(torch.autograd.grad(plain, texts)[0][0] @ along) > 1e-3
    everything = torch.ones(3, 3, dtype=torch.bool)
    assert contrast(images, texts, scale, everything).loss == 0


def test_the_model_knows_which_captions_are_equal():
    """`CLIP.loss` hands them on: a batch of one caption has nothing to tell apart."""
    model = tiny_clip()
    text = words(model, 4, 2)
    assert same_rows(text[[0, 1, 0]]).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert model.loss(pictures(model, 3), text[[0, 0, 0]]).loss == 0
    assert model.loss(pictures(model, 3), text[[0, 1, 0]]).loss > 0


def test_the_loss_trains_every_parameter():
    """Both towers and the temperature."""
    model = tiny_clip()
    model.loss(pictures(model, 4), words(model, 3, 1, 4, 2)).loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_a_batch_is_learned_by_heart():
    """Eight pairs are told apart after a few steps; the trained temperature is another."""
    model, t = tiny_clip().train(), preset("ci").clip_training
    x, text = pictures(model, 8), words(model, *[4] * 8)
    optimizer = clip_optimizer(t, model)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(x, text).loss.backward()
        optimizer.step()
    found = model.loss(x, text)
    assert found.captions_found == found.pictures_found == 1 and found.loss < 0.5
    assert not math.isclose(float(model.scale.detach()), 1 / 0.07, rel_tol=1e-3)


# ------------------------------------------------------------------------------------------- the towers


def test_features_are_unit_vectors():
    """Whatever the weights are."""
    model = tiny_clip()
    for features in (
        model.image_features(pictures(model, 3)),
        model.text_features(words(model, 1, 4, 2)),
    ):
        assert features.shape == (3, model.config.E) and features.dtype == torch.float32
        assert torch.allclose(features.norm(dim=1), torch.ones(3), atol=1e-6)


def test_padding_does_not_change_a_caption():
    """Other padding ids, and a model with room for more of them: the same features."""
    model = tiny_clip(T=6)
    c, text = model.config, words(model, 3)
    other = text.clone()
    other[0, 3:] = torch.tensor([c.V, c.V + 5, c.V + 1])
    assert torch.equal(model.text_features(text), model.text_features(other))
    small = tiny_clip(T=3)
    state = model.state_dict()
    state["text_position.weight"] = state["text_position.weight"][:3]
    small.load_state_dict(state)
    assert torch.allclose(model.text_features(text), small.text_features(text[:, :3]), atol=1e-6)


def test_every_word_and_their_order_matter():
    """Also a last word to the first ones: the tower looks both ways. Every pixel matters, too."""
    model = tiny_clip()
    text = words(model, 4)
    before = model.text_features(text)
    for k in range(4):
        other = text.clone()
        other[0, k] = (other[0, k] + 1) % model.config.V
        assert not torch.allclose(model.text_features(other), before, atol=1e-4), k
    assert not torch.allclose(model.text_features(text[:, [1, 0, 2, 3]]), before, atol=1e-4)
    x = pictures(model, 1).requires_grad_()
    model.image_features(x)[0, 0].backward()
    assert (x.grad != 0).all()


def test_a_row_does_not_depend_on_its_batch():
    """Alone or among others, up to rounding."""
    model = tiny_clip()
    x, text = pictures(model, 5), words(model, 1, 4, 2, 3, 4)
    images, captions = model.image_features(x), model.text_features(text)
    for k in range(5):
        assert torch.allclose(model.image_features(x[k : k + 1])[0], images[k], atol=1e-5)
        assert torch.allclose(model.text_features(text[k : k + 1])[0], captions[k], atol=1e-5)
    assert torch.allclose(model.similarity(x, text[:2]), images @ captions[:2].T, atol=1e-6)


def test_the_temperature_begins_as_in_clip_and_is_clipped():
    """1 / 0.07; never above 100, and the gradient still leads back from there."""
    model = CLIP(CLIPConfig(8, 20, 4, 16, 2, 1, 8, 4, 1))
    assert float(model.scale.detach()) == pytest.approx(1 / 0.07, rel=1e-6)
    for beyond in (math.log(LARGEST_SCALE) + 1e-3, 7.0, 50.0):
        torch.nn.init.constant_(model.log_scale, beyond)
        model.log_scale.grad = None
        assert float(model.scale.detach()) == pytest.approx(100, rel=1e-4)
        model.scale.backward()
        assert float(model.log_scale.grad) == pytest.approx(100, rel=1e-4)


def test_initial_weights_have_their_spreads():
    """Spreads of matrices, embeddings and the branches' last layers; no bias, no gain."""
    model = CLIP(CLIPConfig())
    initialise(model)
    D, L = model.config.D, model.config.L
    layer = model.text_tower.layers[0]
    for weight, std in (
        (layer.attention.qkv.weight, D**-0.5),
        (layer.attention.out.weight, (2 * L * D) ** -0.5),
        (layer.mlp[2].weight, (2 * L * 4 * D) ** -0.5),
        (model.stem[3].weight, (9 * model.config.width) ** -0.5),
        (model.text_embedding.weight, D**-0.5),
        (model.image_position.weight, D**-0.5),
    ):
        assert float(weight.std()) == pytest.approx(std, rel=0.05)
    for name, p in model.named_parameters():
        assert p.ndim > 1 or set(p.unique().tolist()) <= {0.0, 1.0} or name == "log_scale", name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"D": 10, "H": 4}, "10 does not divide into 4"),
        ({"halvings": 4}, "8 pixels.*4 times"),
        ({"size": 12, "halvings": 3}, "12 pixels.*3 times"),
        ({"halvings": 10**9}, "8 pixels.*1000000000 times"),
        ({"E": 0}, "E must be at least 1, not 0"),
    ],
)
def test_sizes_that_contradict_each_other_are_errors(change, words):
    """Before any weight is made."""
    with pytest.raises(ValueError, match=words):
        CLIPConfig(**{"size": 8, "D": 16, "halvings": 1, **change})


def test_wrong_inputs_are_errors():
    """Shapes, types, ids, empty captions, unequal numbers: the sentence has what was given and expected."""
    model = tiny_clip()
    x, text = pictures(model, 2), words(model, 2, 3)
    V, T = model.config.V, model.config.T
    for wrong, words_ in (
        (x[:, :, :7], r"8, 8\).*\(2, 3, 7, 8\)"),
        (x[0], r"\(3, 8, 8\)"),
        ((x * 255).byte(), "uint8"),
        (x * 255, r"in \[0, 1\]; these go from"),
    ):
        with pytest.raises(ValueError, match=words_):
            model.image_features(wrong)
    for wrong, words_ in (
        (text[:, :3], r"\(B, 4\).*\(2, 3\)"),
        (text.int(), "int32"),
        (text + V + T, f"0 … {V + T - 1}"),
        (text - V, "0 …"),
        (torch.tensor([[V, V + 1, V + 2, V + 3]]), "empty"),
    ):
        with pytest.raises(ValueError, match=words_):
            model.text_features(wrong)
    with pytest.raises(ValueError, match="1 captions but 2 pictures"):
        model.loss(x, text[:1])


@pytest.mark.parametrize("name", ["ci", "tiny"])
def test_presets_have_a_small_clip(name):
    """It reads what DALL·E reads and sees what the dVAE makes, with at most 0.8 million parameters."""
    p = preset(name)
    assert (p.clip.V, p.clip.T, p.clip.size) == (p.dalle.V, p.dalle.T, p.dvae.size)
    with torch.device("meta"):
        assert sum(w.numel() for w in CLIP(p.clip).parameters()) <= 800_000


# ------------------------------------------------------------------------------------------- the choice


def test_the_best_come_first():
    """By score, equal ones in their order; each caption among its own candidates."""
    scores = torch.tensor([[0.1, 0.9, 0.9, -1.0], [4.0, 3.0, 2.0, 5.0]])
    assert best_of(scores, 1).tolist() == [[1], [3]]
    assert best_of(scores, 3).tolist() == [[1, 2, 0], [3, 0, 1]]
    assert best_of(scores, 4).sort(1).values.tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(("shape", "k"), [((2, 4), 5), ((2, 4), 0), ((4,), 1), ((2, 0), 1)])
def test_more_than_there_are_cannot_be_kept(shape, k):
    """Nor fewer than one."""
    with pytest.raises(ValueError, match=f"cannot keep {k}"):
        best_of(torch.zeros(shape), k)
