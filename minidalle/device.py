"""Where to compute and how precisely, decided in one place, with the reason.  (Chapter 13)"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock

import torch


def choose_device() -> torch.device:
    """A CUDA GPU if PyTorch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of autocast on a device, and the reason in words.

    Gradients in float16 underflow unless the loss is scaled up: what trains must do that (`loop` does).
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bfloat16 natively"
        return torch.float16, "this GPU has no bfloat16; float16 with a scaled loss"
    # PyTorch for Apple's processors is built without oneDNN, and there has no such question to ask.
    one_dnn = device.type == "cpu" and torch.backends.mkldnn.is_available()
    if one_dnn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16, "oneDNN has bfloat16 kernels for this processor"
    return torch.float32, f"bfloat16 would not be faster on this {device.type.upper()}"


def describe(device: torch.device) -> str:
    """Device and precision with the reasons, for a person: "the CPU (…) in bfloat16 (…)"."""
    dtype, reason = choose_precision(device)
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else "the CPU"
    why = "PyTorch sees this GPU" if gpu else "PyTorch sees no CUDA GPU"
    return f"{name} ({why}) in {str(dtype)[6:]} ({reason})"


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision where the device has it; otherwise float32."""
    dtype, _ = choose_precision(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """The precision of the tensors themselves. Where autocast is off already there is nothing to enter, which
    a layer that decodes one position would notice."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # what glibc's `mallopt` can set (malloc.h)


def keep_freed_memory() -> bool:
    """Let memory that is freed stay with this process, as long as it lives; whether the C library can.

    A training step frees and takes the same tensors again and again. Where glibc hands their pages back to
    the system, the next step fetches them anew, cleared, 4 KiB a fault: 20,000 faults in a step of 4 M
    parameters, and an eighth of its time. Other C libraries have no such switch and are left as they are.

    So large blocks come from the heap (none by mmap), and the heap is never trimmed. To raise the size from
    which mmap serves would not do: older glibc refuses more than 32 MiB, and one of these settings
    alone also stops it from raising that size by itself, from 128 KiB on, which makes more faults, not fewer.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1


SHORT_STREAM = 512  # positions, up to which blocks gain nothing; see `minidalle bench`
WHOLE_STREAM = 256  # positions, up to which cutting the stream into pieces gains nothing on the CPU
FEW_STREAMS = 4  # streams, up to which decoding makes one fused call
ONE_DNN = RLock()  # its switch is the whole process's: threads that decode take turns, a step each


@contextmanager
def decoding(device: torch.device) -> Iterator[None]:
    """While a transformer appends one position to each stream: on the CPU and in float32, no oneDNN.

    oneDNN prepares every call anew, which costs more than it saves where a call multiplies few rows: a GELU
    of one row takes 50 µs with it and 2 without. One picture takes an eighth less time without, 64 at once as
    long as with it. In 16 bit, under autocast, nothing else is fast, so it stays.
    """
    if device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        yield
        return
    one_dnn = torch.backends.mkldnn
    with ONE_DNN:
        before, one_dnn.enabled = one_dnn.enabled, False
        try:
            yield
        finally:
            one_dnn.enabled = before


def choose_attention(device: torch.device, length: int) -> tuple[str, str]:
    """The fastest form of attention for training on streams of ``length`` positions, and the reason.

    On the CPU our own products and softmax, not `scaled_dot_product_attention`, whose backward pass makes a
    step half as long again there; from 256 to 512 positions, in pieces, a step takes an eighth to a fifth
    less than dense. On a GPU that kernel is the common choice; we have not measured it.
    """
    if length > SHORT_STREAM:
        return "structured", f"{length} positions: most scores are masked, blocks skip them"
    if device.type == "cuda":
        return "fused", f"{length} positions: one fused kernel, which keeps no scores"
    if device.type == "cpu" and length > WHOLE_STREAM:
        return "pieces", f"{length} positions: what the mask forbids in whole pieces is skipped"
    return "dense", f"{length} positions: one large product beats fetching the keys of blocks"


def choose_decoding(streams: int) -> tuple[str, str]:
    """The faster of two ways for one new position a stream to meet its keys, and the reason: "together", with
    its keys copied into one place for one fused call, or "apart", each where it lies.

    For few streams together is a tenth to a fifth faster on two cores; at 8 it depends on the stream's
    length. A GPU was not measured.
    """
    if streams <= FEW_STREAMS:
        return "together", "few streams: one fused call costs less than copying their keys"
    return "apart", "many streams: to copy all their keys costs more than a call for each place"
