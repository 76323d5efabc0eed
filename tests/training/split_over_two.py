"""Training with FSDP on the processes of a CPU, which accelerate offers on GPUs alone.

    torchrun --nproc-per-node 2 split_over_two.py CONFIG DATA PAIRS INIT FOLDER

Trains a preset into FOLDER/whole, then from an early state of it into FOLDER/resumed; what each
process held goes to FOLDER/held_<rank>.json.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from video_deblur.training import loop, recipe
from video_deblur.training.presets import load_preset
from video_deblur.training.validation import StageValidation

make_accelerator = recipe.make_accelerator
load_state = loop.load_state
measure = StageValidation.measure
held = {}


def make_splitting(*arguments):
    """Make an Accelerator, and say of it what AcceleratorState says with GPUs."""
    accelerator = make_accelerator(*arguments)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    for state in (AcceleratorState, PartialState):
        state._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def load_and_count(folder, name, module, optimizers, average):
    progress = load_state(folder, name, module, optimizers, average)
    units = [part for part in module.modules() if isinstance(part, FSDPModule)]
    held[name] = {
        "units": sorted({type(unit).__name__.removeprefix("FSDP") for unit in units}),
        "weights": count(module.parameters()),
        "average": count(average.values()),
    }
    return progress


def count(tensors):
    """Count the values of tensors: those of this process, and all."""
    pairs = [(t.to_local() if isinstance(t, DTensor) else t, t) for t in tensors]
    return [sum(pair[i].numel() for pair in pairs) for i in (0, 1)]


def measure_apart(self, step):
    """Measure; one process alone finds later weights better, as rounding can make it."""
    return {**measure(self, step), "validation_psnr": float(step * dist.get_rank())}


def weights_survive_validation():
    """Tell whether training goes on with the trained weights after the averaged ones."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    parameters = dict(module.named_parameters())
    average = {name: torch.zeros_like(p) for name, p in parameters.items()}
    x = torch.ones(1, 4)
    with torch.no_grad():
        before = module(x)
        module.reshard()
        with loop.averaged(module, parameters, average):
            assert not module(x).any()
        return torch.equal(module(x), before)


def main():
    config, data, pairs, init, folder = sys.argv[1:]
    # What hangs ends the test soon.
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    # Training ends by parting; processes that part cannot be relied on to meet again.
    PartialState.destroy_process_group = lambda state, group=None: None
    recipe.make_accelerator = make_splitting
    loop.load_state = load_and_count
    StageValidation.measure = measure_apart

    def train(name):
        recipe.train_preset(
            load_preset(config),
            [f"synthetic:{data}"],
            Path(folder) / name,
            device="cpu",
            init=init,
            validation=f"pairs:{pairs}",
            validate_every=2,
            log_every=1,
            save_every_s=0.0,
            num_workers=0,
        )

    rank = dist.get_rank()
    survived = weights_survive_validation()
    train("whole")
    if rank == 0:
        states = Path(folder) / "whole" / "states"
        early = Path(folder) / "resumed" / "states"
        early.mkdir(parents=True)
        for path in [*states.glob("stage1_*.pt"), min(states.glob("stage2_*.pt"))]:
            shutil.copy(path, early)
    dist.barrier()
    train("resumed")
    path = Path(folder) / f"held_{rank}.json"
    path.write_text(json.dumps({**held, "survived": survived}))
    # Meshes keep gloo's threads alive; one that lets go of a tensor while Python ends aborts
    # the process. So it ends without clearing up.
    dist.barrier()
    os._exit(0)


main()
