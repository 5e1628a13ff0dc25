"""Fixtures for handlers without a host: a stand-in for greengrasssdk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from example import Published, load


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    """Stands in for greengrasssdk."""
    found = Published()
    sdk = ModuleType("greengrasssdk")
    sdk.client = found.client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "greengrasssdk", sdk)
    return found


@pytest.fixture
def load_handler(published: Published, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`load_handler("filter", QUANTITIES=…)` gives the component's handler with that environment."""

    def make(component: str, **environment: str) -> Any:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(sys.modules, "logic", load(component, "logic"))
        return load(component, "main").handler

    return make
