"""``python -m minidalle`` is the same as ``minidalle``."""

from .cli import main

main()
