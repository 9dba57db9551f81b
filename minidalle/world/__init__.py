"""The world: captioned pictures of which every fact is known, one file per family.  (Chapter 2)

Any module of this package that defines ``FAMILY`` is a family; adding one means adding one file.

    >>> scene, caption = FAMILIES["attributes"].example(index=0, split="test")
    >>> picture = FAMILIES["attributes"].draw(scene, size=64)      # uint8 (64, 64, 3)
"""

from importlib import import_module
from pkgutil import iter_modules

from .base import SIZES, SPLITS, Family, Scene
from .canvas import HELD_OUT_PAIRS

__all__ = ["FAMILIES", "HELD_OUT_PAIRS", "SIZES", "SPLITS", "Family", "Scene", "family"]


def _families() -> dict[str, Family]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {each.name: each for each in found}


FAMILIES: dict[str, Family] = _families()


def family(name: str) -> Family:
    """The family of that name. Raises ValueError that lists the known ones."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]
