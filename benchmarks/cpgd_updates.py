"""Time the updates of CPGD-Net's stages: losses and gradients of one batch of `cpgd-tiny`.

    python -m video_deblur.benchmarks.cpgd_updates [--runs 5]

On one thread in float32; processor time, medians, so that what else runs on the machine counts
little. Clips are random: what they show changes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models.checkpoint import load_model
from ..models.cpgd import Cpgd
from ..training.config import DataConfig
from ..training.cpgd_stages import CpcTraining, CpfpTraining, priors_of_clips
from ..training.presets import CPGD_TINY, PRESETS
from ..training.stages import draw
from ..training.start import with_second_stage


def timed(compute: Callable[[], object], runs: int) -> float:
    """Return the median of the processor time that a computation takes, in seconds."""
    compute()
    times = []
    for _ in range(runs):
        before = time.process_time()
        compute()
        times.append(time.process_time() - before)
    return statistics.median(times)


def update_times(runs: int, clips: DataConfig | None = None) -> dict[str, float]:
    """Return seconds per update by stage and what it trains; None: clips of the preset."""
    first, second = PRESETS["cpgd-tiny"].cpfp, PRESETS["cpgd-tiny"].cpc
    assert first is not None
    assert second is not None
    data, generator = clips or second.data, torch.Generator().manual_seed(0)
    size = (data.num_frames, data.crop, data.crop)
    shape = (data.clips_per_batch, 3, *size)
    blurry, sharp = torch.rand(2, *shape, generator=generator) * 2 - 1
    priors = priors_of_clips(blurry, CPGD_TINY)
    found = {"priors": timed(lambda: priors_of_clips(blurry, CPGD_TINY), runs)}

    def update(module: nn.Module, *arguments: object) -> None:
        loss: Tensor = module(*arguments)["loss"]
        loss.mean().backward()
        module.zero_grad()

    module = CpfpTraining(Cpgd(CPGD_TINY), first)
    found["cpfp"] = timed(lambda: update(module, blurry, sharp, priors), runs)
    divd = load_model("divd-tiny", operations=nn)
    for name, trains in (("cpc", second.trains), ("cpc, branch alone", ("cpc.control.",))):
        stage = dataclasses.replace(second, trains=trains)
        network = with_second_stage(Cpgd(CPGD_TINY), divd, stage, seed=0)
        generators = [torch.Generator().manual_seed(i) for i in range(len(blurry))]
        draws = draw(stage, divd.config, size, 0.0, generators)
        training = CpcTraining(network, stage)
        found[name] = timed(
            lambda t=training, d=draws: update(t, blurry, sharp, priors, d), runs
        )
    return found


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description="Time updates of CPGD-Net's stages.")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, seconds in update_times(args.runs).items():
        print(f"{name:20} {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
