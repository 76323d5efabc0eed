"""The same batch with 1, 2 and 4 workers on a local Ray cluster of as many nodes.

    python -m video_deblur.benchmarks.workers --data CLIP.mp4 ...

Shows that results are those of one machine and that work is spread. Where workers outnumber
processor cores, time says nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ..jobs.batch import BatchSettings, plan_batch, restore_batch
from ..jobs.files import Resumable, restore_file
from ..jobs.part_store import checkpoint_identity, resume_folder
from ..jobs.ray_pool import RayPool, WorkerOptions, connected
from ..models.checkpoint import read_info
from ..restoration.load import load_deblurrer
from ..restoration.settings import preset_settings
from .clips import decoded, parse_size, write_looped

_CHECKPOINT = "divd-tiny"


def main() -> None:
    """Measure and print."""
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(
        description="Restore the same video with 1, 2 and 4 workers and compare."
    )
    parser.add_argument("--data", nargs="+", required=True, help="videos that are looped")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--size", default="96x64")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    info = read_info(_CHECKPOINT)
    settings = preset_settings(info.config, "fast")
    identity = checkpoint_identity(info.path)
    options = WorkerOptions(
        checkpoint=_CHECKPOINT, identity=identity, dtype="float32", settings=settings
    )
    batch = BatchSettings(config=info.config, restoration=settings, identity=identity)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = write_looped(folder / "clip.mp4", args.data, args.frames, *parse_size(args.size))
        whole = folder / "whole.mp4"
        resumable = Resumable(folder=resume_folder(whole), identity=identity)
        deblurrer = load_deblurrer(_CHECKPOINT, "cpu", "float32")
        restore_file(clip, whole, deblurrer, settings, resumable=resumable)
        expected = decoded(whole)
        for count in args.workers:
            head = {"num_cpus": 1, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            for _ in range(count - 1):
                cluster.add_node(num_cpus=1)
            with connected(cluster.address):
                pool = RayPool(options, "cpu")
                started = time.monotonic()
                (done,) = clips = plan_batch([clip], folder / str(count), "h264")
                restore_batch(clips, pool, batch)
                seconds = time.monotonic() - started
                pool.close()
            # Not `shutdown`: on a busy machine draining the nodes first times out.
            for node in [*cluster.worker_nodes, cluster.head_node]:
                node.kill_all_processes(check_alive=False, allow_graceful=False)
            same = np.array_equal(decoded(done.output), expected)
            print(
                f"{count} workers: {seconds:5.1f} s, parts by worker {pool.parts_done}, "
                f"equal: {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
