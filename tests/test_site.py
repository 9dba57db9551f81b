"""The site: builds without a warning, shows every picture's description, asks nothing of the outside."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium

ROOT = Path(__file__).parent.parent
CHAPTERS = [f"notebooks/{path.stem}.html" for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
BOOK = [
    f"book/{name}.html" for name in "intro gallery notation glossary paper_map references".split()
]
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


def test_no_buttons_for_a_repository_that_does_not_exist(pages):
    for page, parsed in pages.items():
        for link in parsed.all("a"):
            address = link.get("href", "")
            found = re.search(r"colab\.research|mybinder|/issues/new|/edit/", address)
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


STATE = """(() => {
const box = document.querySelector(".minidalle-slider"), knob = box.querySelector("input");
const shown = [...box.querySelectorAll(".frame")].map(frame => frame.offsetHeight > 0);
const place = knob.getBoundingClientRect();
return {shown, first: +knob.getAttribute("value"),
        said: knob.getAttribute("aria-valuetext"), written: box.querySelector("output").textContent,
        left: place.left, right: place.right, y: (place.top + place.bottom) / 2};
})()"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium here")
@pytest.mark.parametrize("page", CHAPTERS)
def test_sliders_move_by_keys_and_by_mouse(site, page, tmp_path):
    """The frame that the author chose is visible, its neighbour after an arrow key, the frame at an end of
    the knob after a click there. A slider that begins at its last frame is moved to the left."""
    with chromium(tmp_path) as tab:
        tab.open((site / page).as_uri())
        knob = "document.querySelector('.minidalle-slider input')"
        tab.ask(f"{knob}.scrollIntoView({{block: 'center'}})")
        tab.ask(f"{knob}.focus()")
        start = tab.ask(STATE)
        assert start["shown"][start["first"]] and sum(start["shown"]) == 1
        at_the_end = start["first"] == len(start["shown"]) - 1
        tab.press("ArrowLeft" if at_the_end else "ArrowRight")
        second = tab.ask(STATE)
        neighbour = start["first"] + (-1 if at_the_end else 1)
        assert second["shown"][neighbour] and sum(second["shown"]) == 1
        assert second["said"] == second["written"] != start["said"]
        tab.click(second["left"] + 3 if at_the_end else second["right"] - 3, second["y"])
        last = tab.ask(STATE)
        assert last["shown"][0 if at_the_end else -1] and sum(last["shown"]) == 1
        assert not tab.errors
