"""Image tokens of a whole source, encoded once and read from disk.  (Chapters 8 and 14)

    tokens/KEY/00000.safetensors    tokens (n, N), the captions' bytes, and where each of them ends

KEY depends on the dVAE's weights and on the source's fingerprint, and stands in every file: tokens of
another dVAE or of other pictures are never mixed in. Files are memory-mapped, so they may be larger than the
machine's memory.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from .data import Reading, Source, load_ahead, to_float
from .dvae import DVAE
from .files import fingerprint, text_fingerprint, write_atomically
from .show import quiet

SHARD = 16_384  # pictures a file
BATCH = 128  # pictures encoded at once


def tokens_key(dvae: DVAE, source: Source, pictures: int) -> str:
    """16 hex digits for these tokens: of the dVAE's sizes and weights, the source, the number."""
    weights = fingerprint(dvae.state_dict())
    return text_fingerprint(f"{asdict(dvae.config)} {weights} {source.fingerprint} {pictures}")


class ImageTokens:
    """Captions and image tokens of the first pictures of a source, by index."""

    def __init__(self, shards: Sequence[Path]):
        self.shards = [load_file(path) for path in shards]  # memory-mapped: read when they are used
        sizes = torch.tensor([len(shard["tokens"]) for shard in self.shards])
        self.firsts = [0, *sizes.cumsum(0).tolist()]

    def __len__(self) -> int:
        return self.firsts[-1]

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        """Caption and image tokens (N,), int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        k = bisect.bisect_right(self.firsts, index) - 1
        shard, row = self.shards[k], index - self.firsts[k]
        first = int(shard["ends"][row - 1]) if row else 0
        text = shard["captions"][first : int(shard["ends"][row])]
        return bytes(text.tolist()).decode(), shard["tokens"][row].long()

    def captions(self) -> Iterator[str]:
        """All captions, in order; much faster than one by one."""
        for shard in self.shards:
            text, first = shard["captions"].numpy().tobytes(), 0
            for end in shard["ends"].tolist():
                yield text[first:end].decode()
                first = end


def encode_once(
    dvae: DVAE,
    source: Source,
    pictures: int,
    folder: Path,
    index: int = 0,
    processes: int = 1,
    wait: Callable[[], None] = lambda: None,
    say: Callable[[str], object] = tqdm.write,
    workers: int = 0,
) -> ImageTokens:
    """Encode the first pictures of a source, or read what an earlier call with the same dVAE wrote.

    index, processes: this process encodes every ``processes``-th file; wait: until all have encoded theirs.
    workers: processes that load pictures. A source of fewer pictures gives them again.
    """
    key = tokens_key(dvae, source, pictures)
    ranges = [range(k, min(k + SHARD, pictures)) for k in range(0, pictures, SHARD)]
    paths = [folder / key / f"{k:05d}.safetensors" for k in range(len(ranges))]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    mine = range(index, len(paths), processes)
    todo = [k for k in mine if not is_whole(paths[k], key, len(ranges[k]), say)]
    # The pictures that this process has read of a stream before each of its files.
    parts = [part for k in todo for part in batches_of(ranges[k], k // processes * SHARD)]
    examples = load_batches(source, parts, workers)
    bar = tqdm(total=pictures, desc="tokens", unit="picture", disable=quiet(), leave=False)
    with bar:
        for k in todo:
            count = -(-len(ranges[k]) // BATCH)
            write_shard(paths[k], key, *encode_pictures(dvae, islice(examples, count), bar.update))
    wait()
    return ImageTokens(paths)


def batches_of(positions: range, before: int) -> list[tuple[range, int]]:
    """Positions in parts of ``BATCH``, each with what `Reading.take` wants to know of it."""
    return [(positions[k : k + BATCH], before + k) for k in range(0, len(positions), BATCH)]


def load_batches(
    source: Source, parts: Sequence[tuple[range, int]], workers: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Captions and pictures (B, 3, S, S) of the parts, in order. Streams are read by this process alone."""
    reading = Reading(source)

    def load(part: tuple[range, int]) -> tuple[list[str], Tensor]:
        examples = reading.take(*part)
        return [each.caption for each in examples], to_float([each.picture for each in examples])

    return load_ahead(load, parts, 0 if isinstance(source, IterableDataset) else workers)


@torch.no_grad()
def encode_pictures(
    dvae: DVAE,
    examples: Iterable[tuple[list[str], Tensor]],
    done: Callable[[int], object] = lambda n: None,
) -> tuple[list[str], Tensor]:
    """Captions and image tokens (n, N) of batches of captions and pictures; the dVAE is left as it is.

    In 32 bit, as when pictures are judged: rounding would move some tokens to a neighbour.
    """
    device = next(dvae.parameters()).device
    captions, tokens = [], []
    for texts, pictures in examples:
        tokens.append(dvae.encode(pictures.to(device)).cpu())
        captions += texts
        done(len(texts))
    return captions, torch.cat(tokens)


def write_shard(path: Path, key: str, captions: Sequence[str], tokens: Tensor) -> None:
    """One file: tokens in 32 bit, captions as bytes end to end, and where each of them ends."""
    texts = [caption.encode() for caption in captions]
    tensors = {
        "tokens": tokens.int(),
        "captions": torch.tensor(list(b"".join(texts)), dtype=torch.uint8),
        "ends": torch.tensor([len(text) for text in texts]).cumsum(0),
    }
    data = to_bytes(tensors, {"key": key})
    write_atomically(path, lambda file: file.write(data))


def is_whole(path: Path, key: str, n: int, say: Callable[[str], object]) -> bool:
    """Whether a file holds the n pictures of this key; one that is damaged is named."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get("key") == key and shapes["tokens"][0] == n:
                return True
        reason = "it belongs to another dVAE or to other pictures"
    except (SafetensorError, OSError, KeyError) as error:
        reason = str(error)
    say(f"warning: {path} is damaged ({reason}); its pictures are encoded again")
    return False
