"""Files of pickled PyTorch modules, read without executing anything in them.  (Chapter 15)

A pickle is a program for a small stack machine, and two of its instructions import any function by name and
call it. `Machine` follows such a program without them: names stay names, calls become inert records, and
whatever the files of the official dVAE have no use for is refused, with its name and its place.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .tokenizer import shorten

ENCODER, DECODER = "dall_e.encoder.Encoder", "dall_e.decoder.Decoder"
BLOCKS = ("dall_e.encoder.EncoderBlock", "dall_e.decoder.DecoderBlock")
LAYERS = (
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)
MODULES = {ENCODER, DECODER, *BLOCKS, *LAYERS}
REBUILD = "torch._utils._rebuild_tensor_v2"
OTHERS = {
    "__builtin__.set",
    "builtins.set",
    "collections.OrderedDict",
    "functools.partial",
    "torch.FloatStorage",
    "torch._utils._rebuild_parameter",
    "torch.device",
    REBUILD,
}
ZIP = b"PK\x03\x04"  # how an archive begins
MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a file of PyTorch before 1.6
DEEPEST = 8  # modules inside modules; the official ones have 5


# ------------------------------------------------------------------------------ what is left of objects


@dataclass(frozen=True)
class Name:
    """A name that the file mentions. Nobody imports it."""

    text: str


@dataclass
class Record:
    """An object that was never made: the name of its class, and what it would hold."""

    name: str
    state: object = None


class Storage(NamedTuple):
    """A row of 32-bit numbers elsewhere in the file."""

    key: str
    numel: int


class Stored(NamedTuple):
    """A tensor that is not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]


# ------------------------------------------------------------------------------------ the stack machine


@dataclass
class Machine:
    """Follows a pickle's program with the instructions that the published files need, and no others."""

    stack: list = field(default_factory=list)
    below: list[list] = field(default_factory=list)  # the stacks below each mark
    memo: dict[int, object] = field(default_factory=dict)

    def run(self, file: BinaryIO) -> object:
        """What the program leaves behind. Raises ValueError that names instruction and position."""
        doing, position = "the first instruction", file.tell()
        try:
            for opcode, argument, place in pickletools.genops(file):
                doing, position = opcode.name, place
                if doing == "STOP":
                    return self.stack.pop()
                self.step(doing, argument)
        except LookupError as error:
            raise ValueError(f"{doing} at byte {position} finds nothing to work on") from error
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{doing} at byte {position}: {error}") from error
        raise ValueError(f"the pickle ends at byte {position} without STOP")

    def step(self, instruction: str, argument: object) -> None:
        """Constants, containers and the memo; what could do harm is left to `build`."""
        match instruction:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                self.stack.append(argument)
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(instruction == "NEWTRUE")
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                self.stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": []}.get(instruction, ()))
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.since_mark()  # first: it also puts the lower stack back
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.stack.pop() for _ in range(int(instruction[-1]))]
                self.stack.append(tuple(reversed(items)))
            case "APPEND" | "APPENDS":
                items = self.since_mark() if instruction == "APPENDS" else [self.stack.pop()]
                self.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                self.set_items(self.since_mark() if instruction == "SETITEMS" else self.pair())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case _:
                self.build(instruction, argument)

    def build(self, instruction: str, argument: object) -> None:
        """The instructions with which a real pickle imports and calls; here they only write down."""
        match instruction:
            case "PROTO":
                if argument != 2:
                    raise ValueError(f"protocol {argument}, not PyTorch's 2")
            case "GLOBAL":
                self.stack.append(allowed_name(argument.replace(" ", ".")))
            case "NEWOBJ":
                arguments, name = self.stack.pop(), self.stack.pop()
                self.stack.append(new_object(name, arguments))
            case "REDUCE":
                arguments, name = self.stack.pop(), self.stack.pop()
                self.stack.append(call(name, arguments))
            case "BUILD":
                state = self.stack.pop()
                self.top(Record).state = state
            case "BINPERSID":
                self.stack.append(persistent(self.stack.pop()))
            case _:
                raise ValueError("this instruction is refused")

    def since_mark(self) -> list:
        """Everything above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def pair(self) -> list:
        """The two uppermost values, the upper one last."""
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]

    def set_items(self, items: list) -> None:
        """Enter keys and values, in turns, into the dictionary on top. Keys are text: hashing a tuple of
        tuples of tuples could take for ever."""
        if len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise ValueError("a dictionary whose keys are no text")
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def top(self, kind: type) -> object:
        """The uppermost value, which must be of that kind."""
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"meant for a {kind.__name__}, not for a {describe(self.stack[-1])}")
        return self.stack[-1]


def allowed_name(text: str) -> Name:
    """A name as an inert value, if a dVAE's file has a use for it."""
    if text not in MODULES | OTHERS:
        raise ValueError(f"the name {shorten(repr(text))} is refused")
    return Name(text)


def new_object(name: object, arguments: object) -> Record:
    """A module's record; its state comes later."""
    if not (isinstance(name, Name) and name.text in MODULES and arguments == ()):
        raise ValueError(f"making {describe(name)} is refused")
    return Record(name.text)


def call(name: object, arguments: object) -> object:
    """What a call stands for, if a dVAE's file has a use for it; nothing is called."""
    match name, arguments:
        case Name("collections.OrderedDict"), ():
            return {}
        case Name("builtins.set" | "__builtin__.set"), ([*items],):
            return items
        case Name("torch.device" | "functools.partial" as text), tuple():
            return Record(text)
        case Name("torch._utils._rebuild_parameter"), (Stored() as tensor, *_):
            return tensor
        case Name(text), (
            Storage() as storage,
            offset,
            tuple() as shape,
            tuple() as strides,
            *_,
        ) if text == REBUILD:
            return stored(storage, offset, shape, strides)
    raise ValueError(f"the call of {describe(name)} is refused")


def persistent(what: object) -> Storage | Name:
    """What PyTorch keeps outside the pickle: numbers, and before 1.6 the source of classes."""
    match what:
        case ("storage", Name("torch.FloatStorage"), str(key), str(), int(numel), *view) if (
            view in ([], [None])
        ):
            # The key becomes part of a file's name in the archive.
            if not (key.isascii() and key.isdigit()) or numel < 0:
                raise ValueError(f"a storage called {shorten(repr(key))} of {numel} numbers")
            return Storage(key, numel)
        case ("module", Name() as name, *_):
            return name
    raise ValueError("a storage of an unknown form, or not of 32-bit numbers")


def stored(storage: Storage, offset: object, shape: tuple, strides: tuple) -> Stored:
    """A tensor in its storage, if it lies there densely and within its bounds."""
    if len(shape) > 4 or not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor whose offset, shape or strides are no sizes")
    dense = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    if len(strides) != len(shape) or any(
        n > 1 and a != b for n, a, b in zip(shape, strides, dense, strict=True)
    ):
        raise ValueError(f"a tensor of shape {shape} does not lie densely")
    if offset + math.prod(shape) > storage.numel:
        raise ValueError(
            f"a tensor of shape {shape} at {offset} lies outside its storage of {storage.numel}"
        )
    return Stored(storage, offset, shape)


def describe(value: object) -> str:
    """A value in an error message: a name, or what kind of thing it is."""
    return value.text if isinstance(value, Name) else type(value).__name__


# ---------------------------------------------------------------------------------------------- files


class Contents(NamedTuple):
    """A file's program, followed to its end, and a reader of the storages' bytes."""

    root: object
    read: Callable[[Storage], bytes]


def open_zip(file: BinaryIO) -> Contents:
    """The format since PyTorch 1.6: an archive of data.pkl and a file for each storage."""
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    for entry in entries:
        if entry.filename.startswith("/") or {"..", ""} & set(entry.filename.split("/")):
            raise ValueError(f"{shorten(repr(entry.filename))} in the archive is refused")
        if entry.compress_type or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise ValueError(f"{shorten(repr(entry.filename))} in the archive is not stored as is")
    programs = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1 or len(set(names)) != len(names):
        raise ValueError("the archive does not have one data.pkl and every name once")
    folder = programs[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError(f"{folder}byteorder in the archive is not 'little'")

    def read(storage: Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        if name not in names or archive.getinfo(name).file_size != 4 * storage.numel:
            raise ValueError(f"{name} in the archive does not have {storage.numel} numbers")
        return archive.read(name)

    return Contents(Machine().run(BytesIO(archive.read(programs[0]))), read)


def open_legacy(file: BinaryIO) -> Contents:
    """The format before PyTorch 1.6: five pickles, then every storage as its length and its numbers."""
    magic = Machine().run(file)
    if magic != MAGIC:
        raise ValueError("it is no file of torch.save")
    version, system = Machine().run(file), Machine().run(file)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it is not of version 1001, or not little-endian")
    root, keys = Machine().run(file), Machine().run(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is none")
    start, end, places = file.tell(), file.seek(0, 2), {}
    for key in keys:
        file.seek(start)
        numel = int.from_bytes(file.read(8), "little")
        places[key] = (start + 8, numel)
        start += 8 + 4 * numel
        if start > end:
            raise ValueError(f"storage {shorten(repr(key))} ends at byte {start} of {end}")

    def read(storage: Storage) -> bytes:
        where, numel = places.get(storage.key, (0, None))
        if numel != storage.numel:
            raise ValueError(f"storage {storage.key} does not have {storage.numel} numbers")
        file.seek(where)
        return file.read(4 * numel)

    return Contents(root, read)


def read_tensors(path: str | Path, kind: str = ENCODER) -> dict[str, Tensor]:
    """The tensors of a published file under their official names, float32; nothing in it is executed.

    kind: the class of the module, `ENCODER` or `DECODER`. Raises OSError if the file cannot be opened and
    ValueError that names what was refused and where. Chapter 15.
    """
    # In memory, where no length that the file claims can ask for more than there is.
    file = BytesIO(Path(path).read_bytes())
    size = len(file.getbuffer())
    try:
        contents = open_zip(file) if file.getvalue()[:4] == ZIP else open_legacy(file)
        places = parameters(contents.root, kind)
        if 4 * sum(place.storage.numel for place in places.values()) > size:
            raise ValueError(f"it claims more numbers than its {size} bytes hold")
        return {name: read_tensor(contents, place) for name, place in places.items()}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is refused, nothing in it was executed: {error}") from error


def read_tensor(contents: Contents, place: Stored) -> Tensor:
    """Fetch one tensor's numbers."""
    numbers = np.frombuffer(contents.read(place.storage), "<f4").astype(np.float32)
    end = place.offset + math.prod(place.shape)
    return torch.from_numpy(numbers[place.offset : end]).view(place.shape)


def parameters(root: object, kind: str) -> dict[str, Stored]:
    """Every parameter below a module's record, under its dotted name.

    A module has one place only: so the walk ends, however the records refer to each other.
    """
    if not isinstance(root, Record) or root.name != kind:
        found = root.name if isinstance(root, Record) else describe(root)
        raise ValueError(f"it holds a {found}, not a {kind}")
    found, gains, seen, todo = {}, [], set(), [("", root)]
    while todo:
        prefix, module = todo.pop()
        children, own = children_of(prefix, module)
        if id(module) in seen or prefix.count(".") > DEEPEST:
            raise ValueError(f"module {shorten(repr(prefix))} is in two places or too deep")
        seen.add(id(module))
        todo += [(f"{prefix}{name}.", child) for name, child in children.items()]
        found |= {f"{prefix}{name}": tensor for name, tensor in own.items()}
        gains += [module.state.get("post_gain")] if module.name in BLOCKS else []
    if any(gain != 1 / len(gains) ** 2 for gain in gains):
        raise ValueError(
            f"post_gain of a block is not 1/{len(gains)}², that of {len(gains)} blocks"
        )
    return found


def children_of(prefix: str, module: object) -> tuple[dict, dict]:
    """The modules and the parameters (and buffers, of which a dVAE has none) of a module's record."""
    if isinstance(module, Record) and module.name in MODULES and isinstance(module.state, dict):
        own = [module.state.get(name) for name in ("_modules", "_parameters", "_buffers")]
        if all(isinstance(each, dict) for each in own):
            tensors = own[1] | own[2]
            if all(isinstance(tensor, Stored) for tensor in tensors.values()):
                return own[0], tensors
    raise ValueError(f"{shorten(repr(prefix))} holds something else than modules and tensors")
