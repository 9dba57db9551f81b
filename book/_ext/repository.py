"""Buttons that lead to the repository and to Colab, from the one setting: ``Repository`` in pyproject.toml.

Without it there are none. Colab opens notebooks of GitHub only.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config


def add_buttons(app: Sphinx, config: Config) -> None:
    """Tell the theme where the repository is."""
    text = Path(app.srcdir, "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)
    if not found:
        return
    options = config.html_theme_options
    options |= {"repository_url": found[1], "repository_branch": "main", "path_to_docs": ""}
    options |= {"use_repository_button": True, "use_issues_button": True}
    if found[1].startswith("https://github.com/"):
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Do so when the configuration has been read, before the theme looks at it."""
    app.connect("config-inited", add_buttons, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
