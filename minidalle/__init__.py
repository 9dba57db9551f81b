"""minidalle: DALL·E (Ramesh et al. 2021) in miniature, the package beside the book.

    import minidalle
    model = minidalle.load()
    model.draw("a large green star", n=4)

Read the files in this order: world, data, tokenizer, dvae, schedules, masks, transformer, dalle, generate,
clip, files, show, figures, hub, bundle_files, bundle, presets, device, precision, adamw, counts, bench,
cluster, plan, tokens, optim, checkpoint, log, powersgd, processes, loop, card, stages, train, chapter,
scores, examiner, questions, candidates, image_prompts, examine, scorecard, gallery, torch_files, openai_dvae,
cli.
"""

__all__ = ["Bundle", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`Bundle` and `load`, fetched when they are first asked for: torch takes seconds to import."""
    if name in __all__:
        from . import bundle

        return getattr(bundle, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
