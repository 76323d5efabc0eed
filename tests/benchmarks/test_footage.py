"""The sweep over kinds of footage finds what is lost, and the damaged files end in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_deblur.benchmarks import mutated_inputs
from video_deblur.benchmarks.footage import compare
from video_deblur.benchmarks.footage_clips import (
    BARS,
    NUM_FRAMES,
    Footage,
    draw,
    read_bars,
    read_index,
    to_rgb,
    to_yuv,
    write_footage,
)
from video_deblur.benchmarks.footage_kinds import sweep
from video_deblur.benchmarks.footage_player import look_at

KIND = Footage(suffix=".mp4", audio="aac")


def test_a_picture_shows_its_index_and_its_bars() -> None:
    for index in (0, 1, 37):
        picture = draw(index, 160, 96)
        assert read_index(picture) == index
        assert np.abs(read_bars(picture) - BARS).max() < 1e-9


@pytest.mark.parametrize("matrix", [1, 6, 7, 9])
def test_yuv_and_back_is_the_same(matrix: int) -> None:
    colours = BARS / 255
    assert np.allclose(to_rgb(to_yuv(colours, matrix), matrix), colours)
    assert np.allclose(to_yuv(np.ones(3), matrix), [1, 0, 0])


def test_the_sweep_names_each_kind_once() -> None:
    kinds = sweep()
    assert len(kinds) >= 150
    assert len({kind.name for kind in kinds}) == len(kinds)


def test_a_file_is_shown_as_it_was_drawn(tmp_path: Path) -> None:
    kind = replace(KIND, suffix=".mkv", codec="ffv1", pix_fmt="yuv444p", rotation=90)
    write_footage(tmp_path / "in.mkv", kind)
    seen = look_at(tmp_path / "in.mkv")
    assert seen.indices == list(range(NUM_FRAMES))
    assert seen.times == [Fraction(index, 25) for index in range(NUM_FRAMES)]
    assert seen.size == (96, 160)
    assert np.abs(seen.bars - BARS).max() < 2
    assert [sound.codec for sound in seen.sound] == ["aac"]


def test_a_mastering_display_is_seen_and_missed(tmp_path: Path) -> None:
    kind = replace(KIND, suffix=".mkv", codec="libx265", pix_fmt="yuv420p10le", mastering=True)
    write_footage(tmp_path / "in.mkv", replace(kind, audio="aac+flac"))
    seen = look_at(tmp_path / "in.mkv")
    assert seen.mastering[-4:] == (0.0001, 1000.0, 1000, 400)
    assert [sound.codec for sound in seen.sound] == ["aac", "flac"]
    lost = compare(kind, ".mkv", seen, replace(seen, mastering=()))["faults"]
    assert lost == ["no mastering display"]


def test_a_palette_of_its_own_is_not_dithered(tmp_path: Path) -> None:
    write_footage(tmp_path / "in.gif", Footage(suffix=".gif", codec="gif", pix_fmt="pal8"))
    seen = look_at(tmp_path / "in.gif")
    assert np.abs(seen.bars - BARS).max() < 0.5
    assert seen.indices == list(range(NUM_FRAMES))


def test_untouched_copies_have_no_faults_and_changed_ones_do(tmp_path: Path) -> None:
    write_footage(tmp_path / "in.mp4", KIND)
    seen = look_at(tmp_path / "in.mp4")
    assert compare(KIND, ".mp4", seen, seen)["faults"] == []
    later = [seen.times[0], *(time + Fraction(1, 500) for time in seen.times[1:])]
    sound = seen.sound[0]
    changed = {
        "pictures": replace(seen, indices=seen.indices[:-1], times=seen.times[:-1]),
        "times": replace(seen, times=later),
        "colours": replace(seen, bars=seen.bars + 4),
        "size": replace(seen, size=(1, 2)),
        "aspect": replace(seen, aspect=Fraction(2)),
        "mastering display (1.0,)": replace(seen, mastering=(1.0,)),
        "sounds": replace(seen, sound=[]),
        "packets": replace(seen, sound=[replace(sound, packets=sound.packets[:-1])]),
        "against the picture": replace(seen, sound=[replace(sound, heard=0.01)]),
    }
    for word, other in changed.items():
        faults = compare(KIND, ".mp4", seen, other)["faults"]
        assert len(faults) == 1
        assert word in faults[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits are set in forked processes")
class TestMutatedInputs:
    def test_damaged_files_are_read_or_refused(self) -> None:
        # In a process without threads: a fork of one that has some may wait for a lock that
        # nobody holds any more.
        command = [sys.executable, "-m", mutated_inputs.__name__]
        options = ["--count", "60", "--runs", "10", "--seed", "5"]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "read: 60: " in done.stdout
        assert "run: 10: " in done.stdout

    def test_there_are_as_many_seeds_as_the_report_says(self) -> None:
        assert len(mutated_inputs.KINDS) + len(mutated_inputs.IMAGES) == 20

    def test_mutations_are_the_same_for_a_seed(self) -> None:
        data = bytes(range(256)) * 8
        first, again, other = (
            mutated_inputs.mutate(data, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        assert first == again != other

    @pytest.mark.parametrize(
        ("work", "outcome"),
        [
            (lambda: None, "read"),
            (lambda: _raise(ValueError("bad.mp4: is damaged")), "refused"),
            (lambda: _raise(ValueError("two\nlines")), "many lines"),
            (lambda: _raise(ValueError()), "no message"),
            (lambda: _raise(KeyError("x")), "traceback"),
            (lambda: os.kill(os.getpid(), 9), "crashed"),
            (lambda: _for_ever(), "hangs"),
        ],
    )
    def test_how_a_process_ends_is_told(self, work: Callable[[], object], outcome: str) -> None:
        ((found, _),) = mutated_inputs._in_child([work], 1)
        assert found == outcome


def _raise(error: Exception) -> None:
    raise error


def _for_ever() -> None:
    while True:
        pass
