"""The examiner examined: does it read every fact, does it call wrong what is wrong?  (Chapter 12)"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from tqdm.auto import tqdm

from ..data import generator_of, to_float
from ..scores import Share
from ..show import quiet
from ..world import Scene, family
from .lessons import (
    DIFFERENCES,
    EMPTY,
    MISMATCHED,
    SPOILT,
    contradict,
    differing,
    draw,
    empty,
    may_learn,
    mismatched,
    spoil,
)
from .network import HALVES, Examiner, all_right, verdicts

Where = Mapping[str, Sequence[str]] | None
READ, REJECTED = "read", "called wrong"


class Finding(NamedTuple):
    """One row of the examination. what: `READ` or `REJECTED`; share: of the pictures, as it should be."""

    what: str
    family: str
    case: str
    share: Share


def fresh(
    name: str, split: str, n: int, seed: int = 0, where: Where = None
) -> list[tuple[Scene, str]]:
    """n scenes of a family with a caption each, from the test or zero-shot split, that no examiner learned.

    Raises ValueError as `Family.example` does, and for the training split.
    """
    if split == "train":
        raise ValueError(
            "an examiner may have learned any training scene; ask for test or zero-shot"
        )
    each = family(name)
    examples = (each.example(index, split, seed, each.own(where)) for index in count())
    unseen = (example for example in examples if not may_learn(example[0]))
    return [next(unseen) for _ in range(n)]


def examine_examiner(
    examiner: Examiner, n: int = 400, seed: int = 0, where: Where = None
) -> list[Finding]:
    """The whole examination, with n fresh pictures of each family and split. Chapter 12.

    where: allowed slot values, of an examiner that learned no others. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"an examination needs at least 1 picture a cell, not {n}")
    found, papers = [], {}
    for name in tqdm(examiner.families, desc="examination", disable=quiet(), leave=False):
        for split in ("test", "zero-shot"):
            scenes = [scene for scene, _ in fresh(name, split, n, seed, where)]
            pictures = drawn(scenes, examiner.size)
            found += facts(examiner, name, split, pictures, scenes)
            if split == "test":
                papers[name] = pictures, scenes
                found += told_otherwise(examiner, pictures, scenes, random.Random(seed))
        found += redrawn(examiner, *papers[name], random.Random(seed))
    found += spoilt(examiner, papers, max(1, n // 4), generator_of(seed, 0))
    if HALVES in papers:
        found += halves(examiner, *papers[HALVES], random.Random(seed), generator_of(seed, 1))
    return found


def failures(findings: Sequence[Finding], least: float = 0.99) -> list[Finding]:
    """The findings with a smaller share than ``least``."""
    return [finding for finding in findings if finding.share.value < least]


def weakest(findings: Sequence[Finding], k: int = 5) -> str:
    """The k findings with the smallest shares, in one line."""
    last = sorted(findings, key=lambda finding: finding.share.value)[:k]
    return "; ".join(f"{f.what} {f.family}, {f.case}: {f.share.value:.3f}" for f in last)


def table(findings: Sequence[Finding]) -> str:
    """The findings as a table in Markdown."""
    lines = ["| | family | case | share | 95 % interval | pictures |", "|---|---|---|---|---|---|"]
    for what, name, case, share in findings:
        low, high = share.interval()
        lines.append(
            f"| {what} | {name} | {case} | {share.value:.4f} | {low:.4f}–{high:.4f} | {share.n} |"
        )
    return "\n".join(lines)


def drawn(scenes: Sequence[Scene], size: int) -> Tensor:
    """Pictures (B, 3, size, size)."""
    return torch.stack([draw(scene, size) for scene in scenes])


def share(hits: Tensor) -> Share:
    """Of a bool tensor (B,)."""
    return Share(int(hits.sum()), len(hits))


# ------------------------------------------------------------------------------- what is there to read


def facts(
    examiner: Examiner, name: str, split: str, pictures: Tensor, scenes: Sequence[Scene]
) -> Iterator[Finding]:
    """How often the family, every slot and all of them at once are read."""
    found = examiner.judge(pictures, scenes)
    for head, verdict in found.items():
        if (verdict >= 0).any():
            case = f"{head.removeprefix(name + '/')}, {split}"
            yield Finding(READ, name, case, share(verdict[verdict >= 0] == 1))
    yield Finding(READ, name, f"every fact, {split}", share(all_right(found)))


# ------------------------------------------------------------------------------------- what is wrong


def told_otherwise(
    examiner: Examiner, pictures: Tensor, scenes: Sequence[Scene], rng: random.Random
) -> Iterator[Finding]:
    """Pictures in which one fact, each in turn, differs from what is asked for."""
    name = scenes[0].family
    for slot, values in family(name).slots.items():
        have = [k for k, scene in enumerate(scenes) if slot in scene.slots]
        asked = []
        for k in have:
            others = [value for value in values if value != scenes[k].slots[slot]]
            asked.append(changed(scenes[k], **{slot: rng.choice(others)}))
        if have:
            wrong = ~examiner.right(pictures[have], asked)
            yield Finding(REJECTED, name, f"another {slot}", share(wrong))


def changed(scene: Scene, **slots: str) -> Scene:
    """The scene with other values in some slots."""
    return Scene(scene.family, {**scene.slots, **slots}, scene.layout)


def redrawn(
    examiner: Examiner, pictures: Tensor, scenes: Sequence[Scene], rng: random.Random
) -> Iterator[Finding]:
    """Pictures of what is nearly the scene, judged by the scene itself."""
    name = scenes[0].family
    for flaw in family(name).flaws:
        shown = [family(name).flawed(scene, flaw, examiner.size, rng) for scene in scenes]
        able = [k for k, picture in enumerate(shown) if picture is not None]
        if able:
            wrong = to_float([shown[k] for k in able])
            right = examiner.right(wrong, [scenes[k] for k in able])
            yield Finding(REJECTED, name, flaw, share(~right))
    for case, change in NEARLY.get(name, {}).items():
        pairs = [(scene, change(scene, rng)) for scene in scenes]
        pairs = [(scene, other) for scene, other in pairs if other not in (None, scene)]
        if pairs:
            asked, shown = zip(*pairs, strict=True)
            wrong = ~examiner.right(drawn(shown, examiner.size), asked)
            yield Finding(REJECTED, name, case, share(wrong))
    if name == "objects":
        pairs = [(k, lone(scene)) for k, scene in enumerate(scenes)]
        kept = [(k, dim) for k, dim in pairs if dim is not None]
        if kept:
            one = torch.stack([without_second(pictures[k], dim) for k, dim in kept])
            wrong = ~examiner.right(one, [scenes[k] for k, _ in kept])
            yield Finding(REJECTED, name, "one of two missing", share(wrong))


def moved(scene: Scene, rng: random.Random) -> Scene | None:
    """Beside each other instead of above each other, or the other way."""
    turned = {"vertical": "horizontal", "horizontal": "vertical"}.get(scene.slots["arrangement"])
    return changed(scene, arrangement=turned) if turned else None


def exchanged(*properties: str) -> Callable[[Scene, random.Random], Scene | None]:
    """Two things exchange some properties, or two cubes of a stack."""

    def change(scene: Scene, rng: random.Random) -> Scene | None:
        s = scene.slots
        if s["arrangement"] == "stack":
            return changed(scene, top=s["bottom"], bottom=s["top"])
        pairs = [(f"{each} {a}", f"{each} {b}") for each in properties for a, b in ("12", "21")]
        return changed(scene, **{one: s[other] for one, other in pairs})

    return change


def misspelt(scene: Scene, rng: random.Random) -> Scene:
    """One letter is another one, whether it makes a word or not."""
    slot = rng.choice([slot for slot in scene.slots if slot.startswith("letter")])
    others = [x for x in family(scene.family).slots[slot] if x != scene.slots[slot]]
    return changed(scene, **{slot: rng.choice(others)})


NEARLY: dict[str, dict[str, Callable[[Scene, random.Random], Scene | None]]] = {
    "objects": {
        "moved: above or beside": moved,
        "colours exchanged": exchanged("colour"),
        "places exchanged": exchanged("size", "colour", "shape"),
    },
    "lettering": {"one letter wrong": misspelt},
}


def lone(scene: Scene) -> int | None:
    """Along which dimension of a picture (3, S, S) the second of two things lies; None for a stack."""
    return {"vertical": 1, "horizontal": 2}.get(scene.slots["arrangement"])


def without_second(picture: Tensor, dim: int) -> Tensor:
    """The second half of a picture (3, S, S) painted over in the colour of the background."""
    picture = picture.clone()
    half = picture.shape[dim] // 2
    picture.narrow(dim, half, half)[:] = picture[:, :1, :1]
    return picture


def interlaced(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Strips of 4 rows of two pictures in turn: a way that no examiner learned."""
    strips = (torch.arange(x.shape[1]) // 4 % 2 == 0)[None, :, None]
    return torch.where(strips, x, other)


def spoilt(
    examiner: Examiner,
    papers: dict[str, tuple[Tensor, list[Scene]]],
    n: int,
    generator: Generator,
) -> Iterator[Finding]:
    """n pictures of each family spoilt in each way; wrong for both scenes, where two were mixed."""
    pictures = torch.cat([pictures[:n] for pictures, _ in papers.values()])
    scenes = [scene for _, each in papers.values() for scene in each[:n]]
    shift = n if len(papers) > 1 else 1  # the other picture is of another family, if there is one
    others, other_scenes = pictures.roll(-shift, 0), scenes[shift:] + scenes[:shift]
    ways = {way: lambda x, y, g, way=way: spoil(way, x, y, g) for way in SPOILT}
    for way, change in {**ways, "interlaced": interlaced}.items():
        pairs = zip(pictures, others, strict=True)
        read = examiner.read(torch.stack([change(x, y, generator) for x, y in pairs]))
        right = [all_right(verdicts(read, examiner.targets(s))) for s in (scenes, other_scenes)]
        yield Finding(REJECTED, "all", way, share(~(right[0] | right[1])))
    wrong = ~examiner.right(pictures, other_scenes)
    yield Finding(REJECTED, "all", "another scene", share(wrong))


# -------------------------------------------------------------------------------- halves of translations


def halves(
    examiner: Examiner,
    pictures: Tensor,
    scenes: Sequence[Scene],
    rng: random.Random,
    generator: Generator,
) -> Iterator[Finding]:
    """Lower halves by themselves, and halves that do not belong together."""
    for head, verdict in examiner.judge(pictures, scenes, only_below=True).items():
        if (verdict >= 0).any():
            case = f"{head.removeprefix(HALVES + '/')}, lower half alone"
            yield Finding(READ, HALVES, case, share(verdict[verdict >= 0] == 1))
    for part, case in EMPTY.items():
        spoilt = torch.stack([empty(x, part, generator) for x in pictures])
        yield Finding(REJECTED, HALVES, case, share(~examiner.right(spoilt, scenes)))
        if part == "below":
            wrong = ~examiner.right(spoilt, scenes, only_below=True)
            yield Finding(REJECTED, HALVES, f"{case}, alone", share(wrong))
    for slot in DIFFERENCES:
        pairs = []
        for scene in scenes:
            mates = [Scene(HALVES, differing(scene, x, slot), scene.layout) for x in scenes]
            if mates := [mate for mate in mates if contradict(scene, mate)]:
                pairs.append((scene, rng.choice(mates)))
        if pairs:
            mixed = torch.stack([mismatched(one, other, examiner.size) for one, other in pairs])
            ones, others = zip(*pairs, strict=True)
            right = examiner.right(mixed, ones) | examiner.right(mixed, others)
            yield Finding(REJECTED, HALVES, f"{MISMATCHED}: {slot}", share(~right))
    for slot in ("subject", "change"):
        differ = [
            (k, s)
            for k, scene in enumerate(scenes)
            for s in [rng.choice(scenes)]
            if s.slots[slot] != scene.slots[slot]
        ]
        if differ:
            ks, asked = zip(*differ, strict=True)
            wrong = ~examiner.right(pictures[list(ks)], asked, only_below=True)
            yield Finding(REJECTED, HALVES, f"another {slot}, lower half alone", share(wrong))
