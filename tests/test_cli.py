"""The command line: what it draws, and how it says no."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import official
import pytest
import torch
from builders import tiny_bundle, world_bundle
from PIL import Image
from runs import QUICK

import minidalle.checkpoint
import minidalle.loop
import minidalle.presets
from minidalle import cli
from minidalle.examiner import Examiner
from minidalle.presets import CI


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An untrained bundle on disk."""
    return tiny_bundle().save(tmp_path_factory.mktemp("model") / "tiny-test")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["minidalle", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_draw_writes_a_picture_and_says_where(model, monkeypatch, capsys):
    """The printed path is the file; captions and --n make that many pictures."""
    code, out, err = run(
        monkeypatch,
        capsys,
        "draw",
        "a small red circle",
        "two green stars",
        "--n",
        3,
        "--model",
        model,
    )
    assert (code, err) == (0, "")
    path = Path(re.fullmatch(r"6 pictures in (.+\.png)\n", out).group(1))
    assert path == Path.cwd() / "pictures" / "a-small-red-circle-0.png"
    assert Image.open(path).format == "PNG"


def test_draw_keeps_the_best(model, monkeypatch, capsys):
    """--best-of draws more and keeps --n of them for each caption."""
    arguments = ["draw", "two green stars", "a cat", "--n", 2, "--best-of", 5, "--model", model]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "") and out.startswith("4 pictures in ")


def test_the_same_seed_draws_the_same_picture(model, monkeypatch, capsys):
    """Byte for byte the same pixels; another seed draws others."""
    pixels = []
    for seed, name in ((5, "a.png"), (5, "b.png"), (6, "c.png")):
        arguments = ["draw", "two green stars", "--seed", seed, "--model", model, "--out", name]
        assert run(monkeypatch, capsys, *arguments)[0] == 0
        heading = 50  # the title names the seed
        pixels.append(np.array(Image.open(name))[heading:])
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] != pixels[2]).any()


def test_another_caption_is_another_file(model, monkeypatch, capsys):
    """Drawing again loses nothing that was drawn before."""
    for caption, seed in (("a circle", 0), ("a square", 0), ("a square", 1), ("кот", 0), ("🦊", 0)):
        run(monkeypatch, capsys, "draw", caption, "--seed", seed, "--model", model)
    run(monkeypatch, capsys, "draw", "a square", "--temperature", 2, "--model", model)
    names = sorted(path.stem for path in Path("pictures").iterdir())
    assert names == ["a-circle-0", "a-square-0", "a-square-0-2", "a-square-1", "drawing-0", "кот-0"]


def test_world_draws_captioned_pictures(monkeypatch, capsys):
    """All families by default, or one."""
    assert run(monkeypatch, capsys, "world", "--n", 4, "--out", "w.png")[0] == 0
    assert run(monkeypatch, capsys, "world", "--family", "lettering", "--out", "l.png")[0] == 0
    assert Image.open("l.png").size > Image.open("w.png").size


def test_plan_prints_a_table_and_writes_its_figures(monkeypatch, capsys):
    """A verdict in words at the end; the file has the figures; the exit code says nothing of the verdict."""
    arguments = ["plan", "--preset", "ci", "--devices", 2, "--memory", 4, "--json", "plan.json"]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, err) == (0, "")
    assert "Stage 2 fits: whole state" in out and "DALL·E, all" in out
    figures = json.loads(Path("plan.json").read_text())
    assert figures["fits"] and figures["cluster"]["devices"] == 2
    code, out, _ = run(monkeypatch, capsys, "plan", "--preset", "tiny", "--memory", 0.01)
    assert code == 0 and "Stage 2 does not fit" in out and "--bits 16" in out


MODEL = object()  # stands for the path of the fixture's model
BAD = {
    "no caption": (["draw"], "(?i)missing.*captions"),
    "empty caption": (["draw", " ", "--model", MODEL], "the caption is empty"),
    "caption too long": (["draw", "circle " * 99, "--model", MODEL], "at most 12"),
    "n": (["draw", "a", "--n", "0", "--model", MODEL], "at least 1, not 0"),
    "n no number": (["draw", "a", "--n", "many"], "'--n'.*valid integer"),
    "k too small": (["draw", "a", "--top-k", "0", "--model", MODEL], "1 … 11.*not 0"),
    "k too large": (["draw", "a", "--top-k", "12", "--model", MODEL], "1 … 11.*not 12"),
    "p": (["draw", "a", "--top-p", "1.5", "--model", MODEL], "not 1.5"),
    "temperature": (["draw", "a", "--temperature", "-1", "--model", MODEL], "not -1.0"),
    "no temperature": (["draw", "a", "--temperature", "nan", "--model", MODEL], "not nan"),
    "best of too few": (["draw", "a", "--best-of", "3", "--model", MODEL], "best 4 of 3"),
    "missing model": (["draw", "a", "--model", "nowhere"], "no model 'nowhere'"),
    "folder as output": (["draw", "a", "--model", MODEL, "--out", "."], "is a folder"),
    "output below a file": (["draw", "a", "--model", MODEL, "--out", "file/a.png"], "file"),
    "unwritable output": (["draw", "a", "--model", MODEL, "--out", "/proc/a.png"], "/proc"),
    "unknown preset": (["train", "--preset", "huge", "--out", "r"], "'huge'.*ci, two, tiny"),
    "unknown data": (["train", "--data", "zip:a", "--out", "r"], "folder:PATH.*not 'zip:a'"),
    "no folder": (["train", "--data", "folder:nowhere", "--out", "r"], "no folder nowhere"),
    "no pictures in it": (["train", "--data", "folder:.", "--out", "r"], "no pictures in"),
    "a file as folder": (["train", "--data", "folder:file", "--out", "r"], "no folder file"),
    "no shards": (["train", "--data", "webdataset:{0..3}.tar", "--out", "r"], "no tar file fits"),
    "half a brace": (
        ["train", "--data", "webdataset:{0..3.tar", "--out", "r"],
        "(?i)no tar file|brace",
    ),
    "no data set": (["train", "--data", "hub:./nowhere", "--out", "r"], "no folder ./nowhere"),
    "hub setting": (["train", "--data", "hub:a,b=c", "--out", "r"], "unknown setting 'b'"),
    "train without out": (["train"], "Missing option '--out'"),
    "trained already": (["train", "--out", MODEL], "already holds a trained model"),
    "train into a full folder": (["train", "--out", "."], "holds other files"),
    "PowerSGD alone": (["train", "--powersgd", "4", "--out", "r"], "rank 4.* there is only one"),
    "workers": (["train", "--workers", "-1", "--out", "r"], "(?i)workers"),
    "seed": (["draw", "a", "--seed", str(2**64), "--model", MODEL], "(?i)seed"),
    "no text": (["draw", "a\udcffb", "--model", MODEL], "must be Unicode text"),
    "train into a file": (["train", "--out", "file"], "file"),
    "families of a folder": (
        ["train", "--out", "a", "--data", "folder:x", "--family", "time"],
        "--data folder:x has no families",
    ),
    "a family nobody draws": (["train", "--out", "a", "--family", "cats"], "'cats'.*attributes"),
    "unknown family": (["world", "--family", "cats"], "'cats'.*attributes"),
    "unknown split": (["world", "--split", "exam"], "'exam'.*zero-shot"),
    "unknown size": (["world", "--size", "65"], "not at 65"),
    "no pictures": (["world", "--n", "0"], "not 0"),
    "examine nothing": (["examine", "--n", "0", "--model", MODEL], "not 0"),
    "examine another world": (
        ["examine", "--model", MODEL],
        "'tiny-test' does not say which part of the world",
    ),
    "a gallery of nothing": (["gallery", "--n", "0", "--model", MODEL, "--out", "g"], "not 0"),
    "a gallery of another world": (
        ["gallery", "--model", MODEL, "--out", "g"],
        "models of the world",
    ),
    "train the paper's": (["train", "--preset", "paper", "--out", "r"], "minidalle plan --preset"),
    "plan the unknown": (["plan", "--preset", "huge"], "'huge'.*ci, two, tiny.*paper"),
    "plan for nothing": (["plan", "--preset", "ci", "--devices", "0"], "devices.*not 0"),
    "plan in no memory": (["plan", "--preset", "ci", "--memory", "nan"], "memory.*not nan"),
    "plan below the batch": (["plan", "--preset", "ci", "--devices", "99"], "32.*99 devices"),
    "plan in 8 bits": (["plan", "--preset", "ci", "--bits", "8"], "16 or 32, not 8"),
    "plan in a folder": (["plan", "--preset", "ci", "--json", "."], "is a folder"),
    "plan with words": (["plan", "--memory", "much"], "'--memory'.*valid (float|number)"),
    "no pickle": (["convert", "file", "file"], "file is refused, nothing in it was executed"),
    "missing pickle": (["convert", "nowhere.pkl", "file"], "nowhere.pkl: No such file"),
    "no decoder": (["convert", "file"], "(?i)missing argument 'decoder'"),
    "converted already": (["convert", "file", "file", "--out", MODEL], "already holds a model"),
    "no picture": (["reconstruct", "file", "--model", MODEL], "file is no picture"),
    "missing picture": (["reconstruct", "a.jpg", "--model", MODEL], "a.jpg: No such file"),
    "no dvae": (["reconstruct", "file", "--model", "."], "config.json is missing"),
    "no repository": (["push", "mine", "--model", MODEL], "OWNER/NAME, not 'mine'"),
    "push nothing": (["push", "a/b", "--model", "nowhere"], "no model 'nowhere'"),
    "unknown command": (["paint"], "No such command 'paint'"),
    "unknown option": (["draw", "a", "--colour", "red"], "No such option"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_sentence(name, model, monkeypatch, capsys):
    """Exit code 2, one line on stderr that names the fault, no traceback, nothing written."""
    arguments, words = BAD[name]
    Path("file").write_text("in the way")
    before = sorted(Path.cwd().rglob("*"))
    arguments = [model if argument is MODEL else argument for argument in arguments]
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2, err
    assert re.search(words, err), err
    assert err.startswith("minidalle: ") and err.count("\n") == 1
    assert "Traceback" not in err and out == ""
    after = [path for path in sorted(Path.cwd().rglob("*")) if path.name != "pictures"]
    assert after == before


def test_a_damaged_model_is_named(model, tmp_path, monkeypatch, capsys):
    """Half a file of weights: one sentence that names the file."""
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    data = (damaged / "dalle.safetensors").read_bytes()
    (damaged / "dalle.safetensors").write_bytes(data[: len(data) // 2])
    code, _, err = run(monkeypatch, capsys, "draw", "a circle", "--model", damaged)
    assert code == 2 and "dalle.safetensors is damaged" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["draw a", "reconstruct p.png", "push a/b"])
def test_a_hub_out_of_reach_is_one_sentence(command, monkeypatch, capsys):
    """As --model OWNER/NAME; Ctrl-C while it is asked stops like everywhere."""

    def fail(*_, **__):
        raise ConnectionError("no route to host")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    arguments = [*command.split(), "--model", "some/body"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2 and err.count("\n") == 1
    assert "no folder 'some/body'" in err and "no route to host" in err
    monkeypatch.setattr("huggingface_hub.snapshot_download", interrupt)
    assert run(monkeypatch, capsys, *arguments)[::2] == (130, "minidalle: stopped\n")


def test_examine_prints_writes_json_and_fills_the_card(monkeypatch, capsys):
    """The table is printed, its figures are in the file, and the card has both, once."""
    judge = Examiner(CI.families, 24).eval()
    monkeypatch.setattr("minidalle.examine.find_examiner", lambda *_: judge)
    world_bundle().save("model")
    command = "examine --model model --n 2 --seed 3 --json scores.json --card".split()
    for _ in range(2):
        code, out, err = run(monkeypatch, capsys, *command)
        assert (code, err) == (0, "") and "| average | " in out
    card, board = Path("model/README.md").read_text(), json.loads(Path("scores.json").read_text())
    assert card.count("| average | ") == 1 and "# a card" in card
    assert board["settings"]["seed"] == 3 and list(board["families"]) == list(CI.families)


def test_a_card_that_cannot_be_written_is_noticed_before_the_work(monkeypatch, capsys):
    """Ten minutes of examination are not for nothing."""
    monkeypatch.setattr("minidalle.examine.scoreboard", lambda *_: pytest.fail("examined"))
    world_bundle().save("model")
    Path("model/README.md").unlink()
    Path("model/README.md").mkdir()
    code, _, err = run(monkeypatch, capsys, *"examine --model model --card".split())
    assert code == 2 and "README.md" in err


def test_gallery_says_where_the_page_is(monkeypatch, capsys):
    """The page beside the folder of its pictures."""
    judge = Examiner(CI.families, 24).eval()
    monkeypatch.setattr("minidalle.gallery.find_examiner", lambda *_: judge)
    world_bundle().save("model")
    code, out, err = run(monkeypatch, capsys, *"gallery --model model --n 1 --out a/page".split())
    assert (code, err) == (0, "") and out.endswith(f"page in {Path.cwd() / 'a/page.md'}\n")
    assert len(list(Path("a/page").glob("*.png"))) == 2


def test_push_says_where_the_model_is(model, monkeypatch, capsys):
    """The address that the hub gave."""
    monkeypatch.setattr("minidalle.bundle.Bundle.push", lambda self, name, private: f"hub/{name}")
    code, out, err = run(monkeypatch, capsys, "push", "a/b", "--model", model)
    assert (code, out, err) == (0, f"{model} is at hub/a/b\n", "")


def test_convert_and_reconstruct(monkeypatch, capsys):
    """From the published files to a sheet of photographs and what is left of them."""
    official.pretend(monkeypatch)
    torch.save(official.Encoder(4, 8, 1), "encoder.pkl")
    torch.save(official.Decoder(4, 8, 1), "decoder.pkl")
    code, out, err = run(monkeypatch, capsys, "convert", "encoder.pkl", "decoder.pkl")
    assert (code, err) == (0, "") and out == f"dVAE in {Path.cwd() / 'openai-dvae'}\n"
    Image.new("RGB", (300, 400), "orange").save("one.jpg")
    Image.new("L", (256, 256)).save("two.png")
    code, out, err = run(monkeypatch, capsys, "reconstruct", "one.jpg", "two.png")
    assert (code, err) == (0, "") and out.startswith("2 pictures in ")
    sheet = Image.open("pictures/dvae.png")
    assert min(sheet.size) > 2 * 256


def test_an_interrupt_is_no_traceback(model, monkeypatch, capsys):
    """Ctrl-C while drawing: a word, exit code 130, no picture."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("minidalle.bundle.generate", interrupted)
    code, _, err = run(monkeypatch, capsys, "draw", "a circle", "--model", model)
    assert code == 130 and err == "minidalle: stopped\n"
    assert not list(Path.cwd().rglob("*.png"))


def test_an_interrupted_training_goes_on(monkeypatch, capsys):
    """Ctrl-C in the middle of a step: exit code 130 and a checkpoint; the same command ends the run."""
    monkeypatch.setitem(minidalle.presets.PRESETS, "ci", QUICK)
    ours = minidalle.loop.Loop.advance

    def interrupt(loop, batch):
        if loop.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return ours(loop, batch)

    command = ["train", "--out", "run", "--seed", 3]
    with monkeypatch.context() as planted:
        planted.setattr(minidalle.loop.Loop, "advance", interrupt)
        code, out, err = run(monkeypatch, capsys, *command)
    assert code == 130 and err == "minidalle: stopped\n"
    assert "dVAE: stopped after step 5 of 12" in out
    assert Path("run/checkpoints/dvae-00000005.safetensors").exists()
    code, _, err = run(monkeypatch, capsys, *command[:-1], 4)
    assert (
        code == 2 and re.match("minidalle: .*seed = 3, now it is 4", err) and err.count("\n") == 1
    )
    code, out, err = run(monkeypatch, capsys, *command)
    assert code == 0 and "dVAE: going on from step 5 of 12" in out
    assert "DALL·E: going on" not in out and Path("run/config.json").exists()


def test_a_full_disk_stops_a_training_with_one_sentence(monkeypatch, capsys):
    """Exit code 2; the sentence names the checkpoint that is intact."""
    monkeypatch.setitem(minidalle.presets.PRESETS, "ci", QUICK)
    ours = minidalle.checkpoint.write_atomically

    def full(path, fill):
        if path.name == "dalle-00000006.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        ours(path, fill)

    monkeypatch.setattr(minidalle.checkpoint, "write_atomically", full)
    code, _, err = run(monkeypatch, capsys, "train", "--out", "run", "--seed", 3)
    assert code == 2 and err.count("\n") == 1
    assert re.match(
        r"minidalle: the disk of run is full; .*dalle-00000003.safetensors, is intact", err
    )
    assert not list(Path("run").rglob(".*"))


@pytest.mark.parametrize(
    "command",
    ["", *"draw train examine examiner gallery world plan bench push convert reconstruct".split()],
)
def test_help_tells_what_and_how(command, monkeypatch, capsys):
    """Every option has a line of help; the commands show an example or say what they print."""
    code, out, err = run(monkeypatch, capsys, *command.split(), "--help")
    assert code == 0 and err == ""
    for option in re.findall(r"^ +(--[a-z-]+) .*$", out, re.MULTILINE):
        assert re.search(rf"{option}( / --no-\S+)? +(<.*?>)?\s+\S", out), (
            f"{option} is not explained"
        )


def test_the_example_of_the_help_works(monkeypatch, capsys):
    """What the help of draw shows can be typed as it stands, with the bundled weights."""
    _, out, _ = run(monkeypatch, capsys, "draw", "--help")
    (example,) = re.findall(r"Example:\s+minidalle (draw .*)", out)
    assert run(monkeypatch, capsys, *shlex.split(example))[0] == 0


def test_help_is_quick_because_it_loads_nothing_heavy():
    """--help must not import torch."""
    program = "import sys; from minidalle import cli; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "False\n", answer.stderr


def test_python_m_is_the_same():
    """``python -m minidalle`` runs the command line."""
    command = [sys.executable, "-m", "minidalle", "world", "--n", "0"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2 and answer.stderr.startswith("minidalle: ")
