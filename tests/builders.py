"""Tiny models for the tests: small enough to check every position, with weights that carry signals far."""

import torch
from torch import nn

from minidalle.bundle import Bundle
from minidalle.clip import CLIP, CLIPConfig
from minidalle.dalle import DALLE, DALLEConfig
from minidalle.data import Scope, World
from minidalle.dvae import DVAE, DVAEConfig
from minidalle.presets import CI
from minidalle.tokenizer import Tokenizer
from minidalle.transformer import Transformer, TransformerConfig

CAPTIONS = ["a small red circle", "a large blue square", "two green stars", "the word cat"] * 3


def shake(model: nn.Module, std: float = 0.3) -> nn.Module:
    """Large random weights everywhere, so that whatever is connected shows."""
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, std)
    return model.eval()


def tiny_transformer(kinds=(), h=3, w=4, prefix=3, L=2, kernel=3) -> Transformer:
    """A shaken transformer of width 8 on a grid that is no square."""
    return shake(Transformer(TransformerConfig(prefix, h, w, 8, 2, L, kernel, tuple(kinds))))


def tiny_dalle(V=20, T=4, K=11, h=2, w=3, D=16, H=2, L=4, kernel=3) -> DALLE:
    """A shaken DALL·E on a grid that is no square, all kinds of layers in it."""
    return shake(DALLE(DALLEConfig(V, T, K, h, w, D, H, L, kernel)))


def tiny_tokens(model: DALLE, B=2) -> tuple[torch.Tensor, torch.Tensor]:
    """Text (B, T) with padding at the end, and image tokens (B, N)."""
    c = model.config
    text = torch.randint(c.V, (B, c.T))
    text[:, c.T - 1] = c.V + c.T - 1
    return text, torch.randint(c.K, (B, c.N))


def tiny_dvae(**changes) -> DVAE:
    """A dVAE of 8×8 pictures and 2×2 tokens with 11 codes."""
    sizes = {"size": 8, "K": 11, "width": 8, "decoder_input": 8, "groups": 2, "blocks": 1}
    return DVAE(DVAEConfig(**{**sizes, "input_kernel": 3, "patch": 2, **changes})).eval()


def tiny_clip(V=20, T=4, size=8) -> CLIP:
    """A CLIP of 8×8 pictures, whose initial weights carry signals far enough."""
    return CLIP(CLIPConfig(size, V, T, D=16, H=2, L=2, E=8, width=4, halvings=1)).eval()


def tiny_bundle(seed: int = 0) -> Bundle:
    """A complete, untrained bundle with a CLIP; another seed has other weights and the same shapes."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.train(CAPTIONS, V=280, T=12)
    dvae = tiny_dvae()
    c = dvae.config
    dalle = tiny_dalle(tokenizer.V, 12, c.K, c.grid, c.grid)
    clip = tiny_clip(tokenizer.V, 12, c.size)
    return Bundle("tiny-test", tokenizer, dvae, dalle, "# a card", clip)


def learned(bundle: Bundle, *families: str, **where: tuple[str, ...]) -> Bundle:
    """The bundle, said to have learned a part of the world."""
    bundle.world = Scope(families, where)
    return bundle


def world_bundle(families=CI.families, where=CI.where, T=12) -> Bundle:
    """An untrained bundle in the shape of the preset ci, which can be examined."""
    captions = World(families, 24, where=where).captions(200)
    tokenizer = Tokenizer.train(captions, V=300, T=T)
    dalle = tiny_dalle(tokenizer.V, T, CI.dvae.K, 6, 6)
    bundle = Bundle("ci", tokenizer, DVAE(CI.dvae).eval(), dalle, "# a card")
    return learned(bundle, *families, **where)
