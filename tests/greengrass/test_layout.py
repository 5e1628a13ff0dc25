"""The folders of a core."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from foreshore.greengrass.layout import Layout

LAYOUT = Layout(PurePosixPath("/greengrass/v2"))


def test_folders_are_awss() -> None:
    assert str(LAYOUT.recipe("a.B", "1.0.0")) == "/greengrass/v2/packages/recipes/a.B-1.0.0.yaml"
    assert str(LAYOUT.log("a.B")) == "/greengrass/v2/logs/a.B.log"


@pytest.mark.parametrize(
    ("namespace", "key", "text"),
    [
        ("artifacts", "path", "/greengrass/v2/packages/artifacts/a.B/1.0.0"),
        ("artifacts", "decompressedPath", "/greengrass/v2/packages/artifacts-unarchived/a.B/1.0.0"),
        ("work", "path", "/greengrass/v2/work/a.B"),
        ("kernel", "rootPath", "/greengrass/v2"),
        ("iot", "thingName", "core-1"),
        ("iot", "region", None),
        ("other", "path", None),
    ],
)
def test_recipe_variables(namespace: str, key: str, text: str | None) -> None:
    assert LAYOUT.system("a.B", "1.0.0", "core-1", namespace, key) == text
