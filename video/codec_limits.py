"""What of a source's pictures a codec does not keep, for the user."""

from __future__ import annotations

from .codecs import CODECS, codec_named, codes_fields
from .info import VideoInfo


def not_kept(info: VideoInfo, codec: str) -> list[str]:
    """Return one line for each thing that is lost, which names the codecs that keep it.

    Args:
        info: Of the source.
        codec: A name of `codecs.CODECS`.
    """
    lines = []
    chosen = codec_named(codec)
    if info.has_alpha and not chosen.alpha:
        others = _listed([name for name, each in CODECS.items() if each.alpha])
        lines.append(f"transparency is dropped, {codec} cannot store it ({others} can)")
    if (info.color.hdr or info.hdr) and chosen.max_depth <= 8:
        others = _listed([name for name, each in CODECS.items() if each.max_depth > 8])
        lines.append(
            f"{info.color.hdr or 'HDR'} is stored with 8 bits and without the data of its "
            f"mastering display by {codec}, choose {others} to keep them"
        )
    if info.fields:
        lines.append(_interlaced(info, codec))
    if info.dynamic_hdr:
        lines.append(f"the metadata of each frame ({_listed(info.dynamic_hdr)}) is dropped")
    return lines


def _interlaced(info: VideoInfo, codec: str) -> str:
    if codes_fields(codec, info.height):
        flags = "and keeps its field flags"
    else:
        flags = (
            f"and {codec} keeps its field flags in the container alone, which few players "
            "follow (ffv1 and prores keep them)"
        )
    return (
        f"is interlaced ({info.fields} field first): it is restored as whole frames {flags}; "
        "--deinterlace field makes a frame of every field, --deinterlace frame of every frame"
    )


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} or {names[-1]}"
