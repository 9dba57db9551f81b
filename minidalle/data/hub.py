"""A data set of the Hugging Face hub, or one on disk in its formats, by the `datasets` library.  (Chapter 14)

    hub:NAME   hub:FOLDER   hub:NAME,config=CONFIG,image=COLUMN,caption=COLUMN

Rows of its train split are used; which of them are ours for testing is decided by a hash of the row's number.
"""

from pathlib import Path

from ..show import quiet
from .base import clean
from .stored import Scanned

SPLIT = "train"
CAPTION_COLUMNS = ("caption", "text", "captions", "sentences", "description", "prompt", "title")
SETTINGS = ("config", "image", "caption")


class Hub(Scanned):
    """The rows of a data set that has a column of pictures and one of captions (or of lists of them).

    name: of the hub, or a folder (of pictures, Parquet, …, or what ``save_to_disk`` wrote), then settings.
    size: pixels on a side. split: train or test. filtered: apply the paper's filters. Raises ValueError if it
    cannot be loaded or if its columns leave open which ones are meant.
    """

    def __init__(self, name: str, size: int, split: str = "train", filtered: bool = False):
        super().__init__(size, split)
        name, settings = parse(name)
        self.label = f"hub:{Path(name).expanduser().resolve().name if is_local(name) else name}"
        rows = load_rows(name, settings.get("config"))
        picture, caption = choose_columns(rows.features, name, settings)
        import datasets

        self.rows = rows.cast_column(picture, datasets.Image(decode=False))
        self.picture = picture
        texts = rows.select_columns([caption])[caption]
        found = {f"{k}": as_captions(text) for k, text in enumerate(texts)}
        self.scan(found, filtered)

    def read(self, name: str) -> bytes:
        """The bytes of the picture in a row."""
        cell = self.rows[int(name)][self.picture]
        if cell is None:
            raise ValueError("no picture in this row")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def parse(name: str) -> tuple[str, dict[str, str]]:
    """Name and settings of ``NAME,image=COLUMN``. Raises ValueError for an unknown setting."""
    name, *parts = name.split(",")
    settings = dict(part.partition("=")[::2] for part in parts)
    for setting, value in settings.items():
        if setting not in SETTINGS or not value:
            raise ValueError(
                f"unknown setting {setting!r} of hub:{name}; known are {'=…, '.join(SETTINGS)}=…"
            )
    return name, settings


def is_local(name: str) -> bool:
    """Whether a name is meant as a folder: it is one, or is written like one."""
    return name.startswith(("/", ".", "~")) or Path(name).is_dir()


def load_rows(name: str, config: str | None):
    """The train split, from disk or from the hub. Raises ValueError that says why not."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError("hub: needs a library; pip install 'minidalle[hub]'") from error
    if quiet():
        datasets.disable_progress_bars()
    folder = Path(name).expanduser()
    if is_local(name) and not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {name} with a data set")
    try:
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            rows = datasets.load_from_disk(folder)
        else:
            rows = datasets.load_dataset(str(folder) if is_local(name) else name, config)
        if isinstance(rows, datasets.DatasetDict) and SPLIT not in rows:
            raise ValueError(f"it has the splits {', '.join(rows)}, and none called {SPLIT}")
        return rows[SPLIT] if isinstance(rows, datasets.DatasetDict) else rows
    except Exception as error:  # of the library, of its file formats, of the network
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise ValueError(f"hub:{name} cannot be loaded: {reason}") from error


def choose_columns(features: dict, name: str, settings: dict[str, str]) -> tuple[str, str]:
    """The columns of pictures and of captions: those of the settings, else the only ones that can be meant.

    Raises ValueError that lists the columns.
    """
    import datasets

    pictures = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    texts = [column for column, kind in features.items() if is_text(kind)]
    known = [column for column in CAPTION_COLUMNS if column in texts]
    picture = settings.get("image") or (pictures[0] if len(pictures) == 1 else None)
    caption = settings.get("caption") or (known or texts if len(texts) == 1 or known else [None])[0]
    if picture not in pictures or caption not in texts:
        columns = ", ".join(f"{column} ({kind_of(kind)})" for column, kind in features.items())
        raise ValueError(
            f"hub:{name} has the columns {columns}; say which ones are meant: "
            f"hub:{name},image=COLUMN,caption=COLUMN"
        )
    return picture, caption


def is_text(kind: object) -> bool:
    """A column of strings, or of lists of them."""
    kind = getattr(kind, "feature", kind[0] if isinstance(kind, list) else kind)
    return getattr(kind, "dtype", None) in ("string", "large_string")


def kind_of(kind: object) -> str:
    """A column's type in a word."""
    return "text" if is_text(kind) else str(getattr(kind, "dtype", type(kind).__name__)).lower()


def as_captions(text: str | list[str] | None) -> list[str]:
    """The captions of a row."""
    texts = text if isinstance(text, list) else [text]
    return [clean(each) for each in texts]
