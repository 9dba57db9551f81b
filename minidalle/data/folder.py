"""A folder of pictures, however nested and named, with captions beside them.  (Chapter 14)

Captions come from ``NAME.txt`` beside ``NAME.jpg`` (a line is a caption) and from tables named captions or
metadata (.csv, .tsv, .jsonl) in any of the folders, with a row for a caption. Names that begin with a dot are
not looked at, and links to folders are not followed.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .base import Skipped, clean
from .pictures import SUFFIXES
from .stored import UNREADABLE, Scanned

TABLES = ("captions", "metadata")
PICTURE_COLUMNS = ("file_name", "filename", "file", "image", "picture", "path")
CAPTION_COLUMNS = ("caption", "text", "captions", "description", "prompt")
UNREADABLE_TEXT, LOST_ROW = "unreadable as text", "a row without its picture"


class Folder(Scanned):
    """Every picture of a folder and of the folders in it.

    size: pixels on a side. split: train or test, decided by a hash of the path inside the folder. filtered:
    apply the paper's filters. Raises OSError if there is no such folder and ValueError if it holds no picture
    that can be learned from.
    """

    def __init__(self, path: str | Path, size: int, split: str = "train", filtered: bool = False):
        super().__init__(size, split)
        self.root = Path(path).expanduser()
        self.label = f"folder:{self.root.resolve().name}"
        if not self.root.is_dir():
            raise FileNotFoundError(f"there is no folder {self.root} to take pictures from")
        names = self._files()
        pictures = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
        if not pictures:
            raise ValueError(f"there are no pictures in {self.root}, nor in any folder in it")
        self.scan(self._captions(names, pictures), filtered)

    def read(self, name: str) -> bytes:
        """The bytes of a picture's file."""
        return (self.root / name).read_bytes()

    def _captions(self, names: list[str], pictures: list[str]) -> dict[str, list[str]]:
        """Picture → its captions: the lines of the text of the same stem, then the rows of tables."""
        found: dict[str, list[str]] = {name: [] for name in pictures}
        stems = {stem(name): name for name in names if name.lower().endswith(".txt")}
        for name in pictures:
            if stem(name) in stems:
                lines = self._text(stems[stem(name)]).splitlines()
                found[name] += [clean(line) for line in lines if clean(line)]
        for name in names:
            if PurePosixPath(name).stem.lower() in TABLES:
                for picture, caption in self._rows(name):
                    if picture in found:
                        found[picture].append(caption)
                    else:
                        self.skipped.append(Skipped(f"{name}: {picture}", LOST_ROW))
        return found

    def _text(self, name: str) -> str:
        """A text file in UTF-8 or, with its mark, UTF-16; "" and an entry in the list if it is neither."""
        try:
            data = (self.root / name).read_bytes()
            return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.skipped.append(Skipped(name, UNREADABLE_TEXT, str(error)))
            return ""

    def _rows(self, name: str) -> Iterator[tuple[str, str]]:
        """(picture's name in the folder, caption) for every row of a table."""
        read = {".csv": self._csv, ".tsv": self._csv, ".jsonl": self._jsonl}
        suffix = PurePosixPath(name).suffix.lower()
        for number, row in enumerate(read[suffix](name) if suffix in read else (), 1):
            picture, caption = column(row, PICTURE_COLUMNS), column(row, CAPTION_COLUMNS)
            if picture is None or caption is None:
                self._no_columns(name, number, row)
                continue
            for each in caption if isinstance(caption, list) else [caption]:
                here = os.path.normpath(PurePosixPath(name).parent / str(picture).strip())
                yield PurePosixPath(here).as_posix(), clean(each)

    def _csv(self, name: str) -> Iterator[dict[str, str]]:
        """Rows of a table whose separator is the comma, the semicolon or the tab: the header shows which."""
        text = self._text(name)
        header = text.partition("\n")[0]
        try:
            yield from csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count))
        except csv.Error as error:  # a cell of megabytes; the rows before it count
            self.skipped.append(Skipped(name, UNREADABLE_TEXT, str(error)))

    def _jsonl(self, name: str) -> Iterator[dict[str, object]]:
        """Rows of a file with a JSON object in every line; other lines are listed and skipped."""
        for number, line in enumerate(self._text(name).splitlines(), 1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                self.skipped.append(Skipped(f"{name}, line {number}", UNREADABLE_TEXT, str(error)))
                continue
            if isinstance(row, dict):
                yield row

    def _no_columns(self, name: str, number: int, row: dict) -> None:
        """A first row without the columns is an error that lists those it has; a later one is skipped."""
        if number > 1:
            self.skipped.append(
                Skipped(f"{name}, row {number}", UNREADABLE_TEXT, "no such columns")
            )
            return
        raise ValueError(
            f"{self.root / name} has the columns {', '.join(map(str, row))}; it needs one called "
            f"{' or '.join(PICTURE_COLUMNS)} and one called {' or '.join(CAPTION_COLUMNS)}"
        )

    def _files(self) -> list[str]:
        """Names of all files, relative to the folder and sorted; hidden ones are left out."""

        def closed(error: OSError) -> None:
            self.skipped.append(Skipped(str(error.filename), UNREADABLE, error.strerror or ""))

        names = []
        for folder, folders, files in os.walk(self.root, onerror=closed):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside = Path(folder).relative_to(self.root)
            names += [(inside / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(names)


def stem(name: str) -> str:
    """The name without its suffix, folders kept: pictures of other folders are other pictures."""
    return PurePosixPath(name).with_suffix("").as_posix()


def column(row: dict, known: tuple[str, ...]) -> object:
    """The value of the first of the known columns that a row has, "" for an empty one; None if it has none of
    them."""
    values = {str(name).strip().lower(): value for name, value in row.items()}
    name = next((name for name in known if name in values), None)
    return None if name is None else "" if values[name] is None else values[name]
