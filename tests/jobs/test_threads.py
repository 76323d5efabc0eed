"""Reading ahead and writing behind: order, bounds, errors, and threads that always end."""

from __future__ import annotations

import _thread
import signal
import threading
import time
import traceback
import weakref

import numpy as np
import pytest
from video_deblur.jobs.threads import ReadAhead, WriteBehind


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def arrays(num_items: int, made: list[int] | None = None):
    for index in range(num_items):
        if made is not None:
            made.append(index)
        yield np.full(100, index)


def test_items_come_in_order_and_from_another_thread():
    names = []

    def items():
        for index in range(50):
            names.append(threading.current_thread().name)
            yield index

    ahead = ReadAhead(items(), lambda item: 1, queued_bytes=3)
    assert list(ahead) == list(range(50))
    assert set(names) == {"read ahead"}
    assert list(ahead) == []


def test_no_more_is_read_than_fits():
    made: list[int] = []
    ahead = ReadAhead(arrays(20, made), lambda item: 100, queued_bytes=400)
    # Four wait in the queue, one for room in it.
    until(lambda: len(made) == 5)
    time.sleep(0.05)
    assert len(made) == 5
    assert next(ahead)[0] == 0
    until(lambda: len(made) == 6)
    ahead.close()


def test_an_item_larger_than_the_bound_goes_through():
    assert len(list(ReadAhead(arrays(5), lambda item: 1000, queued_bytes=1))) == 5


def test_what_reading_raises_comes_after_the_items_before_it():
    def items():
        yield from (1, 2)
        raise ValueError("damaged")

    ahead = ReadAhead(items(), lambda item: 1)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="damaged") as caught:
        next(ahead)
    assert "in items" in "".join(traceback.format_tb(caught.tb))


def test_a_reader_that_is_closed_early_is_closed_in_its_thread():
    closed_by = []

    def items():
        try:
            yield from arrays(100)
        finally:
            closed_by.append(threading.current_thread().name)

    ahead = ReadAhead(items(), lambda item: 100, queued_bytes=200)
    next(ahead)
    ahead.close()
    assert closed_by == ["read ahead"]


def test_nothing_is_kept_of_items_that_were_handed_on():
    class Frame:
        pass

    alive: list[weakref.ref] = []

    def items():
        for _ in range(6):
            frame = Frame()
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    ahead = ReadAhead(items(), lambda item: 1)
    for _ in range(6):
        next(ahead)
    until(lambda: len(alive) == 6)
    # The thread may still be on its way from the last one.
    until(lambda: not any(reference() for reference in alive))
    assert list(ahead) == []

    alive.clear()
    with WriteBehind(lambda frame: None) as behind:
        for _ in range(6):
            frame = Frame()
            alive.append(weakref.ref(frame))
            behind.put(frame, 1)
            del frame
        until(lambda: not any(reference() for reference in alive))


def test_the_block_ends_when_all_is_written():
    written = []

    def write(item: int) -> None:
        time.sleep(0.002)
        written.append((item, threading.current_thread().name))

    with WriteBehind(write, queued_bytes=5) as behind:
        for item in range(20):
            behind.put(item, 1)
    assert written == [(item, "write behind") for item in range(20)]


def test_whoever_writes_waits_for_room():
    gate, put = threading.Event(), []

    def fill() -> None:
        for item in range(6):
            behind.put(item, 100)
            put.append(item)

    with WriteBehind(lambda item: gate.wait(10), queued_bytes=300) as behind:
        filling = threading.Thread(target=fill)
        filling.start()
        # One is being written, three wait.
        until(lambda: len(put) == 4)
        time.sleep(0.05)
        assert len(put) == 4
        gate.set()
        filling.join()


def failing(item: int) -> None:
    if item == 2:
        raise OSError(28, "the disk is full")


def test_what_writing_raises_is_raised_by_put_or_at_the_end():
    def put(num_items: int) -> None:
        with WriteBehind(failing, queued_bytes=2) as behind:
            for item in range(num_items):
                behind.put(item, 1)

    for num_items in (3, 1000):
        with pytest.raises(OSError, match="the disk is full") as caught:
            put(num_items)
        assert "in failing" in "".join(traceback.format_tb(caught.tb))


def test_an_error_in_the_block_drops_what_is_queued():
    written, gate = [], threading.Event()
    opening = threading.Timer(0.05, gate.set)

    def write(item: int) -> None:
        gate.wait(10)
        written.append(item)

    def put() -> None:
        with WriteBehind(write) as behind:
            for item in range(10):
                behind.put(item, 1)
            opening.start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put()
    opening.join()
    # The one that was being written.
    assert len(written) <= 1


@pytest.mark.parametrize("waits", ["for room", "for the end"])
def test_whoever_waits_can_be_cancelled(waits):
    gate, checks = threading.Event(), []

    def check() -> None:
        checks.append(waits)
        if len(checks) == 3:
            gate.set()
            raise KeyboardInterrupt

    def put(num_items: int) -> None:
        with WriteBehind(lambda item: gate.wait(10), queued_bytes=1, check=check) as behind:
            for item in range(num_items):
                behind.put(item, 1)

    with pytest.raises(KeyboardInterrupt):
        put(10 if waits == "for room" else 1)
    assert len(checks) == 3


def test_whoever_waits_for_an_item_can_be_cancelled():
    gate, checks = threading.Event(), []

    def items():
        gate.wait(10)
        yield 1

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise KeyboardInterrupt

    ahead = ReadAhead(items(), lambda item: 1, check=check)
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    gate.set()
    ahead.close()
    assert len(checks) == 3


def test_what_is_abandoned_ends_by_itself():
    gate, written = threading.Event(), []

    def write(item: int) -> None:
        gate.wait(10)
        written.append(item)

    behind = WriteBehind(write)
    for item in range(3):
        behind.put(item, 1)
    behind.abandon()
    gate.set()
    until(lambda: behind.is_done)
    assert len(written) <= 1


def test_an_interrupt_while_waiting_ends_the_thread(request):
    # Where tests run in the background of a shell, it has interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    started = threading.Event()

    def items():
        started.set()
        time.sleep(0.2)
        yield 1

    ahead = ReadAhead(items(), lambda item: 1)
    started.wait(10)
    interrupt = threading.Timer(0.05, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        next(ahead)
    interrupt.join()
    ahead.close()


@pytest.mark.parametrize("kind", ["read ahead", "write behind"])
@pytest.mark.parametrize("begins", [True, False])
def test_an_interrupt_while_a_thread_starts_leaves_none(kind, begins, monkeypatch):
    class Interrupted(threading.Thread):
        def start(self) -> None:
            if begins:
                super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr("video_deblur.jobs.threads.threading.Thread", Interrupted)
    monkeypatch.setattr("video_deblur.jobs.threads._START_S", 10.0 if begins else 0.0)

    def items():
        while True:
            time.sleep(0.05)
            yield 1

    source = items()
    start = {
        "read ahead": lambda: ReadAhead(source, lambda item: 1),
        "write behind": lambda: WriteBehind(print),
    }
    with pytest.raises(KeyboardInterrupt):
        start[kind]()
    assert kind not in [thread.name for thread in threading.enumerate()]
    source.close()
