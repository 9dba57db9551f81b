"""The examiner's network: a small convolutional classifier with a head for every fact.  (Chapter 12)"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..world import SIZES, Scene, family

NOTHING = "nothing of this"  # the verdict on what no program of the world has drawn
ABSENT = -100  # the target of a slot that a scene does not have; ignored by cross_entropy
FEATURES = 256
FILL = 0.5  # of the half that is not to be judged; no picture has this grey
HALVES = "translation"  # the family whose upper half can be given

PARTS = ("above", "below")
# What the halves of a translation do not show. The upper one is the thing as it was; below, a line drawing
# has no colour and a new colour hides the old one.
HIDDEN_ABOVE = ("change", "new colour")
HIDDEN_BELOW = {"sketch": ("colour",), "recoloured": ("colour",)}


class Block(nn.Module):
    """Two convolutions beside a way that leads past them. (B, C, h, w) → the same shape."""

    def __init__(self, C: int):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Examiner(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] → logits for the family and for each slot of each family.

    heads: name → classes; "family" has all families and `NOTHING`, "family/slot" the slot's values.
    origin: where its weights are from, in words. Raises ValueError for unknown families and sizes.
    """

    def __init__(self, families: Sequence[str], size: int):
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"the world is drawn at {SIZES} pixels, not at {size}")
        self.size, self.origin = size, "untrained"
        self.families = tuple(families)
        self.heads = {"family": (*self.families, NOTHING)}
        for name in self.families:
            for slot, values in family(name).slots.items():
                self.heads[f"{name}/{slot}"] = tuple(values)
        stride = max(
            1, size // 32
        )  # pictures of 32 pixels and more are 32×32 after the first layer
        side = size // stride // 8
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 2 * stride + 1, stride, padding=stride),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, padding=1),
            Block(64),
            nn.Conv2d(64, 128, 3, 2, padding=1),
            Block(128),
            nn.Conv2d(128, 160, 3, 2, padding=1),
            nn.BatchNorm2d(160),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(160 * side**2, FEATURES),
            nn.ReLU(),
        )
        self.out = nn.Linear(FEATURES, sum(len(values) for values in self.heads.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        sizes = [len(values) for values in self.heads.values()]
        logits = self.out(self.body(2 * x - 1)).split(sizes, dim=-1)
        return dict(zip(self.heads, logits, strict=True))

    def targets(self, scenes: Sequence[Scene | None]) -> dict[str, Tensor]:
        """The true class of every head for each scene, `ABSENT` where it does not apply.

        None stands for a picture that shows nothing: its family is `NOTHING`.
        """
        rows = {head: torch.full((len(scenes),), ABSENT) for head in self.heads}
        for k, scene in enumerate(scenes):
            name = NOTHING if scene is None else scene.family
            rows["family"][k] = self.heads["family"].index(name)
            for slot, value in ({} if scene is None else scene.slots).items():
                head = f"{name}/{slot}"
                rows[head][k] = self.heads[head].index(value)
        return rows

    def judge(
        self, pictures: Tensor, scenes: Sequence[Scene], only_below: bool = False
    ) -> dict[str, Tensor]:
        """Verdicts on pictures (B, 3, S, S): for every head an int64 tensor (B,).

        1 where it reads what the scene says, 0 where it reads something else, −1 where it does not apply.
        Translations are read three times, as a whole and each half alone, so that two halves that do not
        belong together cannot hide behind each other. only_below: judge their lower halves by themselves, as
        where the upper ones were given (chapter 10). Raises ValueError for pictures of another size.
        """
        if only_below:
            return self._alone(pictures, scenes, "below")
        found = verdicts(self.read(pictures), self.targets(scenes))
        if rows := [k for k, scene in enumerate(scenes) if scene.family == HALVES]:
            for half in PARTS:
                again = self._alone(pictures[rows], [scenes[k] for k in rows], half)
                for head, verdict in again.items():
                    found[head][rows] = found[head][rows].where(verdict != 0, 0)
        return found

    def _alone(self, pictures: Tensor, scenes: Sequence[Scene], half: str) -> dict[str, Tensor]:
        """The verdicts on one half of each picture, the other one covered."""
        shown = [shown_alone(scene, half) for scene in scenes]
        return verdicts(self.read(covered(pictures, half)), self.targets(shown))

    def right(self, pictures: Tensor, scenes: Sequence[Scene], only_below: bool = False) -> Tensor:
        """Whether each picture (B, 3, S, S) is right in its family and in every slot: bool (B,)."""
        return all_right(self.judge(pictures, scenes, only_below))

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """What the heads see of pictures (B, 3, S, S): float32 (B, F) on the CPU, for FID-like figures."""
        return torch.cat([self.body(2 * part - 1).cpu() for part in self._parts(pictures)])

    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        """For every head the probability of each class: float32 (B, classes), for IS-like figures."""
        return {head: logits.softmax(-1) for head, logits in self._logits(pictures).items()}

    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """For every head the class it sees in pictures (B, 3, S, S): int64 (B,)."""
        return {head: logits.argmax(-1) for head, logits in self._logits(pictures).items()}

    @torch.inference_mode()
    def _logits(self, pictures: Tensor) -> dict[str, Tensor]:
        answers = [self(part) for part in self._parts(pictures)]
        return {head: torch.cat([answer[head].cpu() for answer in answers]) for head in self.heads}

    def _parts(self, pictures: Tensor) -> list[Tensor]:
        if pictures.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"this examiner reads pictures (B, 3, {self.size}, {self.size}), "
                f"not {tuple(pictures.shape)}; use one of their size"
            )
        return [part.to(self.out.weight.device) for part in pictures.split(256)]


def verdicts(read: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was read (B,) against what is true (B,), head by head: 1 right, 0 wrong, −1 does not apply."""
    return {
        head: (read[head] == target).long().where(target != ABSENT, -1)
        for head, target in targets.items()
    }


def all_right(found: dict[str, Tensor]) -> Tensor:
    """Whether no verdict on a picture is "wrong": bool (B,)."""
    return torch.stack(list(found.values())).ne(0).all(0)


def covered(pictures: Tensor, half: str) -> Tensor:
    """Pictures (B, 3, S, S) of which only one half can be seen, "above" or "below"; the other is grey."""
    middle = pictures.shape[2] // 2
    hidden = slice(0, middle) if half == "below" else slice(middle, None)
    seen = pictures.clone()
    seen[:, :, hidden] = FILL
    return seen


def shown_alone(scene: Scene, half: str) -> Scene:
    """The scene with those facts only that one half of its picture shows, "above" or "below".

    Raises ValueError for a family whose pictures have no halves.
    """
    if scene.family != HALVES:
        raise ValueError(f"only pictures of {HALVES!r} have halves, not {scene.family!r}")
    hidden = HIDDEN_ABOVE if half == "above" else HIDDEN_BELOW.get(scene.slots["change"], ())
    slots = {slot: value for slot, value in scene.slots.items() if slot not in hidden}
    return Scene(scene.family, slots, scene.layout)
