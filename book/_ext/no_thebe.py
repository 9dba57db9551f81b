"""Leave out Thebe, which Jupyter Book loads on every page although its button is off.

Thebe would run cells on a server elsewhere. Its settings arrive twice on every page, and the second copy
stops with an error in the browser's console.
"""

from sphinx.application import Sphinx

UNWANTED = ("init_thebe_core", "update_thebe_context")


def setup(app: Sphinx) -> dict[str, bool]:
    """Disconnect what puts Thebe's scripts and settings on the pages."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            handler = listener.handler
            if handler.__module__ == "sphinx_thebe" and handler.__name__ in UNWANTED:
                app.disconnect(listener.id)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
