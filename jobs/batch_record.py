"""Remember what the outputs of a batch were made from: one hidden file in their folder.

So a later batch into the same folder can tell which outputs are those of other settings,
another checkpoint or another input, and which hold a part of their input only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..video.atomic import write_file
from ..video.output_lock import waiting_lock

RECORD_NAME = ".video_deblur_batch.json"
_FORMAT = 1
_LEFT_OUT = {"audio": "copy", "deinterlace": "off"}
"""What records of older versions leave out, and mean."""


class BatchRecord:
    """The record of a folder; outputs are known by their names."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD_NAME

    def changes(self, output: Path, made_from: dict[str, Any]) -> list[str]:
        """Return what differs from what an output was made from; nothing if that is unknown.

        Args:
            output: A file or folder of the record's folder.
            made_from: JSON values by what messages call them.
        """
        entry = self._read().get(output.name)
        if entry is None:
            return []
        known = {**_LEFT_OUT, **entry["made_from"]}
        wanted = {**_LEFT_OUT, **json.loads(json.dumps(made_from))}
        names = {*known, *wanted}
        return sorted(name for name in names if known.get(name) != wanted.get(name))

    def error(self, output: Path) -> str:
        """Return why an output is incomplete, or nothing."""
        return self._read().get(output.name, {}).get("error", "")

    def add(self, output: Path, made_from: dict[str, Any], error: str = "") -> None:
        """Remember what an output was made from, and why it is incomplete.

        Raises:
            OSError: If the record cannot be written.
        """
        # Another batch may add other outputs of the same folder.
        with waiting_lock(self._path):
            known = self._read()
            outputs = {**known, output.name: {"made_from": made_from, "error": error}}
            text = json.dumps({"format": _FORMAT, "outputs": outputs}, indent=1)
            write_file(self._path, f"{text}\n".encode())

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(self._path.read_bytes())
            return record["outputs"] if record["format"] == _FORMAT else {}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {}
