"""The component log: rotation, and a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreshore.greengrass.component_log import ComponentLog, Logging
from foreshore.greengrass.log_lines import LogSettings
from foreshore.seams import LogLine


def test_rotation_keeps_every_line(tmp_path: Path) -> None:
    log = ComponentLog(tmp_path / "app.log", "app", lambda line: None, Logging(LogSettings(file_bytes=500)))
    for number in range(20):
        log.write("INFO", "stdout", f"line-{number}", {"serviceName": "app"})
    log.close()
    files = sorted(tmp_path.glob("app*.log"))
    assert len(files) > 2
    assert all(file.stat().st_size <= 500 for file in files)
    text = "".join(file.read_text() for file in files)
    assert all(f"line-{number}." in text for number in range(20))
    assert list(log.tail) == [f"line-{number}" for number in range(20)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_once_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "app.log").symlink_to("/dev/full")
    lines: list[LogLine] = []
    log = ComponentLog(tmp_path / "app.log", "app", lines.append, Logging())
    for number in range(3):
        log.write("INFO", "stdout", f"line-{number}", {})
    log.close()
    assert [line.text.partition(":")[0] for line in lines] == ["log lines are lost", "line-0", "line-1", "line-2"]
