"""CLIP: how well a picture and a caption go together, and which of many pictures to keep.  (Chapter 11)

Paper: §2.6 ranks candidates with a contrastive model, CLIP (Radford et al. 2021): one tower for pictures, one
for captions, both ending in unit vectors of one space, trained to find the pairs of a batch again.
As there: cosine similarity, a learned scale (1 / temperature) of at most 100, symmetric cross-entropy.
The initialisation is in its manner.

Ours: below the layers of the image tower is a stem of strided convolutions, which learns faster than patches
(Xiao et al. 2021). Features are means over positions: our tokenizer has no end token. The text tower looks
both ways; CLIP's is causal only to be able to start from a language model (§2.4 there). Padding is never
looked at, and equal captions in a batch are no negatives.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dvae import check_pictures
from .masks import check_sizes
from .transformer import Layer

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # what multiplies cosines: 1 / temperature, as in CLIP


@dataclass(frozen=True)
class CLIPConfig:
    """size: pixels on a side. V: text vocabulary without padding. T: text positions.

    D: width, H: heads, L: layers of each tower. E: features of a picture or caption. width: channels after
    the first of the stem's ``halvings`` convolutions, each of which halves the side. All but the
    last double the channels; the last has D.
    """

    size: int = 64
    V: int = 640
    T: int = 20
    D: int = 96
    H: int = 4
    L: int = 2
    E: int = 96
    width: int = 32
    halvings: int = 3

    def __post_init__(self):
        names = ("size", "V", "T", "D", "H", "L", "E", "width", "halvings")
        check_sizes(**{name: getattr(self, name) for name in names})
        if self.D % self.H:
            raise ValueError(f"the width {self.D} does not divide into {self.H} heads")
        # The first question is for sizes from damaged files: 2 to that power would fill the memory.
        if self.halvings >= self.size.bit_length() or self.size % 2**self.halvings:
            raise ValueError(f"{self.size} pixels cannot be halved {self.halvings} times")

    @property
    def grid(self) -> int:
        """Positions on a side that the stem leaves of a picture."""
        return self.size // 2**self.halvings


class Contrast(NamedTuple):
    """loss: nats. The others are shares of a batch in which the right one has the highest similarity."""

    loss: Tensor
    captions_found: Tensor  # of pictures, whose own caption is the nearest
    pictures_found: Tensor  # of captions, whose own picture is the nearest


def contrast(
    pictures: Tensor, captions: Tensor, scale: Tensor, same: Tensor | None = None
) -> Contrast:
    """The symmetric contrastive loss of B pairs, a `Contrast`.

    pictures, captions: unit vectors (B, E); row k of both belongs together. scale: 1 / temperature, what
    multiplies the cosines. same: bool (B, B), True where another row has the same caption and so is no
    negative (our addition). Radford et al. 2021, figure 3; chapter 11.
    """
    logits = scale * pictures @ captions.T  # (B, B): pictures down, captions across
    own = torch.arange(len(logits), device=logits.device)
    if same is not None:
        others = same & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(others, -torch.inf)
    losses = F.cross_entropy(logits, own), F.cross_entropy(logits.T, own)
    found = [(logits.argmax(dim) == own).float().mean() for dim in (1, 0)]
    return Contrast((losses[0] + losses[1]) / 2, *found)


def same_rows(text: Tensor) -> Tensor:
    """Which captions are equal, token by token: text tokens (B, T) → bool (B, B)."""
    return (text[:, None] == text[None]).all(-1)


def best_of(scores: Tensor, k: int) -> Tensor:
    """The k best of each caption's n candidates: scores (C, n) → indices (C, k), the best one first.

    Equal scores keep their order. Raises ValueError unless 1 ≤ k ≤ n. Paper, §2.6; chapter 11.
    """
    if scores.ndim != 2 or not 1 <= k <= scores.shape[1]:
        raise ValueError(
            f"cannot keep {k} of candidates with scores of shape {tuple(scores.shape)}"
        )
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k]


class Tower(nn.Module):
    """Positions (B, n, D) → one unit vector (B, E): L layers, the mean over the positions that count."""

    def __init__(self, c: CLIPConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(c.D, c.H) for _ in range(c.L))
        self.norm = nn.LayerNorm(c.D)
        self.out = nn.Linear(c.D, c.E, bias=False)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """real: bool (B, n), the positions that are looked at and that count."""
        for layer in self.layers:
            x = layer(x, real[:, None, None, :])
        weights = real.unsqueeze(-1) / real.sum(1)[:, None, None]
        return F.normalize(self.out(self.norm((x * weights).sum(1))).float(), dim=-1)


def stem(c: CLIPConfig) -> nn.Sequential:
    """Pictures (B, 3, S, S) → (B, D, g, g): convolutions of stride 2, each with twice the
    channels of the one before, the last one with D."""
    widths = [3, *(c.width * 2**k for k in range(c.halvings - 1)), c.D]
    layers = []
    for n, m in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(n, m, 3, stride=2, padding=1), nn.GroupNorm(1, m), nn.GELU()]
    return nn.Sequential(*layers)


class CLIP(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] and text tokens (B, T) → unit vectors (B, E) that can be compared."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        c = self.config = config
        self.stem = stem(c)
        self.image_position = nn.Embedding(c.grid**2, c.D)
        self.image_tower = Tower(c)
        self.text_embedding = nn.Embedding(c.V, c.D)
        self.text_position = nn.Embedding(c.T, c.D)
        self.text_tower = Tower(c)
        self.log_scale = nn.Parameter(
            torch.full((1,), math.log(FIRST_SCALE))
        )  # FSDP takes no scalar
        initialise(self)

    @property
    def scale(self) -> Tensor:
        """What multiplies cosines, at most `LARGEST_SCALE`. The gradient passes the bound, so that a scale
        which was driven beyond it can come back."""
        beyond = (self.log_scale - math.log(LARGEST_SCALE)).clamp_min(0)
        return (self.log_scale - beyond.detach()).exp()

    def image_features(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, S, S), floats in [0, 1] → unit vectors (B, E). Raises ValueError for others."""
        check_pictures(pictures, self.config.size, "CLIP", self.image_position.weight.dtype)
        x = self.stem(2 * pictures - 1).flatten(2).transpose(1, 2)  # (B, g², D)
        x = x + self.image_position.weight
        return self.image_tower(x, x.new_ones(x.shape[:2], dtype=torch.bool))

    def text_features(self, text: Tensor) -> Tensor:
        """Text tokens (B, T), int64, padded by position → unit vectors (B, E).

        Padding, ids from V on, has no part in them. Raises ValueError for other shapes and ids and for a
        caption of padding alone.
        """
        c = self.config
        self._check_text(text)
        x = self.text_embedding(text.clamp_max(c.V - 1)) + self.text_position.weight
        return self.text_tower(x, text < c.V)

    def similarity(self, pictures: Tensor, text: Tensor) -> Tensor:
        """Cosine of every picture's and every caption's features: (B, 3, S, S), (C, T) → (B, C)."""
        return self.image_features(pictures) @ self.text_features(text).T

    def loss(self, pictures: Tensor, text: Tensor) -> Contrast:
        """Of B pairs of a picture and its caption. Raises ValueError for another number of captions."""
        if len(pictures) != len(text):
            raise ValueError(f"{len(text)} captions but {len(pictures)} pictures in one batch")
        features = self.image_features(pictures), self.text_features(text)
        return contrast(*features, self.scale.float(), same_rows(text))

    def _check_text(self, text: Tensor) -> None:
        c = self.config
        if text.ndim != 2 or text.shape[1] != c.T or text.dtype != torch.int64:
            raise ValueError(
                f"text tokens must be int64 of shape (B, {c.T}), not {text.dtype} of shape "
                f"{tuple(text.shape)}"
            )
        if not text.numel() or text.is_meta:
            return
        if not 0 <= int(text.min()) <= int(text.max()) < c.V + c.T:
            low, high = int(text.min()), int(text.max())
            raise ValueError(
                f"text tokens must lie in 0 … {c.V + c.T - 1}; these go from {low} to {high}"
            )
        if not (text < c.V).any(1).all():
            raise ValueError("a caption is empty: all of its tokens are padding")


def initialise(model: CLIP) -> None:
    """Weights N(0, 1/n_in), embeddings N(0, 1/D), branches' last layers divided by √(2L).

    In the manner of CLIP's code, where text embeddings are smaller and the MLP's weights differ by factors.
    """
    c = model.config
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            last = name.endswith(("attention.out", "mlp.2"))
            std = module.weight[0].numel() ** -0.5 / ((2 * c.L) ** 0.5 if last else 1)
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=c.D**-0.5)


def matrices(model: CLIP) -> Sequence[Tensor]:
    """The layers' matrices of both towers, which Muon may train."""
    towers = (model.image_tower, model.text_tower)
    return [p for tower in towers for p in tower.layers.parameters() if p.ndim == 2]
