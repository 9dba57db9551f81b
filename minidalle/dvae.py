"""The discrete VAE: a picture becomes a grid of tokens and comes back.  (Chapters 4 and 5)

Paper: §2.1 and appendix A. The encoder gives logits over K codes for each cell of an h×w grid; training
samples from them with the Gumbel-softmax relaxation at temperature τ; the decoder gives a logit-Laplace
distribution for every pixel. There is no codebook: it is the decoder's first 1×1 convolution, applied to a
(relaxed) one-hot vector. Stage 2 uses the argmax of the logits, without noise.

Ours, not the paper's: `patch` (pixels are unshuffled before the encoder and shuffled back after the
decoder, which makes small pictures cheap on a CPU), `logit_norm`, the Gaussian likelihood and the balance
term of the loss. Chapter 5 shows what each of them buys at toy scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 0.1  # of the pixel map (paper, appendix A.3)
SIGMA = 0.1  # of our Gaussian likelihood, in units of pixels in [0, 1]
LIKELIHOODS = ("logit-laplace", "gaussian")
FEW_CODES, LOW_PERPLEXITY = 1 / 4, 1 / 10  # of K: below one of them the codebook has collapsed
Noise = torch.Generator | Sequence[torch.Generator]  # where random numbers come from


@dataclass(frozen=True)
class DVAEConfig:
    """Architecture of encoder and decoder. ``DVAEConfig()`` is the paper's.

    size: pixels on a side. K: number of image codes. width: channels of the encoder's first group; group g
    has width·2^g. decoder_input: channels of the decoder's first 1×1 convolution, its codebook.
    groups: resolutions, with a factor of 2 between neighbours. blocks: residual blocks a group.
    input_kernel: side of the encoder's first convolution, odd.
    bottleneck: by how much a block's hidden layers are narrower than its output.
    patch: pixels on a side that enter the encoder as one cell. logit_norm: normalise before the logits.
    likelihood: of the pixels, "logit-laplace" (the paper's) or "gaussian" (ours, of fixed width σ = 0.1).
    """

    size: int = 256
    K: int = 8192
    width: int = 256
    decoder_input: int = 128
    groups: int = 4
    blocks: int = 2
    input_kernel: int = 7
    bottleneck: int = 4
    patch: int = 1
    logit_norm: bool = False
    likelihood: str = "logit-laplace"

    def __post_init__(self):
        if self.likelihood not in LIKELIHOODS:
            known = " or ".join(LIKELIHOODS)
            raise ValueError(f"unknown likelihood {self.likelihood!r}; choose {known}")
        for name, value in vars(self).items():
            if name in ("logit_norm", "likelihood"):
                continue
            if not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.K < 2:
            raise ValueError(f"K must be at least 2, not {self.K}: one code can say nothing")
        if self.width < self.bottleneck:
            raise ValueError(
                f"width {self.width} leaves no hidden channel at a bottleneck of {self.bottleneck}"
            )
        if self.input_kernel % 2 == 0:
            raise ValueError(
                f"input_kernel must be odd, not {self.input_kernel}; it needs a middle"
            )
        if self.groups > self.size.bit_length():  # checked first: 2^groups may be beyond any memory
            raise ValueError(
                f"{self.groups} groups halve pictures of {self.size} pixels more often than they can"
            )
        if self.size % self.factor:
            raise ValueError(
                f"pictures of {self.size} pixels do not divide into cells of {self.factor}; "
                f"choose a multiple of {self.factor}"
            )

    @property
    def maps(self) -> int:
        """Output maps of the decoder: μ and ln b for RGB, or μ alone."""
        return 6 if self.likelihood == "logit-laplace" else 3

    @property
    def factor(self) -> int:
        """Pixels on a side of one token's cell: 8 in the paper."""
        return self.patch * 2 ** (self.groups - 1)

    @property
    def grid(self) -> int:
        """Tokens on a side: h = w = 32 in the paper."""
        return self.size // self.factor


# ---------------------------------------------------------------- the relaxation, and the likelihood


def gumbel_softmax(
    logits: Tensor,
    tau: float,
    dim: int = 1,
    generator: Noise | None = None,
    straight_through: bool = False,
) -> Tensor:
    """A relaxed one-hot sample of softmax(logits) along ``dim``: soft in forward and backward.

    y = softmax((logits + g) / τ) with g standard Gumbel noise. As τ → 0 it becomes a one-hot sample.
    generator: of the noise; or a generator for each row, so that it does not matter what else is in the
    batch. straight_through: one-hot in forward, soft in backward; not the paper's, for chapter 4's
    comparison. Raises ValueError unless τ > 0, and for another number of generators than rows. Paper §2.1
    (Jang et al. 2016; Maddison et al. 2016); chapter 4.
    """
    if not tau > 0:  # NaN is not, either
        raise ValueError(f"the temperature τ must be positive, not {tau}; use argmax for τ = 0")
    noise = exponential(torch.empty_like(logits, dtype=torch.float32), generator)
    gumbel = -noise.clamp_min(torch.finfo(torch.float32).tiny).log()
    y = ((logits.float() + gumbel) / tau).softmax(dim)
    if not straight_through:
        return y
    hard = torch.zeros_like(y).scatter_(dim, y.argmax(dim, keepdim=True), 1.0)
    return hard + (y - y.detach())  # the value of one, the gradient of the other


def exponential(out: Tensor, generator: Noise | None) -> Tensor:
    """Fill a tensor with exponential noise, from one generator or row by row from one each."""
    if not isinstance(generator, Sequence):
        return out.exponential_(generator=generator)
    if len(generator) != len(out):
        raise ValueError(f"{len(generator)} generators for {len(out)} rows; give one for each row")
    for row, each in zip(out, generator, strict=True):
        row.copy_(torch.rand(row.shape, generator=each, device=each.device))
    return out.neg_().log1p_().neg_()  # −ln(1 − u): four times as fast as exponential_ row by row


def map_pixels(x: Tensor) -> Tensor:
    """[0, 1] → [ε, 1 − ε], where the logit is finite. Paper, appendix A.3."""
    return (1 - 2 * EPSILON) * x + EPSILON


def unmap_pixels(x: Tensor) -> Tensor:
    """The inverse of `map_pixels`, clamped to [0, 1]."""
    return ((x - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def logit_laplace_nll(x: Tensor, mu: Tensor, ln_b: Tensor) -> Tensor:
    """−ln f(x | μ, b) for x in (0, 1), elementwise, in nats.

    f(x | μ, b) = exp(−|logit x − μ| / b) / (2 b x (1 − x)). Paper, appendix A.3, equation 2.
    """
    distance = (torch.logit(x) - mu).abs()
    return distance * torch.exp(-ln_b) + ln_b + math.log(2) + torch.log(x * (1 - x))


def gaussian_nll(x: Tensor, mu: Tensor) -> Tensor:
    """−ln of the normal density of x around unmap(sigmoid μ) with σ = 0.1, elementwise, in nats.

    The squared error, in nats, but of x itself: not comparable with `logit_laplace_nll`. It asks for every
    pixel with equal force, while logit-Laplace asks most for what it can predict with a tiny b.
    """
    mean = (mu.sigmoid() - EPSILON) / (1 - 2 * EPSILON)  # not clamped: the gradient must not stop
    return (x - mean).square() / (2 * SIGMA**2) + math.log(SIGMA * math.sqrt(2 * math.pi))


def kl_to_uniform(logits: Tensor, dim: int = 1) -> Tensor:
    """KL(softmax(logits) ‖ uniform over K) in nats, for every position: between 0 and ln K."""
    log_q = logits.float().log_softmax(dim)
    return (log_q.exp() * log_q).sum(dim) + math.log(logits.shape[dim])


# ---------------------------------------------------------------------------------- the two networks


class Block(nn.Module):
    """A residual block of four convolutions, no normalisation: id(x) + gain · res(x)."""

    def __init__(self, n_in: int, n_out: int, hidden: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        widths = [n_in, hidden, hidden, hidden, n_out]
        self.gain = gain
        self.id_path = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        layers = []
        for k, kernel in enumerate(kernels):
            layers += [nn.ReLU(), nn.Conv2d(widths[k], widths[k + 1], kernel, padding=kernel // 2)]
        self.res_path = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class Encoder(nn.Module):
    """Pictures (B, 3, H, W), mapped to [ε, 1 − ε] → logits (B, K, h, w)."""

    def __init__(self, c: DVAEConfig):
        super().__init__()
        widths = [c.width * 2**g for g in range(c.groups)]
        gain = 1 / (c.groups * c.blocks) ** 2
        pixels = 3 * c.patch**2
        layers = [
            nn.PixelUnshuffle(c.patch),
            nn.Conv2d(pixels, c.width, c.input_kernel, padding=c.input_kernel // 2),
        ]
        n_in = c.width
        for g, width in enumerate(widths):
            for _ in range(c.blocks):
                layers.append(Block(n_in, width, width // c.bottleneck, (3, 3, 3, 1), gain))
                n_in = width
            if g < c.groups - 1:
                layers.append(nn.MaxPool2d(2))
        layers += [nn.GroupNorm(1, n_in)] if c.logit_norm else []
        layers += [nn.ReLU(), nn.Conv2d(n_in, c.K, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Decoder(nn.Module):
    """One-hot or relaxed codes (B, K, h, w) → μ and ln b of the pixels, (B, 6, H, W); or μ alone."""

    def __init__(self, c: DVAEConfig):
        super().__init__()
        widths = [c.width * 2**g for g in reversed(range(c.groups))]
        gain = 1 / (c.groups * c.blocks) ** 2
        layers = [nn.Conv2d(c.K, c.decoder_input, 1)]
        n_in = c.decoder_input
        for g, width in enumerate(widths):
            for _ in range(c.blocks):
                layers.append(Block(n_in, width, width // c.bottleneck, (1, 3, 3, 3), gain))
                n_in = width
            if g < c.groups - 1:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        layers += [nn.ReLU(), nn.Conv2d(n_in, c.maps * c.patch**2, 1), nn.PixelShuffle(c.patch)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def initialise(model: nn.Module) -> None:
    """Every convolution: weights N(0, 1 / (n_in · k²)), bias 0, as in the official code."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            nn.init.zeros_(module.bias)


class ELB(NamedTuple):
    """The parts of the evidence lower bound, each with its normalisation in its name.

    loss = nll_per_value + β_per_value · kl_per_token + balance · marginal_kl. On the paper's scale (sums
    over the picture divided by H·W·3 values) a weight β is β · h·w / (3·H·W) here: β/192 in the paper.
    """

    loss: Tensor
    nll_per_value: Tensor  # −ln p(x | z), nats per colour value
    kl_per_token: Tensor  # KL(q ‖ uniform), nats per grid position
    marginal_kl: Tensor  # KL of the batch's mean code distribution to uniform, nats


class DVAE(nn.Module):
    """Encoder, decoder and the loss. Pictures outside are float32 (B, 3, H, W) in [0, 1]."""

    def __init__(self, config: DVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        initialise(self)

    @property
    def dtype(self) -> torch.dtype:
        """The weights', and that of all that goes in."""
        return self.decoder.layers[0].weight.dtype

    def logits(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) → code logits (B, K, h, w)."""
        check_pictures(x, self.config.size, "dVAE", self.dtype)
        return self.encoder(map_pixels(x))

    def encode(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] → image tokens (B, h·w), int64, raster order; no noise."""
        return self.logits(x).argmax(1).flatten(1)

    def decode(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, h·w) → pictures (B, 3, H, W) in [0, 1].

        Raises ValueError for another shape or an id outside 0 … K − 1.
        """
        self._check_tokens(tokens)
        c = self.config
        one_hot = F.one_hot(tokens, c.K).to(self.dtype)
        return self.decode_soft(one_hot.transpose(1, 2).unflatten(2, (c.grid, c.grid)))

    def decode_soft(self, z: Tensor) -> Tensor:
        """(Relaxed) one-hot codes (B, K, h, w) → pictures: the inverse map of sigmoid(μ).

        Raises ValueError for another shape, and another type than the weights'.
        """
        c = self.config
        if z.ndim != 4 or z.shape[1:] != (c.K, c.grid, c.grid):
            shape = f"(B, {c.K}, {c.grid}, {c.grid})"
            raise ValueError(f"this dVAE decodes codes of shape {shape}, not {tuple(z.shape)}")
        if z.dtype != self.dtype:
            raise ValueError(f"this dVAE decodes soft codes of {self.dtype}, not {z.dtype}")
        mu = self.decoder(z)[:, :3]
        return unmap_pixels(mu.float().sigmoid())

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        """−ln p(x | z) of every colour value (B, 3, H, W), given the decoder's output, in nats."""
        if self.config.likelihood == "gaussian":
            return gaussian_nll(x, output)
        mu, ln_b = output.chunk(2, dim=1)
        return logit_laplace_nll(map_pixels(x), mu, ln_b)

    def elb(
        self,
        x: Tensor,
        tau: float,
        beta: float,
        balance: float = 0.0,
        generator: Noise | None = None,
    ) -> ELB:
        """The negative ELB of pictures (B, 3, H, W) and its parts, all scalars.

        β is on the paper's scale (6.6 there). balance weighs our marginal term, which keeps codes in use
        while the run is young. generator: see `gumbel_softmax`. Chapter 5. Raises ValueError for weights
        below 0.
        """
        if not (beta >= 0 and balance >= 0):
            raise ValueError(f"weights must be 0 or more, not β = {beta} and balance = {balance}")
        logits = self.logits(x).float()
        z = gumbel_softmax(logits, tau, generator=generator)
        nll = self.nll(x, self.decoder(z).float()).mean()
        kl = kl_to_uniform(logits).mean()
        # Summed as logarithms: a probability may be smaller than the smallest float.
        marginal = kl_to_uniform(logits.log_softmax(1).logsumexp((0, 2, 3)), dim=0)
        tokens_per_value = self.config.grid**2 / (3 * self.config.size**2)
        loss = nll + beta * tokens_per_value * kl + balance * marginal
        return ELB(loss, nll, kl, marginal)

    def _check_tokens(self, tokens: Tensor) -> None:
        c = self.config
        if tokens.ndim != 2 or tokens.shape[1] != c.grid**2:
            raise ValueError(
                f"this dVAE decodes tokens of shape (B, {c.grid**2}), not {tuple(tokens.shape)}"
            )
        if tokens.dtype != torch.int64:
            raise ValueError(f"image tokens must be int64, not {tokens.dtype}")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < c.K:
            low, high = int(tokens.min()), int(tokens.max())
            raise ValueError(
                f"image tokens must lie in 0 … {c.K - 1}; these go from {low} to {high}"
            )


def check_pictures(x: Tensor, size: int, reader: str, dtype: torch.dtype) -> None:
    """Raise ValueError unless these are B ≥ 1 pictures (B, 3, size, size) in [0, 1], of the type of the
    reader's weights, before any kernel runs."""
    if x.ndim != 4 or x.shape[1:] != (3, size, size):
        raise ValueError(
            f"this {reader} takes pictures of shape (B, 3, {size}, {size}), not {tuple(x.shape)}; "
            "resize or crop them first"
        )
    if not x.is_floating_point():
        raise ValueError(f"pictures must be floats in [0, 1], not {x.dtype}; divide uint8 by 255")
    if not len(x):
        raise ValueError(f"no pictures for this {reader}; give at least one")
    if x.dtype != dtype:
        raise ValueError(
            f"pictures must be {dtype}, as the weights of this {reader}, not {x.dtype}"
        )
    has_values = x.numel() and not x.is_meta
    low, high = x.detach().aminmax() if has_values else (0.0, 0.0)
    if not 0 <= float(low) <= float(high) <= 1:
        raise ValueError(
            f"pictures must lie in [0, 1]; these go from {float(low):.4g} to {float(high):.4g}"
        )


# ------------------------------------------------------------------------------------------ figures


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture (B, 3, H, W) in [0, 1]; mean it for a set."""
    error = (x - y).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()


def code_usage(tokens: Tensor, K: int) -> tuple[int, float]:
    """How many of K codes occur in the tokens, and the perplexity of their frequencies (1 … K).

    Raises ValueError for no tokens at all, and for some outside 0 … K − 1.
    """
    low, high = (int(end) for end in tokens.aminmax()) if tokens.numel() else (0, -1)
    if not 0 <= low <= high < K:
        found = f"from {low} to {high}" if tokens.numel() else "none"
        raise ValueError(f"image tokens must lie in 0 … {K - 1}; these are {found}")
    frequency = torch.bincount(tokens.flatten(), minlength=K).double()
    p = frequency / frequency.sum()
    entropy = -(p * p.clamp_min(1e-300).log()).sum()
    return int((frequency > 0).sum()), float(entropy.exp())


def collapse(used: int, perplexity: float, K: int) -> str:
    """What to say where most of K codes are out of use, or hardly used; "" where all is well. Chapter 5."""
    if used < FEW_CODES * K:
        return f"warning: only {used} of {K} codes are in use; see chapter 5"
    if perplexity < LOW_PERPLEXITY * K:
        return f"warning: the perplexity of {K} codes is only {perplexity:.1f}; see chapter 5"
    return ""
