"""Captions to tokens and back, for any text there is."""

import random
import unicodedata

import pytest
import torch
from checks import assert_lossless, assert_padding_is_apart
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from minidalle.tokenizer import DROPOUT, Tokenizer, merge, shorten

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


def test_a_single_string_is_no_list_of_captions():
    """Its letters would each be one; the error shows how to write it."""
    with pytest.raises(ValueError, match=r"encode\(\['cat'\]\)"):
        TOKENIZER.encode("cat")


def test_the_merges_make_words():
    """Words that occur often become one token; capitals make no difference."""
    assert len(TOKENIZER.ids("a small red circle")) == 4
    assert TOKENIZER.ids("A SMALL Red circle") == TOKENIZER.ids("a small red circle")


@given(any_text)
def test_without_dropout_our_merges_are_the_librarys(text):
    """The independent reference: `tokenizers` cuts any text into the same ids."""
    assert TOKENIZER._drop(text, 0.0, random.Random(0)) == TOKENIZER.ids(text)


@given(any_text, st.floats(0, 1), st.integers())
def test_dropout_changes_the_pieces_and_never_the_text(text, dropout, seed):
    """Whatever merges are missing, decoding gives the normalised text; with all missing, its bytes."""
    ids = TOKENIZER._drop(text, dropout, random.Random(seed))
    assert TOKENIZER.decode(ids) == TOKENIZER.normalise(text)
    whole = TOKENIZER._drop(text, 1.0, random.Random(seed))
    assert len(whole) == len(TOKENIZER.normalise(text).encode())


def test_dropout_keeps_a_merge_with_probability_1_minus_p():
    """A word of two letters is whole as often as it should be, within five standard deviations."""
    rng, draws = random.Random(0), 20_000
    whole = sum(merge("ab", {("a", "b"): 0}, DROPOUT, rng) == ["ab"] for _ in range(draws))
    spread = (draws * DROPOUT * (1 - DROPOUT)) ** 0.5
    assert abs(whole - draws * (1 - DROPOUT)) < 5 * spread


def test_dropout_keeps_a_chain_of_merges_as_often_as_the_librarys():
    """Two merges, one after the other: whole with probability (1 − p)², in ours and in `tokenizers`.

    On longer words the library merges a little more often than the published algorithm, see `merge`.
    """
    chain, draws, rng = [("r", "e"), ("re", "d")], 20_000, random.Random(0)
    ranks = {pair: rank for rank, pair in enumerate(chain)}
    vocabulary = {piece: i for i, piece in enumerate(("r", "e", "d", "re", "red"))}
    library = models.BPE(vocabulary, chain, dropout=0.3)
    ours = sum(merge("red", ranks, 0.3, rng) == ["red"] for _ in range(draws)) / draws
    theirs = sum(len(library.tokenize("red")) == 1 for _ in range(draws)) / draws
    spread = (0.49 * 0.51 / draws) ** 0.5
    assert abs(ours - 0.49) < 6 * spread and abs(theirs - 0.49) < 6 * spread


def test_dropout_depends_on_the_generator_alone():
    """One state, one answer; the next call gives another; no dropout draws nothing."""
    captions = ["a small red circle", "a large blue square"] * 20
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    once = TOKENIZER.encode(captions, DROPOUT, first)
    assert torch.equal(once, TOKENIZER.encode(captions, DROPOUT, second))
    assert not torch.equal(once, TOKENIZER.encode(captions, DROPOUT, first))
    state = first.get_state()
    assert torch.equal(TOKENIZER.encode(captions, 0.0, first), TOKENIZER.encode(captions))
    assert torch.equal(first.get_state(), state)


def test_dropout_never_makes_a_caption_too_long():
    """A caption that fits with all its merges always fits; where too many are missing, none is."""
    caption = "three small red circles"
    row = TOKENIZER.encode([caption], dropout=1.0)
    assert torch.equal(row, TOKENIZER.encode([caption]))
    short = TOKENIZER.encode(["red"], dropout=1.0)[0].tolist()
    assert TOKENIZER.decode(short) == "red" and short[3:] == [TOKENIZER.V + p for p in range(3, T)]


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan")])
def test_dropout_is_a_share(dropout):
    """Anything else is an error that shows it."""
    with pytest.raises(ValueError, match=f"between 0 and 1, not {dropout}"):
        TOKENIZER.encode(["red"], dropout)


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


def test_captions_that_nobody_can_shorten_are_cut():
    """Only where asked for: the first T tokens stay, short captions are as ever, empty ones an error."""
    whole = Tokenizer.train(CAPTIONS, V=280, T=64)
    short = Tokenizer(whole.bpe, T=4)
    captions = ["a small red circle and a large blue square", "red"]
    cut = short.encode(captions, cut=True)
    assert cut[0].tolist() == whole.encode(captions)[0, :4].tolist()
    assert (cut[1] == short.encode(["red"])[0]).all()
    with pytest.raises(ValueError, match="at most 4"):
        short.encode(captions)
    with pytest.raises(ValueError, match="empty"):
        short.encode([" "], cut=True)
