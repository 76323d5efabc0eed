"""Folders of images are restored where PyAV is not installed."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np

_WITHOUT_PYAV = """
import sys
sys.modules["av"] = None  # an import of it raises ImportError
from video_deblur.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_folder_of_pngs_is_restored_without_pyav(checkpoint, tmp_path):
    source, output, resumed = (tmp_path / name for name in ("in", "out", "resumed"))
    source.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(source / f"{index}.png"), pixels)
    for target, more in ((output, []), (resumed, ["--resume"])):
        options = ["-o", target, "--checkpoint", checkpoint, "--device", "cpu", *more]
        command = [sys.executable, "-c", _WITHOUT_PYAV, "run", source, *options]
        done = subprocess.run(
            list(map(str, command)), check=False, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in target.iterdir()) == ["0.png", "1.png", "2.png"]
    restored = cv2.imread(str(output / "1.png"))
    assert restored is not None
    assert np.array_equal(restored, cv2.imread(str(resumed / "1.png")))
    assert not np.array_equal(restored, cv2.imread(str(source / "1.png")))


def test_the_default_checkpoint_says_that_it_needs_pyav_for_clips(tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    command = [sys.executable, "-c", _WITHOUT_PYAV, "run", str(source), "-o", str(output)]

    def run():
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)

    for index in range(2):
        cv2.imwrite(str(source / f"{index}.png"), np.zeros((16, 24, 3), np.uint8))
    done = run()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "needs PyAV: install it (pip install av)" in line
    assert not output.exists()
    # A single picture has no motion to be found.
    (source / "1.png").unlink()
    done = run()
    assert done.returncode == 0, done.stderr
    assert [path.name for path in output.iterdir()] == ["0.png"]
