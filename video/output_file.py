"""The file that libav writes into, through Python."""

from __future__ import annotations

import io
from pathlib import Path


class OutputFile(io.FileIO):
    """A file that tells libav of the first error alone.

    libav goes on writing after an error, and PyAV prints a traceback for each further one that
    comes before it can raise the first. What is written then is lost anyway.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self._error: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write all of `data`, bytes; nothing after an error.

        Raises:
            OSError: The first time.
        """
        view = memoryview(data)  # type: ignore[arg-type]
        size = view.nbytes
        if self._error is not None:
            return size
        try:
            while view.nbytes:
                view = view[super().write(view) or 0 :]
        except OSError as error:
            self._error = error
            raise
        return size

    def check(self) -> None:
        """Raise the error there was, in case libav kept it to itself."""
        if self._error is not None:
            raise self._error
