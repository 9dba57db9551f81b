"""The transformer: attention in three forms with one meaning, and the blocks around it.  (Chapters 6 and 7)

    dense        `attend`: every score, then the mask; or `attend_fused`, PyTorch's kernel; or
                 `attend_pieces`, which skips what the mask forbids in whole pieces of the stream
    structured   `attend_blocks`: only the scores of blocks that the mask leaves, O(N · W) instead of O(N²)
    cached       one new position against the keys that it sees, for decoding: `attend_fused` for few streams,
                 `attend_apart` for many

Paper: §2.2. Pre-LayerNorm residual blocks; attention and MLP are separate residual branches; one softmax
over text and image keys together. Not stated by the paper, chosen by us: GELU, no weight tying.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .device import choose_attention, choose_decoding, no_autocast
from .masks import (
    Blocks,
    Pieces,
    causal_mask,
    check_kind,
    check_sizes,
    layer_schedule,
    stream_blocks,
    stream_mask,
    stream_pieces,
    visible_keys,
)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d_head) v over the allowed keys.

    q (…, n, d_head), k and v (…, m, d_head), mask (n, m) or one that broadcasts to the scores, True = may
    attend, None = all → (…, n, d_head). Every query must see at least one key.
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (…, n, m)
    if mask is not None:
        forbidden = torch.zeros(mask.shape, dtype=scores.dtype, device=mask.device)
        scores = scores + forbidden.masked_fill_(~mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same by PyTorch's `scaled_dot_product_attention`, which keeps no scores for the backward pass."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend_pieces(q: Tensor, k: Tensor, v: Tensor, pieces: Pieces) -> Tensor:
    """The same, piece after piece of the stream: q, k and v (B, H, P + N, d_head) → (B, H, P + N, d_head).

    The g queries of a piece meet all keys of the pieces that one of them sees, then the mask.
    """
    queries, keys, values = (x.split(pieces.sizes, 2) for x in (q, k, v))
    out = []
    for mine, seen, allowed in zip(queries, pieces.seen, pieces.allowed, strict=True):
        near, worth = (torch.cat([each[n] for n in seen], 2) for each in (keys, values))
        out.append(attend(mine, near, worth, allowed))
    return torch.cat(out, 2)


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> Tensor:
    """The same over the blocks of a mask: q, k and v (B, H, P + N, d_head) → (B, H, P + N, d_head).

    Each block fetches its g queries and their m keys; scores are (B, H, G, g, m) instead of
    (B, H, P + N, P + N).
    """

    def gather(x: Tensor, positions: Tensor) -> Tensor:
        return x.index_select(2, positions.flatten()).unflatten(2, positions.shape)

    keys, values = gather(k, blocks.keys), gather(v, blocks.keys)
    out = attend(gather(q, blocks.queries), keys, values, blocks.allowed)
    return out.flatten(2, 3).index_select(2, blocks.places)


def attend_apart(q: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """`attend` to keys and values that lie in several places, each (2, B, H, m, d_head): one softmax over all
    of them, and nothing is moved together but the scores. A place that holds fewer streams than q
    (B, H, n, d_head) is common to as many neighbours as it takes."""
    keys, values = zip(*(part.unbind() for part in parts), strict=True)
    q = q / math.sqrt(q.shape[-1])
    weights = torch.cat([multiply(q, k.transpose(-2, -1)) for k in keys], -1).softmax(-1)
    pieces = weights.split([k.shape[-2] for k in keys], -1)
    first, *others = (multiply(weight, v) for weight, v in zip(pieces, values, strict=True))
    return sum(others, first)


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """x @ y, where each y serves B / C neighbours: (B, H, n, a) and (C, H, a, b) → (B, H, n, b)."""
    (B, H, n), C = x.shape[:3], len(y)
    if B == C:
        return x @ y
    x = x.unflatten(0, (C, -1)).transpose(1, 2).flatten(2, 3)  # (C, H, B / C · n, a)
    return (x @ y).unflatten(2, (-1, n)).transpose(1, 2).reshape(B, H, n, -1)


FORMS: dict[str, Callable[..., Tensor]] = {
    "dense": attend,
    "fused": attend_fused,
    "pieces": attend_pieces,
    "structured": attend_blocks,
}


@lru_cache(maxsize=64)
def geometry(form: str, kind: str, prefix: int, h: int, w: int, kernel: int, device: torch.device):
    """What a form of attention needs to know of a mask, made once for a device: its `Pieces`, its `Blocks`
    (structured), the visible keys of every image position (cached), or the mask itself."""
    with torch.inference_mode(False):  # else what sampling makes first could not be trained with
        if form in ("dense", "fused"):
            return stream_mask(kind, prefix, h, w, kernel).to(device)
        if form == "pieces":
            sizes, seen, allowed = stream_pieces(kind, prefix, h, w, kernel)
            return Pieces(sizes, seen, [each.to(device) for each in allowed])
        if form == "structured":
            return Blocks(*(x.to(device) for x in stream_blocks(kind, prefix, h, w, kernel)))
        where = visible_keys(kind, prefix, h, w, kernel)
        return [each if isinstance(each, slice) else each.to(device) for each in where]


@dataclass
class Cache:
    """Keys and values of the positions computed so far, one tensor a layer: (2, B, H, P + N, d_head).

    alike: so many streams in a row have the same prefix, which is then read once for all of them.
    """

    layers: list[Tensor]
    length: int = 0
    alike: int = 1

    def repeat(self, n: int | Tensor) -> "Cache":
        """A cache for n candidates of every row (or n[b] of row b), which share what is computed."""
        counts = {n} if isinstance(n, int) else set(n.tolist())
        alike = self.alike * counts.pop() if len(counts) == 1 else 1
        return Cache([kv.repeat_interleave(n, 1) for kv in self.layers], self.length, alike)

    def beside(self, other: "Cache") -> "Cache":
        """One cache for the streams of both, which are equally long: first ours, then the other's."""
        pairs = zip(self.layers, other.layers, strict=True)
        alike = self.alike if self.alike == other.alike else 1
        return Cache([torch.cat(pair, 1) for pair in pairs], self.length, alike)


def fetch(kv: Tensor, where: slice | Tensor) -> Tensor:
    """Some positions' keys and values of (2, B, H, P + N, d_head); a slice is a view, indices are copied."""
    return kv[:, :, :, where] if isinstance(where, slice) else kv.index_select(3, where)


class Attention(nn.Module):
    """Multi-head self-attention; the caller says which keys each query may see."""

    def __init__(self, D: int, H: int):
        super().__init__()
        self.H = H
        self.qkv = nn.Linear(D, 3 * D)
        self.out = nn.Linear(D, D)

    def heads(self, x: Tensor) -> Tensor:
        """x (B, n, D) → q, k and v in one tensor, (3, B, H, n, d_head)."""
        return self.qkv(x).unflatten(-1, (3, self.H, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, mask: Tensor | Pieces | Blocks, form: str = "dense") -> Tensor:
        """x (B, n, D) → (B, n, D), by one of `FORMS`: dense and fused take a mask (n, n), pieces and
        structured its `Pieces` or `Blocks`."""
        q, k, v = self.heads(x)
        return self.out(FORMS[form](q, k, v, mask).transpose(1, 2).flatten(2))

    def extend(
        self,
        x: Tensor,
        kv: Tensor,
        start: int,
        where: Sequence,
        mask: Tensor | None,
        alike: int = 1,
    ) -> Tensor:
        """n new positions (B, n, D) from ``start`` on: writes their keys and values into kv
        (2, B, H, P + N, d_head), then attends to the positions ``where`` alone, slices or indices of them.
        With a mask (n, m) that is a single slice, without one n is 1 and the first is the prefix (see
        `Cache`).

        Scores are in the cache's precision, under autocast too: one query has little to multiply, and that
        is slower in 16 bit on the CPU, while rounding would cost as much as anywhere.
        """
        qkv = self.heads(x).to(kv.dtype)
        q = qkv[0]
        kv[:, :, :, start : start + x.shape[1]] = qkv[1:]
        parts = [fetch(kv, each) for each in where]
        with no_autocast(x.device):
            if mask is not None:
                out = attend(q, *parts[0], mask)
            elif choose_decoding(len(q))[0] == "together":
                out = attend_fused(q, *torch.cat(parts, 3))
            else:
                parts[0] = parts[0][:, ::alike]
                out = attend_apart(q, parts)
        return self.out(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Two residual branches: x + attention(norm(x)), then x + MLP(norm(x)), hidden width 4D."""

    def __init__(self, D: int, H: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(D)
        self.attention = Attention(D, H)
        self.mlp_norm = nn.LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def branches(
        self, mask: Tensor | Pieces | Blocks, form: str = "dense"
    ) -> list[Callable[[Tensor], Tensor]]:
        """What is added to x, one after the other."""
        return [
            lambda x: self.attention(self.attention_norm(x), mask, form),
            lambda x: self.mlp(self.mlp_norm(x)),
        ]

    def forward(
        self,
        x: Tensor,
        mask: Tensor | Pieces | Blocks,
        form: str = "dense",
        checkpointing: bool = False,
    ) -> Tensor:
        """checkpointing: keep the x of each branch alone, and compute the branch again when its gradient is
        due (paper, §2.4)."""
        for branch in self.branches(mask, form):
            x = x + (checkpoint(branch, x, use_reentrant=False) if checkpointing else branch(x))
        return x

    def extend(
        self,
        x: Tensor,
        kv: Tensor,
        start: int,
        where: Sequence,
        mask: Tensor | None,
        alike: int = 1,
    ) -> Tensor:
        x = x + self.attention.extend(self.attention_norm(x), kv, start, where, mask, alike)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True)
class TransformerConfig:
    """D: model width. H: heads. L: layers. prefix: P positions before the h×w image tokens.

    kernel: side of the convolutional mask's window (the paper's is 11 on a 32×32 grid). kinds: of each
    layer, instead of the paper's schedule.
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
        check_sizes(prefix=self.prefix, h=self.h, w=self.w, D=self.D, H=self.H, L=self.L)
        for kind in self.kinds or ("convolution",):
            check_kind(kind, self.kernel)
        if self.D % self.H:
            raise ValueError(f"the width {self.D} does not divide into {self.H} heads")
        if self.kinds and len(self.kinds) != self.L:
            raise ValueError(f"{len(self.kinds)} kinds of layers for L = {self.L} layers")

    @property
    def length(self) -> int:
        """Positions of the stream, P + N."""
        return self.prefix + self.h * self.w


class Transformer(nn.Module):
    """L layers over the stream of P + N positions, each with the mask of its kind.

    form: one of `FORMS`, or None for the one that is fastest on the device (`choose_attention`).
    checkpointing: less memory for more computing while training, with the same gradients (chapter 13).
    """

    def __init__(
        self, config: TransformerConfig, form: str | None = None, checkpointing: bool = False
    ):
        super().__init__()
        if form not in (None, *FORMS):
            raise ValueError(
                f"unknown form of attention {form!r}; choose one of {', '.join(FORMS)}"
            )
        c = self.config = config
        self.form = form
        self.checkpointing = checkpointing
        self.kinds = c.kinds or layer_schedule(c.L)
        self.layers = nn.ModuleList(Layer(c.D, c.H) for _ in range(c.L))
        self.norm = nn.LayerNorm(c.D)

    def mask(self, kind: str) -> Tensor:
        """The (P + N, P + N) mask of the layers of one kind, True = may attend: to look at."""
        c = self.config
        return stream_mask(kind, c.prefix, c.h, c.w, c.kernel)

    def geometry(self, form: str, device: torch.device) -> list:
        """For every layer, what a form of attention needs to know of its mask."""
        c = self.config
        return [geometry(form, kind, c.prefix, c.h, c.w, c.kernel, device) for kind in self.kinds]

    def forward(self, x: Tensor) -> Tensor:
        """The whole stream at once: (B, P + N, D) → (B, P + N, D). Raises ValueError for another shape."""
        c = self.config
        if x.ndim != 3 or x.shape[1:] != (c.length, c.D):
            shape = tuple(x.shape)
            raise ValueError(f"the stream must have shape (B, {c.length}, {c.D}), not {shape}")
        form = self.form or choose_attention(x.device, c.length)[0]
        for layer, mask in zip(self.layers, self.geometry(form, x.device), strict=True):
            x = layer(x, mask, form, self.checkpointing)
        return self.norm(x)

    def new_cache(self, B: int) -> Cache:
        """An empty cache for B streams."""
        c = self.config
        shape = (2, B, c.H, c.length, c.D // c.H)
        return Cache([self.norm.weight.new_empty(shape) for _ in range(c.L)])

    def extend(self, x: Tensor, cache: Cache) -> Tensor:
        """Append n positions (B, n, D) to the cached stream and return their outputs (B, n, D).

        Equal to `forward` on the whole stream, at the cost of the new positions alone; a single image
        position fetches only the keys that its mask allows. Raises ValueError when the stream is full.
        """
        c, start = self.config, cache.length
        shape, streams = tuple(x.shape), cache.layers[0].shape[1]
        if x.ndim != 3 or (x.shape[0], x.shape[2]) != (streams, c.D):
            raise ValueError(f"new positions must have shape ({streams}, n, {c.D}), not {shape}")
        end = start + x.shape[1]
        if end > c.length:
            room = c.length - start
            raise ValueError(f"{x.shape[1]} new positions, but the stream has room for {room}")
        if x.shape[1] == 1 and start >= c.prefix:
            text = slice(0, c.prefix)
            each = [(text, keys[start - c.prefix]) for keys in self.geometry("cached", x.device)]
            masks = [None] * c.L
        elif end <= c.prefix:  # of text alone, without the masks of the picture
            each = [(slice(0, end),)] * c.L
            masks = [causal_mask(end)[start:].to(x.device)] * c.L
        else:
            each = [(slice(0, end),)] * c.L
            masks = [mask[start:end, :end] for mask in self.geometry("dense", x.device)]
        if start < c.prefix:
            cache.alike = 1  # what follows may tell the streams apart
        for layer, kv, where, mask in zip(self.layers, cache.layers, each, masks, strict=True):
            x = layer.extend(x, kv, start, where, mask, cache.alike)
        cache.length = end
        return self.norm(x)
