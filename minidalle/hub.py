"""The Hugging Face hub: where models of others are found and ours are published.  (Chapter 14)

The library `huggingface_hub` is optional, and loaded only when the hub is asked.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from .tokenizer import shorten

HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name
INSTALL_HUB = "install the library: pip install 'minidalle[hub]'"


def is_hub_id(model: str | Path) -> bool:
    """Whether this is a text of the form ``owner/name[@revision]``."""
    return isinstance(model, str) and bool(re.fullmatch(rf"{HUB_ID}(@[\w./-]+)?", model))


def download(model: str, files: Sequence[str]) -> Path:
    """The folder to which the library has downloaded ``owner/name[@revision]``, the given files of it.

    Raises FileNotFoundError without the library, and if the hub has no such model or is out of reach.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise FileNotFoundError(
            f"there is no folder {model!r}; to look for it on the hub, {INSTALL_HUB}"
        ) from error
    repository, _, revision = model.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(files)
        )
    except Exception as error:  # the library raises many kinds, its own and its transport's
        reason = shorten(first_line(error), 200)
        raise FileNotFoundError(
            f"there is no folder {model!r}, and the hub has no such model or is out of reach: {reason}"
        ) from error
    return Path(folder)


def upload(save: Callable[[str], object], repo_id: str, message: str, private: bool = False) -> str:
    """Let ``save`` fill a folder and upload that as ``owner/name``, made if needed; returns its address.

    Raises ValueError for another form of name or without the library, and OSError if the hub cannot be
    reached or refuses, for want of a token, say.
    """
    if not re.fullmatch(HUB_ID, repo_id):
        raise ValueError(f"a repository is called OWNER/NAME, not {repo_id!r}")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError(f"to push a model, {INSTALL_HUB}") from error
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        try:
            hub = HfApi(library_name="minidalle")
            url = hub.create_repo(repo_id, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # the library raises many kinds, its own and its transport's
            reason = shorten(first_line(error), 200)
            raise OSError(f"the hub did not take {repo_id}: {reason}") from error
    return str(url)


def first_line(error: Exception) -> str:
    """What an error says first, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
