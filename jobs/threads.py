"""Read ahead and write behind: files are decoded and encoded in threads of their own.

Both sides share a queue that is bounded by bytes. Whoever restores takes frames a segment at a
time, and gives them back so; a queue of a few frames would leave the threads idle most of the
time. The threads are joined by `close`, or by the end of the `with` block, whatever ends it: no
file may be closed before.
"""

from __future__ import annotations

import atexit
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

QUEUED_BYTES = 128 << 20
"""What a queue holds at most: 48 frames of 1280x720 in 8 bits, 5 of 3840x2160; less than the
frames of a segment take."""
_LEAST_ITEMS = 2
"""What it holds however large they are, so that neither side waits for the other's next one."""
_CHECK_INTERVAL_S = 0.1
"""While the caller waits for the thread."""
_START_S = 1.0
"""After which a thread whose start was interrupted counts as none."""


class ReadAhead(Generic[Item]):
    """Iterate over what a thread reads in advance.

    What the thread's iterator raises is raised here, after the items before it.
    """

    def __init__(
        self,
        items: Iterable[Item],
        size_of: Callable[[Item], int],
        queued_bytes: int = QUEUED_BYTES,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Start to read.

        Args:
            items: Iterated over in the thread, which alone may use what they come from until
                `close`.
            size_of: Bytes of an item.
            queued_bytes: What may be read in advance.
            check: Called now and then while the next item is waited for; may raise to cancel.
        """
        self._check = check
        self._queue: _Queue[Item] = _Queue(queued_bytes)
        run = functools.partial(self._read, iter(items), size_of)
        self._thread = _started("read ahead", run, self._queue.close)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        item = self._queue.get(self._check)
        if not item:
            self.close()
            if self._queue.error is not None:
                raise self._queue.error
            raise StopIteration
        return item.pop()

    def close(self) -> None:
        """Drop what is queued and wait until the thread has ended."""
        self._queue.close()
        self._thread.join()

    def _read(self, items: Iterator[Item], size_of: Callable[[Item], int]) -> None:
        try:
            for item in items:
                if not self._queue.put(item, size_of(item)):
                    break
                # Not kept alive while the next one is read.
                del item
        except BaseException as error:  # noqa: BLE001 (raised again by who iterates)
            self._queue.end(error)
        else:
            self._queue.end()


class WriteBehind(Generic[Item]):
    """Write items in a thread, in order, while the `with` block makes more.

    The end of the block waits for them. If the block raises, what is queued is dropped. What
    writing raises is raised by the next `put`, or by the end of the block.
    """

    def __init__(
        self,
        write: Callable[[Item], object],
        queued_bytes: int = QUEUED_BYTES,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Start to wait for items.

        Args:
            write: Called with each of them in the thread, which alone may use what it writes
                to until the end.
            queued_bytes: What may wait to be written.
            check: Called now and then while `put` or `finish` wait; may raise to cancel.
        """
        self._write = write
        self._check = check or (lambda: None)
        self._queue: _Queue[Item] = _Queue(queued_bytes)
        self._error: BaseException | None = None
        self._thread = _started("write behind", self._run, self._queue.close)

    def __enter__(self) -> WriteBehind[Item]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    def put(self, item: Item, size: int) -> None:
        """Hand over an item of `size` bytes; waits for room in the queue."""
        if not self._queue.put(item, size, self._check):
            self._raise()

    @property
    def is_done(self) -> bool:
        """Whether the thread has ended: everything is written, or writing has failed."""
        return not self._thread.is_alive()

    @property
    def is_ended(self) -> bool:
        """Whether nothing can be put any more."""
        return self._queue.is_ended

    def end(self) -> None:
        """Say that nothing follows; the thread ends once all is written."""
        self._queue.end()

    def finish(self) -> None:
        """Wait until everything is written; who cancels it has to `close` or `abandon`."""
        self.end()
        while self.wait(_CHECK_INTERVAL_S):
            self._check()
        self._queue.close()
        self._raise()

    def wait(self, timeout_s: float) -> bool:
        """Wait so long for the thread, at most; tell whether it still has work."""
        self._thread.join(timeout_s)
        return not self.is_done

    def close(self) -> None:
        """Drop what is queued and wait until the thread has ended."""
        self._queue.close()
        self._thread.join()

    def abandon(self) -> None:
        """Drop what is queued and do not wait: only where what is written to is the thread's.

        The process does not end in the middle of what the thread still does.
        """
        self._queue.close()
        if not self.is_done:
            atexit.register(self._thread.join)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while item := self._queue.get():
                self._write(item.pop())
        except BaseException as error:  # noqa: BLE001 (raised again by who writes)
            self._error = error
            self._queue.close()


def _started(name: str, run: Callable[[], None], stop: Callable[[], None]) -> threading.Thread:
    """Start a thread; an interruption meanwhile ends it, as nobody would know of it."""
    begun = threading.Event()

    def target() -> None:
        begun.set()
        run()

    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except BaseException:
        stop()
        if begun.wait(_START_S):
            thread.join()
        raise
    return thread


class _Queue(Generic[Item]):
    """Items from one thread to another, as many as fit."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._items: deque[tuple[Item, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.is_ended = False
        """Whether nothing follows what was put."""
        self.error: BaseException | None = None
        """Why nothing follows."""

    def put(self, item: Item, size: int, check: Callable[[], None] | None = None) -> bool:
        """Add an item once there is room; False if nobody takes it any more."""
        with self._changed:
            while not self._closed and not self._has_room(size):
                self._changed.wait(_CHECK_INTERVAL_S if check else None)
                if check is not None:
                    check()
            if not self._closed:
                self._items.append((item, size))
                self._bytes += size
                self._changed.notify_all()
            return not self._closed

    def get(self, check: Callable[[], None] | None = None) -> list[Item]:
        """Wait for an item and return it in a list, which is empty when nothing follows.

        A list, so that the caller can hand the item on without keeping it.
        """
        with self._changed:
            while not self._items and not self.is_ended and not self._closed:
                self._changed.wait(_CHECK_INTERVAL_S if check else None)
                if check is not None:
                    check()
            if not self._items:
                return []
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return [item]

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing follows what was put."""
        with self._changed:
            self.is_ended = True
            self.error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all items; none is taken or given any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return len(self._items) < _LEAST_ITEMS or self._bytes + size <= self._most_bytes
