"""The host's archive, and the layout of a project's artifacts."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from foreshore.errors import UserError
from foreshore.greengrass.host_artifact import build_host, prepare_project

RECIPE = """
ComponentName: com.example.Thing
ComponentVersion: "1.2.0"
Manifests:
  - Artifacts:
      - URI: s3://BUCKET_NAME/com.example.Thing/1.2.0/lambda_host.pyz
      - URI: s3://BUCKET_NAME/com.example.Thing/1.2.0/main.py
"""


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    first = build_host(tmp_path)
    second = build_host(tmp_path / "other/name.pyz")
    assert first == tmp_path / "lambda_host.pyz"
    assert second == tmp_path / "other/name.pyz"
    assert first.read_bytes() == second.read_bytes()


def test_archive_stands_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_host(tmp_path)) as archive:
        names = archive.namelist()
        sources = {name: archive.read(name).decode() for name in names}
    assert "__main__.py" in names
    assert "greengrass_common/env_vars.py" in names
    assert "greengrass_ipc_python_sdk/ipc_client.py" in names
    for name, source in sources.items():
        assert "from foreshore." not in source and "import foreshore." not in source, name


def project(folder: Path) -> Path:
    (folder / "recipes").mkdir()
    (folder / "recipes/thing.yaml").write_text(RECIPE)
    (folder / "recipes/deployment.yaml").write_text("components: {}\n")
    (folder / "edge_components/thing").mkdir(parents=True)
    return folder


def test_artifacts_are_laid_out(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "edge_components/thing/main.py").write_text("handler = print\n")
    prepare_project(root)
    target = root / ".foreshore/build/artifacts/com.example.Thing/1.2.0"
    assert sorted(path.name for path in target.iterdir()) == ["lambda_host.pyz", "main.py"]
    assert (target / "main.py").read_text() == "handler = print\n"


def test_missing_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"artifact main\.py of com\.example\.Thing"):
        prepare_project(project(tmp_path))
