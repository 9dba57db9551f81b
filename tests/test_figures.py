"""Figures of the chapters: described, light, and moved by a knob."""

import re

import matplotlib
import numpy as np
import pytest
import torch
from chapters import DATA_URI, LARGEST_PICTURE, Images

from minidalle import chapter, figures

matplotlib.use("agg")


def square(shade: int) -> np.ndarray:
    return np.full((8, 8, 3), shade, np.uint8)


def described(shown) -> list[str]:
    """The alt texts of all pictures that an output shows."""
    return [image["alt"] for image in Images(shown._repr_html_()).found]


def plot():
    import matplotlib.pyplot as plt

    figures.style()
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    return figure


def test_every_kind_of_figure_carries_its_alt_text():
    """Plots, rows, token grids and masks show one picture each, with the sentence they were given."""
    alt = 'A "line" that rises & rises.'
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    shown = [
        figures.plotted(plot(), alt),
        figures.row([square(0), square(255)], ["dark", "light"], alt),
        figures.token_grid(torch.arange(6).view(2, 3), alt, torch.arange(6).view(2, 3) > 3),
        figures.mask_picture(mask, alt, borders=[2]),
    ]
    for each in shown:
        assert described(each) == [alt]
        (data,) = DATA_URI.findall(each._repr_html_())
        assert len(data) * 3 / 4 < LARGEST_PICTURE


def test_a_figure_without_alt_text_is_an_error():
    """There is no way to forget it."""
    with pytest.raises(ValueError, match="alt text is empty"):
        figures.Picture(figures.row([square(0)], [""], "x").image, " ")


def test_a_plotted_figure_is_closed():
    """Otherwise notebooks would show it twice, and memory would fill."""
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figures.plotted(plot(), "A line.")
    assert plt.get_fignums() == before


def test_a_mask_is_dark_where_it_may_attend():
    """True is drawn darker than False."""
    sides = [figures.mask_picture(np.full((4, 4), value), "x").image for value in (True, False)]
    dark, light = (np.array(image.convert("L")).mean() for image in sides)
    assert dark < light


def test_chips_show_every_piece_and_its_id():
    """As text: escaped, spaces visible, nothing lost."""
    shown = figures.chips(["a", " <b>"], [5, 7], note="2 tokens")
    text = re.sub(r"<[^>]*>", " ", shown._repr_html_())
    assert "␣&lt;b&gt;" in text and {"5", "7"} <= set(text.split())
    assert repr(shown) == "2 tokens a| <b>"


def test_a_slider_shows_one_frame_and_names_each():
    """One is visible at the start; labels, alt texts and ids are there and depend on the content alone."""
    frames = [figures.row([square(k)], [""], f"Shade {k}.") for k in (0, 100, 255)]
    shown = figures.slider(frames, ["0", "100", '"255"'], "shade", start=1)
    html = shown._repr_html_()
    assert re.findall(r'class="frame"( hidden)?>', html) == [" hidden", "", " hidden"]
    assert described(shown) == ["Shade 0.", "Shade 100.", "Shade 255."]
    assert 'aria-valuetext="100"' in html and "&quot;255&quot;" in html
    assert html == figures.slider(frames, ["0", "100", '"255"'], "shade", start=1)._repr_html_()
    assert html != figures.slider(frames, ["0", "100", "200"], "shade", start=1)._repr_html_()


@pytest.mark.parametrize(("frames", "labels"), [(1, 1), (0, 0), (3, 2)])
def test_a_slider_needs_two_frames_and_their_labels(frames, labels):
    """Otherwise an error with both numbers."""
    with pytest.raises(ValueError, match=f"{frames} frames, {labels} labels"):
        figures.slider([figures.chips(["a"])] * frames, ["x"] * labels, "knob")


def test_where_nobody_can_turn_knobs_a_sentence_stands_instead(monkeypatch):
    """With MINIDALLE_QUIET=1 no widget is made; without, there is one."""
    monkeypatch.setenv("MINIDALLE_QUIET", "1")
    assert "tau" in repr(figures.live(lambda tau: figures.chips([str(tau)]), tau=(0.1, 1.0)))
    monkeypatch.setenv("MINIDALLE_QUIET", "0")
    calls = []
    assert figures.live(lambda tau: calls.append(tau), tau=(0.0, 1.0)) is None
    assert calls == [0.5]


def test_a_chapter_begins_with_the_device_and_the_reason(capsys):
    """And with a seed, so that its cells repeat."""
    device = chapter.begin(seed=3)
    first = torch.rand(())
    chapter.begin(seed=3)
    assert torch.rand(()) == first and isinstance(device, torch.device)
    assert "minidalle" in (said := capsys.readouterr().out) and "because" in said


def test_models_come_from_the_package_or_from_a_run_or_are_trained(monkeypatch, tmp_path):
    """One code path, in this order; what was trained is found the next time."""
    from minidalle import train

    asked, trained = [], set()

    def load(place):
        asked.append(str(place))
        if place != "bundled" and place not in trained:
            raise FileNotFoundError(place)
        return f"model of {place}"

    class Trained:
        def to(self, device):
            return "trained"

    monkeypatch.setattr(chapter, "load", load)
    monkeypatch.setattr(train, "train", lambda preset, out: trained.add(out) or Trained())
    assert chapter.load_or_train("bundled", tmp_path) == "model of bundled"
    assert chapter.load_or_train("ci", tmp_path) == "trained"
    assert chapter.load_or_train("ci", tmp_path) == f"model of {tmp_path / 'ci'}"
    assert asked == ["bundled", "ci", str(tmp_path / "ci"), "ci", str(tmp_path / "ci")]
