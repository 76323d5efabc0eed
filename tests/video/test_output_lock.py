from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from video_deblur.video import output_lock as module
from video_deblur.video.output_lock import output_lock

HOLD = """
import sys, time
from pathlib import Path
from video_deblur.video.output_lock import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_gone_with_its_file_afterwards(tmp_path):
    for _ in range(2):
        with output_lock(tmp_path / "out.mp4"):
            assert [path.name for path in tmp_path.iterdir()] == [".out.mp4.lock"]
    assert list(tmp_path.iterdir()) == []


def test_other_outputs_are_not_locked(tmp_path):
    with output_lock(tmp_path / "a.mp4"), output_lock(tmp_path / "b.mp4"):
        pass


def test_another_process_is_refused_until_the_holder_dies(tmp_path):
    output = tmp_path / "out.mp4"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match="another run is writing this output"),
        output_lock(output),
    ):
        pass
    holder.kill()
    holder.communicate(timeout=30)
    with output_lock(output):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        output_lock(tmp_path / "nowhere" / "o"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_where_files_cannot_be_locked_one_warning_says_so(
    number, tmp_path, monkeypatch, caplog
):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(module, "_warned_of", set())
    for name in ("a.mp4", "b.mp4"):
        with output_lock(tmp_path / name):
            pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be locked" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_other_troubles_with_a_lock_are_errors(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No space"), output_lock(tmp_path / "a.mp4"):
        pass
