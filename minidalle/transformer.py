"""The transformer: masked attention, written to be read, and its cached form.  (Chapters 6 and 7)

Paper: §2.2. Pre-LayerNorm residual blocks; attention and MLP are separate residual branches; one softmax
over text and image keys together. Not stated by the paper, chosen by us: GELU, no weight tying.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .masks import layer_schedule, stream_mask


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q kᵀ / √d_head) v over the allowed keys.

    q (B, H, n, d_head), k and v (B, H, m, d_head), mask (n, m) → (B, H, n, d_head). On the CPU these three
    lines train faster than the fused `scaled_dot_product_attention`, whose backward pass is slow there.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, n, m)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return weights.to(v.dtype) @ v


@dataclass
class Cache:
    """Keys and values of the positions computed so far, of one layer each: (B, H, P + N, d_head)."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0

    def repeat(self, n: int | Tensor) -> "Cache":
        """A cache for n candidates of every row (or n[b] of row b), which share what is computed."""
        keys = [k.repeat_interleave(n, 0) for k in self.keys]
        values = [v.repeat_interleave(n, 0) for v in self.values]
        return Cache(keys, values, self.length)


class Attention(nn.Module):
    """Multi-head self-attention with a given mask."""

    def __init__(self, D: int, H: int):
        super().__init__()
        self.H = H
        self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, n, D) → q, k, v, each (B, H, n, d_head)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.H, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, keys: Tensor, values: Tensor, start: int, mask: Tensor) -> Tensor:
        """Attention of n new positions (B, n, D) from ``start`` on; writes their keys and values."""
        q, k, v = self.heads(x)
        end = start + x.shape[1]
        keys[:, :, start:end], values[:, :, start:end] = k, v
        rows = mask[start:end, :end]
        if len(rows) == 1:  # one new token: fetch only the keys that it may see
            seen = rows[0].nonzero().squeeze(1)
            keys, values, rows = keys[:, :, seen], values[:, :, seen], rows[:, seen]
        else:
            keys, values = keys[:, :, :end], values[:, :, :end]
        return self.out(attend(q, keys, values, rows).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Two residual branches: x + attention(norm(x)), then x + MLP(norm(x)), hidden width 4D."""

    def __init__(self, D: int, H: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(D)
        self.attention = Attention(D, H)
        self.mlp_norm = nn.LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))

    def extend(self, x: Tensor, keys: Tensor, values: Tensor, start: int, mask: Tensor) -> Tensor:
        x = x + self.attention.extend(self.attention_norm(x), keys, values, start, mask)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True)
class TransformerConfig:
    """D: model width. H: heads. L: layers. prefix: P positions before the h×w image tokens.

    kernel: side of the convolutional mask's window (the paper's is 11 on a 32×32 grid).
    """

    prefix: int
    h: int
    w: int
    D: int
    H: int
    L: int
    kernel: int
    kinds: tuple[str, ...] = field(default=())

    def __post_init__(self):
        if self.D % self.H:
            raise ValueError(f"the width {self.D} does not divide into {self.H} heads")
        if self.kinds and len(self.kinds) != self.L:
            raise ValueError(f"{len(self.kinds)} kinds of layers for L = {self.L} layers")


class Transformer(nn.Module):
    """L layers over the stream of P + N positions, each with the mask of its kind."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        c = self.config = config
        self.kinds = c.kinds or layer_schedule(c.L)
        self.layers = nn.ModuleList(Layer(c.D, c.H) for _ in range(c.L))
        self.norm = nn.LayerNorm(c.D)
        for kind in sorted(set(self.kinds)):
            mask = stream_mask(kind, c.prefix, c.h, c.w, c.kernel)
            self.register_buffer(f"{kind}_mask", mask, persistent=False)

    def mask(self, kind: str) -> Tensor:
        """The (P + N, P + N) mask of the layers of one kind."""
        return getattr(self, f"{kind}_mask")

    def forward(self, x: Tensor) -> Tensor:
        """The whole stream at once: (B, P + N, D) → (B, P + N, D)."""
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            x = layer(x, self.mask(kind))
        return self.norm(x)

    def new_cache(self, B: int) -> Cache:
        """An empty cache for B streams."""
        c = self.config
        weight = self.norm.weight
        shape = (B, c.H, c.prefix + c.h * c.w, c.D // c.H)
        make = [weight.new_empty(shape) for _ in range(2 * c.L)]
        return Cache(make[: c.L], make[c.L :])

    def extend(self, x: Tensor, cache: Cache) -> Tensor:
        """Append n positions (B, n, D) to the cached stream and return their outputs (B, n, D).

        Equal to `forward` on the whole stream, at the cost of the new positions alone. Raises
        ValueError when the stream is full.
        """
        room = self.config.prefix + self.config.h * self.config.w - cache.length
        if x.shape[1] > room:
            raise ValueError(f"{x.shape[1]} new positions, but the stream has room for {room}")
        for k, (kind, layer) in enumerate(zip(self.kinds, self.layers, strict=True)):
            x = layer.extend(x, cache.keys[k], cache.values[k], cache.length, self.mask(kind))
        cache.length += x.shape[1]
        return self.norm(x)
