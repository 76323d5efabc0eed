from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from video_deblur.training.data import workers
from video_deblur.training.data.workers import choose_workers

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MB = 1_000_000


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend that this machine has so many cores and so much shared memory."""

    def pretend(cores, free):
        monkeypatch.setattr(workers, "_num_cores", lambda: cores)
        monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path)
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: usage)

    return pretend


@pytest.mark.parametrize(
    ("device", "cores", "processes", "chosen"),
    [
        (CPU, 16, 1, 1),
        (CUDA, 32, 1, 16),
        (CUDA, 16, 1, 15),
        (CUDA, 6, 1, 5),
        (CUDA, 16, 4, 3),
        (CUDA, 1, 1, 1),
    ],
)
def test_cores_that_are_left_over_draw_clips(machine, device, cores, processes, chosen):
    machine(cores, 10**12)
    assert choose_workers(None, MB, device, processes) == chosen


def test_little_shared_memory_takes_fewer_and_says_so(machine, caplog):
    machine(16, 64 * MB)
    with caplog.at_level(logging.WARNING):
        assert choose_workers(None, 10 * MB, CUDA) == 2
    assert "room for 2 of 15 worker processes (64 MB); clips may be late" in caplog.text
    assert choose_workers(None, 10 * MB, CUDA, num_processes=2) == 1
    assert choose_workers(None, 200 * MB, CUDA) == 0


def test_large_updates_are_handed_over_in_pieces(machine):
    machine(16, 64 * MB)
    # 40 MB of clips for an update, of which a worker draws 4 at a time, twice ahead.
    assert choose_workers(None, 40 * MB, CUDA, piece_bytes=4 * MB) == 3
    assert choose_workers(3, 40 * MB, CUDA, piece_bytes=4 * MB) == 3
    with pytest.raises(ValueError, match=r"--workers 4 may need 72 MB .* take 3"):
        choose_workers(4, 40 * MB, CUDA, piece_bytes=4 * MB)


def test_what_is_asked_for_is_given_or_refused(machine):
    machine(2, 64 * MB)
    assert choose_workers(0, 200 * MB, CUDA) == 0
    assert choose_workers(2, 10 * MB, CPU) == 2
    with pytest.raises(ValueError, match=r"--workers 3 may need 70 MB .* which has 64; t"):
        choose_workers(3, 10 * MB, CPU)


def test_machines_without_such_a_folder_have_no_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path / "none")
    assert choose_workers(12, 10**9, CPU) == 12
