"""What the examiner learns from, and how.  (Chapter 12)

True pictures in all families, a share of them a little worn, as a decoder wears them, so that it measures
what can be read and not its own nerves; and spoilt pictures, which it has to call `NOTHING`. A generated
picture is never among them.
"""

import random
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from tqdm.auto import tqdm

from ..data import World, generator_of, to_float
from ..device import autocast
from ..optim import muon_and_adamw
from ..schedules import cosine, warmup
from ..show import quiet
from ..world import Family, Scene, family
from .network import ABSENT, HALVES, PARTS, Examiner, covered, shown_alone

EXAMINER_SEED = 1234  # of the examiner's own training scenes
KEPT = 4  # one in so many held-out scenes is kept for its examination
SPOILT_SHARE, FLAWED_SHARE = 0.2, 0.1  # of its lessons show nothing; so many more are nearly right
STEPS = 7000

MUON_LR, ADAMW_LR = 0.02, 2e-3  # with AdamW alone it took three times as many steps

TURNS = {
    "attributes": 2,
    "lettering": 2,
    "objects": 3,
}  # there is more to read in them than in others

# Letters are read one by one: an examiner that knows the words only would guess the last letter.
FREE_SLOTS = {"lettering": ("letter 1", "letter 2", "letter 3")}


# ------------------------------------------------------------------------------------------- scenes


def may_learn(scene: Scene) -> bool:
    """Whether the examiner may learn from a scene; where not, it may be examined on it.

    It learns from the training split and from three in four held-out scenes, told apart by the scene's own
    digest: never from the test split, never from the other held-out scenes.
    """
    split = family(scene.family).split_of(scene)
    return split == "train" or (split == "zero-shot" and scene.digest()[1] % KEPT != 0)


def lesson(each: Family, rng: random.Random, where: Mapping[str, Sequence[str]] | None) -> Scene:
    """A scene to learn from."""
    while True:
        scene = each.sample(rng)
        if rng.random() < 0.5:
            scene = freed(each, scene, rng)
        if fits(scene, each.own(where)) and may_learn(scene):
            return scene


def freed(each: Family, scene: Scene, rng: random.Random) -> Scene:
    """The scene with each slot that does not depend on others drawn by itself: "cat" → "bwx"."""
    new = {slot: rng.choice(each.slots[slot]) for slot in FREE_SLOTS.get(each.name, ())}
    return Scene(scene.family, {**scene.slots, **new}, scene.layout)


def fits(scene: Scene, where: Mapping[str, Sequence[str]] | None) -> bool:
    """Whether every slot has an allowed value; None allows everything."""
    return all(scene.slots.get(slot) in values for slot, values in (where or {}).items())


def draw(scene: Scene, size: int) -> Tensor:
    """The picture, float32 (3, size, size)."""
    return to_float([family(scene.family).draw(scene, size)])[0]


# ------------------------------------------------ spoilt pictures: (3, S, S) and another one → (3, S, S)


def between(low: float, high: float, generator: Generator) -> float:
    """A random number."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def chance(generator: Generator) -> bool:
    """Heads or tails."""
    return between(0, 1, generator) < 0.5


def blank(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """One colour: any, or that of the picture's corner."""
    colour = torch.rand(3, 1, 1, generator=generator) if chance(generator) else x[:, :1, :1]
    return colour.expand_as(x).clone()


def noise(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Random colours, in squares of 1 to 8 pixels."""
    side = 2 ** int(between(0, 4, generator))
    coarse = torch.rand(3, x.shape[1] // side, x.shape[2] // side, generator=generator)
    return coarse.repeat_interleave(side, 1).repeat_interleave(side, 2)


def ground(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """The background alone: every column is the picture's first."""
    return x[:, :, :1].expand_as(x).clone()


def shuffled(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Its squares in random order, 4 or 8 on a side."""
    n = 4 if chance(generator) else 8
    side = x.shape[1] // n
    squares = x.unfold(1, side, side).unfold(2, side, side).reshape(3, n * n, side, side)
    squares = squares[:, torch.randperm(n * n, generator=generator)]
    rows = squares.reshape(3, n, n, side, side).permute(0, 1, 3, 2, 4)
    return rows.reshape(3, n * side, n * side)


def blended(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Two pictures in one, the fainter with a third or more."""
    return torch.lerp(x, other, between(0.35, 0.65, generator))


def glued(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """The upper or left half of one, the rest of another."""
    half = x.shape[1] // 2
    if chance(generator):
        return torch.cat([x[:, :half], other[:, half:]], 1)
    return torch.cat([x[:, :, :half], other[:, :, half:]], 2)


def erased(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Half of it painted over in the colour of a corner that stays."""
    turned, flipped = chance(generator), chance(generator)
    painted = (x.transpose(1, 2) if turned else x).clone()
    painted = painted.flip(1) if flipped else painted
    painted[:, x.shape[1] // 2 :] = painted[:, :1, :1]
    painted = painted.flip(1) if flipped else painted
    return painted.transpose(1, 2) if turned else painted


def blurred(x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """No more than 3 to 5 squares on a side are left of it."""
    n = int(between(3, 6, generator))
    small = F.adaptive_avg_pool2d(x[None], n)
    return F.interpolate(small, x.shape[1:], mode="bilinear")[0]


SPOILT: dict[str, Callable[[Tensor, Tensor, Generator], Tensor]] = {
    each.__name__: each
    for each in (blank, noise, ground, shuffled, blended, glued, erased, blurred)
}


def spoil(how: str, x: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """A picture (3, S, S) spoilt in one of the ways of `SPOILT`; what it leaves as it is becomes blank."""
    spoilt = SPOILT[how](x, other, generator)
    changed = (spoilt - x).abs().amax(0) > 0.1
    return spoilt if changed.float().mean() > 0.03 else blank(x, other, generator)


# ------------------------------------------------------------------- spoilt in one family only: its halves

MISMATCHED = "halves that contradict each other"
EMPTY = {"above": "upper half empty", "below": "lower half empty"}
DIFFERENCES = ("anything", "colour", "subject")  # between two halves that contradict each other


def mismatched(one: Scene, other: Scene, size: int) -> Tensor:
    """The upper half of one translation above the lower half of another, (3, size, size)."""
    upper, lower = draw(one, size), draw(other, size)
    return torch.cat([upper[:, : size // 2], lower[:, size // 2 :]], 1)


def contradiction(
    rng: random.Random, where: Mapping[str, Sequence[str]] | None
) -> tuple[Scene, Scene]:
    """Two translations at the same place; the lower half of the second cannot belong to the first."""
    while True:
        one, other = (lesson(family(HALVES), rng, where) for _ in range(2))
        slot = rng.choice(DIFFERENCES)
        other = Scene(HALVES, differing(one, other, slot), one.layout)
        if may_learn(other) and contradict(one, other):
            return one, other


def differing(one: Scene, other: Scene, slot: str) -> dict[str, str]:
    """The slots of another translation, or of the first one with one slot of the other."""
    return other.slots if slot == "anything" else {**one.slots, slot: other.slots[slot]}


def contradict(upper: Scene, lower: Scene) -> bool:
    """Whether the lower half of one translation shows another thing than the upper half of another."""
    seen = shown_alone(lower, "below").slots
    return any(seen.get(k, upper.slots[k]) != upper.slots[k] for k in ("subject", "colour"))


def empty(x: Tensor, part: str, generator: Generator) -> Tensor:
    """A translation (3, S, S) of whose upper or lower half ("above", "below") the background is left, or one
    colour, noise or a blur."""
    if part == "above":
        return empty(x.flip(1), "below", generator).flip(1)
    half = x.shape[1] // 2
    ways = (ground, blank, noise, blurred)
    way = ways[int(between(0, len(ways), generator))]
    # Of the lower half alone: a picture's background and blur know the upper one.
    lower = x[:, half:].repeat_interleave(2, 1)
    lower = F.avg_pool2d(way(lower, x, generator), (2, 1))
    return torch.cat([x[:, :half], lower], 1)


# ------------------------------------------------------------------------- nearly right, family by family

OFTEN = {"attributes": 2}  # families whose flaws are harder to see than the others'
TRIES = 100  # scenes, among which one that can have a flaw is looked for


def flawed(
    each: Family,
    flaw: str,
    size: int,
    rng: random.Random,
    where: Mapping[str, Sequence[str]] | None,
) -> Tensor | None:
    """A picture (3, size, size) of a family with a flaw; None where no scene that fits ``where`` has it."""
    for _ in range(TRIES):
        picture = each.flawed(lesson(each, rng, where), flaw, size, rng)
        if picture is not None:
            return to_float([picture])[0]
    return None


def possible_flaws(data: World) -> list[tuple[Family, str]]:
    """The flaws that pictures of some families can have, each as often as it is to be learned."""
    return [
        (each, flaw)
        for each in data.families
        for flaw in each.flaws * OFTEN.get(each.name, 1)
        if flawed(each, flaw, data.size, random.Random(each.name), data.where) is not None
    ]


# ----------------------------------------------------------------------------------- worn pictures


def worn(pictures: Tensor, generator: Generator) -> Tensor:
    """Half of the pictures (B, 3, S, S) as a decoder wears them: a little blurred, noisy, off in colour and
    place, in changing degrees; the other half as they are."""
    B, S = len(pictures), pictures.shape[-1]

    def some(*shape: int) -> Tensor:
        return torch.rand(B, *shape, generator=generator)

    x = pictures
    coarse = coarser(S, round(S * between(0.5, 0.9, generator)))
    x = torch.where(some(1, 1, 1) < 0.3, coarse.T @ x @ coarse, x)
    x = soft(x, 0.25 * some(1, 1, 1))
    x = x * (1 + 0.08 * (some(3, 1, 1) - 0.5)) + 0.08 * (some(3, 1, 1) - 0.5)
    for side in (1, 4):  # a grain, and squares as decoders leave them
        grain = torch.randn(B, 3, S // side, S // side, generator=generator)
        grain = grain.repeat_interleave(side, 2).repeat_interleave(side, 3)
        x = x + 0.03 * some(1, 1, 1) * grain
    # 0 or 1 pixel, up and to the left only: so the shipped examiner has learned it.
    down, right = (int(between(-1, 2, generator)) for _ in range(2))
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[:, :, 1 + down : 1 + down + S, 1 + right : 1 + right + S]
    return torch.where(some(1, 1, 1) < 0.5, pictures, x.clamp(0, 1))


def coarser(S: int, n: int) -> Tensor:
    """The matrix (S, S) that averages rows of S pixels down to n and stretches them again."""
    few = F.adaptive_avg_pool1d(torch.eye(S)[None], n)
    return F.interpolate(few, S, mode="linear")[0]


def soft(x: Tensor, share: Tensor) -> Tensor:
    """Every pixel gives ``share`` (up to 1/4) of itself to each neighbour, along the rows and the columns."""
    for dims in ((1, 1, 0, 0), (0, 0, 1, 1)):
        wide = F.pad(x, dims, mode="replicate")
        first = wide[..., :-2] if dims[0] else wide[..., :-2, :]
        last = wide[..., 2:] if dims[0] else wide[..., 2:, :]
        x = x + share * (first + last - 2 * x)
    return x


# ---------------------------------------------------------------------------------------- the lessons


class Lessons:
    """Batches of pictures (B, 3, S, S) with their scenes, None for a spoilt one: a pure function of the step.

    data: says which families, how large, with which slot values and from which seed.
    """

    def __init__(self, data: World, batch: int, seed: int):
        self.data, self.batch, self.seed = data, batch, seed
        names = [each.name for each in data.families]
        self.ways = [*SPOILT]
        self.turns = [(name, None) for name in names for _ in range(TURNS.get(name, 1))]
        self.flaws = possible_flaws(data)
        if HALVES in names:
            self.ways += [MISMATCHED, *EMPTY.values()]
            # Each half alone has a turn of its own.
            self.turns += [(HALVES, part) for part in PARTS]

    def __getitem__(self, step: int) -> tuple[Tensor, list[Scene | None]]:
        generator = generator_of(self.seed, step)
        rng = random.Random(f"examiner/{self.data.seed}/{self.seed}/{step}")
        spoilt = round(SPOILT_SHARE * self.batch)
        nearly = round(FLAWED_SHARE * self.batch) if self.flaws else 0
        true = self.batch - spoilt - nearly
        turns = [self.turns[(step * true + k) % len(self.turns)] for k in range(true)]
        scenes = [lesson(family(name), rng, self.data.where) for name, _ in turns]
        pictures = [draw(scene, self.data.size) for scene in scenes]
        ways = [rng.choice(self.ways) for _ in range(spoilt)]
        pictures += [self._spoilt(way, pictures, rng, generator) for way in ways]
        for _ in range(nearly):
            each, flaw = rng.choice(self.flaws)
            pictures.append(flawed(each, flaw, self.data.size, rng, self.data.where))
        x = worn(torch.stack(pictures), generator)
        emptied = {way: part for part, way in EMPTY.items()}
        seen = [part for _, part in turns] + [emptied.get(way) for way in ways]
        for part in PARTS:
            alone = [k for k, half in enumerate(seen) if half == part]
            x[alone] = covered(x[alone], part)
        shown = [
            shown_alone(scene, part) if part else scene
            for scene, (_, part) in zip(scenes, turns, strict=True)
        ]
        return x, [*shown, *[None] * (spoilt + nearly)]

    def _spoilt(
        self, way: str, pictures: list[Tensor], rng: random.Random, generator: Generator
    ) -> Tensor:
        if way == MISMATCHED:
            return mismatched(*contradiction(rng, self.data.where), self.data.size)
        for part, name in EMPTY.items():
            if way == name:
                scene = lesson(family(HALVES), rng, self.data.where)
                return empty(draw(scene, self.data.size), part, generator)
        first, second = rng.sample(range(len(pictures)), 2)
        return spoil(way, pictures[first], pictures[second], generator)


def train_examiner(
    data: World,
    steps: int = STEPS,
    batch: int = 64,
    seed: int = 0,
    watch: Callable[[int, Examiner], object] | None = None,
) -> Examiner:
    """Train an examiner on world pictures of one size. Deterministic given the seed and the machine.

    data: names the families, size, allowed slot values and seed; which scenes are learned says `may_learn`.
    watch: called with step and examiner eight times on the way.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Examiner([each.name for each in data.families], data.size)
    model = model.to(memory_format=torch.channels_last)
    kernels = [p for p in model.body.parameters() if p.ndim > 1]
    optimizer = muon_and_adamw(model, kernels, MUON_LR, ADAMW_LR, (0.9, 0.999), 0.01)
    rates = [group["lr"] for group in optimizer.param_groups]
    lessons = Lessons(data, batch, seed)
    bar = tqdm(range(steps), desc="examiner", unit="step", disable=quiet(), leave=False)
    for step in bar:
        now = warmup(step, 50) * cosine(step, 1.0, 0.01, steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * now
        pictures, scenes = lessons[step]
        loss = surprise(model, pictures, scenes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watch is not None and (step + 1) % max(1, steps // 8) == 0:
            watch(step + 1, model.eval())
            model.train()
    model.origin = f"trained for {steps:,} steps on {', '.join(model.families)}, seed {seed}"
    return model.eval()


def surprise(model: Examiner, pictures: Tensor, scenes: Sequence[Scene | None]) -> Tensor:
    """Cross-entropy of all facts, per picture, in nats."""
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    with autocast(pictures.device):
        logits = model(pictures)
    losses = [
        F.cross_entropy(logits[head].float(), target, reduction="sum")
        for head, target in model.targets(scenes).items()
        if (target != ABSENT).any()
    ]
    return torch.stack(losses).sum() / len(scenes)
