"""What ComfyUI's samplers and schedulers make of our latents at few steps.

    PYTHON -m video_deblur.benchmarks.comfyui_samplers --comfyui DIR --steps 1 2 4

PYTHON is that of ComfyUI's environment, DIR its checkout. The stock KSampler, which refuses
none, restores a crop of the bundled clip `street`; the PSNR in dB is that of the decoded frames
against `euler` with `simple` at one step. What is far below the others still holds noise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from .comfyui_server import ComfyServer, ExecutionFailedError, make_base_directory

_CROP = {"width": 96, "height": 96, "x": 112, "y": 80}
_FRAMES = 4
_TIMEOUT_S = 600


def main() -> None:
    """Run every sampler and scheduler, or those named, and print a table."""
    parser = argparse.ArgumentParser(description="PSNR of ComfyUI's samplers at few steps.")
    parser.add_argument("--comfyui", type=Path, required=True, help="checkout of ComfyUI")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--samplers", nargs="*", help="default: all")
    parser.add_argument("--schedulers", nargs="*", help="default: all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(__file__).parents[1]
        server = ComfyServer(args.comfyui, make_base_directory(Path(folder), repository))
        try:
            server.start()
            samplers, schedulers = choices(server.object_info())
            rows = [(name, "simple") for name in args.samplers or samplers]
            rows += [("euler", name) for name in args.schedulers or schedulers]
            print(f"{'':32}" + "".join(f"{steps:>10}" for steps in args.steps))
            for sampler, scheduler in rows:
                figures = [_psnr(server, sampler, scheduler, steps) for steps in args.steps]
                print(f"{sampler + ', ' + scheduler:32}" + "".join(figures), flush=True)
        finally:
            server.stop()


def choices(object_info: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of KSampler's samplers and schedulers, of old and new ComfyUI."""
    required = object_info["KSampler"]["input"]["required"]
    found = []
    for name in ("sampler_name", "scheduler"):
        kind, options = (*required[name], {})[:2]
        found.append(list(kind if isinstance(kind, list) else options["options"]))
    return found[0], found[1]


def _psnr(server: ComfyServer, sampler: str, scheduler: str, steps: int) -> str:
    graph = comparison_graph(sampler, scheduler, steps)
    try:
        history = server.wait(server.queue(graph), _TIMEOUT_S)
    except ExecutionFailedError:
        return f"{'fails':>10}"
    (text,) = history["outputs"]["psnr"]["text"]
    return f"{float(text):10.1f}"


def comparison_graph(sampler: str, scheduler: str, steps: int) -> dict[str, Any]:
    """Return the API-format graph that measures one sampler against `euler`."""
    graph: dict[str, Any] = {}

    def add(name: str, kind: str, **inputs: Any) -> None:
        graph[name] = {"class_type": kind, "inputs": inputs}

    add("clip", "VideoDeblur_ExampleClip", clip="street")
    add("crop", "ImageCrop", image=["clip", 1], **_CROP)
    add("frames", "ImageFromBatch", image=["crop", 0], batch_index=0, length=_FRAMES)
    add(
        "loaded",
        "VideoDeblur_LoadCheckpoint",
        checkpoint="divd-tiny (bundled)",
        dtype="auto",
    )
    add("encoded", "VideoDeblur_EncodeFrames", encoder=["loaded", 2], frames=["frames", 0])
    runs = {"reference": ("euler", "simple", 1), "measured": (sampler, scheduler, steps)}
    for name, (each, levels, count) in runs.items():
        add(
            f"{name}_latent",
            "KSampler",
            model=["loaded", 0],
            positive=["encoded", 0],
            negative=["encoded", 1],
            latent_image=["encoded", 2],
            seed=0,
            steps=count,
            cfg=1.0,
            sampler_name=each,
            scheduler=levels,
            denoise=1.0,
        )
        add(
            name,
            "VideoDeblur_DecodeLatents",
            vae=["loaded", 1],
            latent=[f"{name}_latent", 0],
            strength=1.0,
            color_match=False,
            borrow=False,
        )
    add("compared", "VideoDeblur_MeasureRestoration", restored=["measured", 0])
    graph["compared"]["inputs"]["sharp"] = ["reference", 0]
    add("psnr", "PreviewAny", source=["compared", 0])
    return graph


if __name__ == "__main__":
    main()
