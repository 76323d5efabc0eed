"""Names of the hidden files beside an output: being written, locked, kept for later.

File systems take names of 255 bytes; an output may have nearly as many, so that what is added
around its name would be too much.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_MOST_BYTES = 200
"""Of the name of an output in that of a hidden file; the rest of 255 is for what is added."""
_HASH_DIGITS = 16


def hidden_stem(name: str) -> str:
    """Return the name of a file with a dot before it, cut where it is long.

    A hash keeps long names apart that begin alike.
    """
    data = os.fsencode(name)
    if len(data) <= _MOST_BYTES:
        return f".{name}"
    digest = hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]
    # Letters of several bytes are kept whole: not every file system takes half of one.
    kept = data[: _MOST_BYTES - _HASH_DIGITS - 1].decode("utf-8", "ignore")
    return f".{kept}-{digest}"


def hidden_sibling(path: Path, ending: str) -> Path:
    """Return the path of a hidden file beside another: `.NAME` and the ending."""
    return path.with_name(hidden_stem(path.name) + ending)


def leftovers(path: Path, suffix: str = "", *, source: object = None) -> list[Path]:
    """Return what killed runs left beside an output: `.NAME.part-PID` and the suffix.

    Other outputs may have names that begin so; what is hidden beside those is not found.

    Args:
        path: The output, or one without the suffix that its hidden files end with.
        suffix: What they end with, with the dot.
        source: The input, which may be such a rest, and is none then.
    """
    stem = re.escape(hidden_stem(path.name))
    pattern = re.compile(rf"{stem}\.part-[0-9]+{re.escape(suffix)}", re.DOTALL)
    found = [each for each in path.parent.iterdir() if pattern.fullmatch(each.name)]
    if not isinstance(source, str | Path) or not Path(source).exists():
        return found
    return [each for each in found if not (each.exists() and each.samefile(source))]
