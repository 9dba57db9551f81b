"""Mends, in the body of every page, what the tools below us write and a screen reader stumbles over.

tests/test_site.py runs axe over every page. The theme's own parts are mended in _templates.
"""

from docutils import nodes
from sphinx.application import Sphinx

MENDED = {
    # The text of a folded cell, "Show the solution", is its name; MyST-NB puts another one over it.
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # A role that ARIA has given up, and which a list may not contain.
    'role="doc-biblioentry"': 'role="listitem"',
}


def mend(
    app: Sphinx, pagename: str, template: str, context: dict, doctree: nodes.document | None
) -> None:
    """Replace each of them."""
    body = context.get("body", "")
    for wrong, right in MENDED.items():
        body = body.replace(wrong, right)
    if (
        pagename == "_modules/index"
    ):  # viewcode puts lists into a list, beside its items; names say it too
        body = body.replace("</li>\n<ul>", "</li>\n").replace("</ul>", "") + "</ul>"
    context["body"] = body


def setup(app: Sphinx) -> dict[str, bool]:
    """Mend a page when it is about to be written."""
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
