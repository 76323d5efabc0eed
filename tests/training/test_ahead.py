"""Clips are finished ahead on a GPU, in order, and not before their turn on a CPU."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from video_deblur.training import ahead
from video_deblur.training.ahead import prepared_updates


class Stream:
    """Notes what is asked of a stream, in order."""

    def __init__(self, notes, name):
        self.notes, self.name = notes, name

    def record_event(self):
        self.notes.append(f"{self.name} done")

    def wait_event(self, event):
        self.notes.append(f"{self.name} waits")

    def synchronize(self):
        self.notes.append(f"{self.name} ends")


@pytest.fixture
def notes(monkeypatch):
    """Stand in for CUDA's streams; returns what was asked of them."""
    notes = []
    cuda = ahead.torch.cuda
    monkeypatch.setattr(cuda, "Stream", lambda device: Stream(notes, "clips"))
    monkeypatch.setattr(cuda, "current_stream", lambda device: Stream(notes, "training"))
    monkeypatch.setattr(cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(cuda, "stream", lambda stream: nullcontext())
    return notes


def test_a_cpu_finishes_each_part_when_it_is_asked_for():
    prepared = []
    updates = prepared_updates(
        [[1, 2], [3]], lambda n: (prepared.append(n),), torch.device("cpu")
    )
    first = next(updates)
    assert prepared == []
    first[0]()
    assert prepared == [1]
    first[1]()
    next(updates)[0]()
    assert prepared == [1, 2, 3]


def test_a_gpu_finishes_the_next_update_beside_this_one(notes):
    begun, threads = {n: threading.Event() for n in (1, 2, 3)}, {}

    def prepare(number):
        threads[number] = threading.current_thread()
        begun[number].set()
        return (10 * number,)

    updates = prepared_updates([[1], [2], [3]], prepare, torch.device("cuda"))
    for number in (1, 2, 3):
        (arguments,) = next(updates)
        assert arguments() == (10 * number,)
        if number < 3:
            assert begun[number + 1].wait(30)
        if number < 2:
            assert not begun[3].is_set()
    assert next(updates, None) is None
    assert threads[1] is threading.main_thread()
    assert threads[2] is not threading.main_thread()
    # Each waits for its clips; none are let go while the device may still read them.
    training = [note for note in notes if note.startswith("training")]
    assert training == ["training waits", "training ends"] * 3
    assert notes.index("clips done") < notes.index("training waits")


def test_what_goes_wrong_beside_training_is_raised_in_its_turn(notes):
    def prepare(number):
        if number == 2:
            raise OSError("clip.png: gone")
        return (number,)

    updates = prepared_updates([[1], [2], [3]], prepare, torch.device("cuda"))
    next(updates)
    with pytest.raises(OSError, match=r"clip\.png: gone"):
        next(updates)
