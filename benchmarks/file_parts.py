"""Split a file into parts, and join them: for whatever carries only small files.

    python -m video_deblur.benchmarks.file_parts FILE.part00 -o FILE

joins all parts beside the one that is named (`cat FILE.part?? > FILE` does the same).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..video.atomic import write_file

_MIB = 1 << 20


def split(path: Path, part_mib: int) -> list[Path]:
    """Cut a file into `<name>.part00`, `.part01`...; a file that is small enough stays.

    Args:
        path: Of the file, which is removed if it is cut.
        part_mib: Largest size of a part, in MiB.

    Returns:
        The parts in order, or the file itself.

    Raises:
        ValueError: If the size is below 1, or more than 100 parts would be needed.
    """
    size = path.stat().st_size
    count = -(-size // (part_mib * _MIB)) if part_mib > 0 else 0
    if part_mib < 1 or count > 100:
        raise ValueError(
            f"{path}: {size / _MIB:.0f} MiB are cut into 100 parts of 1 MiB or more at most, "
            f"got parts of {part_mib}"
        )
    for old in _parts_of(path):
        old.unlink()
    if count <= 1:
        return [path]
    parts = []
    with path.open("rb") as file:
        while data := file.read(part_mib * _MIB):
            parts.append(path.with_name(f"{path.name}.part{len(parts):02d}"))
            write_file(parts[-1], data)
    path.unlink()
    return parts


def join(first: Path, output: Path) -> None:
    """Write what was cut into `first` and the parts beside it.

    Raises:
        FileNotFoundError: If there is no such part.
        ValueError: If it is not the first, or one in between is missing.
    """
    stem, _, number = first.name.rpartition(".part")
    if not stem or number != "00":
        raise ValueError(f"{first}: name the first part, whose name ends in .part00")
    parts = _parts_of(first.with_name(stem))
    if first not in parts:
        raise FileNotFoundError(f"{first}: no such part")
    expected = [first.with_name(f"{stem}.part{index:02d}") for index in range(len(parts))]
    if parts != expected:
        raise ValueError(
            f"{first}: parts are missing, found {', '.join(p.name for p in parts)}"
        )
    write_file(output, b"".join(part.read_bytes() for part in parts))


def _parts_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.part[0-9][0-9]"))


def main() -> None:
    """Join."""
    parser = argparse.ArgumentParser(description="Join the parts of a file.")
    parser.add_argument("first", type=Path, help="the first part, FILE.part00")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the whole file")
    args = parser.parse_args()
    join(args.first, args.output)
    print(args.output)


if __name__ == "__main__":
    main()
