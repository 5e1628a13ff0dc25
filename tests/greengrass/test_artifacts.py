"""Artifacts: permissions as the nucleus sets them, zips, digests."""

from __future__ import annotations

import base64
import hashlib
import stat
import zipfile
from pathlib import Path

import pytest

from foreshore.errors import UserError
from foreshore.greengrass.artifacts import ArtifactStore
from foreshore.greengrass.recipes import Artifact, Manifest, Recipe
from foreshore.greengrass.run_as import is_root
from foreshore.greengrass.versions import Version

# (Read, Execute, mode) of a root nucleus; one that is not root may write too.
MODES = [
    ("NONE", "NONE", 0o400),
    ("OWNER", "NONE", 0o440),
    ("ALL", "NONE", 0o444),
    ("NONE", "OWNER", 0o550),
    ("OWNER", "OWNER", 0o550),
    ("ALL", "OWNER", 0o554),
    ("OWNER", "ALL", 0o555),
]


@pytest.mark.parametrize(("read", "execute", "mode"), MODES)
def test_modes(read: str, execute: str, mode: int) -> None:
    artifact = Artifact("s3://B/a", read=read, execute=execute)
    assert artifact.mode(writable=False) == mode
    assert artifact.mode(writable=True) == mode | 0o200


def placed(folder: Path, artifact: Artifact, source: bytes) -> Path:
    """The root after placing one artifact of `app` 1.0.0."""
    root = folder / "root"
    given = folder / "given/app/1.0.0" / artifact.file_name
    given.parent.mkdir(parents=True)
    given.write_bytes(source)
    store = ArtifactStore(root)
    store.copy_in(folder / "given")
    recipe = Recipe("app", Version((1, 0, 0)), where="app.yaml")
    store.place(recipe, Manifest(artifacts=(artifact,)))
    store.place(recipe, Manifest(artifacts=(artifact,)))  # a second time, over files that may be read-only
    return root / "packages"


def mode_of(path: Path) -> int:
    """The bits, without the write bit of a core that is not root."""
    return stat.S_IMODE(path.stat().st_mode) & (~0 if is_root() else ~0o200)


def test_a_file_and_what_is_unpacked_have_the_artifacts_mode(tmp_path: Path) -> None:
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        member = zipfile.ZipInfo("bin/run.sh")
        member.external_attr = 0o755 << 16
        bundle.writestr(member, "#!/bin/sh\n")
        bundle.writestr("data.txt", "x")
    source = archive.read_bytes()
    root = placed(tmp_path / "a", Artifact("s3://B/tool.zip", unarchive="ZIP"), source)
    unpacked = root / "artifacts-unarchived/app/1.0.0/tool"
    # A zip's own bits are not kept: a script runs only with Permission.Execute.
    assert mode_of(unpacked / "bin/run.sh") == mode_of(root / "artifacts/app/1.0.0/tool.zip") == 0o440
    assert stat.S_IMODE((unpacked / "bin").stat().st_mode) == 0o755
    root = placed(tmp_path / "b", Artifact("s3://B/tool.zip", unarchive="ZIP", execute="ALL"), source)
    assert mode_of(root / "artifacts-unarchived/app/1.0.0/tool/bin/run.sh") == 0o555


def test_a_zip_may_not_reach_out(tmp_path: Path) -> None:
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("../../out.txt", "x")
    with pytest.raises(UserError, match=r"outside of the target dir: \.\./\.\./out\.txt"):
        placed(tmp_path / "a", Artifact("s3://B/t.zip", unarchive="ZIP"), archive.read_bytes())
    assert not list(tmp_path.rglob("out.txt"))


DIGEST = base64.b64encode(hashlib.sha256(b"text").digest()).decode()


@pytest.mark.parametrize(
    ("digest", "algorithm", "what"),
    [
        (DIGEST, "SHA-256", None),
        (DIGEST, "", None),
        (DIGEST[:-4] + "AAA=", "SHA-256", "digest of a.txt is not the one"),
        (DIGEST, "SHA-9", "unknown digest algorithm"),
    ],
)
def test_digests(tmp_path: Path, digest: str, algorithm: str, what: str | None) -> None:
    artifact = Artifact("s3://B/a.txt", digest=digest, algorithm=algorithm)
    if what is None:
        assert (placed(tmp_path, artifact, b"text") / "artifacts/app/1.0.0/a.txt").read_bytes() == b"text"
        return
    with pytest.raises(UserError, match=what):
        placed(tmp_path, artifact, b"text")
