"""Peak memory and time per frame of CPGD-Net, the first stage alone and both.

    python -m video_deblur.benchmarks.clip_network --data CLIP.mp4

Each size, network and dtype is a process of its own, on one thread. Memory is what the process
holds beyond the loaded network; time is the process's own, with the priors, which are timed by
themselves too. Weights are random: neither depends on them. Frames do not borrow.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import torch

from ..models import inference_layers
from ..models.cpgd import Cpgd
from ..models.cpgd_config import CpcConfig, CpgdConfig
from ..models.hardware import DTYPES
from ..restoration.clip import ClipRestorer
from ..restoration.settings import preset_settings
from ..restoration.streaming.stream import restore_stream
from ..training.presets import CPGD_TINY, PRESETS, TINY_MODEL
from ..video.coding_priors import encoded_priors
from .clips import looped, parse_size, read_frames


def _both_stages() -> CpgdConfig:
    """Return the preset's networks; the second stage has the size of the bundled one's."""
    stage = PRESETS["cpgd-tiny"].cpc
    assert stage is not None
    assert stage.image_encoder is not None
    divd = dataclasses.replace(TINY_MODEL, image_encoder=stage.image_encoder)
    cpc = CpcConfig(divd=divd, control_channels=stage.control_channels)
    return dataclasses.replace(CPGD_TINY, cpc=cpc)


NETWORKS: dict[str, CpgdConfig] = {"first stage": CPGD_TINY, "both stages": _both_stages()}
"""Those that `video-deblur train cpgd-tiny` makes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Memory and time of CPGD-Net.")
    parser.add_argument("--data", required=True, help="a video, enlarged to each size")
    parser.add_argument("--sizes", nargs="+", default=["640x360", "1280x720"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--frames", type=int, default=24, help="24 are a window")
    parser.add_argument("--tile", type=int, default=0, help="pixels; 0: the checkpoint's")
    parser.add_argument("--run-one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_one:
        size, network, dtype = args.run_one
        result = run_one(args.data, size, network, dtype, args.frames, args.tile)
        print(json.dumps(result))
        return
    print("| frames | network | dtype | memory | time per frame | of it priors |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        for network in args.networks:
            for dtype in args.dtypes:
                result = _in_a_process(args, size, network, dtype)
                print(
                    f"| {size} | {network} | {dtype} | {result['added_mib']:.0f} MiB | "
                    f"{result['frame_s']:.2f} s | {1000 * result['priors_s']:.0f} ms |",
                    flush=True,
                )


def _in_a_process(args: Any, size: str, network: str, dtype: str) -> dict[str, float]:
    command = [sys.executable, "-m", "video_deblur.benchmarks.clip_network"]
    command += ["--data", args.data, "--frames", str(args.frames), "--tile", str(args.tile)]
    command += ["--run-one", size, network, dtype]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_one(
    path: str, size: str, name: str, dtype: str, num_frames: int, tile: int
) -> dict[str, float]:
    """Restore a clip, and find its priors once more.

    Args:
        path: A video.
        size: To enlarge it to, as "640x360".
        name: One of `NETWORKS`.
        dtype: One of `DTYPES`.
        num_frames: As long as it is made.
        tile: Pixels of a side; 0: as the network says.

    Returns:
        `added_mib` beyond the network, and seconds per frame: `frame_s`, `priors_s`.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    network = Cpgd(NETWORKS[name], operations=inference_layers)
    for module in network.modules():
        # Else zeros at the end of blocks would be multiplied faster.
        if isinstance(module, torch.nn.Conv2d) and not bool(module.weight.any()):
            torch.nn.init.normal_(module.weight, std=0.01)
    engine = ClipRestorer(network.eval().requires_grad_(False), "cpu", DTYPES[dtype])
    settings = dataclasses.replace(
        preset_settings(engine.config, "fast"), borrow=False, scene_cuts=False, tile=tile
    )
    small = read_frames(path, 640, 360, num_frames)
    # Every code path once, so that what libraries allocate for good does not count.
    list(restore_stream([frame[:64, :96] for frame in small[:2]], engine, settings))
    before, started = _peak_mib(), time.process_time()
    clip = (cv2.resize(frame, parse_size(size)) for frame in looped(small, num_frames))
    count = sum(int(np.any(frame)) for frame in restore_stream(clip, engine, settings))
    frame_s, added_mib = (time.process_time() - started) / count, _peak_mib() - before
    frames = [cv2.resize(frame, parse_size(size)) for frame in small[:8]]
    started = time.process_time()
    found = sum(1 for _ in encoded_priors(frames))
    priors_s = (time.process_time() - started) / found
    return {"added_mib": added_mib, "frame_s": frame_s, "priors_s": priors_s}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
