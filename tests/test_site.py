"""The site: builds without a warning, shows every picture's description, asks nothing of the outside."""

import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chapters
import pytest
from browser import chromium

import minidalle
from minidalle.world import FAMILIES

ROOT = Path(__file__).parent.parent
CHAPTERS = [f"notebooks/{path.stem}.html" for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
BOOK = [f"book/{path.stem}.html" for path in sorted(ROOT.glob("book/*.md"))]
PAGES = ("index.html", *BOOK, *CHAPTERS)
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
BUILD = (
    "build . --config book/_config.yml --toc book/_toc.yml -W -n --keep-going --path-output"
).split()


class Page(HTMLParser):
    """The tags of a page as (name, attributes)."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built from the root into a fresh folder, where a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, *BUILD, str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return out / "_build" / "html"


def modules() -> list[str]:
    """The package's modules that a reader may import, by name; families of the world are found by it."""
    files = (path.relative_to(ROOT / "minidalle") for path in (ROOT / "minidalle").rglob("*.py"))
    names = {
        ".".join(path.with_suffix("").parts).removesuffix("__init__").strip(".") for path in files
    }
    return sorted(name for name in names if name and "__" not in name and "checks" not in name)


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    found = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    return {name: Page(path) for name, path in found.items() if not name.startswith("_static/")}


def test_the_pages_exist(site):
    for page in PAGES:
        assert (site / page).exists(), page
    assert "book/intro.html" in (site / "index.html").read_text(encoding="utf-8")
    chapter = (site / "notebooks/00_start.html").read_text(encoding="utf-8")
    assert chapter.count("data:image/png;base64") >= 5, "the pictures of chapter 0 are missing"


def documented() -> list[str]:
    """What the API pages document, in the order of the table of contents."""
    toc = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    texts = [
        (ROOT / path).read_text(encoding="utf-8") for path in re.findall(r"book/api.*?\.md", toc)
    ]
    return re.findall(r"^\.\. automodule:: minidalle\.([\w.]+)$", "\n".join(texts), re.MULTILINE)


def test_every_module_is_on_an_api_page(pages):
    """Once each; what is missing gets a heading and an automodule on the page where it belongs."""
    assert sorted(documented()) == modules()
    ids = {found["id"] for page in pages.values() for _, found in page.tags if "id" in found}
    assert {f"module-minidalle.{name}" for name in modules()} <= ids
    assert {"minidalle.bundle.load", "minidalle.masks.row_mask", "minidalle.data.source"} <= ids


def test_the_api_pages_are_in_reading_order():
    """Which is the one that the package itself names."""
    order = re.search(r"in this order: (.*?)\.\n", minidalle.__doc__ + "\n", re.DOTALL)[1]
    assert [name for name in documented() if "." not in name] == re.split(r",\s+", order)


def test_every_picture_is_described(pages):
    images = [(page, image) for page, parsed in pages.items() for image in parsed.all("img")]
    assert images
    for page, image in images:
        assert image.get("alt", "").strip(), f"{page}: {str(image)[:200]}"


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for page, parsed in pages.items():
        for tag, attribute in FETCHED.items():
            for attributes in parsed.all(tag):
                address = attributes.get(attribute, "")
                assert not re.match(r"(https?:)?//", address), f"{page}: <{tag}> fetches {address}"
        text = (site / page).read_text(encoding="utf-8")
        assert not re.search(r"unpkg\.com|jsdelivr|cdnjs|googleapis", text), page
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        found = re.search(r"(url\(|@import)\s*[\"']?(https?:)?//[^)]*", text)
        assert not found, f"{path.name} fetches {found[0]}"


def test_links_inside_the_site_lead_somewhere(site, pages):
    for page, parsed in pages.items():
        for tag, attribute in {**FETCHED, "a": "href"}.items():
            for attributes in parsed.all(tag):
                address = urlsplit(attributes.get(attribute, ""))
                if address.scheme or address.netloc or not address.path:
                    continue
                target = (site / page).parent / unquote(address.path)
                assert target.exists(), f"{page}: <{tag}> {address.path}"
                known = pages.get(target.resolve().relative_to(site.resolve()).as_posix())
                if address.fragment and known:
                    ids = {attributes.get("id") for _, attributes in known.tags}
                    assert address.fragment in ids, f"{page}: {address.path}#{address.fragment}"


LEADS_OUT = r"colab\.research|mybinder|/issues/new|/edit/|github\.com/owner"


def test_no_buttons_for_a_repository_that_does_not_exist(pages):
    for page, parsed in pages.items():
        for link in parsed.all("a"):
            address = link.get("href", "")
            found = re.search(LEADS_OUT, address)
            assert not found, f"{page}: {address}"


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here")
@pytest.mark.parametrize("page", ["book/intro.html", *CHAPTERS])
def test_the_browser_reports_no_error(site, page):
    run = subprocess.run(
        [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--enable-logging=stderr", "--virtual-time-budget=5000", (site / page).as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "</html>" in run.stdout, run.stderr[-2000:]
    errors = re.findall(r"CONSOLE.*(?:Uncaught|Error|Failed|ERR_).*", run.stderr)
    assert not errors, errors
    if "\\(" in (site / page).read_text(encoding="utf-8"):
        assert "<mjx-container" in run.stdout, "the formulas were not set"


UNFOLD = "document.querySelectorAll('details').forEach(each => { each.open = true; })"
STATE = """(() => {
const box = document.querySelectorAll(".minidalle-slider")[NUMBER], knob = box.querySelector("input");
const shown = [...box.querySelectorAll(".frame")].map(frame => frame.offsetHeight > 0);
const place = knob.getBoundingClientRect();
return {shown, first: +knob.getAttribute("value"),
        said: knob.getAttribute("aria-valuetext"), written: box.querySelector("output").textContent,
        left: place.left, right: place.right, y: (place.top + place.bottom) / 2};
})()"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here")
@pytest.mark.parametrize("page", CHAPTERS)
def test_sliders_move_by_keys_and_by_mouse(site, page, tmp_path):
    """All of a chapter, one at least. The frame that the author chose is visible, its neighbour after an
    arrow key, the frame at an end of the knob after a click there. A slider that begins at its last frame
    is moved to the left."""
    with chromium(tmp_path) as tab:
        tab.open((site / page).as_uri())
        tab.ask(UNFOLD)
        sliders = tab.ask("document.querySelectorAll('.minidalle-slider').length")
        assert sliders >= 1
        for number in range(sliders):
            move(tab, number)
        assert not tab.errors


def move(tab, number: int) -> None:
    """Move the slider of that number by a key and by the mouse."""
    state = STATE.replace("NUMBER", str(number))
    knob = f"document.querySelectorAll('.minidalle-slider')[{number}].querySelector('input')"
    tab.ask(f"{knob}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    tab.ask(f"{knob}.focus()")
    start = tab.ask(state)
    assert start["shown"][start["first"]] and sum(start["shown"]) == 1
    at_the_end = start["first"] == len(start["shown"]) - 1
    tab.press("ArrowLeft" if at_the_end else "ArrowRight")
    second = tab.ask(state)
    neighbour = start["first"] + (-1 if at_the_end else 1)
    assert second["shown"][neighbour] and sum(second["shown"]) == 1
    assert second["said"] == second["written"] != start["said"]
    tab.click(second["left"] + 3 if at_the_end else second["right"] - 3, second["y"])
    last = tab.ask(state)
    assert last["shown"][0 if at_the_end else -1] and sum(last["shown"]) == 1


AXE = (ROOT / "tests" / "axe" / "axe.min.js").read_text(encoding="utf-8")
VIOLATIONS = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations.flatMap(
    each => each.nodes.map(node => `${each.id}: ${node.target.join(" ")}: ${node.failureSummary}`)))"""
SHOW_ALL = "document.querySelectorAll('.frame').forEach(each => { each.hidden = false; })"
# A busy machine may still be fading in what was unfolded, and half of a colour is paler than the colour.
STILL = """new Promise(requestAnimationFrame).then(
    () => document.getAnimations().forEach(each => each.finish()))"""
OTHERS = ["search.html", "genindex.html", "_modules/index.html", "_modules/minidalle/masks.html"]


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here")
@pytest.mark.parametrize("page", [*BOOK, *CHAPTERS, *OTHERS])
def test_axe_finds_no_violation(site, page, tmp_path):
    """Light and dark, with everything unfolded and all frames of the sliders shown."""
    with chromium(tmp_path) as tab:
        for dark in (False, True):
            tab.open((site / page).as_uri(), dark=dark)
            theme = tab.ask("document.documentElement.dataset.theme")
            assert theme == ("dark" if dark else "light")
            for step in (UNFOLD, SHOW_ALL, STILL, f"{AXE}; 0"):
                tab.ask(step)
            found = tab.ask(VIOLATIONS)
            assert found == [], f"{page}, {theme}:\n" + "\n".join(found[:5])


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here")
def test_axe_finds_planted_faults(tmp_path):
    """The test above can fail: a picture without a description, text that is too pale."""
    page = tmp_path / "faults.html"
    page.write_text(
        "<html lang=en><title>x</title><main><h1>x</h1><img src=x><p style='color:#ccc'>too pale"
    )
    with chromium(tmp_path / "profile") as tab:
        tab.open(page.as_uri())
        tab.ask(f"{AXE}; 0")
        found = tab.ask(VIOLATIONS)
    assert {each.split(":")[0] for each in found} == {"image-alt", "color-contrast"}


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here")
def test_pages_fit_a_telephone(site, tmp_path):
    """At 375 pixels no page scrolls sideways; code, tables and equations do so by themselves."""
    with chromium(tmp_path) as tab:
        for page in [*BOOK, *CHAPTERS]:
            tab.open((site / page).as_uri(), width=375)
            tab.ask(UNFOLD)
            tab.ask(SHOW_ALL)
            root = "document.documentElement"
            width, visible = tab.ask(f"[{root}.scrollWidth, {root}.clientWidth]")
            assert width <= visible, f"{page}: {width} pixels wide"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The first page and chapter 0, built from a copy whose pyproject.toml names a repository."""
    copy = tmp_path_factory.mktemp("published")
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("_build"))
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = re.sub(r"^Repository = .*\n", "", text, flags=re.MULTILINE)
    setting = '[project.urls]\nRepository = "https://github.com/owner/name"\n'
    (copy / "pyproject.toml").write_text(
        text.replace("[project.urls]\n", setting), encoding="utf-8"
    )
    toc = "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/00_start.ipynb\n"
    (copy / "book" / "_toc.yml").write_text(toc)
    build = [
        each for each in BUILD if each not in ("-W", "-n")
    ]  # links to the other pages lead nowhere
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, *build, str(copy)]
    run = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return copy


def test_one_setting_brings_all_buttons(published, monkeypatch):
    """With a repository on GitHub: the site's buttons, the README's links, the setup cells' address."""
    page = Page(published / "_build" / "html" / "notebooks" / "00_start.html")
    links = [link.get("href", "") for link in page.all("a")]
    chapter = "github.com/owner/name/blob/main/notebooks/00_start.ipynb"
    colab = chapter.replace("github.com", "https://colab.research.google.com/github")
    assert colab in links and "https://github.com/owner/name" in links
    assert any(link.startswith("https://github.com/owner/name/issues/new") for link in links)
    assert colab not in chapters.run.chapter_list()
    monkeypatch.setattr(chapters.run, "FOLDER", published / "notebooks")
    assert f"[Colab]({colab})" in chapters.run.chapter_list()
    assert 'REPOSITORY = "https://github.com/owner/name"' in chapters.run.setup_cell()


@pytest.mark.parametrize("k", [0, 1])
def test_the_pictures_of_the_readme_and_of_the_first_page(k):
    """Each is what `make pictures` draws, and its description says each caption."""
    recipe = re.search(
        r"^pictures:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )[1]
    commands = recipe.split("minidalle draw")[1:]
    assert len(commands) == 2
    recipe = commands[k]
    picture = ROOT / re.search(r"--out (\S+)", recipe)[1]
    captions = re.findall(r'"([^"]+)"', recipe)
    assert len(captions) >= 4 and picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 150_000
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    intro = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    alts = re.findall(rf"!\[(.*?)\]\({picture.relative_to(ROOT)}\)", readme)
    alts += re.findall(rf'{{figure}} _static/{picture.name}\n:alt: "(.*)"', intro)
    assert len(alts) == 2
    for alt in alts:
        assert re.findall(r"[^;:]*: (.*)\.$", alt)[0].split("; ") == captions


def is_held_out(caption: str) -> bool:
    """Whether a caption of the world asks for a composition that no training picture shows."""
    rng = random.Random(0)
    for family in FAMILIES.values():
        for scene in (family.sample(rng) for _ in range(5000)):
            if caption in family.captions(scene):
                return family.is_held_out(scene.slots)
    raise AssertionError(f"{caption!r} is no caption of the world")


def test_what_is_said_to_be_new_is_new():
    """Of the second picture's captions the first two are zero-shot, as the texts beside it say."""
    recipe = (ROOT / "Makefile").read_text().split("--model world --best-of")[1]
    captions = re.findall(r'^\t  "(.*)"', recipe.split("\n\n")[0], re.MULTILINE)
    assert [is_held_out(each) for each in captions] == [True] * 2 + [False] * 7
    for page in (ROOT / "README.md", ROOT / "book" / "intro.md"):
        text = page.read_text(encoding="utf-8")
        assert (
            "No chair of watermelon and no teapot of bricks" in text and "the other seven" in text
        )
    assert captions[:2] == ["a chair made of watermelon", "a teapot made of bricks"]


def first_samples(card: Path) -> dict[str, int]:
    """Per cent right of one sample, by family, as a model card's table has them."""
    rows = re.findall(r"^\| (\w+) \|(.*)\|$", card.read_text(encoding="utf-8"), re.MULTILINE)
    cells = {name: [cell.strip() for cell in row.split("|")] for name, row in rows}
    return {name: int(row[3].split()[0]) for name, row in cells.items() if name in FAMILIES}


def test_the_readme_compares_the_models_as_their_cards_do():
    """The numbers of its sentence are those of the tables."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.search(r"in (\d+), (\d+) and (\d+) of 100 against (\d+), (\d+) and (\d+)", readme)
    cards = [
        first_samples(ROOT / "minidalle" / "weights" / m / "README.md") for m in ("world", "tiny")
    ]
    names = ("attributes", "objects", "lettering")
    assert [int(each) for each in said.groups()] == [card[name] for card in cards for name in names]
