"""Saved files are seen at the next question; caches and swap files are not."""

import sys

import pytest

from foreshore.functions.code_watch import CodeWatch


@pytest.fixture(params=[True, False])
def watch(request, tmp_path):
    if request.param and sys.platform != "linux":
        pytest.skip("inotify is Linux's")
    (tmp_path / "app.py").write_text("1")
    (tmp_path / "package").mkdir()
    watch = CodeWatch([tmp_path, tmp_path / "missing"], interval_s=0.0, use_inotify=request.param)
    watch.folder = tmp_path
    yield watch
    watch.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "app.py").write_text("22"),
        lambda folder: (folder / "new.json").write_text("{}"),
        lambda folder: (folder / "package" / "deep.py").write_text("3"),
        lambda folder: (folder / "app.py").unlink(),
        lambda folder: (folder / "app.py").rename(folder / "other.py") and (folder / "more.py").write_text(""),
    ],
)
def test_changes_are_seen_once(watch, change):
    assert not watch.changed()
    change(watch.folder)
    assert watch.changed()
    assert not watch.changed()


def test_a_new_folder_is_watched_too(watch):
    (watch.folder / "later").mkdir()
    watch.changed()
    (watch.folder / "later" / "app.py").write_text("4")
    assert watch.changed()


def test_caches_and_swap_files_do_not_count(watch):
    (watch.folder / "__pycache__").mkdir()
    (watch.folder / "__pycache__" / "app.pyc").write_text("x")
    (watch.folder / ".app.py.swp").write_text("x")
    (watch.folder / "app.py~").write_text("x")
    assert not watch.changed()
