"""Text tokens: byte-level BPE over lowercased captions, padded by position.  (Chapter 3)

Paper: §2.2 (16,384 tokens, at most 256 a caption, lowercase, a padding token for every text position).
The merges are learned and applied by the `tokenizers` library; working on bytes, it loses no character.
Left out so far: the paper's 10 % BPE dropout.
Ids 0 … V − 1 are BPE tokens, id V + p is the padding of position p.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor


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

    def encode(self, captions: Sequence[str], cut: bool = False) -> Tensor:
        """Captions → text tokens (B, T), int64. Raises ValueError for an empty or too long caption.

        cut: keep the first T tokens of a too long one instead, for captions that nobody is there to shorten.
        """
        for caption in captions:
            check_text(caption)
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
            rows.append(encoding.ids[: self.T] + [self.V + p for p in range(n, self.T)])
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.T)

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


def check_text(caption: str) -> None:
    """Raise ValueError for anything that is not Unicode text."""
    try:
        caption.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise ValueError(f"a caption must be Unicode text, not {caption!r}") from error


def shorten(text: str, length: int = 60) -> str:
    """The text, cut to a length that fits an error message."""
    return text if len(text) <= length else text[: length - 1] + "…"
