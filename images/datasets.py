"""Paired sequences on disk: frames of the same names, blurry and sharp.

A data set is given as `KIND:PATH`:

    pairs:PATH         PATH/<sequence>/{blur,sharp}/<frame>, or input/ and GT/ as DVD has them
    gopro:PATH         GoPro as published: PATH/{train,test}/<sequence>/{blur,sharp}/<frame>
    gopro_gamma:PATH   the same with blur_gamma/ for the blurry frames
    dvd:PATH           DVD as published: PATH/quantitative_datasets/<sequence>/{input,GT}/...

GoPro regrouped as PATH/{train,test}/{blur,sharp|GT|gt}/<sequence>/<frame> is read too. What is
published is counted, so that half a download does not pass for the data set; a part of it, on
purpose, is what `pairs` is for: both published layouts fit it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .folders import is_frame, natural_key

SPLITS = ("train", "test")
"""Parts of the published data sets."""


@dataclass(frozen=True, kw_only=True)
class PairedSequence:
    """One sequence: frames of the same names, blurry and sharp."""

    name: str
    """Folder name."""
    blurry: tuple[Path, ...]
    """Files in order of time."""
    sharp: tuple[Path, ...]
    """The same names."""


def _lengths(table: str, prefix: str = "") -> dict[str, int]:
    words = table.split()
    return {prefix + n: int(count) for n, count in zip(words[::2], words[1::2], strict=True)}


_GOPRO = {
    "train": _lengths(
        """
        0372_07_00 100  0372_07_01 75  0374_11_00 150  0374_11_01 80  0374_11_02 100
        0374_11_03 48  0378_13_00 110  0379_11_00 100  0380_11_00 60  0384_11_01 100
        0384_11_02 100  0384_11_03 100  0384_11_04 100  0385_11_00 100  0386_11_00 100
        0477_11_00 80  0857_11_00 100  0868_11_01 100  0868_11_02 100  0871_11_01 100
        0881_11_00 100  0884_11_00 100
        """,
        prefix="GOPR",
    ),
    "test": _lengths(
        """
        0384_11_00 100  0384_11_05 100  0385_11_01 100  0396_11_00 100  0410_11_00 134
        0854_11_00 100  0862_11_00 77  0868_11_00 100  0869_11_00 100  0871_11_00 100
        0881_11_01 100
        """,
        prefix="GOPR",
    ),
}
_DVD = {
    "train": _lengths(
        """
        720p_240fps_1 100  720p_240fps_3 100  720p_240fps_5 100  720p_240fps_6 100  C0036 63
        C0041 229  GOPR9633 35  GOPR9636 48  GOPR9641 137  GOPR9642 83  GOPR9643 97
        GOPR9645 65  GOPR9648 88  GOPR9652 71  IMG_0001 100  IMG_0004 100  IMG_0005 100
        IMG_0008 100  IMG_0009 41  IMG_0010 100  IMG_0011 100  IMG_0012 100  IMG_0013 100
        IMG_0014 100  IMG_0015 100  IMG_0017 100  IMG_0019 100  IMG_0022 100  IMG_0023 100
        IMG_0024 100  IMG_0025 100  IMG_0026 100  IMG_0028 100  IMG_0029 100  IMG_0034 100
        IMG_0035 100  IMG_0036 100  IMG_0038 100  IMG_0040 100  IMG_0041 100  IMG_0042 100
        IMG_0043 100  IMG_0044 100  IMG_0045 61  IMG_0046 100  IMG_0047 100  IMG_0051 100
        IMG_0053 100  IMG_0054 100  IMG_0055 100  IMG_0056 100  IMG_0058 100  IMG_0150 50
        IMG_0151 60  IMG_0153 120  IMG_0155 78  IMG_0164 46  IMG_0173 70  IMG_0180 50
        IMG_0183 113  IMG_0200 103
        """
    ),
    "test": _lengths(
        """
        720p_240fps_2 100  IMG_0003 100  IMG_0021 100  IMG_0030 100  IMG_0031 100
        IMG_0032 100  IMG_0033 100  IMG_0037 100  IMG_0039 100  IMG_0049 100
        """
    ),
}
PUBLISHED = {"gopro": _GOPRO, "gopro_gamma": _GOPRO, "dvd": _DVD}
"""Frames per sequence, by kind and split: 2103 and 1111 of GoPro, 5708 and 1000 of DVD."""

KINDS = ("pairs", *PUBLISHED)
"""What a specification may start with."""

_PAIR_FOLDERS = (("blur", "sharp"), ("input", "GT"))
_SHARP_FOLDERS = ("sharp", "GT", "gt")
_LAYOUTS = {
    "pairs": "PATH/<sequence>/blur and PATH/<sequence>/sharp",
    "gopro": "PATH/train/<sequence>/blur and sharp",
    "gopro_gamma": "PATH/train/<sequence>/blur_gamma and sharp",
    "dvd": "PATH/quantitative_datasets/<sequence>/input and GT",
}


def load_dataset(spec: str, split: str | None = None) -> list[PairedSequence]:
    """List the sequences of `KIND:PATH`, in order of their names.

    Frames are matched by name. Sizes and contents of the files are not looked at.

    Args:
        spec: Kind and folder.
        split: "train" or "test" of what is published in two parts, None for both; `pairs` is
            one part whatever is asked for.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the kind is unknown, frames do not pair up, or a published sequence is
            missing or has another number of frames.
    """
    kind, separator, path = spec.partition(":")
    if not separator or kind not in KINDS or not path:
        *others, last = (f"{known}:PATH" for known in KINDS)
        raise ValueError(
            f"dataset must be given as {', '.join(others)} or {last}, got {spec!r}"
        )
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    # A shell leaves the "~" of "pairs:~/data" as it is.
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such dataset folder")
    if not _holds(kind, root):
        raise ValueError(
            f"{root}: holds no sequence of {kind!r}, expected {_LAYOUTS[kind]}"
            f"{_suggestion(kind, root)}"
        )
    if kind == "pairs":
        return _load_pairs(root)
    sequences = []
    for part in SPLITS if split is None else (split,):
        for name, num_frames in sorted(PUBLISHED[kind][part].items()):
            folders = _published_folders(kind, root, part, name)
            sequences.append(_published_sequence(name, folders, num_frames, spec))
    return sequences


def _holds(kind: str, root: Path) -> bool:
    """Tell whether a folder holds any sequence of a kind, complete or not."""
    if kind == "pairs":
        folders = (folder for folder in root.iterdir() if folder.is_dir())
        return any((f / n).is_dir() for f in folders for names in _PAIR_FOLDERS for n in names)
    if kind == "dvd":
        folders = [root / "quantitative_datasets"]
    else:
        parts = [root / split for split in SPLITS]
        grouped = ("blur", "blur_gamma", *_SHARP_FOLDERS)
        folders = [*parts, *(part / name for part in parts for name in grouped)]
    names = [name for split in SPLITS for name in PUBLISHED[kind][split]]
    return any((folder / name).is_dir() for folder in folders for name in names)


def _suggestion(kind: str, root: Path) -> str:
    """Name a folder around here that would do, of this kind or of another."""
    here = root.resolve()
    inside = sorted(folder for folder in here.iterdir() if folder.is_dir())
    nearby = (*inside, *here.parents[:2])
    # Any of what is published fits `pairs` as well, at the wrong level.
    places = [(other, here) for other in PUBLISHED]
    places += [(other, folder) for other in (kind, *PUBLISHED) for folder in nearby]
    places += [("pairs", folder) for folder in (here, *nearby)]
    for other, folder in places:
        # What lies beside this folder need not be readable.
        with suppress(OSError):
            if _holds(other, folder):
                return f"; did you mean {other}:{folder}?"
    return ""


def _load_pairs(root: Path) -> list[PairedSequence]:
    sequences = []
    for folder in sorted(root.iterdir()):
        pairs = [[folder / name for name in names] for names in _PAIR_FOLDERS]
        found = [pair for pair in pairs if any(part.is_dir() for part in pair)]
        if found:
            blurry, sharp = max(found, key=lambda pair: pair[0].is_dir())
            for part in (blurry, sharp):
                if not part.is_dir():
                    raise ValueError(f"{part}: is missing; add it, or move {folder} elsewhere")
            sequences.append(_sequence(folder.name, blurry, sharp))
    return sequences


def _published_folders(kind: str, root: Path, split: str, name: str) -> tuple[Path, Path]:
    """Return where the blurry and the sharp frames of a sequence should be."""
    if kind == "dvd":
        sequence = root / "quantitative_datasets" / name
        return sequence / "input", sequence / "GT"
    variant = "blur_gamma" if kind == "gopro_gamma" else "blur"
    regrouped = root / split / variant
    if not regrouped.is_dir():
        return root / split / name / variant, root / split / name / "sharp"
    for folder in _SHARP_FOLDERS:
        if (root / split / folder).is_dir():
            return regrouped / name, root / split / folder / name
    raise ValueError(f"{root / split}: no folder sharp, GT or gt beside {variant}")


def _published_sequence(
    name: str, folders: tuple[Path, Path], num_frames: int, spec: str
) -> PairedSequence:
    advice = (
        f"{spec} must be complete: unpack the download again, or name a part of it as "
        "pairs:PATH"
    )
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: sequence {name} is missing here. {advice}")
    sequence = _sequence(name, *folders)
    if len(sequence.blurry) != num_frames:
        raise ValueError(
            f"{folders[0]}: holds {len(sequence.blurry)} frames of the {num_frames} of "
            f"sequence {name}. {advice}"
        )
    return sequence


def _sequence(name: str, blurry_folder: Path, sharp_folder: Path) -> PairedSequence:
    blurry, sharp = frames_by_name(blurry_folder), frames_by_name(sharp_folder)
    unpaired = sorted(set(blurry) ^ set(sharp), key=natural_key)
    if unpaired:
        parent = Path(os.path.commonpath([blurry_folder, sharp_folder]))
        one, other = (f.relative_to(parent).as_posix() for f in (blurry_folder, sharp_folder))
        raise ValueError(
            f"{parent}: frame {unpaired[0]} is in only one of {one}/ and {other}/ "
            f"({len(unpaired)} such names); every frame needs its partner: add what is missing "
            "or remove the rest"
        )
    if not blurry:
        raise ValueError(f"{blurry_folder}: holds no images")
    names = sorted(blurry, key=natural_key)
    return PairedSequence(
        name=name,
        blurry=tuple(blurry[frame] for frame in names),
        sharp=tuple(sharp[frame] for frame in names),
    )


def frames_by_name(folder: Path) -> dict[str, Path]:
    """List the images of a folder by their names without suffix; none if there is no folder.

    Raises:
        ValueError: If two have one name.
    """
    images: dict[str, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not is_frame(file):
            continue
        other = images.setdefault(file.stem, file)
        if other != file:
            raise ValueError(f"{folder}: {other.name} and {file.name} are one frame twice")
    return images
