"""What kind an input is, and which ends go with it and the name of its output."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Literal

from ..images.facts import ImageFacts, image_facts
from ..images.folders import SUFFIXES, FrameFolder
from ..video.codecs import FORMATS, container_for
from ..video.output_place import check_place
from .ends import Ends
from .image_ends import FolderEnds, ImageEnds, writes_video

Kind = Literal["folder", "image", "animation", "video"]

ANIMATION_SUFFIXES = (".gif", ".apng")
"""Beside `SUFFIXES`, whose files may hold several pictures as well."""
_FILE_SUFFIXES = {*SUFFIXES, *ANIMATION_SUFFIXES, ".avi", ".webm", ".m4v", ".mpg", ".wmv"}
"""A folder is hardly meant to be called so."""
_MOST_FPS = 1000
_MOST_TICKS = 1_000_000
"""Numerator of a rate: time is counted in such parts of a second, in numbers of 31 bits."""
_VIDEO_NAMES = ", ".join(FORMATS)


def make_ends(
    source: str | Path,
    output: str | Path,
    codec: str = "h264",
    crf: int | None = None,
    *,
    audio: str = "copy",
    deinterlace: str = "off",
    fps: Fraction | None = None,
) -> Ends:
    """Return the ends for what lies at `source`.

    Args:
        source: File or folder.
        output: Its name says what it becomes: a video, a PNG, a folder of PNGs. As text, with
            a slash at its end, it is a folder, whatever it is called.
        codec: Of a video.
        crf: Of a video.
        audio: What becomes of a video's sound: "copy", "encode" or "drop".
        deinterlace: What becomes of a video's fields: one of `video.fields.DEINTERLACE`.
        fps: Frames per second of what has no times; None: 25, with a warning.

    Raises:
        FileNotFoundError, ValueError: If input or output cannot be used, or do not go together.
    """
    source, name, output = Path(source), str(output), Path(output)
    kind, facts = input_kind(source)
    check_place(output)
    is_folder = name.endswith(("/", os.sep)) or output.is_dir() or not output.suffix
    has_pages = kind == "animation" and facts is not None and facts.kind == "TIFF"
    is_video = writes_video(output) and not is_folder
    takes_fps = (kind == "folder" or has_pages) and is_video
    if fps is not None and not takes_fps:
        raise ValueError(
            f"{source}: --fps is for a folder of images, or a TIFF, that becomes a video; "
            "leave it out"
        )
    if fps is not None and not 0 < fps <= _MOST_FPS:
        raise ValueError(f"fps must be above 0 and at most {_MOST_FPS}, got {fps}")
    if fps is not None and fps.numerator > _MOST_TICKS:
        raise ValueError(
            f"fps {fps} is no rate that files can store, expected one such as 24000/1001"
        )
    if kind == "image":
        return ImageEnds(source, output)
    if kind == "folder" and not is_video:
        if not is_folder and output.suffix.lower() in _FILE_SUFFIXES:
            raise ValueError(f"{output}: {_instead(source, None)}")
        return FolderEnds(source, output)
    # Not before: images that become images need no PyAV.
    from .clip_ends import ClipToFolderEnds, ClipToVideoEnds
    from .video_ends import VideoEnds

    if kind == "folder":
        return ClipToVideoEnds(source, output, codec, crf, fps=fps)
    if is_folder:
        return ClipToFolderEnds(source, output, deinterlace)
    if kind == "animation" and is_video:
        return ClipToVideoEnds(source, output, codec, crf, fps=fps)
    if kind == "animation" or output.suffix.lower() in (*SUFFIXES, *ANIMATION_SUFFIXES):
        pictures = facts if kind == "animation" else None
        raise ValueError(f"{output}: {_instead(source, pictures)}")
    return VideoEnds(source, output, codec, crf, audio, deinterlace)


def output_name(
    source: Path, codec: str, audio: str = "copy", deinterlace: str = "off"
) -> tuple[str, int | None, bool]:
    """Return the name of an input's output in a batch, how many frames it says, if a folder.

    Raises:
        FileNotFoundError, ValueError: If the input cannot be used.
    """
    kind, facts = input_kind(source)
    if kind == "folder":
        return source.resolve().name, len(FrameFolder(source)), True
    if kind == "image":
        return f"{source.stem}.png", 1, False
    if facts is not None and facts.kind == "TIFF":
        # Pages have no times that a video would need.
        return source.stem, facts.num_pictures, True
    from .clip_ends import open_clip

    with open_clip(source, deinterlace) as reader:
        copied = reader.info.audio_codecs if audio == "copy" else ()
        suffix = container_for(copied, codec)
        return f"{source.stem}{suffix}", reader.info.num_frames, False


def input_kind(source: Path) -> tuple[Kind, ImageFacts | None]:
    """Return what an input is, and what its headers say if it is an image file.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it is neither, or a damaged image.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if source.is_dir():
        return "folder", None
    if not source.is_file():
        raise ValueError(
            f"{source}: is a pipe or a device, and an input is read more than once; save it as "
            "a file first"
        )
    if source.suffix.lower() not in (*SUFFIXES, *ANIMATION_SUFFIXES):
        return "video", None
    facts = image_facts(source)
    if facts is None or facts.num_pictures == 1:
        return "image", facts
    return ("video" if facts.kind == "image sequence" else "animation"), facts


def _instead(source: Path, facts: ImageFacts | None) -> str:
    """Return what an output can be called that cannot be one image."""
    what = "is a folder" if source.is_dir() else "is a video"
    if facts is not None:
        what = f"holds {facts.num_pictures} pictures"
    return f"{source} {what}; name a video ({_VIDEO_NAMES}) or a folder for PNGs as the output"
