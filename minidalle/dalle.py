"""DALL·E: caption and picture as a single stream of tokens.  (Chapter 8)

Paper: §2.2 and §2.3. The stream is [start-of-text, t₁ … t_T, start-of-image, i₁ … i_N]. Each position
predicts the next token, text positions over the text vocabulary, image positions over the image codes: two
heads (our choice), so that no position has logits it cannot use. Padding is V + position: every text
position has a padding token of its own, attended to like any other. Whether padding is a training target is
not stated in the paper; by default it is not, since it would only teach the model where captions end.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import check_sizes
from .transformer import Cache, Transformer, TransformerConfig

TEXT_WEIGHT, IMAGE_WEIGHT = 1 / 8, 7 / 8  # paper, §2.2
IGNORED = -100  # what cross_entropy takes for "no target"


@dataclass(frozen=True)
class DALLEConfig:
    """V: text vocabulary without padding. T: text positions. K: image codes. h, w: token grid.

    D: model width. H: heads. L: layers. kernel: side of the convolutional mask's window.
    padding_targets: whether the text loss counts padding, as one more class of the text head, id V.
    ``DALLEConfig()`` is the paper's model of 12 billion parameters.
    """

    V: int = 16384
    T: int = 256
    K: int = 8192
    h: int = 32
    w: int = 32
    D: int = 3968
    H: int = 62
    L: int = 64
    kernel: int = 11
    padding_targets: bool = False

    def __post_init__(self):
        check_sizes(V=self.V, T=self.T, K=self.K)
        self.transformer_config()  # checks the other sizes, before any weight is made
        if self.kernel > (widest := 2 * max(self.h, self.w) + 1):
            raise ValueError(
                f"kernel must be at most {widest}, the whole of this grid, not {self.kernel}"
            )

    @property
    def N(self) -> int:
        """Image tokens."""
        return self.h * self.w

    def transformer_config(self) -> TransformerConfig:
        """Of the layers: start-of-text, T text tokens and start-of-image stand before the picture."""
        return TransformerConfig(self.T + 2, self.h, self.w, self.D, self.H, self.L, self.kernel)

    @property
    def text_classes(self) -> int:
        """Logits of the text head: V, and one for "padding" where that is a target."""
        return self.V + self.padding_targets


class Loss(NamedTuple):
    """loss = 1/8 text + 7/8 image; both parts in nats per token that was a target."""

    loss: Tensor
    text_per_token: Tensor
    image_per_token: Tensor


class DALLE(nn.Module):
    """The joint model of text tokens (B, T) and image tokens (B, N). checkpointing: see `Transformer`."""

    def __init__(self, config: DALLEConfig, checkpointing: bool = False):
        super().__init__()
        c = self.config = config
        self.start = nn.Parameter(torch.empty(2, c.D))  # start-of-text, start-of-image
        self.text_embedding = nn.Embedding(c.V + c.T, c.D)
        self.text_position = nn.Embedding(c.T, c.D)
        self.image_embedding = nn.Embedding(c.K, c.D)
        self.row_position = nn.Embedding(c.h, c.D)
        self.column_position = nn.Embedding(c.w, c.D)
        self.transformer = Transformer(c.transformer_config(), checkpointing=checkpointing)
        self.text_head = nn.Linear(c.D, c.text_classes)
        self.image_head = nn.Linear(c.D, c.K)
        initialise(self)

    def embed_prefix(self, text: Tensor) -> Tensor:
        """Text tokens (B, T) → [start-of-text, text, start-of-image], (B, T + 2, D)."""
        x = self.text_embedding(text) + self.text_position.weight
        start, stop = self.start.expand(len(text), 2, -1).split(1, dim=1)
        return torch.cat([start, x, stop], dim=1)

    def embed_image(self, tokens: Tensor, first: int = 0) -> Tensor:
        """n image tokens (B, n) that stand at raster positions first, first + 1, … → (B, n, D)."""
        position = self.row_position.weight[:, None] + self.column_position.weight  # (h, w, D)
        position = position.flatten(0, 1)[first : first + tokens.shape[1]]
        return self.image_embedding(tokens) + position

    def forward(self, text: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Text tokens (B, T), image tokens (B, N) → text logits (B, T, V), image logits (B, N, K).

        With ``padding_targets`` there are V + 1 text logits, the last one for any padding.
        Logits at k predict token k from everything before it. Raises ValueError for wrong shapes
        and for ids outside the vocabularies, before any kernel runs.
        """
        self.check_text(text)
        self.check_image(image, len(text))
        x = torch.cat([self.embed_prefix(text), self.embed_image(image)], dim=1)
        x = self.transformer(x)
        T = self.config.T
        # Start-of-text and t₁ … t_{T−1} predict text; start-of-image and i₁ … i_{N−1} the image.
        return self.text_head(x[:, :T]), self.image_head(x[:, T + 1 : -1])

    def targets(self, text: Tensor) -> Tensor:
        """Text tokens (B, T) → what the text head has to say, `IGNORED` where that does not matter."""
        padding = self.config.V if self.config.padding_targets else IGNORED
        return text.where(text < self.config.V, padding)

    def count_targets(self, text: Tensor) -> Tensor:
        """How many targets text tokens (B, T) are; of no captions at all, nothing but padding, 1."""
        return (self.targets(text) != IGNORED).sum().clamp_min(1)

    def loss(self, text: Tensor, image: Tensor, text_targets: Tensor | None = None) -> Loss:
        """Cross-entropies of a batch, each divided by its own number of targets (paper, §2.2).

        text_targets: what to divide the text's by, if this is a part of a batch whose parts are averaged:
        the mean number of targets in a part.
        """
        if not len(text):
            raise ValueError("no examples in this batch; give at least one")
        text_logits, image_logits = self(text, image)
        target = self.targets(text)
        text_loss = F.cross_entropy(
            text_logits.float().flatten(0, 1), target.flatten(), reduction="sum"
        )
        text_loss = text_loss / (self.count_targets(text) if text_targets is None else text_targets)
        image_loss = F.cross_entropy(image_logits.float().flatten(0, 1), image.flatten())
        return Loss(TEXT_WEIGHT * text_loss + IMAGE_WEIGHT * image_loss, text_loss, image_loss)

    def begin(self, text: Tensor) -> tuple[Tensor, Cache]:
        """Run the prefix of text tokens (B, T): logits of the first image token (B, K), the cache."""
        self.check_text(text)
        cache = self.transformer.new_cache(len(text))
        x = self.transformer.extend(self.embed_prefix(text), cache)
        return self.image_head(x[:, -1]), cache

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Append image tokens (B, n) and return the logits of the one that follows, (B, K).

        Raises ValueError for more tokens than a picture has and for ids outside 0 … K − 1.
        """
        first = cache.length - (self.config.T + 2)
        self._check_kind("image", tokens)
        if not tokens.shape[1]:
            raise ValueError("no image tokens to append; give at least one a picture")
        if (n := first + tokens.shape[1]) > self.config.N:
            raise ValueError(f"{n} image tokens for a picture of {self.config.N}")
        self._check_ids("image", tokens, self.config.K)
        x = self.transformer.extend(self.embed_image(tokens, first), cache)
        return self.image_head(x[:, -1])

    def empty_text(self, B: int) -> Tensor:
        """Text tokens (B, T) of no caption at all: the padding of every position."""
        c = self.config
        return torch.arange(c.V, c.V + c.T, device=self.start.device).expand(B, c.T)

    def check_text(self, text: Tensor) -> None:
        """Raise ValueError unless these are text tokens (B, T) of this model."""
        c = self.config
        self._check_kind("text", text, c.T)
        self._check_ids("text", text, c.V + c.T)

    def check_image(self, image: Tensor, B: int) -> None:
        """Raise ValueError unless these are image tokens (B, N) of this model."""
        self._check_kind("image", image, self.config.N)
        self._check_ids("image", image, self.config.K)
        if len(image) != B:
            raise ValueError(f"{B} captions but {len(image)} pictures in one batch")

    @staticmethod
    def _check_kind(name: str, ids: Tensor, length: int | None = None) -> None:
        if ids.ndim != 2 or (length is not None and ids.shape[1] != length):
            wanted, shape = f"(B, {length or 'n'})", tuple(ids.shape)
            raise ValueError(f"{name} tokens must have shape {wanted}, not {shape}")
        if ids.dtype != torch.int64:
            raise ValueError(f"{name} tokens must be int64, not {ids.dtype}")

    @staticmethod
    def _check_ids(name: str, ids: Tensor, size: int) -> None:
        if ids.numel() and not ids.is_meta and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            low, high = int(ids.min()), int(ids.max())
            raise ValueError(
                f"{name} tokens must lie in 0 … {size - 1}; these go from {low} to {high}"
            )


def initialise(model: DALLE) -> None:
    """N(0, 0.02) for all weights, zero biases; branches' last layers are divided by √(2L).

    So the 2L residual branches add up to the size of one, and the first losses are close to ln V and ln K.
    We found no statement of the paper's initialisation; this is GPT-2's (Radford et al. 2019).
    """
    for name, p in model.named_parameters():
        if p.ndim == 1:
            nn.init.ones_(p) if name.endswith("norm.weight") else nn.init.zeros_(p)
        else:
            last = name.endswith(("attention.out.weight", "mlp.2.weight"))
            nn.init.normal_(p, std=0.02 / (2 * model.config.L) ** 0.5 if last else 0.02)
