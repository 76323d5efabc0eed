"""Keep finished segments on disk, so that a run that was stopped goes on where it was.

A folder holds `manifest.json`, which says what is being made from what, and for each finished
part its encoded frames (`000000.packets`, one packet after the other as the encoder gave them)
and a JSON file that describes them and says where to go on. That file is written last and in
one step: a part without it does not count. Every part begins with a key frame and was encoded
by itself, so the joined file is the same however often a run was stopped.

Where something else is to be made, what is finished goes aside, to a folder named after what it
is, and is taken up again if that is wanted after all: a mistyped option costs nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..models.tensor_file import file_digest
from ..restoration.streaming.planning import Position
from ..video.atomic import write_file
from ..video.frames import EncodedFrame
from ..video.hidden_names import hidden_sibling
from ..video.output_place import unwritable
from ..video.source import Source
from .report import FinishedPart

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the files; another one starts over."""

PART_FRAMES = 48
"""Frames from which a part is closed, at the end of a segment."""
_SAID = {"pictures": "codec, quality or form of the pictures"}
"""What messages call keys of a manifest, where the key itself says too little."""
_HASHED_BYTES = 1 << 20
"""Bytes at either end of an input that are hashed."""


class PartStore:
    """The finished parts of one output."""

    def __init__(self, folder: Path, identity: dict[str, Any], name: str) -> None:
        """Take up what is there if it belongs to the same work, else put it aside.

        Args:
            folder: Made if missing; belongs to the store alone.
            identity: JSON values that the result depends on.
            name: What messages call the output.

        Raises:
            OSError: If the folder cannot be made or written to.
        """
        self.folder = folder
        self._name = name
        self._finished: dict[int, tuple[FinishedPart, Position]] = {}
        identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        known = _read_json(folder / "manifest.json")
        if known == identity or self._change_over(known, identity):
            self._take_up()
        else:
            folder.mkdir(parents=True)
            write_file(folder / "manifest.json", _to_json(identity))
        self.num_taken_up = self.num_kept
        """Frames of the parts that were there already."""

    @property
    def parts(self) -> list[FinishedPart]:
        """What is known of all finished parts, in order."""
        return [part for _, (part, _) in sorted(self._finished.items())]

    @property
    def position(self) -> Position | None:
        """Where to go on after the parts that are finished without a gap; None at the start."""
        count = self.next_index
        return self._finished[count - 1][1] if count else None

    @property
    def num_frames(self) -> int:
        """Frames that are done without a gap."""
        return 0 if self.position is None else self.position.next_frame

    @property
    def num_kept(self) -> int:
        """Frames of all finished parts."""
        return sum(len(part.blur) for part in self.parts)

    @property
    def next_index(self) -> int:
        """Index of the first part that is missing."""
        return next(i for i in range(len(self._finished) + 1) if i not in self._finished)

    def has(self, index: int) -> bool:
        """Tell whether a part is finished."""
        return index in self._finished

    def add(
        self,
        frames: list[EncodedFrame],
        position: Position,
        part: FinishedPart,
        index: int | None = None,
    ) -> None:
        """Store a part.

        Args:
            frames: Encoded, starting with a key frame; none where frames are stored elsewhere.
            position: Where to go on after it.
            part: What is known of its frames.
            index: Its place among the parts; None: the first that is missing.

        Raises:
            OSError: If the disk is full; what was stored before stays.
        """
        index = self.next_index if index is None else index
        described = {
            "packets": [
                [len(frame.data), frame.pts, frame.duration, frame.is_keyframe]
                for frame in frames
            ],
            "position": _position_to_json(position),
            "part": {"cuts": part.cuts, "blur": part.blur, "untouched": part.untouched},
        }
        try:
            write_file(self._packets(index), b"".join(frame.data for frame in frames))
            write_file(self._description(index), _to_json(described))
        except OSError as error:
            raise unwritable(self._name, error) from error
        self._finished[index] = part, position

    def encoded_frames(self) -> Iterator[EncodedFrame]:
        """Yield all stored frames in order, one part in memory at a time."""
        for index in sorted(self._finished):
            described = json.loads(self._description(index).read_bytes())
            data = self._packets(index).read_bytes()
            start = 0
            for size, pts, duration, is_keyframe in described["packets"]:
                yield EncodedFrame(
                    data=data[start : start + size],
                    pts=pts,
                    duration=duration,
                    is_keyframe=is_keyframe,
                )
                start += size

    def remove(self) -> None:
        """Remove all that was kept for the output, as it is complete."""
        for folder in (self.folder, *self._aside()):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            adapted_file(self.folder).unlink()

    def _change_over(self, known: Any, identity: dict[str, Any]) -> bool:
        """Make room for other work; returns whether some of it was put aside and is back."""
        wanted = self._place_aside(identity)
        if known is not None and any(self.folder.glob("[0-9]*.json")):
            for older in self._aside():
                if older != wanted:
                    shutil.rmtree(older, ignore_errors=True)
            self.folder.replace(self._place_aside(known))
        else:
            shutil.rmtree(self.folder, ignore_errors=True)
        if wanted.exists():
            wanted.replace(self.folder)
            return True
        if known is not None:
            logger.warning(
                "%s: starts over, as this has changed since the run that was stopped: %s",
                self._name,
                ", ".join(_changes(known, identity)),
            )
        return False

    def _place_aside(self, identity: dict[str, Any]) -> Path:
        return self.folder.with_name(f"{self.folder.name}-{identity_digest(identity)}")

    def _aside(self) -> list[Path]:
        """Return the folders of what was put aside."""
        pattern = re.compile(re.escape(self.folder.name) + "-[0-9a-f]{16}")
        found = self.folder.parent.iterdir()
        return [path for path in found if pattern.fullmatch(path.name)]

    def _take_up(self) -> None:
        for leftover in self.folder.glob(".*.part-*"):
            leftover.unlink(missing_ok=True)
        for path in self.folder.glob("[0-9]*.json"):
            index = int(path.stem)
            described = _read_json(path)
            if described is not None and self._is_whole(index, described):
                part = FinishedPart(
                    cuts=tuple(described["part"]["cuts"]),
                    blur=tuple(described["part"]["blur"]),
                    untouched=described["part"]["untouched"],
                )
                self._finished[index] = part, _position_from_json(described["position"])

    def _is_whole(self, index: int, described: dict[str, Any]) -> bool:
        size = sum(packet[0] for packet in described["packets"])
        return self._packets(index).is_file() and self._packets(index).stat().st_size == size

    def _packets(self, index: int) -> Path:
        return self.folder / f"{index:06d}.packets"

    def _description(self, index: int) -> Path:
        return self.folder / f"{index:06d}.json"


@contextlib.contextmanager
def kept_parts(store: PartStore) -> Iterator[PartStore]:
    """Say what is kept when the disk ends the work; an empty store is not worth keeping.

    Errors of reading the input keep its name: nothing of the output is to blame for them.
    """
    try:
        yield store
    except OSError as error:
        if isinstance(error, FileNotFoundError) or not store.num_kept:
            raise
        cause = error.strerror or str(error)
        if error.filename is not None:
            cause = f"{error.filename}: {cause}"
        raise OSError(
            error.errno,
            f"{cause}; {store.num_kept} finished frames are kept, run the same command again "
            "to go on",
        ) from error
    finally:
        if not store.num_kept:
            # What was learned stays for the next run.
            shutil.rmtree(store.folder, ignore_errors=True)


def resume_folder(output: Path) -> Path:
    """Return the hidden folder beside an output that keeps its finished parts."""
    return hidden_sibling(output.absolute(), ".resume")


def adapted_file(folder: Path) -> Path:
    """Return the file beside a folder of parts that keeps what was learned from the clip."""
    return folder.with_suffix(".adapted.safetensors")


def checkpoint_identity(path: Path) -> dict[str, Any]:
    """Return what tells the networks of a checkpoint from others: a hash of all of the file."""
    return {"checkpoint": file_digest(path)}


def file_identity(source: Source) -> dict[str, Any]:
    """Return what tells a file from another or from a changed one, without reading it all.

    Size, time of change (of a path) and a hash of the first and last megabyte.
    """
    if not isinstance(source, str | Path):
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        head = source.read(_HASHED_BYTES)
        source.seek(max(0, size - _HASHED_BYTES))
        digest = hashlib.sha256(head + source.read(_HASHED_BYTES)).hexdigest()
        return {"size": size, "sha256_of_ends": digest}
    path = Path(source)
    state = path.stat()
    with path.open("rb") as file:
        head = file.read(_HASHED_BYTES)
        file.seek(max(0, state.st_size - _HASHED_BYTES))
        digest = hashlib.sha256(head + file.read(_HASHED_BYTES)).hexdigest()
    return {
        "path": str(path.resolve()),
        "size": state.st_size,
        "changed_ns": state.st_mtime_ns,
        "sha256_of_ends": digest,
    }


def identity_digest(identity: dict[str, Any]) -> str:
    """Return a short name for JSON values."""
    return hashlib.sha256(_to_json(identity)).hexdigest()[:16]


def _changes(known: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return what messages call the values that differ."""
    keys = sorted({*known, *identity})
    return [_SAID.get(key, key) for key in keys if known.get(key) != identity.get(key)]


def _position_to_json(position: Position) -> dict[str, Any]:
    state = position.noise_state
    return {
        "next_frame": position.next_frame,
        "context_start": position.context_start,
        "noise_state": None if state is None else base64.b64encode(state).decode(),
    }


def _position_from_json(values: dict[str, Any]) -> Position:
    state = values["noise_state"]
    return Position(
        next_frame=values["next_frame"],
        context_start=values["context_start"],
        noise_state=None if state is None else base64.b64decode(state),
    )


def _to_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


def _read_json(path: Path) -> Any:
    """Return what a JSON file holds; None where there is none, or half of one."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
