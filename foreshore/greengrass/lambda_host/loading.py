"""Importing the handler, and logging as Greengrass's Lambda runtime does it."""

from __future__ import annotations

import importlib
import logging
import sys

from .invocation import Handler


def configure_logging(level: str) -> None:
    """Lines as Greengrass's Lambda runtime writes them: `[INFO]-main.py:12,text` on standard output."""
    logging.basicConfig(
        stream=sys.stdout,
        level=getattr(logging, level.upper(), logging.INFO),
        format="[%(levelname)s]-%(filename)s:%(lineno)d,%(message)s",
    )
    logging.getLogger("awsiot").setLevel(logging.WARNING)


class HandlerMissing(Exception):
    """`--handler` names no function."""


def load_handler(name: str) -> Handler:
    """Import `module.function`. Raises HandlerMissing; what the module itself raises passes."""
    module_name, _, function = name.rpartition(".")
    if not module_name:
        raise HandlerMissing(f"--handler {name}: expected MODULE.FUNCTION")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise HandlerMissing(f"--handler {name}: no module {module_name} in {sys.path[0]}") from None
    handler = getattr(module, function, None)
    if not callable(handler):
        raise HandlerMissing(f"--handler {name}: {module_name} has no function {function}")
    found: Handler = handler
    return found
