"""Text tokens: byte-level BPE over lowercased captions, padded by position.  (Chapter 3)

Paper: §2.2 (16,384 tokens, at most 256 a caption, lowercase, a padding token for every text position).
The merges are learned and applied by the `tokenizers` library; working on bytes, it loses no character.
Unusual: BPE dropout is a few lines of ours, because the library's takes no seed and a resumed training must
see the same tokens. Ids 0 … V − 1 are BPE tokens, id V + p is the padding of position p.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

DROPOUT = 0.1  # of merges while training (paper, §2.2)


class Tokenizer:
    """Captions ↔ text tokens (B, T)."""

    def __init__(self, bpe: tokenizers.Tokenizer, T: int):
        self.bpe = bpe
        self.T = T

    @property
    def V(self) -> int:
        """Size of the vocabulary without padding."""
        return self.bpe.get_vocab_size()

    @classmethod
    def train(cls, captions: Iterable[str], V: int, T: int) -> "Tokenizer":
        """Learn merges from captions until there are V tokens or nothing is left to merge.

        The 256 bytes are tokens from the start. Raises ValueError for V < 256.
        """
        if V < 256:
            raise ValueError(f"V must be at least 256, one token for every byte, not {V}")
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=V,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(captions, trainer)
        return cls(bpe, T)

    def ids(self, caption: str) -> list[int]:
        """The caption's BPE tokens, without padding and of any length."""
        return self.bpe.encode(caption).ids

    def encode(
        self,
        captions: Sequence[str],
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        cut: bool = False,
    ) -> Tensor:
        """Captions → text tokens (B, T), int64. Chapter 3.

        dropout: share of merges left out at random, see `merge`: the paper trains with `DROPOUT`, our presets
        with 0. A caption that would need more than T tokens then keeps all its merges. The same state of
        the generator (on the CPU) gives the same tokens. cut: keep the first T tokens of a too long caption,
        where nobody is there to shorten it. Raises ValueError for an empty or, without ``cut``, a too long
        caption, and for a single string, whose letters would be captions.
        """
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is a share of the merges, between 0 and 1, not {dropout}")
        if isinstance(captions, str):
            raise ValueError(f"captions must be a list: encode([{shorten(captions)!r}])")
        for caption in captions:
            check_text(caption)
        rng = None
        if dropout:
            rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        rows = []
        for caption, encoding in zip(captions, self.bpe.encode_batch(list(captions)), strict=True):
            n = len(encoding.ids)
            if not caption.strip():
                raise ValueError("the caption is empty; describe a picture, e.g. 'a red circle'")
            if n > self.T and not cut:
                raise ValueError(
                    f"the caption has {n} tokens, this model reads at most {self.T}; "
                    f"shorten it: {shorten(caption)!r}"
                )
            ids = encoding.ids[: self.T]
            if rng and len(dropped := self._drop(caption, dropout, rng)) <= self.T:
                ids = dropped
            rows.append(ids + [self.V + p for p in range(len(ids), self.T)])
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.T)

    def _drop(self, caption: str, dropout: float, rng: random.Random) -> list[int]:
        """The caption's BPE tokens with dropout, of any length."""
        words = self.bpe.pre_tokenizer.pre_tokenize_str(self.normalise(caption))
        pieces = [piece for word, _ in words for piece in merge(word, self.ranks, dropout, rng)]
        return [self.bpe.token_to_id(piece) for piece in pieces]

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        """The merges in the order in which they were learned: pair of pieces → rank."""
        merges = json.loads(self.bpe.to_str())["model"]["merges"]
        return {(left, right): rank for rank, (left, right) in enumerate(merges)}

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens → text; padding is dropped. `decode(ids(s))` is s, NFC-normalised and lowercased."""
        return self.bpe.decode([int(i) for i in ids if i < self.V], skip_special_tokens=False)

    def normalise(self, caption: str) -> str:
        """What the model reads of a caption: Unicode NFC, lowercase."""
        return self.bpe.normalizer.normalize_str(caption)

    def to_json(self) -> str:
        """The vocabulary and the merges as the `tokenizers` library writes them."""
        return self.bpe.to_str(pretty=True)

    @classmethod
    def load(cls, path: Path, T: int) -> "Tokenizer":
        """Read a tokenizer.json. Raises ValueError if it is not one."""
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), T)
        except Exception as error:  # the library raises bare Exception for malformed JSON
            raise ValueError(f"{path} is no tokenizer file: {error}") from error


def merge(
    word: str,
    ranks: Mapping[tuple[str, str], int],
    dropout: float = 0.0,
    rng: random.Random | None = None,
) -> list[str]:
    """Apply BPE merges to one word, the earliest learned first, until none applies. Chapter 3.

    dropout: before each merge every neighbouring pair is ignored with this probability, drawn from ``rng``;
    the word is finished when all of them are (Provilkov et al. 2020, algorithm 1). The library's dropout
    merges slightly more often: obsolete entries of its queue give ignored pairs another chance.
    """
    pieces = list(word)
    while True:
        found = [
            (ranks[pair], k)
            for k, pair in enumerate(zip(pieces, pieces[1:], strict=False))
            if pair in ranks and not (dropout and rng.random() < dropout)
        ]
        if not found:
            return pieces
        _, k = min(found)
        pieces[k : k + 2] = [pieces[k] + pieces[k + 1]]


def check_text(caption: str) -> None:
    """Raise ValueError for anything that is not Unicode text."""
    try:
        caption.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise ValueError(f"a caption must be Unicode text, not {caption!r}") from error


def shorten(text: str, length: int = 60) -> str:
    """The text, cut to a length that fits an error message."""
    return text if len(text) <= length else text[: length - 1] + "…"
