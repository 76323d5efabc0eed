"""The checkpoints that come along. Imports no torch, so that a command line can name them."""

from __future__ import annotations

from pathlib import Path

BUNDLED = {
    name: Path(__file__).parent / "weights" / f"{name}.safetensors"
    for name in ("cpgd-tiny", "divd-tiny", "dblrnet", "dblrgan")
}
"""Their files, by name."""

DEFAULT = "cpgd-tiny"
"""The one that is used where none is named."""

DEFAULT_DIFFUSION = "divd-tiny"
"""The same where a diffusion model is needed, as for samplers."""


def label_of(name: str) -> str:
    """Return what a bundled checkpoint is called in lists, among files of the user."""
    return f"{name} (bundled)"


def find_bundled(name: str) -> Path | None:
    """Return the file of a bundled checkpoint, named by its name or label; None: of none.

    Raises:
        FileNotFoundError: If it should be there and is not.
    """
    bare = name.removesuffix(label_of(""))
    path = BUNDLED.get(bare)
    if path is not None and not path.is_file():
        raise FileNotFoundError(
            f"{path}: the bundled checkpoint {bare} is missing. Install the extension again, "
            f"or choose another one."
        )
    return path
