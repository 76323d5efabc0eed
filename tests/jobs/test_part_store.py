"""What is said of finished parts when a disk fails."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from video_deblur.jobs.files import restore_folder
from video_deblur.jobs.part_store import resume_folder

from ..images import image_files
from .footage import SETTINGS, pictures, resumable


def test_an_input_that_cannot_be_read_is_no_full_disk(deblurrer, tmp_path, monkeypatch):
    source, output = tmp_path / "frames", tmp_path / "out"
    source.mkdir()
    for index, pixels in enumerate(pictures(30)):
        (source / f"{index:03d}.png").write_bytes(image_files.png(pixels))
    read_bytes = Path.read_bytes

    def failing(path):
        if path.name == "025.png":
            # As the system says it while a file is read: without a name.
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(OSError, match="finished frames are kept") as caught:
        restore_folder(source, output, deblurrer, SETTINGS, resumable=resumable(output))
    assert caught.value.strerror.startswith(f"{source / '025.png'}: Input/output error; ")
    assert "free some space" not in str(caught.value)
    assert list(resume_folder(output).glob("[0-9]*.json"))
