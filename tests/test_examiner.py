"""The examiner's arithmetic; its fitness to judge is tested, slowly, in test_train."""

import pytest
import torch

from minidalle.data import World, to_float
from minidalle.examiner import ABSENT, Examiner, train_examiner
from minidalle.world import FAMILIES


def examples(n=12, size=24):
    source = World(list(FAMILIES), size)
    each = [source[i] for i in range(n)]
    return to_float([e.picture for e in each]), [e.scene for e in each]


class Oracle(Examiner):
    """Answers from a list of scenes instead of looking."""

    def __init__(self, scenes):
        super().__init__(list(FAMILIES), 24)
        self.answers = self.targets(scenes)

    def forward(self, x):
        return {
            head: torch.nn.functional.one_hot(target.clamp_min(0), len(self.heads[head])).float()
            for head, target in self.answers.items()
        }


@pytest.mark.parametrize("size", [24, 32, 64])
def test_there_is_a_head_for_every_slot(size):
    """Family and all slots, with as many logits as there are values."""
    model = Examiner(list(FAMILIES), size)
    pictures, _ = examples(3, size)
    logits = model(pictures)
    assert logits["family"].shape == (3, len(FAMILIES))
    for family in FAMILIES.values():
        for slot, values in family.slots.items():
            assert logits[f"{family.name}/{slot}"].shape == (3, len(values))


def test_targets_are_the_scenes_facts():
    """Each stated slot has its value's index; slots that a scene does not have are absent."""
    _, scenes = examples()
    model = Examiner(list(FAMILIES), 24)
    targets = model.targets(scenes)
    for k, scene in enumerate(scenes):
        for head, target in targets.items():
            family, _, slot = head.partition("/")
            if head == "family":
                assert model.heads[head][target[k]] == scene.family
            elif family == scene.family and slot in scene.slots:
                assert model.heads[head][target[k]] == scene.slots[slot]
            else:
                assert target[k] == ABSENT


def test_right_means_every_slot_and_the_family():
    """An oracle is right; one wrong fact of any slot makes the picture wrong."""
    pictures, scenes = examples()
    assert Oracle(scenes).right(pictures, scenes).all()
    for head in Oracle(scenes).heads:
        oracle = Oracle(scenes)
        stated = oracle.answers[head] != ABSENT
        oracle.answers[head] = (oracle.answers[head] + 1) % len(oracle.heads[head])
        assert (oracle.right(pictures, scenes) == ~stated).all(), head


def test_training_is_deterministic():
    """The same seed gives the same examiner."""
    data = World(["attributes"], 24, where={"count": ("one",)})
    first, second = (train_examiner(data, steps=3, batch=4) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
