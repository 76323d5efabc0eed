"""What papers report on GoPro and DVD, as printed, to put results beside.

The rows are those of Wang & Long, "Deblurring via Video Diffusion Models", tables 1 and 2. It
does not say how frames were rounded, cropped or averaged. Most of its rows of other methods
equal those that VRT and RVRT print; not SRN on GoPro (30.26 and 0.9342 in VRT) and the SSIM of
STFAN on DVD (0.9340). Misprints are marked and say what must be meant.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One method's figures on one data set."""

    method: str
    """As the paper calls it."""
    psnr: float
    """In dB."""
    ssim: float
    lpips: float | None = None
    """What is meant; None where none is printed."""
    printed_lpips: str = ""
    """What is printed, where that cannot be meant."""
    note: str = ""
    """What makes the row questionable, or where else it comes from."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """The rows of one data set."""

    title: str
    source: str
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]
    """What holds of the table as a whole."""


_PAPER = 'Wang & Long, "Deblurring via Video Diffusion Models"'
_PROTOCOL = (
    "the paper states no protocol (rounding, border, averaging): figures compare to about "
    "0.1 dB at best"
)
_SSIM_ARROW = "the arrow at SSIM points down in print; higher is better"
_PER_SCENE = "a per-scene optimisation: how the row was made is not said"


TABLES = {
    "gopro": PublishedTable(
        title="GoPro",
        source=f"{_PAPER}, table 1",
        rows=(
            PublishedRow(method="STFAN", psnr=28.59, ssim=0.86, lpips=0.20),
            PublishedRow(method="SRN", psnr=30.61, ssim=0.90, lpips=0.16),
            PublishedRow(method="EDVR", psnr=31.54, ssim=0.93, lpips=0.10),
            PublishedRow(method="PVDNet", psnr=31.52, ssim=0.92, lpips=0.12),
            PublishedRow(
                method="Deblur-NeRF", psnr=31.89, ssim=0.93, lpips=0.10, note=_PER_SCENE
            ),
            PublishedRow(
                method="Wang & Long",
                psnr=32.22,
                ssim=0.95,
                lpips=0.07,
                note="the text says 0.43 dB over Deblur-NeRF; the table gives 0.33",
            ),
        ),
        notes=(_PROTOCOL, _SSIM_ARROW),
    ),
    "dvd": PublishedTable(
        title="DVD",
        source=f"{_PAPER}, table 2",
        rows=(
            PublishedRow(method="STFAN", psnr=31.24, ssim=0.92, lpips=0.11),
            PublishedRow(method="SRN", psnr=30.53, ssim=0.89, lpips=0.14),
            PublishedRow(method="EDVR", psnr=31.82, ssim=0.92, lpips=0.09, printed_lpips="0.9"),
            PublishedRow(
                method="PVDNet", psnr=32.31, ssim=0.93, lpips=0.09, printed_lpips="0.9"
            ),
            PublishedRow(
                method="Deblur-NeRF",
                psnr=32.29,
                ssim=0.92,
                lpips=0.08,
                printed_lpips="0.8",
                note=f"{_PER_SCENE}; the runner-up is PVDNet, not this",
            ),
            PublishedRow(method="Wang & Long", psnr=32.59, ssim=0.93, lpips=0.06),
            PublishedRow(
                method="DBLRNet",
                psnr=30.08,
                ssim=0.8845,
                note="from VRT's table 2, not this one",
            ),
        ),
        notes=(_PROTOCOL, _SSIM_ARROW),
    ),
}
"""By the name that `evaluate --report-table` takes."""


def find_table(name: str) -> PublishedTable:
    """Return a table by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in TABLES:
        raise ValueError(f"report table must be one of {', '.join(TABLES)}, got {name!r}")
    return TABLES[name]
