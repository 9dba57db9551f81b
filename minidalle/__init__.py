"""minidalle: DALL·E (Ramesh et al. 2021) in miniature, the package beside the book.

    import minidalle
    model = minidalle.load()
    model.draw("a large green star", n=4)

Files in the order of the chapters: world, data, tokenizer, dvae, schedules, masks, transformer, dalle,
generate, examine, train, presets, bundle, show, cli.
"""

from .bundle import Bundle, load

__all__ = ["Bundle", "load"]
__version__ = "0.1.0"
