"""Shell: puts a component's artifacts where its steps look for them (`packages/artifacts`, `…-unarchived`).

Where an artifact of component C, version V, with URI `s3://BUCKET/…/F` comes from, first match wins:

1. `<project>/.foreshore/build/artifacts/C/V/F`, what a build made, unless the source of 2 changed since;
2. `<project>/edge_components/<N>` for N the recipe file's name without suffix, the stem of F, the last part of C's
   name, or the whole of it (also with `-` as `_`, and CamelCase as snake_case): the folder itself stands for `F` when
   F is a zip, else `F` inside it;
3. `<root>/packages/artifacts/C/V/F`, put there by the artifact folder of a local deployment, or earlier;
4. the Lambda host, `lambda_host.pyz`, is built.

A zip is unpacked into `packages/artifacts-unarchived/C/V/<stem of F>`; a folder that stands for it is copied there.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.host_artifact import HOST_NAME, build_host
from foreshore.greengrass.layout import Layout
from foreshore.greengrass.recipes import Artifact, Manifest, Recipe
from foreshore.greengrass.run_as import is_root

SKIPPED = frozenset({"__pycache__", ".git", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache"})
MAX_UNPACKED = 2 * 1024 * 1024 * 1024


class ArtifactStore:
    """The artifacts of one core. `project` is the folder whose sources stand for what S3 would hold.

    `folders` maps a component to the name of its recipe's file, which is the first name its source folder may have.
    """

    def __init__(self, root: Path, project: Path | None = None) -> None:
        self.root = root
        self.project = project
        self.folders: dict[str, str] = {}
        self._layout = Layout(root)

    def copy_in(self, folder: Path) -> None:
        """Take over an artifact folder of a local deployment: `<folder>/<component>/<version>/<file>`."""
        if not folder.is_dir():
            raise UserError(
                "there is no such artifact folder",
                code="artifacts-directory",
                where=str(folder),
                mend="name one that exists",
            )
        for file in _files(folder):
            target = self.root / "packages/artifacts" / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(file, target)

    def place(self, recipe: Recipe, manifest: Manifest) -> dict[str, str]:
        """Bring every artifact in; give a digest of each of their files by name. Raises UserError, NotEmulated."""
        name, version = recipe.name, str(recipe.version)
        Path(self._layout.artifacts(name, version)).mkdir(parents=True, exist_ok=True)
        Path(self._layout.unarchived(name, version)).mkdir(parents=True, exist_ok=True)
        stamps: dict[str, str] = {}
        for artifact in manifest.artifacts:
            source = self.source(recipe, artifact)
            stamps.update(stamps_of(source))
            if source.is_dir():
                self._place_folder(name, version, artifact, source)
            else:
                self._place_file(recipe, artifact, source)
        return stamps

    def source(self, recipe: Recipe, artifact: Artifact) -> Path:
        """The file or folder an artifact comes from. Raises UserError(`no-artifact`) or NotEmulated."""
        scheme = artifact.uri.partition(":")[0].lower()
        if scheme not in ("s3", "greengrass"):
            raise NotEmulated(f"artifacts of {scheme}: ({recipe.name})", "Use an s3:// URI.")
        name, version, file = recipe.name, str(recipe.version), artifact.file_name
        if file in ("", ".", ".."):
            mend = "end the URI with a file's name"
            raise UserError(f"{artifact.uri!r} names no file", code="bad-recipe", where=recipe.where, mend=mend)
        tried = list(self._candidates(name, version, file))
        found = [candidate for candidate in tried if candidate.exists()]
        if found:
            built_is_old = len(found) > 1 and self._is_build(found[0]) and _newest(found[1]) > _newest(found[0])
            return found[1] if built_is_old and not self._is_own(found[1]) else found[0]
        if file == HOST_NAME:
            return build_host(Path(self._layout.artifacts(name, version)))
        raise UserError(
            f"no artifact {file} of {name} {version} ({artifact.uri}); looked at: " + ", ".join(map(str, tried)),
            code="no-artifact",
            where=recipe.where,
            mend="put the file or folder in one of these places",
        )

    def _candidates(self, name: str, version: str, file: str) -> Iterator[Path]:
        stem, _, suffix = file.partition(".")
        if self.project is not None:
            yield self.project / ".foreshore/build/artifacts" / name / version / file
            for folder in _folder_names(self.folders.get(name, stem), stem, name):
                source = self.project / "edge_components" / folder
                yield source if suffix == "zip" else source / file
        yield Path(self._layout.artifacts(name, version)) / file

    def _is_build(self, source: Path) -> bool:
        return self.project is not None and self.project / ".foreshore/build" in source.parents

    def _is_own(self, source: Path) -> bool:
        return self.root in source.parents

    def _place_file(self, recipe: Recipe, artifact: Artifact, source: Path) -> None:
        name, version = recipe.name, str(recipe.version)
        target = Path(self._layout.artifacts(name, version)) / artifact.file_name
        if source != target:
            _copy(source, target)
        if artifact.digest:
            _check_digest(recipe, artifact, target)
        mode = artifact.mode(writable=not is_root())
        target.chmod(mode)
        if artifact.unarchive == "ZIP":
            _unpack(target, Path(self._layout.unarchived(name, version)) / target.stem, recipe, mode)

    def _place_folder(self, name: str, version: str, artifact: Artifact, source: Path) -> None:
        target = Path(self._layout.unarchived(name, version)) / Path(artifact.file_name).stem
        fresh = target.with_name(target.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(*SKIPPED))
        _permit(fresh, artifact.mode(writable=not is_root()))
        _swap(fresh, target)

    def watched(self, recipe: Recipe, manifest: Manifest) -> list[Path]:
        """What to watch for changes of a component: its sources in the project, built or not."""
        found = []
        for artifact in manifest.artifacts:
            for source in self._candidates(recipe.name, str(recipe.version), artifact.file_name):
                if source.exists() and not self._is_own(source):
                    found.append(source)
        return found


def _folder_names(recipe: str, stem: str, component: str) -> list[str]:
    names: list[str] = []
    for name in (recipe, stem, component.rpartition(".")[2], component):
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        names += [name, name.replace("-", "_"), snake, snake.replace("-", "_")]
    return list(dict.fromkeys(names))


def _files(folder: Path) -> Iterable[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not SKIPPED & set(path.relative_to(folder).parts)
    )


def _newest(source: Path) -> float:
    return (
        max((file.stat().st_mtime for file in _files(source)), default=0.0)
        if source.is_dir()
        else source.stat().st_mtime
    )


def stamps_of(source: Path) -> dict[str, str]:
    """A digest of the bytes of a file, of each file of a folder, or of each member of a zip, by name."""
    if source.is_dir():
        return {str(file.relative_to(source)): _digest(file) for file in _files(source)}
    if source.suffix == ".zip" and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            return {member.filename: f"{member.file_size}-{member.CRC:08x}" for member in archive.infolist()}
    return {source.name: _digest(source)}


def _digest(file: Path) -> str:
    """Size and CRC, as a zip's directory has them, so that a folder and the zip made of it are equal."""
    text = file.read_bytes()
    return f"{len(text)}-{zlib.crc32(text):08x}"


def quick_stamp(source: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and modification times (ns) of a file or a folder's files: cheap enough to poll."""
    files = _files(source) if source.is_dir() else [source]
    found = []
    for file in files:
        try:
            facts = file.stat()
        except FileNotFoundError:
            continue
        found.append((str(file), facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def _check_digest(recipe: Recipe, artifact: Artifact, file: Path) -> None:
    try:
        actual = hashlib.new((artifact.algorithm or "SHA-256").replace("-", "").lower(), file.read_bytes()).digest()
    except ValueError:
        raise UserError(
            f"unknown digest algorithm {artifact.algorithm!r}",
            code="bad-recipe",
            where=recipe.where,
            mend="use SHA-256",
        ) from None
    if base64.b64encode(actual).decode() != artifact.digest:
        raise UserError(
            f"the digest of {file.name} is not the one in the recipe of {recipe.name}",
            code="artifact-digest",
            where=str(file),
            mend="bring the right file, or take Digest and Algorithm out of the recipe",
        )


def _unpack(archive: Path, target: Path, recipe: Recipe, mode: int) -> None:
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = bundle.infolist()
            if sum(member.file_size for member in members) > MAX_UNPACKED:
                raise UserError(f"{archive.name} unpacks to more than 2 GB", code="bad-artifact", where=str(archive))
            for member in members:
                if not (fresh / member.filename).resolve().is_relative_to(fresh.resolve()):
                    raise OSError(f"Entry is outside of the target dir: {member.filename}")
            bundle.extractall(fresh)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{archive.name} of {recipe.name} can't be unpacked: {error}",
            code="bad-artifact",
            where=str(archive),
            mend="make it a zip, or set Unarchive: NONE",
        ) from None
    fresh.mkdir(parents=True, exist_ok=True)
    _permit(fresh, mode)
    _swap(fresh, target)


def _permit(folder: Path, mode: int) -> None:
    """Give every file of a folder its bits; folders may be entered by all (nucleus, Permissions). What a zip says of
    its members counts for nothing."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else mode)


def _copy(source: Path, target: Path) -> None:
    """Copy in one step, as a reader or a killed core sees it."""
    fresh = target.with_name(target.name + ".new")
    fresh.unlink(missing_ok=True)
    shutil.copy2(source, fresh)
    fresh.replace(target)


def _swap(fresh: Path, target: Path) -> None:
    """Put a folder in another's place; the old one is gone only when the new one is there."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
