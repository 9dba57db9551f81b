"""Training from nothing, and the scores that the ci preset promises (slow)."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from runs import QUICK, assert_same_run

import minidalle.checkpoint
import minidalle.train as room
from minidalle.bundle import load
from minidalle.dalle import DALLE
from minidalle.data import World, to_float
from minidalle.examine import EXAMINER_SEED, Examiner, Share, score, train_examiner
from minidalle.loop import REPORTS
from minidalle.presets import PRESETS, DALLETraining, DVAETraining, preset
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
    stages = {line["stage"]: line for line in lines}
    assert list(stages) == ["tokenizer", "dVAE", "tokens", "DALL·E"]
    assert stages["dVAE"].keys() >= {"psnr_hard", "codes_used", "perplexity"}
    assert stages["DALL·E"].keys() >= {"text_nats", "image_nats", "samples_per_second"}
    assert stages["dVAE"].keys() >= {"train_loss", "tau", "rate", "samples_per_second"}
    assert sum(line["stage"] == "dVAE" for line in lines) == REPORTS
    for stage in ("dvae", "dalle"):
        assert len(list(quick.glob(f"samples-{stage}-*.png"))) == REPORTS
    assert Image.open(quick / "samples.png").format == "PNG"
    assert len(load(quick).draw("a small red circle", n=2).pictures) == 2


def test_the_card_says_where_the_weights_come_from(quick):
    """Commit, command, seed, machine, minutes and the last figures."""
    card = load(quick).card
    for word in (
        "commit:",
        "--preset ci --seed 3",
        "threads",
        "minutes:",
        "psnr_hard",
        "image_nats",
    ):
        assert word in card


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
    for part in ("dvae", "dalle"):
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
    groups = [g["params"] for g in room.dalle_optimizer(QUICK.dalle_training, model).param_groups]
    ids = [id(p) for group in groups for p in group]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    matrices = [p for p in model.transformer.layers.parameters() if p.ndim == 2]
    assert [id(p) for p in groups[0]] == [id(p) for p in matrices]


def test_a_collapse_is_reported(capsys, quick):
    """A dVAE that uses one code for everything earns a warning."""
    dvae = load(quick).dvae
    torch.nn.init.zeros_(dvae.encoder.layers[-1].weight)
    room.examine_dvae(dvae, torch.rand(4, 3, 24, 24))
    out = capsys.readouterr()
    assert "warning: only 1 of 64 codes" in out.out + out.err


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_together(name):
    """dVAE and DALL·E agree on codes and grid; all captions' families exist."""
    p = preset(name)
    assert p.dvae.K == p.dalle.K and p.dvae.grid == p.dalle.h == p.dalle.w
    assert all(family(each).slots for each in p.families)
    assert isinstance(p.dvae_training, DVAETraining) and isinstance(p.dalle_training, DALLETraining)


def test_a_run_goes_on_where_it_was_stopped(quick, tmp_path, monkeypatch):
    """Stopped in each stage, between them and while the bundle is written: bit for bit the same folder."""
    out = tmp_path / "run"
    for where, times in (("Batch.to", 8), ("encode_once", 0), ("Batch.to", 5), ("Bundle.save", 0)):
        with monkeypatch.context() as planted:
            plant(planted, where, times)
            with pytest.raises(KeyboardInterrupt):
                room.train(QUICK, out, seed=3)
    room.train(QUICK, out, seed=3)
    assert_same_run(out, quick)


def plant(patch, where: str, times: int) -> None:
    """Interrupt the run when a function of its is called once more than ``times``."""
    owner, _, name = f"{room.__name__}.{where}".rpartition(".")
    target = room if owner == room.__name__ else getattr(room, owner.rpartition(".")[2])
    ours, calls = getattr(target, name), []

    def stop(*arguments, **settings):
        calls.append(1)
        if len(calls) > times:
            raise KeyboardInterrupt
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
        ({"data": World(["objects"], 24)}, "data = '.*', now it is"),
    ],
)
def test_other_settings_in_the_same_folder_are_an_error(change, words, tmp_path, monkeypatch):
    """The setting is named, with what it was and is; nothing is written."""
    out = tmp_path / "run"
    plant(monkeypatch, "train_stages", 0)
    with pytest.raises(KeyboardInterrupt):
        room.train(QUICK, out, seed=3)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=words):
        room.train(**{"preset": QUICK, "out": out, "seed": 3, **change})
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


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


def test_any_source_of_pictures_trains(tmp_path):
    """Pictures that are no world: length, examples, a fingerprint, and nothing else."""

    class Folder:
        fingerprint = "three pictures"
        world = World(CI.families, 24, where=CI.where)
        examples = [example._replace(scene=None) for example in map(world.__getitem__, range(3))]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int):
            return self.examples[index]

    small = replace(
        QUICK,
        dalle=replace(QUICK.dalle, T=24),  # three captions teach the tokenizer few words
        dalle_training=replace(QUICK.dalle_training, pictures=3),
    )
    bundle = room.train(small, tmp_path / "run", data=Folder(), test=Folder())
    assert "3 captioned pictures" in bundle.card and "minidalle.world`" not in bundle.card


# ------------------------------------------------------------------------------------- slow, honest


def tell(capsys, text: str) -> None:
    """Print figures also when the test passes: they are what the test is about."""
    with capsys.disabled():
        print(f"\n  {text}")


@pytest.fixture(scope="module")
def examiner() -> Examiner:
    """The judge: trained on world pictures of 24 pixels, and on nothing else."""
    data = World(CI.families, CI.dvae.size, "train", EXAMINER_SEED, CI.where)
    return train_examiner(data, steps=1000)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["test", "zero-shot"])
def test_the_examiner_is_fit_to_judge(examiner, split, capsys):
    """≥ 98 % on fresh pictures; wrong pictures are called wrong."""
    source = World(CI.families, CI.dvae.size, split, SCORED, CI.where)
    examples = [source[i] for i in range(600)]
    pictures = to_float([example.picture for example in examples])
    scenes = [example.scene for example in examples]
    right = examiner.right(pictures, scenes).float().mean()
    # Each picture under the facts of the next scene that differs from its own.
    others = [
        next(s for s in scenes[k + 1 :] + scenes[:k] if s.slots != scene.slots)
        for k, scene in enumerate(scenes)
    ]
    wrong = examiner.right(pictures, others).float().mean()
    blank = examiner.right(torch.full_like(pictures, 0.97), scenes).float().mean()
    tell(
        capsys,
        f"examiner, {split}: right {right:.4f}, others' facts {wrong:.4f}, blank {blank:.4f}",
    )
    assert right >= 0.98 and wrong <= 0.02 and blank <= 0.05


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Path]:
    """Three runs of the command as a reader types it."""
    folder = tmp_path_factory.mktemp("ci")
    for seed in SEEDS:
        command = ["train", "--preset", "ci", "--out", str(folder / str(seed)), "--seed", str(seed)]
        subprocess.run([sys.executable, "-m", "minidalle", *command], check=True)
    return [folder / str(seed) for seed in SEEDS]


@pytest.mark.slow
def test_ci_draws_what_captions_say(trained, examiner, capsys):
    """Over three seeds: 92 % of first samples right in every slot, 80 % on pairs never seen together."""
    shares = {"test": [], "zero-shot": []}
    for path, seed in zip(trained, SEEDS, strict=True):
        bundle = load(path)
        for split, found in shares.items():
            source = World(CI.families, CI.dvae.size, split, SCORED, CI.where)
            row = score(bundle, examiner, source, N, seed)
            figures = "  ".join(f"{column} {share}" for column, share in row.items())
            tell(capsys, f"ci, seed {seed}, {split}: {figures}")
            found.append(row["one sample"])
    pooled = {
        split: Share(sum(s.right for s in found), sum(s.n for s in found))
        for split, found in shares.items()
    }
    tell(capsys, f"ci, three seeds: seen {pooled['test']}, never seen {pooled['zero-shot']}")
    assert pooled["test"].value >= 0.92
    assert pooled["zero-shot"].value >= 0.80


@pytest.mark.slow
def test_ci_listens_to_the_caption(trained, examiner):
    """The control: pictures for other captions are hardly ever right for this one."""
    source = World(CI.families, CI.dvae.size, "test", SCORED, CI.where)
    examples = [source[i] for i in range(N)]
    drawn = load(trained[0]).draw([example.caption for example in examples])
    scenes = [example.scene for example in examples]
    shifted = scenes[1:] + scenes[:1]
    right = examiner.right(to_float(drawn.pictures), shifted).float().mean()
    assert right < 0.1
