"""Keep two runs from writing the same output, or one file of both, at once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .hidden_names import hidden_sibling

logger = logging.getLogger(__name__)

_NO_LOCKS = {
    *(errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL),
    *(errno.ENOTTY, errno.EIO),
}
"""What file systems without locks answer: NFS, SMB, FUSE, whatever a container mounts."""
_warned_of: set[int] = set()
_RETRY_S = 0.01
"""Between two tries to get a lock that is held for a moment only."""


@contextlib.contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Hold the lock of an output, a hidden file beside it that is gone afterwards.

    The system lets go of it when the process ends, however that happens.

    Args:
        path: The output; need not exist.

    Raises:
        ValueError: If another run holds it.
        FileNotFoundError, PermissionError: If the folder does not exist or cannot be written.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist, create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {folder} cannot be written to")
    lock_path = hidden_sibling(path.absolute(), ".lock")
    with _open_locked(lock_path) as file:
        if file is None:
            raise ValueError(
                f"{path}: another run is writing this output, wait or choose another name"
            )
        try:
            yield
        finally:
            # Windows does not remove open files: there an empty one stays.
            with contextlib.suppress(OSError):
                lock_path.unlink()


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file that several processes change, once the others are done with it.

    The lock is a hidden file beside it, as for outputs.

    Args:
        path: The file; need not exist, its folder must.
    """
    lock_path = hidden_sibling(path, ".lock")
    while True:
        with _open_locked(lock_path) as file:
            if file is not None:
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        lock_path.unlink()
                return
        time.sleep(_RETRY_S)


@contextlib.contextmanager
def _open_locked(path: Path) -> Iterator[BinaryIO | None]:
    """Open and lock a file; None where another process holds the lock."""
    while True:
        with open(path, "a+b") as file:
            if not _try_lock(file.fileno()):
                yield None
                return
            # Its last holder may have removed what was opened here.
            if _is_current(file.fileno(), path):
                yield file
                return


def _is_current(descriptor: int, path: Path) -> bool:
    """Tell whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return _try_lock_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn_once(os.fstat(descriptor).st_dev, error)
    return True


def _warn_once(device: int, error: OSError) -> None:
    if device not in _warned_of:
        _warned_of.add(device)
        logger.warning(
            "files cannot be locked where the output is (%s): make sure yourself that no two "
            "runs write the same output",
            error.strerror,
        )


def _try_lock_on_windows(descriptor: int) -> bool:
    import msvcrt  # pyright: ignore

    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
    except OSError:
        return False
    return True
