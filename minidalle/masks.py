"""Attention masks as sets of offsets on the raster, and the schedule of layers.  (Chapters 6 and 7)

i and j are raster indices of query and key on an h×w grid, so row(i) = i // w and column(i) = i % w. Every
kind of layer is a set of offsets i − j that a query may look back:

    row          0, 1, …, w                         a raster window, over the ends of rows
    column       0, w, 2w, …                        the same column, in this row and all above
    convolution  a·w + b ≥ 0, 0 ≤ a ≤ r, |b| ≤ r    a k×k window, r = k // 2, over the ends of rows
    full         0, 1, …, N − 1                     causal over the whole raster

Paper: appendix B.1 and figure 11. It asks of the convolution only that it wraps as the row mask does; the
rule above is ours. A mask is a bool tensor (queries, keys), True = may attend.

The stream is [start-of-text, T text tokens, start-of-image, N image tokens]. Its first P = T + 2 positions
are the *prefix*: causal among themselves, seen by every image token in every layer.
"""

from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = ("row", "column", "convolution", "full")
BLOCK = 32  # queries that share their keys in the structured form: enough for a fast matrix product
PIECE = 64  # positions of a piece of the stream, where whole pieces are skipped


def causal_mask(n: int) -> Tensor:
    """Every position sees itself and all before it, (n, n)."""
    check_sizes(n=n)
    return torch.ones(n, n, dtype=torch.bool).tril()


def offsets(kind: str, h: int, w: int, kernel: int) -> Tensor:
    """How far back a query of this kind of layer may look on an h×w grid: sorted raster distances.

    Raises ValueError for an unknown kind, an empty grid and a kernel without a middle.
    """
    check_sizes(h=h, w=w)
    check_kind(kind, kernel)
    if kind == "row":
        return torch.arange(w + 1)
    if kind == "column":
        return torch.arange(h) * w
    if kind == "convolution":
        r = kernel // 2
        reach = {a * w + b for a in range(r + 1) for b in range(-r, r + 1) if a * w + b >= 0}
        return torch.tensor(sorted(reach))
    return torch.arange(h * w)


def image_mask(kind: str, h: int, w: int, kernel: int) -> Tensor:
    """Image-to-image mask of one kind of layer, (N, N)."""
    back = offsets(kind, h, w, kernel)
    raster = torch.arange(h * w)
    return torch.isin(raster[:, None] - raster[None, :], back)


def row_mask(h: int, w: int) -> Tensor:
    """A raster window: 0 ≤ i − j ≤ w, over the ends of rows; the farthest key stands right above."""
    return image_mask("row", h, w, 1)


def column_mask(h: int, w: int) -> Tensor:
    """The same column, in this row and in all rows above."""
    return image_mask("column", h, w, 1)


def convolution_mask(h: int, w: int, kernel: int) -> Tensor:
    """A kernel×kernel window around the query, of which only the past is kept; it wraps like the row's."""
    return image_mask("convolution", h, w, kernel)


def stream_mask(kind: str, prefix: int, h: int, w: int, kernel: int) -> Tensor:
    """The mask of the whole stream, (P + N, P + N): prefix causal, image sees all of the prefix."""
    check_sizes(prefix=prefix, h=h, w=w)
    mask = causal_mask(prefix + h * w)
    mask[prefix:, prefix:] = image_mask(kind, h, w, kernel)
    return mask


def visible_keys(kind: str, prefix: int, h: int, w: int, kernel: int) -> list[slice | Tensor]:
    """For each image position in turn, the image's stream positions that it sees: what decoding fetches
    besides the prefix. A slice where they are evenly spaced, which fetches without a copy."""
    if kind == "convolution":
        back = offsets(kind, h, w, kernel).flip(0)
        return [prefix + i - back[back <= i] for i in range(h * w)]
    check_sizes(prefix=prefix, h=h, w=w)
    check_kind(kind, kernel)
    first = {"row": lambda i: max(0, i - w), "column": lambda i: i % w, "full": lambda i: 0}[kind]
    step = w if kind == "column" else 1
    return [slice(prefix + first(i), prefix + i + 1, step) for i in range(h * w)]


# --------------------------------------------------------------------------------------------- pieces


class Pieces(NamedTuple):
    """The stream cut into G pieces, prefix and image apart, and what the queries of each have to meet.

    sizes: positions of each piece. seen: for each piece, those with a key that one of its queries may attend
    to. allowed: for each piece (g, m), may the query attend to the key, of the pieces seen one after another.
    """

    sizes: list[int]
    seen: list[list[int]]
    allowed: list[Tensor]


def stream_pieces(kind: str, prefix: int, h: int, w: int, kernel: int) -> Pieces:
    """The mask of the stream as pieces, for attention that leaves out whole pieces of the mask."""
    mask = stream_mask(kind, prefix, h, w, kernel)
    stream = torch.arange(len(mask))
    sizes = [len(x) for part in (stream[:prefix], stream[prefix:]) for x in part.split(PIECE)]
    rows = [band.split(sizes, 1) for band in mask.split(sizes)]
    seen = [[n for n, part in enumerate(row) if part.any()] for row in rows]
    allowed = [torch.cat([row[n] for n in ns], 1) for row, ns in zip(rows, seen, strict=True)]
    return Pieces(sizes, seen, allowed)


# --------------------------------------------------------------------------------------------- blocks


class Blocks(NamedTuple):
    """The stream cut into G blocks of g queries that share m keys, all of them stream positions.

    queries (G, g) and keys (G, m); allowed (G, g, m): may the query attend to the key. Short blocks are
    filled up with their first query and with keys that nobody may attend to. places (P + N,): where each
    stream position stands among the G · g queries.
    """

    queries: Tensor
    keys: Tensor
    allowed: Tensor
    places: Tensor


def tile(kind: str, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of the tile of queries that is one block: those that see nearly the same keys."""
    if kind == "column":
        return h, -(-BLOCK // h)
    if kind == "convolution":
        return 4, BLOCK // 4
    return -(-BLOCK // w), w


def stream_blocks(kind: str, prefix: int, h: int, w: int, kernel: int) -> Blocks:
    """The mask of the stream as blocks, for attention in O(N · W) instead of O(N²).

    W is the number of keys of a block: the prefix and, of the image, a few times √N for the row and column
    layers and a few times k² for the convolution. Nothing of size N² is made on the way.
    """
    check_sizes(prefix=prefix)
    back = offsets(kind, h, w, kernel)
    text = torch.arange(prefix)
    queries = list(text.split(BLOCK))
    keys = [text[: int(q[-1]) + 1] for q in queries]
    raster = torch.arange(h * w).view(h, w)
    rows, columns = tile(kind, h, w)
    for band in raster.split(rows, 0):
        for piece in band.split(columns, 1):
            i = piece.flatten()
            seen = (i[:, None] - back).flatten().unique()
            queries.append(prefix + i)
            keys.append(torch.cat([text, prefix + seen[seen >= 0]]))
    return _fill(queries, keys, prefix, back)


def _fill(queries: list[Tensor], keys: list[Tensor], prefix: int, back: Tensor) -> Blocks:
    """Blocks of different sizes as rectangular tensors."""
    g, m = max(map(len, queries)), max(map(len, keys))
    filled = torch.stack([torch.cat([q, q[:1].expand(g - len(q))]) for q in queries])
    places = filled.new_empty(int(filled.max()) + 1)
    for b, q in enumerate(queries):
        places[q] = b * g + torch.arange(len(q))
    real = torch.stack([torch.arange(m) < len(k) for k in keys])
    padded = torch.stack([torch.nn.functional.pad(k, (0, m - len(k))) for k in keys])
    i, j = filled[:, :, None], padded[:, None, :]
    allowed = real[:, None, :] & (j <= i) & ((j < prefix) | torch.isin(i - j, back))
    return Blocks(filled, padded, allowed, places)


# ------------------------------------------------------------------------------------------- schedule


def layer_schedule(L: int) -> tuple[str, ...]:
    """The kind of each layer (paper, appendix B.1): column where (i − 2) mod 4 = 0, else row; the last one
    convolutional. i counts from 1: row, column, row, row, row, column, …, convolution.

    Raises ValueError for no layers at all.
    """
    check_sizes(L=L)
    kinds = ["column" if (i - 2) % 4 == 0 else "row" for i in range(1, L)]
    return (*kinds, "convolution")


def check_kind(kind: str, kernel: int) -> None:
    """Raise ValueError for an unknown kind of layer and for a kernel without a middle."""
    check_sizes(kernel=kernel)
    if kind not in KINDS:
        raise ValueError(f"unknown kind of layer {kind!r}; choose one of {', '.join(KINDS)}")
    if kernel % 2 == 0:
        raise ValueError(f"the convolution's kernel must be odd, not {kernel}; try {kernel + 1}")


def check_whole(**numbers: int) -> None:
    """Raise ValueError that names the first number with a fraction, or that is none."""
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise ValueError(f"{name} must be a whole number, not {number!r}")


def check_sizes(**sizes: int) -> None:
    """Raise ValueError that names the first size that is not a whole number of at least 1."""
    check_whole(**sizes)
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
