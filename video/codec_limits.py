"""What of a source's pictures a codec does not keep, for the user."""

from __future__ import annotations

from .codecs import CODECS, codec_named, codes_fields, pixel_format
from .color import chroma_sampling
from .color_tags import is_rgb
from .info import VideoInfo

_SAMPLINGS = {
    (1, 1): "4:4:4",
    (1, 2): "4:4:0",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (4, 1): "4:1:1",
    (4, 4): "4:1:0",
}
"""Names, by pixels across and down that share a colour."""


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
    elif info.bit_depth > chosen.max_depth:
        others = [name for name, each in CODECS.items() if each.max_depth > chosen.max_depth]
        keep = "keeps" if len(others) == 1 else "keep"
        lines.append(
            f"its {info.bit_depth} bits per colour become {chosen.max_depth}, the most that "
            f"{codec} stores ({_listed(others)} {keep} more)"
        )
    if _loses_colour_detail(info, codec):
        keep = [name for name in CODECS if not _loses_colour_detail(info, name)]
        lines.append(
            f"its colours are as fine as {_sampling(info.pix_fmt)} has them and become "
            f"{_sampling(_stored(info, codec))}, coarser, in {codec} "
            f"({_listed(keep)} {'keeps' if len(keep) == 1 else 'keep'} them)"
        )
    if not info.color.has_known_matrix and (chosen.rgb or codec == "prores"):
        lines.append(
            f"its colours will be wrong: {codec} cannot store the colour matrix "
            f"{info.color.space} (YCgCo, ICtCp and the like), h264 and h265 keep it"
        )
    if info.fields:
        lines.append(_interlaced(info, codec))
    if info.dynamic_hdr:
        lines.append(f"the metadata of each frame ({_listed(info.dynamic_hdr)}) is dropped")
    if info.views:
        lines.append(
            f"that it is a {' '.join(info.views)} video is not kept: players show it flat "
            "until a program that writes such metadata has added it again"
        )
    return lines


def _loses_colour_detail(info: VideoInfo, codec: str) -> bool:
    """Tell whether a codec stores fewer samples of colour than the source has."""
    # What photos hold is not looked at: most are JPEGs, whose colours are as coarse.
    source = None if info.codec == "images" else chroma_sampling(info.pix_fmt)
    stored = chroma_sampling(_stored(info, codec))
    if source is None or stored is None:
        return False
    return any(before < after for before, after in zip(source, stored, strict=True))


def _stored(info: VideoInfo, codec: str) -> str:
    """Return the pixel format that a codec stores a source in."""
    alpha = info.has_alpha and codec_named(codec).alpha
    return pixel_format(codec, info.width, info.height, info.bit_depth, alpha)


def _sampling(pix_fmt: str) -> str:
    if is_rgb(pix_fmt):
        return "RGB"
    return _SAMPLINGS.get(chroma_sampling(pix_fmt) or (1, 1), pix_fmt)


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
