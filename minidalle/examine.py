"""The scoreboard: how often pictures are right in every fact that their captions state.  (Chapter 12)

    true pictures   examine the examiner
    ceiling         the dVAE's reconstructions of them: no transformer can do better
    one sample      the first of 32 that DALL·E draws
    best of 32      the one of them that CLIP likes best (paper, §2.6: the best of 512)

for captions of fresh scenes (split "test") and of compositions that no training picture shows ("zero-shot").
The examiner judges and never chooses. The figures beside the shares are defined in `scores`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .bundle import Bundle
from .candidates import BATCH, Candidates, Clock, decode, draw_candidates, encode, noise, paint
from .card import machine
from .data import Scope, World
from .device import choose_precision
from .dvae import code_usage, collapse
from .examiner import (
    EXAMINER_SEED,
    NOTHING,
    AnotherWorld,
    Examiner,
    load_examiner,
    train_examiner,
)
from .image_prompts import FAMILY, examine_prompts
from .questions import ask
from .scores import (
    Share,
    blur,
    chance,
    expected_best,
    frechet,
    inception,
    pairwise_difference,
    pooled,
    wilson,
    without,
)

FORMAT = 2  # of the JSON
SPLITS = ("test", "zero-shot")
CANDIDATES = 32  # returns diminish from here on (paper, §3.1 and figure 9c)
PAIR = 2  # candidates where there is no CLIP to choose: enough to see how much they differ
POOL = 128  # candidates of the best-of-N curve
CHANCE_SCENES = 500
RADII = (0, 1, 2, 4, 8)  # pixels of blur (paper, figure 9; its pictures have 256 pixels on a side)
SHIPPED_SIZE = 64  # pixels on a side that the examiner of the package reads
STEPS_HERE = 1500  # of one that is trained on the spot

TRUE, CEILING, SAMPLE, BEST = "true pictures", "ceiling", "one sample", f"best of {CANDIDATES}"
OTHERS = "other true pictures"  # of other scenes: what FID compares with
SHUFFLED = "shuffled captions"
NO_CLIP = "this model has no CLIP: nothing was chosen, so there is no best of N"
NO_FAMILY = f"this model knows no family “{FAMILY}”: no image prompts"

Echo = Callable[[str], object]


def find_examiner(
    learned: Scope, size: int, echo: Echo = print, steps: int = STEPS_HERE
) -> Examiner:
    """The examiner of a model's pictures: the one that comes with the package, or, for pictures of another
    size and of a world that it does not know, one that is trained on the spot."""
    reason = f"reads {SHIPPED_SIZE} pixels, these pictures have {size}"
    if size == SHIPPED_SIZE:
        try:
            shipped = load_examiner(size)
            unknown = sorted(set(learned.families) - set(shipped.families))
            if not unknown:
                return shipped
            reason = f"does not know {', '.join(unknown)}"
        except AnotherWorld as error:
            reason = f"is of another world ({error})"
    echo(f"the examiner that comes along {reason}: training one, {steps} steps")
    data = World(learned.families, size, "train", EXAMINER_SEED, learned.where)
    return train_examiner(data, steps)


def scope_of(bundle: Bundle) -> Scope:
    """The part of the world that a model learned. Raises ValueError if it is not known, for a model of other
    pictures, say, and for a world that is not this package's."""
    if bundle.world is None:
        raise ValueError(
            f"the model {bundle.name!r} does not say which part of the world it learned (field world of "
            "config.json); only models of the world can be scored or shown in a gallery: the examiner reads "
            "its facts"
        )
    try:
        World(bundle.world.families, bundle.dvae.config.size, where=bundle.world.where)
    except ValueError as error:
        raise ValueError(
            f"the model {bundle.name!r} learned a world that is not this package's: {error}"
        ) from error
    return bundle.world


def scoreboard(
    bundle: Bundle,
    n: int,
    seed: int,
    echo: Echo = print,
    curve: int = 0,
    examiner: Examiner | None = None,
) -> dict[str, object]:
    """Everything that is known of a model, as plain data: the content of `minidalle examine --json`.

    n: captions of each family and split. curve: captions of each for the best-of-N curve; 0 leaves it out.
    examiner: default `find_examiner`. The same arguments give the same figures on the same machine. Raises
    ValueError for fewer than 2 captions and for a model that was not trained on the world. Chapter 12.
    """
    if n < 2 or curve < 0:
        raise ValueError(f"--n must be at least 2, not {n}; --curve at least 0, not {curve}")
    learned, clock = scope_of(bundle), Clock()
    judge = examiner or find_examiner(learned, bundle.dvae.config.size, echo)
    sets = {split: Sets(judge) for split in SPLITS}
    families: dict[str, dict] = {}
    for name in learned.families:
        families[name] = {
            split: examine_family(bundle, sets[split], learned, name, split, n, seed, clock)
            for split in SPLITS
        }
        echo(describe(name, families[name]))
    average = averaged(families)
    echo(describe("average", average))
    board = {
        "format": FORMAT,
        "settings": settings(bundle, judge, n, seed, curve),
        "families": families,
        "average": average,
        "likeness": {split: each.likeness() for split, each in sets.items()},
        "diversity": {split: each.diversity(bundle.dvae.config.K) for split, each in sets.items()},
    }
    codes = board["diversity"]["test"][TRUE]
    if warning := collapse(codes["used"], codes["perplexity"], bundle.dvae.config.K):
        echo(warning)
    missing = []
    if FAMILY in learned.families:
        board["image prompts"] = examine_prompts(bundle, judge, learned, n, seed)
    else:
        missing.append(NO_FAMILY)
    if bundle.clip is None:
        missing.append(NO_CLIP)
    elif curve:
        board["curve"] = best_of_curve(bundle, judge, learned, curve, seed, clock)
    echo(str(clock))
    return plain({**board, "left out": missing})


def settings(bundle: Bundle, judge: Examiner, n: int, seed: int, curve: int) -> dict[str, object]:
    """What the figures depend on besides the weights."""
    precision = str(choose_precision(bundle.device)[0])[6:]
    return {
        "model": bundle.name,
        "n": n,
        "seed": seed,
        "curve": curve,
        "candidates": CANDIDATES if bundle.clip else PAIR,
        "batch": BATCH,
        "precision": precision,
        "examiner": judge.origin,
        "machine": machine(bundle.device),
    }


def examine_family(
    bundle: Bundle,
    sets: "Sets",
    learned: Scope,
    family: str,
    split: str,
    n: int,
    seed: int,
    clock: Clock,
) -> dict[str, Share | float]:
    """One half of a row: the shares of right pictures for n captions of a family and split."""
    size = bundle.dvae.config.size
    asked, captions = ask(learned, family, split, max(2 * n, CHANCE_SCENES), seed)
    scenes, captions = asked[:n], captions[:n]
    true = paint(scenes, size)
    true_tokens = encode(bundle, true)
    many = CANDIDATES if bundle.clip else PAIR
    drawn = draw_candidates(bundle, captions, many, noise(seed, family, split), clock)
    pictures = {TRUE: true, CEILING: decode(bundle, true_tokens), SAMPLE: drawn.first}
    if drawn.similarity is not None:
        pictures[BEST] = drawn.best
    with clock("examiner", len(pictures) * n):
        right = {name: sets.examiner.right(x, scenes) for name, x in pictures.items()}
        # The control: a model that does not listen is as right for another caption as for its own.
        right[SHUFFLED] = sets.examiner.right(drawn.first, scenes[1:] + scenes[:1])
    with clock("FID and IS", (len(pictures) + 1) * n):
        sets.add({**pictures, OTHERS: paint(asked[n : 2 * n], size)}, true_tokens, drawn)
    return {"chance": chance(asked), **{k: Share(int(v.sum()), n) for k, v in right.items()}}


def averaged(families: Mapping[str, Mapping]) -> dict[str, dict]:
    """The last row: all families together, each with the same weight."""
    rows = {}
    for split in SPLITS:
        halves = [row[split] for row in families.values()]
        rows[split] = {"chance": sum(half["chance"] for half in halves) / len(halves)}
        for column in halves[0]:
            if column != "chance":
                rows[split][column] = pooled([half[column] for half in halves])
    return rows


def describe(name: str, row: Mapping[str, Mapping]) -> str:
    """A row in one line, which is printed while the others are still being drawn."""
    drawn = [
        f"{split}, {column} {half[column].value:.2f}"
        for split, half in row.items()
        for column in (CEILING, SAMPLE, BEST)
        if column in half
    ]
    return f"{name:<13}" + " · ".join(drawn)


class Sets:
    """Sets of pictures of a split as the examiner sees them, blurred by every radius: for FID and IS; and of
    their tokens. Families are added one by one, so that no picture has to be kept."""

    def __init__(self, examiner: Examiner):
        self.examiner = examiner
        self.features: dict[str, list[Tensor]] = defaultdict(list)  # of (radii, n, F)
        self.classes: dict[str, list[Tensor]] = defaultdict(list)  # of (radii, n, families)
        self.tokens: dict[str, list[Tensor]] = defaultdict(list)
        self.differences: list[float] = []

    def add(self, pictures: Mapping[str, Tensor], true_tokens: Tensor, drawn: Candidates) -> None:
        """A family's pictures (n, 3, S, S) under the names of their columns, and their tokens."""
        for name, x in pictures.items():
            blurred = [blur(x, radius) for radius in RADII]
            classes = [self.families_of(each) for each in blurred]
            self.features[name].append(torch.stack(list(map(self.examiner.features, blurred))))
            self.classes[name].append(torch.stack(classes))
        self.tokens[TRUE].append(true_tokens.cpu())
        self.tokens[SAMPLE].append(drawn.tokens[:, 0])
        self.differences.append(pairwise_difference(drawn.tokens))

    def families_of(self, pictures: Tensor) -> Tensor:
        """How likely pictures (B, 3, S, S) are of each family, given that they are of one: (B, families).

        What is of no family is no class of IS: else a model that now and then draws nothing would gain.
        """
        nothing = self.examiner.heads["family"].index(NOTHING)
        return without(self.examiner.probabilities(pictures)["family"], nothing)

    def likeness(self) -> dict[str, object]:
        """FID of features against other true pictures', and IS of families, of every set at every radius."""
        features = {name: torch.cat(parts, 1) for name, parts in self.features.items()}
        classes = {name: torch.cat(parts, 1) for name, parts in self.classes.items()}
        fid = {
            name: [frechet(x, y) for x, y in zip(features[OTHERS], each, strict=True)]
            for name, each in features.items()
            if name != OTHERS
        }
        scores = {name: [inception(p) for p in each] for name, each in classes.items()}
        return {"pictures": features[TRUE].shape[1], "radii": RADII, "FID": fid, "IS": scores}

    def diversity(self, K: int) -> dict[str, object]:
        """How many of K codes occur and their perplexity, and how much candidates of a caption differ."""
        used = {name: code_usage(torch.cat(each), K) for name, each in self.tokens.items()}
        codes = {name: {"used": n, "perplexity": p} for name, (n, p) in used.items()}
        return {"codes": K, **codes, "differ": sum(self.differences) / len(self.differences)}


def best_of_curve(
    bundle: Bundle, examiner: Examiner, learned: Scope, n: int, seed: int, clock: Clock
) -> dict[str, object]:
    """Shares of right pictures when CLIP chooses among N = 1, 2, 4 … 128 (paper, figures 6 and 9c).

    Of n captions of each family and split one pool of 128 is drawn; see `expected_best`. Intervals are
    Wilson's as if each caption had given a single yes or no, so rather too wide than too narrow.
    """
    sizes = [2**k for k in range(POOL.bit_length())]
    found: dict[str, object] = {"N": sizes, "captions": n * len(learned.families)}
    for split in SPLITS:
        shares = []
        for family in learned.families:
            scenes, captions = ask(learned, family, split, n, seed)
            generator = noise(seed, "curve", family, split)
            drawn = draw_candidates(bundle, captions, POOL, generator, clock)
            facts = [scene for scene in scenes for _ in range(POOL)]
            right = examiner.right(drawn.pictures.flatten(0, 1), facts).unflatten(0, (n, POOL))
            shares.append([expected_best(drawn.similarity, right, N) for N in sizes])
        means = [float(torch.cat(each).mean()) for each in zip(*shares, strict=True)]
        low, high = zip(*(wilson(mean, found["captions"]) for mean in means), strict=True)
        found[split] = {"right": means, "low": list(low), "high": list(high)}
    return found


def plain(content: object) -> object:
    """Shares as JSON has them, tuples as lists."""
    if isinstance(content, Share):
        return content.as_json()
    if isinstance(content, Mapping):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [plain(value) for value in content]
    return content
