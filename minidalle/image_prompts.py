"""Image prompts on the scoreboard: the upper half is given, is the lower one right?  (Chapter 12)

Paper: figure 14, "the exact same cat on the top as a sketch on the bottom" with the top rows of tokens given.
Here the upper half of a true picture of the family "translation"; the lower half is judged alone.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .bundle import Bundle
from .candidates import decode, draw_tokens, encode, noise, paint
from .data import Scope
from .examiner import Examiner, may_learn
from .questions import ask
from .scores import Share
from .world import FAMILIES, Scene

FAMILY = "translation"
ANOTHER = "another change"


def examine_prompts(
    bundle: Bundle, examiner: Examiner, learned: Scope, n: int, seed: int
) -> dict[str, dict[str, Share]]:
    """Shares of right lower halves by split, and the control: the same upper halves under captions that ask
    for another change, judged by these captions and, to be wrong, by the first ones."""
    rows = {}
    for split in ("test", "zero-shot"):
        scenes, captions = ask(learned, FAMILY, split, n, seed)
        true = paint(scenes, bundle.dvae.config.size)
        tokens = encode(bundle, true)

        def judged(pictures: Tensor, facts: Sequence[Scene]) -> Share:
            return Share(int(examiner.right(pictures, facts, only_below=True).sum()), n)

        below = continued(bundle, captions, tokens, noise(seed, "prompts", split))
        others = [another_change(scene) for scene in scenes]
        asked = [FAMILIES[FAMILY].captions(scene)[0] for scene in others]
        changed = continued(bundle, asked, tokens, noise(seed, "prompts", ANOTHER, split))
        rows[split] = {
            "true pictures": judged(true, scenes),
            "ceiling": judged(decode(bundle, tokens), scenes),
            "one sample": judged(below, scenes),
            ANOTHER: judged(changed, others),
            f"{ANOTHER}, judged by the first caption": judged(changed, scenes),
        }
    return rows


def continued(
    bundle: Bundle, captions: Sequence[str], tokens: Tensor, generator: torch.Generator
) -> Tensor:
    """Pictures (C, 3, S, S) that keep the upper half of tokens (C, N) and draw the rest by the captions."""
    c = bundle.dalle.config
    rows = c.h // 2
    drawn = draw_tokens(bundle, captions, 1, generator, tokens, rows)[:, 0]
    assert torch.equal(drawn[:, : rows * c.w], tokens[:, : rows * c.w]), "given rows were changed"
    return decode(bundle, drawn)


def another_change(scene: Scene) -> Scene:
    """The same thing at the same place with another change that its subject has in training, too: its picture
    has the same upper half.

    The next change, in the order of the slots, with which the scene is one of the test split that no examiner
    learned; about two in five scenes have one, and every second of these recolours or sketches, so that its
    lower half is a training picture's as well. Else the next change, with a scene of the training split.
    Raises ValueError where no change is left.
    """
    family = FAMILIES[FAMILY]
    allowed = [other for other in other_changes(scene) if not family.is_held_out(other.slots)]
    if not allowed:
        raise ValueError(f"no other change of {scene.slots['subject']!r} is allowed in training")
    unseen = (x for x in allowed if family.split_of(x) == "test" and not may_learn(x))
    return next(unseen, allowed[0])


def other_changes(scene: Scene) -> Iterator[Scene]:
    """The same thing at the same place with every other change, the next one first, and in every colour."""
    values, slots = FAMILIES[FAMILY].slots, scene.slots
    same = {slot: slots[slot] for slot in ("subject", "colour")}
    first = values["change"].index(slots["change"])
    for change in values["change"][first + 1 :] + values["change"][:first]:
        new = {**same, "change": change}
        if change != "recoloured":
            yield Scene(FAMILY, new, scene.layout)
            continue
        for colour in values["new colour"]:
            if colour != slots["colour"]:
                yield Scene(FAMILY, {**new, "new colour": colour}, scene.layout)
