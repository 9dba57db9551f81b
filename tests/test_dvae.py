"""The discrete VAE: its parts against formulas and torch's own, its doors, its first weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import shake, tiny_dvae
from checks import (
    assert_encodes_the_same_twice,
    assert_kl_is_per_token,
    assert_pictures,
    assert_relaxes_the_categorical,
    assert_stays_finite,
    assert_untouched,
    assert_warns_of_collapse,
)
from hypothesis import given
from hypothesis import strategies as st

from minidalle.dvae import (
    DVAE,
    SIGMA,
    DVAEConfig,
    code_usage,
    collapse,
    gaussian_nll,
    gumbel_softmax,
    kl_to_uniform,
    logit_laplace_nll,
    map_pixels,
    psnr,
    unmap_pixels,
)

# ------------------------------------------------------------------------------------ architecture


def test_the_papers_encoder_and_decoder_have_the_official_number_of_parameters():
    """Counted on the meta device against the published files: 53,786,240 and 43,829,766."""
    with torch.device("meta"):
        model = DVAE(DVAEConfig())
    assert sum(p.numel() for p in model.encoder.parameters()) == 53_786_240
    assert sum(p.numel() for p in model.decoder.parameters()) == 43_829_766


def test_the_papers_sizes():
    """256×256 pixels, 32×32 tokens, a factor of 8 a side, a context 192 times shorter."""
    c = DVAEConfig()
    assert (c.grid, c.factor, c.maps) == (32, 8, 6)
    assert 3 * c.size**2 // c.grid**2 == 192


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, 2),
        ({"patch": 1}, 4),
        ({"groups": 1, "patch": 1}, 8),
        ({"groups": 3, "size": 16}, 2),
        ({"blocks": 2, "input_kernel": 7}, 2),
        ({"likelihood": "gaussian", "logit_norm": True}, 2),
        ({"size": 24, "patch": 4}, 3),
    ],
    ids=str,
)
def test_shapes(changes, grid):
    """Pictures (B, 3, S, S) → logits (B, K, h, w) → tokens (B, h·w) → pictures of the same size."""
    model = tiny_dvae(**changes)
    size = model.config.size
    assert model.config.grid == grid
    x = torch.rand(2, 3, size, size)
    assert model.logits(x).shape == (2, 11, grid, grid)
    tokens = model.encode(x)
    assert tokens.shape == (2, grid**2) and tokens.dtype == torch.int64
    assert model.decode(tokens).shape == x.shape
    z = torch.rand(2, 11, grid, grid)
    assert model.decoder(z).shape == (2, model.config.maps, size, size)


def test_the_residual_gain_is_one_over_the_square_of_the_layers():
    """4 groups of 2 blocks: 1/64."""
    with torch.device("meta"):
        model = DVAE(DVAEConfig())
    gains = {m.gain for m in model.modules() if hasattr(m, "gain")}
    assert gains == {1 / 64}


def test_first_weights_are_scaled_by_their_fan_in():
    """Standard deviation 1/√(n_in·k²), biases 0: the official code's rule."""
    model = tiny_dvae(width=64, K=64, decoder_input=64)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            n = module.weight.numel()
            std = 1 / math.sqrt(module.in_channels * math.prod(module.kernel_size))
            assert module.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n))
            assert abs(module.weight.mean().item()) < 5 * std / math.sqrt(n)
            assert not module.bias.any()


def test_the_codebook_is_the_decoders_first_convolution():
    """A one-hot picks one column of it: there is no other table."""
    first = tiny_dvae().decoder.layers[0]
    tokens = torch.tensor([[3, 1, 10, 3]])
    z = F.one_hot(tokens, 11).float().transpose(1, 2).view(1, 11, 2, 2)
    expected = first.weight[:, tokens[0], 0, 0].view(1, 8, 2, 2) + first.bias.view(1, 8, 1, 1)
    torch.testing.assert_close(first(z), expected)


# -------------------------------------------------------------------------------- encode and decode


def test_encoding_is_not_random():
    """The same picture gives the same tokens, in training mode too, alone or in a batch."""
    model, x = shake(tiny_dvae(logit_norm=True), 2.0).train(), torch.rand(5, 3, 8, 8)
    torch.nn.init.zeros_(model.encoder.layers[-1].bias)
    tokens = model.encode(x)
    assert len(tokens.unique()) > 1
    assert_encodes_the_same_twice(model.encode, x)
    assert torch.equal(model.encode(x), tokens)
    assert torch.equal(model.eval().encode(x), tokens)
    assert torch.equal(torch.cat([model.encode(each[None]) for each in x]), tokens)


def test_tokens_are_the_argmax_in_raster_order():
    """Cell (row, column) becomes token row·w + column."""
    model = tiny_dvae(patch=1)
    logits = torch.randn(1, 11, 4, 4)
    model.encoder.forward = lambda x: logits
    expected = [int(logits[0, :, row, col].argmax()) for row in range(4) for col in range(4)]
    assert model.encode(torch.rand(1, 3, 8, 8))[0].tolist() == expected


def test_the_encoder_sees_mapped_pixels():
    """[0.1, 0.9], as in the official code; the caller gives [0, 1]."""
    model, x = tiny_dvae(), torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(model.logits(x), model.encoder(0.8 * x + 0.1))


def test_decode_puts_tokens_back_in_raster_order():
    """A token at (row, column) changes the picture around that cell, not around its mirror image."""
    model = tiny_dvae(groups=1, patch=4, blocks=1, input_kernel=1)
    for p in model.decoder.parameters():
        torch.nn.init.normal_(p, std=1.0)
    one = torch.zeros(1, 4, dtype=torch.int64)
    other = one.clone()
    other[0, 1] = 5  # row 0, column 1
    changed = (model.decode(one) - model.decode(other)).abs().amax(1)[0]
    right, below = changed[:4, 4:].mean(), changed[4:, :4].mean()
    assert right > below


@given(st.lists(st.integers(0, 10), min_size=4, max_size=4))
def test_decoded_pictures_lie_between_0_and_1(tokens):
    """The range contract, with weights that would like to leave it."""
    model = tiny_dvae()
    with torch.no_grad():
        model.decoder.layers[-2].weight.mul_(100)
    x = model.decode(torch.tensor([tokens]))
    assert_pictures(x, 1, 8)


def test_hard_decoding_is_soft_decoding_of_a_one_hot():
    """`decode` and `decode_soft` agree."""
    model, tokens = tiny_dvae(), torch.tensor([[0, 3, 10, 5]])
    z = F.one_hot(tokens, 11).float().transpose(1, 2).view(1, 11, 2, 2)
    torch.testing.assert_close(model.decode(tokens), model.decode_soft(z))


def test_arguments_are_left_alone():
    """Pictures and tokens are read, not written."""
    model, x, tokens = tiny_dvae(), torch.rand(2, 3, 8, 8), torch.randint(11, (2, 4))
    assert_untouched(lambda: (model.elb(x, 1.0, 6.6, 0.5), model.encode(x)), x)
    assert_untouched(lambda: model.decode(tokens), tokens)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.rand(2, 3, 9, 8), r"\(B, 3, 8, 8\).*\(2, 3, 9, 8\)"),
        (torch.rand(3, 8, 8), r"\(B, 3, 8, 8\).*\(3, 8, 8\)"),
        (torch.rand(2, 8, 8, 3), r"\(B, 3, 8, 8\).*\(2, 8, 8, 3\)"),
        (torch.rand(2, 1, 8, 8), r"\(B, 3, 8, 8\).*\(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8.*255"),
        (torch.full((2, 3, 8, 8), 255.0), r"in \[0, 1\].*255 to 255"),
        (torch.full((2, 3, 8, 8), -0.5), r"in \[0, 1\].*-0.5 to -0.5"),
        (torch.full((2, 3, 8, 8), torch.nan), r"in \[0, 1\].*nan"),
        (torch.rand(0, 3, 8, 8), "no pictures"),
        (torch.rand(2, 3, 8, 8).double(), "must be torch.float32.*not torch.float64"),
        (torch.rand(2, 3, 8, 8).half(), "must be torch.float32.*not torch.float16"),
    ],
)
def test_wrong_pictures_are_errors(x, words):
    """The message has both shapes, or the type and what to do."""
    for call in (tiny_dvae().encode, lambda x: tiny_dvae().elb(x, 1.0, 1.0)):
        with pytest.raises(ValueError, match=words):
            call(x)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.zeros(2, 5).long(), r"\(B, 4\).*\(2, 5\)"),
        (torch.zeros(2, 2, 2).long(), r"\(B, 4\).*\(2, 2, 2\)"),
        (torch.tensor([[0, 1, 2, 11]]), "0 … 10.*0 to 11"),
        (torch.tensor([[0, 1, 2, -1]]), "0 … 10.*-1 to 2"),
        (torch.zeros(2, 4), "int64.*float32"),
        (torch.zeros(2, 4).int(), "int64.*int32"),
    ],
)
def test_wrong_tokens_are_errors(tokens, words):
    """The message has both shapes, both types or the range."""
    with pytest.raises(ValueError, match=words):
        tiny_dvae().decode(tokens)


def test_codes_of_another_shape_are_errors():
    """The message has both shapes."""
    with pytest.raises(ValueError, match=r"\(B, 11, 2, 2\).*\(1, 10, 2, 2\)"):
        tiny_dvae().decode_soft(torch.zeros(1, 10, 2, 2))
    with pytest.raises(ValueError, match="torch.float32, not torch.int64"):
        tiny_dvae().decode_soft(torch.zeros(1, 11, 2, 2).long())


@pytest.mark.parametrize("weights", [(-1.0, 0.0), (math.nan, 0.0), (0.0, -0.5), (0.0, math.nan)])
def test_weights_below_0_are_errors(weights):
    """A negative β would ask for a collapse."""
    with pytest.raises(ValueError, match="weights must be 0 or more"):
        tiny_dvae().elb(torch.rand(2, 3, 8, 8), 1.0, *weights)


def test_usage_of_tokens_that_are_none():
    """No tokens at all, and codes beyond K, have no perplexity among K."""
    with pytest.raises(ValueError, match="0 … 4; these are none"):
        code_usage(torch.zeros(0, 4).long(), 5)
    with pytest.raises(ValueError, match="0 … 4; these are from 0 to 9"):
        code_usage(torch.arange(10), 5)


def test_a_collapse_has_a_warning():
    """Of the codes that are used, and of how evenly."""
    assert_warns_of_collapse(lambda tokens, K: collapse(*code_usage(tokens, K), K))
    assert "only 1 of 64 codes" in collapse(1, 1.0, 64)
    assert "perplexity of 64 codes is only 6.3" in collapse(64, 6.3, 64) and not collapse(
        16, 6.4, 64
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 10}, "10 pixels.*cells of 4"),
        ({"likelihood": "cauchy"}, "cauchy.*gaussian"),
        ({"input_kernel": 4}, "input_kernel must be odd, not 4"),
        ({"groups": 0}, "groups must be at least 1, not 0"),
        ({"blocks": -1}, "blocks must be at least 1, not -1"),
        ({"K": 1}, "K must be at least 2, not 1"),
        ({"width": 3}, "width 3.*bottleneck of 4"),
        ({"K": 11.0}, r"K must be a whole number, not 11\.0"),
    ],
)
def test_wrong_configurations_are_errors(changes, words):
    """The message names what does not fit."""
    with pytest.raises(ValueError, match=words):
        tiny_dvae(**changes)


# -------------------------------------------------------------------------------- the relaxation


def test_gumbel_softmax_follows_the_categorical():
    """Sums to 1 over the codes, and its argmax occurs as often as softmax(logits) says."""
    assert_relaxes_the_categorical(lambda logits, tau: gumbel_softmax(logits, tau))


def each_row(logits, tau):
    """With a generator for each row, as in training."""
    generators = [torch.Generator().manual_seed(row) for row in range(len(logits))]
    return gumbel_softmax(logits, tau, generator=generators)


def test_gumbel_softmax_follows_the_categorical_with_a_generator_for_each_row():
    """Their noise is made in another way, by the inverse of the exponential's distribution."""
    assert_relaxes_the_categorical(each_row, draws=2000)
    with pytest.raises(ValueError, match="3 generators for 2 rows"):
        gumbel_softmax(torch.zeros(2, 5, 1, 1), 1.0, generator=[torch.Generator()] * 3)


@pytest.mark.parametrize("sample", [gumbel_softmax, each_row], ids=["one generator", "one a row"])
def test_gumbel_softmax_stays_finite(sample):
    """Logits to ±10,000, τ down to 0.001."""
    assert_stays_finite(sample)


@pytest.mark.parametrize("dim", [1, -1])
@pytest.mark.parametrize("tau", [1.0, 1 / 16])
def test_gumbel_softmax_equals_torchs_under_one_seed(dim, tau):
    """The same noise, the same sample."""
    logits = torch.randn(2, 5, 3, 4)
    torch.manual_seed(3)
    ours = gumbel_softmax(logits, tau, dim)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, F.gumbel_softmax(logits, tau, dim=dim))


def test_gumbel_softmax_is_soft_in_both_directions():
    """Not straight-through: the gradient is that of the softmax itself."""
    logits = torch.randn(1, 5, 1, 1, requires_grad=True)
    z = gumbel_softmax(logits, 0.5)
    (grad,) = torch.autograd.grad(z[0, 2].sum(), logits)
    y = z.detach().flatten()
    expected = y[2] * ((torch.arange(5) == 2).float() - y) / 0.5
    torch.testing.assert_close(grad.flatten(), expected)


@given(
    st.sampled_from([1e-4, 1.0, 1e2, 1e4]),
    st.sampled_from([1e-3, 1 / 16, 1.0, 1e3]),
    st.integers(0, 99),
)
def test_gumbel_softmax_is_finite_at_extremes(scale, tau, seed):
    """Large logits and small temperatures, values and gradients."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(2, 5, 3, 2, generator=generator)).requires_grad_()
    z = gumbel_softmax(logits, tau, generator=generator)
    z.square().sum().backward()
    assert z.isfinite().all() and logits.grad.isfinite().all()
    torch.testing.assert_close(z.sum(1), torch.ones(2, 3, 2))


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_straight_through_is_hard_forwards_and_soft_backwards(tau):
    """The values of a one-hot at the relaxed sample's argmax, the gradient of the relaxed sample itself."""
    logits = torch.randn(2, 5, 3, 2, requires_grad=True)
    weights = torch.randn(2, 5, 3, 2)
    samples, gradients = [], []
    for straight_through in (False, True):
        generator = torch.Generator().manual_seed(1)
        z = gumbel_softmax(logits, tau, 1, generator, straight_through)
        samples.append(z.detach())
        gradients += torch.autograd.grad((z * weights).sum(), logits)
    soft, hard = samples
    one_hot = F.one_hot(soft.argmax(1), 5).movedim(-1, 1).float()
    torch.testing.assert_close(hard, one_hot, atol=1e-6, rtol=0)
    assert torch.equal(*gradients)


def test_straight_through_equals_torchs_under_one_seed():
    """The library's ``hard=True``."""
    logits = torch.randn(4, 7)
    torch.manual_seed(3)
    expected = F.gumbel_softmax(logits, 0.5, hard=True)
    torch.manual_seed(3)
    found = gumbel_softmax(logits, 0.5, dim=-1, straight_through=True)
    torch.testing.assert_close(found, expected)


def test_a_cold_sample_is_a_one_hot():
    """As τ falls the sample hardens; as it rises the sample flattens."""
    logits = torch.randn(100, 5, 1, 1)
    hardness = [gumbel_softmax(logits, tau).amax(1).mean() for tau in (1e-4, 1.0, 1e4)]
    assert hardness[0] > 0.99 and hardness[0] > hardness[1] > hardness[2]
    assert hardness[2] == pytest.approx(1 / 5, abs=1e-2)


def test_the_generator_decides():
    """Same generator, same sample; the global random state is not touched."""
    logits, state = torch.randn(2, 5, 3, 4), torch.get_rng_state()
    one, two = (
        gumbel_softmax(logits, 1.0, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("tau", [0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_an_error(tau):
    """The message says what to do instead."""
    with pytest.raises(ValueError, match=f"{tau}.*argmax"):
        gumbel_softmax(torch.zeros(1, 2, 1, 1), tau)


# ----------------------------------------------------------------------------------- likelihoods


@pytest.mark.parametrize("mu", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("b", [0.2, 0.5, 1.0])
def test_logit_laplace_is_a_density(mu, b):
    """It integrates to 1 over (0, 1): the midpoint rule, in logits so that the ends are resolved."""
    t = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    x = t.sigmoid()
    inside = (x > 1e-12) & (x < 1 - 1e-12)
    f = (-logit_laplace_nll(x, torch.tensor(mu), torch.tensor(math.log(b)))).exp()
    assert (f * x * (1 - x))[inside].sum().item() * 1e-3 == pytest.approx(1.0, abs=2e-3)


def test_logit_laplace_equals_torchs_transformed_laplace():
    """The Laplace distribution pushed through the sigmoid."""
    x, mu, ln_b = torch.rand(3, 4, 5, dtype=torch.float64).mul(0.8).add(0.1)
    laplace = torch.distributions.Laplace(mu, ln_b.exp())
    squashed = torch.distributions.TransformedDistribution(
        laplace, torch.distributions.SigmoidTransform()
    )
    torch.testing.assert_close(logit_laplace_nll(x, mu, ln_b), -squashed.log_prob(x))


def test_gaussian_nll_equals_torchs_normal():
    """Around unmap(sigmoid μ), with σ = 0.1."""
    x, mu = torch.rand(4, 5), torch.rand(4, 5) - 0.5
    normal = torch.distributions.Normal(unmap_pixels(mu.sigmoid()), SIGMA)
    torch.testing.assert_close(gaussian_nll(x, mu), -normal.log_prob(x))


def test_gaussian_nll_has_a_gradient_beyond_the_range():
    """Where the mean would be clamped it can still come back."""
    mu = torch.tensor([5.0], requires_grad=True)
    gaussian_nll(torch.tensor([1.0]), mu).sum().backward()
    assert mu.grad.item() > 0


@given(st.floats(0, 1))
def test_unmap_undoes_map(value):
    """[0, 1] → [0.1, 0.9] → [0, 1]."""
    x = torch.tensor(value)
    assert 0.1 - 1e-6 <= map_pixels(x) <= 0.9 + 1e-6
    torch.testing.assert_close(unmap_pixels(map_pixels(x)), x, atol=1e-6, rtol=0)


def test_map_and_unmap_by_hand():
    """ε = 0.1; beyond the map's range the inverse is clamped."""
    x = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(map_pixels(x), torch.tensor([0.1, 0.3, 0.9]))
    torch.testing.assert_close(
        unmap_pixels(torch.tensor([0.0, 0.3, 1.0])), torch.tensor([0.0, 0.25, 1.0])
    )


@pytest.mark.parametrize("likelihood", ["logit-laplace", "gaussian"])
def test_the_likelihood_is_best_at_the_picture_itself(likelihood):
    """Pixel map, order of the maps and reconstruction fit together: μ = logit(map x) is no worse
    than a little more or less, and decodes to x."""
    model = tiny_dvae(likelihood=likelihood)
    x = torch.rand(1, 3, 8, 8)
    mu = torch.logit(map_pixels(x))
    rest = [torch.full_like(mu, -1.0)] if likelihood == "logit-laplace" else []
    nll = [model.nll(x, torch.cat([mu + d, *rest], 1)).mean() for d in (-0.1, 0.0, 0.1)]
    assert nll[1] < min(nll[0], nll[2])
    model.decoder.forward = lambda z: torch.cat([mu, *rest], 1)
    torch.testing.assert_close(model.decode_soft(torch.zeros(1, 11, 2, 2)), x, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------ KL and ELB


def test_kl_is_per_token():
    """0, ln K, never negative, and no larger for a larger batch."""
    assert_kl_is_per_token(lambda logits: kl_to_uniform(logits).mean())


def test_kl_has_one_number_for_every_position():
    """(B, K, h, w) → (B, h, w), as torch.distributions computes it."""
    logits = torch.randn(2, 7, 3, 4)
    q = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    p = torch.distributions.Categorical(logits=torch.zeros(2, 3, 4, 7))
    torch.testing.assert_close(kl_to_uniform(logits), torch.distributions.kl_divergence(q, p))


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=9))
def test_kl_lies_between_0_and_ln_k(row):
    """For any logits, extreme ones too."""
    kl = kl_to_uniform(torch.tensor(row), dim=0)
    assert -1e-5 <= kl <= math.log(len(row)) + 1e-5


def test_the_parts_add_up_to_the_loss():
    """loss = nll + β·h·w/(3·H·W) · KL + balance · marginal."""
    model, x = tiny_dvae(), torch.rand(3, 3, 8, 8)
    elb = model.elb(x, 1.0, 6.6, 0.5)
    expected = elb.nll_per_value + 6.6 * 4 / (3 * 64) * elb.kl_per_token + 0.5 * elb.marginal_kl
    torch.testing.assert_close(elb.loss, expected)
    plain = model.elb(x, 1.0, 0.0)
    torch.testing.assert_close(plain.loss, plain.nll_per_value)


def test_beta_is_on_the_papers_scale():
    """A factor of 8 a side: β counts 1/192 of the KL per token, as in sums divided by 256·256·3."""
    model, x = tiny_dvae(patch=4), torch.rand(2, 3, 8, 8)
    elb = model.elb(x, 1.0, 6.6)
    torch.testing.assert_close(elb.loss - elb.nll_per_value, 6.6 / 192 * elb.kl_per_token)


def test_the_losses_are_those_of_the_relaxed_sample():
    """By hand: sample, decode, average the likelihood; KL from the logits, not from the sample."""
    model, x = tiny_dvae(), torch.rand(2, 3, 8, 8)
    elb = model.elb(x, 0.7, 6.6, generator=torch.Generator().manual_seed(1))
    logits = model.logits(x)
    z = gumbel_softmax(logits, 0.7, generator=torch.Generator().manual_seed(1))
    mu, ln_b = model.decoder(z).split(3, 1)
    torch.testing.assert_close(elb.nll_per_value, logit_laplace_nll(map_pixels(x), mu, ln_b).mean())
    torch.testing.assert_close(elb.kl_per_token, kl_to_uniform(logits).mean())


def test_the_parts_do_not_grow_with_the_batch():
    """KL and marginal KL of a doubled batch are the same."""
    model, x = tiny_dvae(), torch.rand(2, 3, 8, 8)
    once, twice = model.elb(x, 1.0, 6.6), model.elb(torch.cat([x, x]), 1.0, 6.6)
    torch.testing.assert_close(once.kl_per_token, twice.kl_per_token)
    torch.testing.assert_close(once.marginal_kl, twice.marginal_kl)


def test_the_marginal_kl_by_hand():
    """0 if all codes are used alike, however certain each; ln K if all cells have the same code."""
    model = tiny_dvae(K=4)
    sure = 50 * torch.eye(4).view(1, 4, 2, 2)
    for logits, expected in ((sure, 0.0), (sure[:, :, :1, :1].expand(1, 4, 2, 2), math.log(4))):
        model.encoder.forward = lambda x, logits=logits: logits
        elb = model.elb(torch.rand(1, 3, 8, 8), 1.0, 0.0)
        assert elb.marginal_kl.item() == pytest.approx(expected, abs=1e-4)
        assert elb.kl_per_token.item() == pytest.approx(math.log(4), abs=1e-4)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_a_very_sure_encoder_gives_finite_losses_and_gradients(balance):
    """A code whose probability is below the smallest float is no reason for NaN."""
    model = tiny_dvae()
    with torch.no_grad():
        model.encoder.layers[-1].bias[0] = 1e4
    elb = model.elb(torch.rand(2, 3, 8, 8), 1 / 16, 6.6, balance)
    elb.loss.backward()
    assert all(part.isfinite() for part in elb)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_few_steps_lower_the_loss():
    """Gradients reach encoder and decoder."""
    model = tiny_dvae(likelihood="gaussian")
    x = torch.rand(4, 3, 1, 1).expand(4, 3, 8, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        elb = model.elb(x, 1.0, 0.0)
        elb.loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(elb.loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


# --------------------------------------------------------------------------------------- figures


def test_psnr_by_hand():
    """An error of 0.1 everywhere is 20 dB; one number for each picture."""
    x = torch.zeros(2, 3, 4, 4)
    y = torch.stack([torch.full((3, 4, 4), 0.1), torch.ones(3, 4, 4)])
    torch.testing.assert_close(psnr(x, y), torch.tensor([20.0, 0.0]))
    assert psnr(x, x).isfinite().all()


def test_code_usage_by_hand():
    """Two codes used alike: perplexity 2; counts 2, 1, 1: exp of 1.5 ln 2."""
    assert code_usage(torch.tensor([[0, 3], [3, 0]]), 5) == (2, pytest.approx(2.0))
    assert code_usage(torch.tensor([[0, 0], [1, 2]]), 3) == (3, pytest.approx(2**1.5))
    assert code_usage(torch.tensor([[4, 4]]), 5) == (1, pytest.approx(1.0))
