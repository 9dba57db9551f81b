"""Captions to tokens and back, for any text there is."""

import unicodedata

import pytest
import torch
from checks import assert_lossless, assert_padding_is_apart
from hypothesis import given
from hypothesis import strategies as st

from minidalle.tokenizer import Tokenizer, shorten

CAPTIONS = ["a small red circle", "three small red circles", "a large blue square", "un été"] * 5
T = 12
TOKENIZER = Tokenizer.train(CAPTIONS, V=300, T=T)

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(any_text)
def test_decode_undoes_ids_for_any_text(text):
    """No character is lost: decode(ids(s)) is the normalised s."""
    assert_lossless(TOKENIZER.ids, TOKENIZER.decode, TOKENIZER.normalise(text))


@pytest.mark.parametrize(
    "text",
    [
        "A Red Circle",
        "  two  spaces ",
        "naïve café",
        "日本の旗",
        "🐱👨‍👩‍👧",
        "İ ǅ ß ſ",
        "a\tb\nc\0",
        "e\u0301 x\u0301",
    ],
)
def test_decode_undoes_ids_for_awkward_text(text):
    """Capitals, spaces, accents, emoji, controls; and what `str` says normalising is."""
    assert TOKENIZER.decode(TOKENIZER.ids(text)) == TOKENIZER.normalise(text)
    assert TOKENIZER.normalise(text) == unicodedata.normalize("NFC", text).lower()


@given(any_text)
def test_ids_lie_in_the_vocabulary(text):
    """0 … V − 1, so that no text can be mistaken for padding."""
    assert all(0 <= i < TOKENIZER.V for i in TOKENIZER.ids(text))


@given(any_text.filter(str.strip))
def test_every_position_is_padded_by_its_own_token(text):
    """Text first, then V + p at position p: disjoint from the vocabulary and from each other."""
    ids = TOKENIZER.ids(text)
    if len(ids) > T:
        with pytest.raises(ValueError, match=rf"has {len(ids)} tokens.*at most {T}"):
            TOKENIZER.encode([text])
        return
    row = TOKENIZER.encode([text])[0].tolist()
    assert len(row) == T
    assert_padding_is_apart(ids, row, TOKENIZER.V)
    assert TOKENIZER.decode(row) == TOKENIZER.normalise(text)


def test_a_batch_is_encoded_like_its_captions():
    """Rows do not influence each other's padding."""
    both = TOKENIZER.encode(["a red circle", "three small red circles"])
    assert both.shape == (2, T) and both.dtype == torch.int64
    assert torch.equal(both[:1], TOKENIZER.encode(["a red circle"]))
    assert torch.equal(both[1:], TOKENIZER.encode(["three small red circles"]))
    assert TOKENIZER.encode([]).shape == (0, T)


def test_a_caption_may_fill_all_positions():
    """T tokens fit, T + 1 do not."""
    assert TOKENIZER.encode(["z" * T]).max() < TOKENIZER.V
    with pytest.raises(ValueError, match=f"{T + 1} tokens.*{T}"):
        TOKENIZER.encode(["z" * (T + 1)])


@pytest.mark.parametrize("caption", ["", "   ", "\n\t"])
def test_an_empty_caption_is_an_error(caption):
    """Also as one of several; the message says what to do."""
    with pytest.raises(ValueError, match="empty; describe"):
        TOKENIZER.encode(["a red circle", caption])


def test_the_merges_make_words():
    """Words that occur often become one token; capitals make no difference."""
    assert len(TOKENIZER.ids("a small red circle")) == 4
    assert TOKENIZER.ids("A SMALL Red circle") == TOKENIZER.ids("a small red circle")


def test_training_stops_at_v_or_where_nothing_is_left_to_merge():
    """V is an upper bound, the 256 bytes are the lower one."""
    assert Tokenizer.train(CAPTIONS, V=270, T=T).V == 270
    assert 256 < Tokenizer.train(CAPTIONS, V=10_000, T=T).V < 400
    assert Tokenizer.train([], V=300, T=T).V == 256
    with pytest.raises(ValueError, match="256.*255"):
        Tokenizer.train(CAPTIONS, V=255, T=T)


def test_training_is_deterministic():
    """The same captions give the same file."""
    assert Tokenizer.train(CAPTIONS, V=300, T=T).to_json() == TOKENIZER.to_json()


def test_save_and_load(tmp_path):
    """What is written is read back, to the same ids."""
    path = tmp_path / "tokenizer.json"
    path.write_text(TOKENIZER.to_json(), encoding="utf-8")
    loaded = Tokenizer.load(path, T)
    assert loaded.to_json() == TOKENIZER.to_json()
    assert torch.equal(loaded.encode(CAPTIONS), TOKENIZER.encode(CAPTIONS))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1, 2]", b"not json", b"\xff\xfe", b'{"model": 3}']
)
def test_a_malformed_file_is_an_error_that_names_it(tmp_path, content):
    """And nothing but a ValueError."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="tokenizer.json"):
        Tokenizer.load(path, T)


@given(st.text(max_size=100), st.integers(2, 70))
def test_shorten_keeps_its_length(text, length):
    """Error messages stay readable."""
    short = shorten(text, length)
    assert len(short) <= length
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))
