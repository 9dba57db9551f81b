"""The single stream: what predicts what, what counts in the loss, how large the paper's model is."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import shake, tiny_dalle, tiny_dvae, tiny_tokens
from checks import (
    assert_causal,
    assert_encodes_the_same_twice,
    assert_frozen,
    assert_own_heads,
    assert_refuses_ids,
    assert_same_logits_with_cache,
    assert_untouched,
    stream_logits,
)

from minidalle.dalle import DALLE, DALLEConfig


def test_the_papers_model_has_about_twelve_billion_parameters():
    """Counted on the meta device, where nothing is stored: 12 layers' worth of 12 D² each, and more."""
    with torch.device("meta"):
        model = DALLE(DALLEConfig())
    parameters = sum(p.numel() for p in model.parameters())
    assert 11.8e9 < parameters < 12.6e9
    layers = sum(p.numel() for p in model.transformer.layers.parameters())
    D = 3968
    assert layers == 64 * (12 * D * D + 13 * D)


def test_first_losses_are_those_of_a_guess():
    """A fresh model knows nothing: ln V for text, ln K for the image, up to 0.1."""
    model = DALLE(DALLEConfig(V=300, T=8, K=50, h=3, w=4, D=64, H=4, L=4, kernel=3))
    loss = model.loss(*tiny_tokens(model, 8))
    assert loss.text_per_token.item() == pytest.approx(math.log(300), abs=0.1)
    assert loss.image_per_token.item() == pytest.approx(math.log(50), abs=0.1)


def test_the_loss_is_an_eighth_text_and_seven_eighths_image():
    """Paper, §2.2."""
    model = tiny_dalle()
    loss = model.loss(*tiny_tokens(model))
    torch.testing.assert_close(loss.loss, loss.text_per_token / 8 + 7 * loss.image_per_token / 8)


def test_each_part_is_divided_by_its_own_number_of_targets():
    """A loop over all targets gives the two means, padding left out."""
    model = tiny_dalle()
    text, image = tiny_tokens(model, 3)
    text[0, 2:] = model.config.V + torch.tensor([2, 3])
    text_logits, image_logits = model(text, image)
    of_text, of_image = [], []
    for b in range(3):
        for k in range(4):
            if text[b, k] < model.config.V:
                of_text.append(-text_logits[b, k].log_softmax(0)[text[b, k]])
        for k in range(6):
            of_image.append(-image_logits[b, k].log_softmax(0)[image[b, k]])
    loss = model.loss(text, image)
    assert len(of_text) == 2 + 3 + 3
    torch.testing.assert_close(loss.text_per_token, torch.stack(of_text).mean())
    torch.testing.assert_close(loss.image_per_token, torch.stack(of_image).mean())


def test_no_captions_at_all_have_no_text_loss():
    """Nothing but padding: the picture alone is learned, and no gradient is NaN."""
    model = tiny_dalle()
    _, image = tiny_tokens(model)
    loss = model.loss(model.empty_text(len(image)), image)
    loss.loss.backward()
    assert loss.text_per_token == 0 and loss.image_per_token > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_loss_does_not_depend_on_the_size_of_the_batch():
    """A doubled batch has the same loss."""
    model = tiny_dalle()
    text, image = tiny_tokens(model)
    once, twice = model.loss(text, image), model.loss(text.repeat(2, 1), image.repeat(2, 1))
    torch.testing.assert_close(tuple(once), tuple(twice))


def test_padding_is_no_target():
    """The logits that would predict padding get no gradient; those before it do."""
    model = tiny_dalle()
    text, image = tiny_tokens(model, 1)
    text[0, 2:] = model.config.V + torch.tensor([2, 3])
    reached = {}
    model.text_head.register_full_backward_hook(
        lambda module, grad_in, grad_out: reached.update(text=grad_out[0])
    )
    model.loss(text, image).loss.backward()
    assert reached["text"][0, :2].abs().amax(-1).gt(0).all()
    assert not reached["text"][0, 2:].any()


def test_padding_is_attended_to():
    """Each position has a padding token of its own, and the image sees it."""
    model = tiny_dalle()
    text, image = tiny_tokens(model, 1)
    _, before = model(text, image)
    with torch.no_grad():
        model.text_embedding.weight[model.config.V + 3, 0] += 1.0
    _, after = model(text, image)
    assert not torch.allclose(before, after)
    with torch.no_grad():
        model.text_embedding.weight[model.config.V + 2, 0] += 1.0  # not in this caption
    torch.testing.assert_close(model(text, image)[1], after)


def test_every_position_reaches_its_own_head_only():
    """The first image token is trained under the image head, the last text token under the text head."""
    model = tiny_dalle()
    text_logits, image_logits = model(*tiny_tokens(model, 1))
    assert text_logits.shape == (1, 4, 20) and image_logits.shape == (1, 6, 11)
    assert_own_heads(model, *tiny_tokens(model, 1))


def test_padding_can_be_a_target():
    """As one more class of the text head: its loss counts every position, by a loop too."""
    model = shake(DALLE(DALLEConfig(20, 4, 11, 2, 3, 16, 2, 2, 3, padding_targets=True)))
    text, image = tiny_tokens(model)
    logits = model(text, image)[0]
    assert logits.shape == (2, 4, 21)
    terms = [
        -logits[b, k].log_softmax(0)[min(int(text[b, k]), 20)] for b in range(2) for k in range(4)
    ]
    torch.testing.assert_close(model.loss(text, image).text_per_token, torch.stack(terms).mean())
    assert_own_heads(model, text, image)


def test_the_image_loss_leaves_the_text_head_alone():
    """And the text loss leaves the image head and the image's embeddings alone."""
    model = tiny_dalle()
    loss = model.loss(*tiny_tokens(model))
    heads = (model.text_head.weight, model.image_head.weight, model.image_embedding.weight)
    of_image = torch.autograd.grad(
        loss.image_per_token, heads, retain_graph=True, allow_unused=True
    )
    of_text = torch.autograd.grad(loss.text_per_token, heads, allow_unused=True)
    assert of_image[0] is None and of_image[1].any() and of_image[2].any()
    assert of_text[0].any() and of_text[1] is None
    assert of_text[2] is None or not of_text[2].any()


@pytest.mark.parametrize("grid", [(2, 3), (3, 2)])
@pytest.mark.parametrize("L", [1, 2, 5])
def test_no_token_moves_the_logits_before_it(L, grid):
    """Perturbing token t leaves every logit that predicts tokens ≤ t unchanged, text and image."""
    model = tiny_dalle(h=grid[0], w=grid[1], L=L)
    text, image = tiny_tokens(model, 1)
    text = text.clamp_max(model.config.V - 1)
    sizes = [model.config.V] * 4 + [model.config.K] * 6
    assert_causal(stream_logits(model), torch.cat([text, image], 1)[0], sizes)


@pytest.mark.parametrize("known", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("B", [1, 3])
def test_cached_logits_equal_uncached_with_a_prefix_of_the_picture(B, known):
    """begin and step give forward's logits, however many image tokens are given at once."""
    model = tiny_dalle(L=5)
    assert_same_logits_with_cache(model, *tiny_tokens(model, B), known)


def test_rows_and_columns_of_the_grid_have_their_own_embeddings():
    """On a grid of 2×3, raster position 4 stands in row 1 and column 1."""
    model = tiny_dalle()
    ids = torch.zeros(1, 6, dtype=torch.int64)
    expected = (
        model.image_embedding.weight[0]
        + model.row_position.weight[1]
        + model.column_position.weight[1]
    )
    torch.testing.assert_close(model.embed_image(ids)[0, 4], expected)
    torch.testing.assert_close(model.embed_image(ids[:, :1], first=4)[0, 0], expected)


def test_the_stream_begins_with_start_of_text_and_ends_its_prefix_with_start_of_image():
    """[start-of-text, t₁ … t_T, start-of-image]."""
    model = tiny_dalle()
    text, _ = tiny_tokens(model, 2)
    prefix = model.embed_prefix(text)
    assert prefix.shape == (2, 6, 16)
    assert torch.equal(prefix[1, 0], model.start[0]) and torch.equal(prefix[0, -1], model.start[1])
    token = model.text_embedding.weight[text[1, 2]] + model.text_position.weight[2]
    assert torch.equal(prefix[1, 3], token)


def test_inputs_are_left_alone():
    """Padding is taken out of the targets, not out of the caller's tensor."""
    model = tiny_dalle()
    text, image = tiny_tokens(model)
    assert_untouched(lambda: model.loss(text, image).loss.backward(), text, image)
    assert_untouched(lambda: model.step(image[:, :2], model.begin(text)[1]), text, image)


@pytest.mark.parametrize("call", ["forward", "loss"])
def test_ids_out_of_range_are_errors_before_any_kernel(call):
    """The message has the range and what was found."""
    model = tiny_dalle()
    text, image = tiny_tokens(model)
    read = getattr(model, call)
    assert_refuses_ids(lambda ids: read(ids, image), text, 24)
    assert_refuses_ids(lambda ids: read(text, ids), image, 11)


def test_nothing_to_learn_from_or_to_append_is_an_error():
    """A mean over no examples would be NaN."""
    model = tiny_dalle()
    text, image = tiny_tokens(model)
    with pytest.raises(ValueError, match="no examples"):
        model.loss(text[:0], image[:0])
    with pytest.raises(ValueError, match="no image tokens"):
        model.step(image[:, :0], model.begin(text)[1])
    with pytest.raises(ValueError, match=r"D must be a whole number, not 16\.0"):
        tiny_dalle(D=16.0)


@pytest.mark.parametrize(
    ("text", "image", "words"),
    [
        (torch.zeros(2, 5).long(), torch.zeros(2, 6).long(), r"text.*\(B, 4\).*\(2, 5\)"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 2, 3).long(), r"image.*\(B, 6\).*\(2, 2, 3\)"),
        (torch.zeros(2, 4), torch.zeros(2, 6).long(), "text.*int64.*float32"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 6).int(), "image.*int64.*int32"),
        (torch.zeros(2, 4).long(), torch.zeros(3, 6).long(), "2 captions but 3 pictures"),
    ],
)
def test_wrong_shapes_and_types_are_errors(text, image, words):
    """The message has both shapes, or both types, or both numbers."""
    with pytest.raises(ValueError, match=words):
        tiny_dalle().loss(text, image)


def test_begin_checks_its_captions():
    """Sampling's door is as strict as training's."""
    with pytest.raises(ValueError, match="24"):
        tiny_dalle().begin(torch.full((1, 4), 24))


def test_step_checks_its_tokens():
    """An id out of range is an error here too, not an assertion on the device."""
    model = tiny_dalle()
    _, cache = model.begin(torch.zeros(1, 4).long())
    with pytest.raises(ValueError, match="0 … 10.*11"):
        model.step(torch.tensor([[11]]), cache)


def test_a_picture_takes_no_more_tokens_than_it_has():
    """N + 1 tokens: both numbers in the message."""
    model = tiny_dalle()
    _, cache = model.begin(torch.zeros(1, 4).long())
    with pytest.raises(ValueError, match="7.*6"):
        model.step(torch.zeros(1, 7).long(), cache)


def test_a_step_of_stage_two_leaves_the_dvae_alone():
    """Encode, learn, decay: every bit of the dVAE stays, and it encodes the same again."""
    dvae = tiny_dvae()
    model = tiny_dalle(K=11, h=2, w=2)
    pictures = torch.rand(2, 3, 8, 8)
    text, _ = tiny_tokens(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    first = dvae.encode(pictures)

    def step() -> None:
        model.loss(text, dvae.encode(pictures)).loss.backward()
        optimizer.step()

    assert_frozen(dvae, step)
    assert_encodes_the_same_twice(dvae.encode, pictures)
    assert all(p.grad is None for p in dvae.parameters())
    assert torch.equal(dvae.encode(pictures), first)


def test_a_few_steps_learn_one_pair_by_heart():
    """The loss can fall to almost nothing: all parts are connected."""
    model = DALLE(DALLEConfig(V=20, T=4, K=11, h=2, w=3, D=32, H=2, L=2, kernel=3))
    text, image = tiny_tokens(model, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(text, image).loss.backward()
        optimizer.step()
    assert model.loss(text, image).loss < 0.05
    assert torch.equal(model(text, image)[1].argmax(-1), image)


def test_cross_entropy_is_computed_in_32_bit():
    """From logits in 16 bit, too, where the paper keeps even those in 32."""
    model = tiny_dalle().bfloat16()
    tokens = tiny_tokens(model)
    logits = model(*tokens)[1].flatten(0, 1)
    assert logits.dtype == torch.bfloat16
    loss = model.loss(*tokens)
    assert all(part.dtype == torch.float32 for part in loss)
    expected = F.cross_entropy(logits.float(), tokens[1].flatten())
    torch.testing.assert_close(loss.image_per_token, expected)


ENDS = ("attention.out", "mlp.2")  # of the two branches


def test_branches_start_small_enough_to_add_up_to_one():
    """Last layers of the 2L branches have std 0.02 / √(2L), all other weights 0.02, biases 0."""
    model = DALLE(DALLEConfig(V=300, T=8, K=50, h=3, w=4, D=64, H=4, L=8, kernel=3))
    last = {f"transformer.layers.{n}.{end}.weight" for n in range(8) for end in ENDS}
    for name, p in model.named_parameters():
        if p.ndim == 1:
            constant = 1.0 if name.endswith("norm.weight") else 0.0
            assert (p == constant).all(), name
        else:
            spread = 5 / (2 * p.numel()) ** 0.5  # five standard errors
            expected = 0.02 / 4 if name in last else 0.02
            assert p.std().item() == pytest.approx(expected, rel=spread), name
            assert abs(p.mean().item()) < 5 * expected / p.numel() ** 0.5, name
    assert last <= {name for name, _ in model.named_parameters()}


def test_checkpointing_is_the_transformers():
    """The option reaches it, and the loss's gradients stay the same bit for bit."""
    plain = tiny_dalle()
    thrifty = DALLE(plain.config, checkpointing=True)
    thrifty.load_state_dict(plain.state_dict())
    assert thrifty.transformer.checkpointing and not plain.transformer.checkpointing
    tokens = tiny_tokens(plain)
    for model in (plain, thrifty):
        model.loss(*tokens).loss.backward()
    for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
