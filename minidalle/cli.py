"""The command line: ``minidalle draw``, ``train``, ``examine``, ``bench`` and more.  (Chapter 0)

Bad input ends with one sentence on stderr and exit code 2; nothing half-written is left behind. Heavy
modules are imported by the command that needs them, so that --help answers at once.
"""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

STOPPED = 130  # the exit code of a program that Ctrl-C ended

app = typer.Typer(
    help="DALL·E in miniature: draw pictures for captions, or train every part yourself.",
    epilog='Start with:  minidalle draw "a small red circle above a blue square"',
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

ClickException = typer.BadParameter.__base__.__base__  # of the click that this typer is built on

Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same pictures.")]
MODEL = "A bundled model's name, a folder, or OWNER/NAME[@REVISION] on the Hugging Face hub."
ModelOption = Annotated[str, typer.Option(help=MODEL)]


@app.command()
def draw(
    captions: Annotated[list[str], typer.Argument(help="What to draw; each in quotes.")],
    n: Annotated[int, typer.Option(help="Pictures for each caption.")] = 4,
    seed: Seed = 0,
    temperature: Annotated[
        float, typer.Option(help="0 draws the likeliest token; 1 is the paper's.")
    ] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(help="Choose among the k likeliest image codes only.", show_default="all"),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Choose among the likeliest codes that sum to p.", show_default="1"),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="More than 1 exaggerates what the caption says; 1 is none.")
    ] = 1.0,
    best_of: Annotated[
        int | None,
        typer.Option(
            help="Draw so many for each caption and keep the n that CLIP finds best.",
            show_default="no choice",
        ),
    ] = None,
    model: ModelOption = "tiny",
    out: Annotated[
        Path | None,
        typer.Option(help="The PNG to write.", show_default="pictures/CAPTION-seed.png"),
    ] = None,
) -> None:
    """Draw pictures for one or more captions and write them as one PNG.

    Example:  minidalle draw "a large green star" "the word cat on a red sign" --n 2 --seed 7
    """
    from .bundle import load

    out = out or unused(Path("pictures") / f"{slug(captions[0])}-{seed}.png")
    bundle = load(model)
    check_writable(out)
    drawing = bundle.draw(captions, n, seed, temperature, top_k, top_p, guidance, best_of=best_of)
    drawing.save(out)
    typer.echo(f"{counted(len(drawing.captions))} in {out.resolve()}")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; ends as a model for draw --model.")],
    preset: Annotated[
        str,
        typer.Option(
            help="ci or two (minutes on two cores), tiny or world (one to two hours), small (for a GPU)."
        ),
    ] = "ci",
    data: Annotated[
        str,
        typer.Option(help="world, emoji, folder:PATH, webdataset:PATTERN or hub:NAME."),
    ] = "world",
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="A family of the world to learn; give it several times for several.",
            show_default="the preset's",
        ),
    ] = None,
    filter: Annotated[
        bool | None,
        typer.Option(
            "--filter/--no-filter",
            help="Drop pictures of odd shape or with captions too short, not English or boilerplate.",
            show_default="for webdataset",
        ),
    ] = None,
    seed: Seed = 0,
    powersgd: Annotated[
        int,
        typer.Option(
            min=0, help="Rank at which processes compress gradients; 0 sends them in full."
        ),
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that load pictures beside the one that trains.")
    ] = 0,
) -> None:
    """Train tokenizer, dVAE, DALL·E and CLIP from nothing, on the world or on pictures of your own.

    Writes the model, log.jsonl with every figure, samples-STAGE-STEP.png as it learns, skipped.jsonl with
    every file that could not be used, and checkpoints: after Ctrl-C, a crash or a power cut the same command
    goes on from the last one, to the same result. In a folder, the captions of NAME.jpg are in NAME.txt
    beside it, or in a table captions.csv or captions.jsonl.

    Example:  minidalle train --preset ci --out runs/ci

    Example:  minidalle train --preset world --family creatures --family time --out runs/ours

    Example:  minidalle train --data folder:pictures --preset small --out runs/mine

    On several GPUs:  accelerate launch --multi_gpu -m minidalle train --preset small --out runs/small
    """
    from .presets import preset as named
    from .train import train as run

    chosen = named(preset)
    if family and data != "world":
        raise ValueError(f"--family chooses from the world; --data {data} has no families")
    if family:
        chosen = chosen.of_families(family)
    run(chosen, out, seed, data, filter, powersgd, workers)
    if os.environ.get("RANK", "0") == "0":  # the first process of several, or the only one
        typer.echo(f"model, log and samples.png in {out.resolve()}")


@app.command()
def examine(
    model: ModelOption = "tiny",
    n: Annotated[int, typer.Option(help="Captions of each family and split.")] = 100,
    seed: Seed = 0,
    curve: Annotated[
        int,
        typer.Option(
            help="Also the curve of best of 1 … 128, over so many captions of each.",
            show_default="no",
        ),
    ] = 0,
    json: Annotated[
        Path | None,
        typer.Option(help="Also write all figures as JSON.", show_default="no"),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Also write the tables into the model's card.")
    ] = False,
) -> None:
    """Score a model: how often is a picture right in every fact its caption states?

    An independent examiner reads, for captions of fresh and of never-seen compositions, true pictures, the
    dVAE's reconstructions (the ceiling), one sample, and the best of 32 by the model's CLIP. Beside that:
    image prompts, FID and inception score, diversity, and a control with shuffled captions.

    Example:  minidalle examine --model runs/ci --json scores.json
    """
    from .bundle import load
    from .bundle_files import find, write_card
    from .examine import scoreboard
    from .files import write_json
    from .scorecard import section, with_scores

    folder = find(model)
    bundle = load(folder)
    for path in [json] * (json is not None) + [folder / "README.md"] * card:
        check_writable(path)
    board = scoreboard(bundle, n, seed, typer.echo, curve)
    typer.echo("\n" + section(board))
    if json is not None:
        write_json(json, board)
        typer.echo(f"figures in {json.resolve()}")
    if card:
        write_card(folder, with_scores(bundle.card, board))
        typer.echo(f"tables in {(folder / 'README.md').resolve()}")


@app.command()
def gallery(
    model: ModelOption = "tiny",
    n: Annotated[int, typer.Option(help="Captions of each family and split.")] = 2,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="The page is OUT.md, its pictures lie in OUT.")] = Path(
        "gallery"
    ),
) -> None:
    """Make a page of pictures: what a model draws in every family, with the examiner's verdict on each.

    Shows for the first captions of fresh and of never-seen compositions the true picture, the dVAE's
    reconstruction, the first samples, and the best of 32 if the model has a CLIP.

    Example:  minidalle gallery --model runs/ci --out pictures/gallery
    """
    from .bundle import load
    from .gallery import gallery as make

    bundle = load(model)
    page = out.with_name(out.name + ".md")
    check_writable(page)
    typer.echo(f"page in {make(model, bundle, out, n, seed, typer.echo).resolve()}")


@app.command()
def examiner(
    out: Annotated[Path, typer.Option(help="Folder of the weights and their card.")],
    steps: Annotated[int, typer.Option(min=1, help="Of 64 pictures each.")] = 7000,
    n: Annotated[int, typer.Option(min=1, help="Pictures a row of its own examination.")] = 400,
    seed: Seed = 0,
) -> None:
    """Train the examiner that judges 64-pixel pictures of the whole world, and examine it.

    Takes a quarter of an hour on two cores; eight times on the way it says what the examiner reads worst. Its
    card has every row of the examination.

    Example:  minidalle examiner --out minidalle/weights/examiner
    """
    from time import perf_counter

    from .data import World
    from .examiner import (
        EXAMINER_SEED,
        examine_examiner,
        examiner_card,
        save_examiner,
        train_examiner,
        weakest,
    )
    from .world import FAMILIES

    def watch(step: int, judge) -> None:
        typer.echo(f"step {step}: {weakest(examine_examiner(judge, 25, seed))}")

    check_writable(out / "config.json")
    data = World(list(FAMILIES), 64, "train", EXAMINER_SEED)
    start = perf_counter()
    judge = train_examiner(data, steps, seed=seed, watch=watch)
    minutes = (perf_counter() - start) / 60
    save_examiner(judge, out, "Not examined yet.\n")  # first: the examination takes minutes, too
    findings = examine_examiner(judge, n, seed)
    save_examiner(judge, out, examiner_card(judge, findings, seed, steps, minutes))
    typer.echo(f"weakest: {weakest(findings)}")
    typer.echo(f"examiner, trained in {minutes:.1f} minutes, in {out.resolve()}")


@app.command()
def world(
    family: Annotated[
        str | None,
        typer.Option(help="One family of pictures.", show_default="all"),
    ] = None,
    n: Annotated[int, typer.Option(help="How many pictures.")] = 16,
    seed: Seed = 0,
    split: Annotated[str, typer.Option(help="train, test or zero-shot.")] = "train",
    size: Annotated[int, typer.Option(help="Pixels on a side: 24, 32, 64 or 128.")] = 64,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("pictures/world.png"),
) -> None:
    """Draw true pictures of the world with their captions: what the models learn from."""
    from .data import World
    from .files import write_atomically
    from .show import grid
    from .world import FAMILIES

    if n < 1:
        raise ValueError(f"--n must be at least 1, not {n}")
    families = list(FAMILIES) if family is None else [family]
    source = World(families, size, split, seed)
    check_writable(out)
    examples = [source[i] for i in range(n)]
    title = f"{family or 'the world'} · {split} · seed {seed}"
    sheet = grid([e.picture for e in examples], [e.caption for e in examples], title)
    write_atomically(out, lambda file: sheet.save(file, "PNG"))
    typer.echo(f"{counted(n)} in {out.resolve()}")


@app.command()
def plan(
    preset: Annotated[str, typer.Option(help="The sizes, e.g. tiny or paper.")] = "paper",
    devices: Annotated[int, typer.Option(help="GPUs (or other devices) in all.")] = 1,
    memory: Annotated[
        float, typer.Option(help="Memory of each in GB, as it is sold.", show_default="16")
    ] = 16.0,
    per_machine: Annotated[int, typer.Option(help="Devices in a machine; they share weights.")] = 8,
    batch: Annotated[
        int | None,
        typer.Option(help="Pictures of an update on all devices.", show_default="the preset's"),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="16 (as the paper stores) or 32.", show_default="16 for paper, else 32"),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="PowerSGD's, for a machine.", show_default="896 for paper, else D / 4"),
    ] = None,
    peak: Annotated[float, typer.Option(help="TFLOP/s of a device; 125 is a V100's.")] = 125.0,
    utilisation: Annotated[float, typer.Option(help="Share of it that training reaches.")] = 0.33,
    network: Annotated[float, typer.Option(help="GB/s that a machine can send to others.")] = 12.5,
    json: Annotated[
        Path | None,
        typer.Option(help="Also write all figures as JSON.", show_default="no"),
    ] = None,
) -> None:
    """Count what a preset needs: parameters, memory, traffic and time, and whether it fits.

    Nothing is trained or allocated: shapes are counted. Peak, utilisation and network are assumptions.

    Example:  minidalle plan --preset paper --devices 1024 --memory 16
    """
    from .cluster import Cluster
    from .files import write_json
    from .plan import plan as count
    from .plan import table
    from .presets import preset as named

    chosen = named(preset)
    cluster = Cluster(devices, memory, per_machine, peak, utilisation, network)
    if json is not None:
        check_writable(json)
    found = count(chosen, cluster, batch, bits, rank)
    typer.echo(table(found))
    if json is not None:
        write_json(json, found.as_json())
        typer.echo(f"figures in {json.resolve()}")


@app.command()
def bench(
    json: Annotated[
        Path | None,
        typer.Option(help="Also write the figures as JSON.", show_default="no"),
    ] = None,
) -> None:
    """Measure the speed of every part on this machine; a few minutes on two cores.

    Prints the peak of matrix products, the dVAE's pictures/s, training and its share of the peak, the
    forms of attention, sampling with and without the cache, and each mask's time and memory against the grid.
    """
    from .bench import bench as run
    from .device import choose_device
    from .files import write_json

    os.environ.setdefault("MINIDALLE_QUIET", "1")  # bars cost time and hide the table
    if json is not None:
        check_writable(json)
    figures = run(choose_device(), echo=typer.echo)
    if json is not None:
        write_json(json, [figure._asdict() for figure in figures])
        typer.echo(f"figures in {json.resolve()}")


@app.command()
def push(
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub.")],
    model: ModelOption = "tiny",
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
) -> None:
    """Upload a model to the Hugging Face hub, where draw --model OWNER/NAME finds it.

    Needs the library (pip install "minidalle[hub]") and an account (hf auth login).

    Example:  minidalle push somebody/my-model --model runs/ci
    """
    from .bundle import load

    typer.echo(f"{model} is at {load(model, 'cpu').push(repository, private)}")


@app.command()
def convert(
    encoder: Annotated[Path, typer.Argument(help="The published encoder.pkl.")],
    decoder: Annotated[Path, typer.Argument(help="The published decoder.pkl.")],
    out: Annotated[Path, typer.Option(help="Folder for the safetensors.")] = Path("openai-dvae"),
) -> None:
    """Convert the official dVAE to safetensors, without executing anything in its pickles.

    The two files are at https://cdn.openai.com/dall-e/encoder.pkl and …/decoder.pkl (0.4 GB in all).

    Example:  minidalle convert encoder.pkl decoder.pkl
    """
    from .openai_dvae import convert as run

    typer.echo(f"dVAE in {run(encoder, decoder, out).resolve()}")


@app.command()
def reconstruct(
    photographs: Annotated[list[Path], typer.Argument(help="Pictures in any common format.")],
    model: Annotated[str, typer.Option(help=MODEL)] = "openai-dvae",
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("pictures/dvae.png"),
) -> None:
    """Show what is left of photographs after a model's dVAE: into image tokens and back.

    The shorter side is scaled to what the dVAE takes, 256 pixels for the official one, and the middle cut
    out. The first row shows the pictures themselves, the second their reconstructions.

    Example:  minidalle reconstruct cat.jpg dog.jpg --model openai-dvae
    """
    from .bundle_files import load_dvae
    from .files import write_atomically
    from .openai_dvae import open_picture
    from .openai_dvae import reconstruct as run
    from .show import grid

    dvae = load_dvae(model)
    pictures = [open_picture(path, dvae.config.size) for path in photographs]
    check_writable(out)
    names = [path.name for path in photographs]
    labels = names + [f"{name}, {dvae.config.grid**2} tokens" for name in names]
    sheet = grid([*pictures, *run(dvae, pictures)], labels, "the dVAE", len(pictures))
    write_atomically(out, lambda file: sheet.save(file, "PNG"))
    typer.echo(f"{counted(len(pictures))} in {out.resolve()}")


def counted(n: int) -> str:
    """1 picture, 2 pictures."""
    return f"{n} picture{'s' * (n != 1)}"


def slug(caption: str) -> str:
    """A caption as a file name: "A red circle!" → "a-red-circle"."""
    return re.sub(r"[^\w]+", "-", caption.lower()).strip("-")[:60] or "drawing"


def unused(path: Path) -> Path:
    """The path, or the first of name-2, name-3, … that no file has: a drawing never replaces another."""
    candidate, k = path, 1
    while candidate.exists():
        k += 1
        candidate = path.with_stem(f"{path.stem}-{k}")
    return candidate


def check_writable(path: Path) -> None:
    """Find out before the work whether ``path`` can be written, and make its folder.

    Raises OSError that says why not.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file, e.g. {path}/out.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    from .files import write_atomically

    probe = path.parent / f".{path.name}.probe"
    write_atomically(probe, lambda file: None)
    probe.unlink()


def sentence(error: Exception) -> str:
    """An error as one line for a person."""
    if isinstance(error, ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def main() -> None:
    """Entry point: runs a command and turns every expected error into one sentence and exit code 2."""
    # Read by OpenMP when torch is loaded. Threads that wait for each other by spinning slow two cores down
    # tenfold as soon as any other program is busy; these fall asleep after a moment.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(standalone_mode=False)
    except (ValueError, OSError, ClickException) as error:
        typer.echo(f"minidalle: {sentence(error)}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    if code == STOPPED:  # some versions of typer turn an interrupt into this code themselves
        typer.echo("minidalle: stopped", err=True)
    sys.exit(code or 0)
