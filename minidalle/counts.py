"""What a model has, keeps and costs, counted without a single number.  (Chapter 13)

PyTorch's meta device has tensors with a shape and no values. On it the paper's 12 billion parameters are
built and run forward and backward in seconds; what autograd keeps is added up by its own hooks, operations by
PyTorch's counter. Tests compare both with what happens on the CPU: they are equal to the byte.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from .dalle import DALLE, DALLEConfig
from .device import choose_attention
from .dvae import DVAE, DVAEConfig

META = torch.device("meta")


def on_meta(build: Callable[..., nn.Module], config: object, **options: object) -> nn.Module:
    """A model without numbers."""
    with META:
        return build(config, **options)


def tokens_on_meta(config: DALLEConfig) -> tuple[Tensor, Tensor]:
    """One caption and one picture without numbers."""
    text = torch.empty(1, config.T, dtype=torch.int64, device=META)
    return text, torch.empty(1, config.N, dtype=torch.int64, device=META)


def saved_bytes(run: Callable[[], object], model: nn.Module | None = None) -> int:
    """Bytes that autograd keeps for the backward pass of what ``run`` computes, on any device.

    A storage that several operations keep counts once; the parameters of the model, which are there anyway,
    not at all.
    """
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        run()
    own = {p.untyped_storage()._cdata for p in model.parameters()} if model is not None else ()
    return sum(x.untyped_storage().nbytes() for key, x in kept.items() if key not in own)


def flops(run: Callable[[], Tensor]) -> int:
    """Floating-point operations of the matrix products and convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        run().backward()
    return counter.get_total_flops()


class Parameters(NamedTuple):
    """matrices: of the layers. tables: embeddings and heads. vectors: gains and biases."""

    matrices: int
    tables: int
    vectors: int


@lru_cache
def count_parameters(config: DALLEConfig) -> Parameters:
    """Parameters of a DALL·E by kind, since kinds are stored and sent differently."""
    model = on_meta(DALLE, config)
    inside = set(model.transformer.layers.parameters())
    matrices = sum(p.numel() for p in inside if p.ndim == 2)
    tables = sum(p.numel() for p in model.parameters() if p.ndim == 2 and p not in inside)
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    return Parameters(matrices, tables, vectors)


class Activations(NamedTuple):
    """Bytes that one picture with its caption keeps for the backward pass.

    identity: the inputs of the residual branches. branches: what lies inside of all of them; largest:
    inside of the largest. ends: embeddings, heads and losses.
    """

    identity: int
    branches: int
    largest: int
    ends: int


@lru_cache
def count_activations(config: DALLEConfig, bits: int) -> Activations:
    """Run a DALL·E forward on the meta device and add up what autograd keeps."""
    model = on_meta(DALLE, config, checkpointing=True)
    tokens = tokens_on_meta(config)
    outside = saved_bytes(lambda: model.loss(*tokens), model)
    stack, c = model.transformer, model.transformer.config
    identity = 2 * c.L * c.length * c.D * 4
    layers = stack.layers.to(torch.float16 if bits == 16 else torch.float32)
    form, _ = choose_attention(META, c.length)
    masks = stack.geometry(form, META)
    branches = [layer.branches(mask, form) for layer, mask in zip(layers, masks, strict=True)]

    def run(*some: Callable[[Tensor], Tensor]) -> list[Tensor]:
        dtype = layers[0].mlp[0].weight.dtype
        x = torch.empty(1, c.length, c.D, dtype=dtype, device=META, requires_grad=True)
        return [branch(x.clone()) for branch in some]

    inside = saved_bytes(lambda: run(*(b for pair in branches for b in pair)), layers)
    one_of_a_kind = dict(zip(stack.kinds, branches, strict=True)).values()
    each = [saved_bytes(lambda b=b: run(b), layers) for pair in one_of_a_kind for b in pair]
    return Activations(identity, inside, max(each), outside - identity)


@lru_cache
def count_flops(config: DALLEConfig, checkpointing: bool) -> int:
    """What one picture with its caption costs a DALL·E in training."""
    model, tokens = on_meta(DALLE, config, checkpointing=checkpointing), tokens_on_meta(config)
    return flops(lambda: model.loss(*tokens).loss)


class DVAECounts(NamedTuple):
    """Parameters of the two halves; bytes that a picture keeps, and operations that it costs, in training."""

    encoder: int
    decoder: int
    activations: int
    flops: int

    @property
    def state(self) -> int:
        """Bytes of weights, gradients, AdamW's two moments and the average, in 32 bit."""
        return 5 * 4 * (self.encoder + self.decoder)


@lru_cache
def count_dvae(config: DVAEConfig) -> DVAECounts:
    """Run a dVAE on the meta device, forward and backward, with one picture in 32 bit."""
    dvae = on_meta(DVAE, config)
    halves = [sum(p.numel() for p in half.parameters()) for half in (dvae.encoder, dvae.decoder)]
    x = torch.empty(1, 3, config.size, config.size, device=META)
    kept = saved_bytes(lambda: dvae.elb(x, 1.0, 1.0), dvae)
    return DVAECounts(*halves, kept, flops(lambda: dvae.elb(x, 1.0, 1.0).loss))
