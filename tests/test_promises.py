"""The scores that `ci` and `two` promise, as a reader trains them: minutes each, judged on fresh captions.

One seed by default, for a slow machine needs many minutes for each; `make promises` takes three of ci.
"""

import subprocess
import sys

import pytest
import torch

from minidalle.bundle import Bundle, load
from minidalle.candidates import decode, encode, paint
from minidalle.data import World, to_float
from minidalle.examine import CEILING, SAMPLE, TRUE
from minidalle.examiner import EXAMINER_SEED, Examiner, fresh, train_examiner
from minidalle.presets import Preset, preset
from minidalle.questions import ask
from minidalle.scores import Share, pooled

pytestmark = pytest.mark.slow
N = 200  # fresh captions of each family and split
SCORED = 77  # the seed of the captions; nothing is trained or chosen on them
LESSONS = {"ci": 800, "two": 1500}  # of the examiner
SPLITS = ("test", "zero-shot")


@pytest.fixture(scope="module", params=["ci", "two"])
def asked(request) -> Preset:
    """The preset that a test is about."""
    return preset(request.param)


@pytest.fixture(scope="module")
def seeds(asked, request) -> range:
    """`two`, which takes longest, has one."""
    return range(request.config.getoption("--seeds") if asked.name == "ci" else 1)


@pytest.fixture(scope="module")
def examiner(asked) -> Examiner:
    """The judge: trained on world pictures of the preset's size, and on nothing else."""
    data = World(asked.families, asked.dvae.size, "train", EXAMINER_SEED, asked.where)
    return train_examiner(data, steps=LESSONS[asked.name])


@pytest.fixture(scope="module")
def trained(asked, seeds, tmp_path_factory) -> list[Bundle]:
    """A bundle for each seed, by the command that a reader types."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in seeds:
        command = ["train", "--preset", asked.name, "--out", str(folder / str(seed))]
        command += ["--seed", str(seed)]
        subprocess.run([sys.executable, "-m", "minidalle", *command], check=True)
    return [load(folder / str(seed)) for seed in seeds]


def scored(bundle: Bundle, examiner: Examiner, name: str, split: str, seed: int) -> dict:
    """N true pictures, their reconstructions, and one sample for each caption, as the command draws it."""
    scenes, captions = ask(preset(bundle.name), name, split, N, SCORED)
    true = paint(scenes, bundle.dvae.config.size)
    sets = {TRUE: true, CEILING: decode(bundle, encode(bundle, true))}
    sets[SAMPLE] = to_float(bundle.draw(captions, seed=seed).pictures)
    return {what: Share(int(examiner.right(x, scenes).sum()), N) for what, x in sets.items()}


@pytest.mark.parametrize("split", SPLITS)
def test_the_examiner_is_fit_to_judge(asked, examiner, split, tell):
    """≥ 97 % of fresh pictures are read in every fact; wrong and blank pictures are called wrong."""
    found = [
        pair for name in asked.families for pair in fresh(name, split, 300, SCORED, asked.where)
    ]
    scenes = [scene for scene, _ in found]
    pictures = paint(scenes, asked.dvae.size)
    right = examiner.right(pictures, scenes).float().mean()
    # Each picture under the facts of the next scene that differs from its own.
    others = [
        next(s for s in scenes[k + 1 :] + scenes[:k] if s.slots != scene.slots)
        for k, scene in enumerate(scenes)
    ]
    wrong = examiner.right(pictures, others).float().mean()
    blank = examiner.right(torch.full_like(pictures, 0.97), scenes).float().mean()
    tell(
        f"{asked.name}, examiner, {split}: right {right:.4f}, others {wrong:.4f}, blank {blank:.4f}",
    )
    assert right >= 0.97 and wrong <= 0.02 and blank <= 0.01


def test_samples_are_what_captions_say(asked, seeds, trained, examiner, tell):
    """ci: of what the dVAE leaves readable, 97 % of first samples are right in every fact, 92 %
    for pairs never seen together. two: 85 % and 75 % of all, ceiling or not."""
    shares, ceilings = {s: [] for s in SPLITS}, {s: [] for s in SPLITS}
    for bundle, seed in zip(trained, seeds, strict=True):
        for name in asked.families:
            for split in SPLITS:
                row = scored(bundle, examiner, name, split, seed)
                figures = "  ".join(f"{column} {share}" for column, share in row.items())
                tell(f"{asked.name}, seed {seed}, {name}, {split}: {figures}")
                shares[split].append(row[SAMPLE])
                ceilings[split].append(row[CEILING])
    least = {"ci": (0.97, 0.92), "two": (0.85, 0.75)}[asked.name]
    for split, promised in zip(SPLITS, least, strict=True):
        share, ceiling = pooled(shares[split]), pooled(ceilings[split])
        tell(f"{asked.name}, {split}: {share}; ceiling {ceiling}")
        assert ceiling.value >= 0.9
        bound = promised * ceiling.value if asked.name == "ci" else promised
        # Other rounding on another machine moves a share by some thousandths: the interval must reach it.
        assert share.interval()[1] >= bound


def test_it_listens_to_the_caption(asked, trained, examiner):
    """The control: pictures for other captions are hardly ever right for this one."""
    scenes, captions = ask(asked, asked.families[-1], "test", N, SCORED)
    drawn = trained[0].draw(captions)
    shifted = scenes[1:] + scenes[:1]
    assert examiner.right(to_float(drawn.pictures), shifted).float().mean() < 0.1
