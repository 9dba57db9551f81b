"""Training from nothing."""

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checks import assert_half_cosine
from odd_files import encoded, hostile, img2dataset, odd_folder, write
from PIL import Image
from runs import QUICK, assert_same_run

import minidalle.checkpoint
import minidalle.loop
import minidalle.stages as stages
import minidalle.train as room
from minidalle import card, cli
from minidalle.bundle import load
from minidalle.clip import CLIP
from minidalle.dalle import DALLE
from minidalle.data import FewFamilies, Order, Scope, World, to_float
from minidalle.data.emoji import FONTS, NAMES
from minidalle.loop import REPORTS, Portion
from minidalle.presets import PRESETS, DALLETraining, DVAETraining, preset
from minidalle.tokens import encode_once
from minidalle.world import family

CI = preset("ci")
SEEDS = (0, 1, 2)
N = 200  # fresh captions of each split, as the promise says
SCORED = 77  # the seed of the captions; nothing is trained or chosen on them


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """A run of a few steps."""
    out = tmp_path_factory.mktemp("runs") / "quick"
    room.train(QUICK, out, seed=3)
    return out


def test_a_run_leaves_a_model_a_log_and_samples(quick):
    """The folder is a bundle that draws; the log has every promised figure; the grid is a PNG."""
    lines = [json.loads(line) for line in (quick / "log.jsonl").read_text().splitlines()]
    last = {line["stage"]: line for line in lines}
    assert list(last) == ["tokenizer", "dVAE", "tokens", "DALL·E", "CLIP"]
    assert last["dVAE"].keys() >= {"psnr_hard", "codes_used", "perplexity"}
    assert last["DALL·E"].keys() >= {"text_nats", "image_nats", "samples_per_second"}
    assert last["CLIP"].keys() >= {"found", "found_near", "scale", "train_captions_found"}
    assert last["dVAE"].keys() >= {"train_loss", "tau", "rate", "samples_per_second"}
    assert sum(line["stage"] == "dVAE" for line in lines) == REPORTS
    for stage in ("dvae", "dalle", "clip"):
        assert len(list(quick.glob(f"samples-{stage}-*.png"))) == REPORTS
    assert Image.open(quick / "samples.png").format == "PNG"
    assert len(load(quick).draw("a small red circle", n=2).pictures) == 2


def test_the_card_says_where_the_weights_come_from(quick):
    """Commit, command, seed, machine, minutes and the last figures."""
    text = load(quick).card
    for word in (
        "commit:",
        "--preset ci --seed 3",
        "threads",
        "minutes:",
        "psnr_hard",
        "image_nats",
    ):
        assert word in text
    assert "; the dVAE saw" not in text, "all families have one turn"


def test_other_families_can_be_learned(tmp_path):
    """The model remembers which, and its card how to train it again."""
    ours = replace(QUICK.of_families(("creatures", "attributes", "time")), name="ci")
    bundle = room.train(ours, tmp_path / "run")
    assert bundle.world == load(tmp_path / "run").world
    assert bundle.world == Scope(("creatures", "attributes", "time"), CI.where)
    command = "--preset ci --family creatures --family attributes --family time --seed 0"
    assert command in bundle.card and "(creatures, attributes, time)" in bundle.card
    assert bundle.name == "ci · creatures, attributes, time", "no other model's"
    for split in ("train", "test", "zero-shot"):  # of which none is too long to be asked for
        world = World(bundle.world.families, 24, split, 5, CI.where)
        bundle.tokenizer.encode(world.captions(600))


def test_the_command_of_a_card_is_that_of_the_run():
    """Everything that changes the result, without the folders above the data."""
    settings = {"data": "world", "preset": {"name": "ci", "families": [*CI.families]}, "seed": 3}
    settings |= {"filtered": None, "rank": 0}
    world = World(CI.families, 24)
    assert (
        card.command(settings, "ci", world) == "minidalle train --data world --preset ci --seed 3"
    )
    settings |= {"data": "hub:some/set,image=photo,caption=alt", "filtered": False, "rank": 4}
    hub = SimpleNamespace(label="hub:some/set")
    assert card.command(settings, "ci · hub:some/set", hub) == (
        "minidalle train --data hub:some/set,image=photo,caption=alt --preset ci --no-filter "
        "--powersgd 4 --seed 3"
    )


def test_the_dvae_alone_sees_more_of_some_families(tmp_path, monkeypatch):
    """`dvae_more` changes the pictures of stage 1, not those that become tokens, nor the captions of the
    tokenizer. All are of the training split, and the card says what the dVAE saw more of."""
    met = {}
    for stage, place in (("train_tokenizer", 0), ("dvae_stage", 2), ("encode_once", 1)):
        first = getattr(room, stage)

        def watched(*arguments, first=first, stage=stage, place=place, **named):
            source = arguments[place]
            met[stage] = source.split, [each.name for each in source.families]
            return first(*arguments, **named)

        monkeypatch.setattr(room, stage, watched)
    ours = replace(QUICK.of_families(("attributes", "objects")), dvae_more=("objects", "objects"))
    bundle = room.train(ours, tmp_path / "run")
    once = "train", ["attributes", "objects"]
    more = "train", ["attributes", "objects", "objects", "objects"]
    assert met == {"train_tokenizer": once, "dvae_stage": more, "encode_once": once}
    assert bundle.world.families == ("attributes", "objects")
    (line,) = [line for line in bundle.card.splitlines() if line.startswith("- data: ")]
    assert "(attributes, objects), drawn" in line
    assert line.endswith(
        "; the dVAE saw some families more often than others: attributes, objects (3 turns)"
    )
    assert ours.of_families(["attributes"]).dvae_more == ()
    assert ours.of_families(["objects"]).dvae_more == ("objects", "objects")


def test_the_dvae_cannot_see_more_of_what_the_others_do_not_see():
    """Or it would learn pictures that the card does not name."""
    with pytest.raises(ValueError, match="dvae_more names 'time', .* families: attributes"):
        replace(QUICK, dvae_more=("attributes", "time"))


def test_a_preset_keeps_the_limits_that_concern_its_families():
    """Of counts, for things that can be counted; unknown families and those given twice are named."""
    assert preset("two").of_families(["attributes"]).where == {"pattern": ("plain",)}
    assert CI.of_families(["time"]).where == {} and CI.of_families(CI.families) == CI
    with pytest.raises(ValueError, match="unknown family 'dots'"):
        CI.of_families(["time", "dots"])
    with pytest.raises(ValueError, match="given twice: time, time"):
        CI.of_families(["time", "time"])


def test_a_seed_decides_everything(tmp_path):
    """The same seed trains the same weights, another seed others, whatever the global generator says."""
    first, again, other = (
        room.train(QUICK, tmp_path / str(k), seed) for k, seed in enumerate((3, 3, 4))
    )
    for name, tensor in again.dalle.state_dict().items():
        assert torch.equal(tensor, first.dalle.state_dict()[name]), name
    assert not torch.equal(other.dalle.image_head.weight, again.dalle.image_head.weight)


def test_what_is_returned_is_what_is_saved(tmp_path):
    """The bundle in memory and the one on disk have the same weights, so the samples are the files'."""
    returned = room.train(QUICK, tmp_path / "run")
    for part in ("dvae", "dalle", "clip"):
        saved = getattr(load(tmp_path / "run"), part).state_dict()
        for name, tensor in getattr(returned, part).state_dict().items():
            assert torch.equal(tensor, saved[name]), name


def test_a_trained_model_is_never_overwritten(quick):
    """A second run into the same folder is an error, and the model is as it was."""
    before = (quick / "dalle.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a trained model"):
        room.train(QUICK, quick)
    assert (quick / "dalle.safetensors").read_bytes() == before


def test_stage_two_leaves_the_dvae_alone(tmp_path, monkeypatch):
    """Its weights are bit-identical before and after stage 2, and in no optimiser of it."""
    before, ours = {}, room.dalle_stage

    def watch(config, t, tokenizer, tokens, examine, sample, seed):
        dvae = sample.__closure__[[*sample.__code__.co_freevars].index("dvae")].cell_contents
        before.update({name: tensor.clone() for name, tensor in dvae.state_dict().items()})
        stage = ours(config, t, tokenizer, tokens, examine, sample, seed)
        groups = stage.optimizer(stage.model).param_groups
        ids = {id(p) for group in groups for p in group["params"]}
        assert ids == {id(p) for p in stage.model.parameters()}
        assert not ids & {id(p) for p in dvae.parameters()}
        assert not any(p.requires_grad for p in dvae.parameters())
        return stage

    monkeypatch.setattr(room, "dalle_stage", watch)
    bundle = room.train(QUICK, tmp_path / "run")
    assert before
    for name, tensor in bundle.dvae.state_dict().items():
        assert torch.equal(tensor, before[name].half().float()), name


def test_every_parameter_is_in_exactly_one_group():
    """Muon has the layers' matrices, AdamW the rest."""
    model = DALLE(QUICK.dalle)
    groups = [g["params"] for g in stages.dalle_optimizer(QUICK.dalle_training, model).param_groups]
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    matrices = [p for p in model.transformer.layers.parameters() if p.ndim == 2]
    assert [id(p) for p in groups[0]] == [id(p) for p in matrices]


def test_bpe_dropout_is_drawn_anew_every_step_and_alike_everywhere():
    """Stage 2's text: other pieces when a caption comes again, the same in every process's part; the number
    of text targets that the loss is divided by is that of the whole batch, a part's share of it."""
    tokenizer = stages.train_tokenizer(World(CI.families, 24, where=CI.where), 384, 24)
    captions = ["a small red circle", "a large blue square", "one green star", "a yellow heart"]
    tokens = [(caption, torch.zeros(36, dtype=torch.int64)) for caption in captions]
    config = replace(QUICK.dalle, V=tokenizer.V, T=24)
    t = replace(QUICK.dalle_training, dropout=0.5)
    stage = stages.dalle_stage(config, t, tokenizer, tokens, None, None, seed=0)
    text, image, targets = stage.load(range(4), Portion(slice(0, 4), 1))
    parts = [stage.load(range(4), Portion(slice(k, k + 2), 2)) for k in (0, 2)]
    assert torch.equal(torch.cat([part[0] for part in parts]), text) and len(image) == 4
    assert targets == (text < tokenizer.V).sum() and parts[0][2] == parts[1][2] == targets / 2
    later = stage.load(range(4, 8), Portion(slice(0, 4), 1))[0]
    for k, row in enumerate(Order(4, 0)(range(4))):
        again = Order(4, 0)(range(4, 8)).index(row)
        assert tokenizer.decode(text[k].tolist()) == tokenizer.decode(later[again].tolist())
    assert sorted(text.tolist()) != sorted(later.tolist())


def test_the_papers_schedules_of_stage_1(quick):
    """lr 1e-4 → 1.25e-6 over 1.2 M steps, τ 1 → 1/16 over 150,000, β 0 → 6.6 over 5,000 (appendix A.2)."""
    paper = preset("paper").dvae_training
    x = torch.rand(4, 3, 24, 24)
    stage = stages.dvae_stage(QUICK.dvae, paper, World(CI.families, 24), stages.Unseen(x, []), 0)
    ends = {"rate": 1_200_000, "tau": 150_000, "beta": 5_000}
    values = {
        "rate": (1e-4, 1.25e-6, lambda step: stage.rate(step) * paper.lr),
        "tau": (1.0, 1 / 16, lambda step: stage.figures(step)["tau"]),
        "beta": (0.0, 6.6, lambda step: stage.figures(step)["beta"]),
    }
    for name, (first, last, schedule) in values.items():
        assert_half_cosine(schedule, first, last, ends[name])


def test_our_schedules_of_every_stage(learning):
    """Of `ci`: the dVAE's rate rises for 100 steps and falls to a hundredth, τ 1 → 0.2 over 4/5 of the
    steps; DALL·E's rises for 20 and falls to 0 on a straight line; CLIP's falls to a hundredth."""
    tokenizer, dvae, tokens, data, unseen = learning
    t = CI.dvae_training
    first = stages.dvae_stage(QUICK.dvae, t, data, unseen, 0)
    assert first.rate(0) == pytest.approx(0.01) and first.rate(t.steps) == pytest.approx(0.01)
    assert first.rate(t.steps // 2) == pytest.approx((1 + 0.01) / 2)
    assert_half_cosine(lambda step: first.figures(step)["tau"], 1.0, 0.2, int(0.8 * t.steps))
    size = replace(QUICK.dalle, V=tokenizer.V, T=tokenizer.T)
    t = CI.dalle_training
    second = stages.dalle_stage(size, t, tokenizer, tokens, lambda m: {}, lambda m: None, 0)
    shares = [second.rate(step) for step in (0, 19, t.steps // 2, 3 * t.steps // 4, t.steps)]
    assert shares == pytest.approx([1 / 20, 0.981, 0.5, 0.25, 0.0])
    t = replace(CI.clip_training, batch=6)
    size = replace(QUICK.clip, V=tokenizer.V, T=tokenizer.T)
    third = stages.clip_stage(size, t, tokenizer, dvae, tokens, data, unseen, 0)
    assert [third.rate(step) for step in (0, t.steps // 2, t.steps)] == pytest.approx(
        [1 / 20, (1 + 0.01) / 2, 0.01]
    )


def test_a_collapse_is_reported(capsys, quick):
    """A dVAE that uses one code for everything earns a warning."""
    dvae = load(quick).dvae
    torch.nn.init.zeros_(dvae.encoder.layers[-1].weight)
    stages.examine_dvae(dvae, torch.rand(4, 3, 24, 24))
    out = capsys.readouterr()
    assert "warning: only 1 of 64 codes" in out.out + out.err


@pytest.fixture
def learning(quick) -> tuple:
    """What CLIP learns from, with three families of the world: tokenizer, dVAE, tokens, source, unseen."""
    data = World(("attributes", "objects", "creatures"), 24)
    tokenizer, dvae = stages.train_tokenizer(data, 384, 32, captions=200), load(quick).dvae
    tokens = encode_once(dvae, data, 60, quick.parent / "three")
    few = World(("attributes", "objects", "creatures"), 24, "test")
    examples = [few[i] for i in range(9)]
    unseen = stages.Unseen(to_float([e.picture for e in examples]), [e.caption for e in examples])
    return tokenizer, dvae, tokens, data, unseen


def test_clip_learns_from_near_captions_and_decoded_pictures(learning):
    """Pairs of the training split, one or two families a step; the share of steps that show what the dVAE
    decodes; the parts of two processes are one batch."""
    tokenizer, _, tokens, data, _ = learning
    t = replace(QUICK.clip_training, batch=8, families=2, decoded=0.75)
    config = replace(QUICK.clip, V=tokenizer.V, T=tokenizer.T)
    stage = stages.clip_stage(config, t, *learning, seed=0)
    known = [tokens[i] for i in range(60)]
    kinds = []
    for step in range(8):
        positions = range(8 * step, 8 * step + 8)
        text, pictures = stage.load(positions, Portion(slice(0, 8), 1))
        halves = [stage.load(positions, Portion(slice(k, k + 4), 2)) for k in (0, 4)]
        for whole, *pieces in zip((text, pictures), *halves, strict=True):
            assert torch.equal(whole, torch.cat(pieces))
        rows = FewFamilies(60, 0, 8, 3, 2)(positions)
        assert len({row % 3 for row in rows}) <= 2
        assert torch.equal(text, tokenizer.encode([known[row][0] for row in rows], cut=True))
        kinds.append(pictures.dtype)
        if pictures.dtype == torch.int64:
            assert torch.equal(pictures, torch.stack([known[row][1] for row in rows]))
        else:
            assert torch.equal(pictures, to_float([data[row].picture for row in rows]))
        assert [data[row].caption for row in rows] == [known[row][0] for row in rows]
    assert kinds.count(torch.int64) == 6 and kinds.count(torch.float32) == 2


def test_a_batch_of_pairs_divides_into_as_many_families_as_it_can(learning):
    """Eight pairs of at most three families: two."""
    t = replace(QUICK.clip_training, batch=8, families=3)
    config = replace(QUICK.clip, V=learning[0].V, T=learning[0].T)
    text, _ = stages.clip_stage(config, t, *learning, seed=0).load(
        range(8), Portion(slice(0, 8), 1)
    )
    known = [learning[2][row][0] for row in FewFamilies(60, 0, 8, 3, 2)(range(8))]
    assert torch.equal(text, learning[0].encode(known, cut=True))


def test_what_clip_finds_is_counted(learning):
    """Among all and among its own family: by hand, from the similarities."""
    tokenizer, dvae, _, _, unseen = learning
    torch.manual_seed(1)
    model = CLIP(replace(QUICK.clip, V=tokenizer.V, T=tokenizer.T)).eval()
    text = tokenizer.encode(unseen.captions, cut=True)
    pictures = stages.decode_all(dvae, unseen.pictures)
    with torch.no_grad():
        table = model.similarity(pictures, text)
    everything = sum(int(table[k].argmax()) == k for k in range(9)) / 9
    near = sum(int(table[k, k % 3 :: 3].argmax()) == k // 3 for k in range(9)) / 9
    found = stages.examine_clip(model, pictures, text, 3)
    assert found["found"] == pytest.approx(everything) and len(set(unseen.captions)) == 9
    assert found["found_near"] == pytest.approx(near)
    assert stages.nearest_captions(model, pictures, text, unseen.captions).size[0] > 24


def test_clip_learns_from_the_training_split_alone(tmp_path, monkeypatch):
    """The stage is given the training pictures and their tokens; test captions are for its figures."""
    seen, ours = {}, room.clip_stage

    def watch(config, t, tokenizer, dvae, tokens, source, unseen, seed):
        seen.update(split=source.split, captions=[tokens[i][0] for i in range(len(tokens))])
        stage = ours(config, t, tokenizer, dvae, tokens, source, unseen, seed)
        ids = {id(p) for g in stage.optimizer(stage.model).param_groups for p in g["params"]}
        assert ids == {id(p) for p in stage.model.parameters()}
        assert not any(p.requires_grad for p in dvae.parameters())
        return stage

    monkeypatch.setattr(room, "clip_stage", watch)
    room.train(QUICK, tmp_path / "run", seed=3)
    data = World(CI.families, 24, "train", 3, CI.where)
    assert seen == {"split": "train", "captions": data.captions(40)}


def test_a_preset_without_clip_trains_none(tmp_path):
    """The bundle has none and says so when it is asked to choose; the log has no such stage."""
    bare = replace(QUICK, clip=None, clip_training=None)
    bundle = room.train(bare, tmp_path / "run", seed=3)
    assert bundle.clip is None and load(tmp_path / "run").clip is None
    assert not (tmp_path / "run" / "clip.safetensors").exists()
    assert '"CLIP"' not in (tmp_path / "run" / "log.jsonl").read_text()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_together(name):
    """dVAE and DALL·E agree on codes and grid; all captions' families exist."""
    p = preset(name)
    assert p.dvae.K == p.dalle.K and p.dvae.grid == p.dalle.h == p.dalle.w
    assert all(family(each).slots for each in p.families)
    assert (p.clip is None) == (p.clip_training is None)
    if p.clip:
        assert (p.clip.V, p.clip.T, p.clip.size) == (p.dalle.V, p.dalle.T, p.dvae.size)
        assert p.clip_training.batch % min(p.clip_training.families, len(p.families)) == 0
    assert isinstance(p.dvae_training, DVAETraining) and isinstance(p.dalle_training, DALLETraining)


def test_a_run_goes_on_where_it_was_stopped(quick, tmp_path, monkeypatch):
    """Stopped in each stage, between them and while the bundle is written: bit for bit the same folder."""
    out = tmp_path / "run"
    for where, times in (
        ("Batch.to", 8),
        ("encode_once", 0),
        ("Batch.to", 5),
        ("clip_stage", 0),
        ("Batch.to", 7),
        ("Bundle.save", 0),
    ):
        with monkeypatch.context() as planted:
            plant(planted, where, times)
            with pytest.raises(Planted):
                room.train(QUICK, out, seed=3)
    room.train(QUICK, out, seed=3)
    assert_same_run(out, quick)


def test_the_commits_of_a_card_are_those_that_began_the_work(quick, tmp_path, monkeypatch):
    """A commit that comes while a run trains is not its code's; one under which it goes on is. And a run
    may go on under another commit: its weights are the same."""
    at = iter(("one", "one", "two"))
    monkeypatch.setattr(room, "commit", lambda: next(at))
    monkeypatch.setattr("minidalle.card.commit", lambda: "of the end")
    out = tmp_path / "run"
    for stage in ("encode_once", "clip_stage"):
        with monkeypatch.context() as planted:
            plant(planted, stage, 0)
            with pytest.raises(Planted):
                room.train(QUICK, out, seed=3)
    bundle = room.train(QUICK, out, seed=3)
    assert "\n- commit: one, then two\n" in bundle.card == load(out).card
    assert torch.equal(bundle.dalle.image_head.weight, load(quick).dalle.image_head.weight.float())


class Planted(Exception):
    """Stands for whatever ends a run."""


def plant(patch, where: str, times: int) -> None:
    """End the run when a function of its is called once more than ``times``."""
    owner, _, name = where.rpartition(".")
    target = {"": room, "Batch": minidalle.loop.Batch, "Bundle": room.Bundle}[owner]
    ours, calls = getattr(target, name), []

    def stop(*arguments, **settings):
        calls.append(1)
        if len(calls) > times:
            raise Planted
        return ours(*arguments, **settings)

    patch.setattr(target, name, stop)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "seed = 3, now it is 4"),
        (
            {"preset": replace(QUICK, dvae=replace(QUICK.dvae, width=24))},
            r"preset\.dvae\.width = 16, now it is 24",
        ),
        (
            {"preset": replace(QUICK, dalle_training=replace(QUICK.dalle_training, ema=0.0))},
            r"preset\.dalle_training\.ema = 0.9, now it is 0.0",  # which is its default
        ),
        ({"filtered": True}, "filtered = None, now it is True"),
    ],
)
def test_other_settings_in_the_same_folder_are_an_error(change, words, tmp_path, monkeypatch):
    """The setting is named, with what it was and is; nothing is written."""
    out = tmp_path / "run"
    plant(monkeypatch, "train_stages", 0)
    with pytest.raises(Planted):
        room.train(QUICK, out, seed=3)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words):
        room.train(**{"preset": QUICK, "out": out, "seed": 3, **change})
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def rewritten(out: Path, *names: str) -> None:
    """Make run.json that of a time before there was the setting of these names, one inside the other."""
    settings = part = json.loads((out / "run.json").read_text())
    for name in names[:-1]:
        part = part[name]
    del part[names[-1]]
    (out / "run.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("names", "default"),
    [
        (("preset", "dvae_more"), True),
        (("preset", "clip_training", "accumulate"), True),
        (("preset", "dvae_training", "lr_last"), True),
        (("preset", "where"), False),
        (("preset", "dalle_training", "ema"), False),
        (("preset", "dvae_training", "muon_lr"), False),
        (("preset", "dvae", "blocks"), False),
        (("rank",), False),
    ],
)
def test_a_run_may_have_begun_before_there_was_a_setting(names, default, tmp_path, monkeypatch):
    """It goes on where the setting has its default, and is told apart where it has another value. The
    defaults of sizes are the paper's, not what was built earlier, so they count as other values."""
    out = tmp_path / "run"
    plant(monkeypatch, "train_stages", 0)
    with pytest.raises(Planted):
        room.train(QUICK, out, seed=3)
    before = json.loads((out / "run.json").read_text())
    rewritten(out, *names)
    words = rf"began with {'.'.join(names)} = None, now it is .*; give the same settings"
    with pytest.raises(Planted) if default else pytest.raises(ValueError, match=words):
        room.train(QUICK, out, seed=3)
    assert (json.loads((out / "run.json").read_text()) == before) == default


def test_a_run_on_shards_keeps_its_number_of_workers(tmp_path, monkeypatch):
    """Shards are dealt out to them: with another number a run would go on with other pictures. Pictures that
    can be asked for by number do not care."""
    shards = img2dataset(tmp_path / "tars", 2, 30)
    plant(monkeypatch, "train_stages", 0)
    for data, refused in ((f"webdataset:{shards}/{{00000..00001}}.tar", True), ("world", False)):
        out = tmp_path / str(refused)
        with pytest.raises(Planted):
            room.train(QUICK, out, seed=3, data=data, filtered=None)
        expected = (
            pytest.raises(ValueError, match="workers = 0, now it is 2")
            if refused
            else pytest.raises(Planted)
        )
        with expected:
            room.train(QUICK, out, seed=3, data=data, filtered=None, workers=2)


def test_a_full_disk_is_said_in_one_sentence(tmp_path, monkeypatch):
    """Which disk, which checkpoint is intact, what to do; then the same call goes on."""
    out, ours = tmp_path / "run", minidalle.checkpoint.write_atomically

    def full(path, fill):
        if path.name == "dvae-00000009.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ours(path, fill)

    monkeypatch.setattr(minidalle.checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="is full; the last checkpoint, .*6.safetensors, is intact"):
        room.train(QUICK, out, seed=3)
    monkeypatch.setattr(minidalle.checkpoint, "write_atomically", ours)
    room.train(QUICK, out, seed=3)


# ------------------------------------------------------------------------------------ any pictures


@pytest.fixture
def short(monkeypatch):
    """The preset ci with a few steps and a small model."""
    monkeypatch.setitem(PRESETS, "ci", QUICK)


def command(monkeypatch, *arguments: object) -> int:
    """Run ``minidalle`` as a reader would; its exit code."""
    monkeypatch.setattr(sys, "argv", ["minidalle", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.mark.slow
def test_a_folder_of_odd_files_is_all_that_a_tinkerer_needs(tmp_path, monkeypatch, capsys, short):
    """`train --data folder:…` learns the tokenizer from its captions, trains on its pictures, lists what it
    could not use, and ends in a model that `draw --model` takes."""
    monkeypatch.chdir(tmp_path)
    data = f"folder:{odd_folder(tmp_path / 'odd')}"
    assert command(monkeypatch, "train", "--data", data, "--preset", "ci", "--out", "mine") == 0
    said = capsys.readouterr().out
    assert "folder:odd, train:" in said and "unreadable" in said and "1 without a caption" in said
    bundle = load(tmp_path / "mine")
    assert len(bundle.tokenizer.ids("a picture of thing")) < 10, (
        "the words of the captions are tokens"
    )
    assert len(bundle.tokenizer.ids("a picture of thing 17")) <= bundle.tokenizer.T
    listed = [
        json.loads(line) for line in (tmp_path / "mine/skipped.jsonl").read_text().splitlines()
    ]
    assert {line["name"] for line in listed} == {f"bad/{name}" for name in hostile()} | {
        "no caption.png"
    }
    assert "--data folder:odd --preset ci" in bundle.card and "fingerprint" in bundle.card
    assert str(tmp_path) not in bundle.card and "CC BY" not in bundle.card
    front = (tmp_path / "mine/README.md").read_text().split("---\n")[1]
    assert "license: other\n" in front and "cc-by" not in front
    assert bundle.name == "ci · folder:odd" and bundle.world is None
    assert command(monkeypatch, "examine", "--model", "mine") == 2, "the judge knows the world only"
    for caption in ("a picture of thing 3", "something else"):
        assert command(monkeypatch, "draw", caption, "--n", 2, "--model", "mine") == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 2


@pytest.mark.slow
def test_small_fits_together(tmp_path, monkeypatch):
    """The preset for pictures of one's own, at its full size: three steps of every stage, then a drawing."""
    small = preset("small")
    stages = {
        "dvae_training": replace(small.dvae_training, steps=3, batch=2),
        "dalle_training": replace(small.dalle_training, steps=3, batch=2, pictures=4),
    }
    monkeypatch.setitem(PRESETS, "small", replace(small, **stages))
    for name in ("p0", "p1", "p2"):
        write(
            tmp_path / f"in/{name}.png",
            encoded(Image.new("RGB", (150, 140)), "PNG"),
            f"black {name}",
        )
    data, out = f"folder:{tmp_path}/in", tmp_path / "run"
    assert command(monkeypatch, "train", "--data", data, "--preset", "small", "--out", out) == 0
    drawing = load(out).draw("black again")
    assert drawing.pictures.shape == (1, 128, 128, 3) and drawing.tokens.shape == (1, 256)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["emoji", "webdataset", "hub"])
def test_every_kind_of_data_trains(tmp_path, monkeypatch, short, kind):
    """From the command line to a model that draws."""
    place = ""
    if kind == "webdataset":
        place = f":{img2dataset(tmp_path / 'tars', 3, 30, failed=2)}/{{00000..00002}}.tar"
    elif kind == "hub":
        datasets = pytest.importorskip("datasets")
        pictures = [Image.new("RGB", (30, 20), (4 * k, 0, 0)) for k in range(60)]
        rows = {"image": pictures, "text": [f"shade {k}" for k in range(60)]}
        datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
        place = f":{tmp_path}/set"
    elif not all(any(p.is_file() for p in places) for places in (FONTS, NAMES)):
        pytest.skip("needs the packages fonts-noto-color-emoji and unicode-data")
    out = tmp_path / "run"
    assert command(monkeypatch, "train", "--data", kind + place, "--out", out) == 0
    assert load(out).draw("a red heart").pictures.shape == (1, 24, 24, 3)


def test_captions_longer_than_the_model_reads_are_cut_and_counted(tmp_path):
    """Text positions grow with the captions, up to a limit; what is beyond is cut, and the log counts it."""
    for k in range(40):
        image = Image.new("RGB", (30, 30), (6 * k, 0, 0))
        write(
            tmp_path / f"in/{k}.png",
            encoded(image, "PNG"),
            f"{k}" + " many different words" * 30 * (k % 2),
        )
    room.train(QUICK, tmp_path / "run", data=f"folder:{tmp_path}/in")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    last = {line["stage"]: line for line in lines}
    assert last["tokenizer"]["T"] == load(tmp_path / "run").dalle.config.T == stages.LONGEST
    assert 10 < last["tokens"]["captions_cut"] < 30 and last["tokens"]["pictures"] == 40


def test_a_folder_too_small_for_a_test_split_is_reported(tmp_path, capsys):
    """Reports are then of training pictures, and a line says so."""
    write(tmp_path / "in/p0.png", encoded(Image.new("RGB", (9, 9)), "PNG"), "black")
    room.train(QUICK, tmp_path / "run", data=f"folder:{tmp_path}/in")
    said = capsys.readouterr()
    assert "warning: no picture fell into the test split" in said.out + said.err


def test_stage_one_sees_mirror_images_and_stage_two_does_not(monkeypatch, tmp_path):
    """What reaches the dVAE's training and what is encoded for DALL·E."""
    for k in range(20):
        image = Image.new("RGB", (40, 40), (255, 0, 0))
        image.paste((0, 0, 255), (20, 0, 40, 40))
        write(tmp_path / f"in/{k}.png", encoded(image, "PNG"), "red, then blue")
    stages = []
    for name, position in (("dvae_stage", 2), ("encode_once", 1)):
        was = getattr(room, name)

        def noted(*arguments, was=was, position=position):
            stages.append(arguments[position])
            return was(*arguments)

        monkeypatch.setattr(room, name, noted)
    room.train(QUICK, tmp_path / "run", data=f"folder:{tmp_path}/in")
    mirrored = [sum(int(s[k].picture[0, 0, 2]) > 128 for k in range(60)) for s in stages]
    assert 15 < mirrored[0] < 45 and mirrored[1] == 0


@pytest.mark.slow
def test_a_run_on_shards_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """A streamed source is read again up to its place: the same bits, with two workers too."""
    shards = img2dataset(tmp_path / "tars", 3, 30, failed=2)
    data = f"webdataset:{shards}/{{00000..00002}}.tar"
    for workers in (0, 2):
        whole, out = tmp_path / f"whole{workers}", tmp_path / f"run{workers}"
        settings = {"seed": 3, "data": data, "filtered": False, "workers": workers}
        room.train(QUICK, whole, **settings)
        for times in (5, 9):
            with monkeypatch.context() as planted, pytest.raises(Planted):
                plant(planted, "Batch.to", times)
                room.train(QUICK, out, **settings)
        room.train(QUICK, out, **settings)
        assert_same_run(out, whole)
