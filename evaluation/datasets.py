"""Paired sequences on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..video.frames import SUFFIXES, natural_key


@dataclass(frozen=True, kw_only=True)
class PairedSequence:
    """One sequence: frames of the same names, blurry and sharp."""

    name: str
    """Folder name."""
    blurry: tuple[Path, ...]
    """Files in order of time."""
    sharp: tuple[Path, ...]
    """The same names."""


def load_dataset(spec: str) -> list[PairedSequence]:
    """List the sequences of `KIND:PATH`.

    `pairs:PATH` is `PATH/<sequence>/{blur,sharp}/<frame>`.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the kind is unknown or frames do not pair up.
    """
    kind, separator, path = spec.partition(":")
    if not separator or kind != "pairs":
        raise ValueError(f"dataset must be given as pairs:PATH, got {spec!r}")
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{path}: no such dataset folder")
    folders = sorted(folder for folder in root.iterdir() if (folder / "blur").is_dir())
    if not folders:
        raise ValueError(f"{path}: holds no <sequence>/blur folders")
    return [_sequence(folder) for folder in folders]


def _sequence(folder: Path) -> PairedSequence:
    blurry, sharp = _images(folder / "blur"), _images(folder / "sharp")
    unpaired = sorted(set(blurry) ^ set(sharp))
    if unpaired:
        raise ValueError(
            f"{folder}: frame {unpaired[0]} is in only one of blur/ and sharp/ "
            f"({len(unpaired)} such names)"
        )
    if not blurry:
        raise ValueError(f"{folder}: blur/ holds no images")
    names = sorted(blurry, key=natural_key)
    return PairedSequence(
        name=folder.name,
        blurry=tuple(blurry[name] for name in names),
        sharp=tuple(sharp[name] for name in names),
    )


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES}
