"""The scoreboard."""

from builders import tiny_bundle

from minidalle.examine import COLUMNS, Share, scoreboard, with_scores


def test_the_scoreboard_has_a_row_for_each_family_and_split(monkeypatch):
    """An untrained model of the ci preset's shape is never right; the table is plain data."""
    import minidalle.examine as room

    bundle = tiny_bundle()
    bundle.name = "ci"
    monkeypatch.setattr(room, "score", lambda *_: {column: Share(1, 2) for column in COLUMNS})
    monkeypatch.setattr(room, "World", lambda *_: None)
    monkeypatch.setattr(room, "train_examiner", lambda *_: None)
    lines = []
    rows = scoreboard(bundle, 2, 0, echo=lines.append)
    assert [(row["family"], row["split"]) for row in rows] == [
        ("attributes", "test"),
        ("attributes", "zero-shot"),
    ]
    assert rows[0]["ceiling"] == {"right": 1, "n": 2} and len(lines) == 2


def test_scores_replace_older_ones_in_a_card():
    """The card keeps what it said, and has one table."""
    row = {"family": "f", "split": "test", **{column: {"right": 1, "n": 2} for column in COLUMNS}}
    once = with_scores("# a card\n", [row], seed=0)
    twice = with_scores(once, [row], seed=0)
    assert once == twice and once.startswith("# a card\n")
    assert "| f | test | 2 | 0.500 [" in once
