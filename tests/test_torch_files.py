"""Pickled modules: their tensors come out, nothing in them is executed, whatever they contain."""

import contextlib
import encodings.cp437  # Python's own, loaded when first used: now, not while we watch
import encodings.raw_unicode_escape  # noqa: F401
import io
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from official import FORMATS, Decoder, Encoder, archive, pretend, save_legacy, save_new
from torch import nn

from minidalle.torch_files import DECODER, ENCODER, MODULES, read_tensors

DANGEROUS = {"pickle.find_class", "os.system", "subprocess.Popen", "exec", "compile", "import"}
events: list[str] | None = None  # what Python reports while somebody listens


def _listen(event: str, arguments: tuple) -> None:
    if events is not None and (
        event in DANGEROUS or (event == "open" and "w" in str(arguments[1]))
    ):
        events.append(f"{event} {arguments[0]}")


sys.addaudithook(_listen)


pytestmark = [
    pytest.mark.filterwarnings("ignore:Couldn't retrieve source code"),  # of the stand-ins
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
]


@pytest.fixture(autouse=True)
def _dall_e(monkeypatch, tmp_path):
    pretend(monkeypatch)
    monkeypatch.chdir(tmp_path)


def read(path: Path, kind: str = ENCODER) -> dict:
    """`read_tensors`, while Python's audit hook watches that nothing is imported, executed or written."""
    global events
    events = []
    try:
        return read_tensors(path, kind)
    finally:
        seen, events = events, None
        assert not seen, seen


def refused(content: bytes, words: str) -> str:
    """The file is refused in words that also name it; nothing ran and nothing appeared."""
    Path("encoder.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){words}") as error:
        read(Path("encoder.pkl"))
    assert str(error.value).startswith("encoder.pkl is refused, nothing in it was executed: ")
    assert len(str(error.value)) < 400
    assert [each.name for each in Path().iterdir()] == ["encoder.pkl"]
    return str(error.value)


def saved(module: nn.Module, save=save_new) -> bytes:
    """The bytes of a file that holds the module."""
    save(module, path := Path("saved.pkl"))
    content = path.read_bytes()
    path.unlink()
    return content


def parts(content: bytes) -> tuple[bytes, dict[str, bytes]]:
    """data.pkl and everything else of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        found = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    return found.pop("data.pkl"), found


# ------------------------------------------------------------------------------------ what it reads


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("build", "kind"), [(Encoder, ENCODER), (Decoder, DECODER)])
def test_every_tensor_comes_out_bit_for_bit(format, build, kind):
    """All three forms of file: today's, that of 2021, and that before PyTorch 1.6."""
    module = build()
    expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    FORMATS[format](module, Path("file.pkl"))
    tensors = read(Path("file.pkl"), kind)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name])


def test_a_partial_of_a_class_in_a_field_does_no_harm():
    """attrs classes may keep one; it stays a record."""
    module = Encoder()
    module.make = partial(type(module.blocks.input), 3, kw=7, device=torch.device("cpu"))
    Path("file.pkl").write_bytes(saved(module))
    assert read(Path("file.pkl")).keys() == module.state_dict().keys()


def test_tensors_may_share_a_storage():
    """Two parameters that are parts of one row of numbers, each with its offset."""
    module = Encoder()
    row = torch.randn(24)
    module.blocks.input.b = nn.Parameter(row[3:11], False)
    Path("file.pkl").write_bytes(saved(module))
    assert torch.equal(read(Path("file.pkl"))["blocks.input.b"], row[3:11])


def test_the_other_half_is_named():
    """A decoder where the encoder is asked for."""
    refused(saved(Decoder()), r"holds a dall_e\.decoder\.Decoder, not a dall_e\.encoder\.Encoder")


# ---------------------------------------------------------------------------------- what it refuses


def text(value: str) -> bytes:
    """The instruction that pushes a string."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TOUCH = "touch it-ran"
OS = os.system.__module__.encode()  # posix or nt
# Programs that run a command when they are unpickled; a test below proves that each of them does.
LIVE = {
    "GLOBAL and REDUCE": (b"\x80\x02cos\nsystem\n" + text(TOUCH) + b"\x85R.", "GLOBAL at byte 2.*os.system"),
    "its real home": (b"\x80\x02c" + OS + b"\nsystem\n" + text(TOUCH) + b"\x85R.", "GLOBAL.*system"),
    "builtins.eval": (
        b"\x80\x02cbuiltins\neval\n" + text(f"__import__('os').system('{TOUCH}')") + b"\x85R.",
        "GLOBAL at byte 2.*builtins.eval",
    ),
    "builtins.exec, old name": (
        b"\x80\x02c__builtin__\nexec\n" + text(f"__import__('os').system('{TOUCH}')") + b"\x85R.",
        "GLOBAL at byte 2.*__builtin__.exec",
    ),
    "STACK_GLOBAL": (
        b"\x80\x02" + text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R.",
        "STACK_GLOBAL at byte 20: this instruction is refused",
    ),
    "protocol 4": (
        b"\x80\x04" + text("os") + text("system") + b"\x93" + text(TOUCH) + b"\x85R.",
        "PROTO at byte 0: protocol 4",
    ),
    "INST": (b"(S'" + TOUCH.encode() + b"'\nios\nsystem\n.", "STRING at byte 1: this instruction"),
    "INST of text": (b"(" + text(TOUCH) + b"ios\nsystem\n.", "INST at byte 18: this instruction"),
    "OBJ": (b"(cos\nsystem\n" + text(TOUCH) + b"o.", "GLOBAL at byte 1.*os.system"),
    "NEWOBJ of subprocess.Popen": (
        b"\x80\x02csubprocess\nPopen\n(" + text("touch") + text("it-ran") + b"l\x85R.",
        "GLOBAL.*subprocess.Popen",
    ),
    "BUILD with __setstate__": (
        b"\x80\x02ccollections\nOrderedDict\n)R}" + text("x") + b"cos\nsystem\n" + text(TOUCH) + b"\x85Rsb.",
        "GLOBAL.*os.system",
    ),
    "through the memo": (
        b"\x80\x02cos\nsystem\nq\x000" + text(TOUCH) + b"\x85q\x010h\x00h\x01R.",
        "GLOBAL.*os.system",
    ),
    "functools.partial": (
        b"\x80\x02cfunctools\npartial\ncos\nsystem\n" + text(TOUCH) + b"\x86R)R.",
        "GLOBAL at byte 21.*os.system",
    ),
    "after the text before it": (b"cos\nsystem\n" + text(TOUCH) + b"\x85R.", "GLOBAL at byte 0.*os.system"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIVE)
def test_a_program_that_runs_a_command_is_refused(name):
    """In a zip as data.pkl, and in the old format; the name or the instruction is named, with its place."""
    program, words = LIVE[name]
    refused(archive(program), words)
    refused(program, words)


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.skipif(sys.platform == "win32", reason="the programs run a Unix command")
def test_these_programs_are_live(name):
    """The control: Python's own reader runs each of them."""
    program, _ = LIVE[name]
    with contextlib.suppress(TypeError, pickle.UnpicklingError):  # afterwards, some of them
        process = pickle.loads(program)
        getattr(process, "wait", int)()
    assert Path("it-ran").exists()


class Bomb:
    """Pickles itself as a command."""

    def __reduce__(self):
        return os.system, (TOUCH,)


def test_a_command_deep_inside_a_good_file_is_refused():
    """In a block's attributes, among the module's hooks, among its parameters, in place of a module."""
    for place in ("attribute", "hook", "parameter", "module"):
        module = Encoder()
        block = module.blocks.group_2.block_1
        if place == "attribute":
            block.note = {"nothing": [1, (Bomb(),)]}
        elif place == "hook":
            block._forward_hooks[0] = Bomb()
        elif place == "parameter":
            block._parameters["w"] = Bomb()
        else:
            block._modules["relu"] = Bomb()
        refused(saved(module), r"GLOBAL at byte \d+.*system")
        if place in ("attribute", "module"):
            refused(saved(module, save_legacy), r"GLOBAL at byte \d+.*system")


EXTENSIONS = {b"\x82\x01": "EXT1", b"\x83\x01\x00": "EXT2", b"\x84\x01\x00\x00\x00": "EXT4"}
REFUSED = {
    **{code + b".": f"{name} at byte 0: this instruction" for code, name in EXTENSIONS.items()},
    b"\x80\x02N0N.": "POP at byte 3: this instruction",
    b"N2\x86.": "DUP at byte 1: this instruction",
    b"(1.": "POP_MARK at byte 1: this instruction",
    b"Np0\ng0\n.": "PUT at byte 1: this instruction",
    b"Pkey\n.": "PERSID at byte 0: this instruction",
    b"I01\n.": "INT at byte 0: this instruction",
    b"C\x03abc.": "SHORT_BINBYTES at byte 0: this instruction",
    b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.": "BYTEARRAY8 at byte 0: this instruction",
    b"\x8f.": "EMPTY_SET at byte 0: this instruction",
    b"\x95\x01\x00\x00\x00\x00\x00\x00\x00N.": "FRAME at byte 0: this instruction",
    b"N\x94.": "MEMOIZE at byte 1: this instruction",
    b"ccollections\nOrderedDict\n)}\x92.": "NEWOBJ_EX at byte 27: this instruction",
    b"ctorch\nload\n.": "the name 'torch.load' is refused",
    b"ctorch.hub\nload\n.": "the name 'torch.hub.load' is refused",
    b"cdall_e\nload_model\n.": "the name 'dall_e.load_model' is refused",
    b"cdall_e.encoder\nEncoder.__init__\n.": "'dall_e.encoder.Encoder.__init__' is refused",
    b"cdall_e.encoder\npartial\n.": "'dall_e.encoder.partial' is refused",
    b"ctorch\nDoubleStorage\n.": "the name 'torch.DoubleStorage' is refused",
    b"c" + b"a" * 10_000 + b"\nb\n.": "the name 'aaa.*… is refused",
    b"ctorch.nn.modules.activation\nReLU\n)R.": "call of torch.nn.modules.activation.ReLU is refused",
    b"ctorch\ndevice\n)\x81.": "making torch.device is refused",
    b"ctorch.nn.modules.activation\nReLU\nN\x85\x81.": "making torch.nn.*ReLU is refused",
    b"X\x02\x00\x00\x00os)R.": "the call of str is refused",
    b"X\x02\x00\x00\x00os)\x81.": "making str is refused",
    b"ccollections\nOrderedDict\nN\x85R.": "call of collections.OrderedDict is refused",
    b"ctorch\ndevice\n}b.": "BUILD at byte 15: meant for a Record, not for a torch.device",
    b"}}b.": "BUILD at byte 2: meant for a Record, not for a dict",
    b"}NN\x86K\x01s.": "keys are no text",
    b"}(NNu.": "keys are no text",
    b"}(X\x01\x00\x00\x00au.": "keys are no text",
    b"Na.": "APPEND at byte 1 finds nothing",
    b"NNa.": "meant for a list, not for a NoneType",
    b"h\x05.": "BINGET at byte 0 finds nothing",
    b"q\x05.": "BINPUT at byte 0 finds nothing",
    b"t.": "TUPLE at byte 0 finds nothing",
    b"N\x87.": "TUPLE3 at byte 1 finds nothing",
    b"NQ.": "BINPERSID at byte 1: a storage of an unknown form",
    b".": "STOP at byte 0 finds nothing",
    b"N": "(?i)exhausted",
    b"\xff.": "unknown",
    b"": "(?i)exhausted",
    b"X\xff\xff\xff\x7fa.": "expected 2147483647 bytes",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fa.": "BINBYTES8|bytes8|expected",
    b"N.": "holds a NoneType, not a dall_e",
    b"].": "holds a list, not a dall_e",
}


@pytest.mark.parametrize("program", REFUSED, ids=[f"{k}" for k in range(len(REFUSED))])
def test_everything_that_a_dvae_has_no_use_for_is_refused(program):
    """Other instructions, other names, other calls, programs with mistakes."""
    refused(archive(program), REFUSED[program])


def test_only_the_listed_instructions_are_followed():
    """Of all that Python knows: those that the published files use are read, every other one is refused by
    its name."""
    program, _ = parts(saved(Encoder()))
    used = {opcode.name for opcode, _, _ in pickletools.genops(program)}
    read_too = {
        "APPEND",
        "APPENDS",
        "BININT",
        "LONG1",
        "SETITEM",
        "STOP",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
    }
    lines = {"stringnl": b"'a'\n", "unicodestringnl": b"a\n", "floatnl": b"1.0\n"}
    lines |= {"decimalnl_short": b"1\n", "decimalnl_long": b"1\n", "stringnl_noescape": b"a\n"}
    lines |= {"stringnl_noescape_pair": b"a\nb\n"}
    for opcode in pickletools.opcodes:
        if opcode.name in used | read_too:
            continue
        # Numbers and lengths of at most 8 bytes: zeros are one that is valid.
        argument = lines.get(opcode.arg.name, bytes(8)) if opcode.arg else b""
        error = refused(archive(opcode.code.encode("latin1") + argument + b"."), "")
        assert opcode.name in error and "this instruction is refused" in error


def test_a_program_cut_short_anywhere_is_refused():
    """Every proper beginning of data.pkl."""
    program, rest = parts(saved(Encoder(n_blk_per_group=1)))
    for end in [*range(0, 300), *range(300, len(program), 97), len(program) - 1]:
        refused(archive(program[:end], rest), "")


# ------------------------------------------------------------------------------ tricks with references


def encoder_program(children: bytes, parameters: bytes = b"}") -> bytes:
    """A program for an encoder with these _modules and _parameters, given as instructions."""
    state = text("_modules") + children + text("_parameters") + parameters + text("_buffers") + b"}"
    return b"\x80\x02cdall_e.encoder\nEncoder\n)\x81q\x63}(" + state + b"ub."


def test_a_module_that_contains_itself_ends():
    """Through the memo; also a dictionary that contains itself, and one module in two places."""
    refused(archive(encoder_program(b"}" + text("a") + b"hcs")), "two places or too deep")
    refused(archive(b"}q\x00" + text("a") + b"h\x00s."), "holds a dict")
    twice = b"}(" + text("a") + b"ctorch.nn.modules.activation\nReLU\n)\x81q\x01}("
    twice += text("_modules") + b"}" + text("_parameters") + b"}" + text("_buffers") + b"}ub"
    refused(archive(encoder_program(twice + text("b") + b"h\x01u")), "two places")


def test_a_tower_of_references_takes_no_time():
    """Each level holds the one below twice: 2^60 leaves if anybody followed them, hashed, compared or
    printed them."""
    tower = b"Nq\x00" + b"".join(b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1])
                                  for k in range(60))  # fmt: skip
    refused(archive(tower + b"."), "")
    refused(archive(b"}" + tower + b"Ns."), "keys are no text")
    refused(archive(tower + b"Q."), "a storage of an unknown form")
    refused(archive(tower + b"\x85" + tower + b"R."), "the call of tuple")
    refused(tower + b".", "no file of torch.save")


def test_nesting_as_deep_as_the_file_allows_is_refused():
    """A hundred thousand modules inside each other, and as many tuples."""
    refused(archive(b"N" + b"\x85" * 100_000 + b"."), "holds a tuple")
    inner = (
        b"ctorch.nn.modules.activation\nReLU\n)\x81}("
        + text("_parameters")
        + b"}"
        + text("_buffers")
    )
    inner += b"}" + text("_modules") + b"}" + text("a")
    program = encoder_program(b"}" + text("a") + inner * 2000 + b"N" + b"sub" * 2000 + b"s")
    refused(archive(program), "two places or too deep")


# ---------------------------------------------------------------------------------------- tensors


def tensor_program(key='X\x01\x00\x00\x000', numel=b"K\x06", offset=b"K\x00", shape=b"K\x06\x85",
                   strides=b"K\x01\x85", kind=b"FloatStorage") -> bytes:  # fmt: skip
    """An encoder with one parameter w, given as instructions."""
    storage = (
        b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + key.encode() + text("cpu") + numel
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQ" + offset + shape + strides
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    return encoder_program(b"}", b"}" + text("w") + tensor + b"s")


SIX = {"data/0": struct.pack("<6f", *range(6))}


def long(value: int) -> bytes:
    """The instruction that pushes any integer."""
    data = value.to_bytes(33, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def test_the_tensor_of_these_tests_is_read():
    """The control: as it stands it is good."""
    Path("file.pkl").write_bytes(archive(tensor_program(), SIX))
    assert read(Path("file.pkl"))["w"].tolist() == [0, 1, 2, 3, 4, 5]
    slice_of_it = tensor_program(
        offset=b"K\x02", shape=b"K\x02K\x02\x86", strides=b"K\x02K\x01\x86"
    )
    Path("file.pkl").write_bytes(archive(slice_of_it, SIX))
    assert read(Path("file.pkl"))["w"].tolist() == [[2, 3], [4, 5]]


FALSE_CLAIMS = {
    "offset": ({"offset": b"K\x01"}, r"shape \(6,\) at 1 lies outside its storage of 6"),
    "negative offset": ({"offset": long(-1)}, "no sizes"),
    "offset no number": ({"offset": b"N"}, "no sizes"),
    "offset true": ({"offset": b"\x88"}, "no sizes"),
    "larger shape": ({"shape": b"K\x07\x85"}, r"\(7,\) at 0 lies outside"),
    "huge shape": ({"shape": long(2**200) + b"\x85"}, "lies outside"),
    "negative shape": ({"shape": long(-6) + b"\x85"}, "no sizes"),
    "shape of text": ({"shape": b"X\x01\x00\x00\x006\x85"}, "no sizes"),
    "many dimensions": ({"shape": b"(" + b"K\x01" * 9 + b"t"}, "no sizes"),
    "expanded": ({"shape": long(2**40) + b"\x85", "strides": b"K\x00\x85"}, "does not lie densely"),
    "strides": ({"shape": b"K\x02K\x03\x86", "strides": b"K\x01K\x02\x86"}, "does not lie densely"),
    "fewer strides": ({"shape": b"K\x02K\x03\x86"}, "does not lie densely"),
    "shape no tuple": ({"shape": b"K\x06"}, "call of torch._utils._rebuild_tensor_v2 is refused"),
    "more numbers": ({"numel": b"K\x07"}, "archive/data/0 in the archive does not have 7 numbers"),
    "fewer numbers": ({"numel": b"K\x05", "shape": b"K\x05\x85"}, "does not have 5 numbers"),
    "huge storage": ({"numel": long(2**200)}, "claims more numbers than its"),
    "negative storage": ({"numel": long(-6)}, "a storage called '0' of -6 numbers"),
    "no such storage": ({"key": "X\x01\x00\x00\x001"}, "archive/data/1 in the archive does not have"),
    "path as key": ({"key": "X\x09\x00\x00\x00../../etc"}, r"a storage called '\.\./\.\./etc'"),
    "absolute key": ({"key": "X\x04\x00\x00\x00/etc"}, "a storage called '/etc'"),
    "key of other digits": ({"key": "X\x02\x00\x00\x00²"}, "a storage called '²'"),
    "empty key": ({"key": "X\x00\x00\x00\x00"}, "a storage called ''"),
    "64 bit": ({"kind": b"DoubleStorage"}, "the name 'torch.DoubleStorage' is refused"),
    "16 bit": ({"kind": b"HalfStorage"}, "the name 'torch.HalfStorage' is refused"),
    "integers": ({"kind": b"LongStorage"}, "the name 'torch.LongStorage' is refused"),
    "a class as type": ({"kind": b"device"}, "a storage of an unknown form"),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE_CLAIMS)
def test_a_tensor_that_claims_what_is_not_there_is_refused(name):
    """Offsets, shapes, strides, lengths, keys and types."""
    changes, words = FALSE_CLAIMS[name]
    refused(archive(tensor_program(**changes), SIX), words)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_a_module_of_another_type_is_refused(dtype):
    """As torch.save writes it, not by hand."""
    refused(
        saved(Encoder().to(torch.float64 if dtype == torch.int64 else dtype)), "Storage' is refused"
    )
    module = Encoder()
    module.register_buffer("ids", torch.zeros(3, dtype=dtype))
    refused(saved(module), "Storage' is refused")


def test_one_storage_cannot_be_multiplied():
    """A thousand tensors of one small storage would be a thousand times the file."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    row = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J" + struct.pack("<i", 25_000) + b"tQ"
    )
    row += b"K\x00J" + struct.pack("<i", 25_000) + b"\x85K\x01\x85tR"
    many = b"}(" + b"".join(text(str(k)) + row for k in range(1000)) + b"u"
    refused(archive(encoder_program(b"}", many), {"data/0": bytes(100_000)}), "claims more numbers")


@pytest.mark.parametrize("where", ["_parameters", "_modules", "_buffers"])
@pytest.mark.parametrize("what", [b"N", b"]", b"K\x01", b"}", text("a")])
def test_other_things_in_place_of_modules_and_tensors_are_refused(where, what):
    """As the whole of a module's state, or one entry of it."""
    state = {"_modules": b"}", "_parameters": b"}", "_buffers": b"}"}
    entry = b"}" + text("a") + what + b"s"
    for value in {what, entry} - {b"}"}:
        instructions = b"".join(text(k) + v for k, v in {**state, where: value}.items())
        program = b"cdall_e.encoder\nEncoder\n)\x81}(" + instructions + b"ub."
        refused(archive(program), "something else than modules and tensors")
    refused(archive(b"cdall_e.encoder\nEncoder\n)\x81."), "something else")
    refused(archive(b"cdall_e.encoder\nEncoder\n)\x81" + what + b"b."), "something else")


def test_another_gain_is_noticed():
    """Names and shapes would fit, the pictures would be wrong."""
    module = Encoder()
    module.blocks.group_3.block_2.post_gain = 1.0
    refused(saved(module), "post_gain of a block is not 1/8²")


# ------------------------------------------------------------------------------------------ archives


def rezip(content: bytes, change=lambda name: name, **options) -> bytes:
    """The same archive, written again with other names or settings."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", **options) as new,
    ):
        for name in old.namelist():
            new.writestr(change(name), old.read(name))
    return buffer.getvalue()


def with_entry(content: bytes, name: str, data: bytes = b"x") -> bytes:
    """An archive with one more entry."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def good() -> bytes:
    """A file that is read as it stands."""
    return archive(tensor_program(), SIX)


@pytest.mark.parametrize(
    "name", ["../evil.py", "archive/../../evil.py", "/tmp/evil.py", "archive//x", "archive/.."]
)
def test_names_that_lead_out_of_the_archive_are_refused(good, name):
    """Nothing is ever unpacked; and such a file is no dVAE's."""
    refused(with_entry(good, name), "in the archive is refused")


def test_compressed_entries_are_refused(good):
    """A few kilobytes that would become a gigabyte: torch.save never compresses."""
    bomb = archive(tensor_program(numel=long(2**28), shape=long(2**28) + b"\x85"))
    buffer = io.BytesIO(bomb)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(2**24))
    assert len(buffer.getvalue()) < 2**16
    refused(buffer.getvalue(), "'archive/data/0' in the archive is not stored as is")
    refused(rezip(good, compression=zipfile.ZIP_DEFLATED), "not stored as is")
    refused(rezip(good, compression=zipfile.ZIP_LZMA), "not stored as is")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_ambiguous_or_empty_are_refused(good):
    """A name twice, two programs, none, no byte order that we read."""
    refused(with_entry(good, "archive/data/0", bytes(24)), "every name once")
    refused(with_entry(good, "other/data.pkl", b"N."), "one data.pkl")
    refused(rezip(good, lambda name: name.replace("data.pkl", "data.txt")), "one data.pkl")
    refused(with_entry(good, "archive/byteorder", b"big"), "byteorder")
    Path("file.pkl").write_bytes(with_entry(good, "archive/byteorder", b"little"))
    assert read(Path("file.pkl"))


def patched(content: bytes, signature: bytes, offset: int, data: bytes) -> bytes:
    """An archive with other bytes at a place behind the last such signature."""
    place = content.rindex(signature) + offset
    return content[:place] + data + content[place + len(data) :]


def test_headers_that_lie_are_refused(good):
    """Encrypted, of a size beyond the file, starting beyond it, with another name, another checksum."""
    refused(patched(good, b"PK\x01\x02", 8, b"\x01\x00"), "not stored as is")
    refused(patched(good, b"PK\x01\x02", 20, b"\xf0\xff\xff\x7f" * 2), "does not have 6 numbers")
    refused(patched(good, b"PK\x01\x02", 20, b"\x05\x00\x00\x00"), "not stored as is")
    refused(patched(good, b"PK\x01\x02", 42, b"\xff\xff\xff\x7e"), "")
    refused(patched(good, b"PK\x03\x04", 30, b"brchive"), "")
    refused(patched(good, b"PK\x01\x02", 16, b"\x00\x00\x00\x00"), "CRC")
    refused(patched(good, b"PK\x01\x02", 10, b"\x63\x00"), "not stored as is")


# ---------------------------------------------------------------------------------- any other bytes


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\x03\x04", b"hello\n", b"\x80", bytes(100), b"PK\x05\x06" + bytes(18)],
)
def test_files_of_something_else_are_refused(content):
    """Empty, a word, zeros, half a header."""
    refused(content, "")


def test_a_file_that_is_not_there_is_an_os_error():
    """With its name, for the command line."""
    for path in (Path("nowhere.pkl"), Path(".")):
        with pytest.raises(OSError) as error:
            read(path)
        assert error.value.filename == str(path)


@pytest.mark.parametrize("save", [save_new, save_legacy], ids=["zip", "legacy"])
@given(data=st.data())
def test_damage_anywhere_is_refused_or_does_no_harm(save, data):
    """Bytes flipped, cut or inserted: a ValueError that names the file, or tensors of the right names and
    shapes (with checksums in the zip: the right tensors); never anything executed."""
    pristine, expected = damaged_source(save)
    content = bytearray(pristine)
    for _ in range(data.draw(st.integers(1, 3))):
        # Half of the damage goes to the front, where the old format has its program.
        limit = data.draw(st.sampled_from([len(content) - 1, min(len(content) - 1, 20_000)]))
        place = data.draw(st.integers(0, limit))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "truncate"])):
            case "flip":
                content[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 9))]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
            case "truncate":
                del content[max(place, 1) :]
    Path("damaged.pkl").write_bytes(content)
    try:
        tensors = read(Path("damaged.pkl"))
    except ValueError as error:
        assert str(error).startswith("damaged.pkl is refused, nothing in it was executed: ")
        return
    for name, tensor in tensors.items():
        if save is save_new and name in expected and tensor.shape == expected[name].shape:
            assert torch.equal(tensor, expected[name])


def damaged_source(save, made={}) -> tuple[bytes, dict]:  # noqa: B006 (made once)
    """A small encoder's file and its tensors."""
    if save not in made:
        module = Encoder(n_hid=4, vocab_size=4, n_blk_per_group=1)
        made[save] = (saved(module, save), module.state_dict())
    return made[save]


def test_every_allowed_class_is_one_of_the_published_ones():
    """The list of names holds layers only: nothing that reads, writes, imports or calls."""
    assert all(name.startswith(("dall_e.", "torch.nn.modules.")) for name in MODULES)
    assert len(MODULES) == 10
