"""Image files as cameras and browsers make them, built from their parts."""

from __future__ import annotations

import io
import struct
import zlib

import av
import cv2
import numpy as np

TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}
"""By EXIF number: what makes a stored picture upright (EXIF 2.3, tag 274)."""


def picture(height: int = 40, width: int = 64) -> np.ndarray:
    """Four corners of other colours, RGB."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[: height // 2, : width // 2] = (220, 40, 40)
    pixels[: height // 2, width // 2 :] = (40, 200, 60)
    pixels[height // 2 :, : width // 2] = (40, 60, 210)
    return pixels


def encoded(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, codes[pixels.shape[2]]), options)
    assert done
    return data.tobytes()


def exif(orientation: int, order: str = "<", preview: bool = False) -> bytes:
    """An EXIF block: orientation, a maker's name, and the date in a directory of its own."""
    mark = b"II" if order == "<" else b"MM"
    after = 8 + 2 + 3 * 12 + 4
    entries = [
        (0x010F, 2, 8, after),
        (0x0112, 3, 1, struct.pack(f"{order}HH", orientation, 0)),
        (0x8769, 4, 1, after + 8),
    ]
    block = mark + struct.pack(f"{order}HIH", 42, 8, len(entries))
    for tag, kind, count, value in entries:
        packed = value if isinstance(value, bytes) else struct.pack(f"{order}I", value)
        block += struct.pack(f"{order}HHI", tag, kind, count) + packed
    following = after + 8 + 18 + 20 if preview else 0
    block += struct.pack(f"{order}I", following) + b"Tester\0\0"
    block += struct.pack(f"{order}HHHII", 1, 0x9003, 2, 20, after + 8 + 18)
    block += struct.pack(f"{order}I", 0) + b"2024:05:06 07:08:09\0"
    if preview:
        block += struct.pack(f"{order}HHHII", 1, 0x0103, 3, 1, 6) + bytes(4)
    return block


def profile(space: bytes = b"RGB ") -> bytes:
    """Something with the head of a colour profile; nobody looks further."""
    return struct.pack(">I4sI4s4s4s", 200, b"test", 0x04000000, b"mntr", space, b"XYZ ").ljust(
        200, b"\7"
    )


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(pixels: np.ndarray, exif: bytes = b"", icc: bytes = b"", dpi: int = 0) -> bytes:
    whole = cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    data = encoded(pixels, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98, *whole)
    assert data[2:4] == b"\xff\xe0"
    after = 4 + int.from_bytes(data[4:6], "big")
    head = data[:2] + segment(
        0xE0, struct.pack(">5sHBHHBB", b"JFIF\0", 0x102, 1, dpi, dpi, 0, 0)
    )
    if exif:
        head += segment(0xE1, b"Exif\0\0" + exif)
    half = len(icc) // 2
    for index, piece in enumerate((icc[:half], icc[half:]) if icc else ()):
        head += segment(0xE2, b"ICC_PROFILE\0" + bytes([index + 1, 2]) + piece)
    return head + data[after:]


def chunk(kind: bytes, contents: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + contents))
    return struct.pack(">I", len(contents)) + kind + contents + checksum


def chunks_of(png: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        contents = png[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + contents) == int.from_bytes(png[at + 8 + length :][:4], "big")
        found.setdefault(kind, contents)
        at += 12 + length
    return found


def png(pixels: np.ndarray, *chunks: bytes, behind: bytes = b"") -> bytes:
    data = encoded(pixels, ".png")
    return data[:33] + b"".join(chunks) + data[33:-12] + behind + data[-12:]


def webp(pixels: np.ndarray, exif: bytes = b"", icc: bytes = b"") -> bytes:
    height, width, channels = pixels.shape
    stored = encoded(pixels, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
    flags = (0x10 if channels == 4 else 0) | (8 if exif else 0) | (0x20 if icc else 0)
    parts = [riff(b"VP8X", bytes([flags, 0, 0, 0]) + _three(width - 1) + _three(height - 1))]
    parts += [riff(b"ICCP", icc)] if icc else []
    parts += [stored] + ([riff(b"EXIF", exif)] if exif else [])
    return riff(b"RIFF", b"WEBP" + b"".join(parts))


def webp_animation(size: tuple[int, int], frames: list[tuple]) -> bytes:
    """Frames are (pixels `[H, W, 4]`, x, y, ms, flags: 1 clears, 2 does not blend)."""
    height, width = size
    parts = [riff(b"VP8X", bytes([0x12, 0, 0, 0]) + _three(width - 1) + _three(height - 1))]
    parts.append(riff(b"ANIM", struct.pack("<IH", 0, 0)))
    for pixels, x, y, duration, flags in frames:
        stored = encoded(pixels, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)[12:]
        if stored.startswith(b"VP8X"):
            stored = stored[18:]
        numbers = (x // 2, y // 2, pixels.shape[1] - 1, pixels.shape[0] - 1, duration)
        head = b"".join(_three(number) for number in numbers) + bytes([flags])
        parts.append(riff(b"ANMF", head + stored))
    return riff(b"RIFF", b"WEBP" + b"".join(parts))


def riff(kind: bytes, contents: bytes) -> bytes:
    return kind + struct.pack("<I", len(contents)) + contents + b"\0" * (len(contents) % 2)


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


def tiff(
    pages: list[np.ndarray],
    orientation: int = 1,
    order: str = "<",
    icc: bytes = b"",
    more: tuple[tuple[int, int, int, bytes], ...] = (),
    smaller: tuple[int, ...] = (),
) -> bytes:
    """Uncompressed pages, RGB or RGBA; those in `smaller` say that they are previews."""
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 0)
    pointer = 4
    for index, pixels in enumerate(pages):
        height, width, channels = pixels.shape
        bits = 8 * pixels.dtype.itemsize
        samples = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        at = len(data)
        data += samples + b"\0" * (len(samples) % 2)

        def number(tag, kind, *values):
            form = {3: "H", 4: "I", 5: "II"}[kind]
            return (tag, kind, len(values), struct.pack(f"{order}{len(values)}{form}", *values))

        entries = [
            number(254, 4, int(index in smaller)),
            number(256, 4, width),
            number(257, 4, height),
            number(258, 3, *[bits] * channels),
            number(259, 3, 1),
            number(262, 3, 2),
            number(273, 4, at),
            number(274, 3, orientation),
            number(277, 3, channels),
            number(278, 4, height),
            number(279, 4, len(samples)),
            *([number(338, 3, 2)] if channels == 4 else []),
            *([(34675, 7, len(icc), icc)] if icc else []),
            *more,
        ]
        table = struct.pack(f"{order}H", len(entries))
        tail, after = b"", len(data) + 2 + 12 * len(entries) + 4
        for tag, kind, count, value in sorted(entries):
            table += struct.pack(f"{order}HHI", tag, kind, count)
            if len(value) <= 4:
                table += value.ljust(4, b"\0")
            else:
                table += struct.pack(f"{order}I", after + len(tail))
                tail += value + b"\0" * (len(value) % 2)
        start = struct.pack(f"{order}I", len(data))
        data = data[:pointer] + start + data[pointer + 4 :]
        pointer = len(data) + len(table)
        data += table + bytes(4) + tail
    return data


def coded(pixels: np.ndarray, encoder: str, pix_fmt: str = "yuv444p") -> tuple[bytes, bytes]:
    """Encode one picture; returns the setup of its decoder and its data, as in an mp4."""
    file = io.BytesIO()
    is_hevc = encoder == "libx265"
    options = {"x265-params": "log-level=none", "crf": "4"} if is_hevc else {"crf": "10"}
    with av.open(file, "w", format="hevc" if is_hevc else "mp4") as output:
        stream = output.add_stream(encoder, rate=1, options=options)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.color_range = 2
        stream.codec_context.colorspace = 6
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
        frame = frame.reformat(format=pix_fmt, dst_colorspace=5, dst_color_range=2)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    if is_hevc:
        return _hevc_parts(file.getvalue())
    at = file.getvalue().index(b"av1C")
    setup = file.getvalue()[at + 4 :][: int.from_bytes(file.getvalue()[at - 4 : at], "big") - 8]
    file.seek(0)
    with av.open(file) as source:
        return setup, b"".join(bytes(packet) for packet in source.demux() if packet.size)


def _hevc_parts(stream: bytes) -> tuple[bytes, bytes]:
    """Part a stream with start codes into parameter sets, as in a hvcC box, and pictures."""
    units = [u.rstrip(b"\0") for u in stream.split(b"\0\0\1")[1:]]
    setup, data, sets = bytes([1]) + bytes(20) + b"\3", b"", b""
    count = 0
    for unit in units:
        kind = unit[0] >> 1 & 63
        if kind in (32, 33, 34):
            sets += struct.pack(">BHH", 0x80 | kind, 1, len(unit)) + unit
            count += 1
        elif kind < 32:
            data += struct.pack(">I", len(unit)) + unit
    return setup + bytes([count]) + sets, data


def box(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I4s", len(body) + 8, kind) + body


def full_box(kind: bytes, version: int, flags: int, *contents: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


def heif(
    tiles: list[tuple[bytes, bytes]],
    tile_size: tuple[int, int],
    *,
    grid: tuple[int, int, int, int] | None = None,
    av1: bool = False,
    turned: tuple[bytes, ...] = (),
    icc: bytes = b"",
    exif: bytes = b"",
    alpha: tuple[bytes, bytes] | None = None,
) -> bytes:
    """A HEIF file.

    Args:
        tiles: Setup and data of each, as `coded` gives them.
        tile_size: Height and width.
        grid: Rows, columns, height and width of the whole; None: the only tile is the picture.
        av1: AVIF.
        turned: Boxes `irot` and `imir`, in the order in which they apply.
        icc: Colour profile.
        exif: EXIF block.
        alpha: A picture that says how opaque the whole is.
    """
    kind, setup = (b"av01", b"av1C") if av1 else (b"hvc1", b"hvcC")
    height, width = tile_size
    properties = [full_box(b"ispe", 0, 0, struct.pack(">II", width, height))]
    properties.append(box(setup, tiles[0][0]))
    whole = [1, 2]
    if grid:
        properties.append(full_box(b"ispe", 0, 0, struct.pack(">II", grid[3], grid[2])))
        whole = [3]
    for extra in (*turned, *([box(b"colr", b"prof" + icc)] if icc else [])):
        properties.append(extra)
        whole.append(len(properties))
    items = [(n, kind, [1, 2], data) for n, (_, data) in enumerate(tiles, 1)]
    primary, references = 1, b""
    inner = b""
    if grid:
        primary = len(items) + 1
        inner = struct.pack(">BBBBHH", 0, 0, grid[0] - 1, grid[1] - 1, grid[3], grid[2])
        items.append((primary, b"grid", whole, b""))
        numbers = [n for n, *_ in items[:-1]]
        references += box(
            b"dimg", struct.pack(f">HH{len(numbers)}H", primary, len(numbers), *numbers)
        )
    else:
        items[0] = (1, kind, whole, tiles[0][1])
    if exif:
        items.append((100, b"Exif", [], struct.pack(">I", 6) + b"Exif\0\0" + exif))
        references += box(b"cdsc", struct.pack(">HHH", 100, 1, primary))
    if alpha:
        properties.append(box(setup, alpha[0]))
        properties.append(
            full_box(b"auxC", 0, 0, b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
        )
        size = 3 if grid else 1
        items.append((101, kind, [size, len(properties) - 1, len(properties)], alpha[1]))
        references += box(b"auxl", struct.pack(">HHH", 101, 1, primary))
    head = box(b"ftyp", b"avif" if av1 else b"heic", bytes(4), b"mif1")

    def meta(start: int) -> bytes:
        places = b""
        for number, name, _, data in items:
            inside = name == b"grid"
            places += struct.pack(">HHHH", number, int(inside), 0, 1)
            places += struct.pack(">II", 0 if inside else start, len(inner if inside else data))
            start += len(data)
        entries = [
            full_box(b"infe", 2, 0, struct.pack(">HH", number, 0), name, b"\0")
            for number, name, *_ in items
        ]
        owned = b"".join(
            struct.pack(f">HB{len(own)}B", number, len(own), *own)
            for number, _, own, _ in items
        )
        return full_box(
            b"meta",
            0,
            0,
            full_box(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", 0, 0, struct.pack(">H", primary)),
            full_box(b"iinf", 0, 0, struct.pack(">H", len(items)), *entries),
            full_box(b"iloc", 1, 0, b"\x44\x00", struct.pack(">H", len(items)), places),
            *([full_box(b"iref", 0, 0, references)] if references else []),
            box(
                b"iprp",
                box(b"ipco", *properties),
                full_box(b"ipma", 0, 0, struct.pack(">I", len(items)), owned),
            ),
            *([box(b"idat", inner)] if inner else []),
        )

    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", *(data for *_, data in items))
