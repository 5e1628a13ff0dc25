"""Find the edge that runs in a project's folder: what `foreshore dev` wrote to `.foreshore/endpoints.json`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from foreshore.errors import UserError


def endpoints(folder: str) -> dict[str, Any]:
    """The endpoints object. Raises UserError when nothing runs there."""
    path = Path(os.environ.get("FORESHORE_ENDPOINTS", "") or Path(folder) / ".foreshore" / "endpoints.json")
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "no edge runs here", code="not-running", where=str(folder), mend="start it with `foreshore dev`"
        ) from error
    return found


def get(folder: str, path: str) -> Any:
    """GET a JSON page of the running edge's endpoint."""
    url = endpoints(folder)["aws"] + path
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise UserError(error.read().decode("utf-8", "replace").strip(), code="edge") from error
    except OSError as error:
        raise UserError(
            f"the edge does not answer: {error}", code="not-running", where=url, mend="start it with `foreshore dev`"
        ) from error


def state_file(folder: str, name: str) -> Path:
    """A file of the edge's state, whether or not it runs. Raises UserError when there is none yet."""
    path = Path(folder) / ".foreshore" / "state" / name
    if not path.is_file():
        raise UserError(
            "nothing was recorded here yet", code="no-state", where=str(path), mend="start with `foreshore dev`"
        )
    return path


def chosen_core(cores: list[str], thing: str | None) -> str:
    """The core named, or the only one there is. Raises UserError."""
    if thing is None and len(cores) != 1:
        which = ", ".join(cores) or "none"
        raise UserError(f"which core? There are: {which}", code="which-core", mend="name one with --core THING")
    chosen = thing or cores[0]
    if chosen not in cores:
        raise UserError(f"there is no core {chosen}", code="which-core", mend="use one of: " + ", ".join(cores))
    return chosen
