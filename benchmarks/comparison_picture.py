"""Put crops of several methods beside each other: rows are sequences, columns methods.

    video-deblur evaluate --dataset pairs:DEV --save RESULTS/default
    python -m video_deblur.benchmarks.comparison_picture --dataset pairs:DEV \
        --pred "Video Deblur=RESULTS/default" --pred DBLRNet=RUN/restored --out FILE.jpg

Every row shows the crop with the largest error in the blurry frames, or with `--median-frame`
in the one whose error is the median, so that no method's results choose what is seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..evaluation.crops import telling_crops
from ..evaluation.report import read_predictions
from ..images.datasets import PairedSequence, load_dataset
from ..images.folders import read_image

_CELL = 256
"""Side of a crop in the picture, in pixels."""
_BAR = 26
"""Height of the titles."""
_GAP = 4


def comparison(
    sequences: Sequence[PairedSequence],
    preds: Mapping[str, str | Path],
    *,
    median_frame: bool = False,
) -> np.ndarray:
    """Draw the picture.

    Args:
        sequences: One per row.
        preds: From titles to folders of results, `<folder>/<sequence>/<frame>`.
        median_frame: Show the frame whose blurry picture has the median error (of an even
            number the larger), instead of the one with the crop that is blurred most.

    Returns:
        uint8 `[H, W, 3]` RGB.

    Raises:
        FileNotFoundError: If a result is missing.
    """
    rows = []
    for sequence in sequences:
        blurry, sharp = (
            np.stack([read_image(path)[..., :3] for path in paths])
            for paths in (sequence.blurry, sequence.sharp)
        )
        clips = {"blurry": blurry}
        clips.update((title, read_predictions(f, sequence)) for title, f in preds.items())
        clips["sharp"] = sharp
        if median_frame:
            errors = [
                np.mean((a.astype(int) - b) ** 2) for a, b in zip(blurry, sharp, strict=True)
            ]
            index = int(np.argsort(errors)[len(errors) // 2])
            clips = {title: clip[index : index + 1] for title, clip in clips.items()}
        crop, _ = telling_crops(clips["blurry"], clips["blurry"], clips["sharp"])
        cells = [_cell(crop.of(clip)) for clip in clips.values()]
        if not rows:
            rows.append(np.concatenate([_title(title) for title in clips], axis=1))
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)


def _cell(pixels: np.ndarray) -> np.ndarray:
    side = _CELL - _GAP
    grown = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
    return np.pad(grown, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


def _title(text: str) -> np.ndarray:
    bar = np.full((_BAR, _CELL, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(bar, text, (4, 19), font, 0.55, (0, 0, 0), 1, cv2.LINE_AA)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Draw crops of several methods.")
    parser.add_argument("--dataset", required=True, metavar="KIND:PATH")
    parser.add_argument("--pred", action="append", required=True, metavar="TITLE=FOLDER")
    parser.add_argument("--sequences", nargs="+", help="names; all if left out")
    parser.add_argument(
        "--median-frame",
        action="store_true",
        help="of the frame with the median error, not of the one that is blurred most",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help=".jpg or .png")
    args = parser.parse_args()
    known = {s.name: s for s in load_dataset(args.dataset, "test")}
    names = args.sequences or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no sequences {', '.join(unknown)}; there are {', '.join(known)}")
    if wrong := [pred for pred in args.pred if "=" not in pred]:
        parser.error(f"--pred {wrong[0]}: expected TITLE=FOLDER")
    preds = dict(pred.split("=", 1) for pred in args.pred)
    picture = comparison([known[name] for name in names], preds, median_frame=args.median_frame)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88]
    if not cv2.imwrite(args.out, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality):
        raise SystemExit(f"{args.out}: could not be written")


if __name__ == "__main__":
    main()
