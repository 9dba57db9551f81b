"""The scoreboard's logic, with models and a judge of which the right answers are known."""

import json
import re

import pytest
import torch
from builders import learned, tiny_bundle, world_bundle

import minidalle.candidates as room
from minidalle import examine, scorecard
from minidalle.candidates import Candidates, Clock, draw_candidates, draw_tokens, noise, paint
from minidalle.data import Scope
from minidalle.dvae import psnr
from minidalle.examine import (
    BEST,
    CEILING,
    OTHERS,
    SAMPLE,
    SHUFFLED,
    SPLITS,
    TRUE,
    Sets,
    find_examiner,
    scope_of,
    scoreboard,
)
from minidalle.examiner import NOTHING, AnotherWorld, Examiner, fresh, may_learn
from minidalle.image_prompts import ANOTHER, FAMILY, another_change, continued, examine_prompts
from minidalle.presets import CI
from minidalle.questions import ask
from minidalle.scorecard import TITLE, section, with_scores
from minidalle.world import FAMILIES, Scene

N = 6
PLAIN = CI.families[0]
LEARNED = Scope(CI.families, CI.where)


class Album:
    """A dVAE that loses nothing: a picture's only token is its number among all that it has seen."""

    class config:
        K, size = 10**6, 24

    def __init__(self):
        self.pictures, self.numbers = [], {}

    def number(self, picture) -> int:
        key = picture.numpy().tobytes()
        if key not in self.numbers:
            self.numbers[key] = len(self.pictures)
            self.pictures.append(picture)
        return self.numbers[key]

    def encode(self, pictures):
        return torch.tensor([[self.number(picture)] for picture in pictures])

    def decode(self, tokens):
        return torch.stack([self.pictures[int(k)] for k in tokens[:, 0]])


class Judge:
    """Knows the scene of every picture that was painted. Right: it shows what the asked scene states."""

    origin, heads = "all-knowing", {"family": ("a", "b", NOTHING)}

    def __init__(self):
        self.scenes = {}

    def note(self, scenes, pictures):
        for scene, picture in zip(scenes, pictures, strict=True):
            self.scenes[picture.numpy().tobytes()] = scene

    def right(self, pictures, scenes, only_below=False):
        shown = [self.scenes[picture.numpy().tobytes()] for picture in pictures]
        pairs = zip(shown, scenes, strict=True)
        return torch.tensor([a.slots.items() >= b.slots.items() for a, b in pairs])

    def features(self, pictures):
        return pictures.mean((2, 3))

    def probabilities(self, pictures):
        return {"family": torch.full((len(pictures), 3), 1 / 3)}


class Fake:
    """A bundle whose samples are what ``draw`` says: (scenes asked, generator) → scenes drawn.

    Its CLIP knows which picture fits, or, for ``blind``, likes the last candidates best.
    """

    name, device, world = "ci", torch.device("cpu"), LEARNED

    def __init__(self, draw, judge, clip=True, blind=False):
        self.dvae, self.draw, self.judge, self.blind = Album(), draw, judge, blind
        self.clip = object() if clip else None
        self.asked = {}

    def similarity(self, pictures, caption):
        if self.blind:
            return torch.arange(float(len(pictures)))[:, None]
        scenes = [self.asked[caption]] * len(pictures)
        return self.judge.right(pictures, scenes).float()[:, None]

    def draw_tokens(self, captions, n, generator):
        rows = []
        for caption in captions:
            drawn = self.draw([self.asked[caption]] * n, generator)
            pictures = paint(drawn, 24)
            self.judge.note(drawn, pictures)
            rows.append(self.dvae.encode(pictures))
        return torch.stack(rows)


def perfect(scenes, generator):
    return scenes


def deaf(scenes, generator):
    """A true picture of the family, whatever was asked."""
    which = torch.randint(10**6, (len(scenes),), generator=generator)
    return [FAMILIES[PLAIN].example(int(k), "train", 7, CI.where)[0] for k in which]


def half(scenes, generator):
    """Right with probability 1/2."""
    others = deaf(scenes, generator)
    heads = torch.rand(len(scenes), generator=generator) < 0.5
    return [a if h else b for a, b, h in zip(scenes, others, heads, strict=True)]


@pytest.fixture
def board(monkeypatch):
    """Examine a fake: its drawing replaces the sampler, and the judge sees what is painted."""

    def run(draw, n=N, curve=0, **settings):
        judge = Judge()
        bundle = Fake(draw, judge, **settings)

        def asking(*arguments):
            scenes, captions = ask(*arguments)
            captions = [f"{caption} #{k}" for k, caption in enumerate(captions)]
            bundle.asked.update(zip(captions, scenes, strict=True))
            return scenes, captions

        def painting(scenes, size):
            pictures = paint(scenes, size)
            judge.note(scenes, pictures)
            return pictures

        drawing = lambda bundle, *arguments: bundle.draw_tokens(*arguments)  # noqa: E731
        monkeypatch.setattr(room, "draw_tokens", drawing)
        monkeypatch.setattr(examine, "ask", asking)
        monkeypatch.setattr(examine, "paint", painting)
        monkeypatch.setattr(examine, "CHANCE_SCENES", 60)
        monkeypatch.setattr(examine, "machine", lambda device: "a machine")
        return scoreboard(bundle, n, 0, lambda line: None, curve, judge)

    return run


def shares(row, column):
    return [row[split][column]["right"] / row[split][column]["n"] for split in SPLITS]


# ------------------------------------------------------------------------------------------ the table


def test_a_perfect_model_is_right_everywhere(board):
    """All shares are 1 and FID is the true pictures' own; the control is at chance."""
    found = board(perfect)
    row = found["families"][PLAIN]
    for column in (TRUE, CEILING, SAMPLE, BEST):
        assert shares(row, column) == [1, 1], column
        assert row["test"][column]["n"] == N
    for split in SPLITS:
        fid = found["likeness"][split]["FID"]
        assert fid[SAMPLE] == pytest.approx(fid[TRUE]) == fid[BEST]
        assert found["diversity"][split]["differ"] == 0
    assert max(shares(row, SHUFFLED)) <= 0.5


def test_a_model_that_does_not_listen_is_at_chance(board):
    """As right for its own caption as for another's; the dVAE's ceiling does not suffer."""
    found = board(deaf, n=40, blind=True)
    row = found["families"][PLAIN]
    assert shares(row, CEILING) == [1, 1]
    for column in (SAMPLE, BEST, SHUFFLED):
        assert shares(row, column)[0] < 0.15, column
    assert 0 < row["test"]["chance"] < 0.1


def test_choosing_helps_and_only_by_clip(board):
    """One sample in two is right: the first as often, the best of 32 by a CLIP that knows, always."""
    found = board(half, n=24)
    (first, _), (best, _) = (shares(found["average"], column) for column in (SAMPLE, BEST))
    assert 0.3 < first < 0.7 and best == 1
    blind = board(half, n=24, blind=True)
    assert 0.3 < shares(blind["average"], BEST)[0] < 0.7
    assert blind["families"][PLAIN]["test"][SAMPLE] == found["families"][PLAIN]["test"][SAMPLE]


def test_a_choice_of_the_first_is_noticed(board, monkeypatch):
    """Planted: the best of 32 is the first of them."""
    monkeypatch.setattr(Candidates, "best", Candidates.first)
    assert shares(board(half, n=24)["average"], BEST)[0] < 0.8


def test_a_judge_of_the_wrong_scenes_is_noticed(board, monkeypatch):
    """Planted: verdicts on scenes in another order; the true pictures give it away."""
    ours = Judge.right
    monkeypatch.setattr(Judge, "right", lambda self, x, scenes, **how: ours(self, x, scenes[::-1]))
    assert shares(board(perfect)["average"], TRUE)[0] < 0.5


def test_without_a_clip_there_is_no_choice_and_a_word_about_it(board):
    found = board(half, clip=False, curve=2)
    assert BEST not in found["average"]["test"] and "curve" not in found
    assert any("no CLIP" in reason for reason in found["left out"])
    assert found["settings"]["candidates"] == 2
    assert BEST not in section(found) and "no CLIP" in section(found)


def test_the_average_gives_every_family_the_same_weight():
    share = examine.Share
    cells = {"chance": 0.1, SAMPLE: share(1, 4)}, {"chance": 0.3, SAMPLE: share(3, 4)}
    rows = {name: dict.fromkeys(SPLITS, cell) for name, cell in zip("ab", cells, strict=True)}
    assert examine.averaged(rows)["test"] == {"chance": pytest.approx(0.2), SAMPLE: share(4, 8)}


def test_fid_compares_with_pictures_of_other_scenes(board):
    """The reference is no set of its own row, or a copy of the questions would look perfect."""
    found = board(perfect)["likeness"]["test"]
    assert found["FID"][TRUE][0] > 0 and OTHERS not in found["FID"]
    assert len(found["FID"][TRUE]) == len(found["radii"]) == 5
    assert found["IS"][TRUE] == pytest.approx([1] * 5), "this judge knows one class only"


class Sorter(Judge):
    """Says with certainty of what family a picture is: that of the number in its first pixel."""

    heads = {"family": (*"abcdefghijk", NOTHING)}

    def probabilities(self, pictures):
        return {"family": torch.eye(12)[pictures[:, 0, 0, 0].long()]}


def test_pictures_of_nothing_are_no_family_more(monkeypatch):
    """Planted: one picture in twelve is "nothing of this". IS of 11 families is 11, and lower with it."""
    monkeypatch.setattr(examine, "blur", lambda pictures, radius: pictures)
    found = []
    for n in (11, 12):
        sets, tokens = Sets(Sorter()), torch.zeros(n, 2, 1).long()
        x = torch.arange(float(n))[:, None, None, None].expand(n, 3, 24, 24)
        sets.add({TRUE: x, OTHERS: x}, tokens[:, 0], Candidates(tokens, x[:, None], None))
        found.append(sets.likeness()["IS"][TRUE][0])
    assert found == pytest.approx([11, 11 ** (11 / 12)])


# ------------------------------------------------------------------------------------------ the curve


def test_the_curve_rises_for_a_clip_that_knows(board):
    """1 − 2^−N for samples that are right one time in two; flat for a blind CLIP; N from 1 to 128."""
    found = board(half, n=2, curve=8)["curve"]
    assert found["N"] == [1, 2, 4, 8, 16, 32, 64, 128] and found["captions"] == 8
    rise = found["test"]["right"]
    assert rise[:3] == pytest.approx([0.5, 0.75, 0.94], abs=0.06) and rise[-1] == 1
    assert all(
        a <= p <= b
        for a, p, b in zip(found["test"]["low"], rise, found["test"]["high"], strict=True)
    )
    flat = board(half, n=2, curve=8, blind=True)["curve"]["test"]["right"]
    assert flat[0] == pytest.approx(rise[0]), "the same pool; at N = 1 nobody chooses"
    assert max(flat[:4]) < 0.75


# ------------------------------------------------------------------------------ a whole model, in small


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return world_bundle(), Examiner(CI.families, 24).eval()


def test_the_board_is_reproducible_plain_data(untrained):
    """Twice the same to the last figure, through JSON; another seed asks for other things."""
    bundle, judge = untrained
    runs = [scoreboard(bundle, 3, seed, lambda line: None, 0, judge) for seed in (0, 0, 1)]
    texts = [json.dumps(run) for run in runs]
    assert texts[0] == texts[1] != texts[2]
    assert json.loads(texts[0]) == runs[0]
    assert list(runs[0]["families"]) == list(CI.families)


def test_one_sample_does_not_depend_on_the_number_of_families_or_batches(untrained, monkeypatch):
    """Every family and split has its own noise; the batch is a matter of speed."""
    bundle, _ = untrained
    _, captions = ask(LEARNED, PLAIN, "test", 3, 0)
    first = draw_tokens(bundle, captions, 4, noise(0, PLAIN, "test"))
    monkeypatch.setattr(room, "BATCH", 5)
    monkeypatch.setattr(room, "autocast", lambda device: torch.autocast("cpu", enabled=False))
    again = [draw_tokens(bundle, captions, 4, noise(0, PLAIN, "test")) for _ in range(2)]
    assert torch.equal(*again) and first.shape == again[0].shape == (3, 4, 36)
    monkeypatch.setattr(room, "BATCH", 64)
    assert torch.equal(again[0], draw_tokens(bundle, captions, 4, noise(0, PLAIN, "test")))
    assert not torch.equal(first, draw_tokens(bundle, captions, 4, noise(0, PLAIN, "zero-shot")))


def test_candidates_are_decoded_in_their_places(untrained):
    """Picture (c, k) is that of tokens (c, k)."""
    bundle, _ = untrained
    drawn = draw_candidates(bundle, ask(LEARNED, PLAIN, "test", 3, 0)[1], 2, noise(0), Clock())
    with torch.no_grad():
        alone = bundle.dvae.decode(drawn.tokens[2, 1:])
    assert float(psnr(drawn.pictures[2, 1:], alone)) > 60
    assert torch.equal(drawn.first, drawn.pictures[:, 0])


def test_the_best_candidate_is_what_clip_likes(untrained):
    """The first of the most similar; without a CLIP there is none, and the error says what to take."""
    pictures = torch.rand(2, 3, 3, 4, 4)
    similarity = torch.tensor([[0.1, 0.7, 0.7], [0.9, 0.2, 0.3]])
    best = Candidates(torch.zeros(2, 3, 4), pictures, similarity).best
    assert torch.equal(best, torch.stack([pictures[0, 1], pictures[1, 0]]))
    with pytest.raises(ValueError, match="no CLIP.*`first`"):
        _ = Candidates(torch.zeros(2, 3, 4), pictures, None).best


@pytest.mark.parametrize(("n", "curve"), [(1, 0), (2, -1)])
def test_too_few_captions_are_an_error(untrained, n, curve):
    with pytest.raises(ValueError, match=f"not {n}.*not {curve}"):
        scoreboard(untrained[0], n, 0, curve=curve)


# -------------------------------------------------------------------------------------- image prompts


@pytest.mark.parametrize("split", SPLITS)
def test_another_change_keeps_the_upper_half(split):
    """Pixel for pixel; it is a change of the same thing that training shows; its lower half differs."""
    for index in range(40):
        scene, _ = FAMILIES[FAMILY].example(index, split)
        other = another_change(scene)
        one, two = paint([scene, other], 64)
        assert torch.equal(one[:, :32], two[:, :32]) and not torch.equal(one[:, 32:], two[:, 32:])
        assert other.slots["change"] != scene.slots["change"]
        assert FAMILIES[FAMILY].split_of(other) != "zero-shot"
        assert set(other.slots) <= set(FAMILIES[FAMILY].slots)


@pytest.mark.parametrize("split", SPLITS)
def test_another_change_is_unseen_where_it_can_be(split):
    """Of all changes and new colours the first whose scene is of the test split and that no examiner may
    learn; else the first that training shows. The scorecard's share: two in five."""
    family, unseen, n = FAMILIES[FAMILY], 0, 300
    for scene, _ in fresh(FAMILY, split, n):
        every = with_every_change(scene)
        allowed = [other for other in every if family.split_of(other) != "zero-shot"]
        test = [other for other in allowed if family.split_of(other) == "test"]
        assert another_change(scene) == (test or allowed)[0]
        assert not any(may_learn(other) for other in test)
        unseen += bool(test)
    assert 0.33 < unseen / n < 0.5 and "two in five" in scorecard.PROMPTS


def with_every_change(scene: Scene) -> list[Scene]:
    """With all other values of "change" and "new colour", in order from the scene's own and round the end."""
    slots = FAMILIES[FAMILY].slots
    thing = {slot: scene.slots[slot] for slot in ("subject", "colour")}
    first, n = slots["change"].index(scene.slots["change"]), len(slots["change"])
    found = []
    for change in [slots["change"][(first + k) % n] for k in range(1, n)]:
        colours = [c for c in slots["new colour"] if c != scene.slots["colour"]]
        more = [{"new colour": c} for c in colours] if change == "recoloured" else [{}]
        found += [Scene(FAMILY, {**thing, "change": change, **new}, scene.layout) for new in more]
    return found


def test_given_rows_stay_as_they_are(untrained, monkeypatch):
    """Token by token; a sampler that forgets them is caught."""
    bundle, _ = untrained
    tokens = torch.randint(bundle.dvae.config.K, (2, 36))
    shown = []
    monkeypatch.setattr("minidalle.image_prompts.decode", lambda bundle, drawn: shown.append(drawn))
    captions = ["a small red circle", "a large blue star"]
    continued(bundle, captions, tokens, noise(0))
    assert torch.equal(shown[0][:, :18], tokens[:, :18])
    assert not torch.equal(shown[0][:, 18:], tokens[:, 18:])
    forgetful = lambda *arguments: torch.zeros(2, 1, 36).long()  # noqa: E731
    monkeypatch.setattr("minidalle.image_prompts.draw_tokens", forgetful)
    with pytest.raises(AssertionError, match="given rows"):
        continued(bundle, captions, tokens, noise(0))


def test_lower_halves_are_judged_by_the_caption_that_was_drawn(monkeypatch):
    """A model that does as told: right for either caption, wrong by the first one after another was asked."""
    judge = Judge()
    bundle = Fake(perfect, judge)
    told = []

    def painting(scenes, size):
        pictures = paint(scenes, size)
        judge.note(scenes, pictures)
        return pictures

    def obedient(bundle, captions, tokens, generator):
        scenes, _ = ask(Scope((FAMILY,)), FAMILY, split_of(generator), 5, 0)
        told.append(captions)
        if captions[0] not in FAMILIES[FAMILY].captions(scenes[0]):
            scenes = [another_change(scene) for scene in scenes]
        return painting(scenes, 24)

    def split_of(generator):
        return SPLITS[(len(told) // 2) % 2]

    monkeypatch.setattr("minidalle.image_prompts.paint", painting)
    monkeypatch.setattr("minidalle.image_prompts.continued", obedient)
    rows = examine_prompts(bundle, judge, Scope((FAMILY,)), 5, 0)
    for split in SPLITS:
        right = {name: share.right for name, share in rows[split].items()}
        assert [right[name] for name in (TRUE, CEILING, SAMPLE, ANOTHER)] == [5] * 4
        assert right[f"{ANOTHER}, judged by the first caption"] == 0


# ------------------------------------------------------------------------------- what a model has learned


def test_a_model_is_examined_on_what_it_learned():
    """Whatever its name says: a preset with families of one's own keeps the name."""
    bundle = world_bundle(("time", "creatures"), {}, T=48)
    judge = Examiner(["time", "creatures"], 24).eval()
    found = scoreboard(bundle, 2, 0, lambda line: None, examiner=judge)
    assert list(found["families"]) == ["time", "creatures"]


def test_what_cannot_be_examined_is_said():
    """A model of other pictures, and one of a family that only somebody else's world has."""
    with pytest.raises(ValueError, match="'tiny-test' does not say.*field world of config.json"):
        scope_of(tiny_bundle())
    for families, where, words in (
        (("attributes", "dots"), {}, "unknown family 'dots'; choose one of attributes"),
        (("attributes",), {"patern": ("plain",)}, "no slot|no family here has a slot 'patern'"),
        (("attributes",), {"count": ("nine",)}, "'nine'"),
    ):
        with pytest.raises(ValueError, match=f"'ci' learned a world that is not .*{words}"):
            scope_of(learned(world_bundle(), *families, **where))


@pytest.mark.parametrize("size, families", [(64, ("time", "dots")), (32, ("time",))])
def test_what_the_shipped_examiner_cannot_read_gets_one_of_its_own(monkeypatch, size, families):
    """Another size, or a family that came later; it learns what the model learned."""
    asked, said = [], []
    world = lambda *arguments: asked.append(arguments)  # noqa: E731
    monkeypatch.setattr(examine, "World", world)
    monkeypatch.setattr(examine, "train_examiner", lambda data, steps: "a new one")
    assert find_examiner(Scope(families, {"kind": ("a",)}), size, said.append) == "a new one"
    assert asked == [(families, size, "train", examine.EXAMINER_SEED, {"kind": ("a",)})]
    assert ("does not know dots" in said[0]) == (size == 64)
    shipped = find_examiner(Scope(("time",)), 64, said.append)
    assert shipped.size == 64 and len(said) == 1
    assert re.fullmatch(r"that comes along, fingerprint [0-9a-f]{16}", shipped.origin)


def test_an_examiner_of_another_world_is_replaced_for_the_time_being(monkeypatch):
    """Somebody's changed world: the message says why; a damaged file is no reason to train."""
    said, error = [], AnotherWorld("config.json: field heads: time/hour has other values")
    monkeypatch.setattr(examine, "train_examiner", lambda data, steps: "a new one")

    def load(size):
        raise error

    monkeypatch.setattr(examine, "load_examiner", load)
    assert find_examiner(Scope(("time",)), 64, said.append) == "a new one"
    assert "is of another world (config.json: field heads" in said[0]
    error = ValueError("fingerprint")
    with pytest.raises(ValueError, match="fingerprint"):
        find_examiner(Scope(("time",)), 64, said.append)


# ------------------------------------------------------------------------------------------- the card


def test_scores_replace_older_ones_in_a_card(board):
    """The card keeps what it said, and has one section; every figure of the board is in it."""
    found = board(half, curve=2)
    once = with_scores("# a card\n", found)
    assert once == with_scores(once, found) and once.startswith(f"# a card\n\n{TITLE}\n")
    assert f"| {PLAIN} |" in once and "| average |" in once and "| 128 |" in once
    assert (
        "of the model “ci”, by `minidalle examine --model … --n 6 --seed 0 --curve 2`"
        in once.lower()
    )
    for line in once.splitlines():
        if line.startswith("|"):
            assert line.endswith("|") and "{" not in line


def test_each_half_of_the_table_has_its_own_chance(board):
    """Zero-shot captions are of fewer compositions: guessing is easier there, and the table says how much."""
    found = board(half)
    for split, chance in (("test", 0.016), ("zero-shot", 0.143)):
        found["families"][PLAIN][split]["chance"] = chance
    head, _, row, *_ = [
        line.split(" | ") for line in with_scores("", found).splitlines() if "|" in line
    ]
    assert head[0] == "| family" and row[0] == f"| {PLAIN}" and len(head) == len(row)
    assert row[head.index("chance")] == "1.6" and row[head.index("zero-shot: chance")] == "14.3"


def test_most_captions_of_fresh_scenes_were_said_in_training():
    """As the card says; objects have so many facts that theirs mostly were not."""
    said_before = []
    for name, family in FAMILIES.items():
        said = {family.example(index)[1] for index in range(4000)}
        said_before.append(sum(caption in said for _, caption in fresh(name, "test", 50)) / 50)
    assert sum(said_before) / len(said_before) > 0.6
    assert "most captions on the left were also\nsaid of training" in scorecard.INTRODUCTION


def test_every_field_is_documented(board):
    """What `minidalle examine --json` writes is listed where it is put into words."""
    documented = re.findall(r"^    (\w[\w ]*?)  ", scorecard.__doc__, re.MULTILINE)
    found = board(half, curve=2)
    assert set(found) | {"image prompts"} == set(documented)
    listed = re.search(r"settings +(.+)", scorecard.__doc__)[1].split(", ")
    assert list(found["settings"]) == listed


def test_tables_have_as_many_cells_as_columns(board):
    """In every row of every table."""
    blocks = section(board(half, curve=2)).split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 5
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
