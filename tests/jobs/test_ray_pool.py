"""How a cluster is shared out, from descriptions of clusters that nobody here has."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import pytest
import torch
from video_deblur.jobs import ray_pool
from video_deblur.jobs.ray_pool import PartWorker, WorkerShape, worker_shape


@pytest.mark.parametrize(
    ("nodes", "device", "num_workers", "expected"),
    [
        # One machine with eight GPUs: each worker gets an eighth of the cores.
        ([(128, 8)], "auto", None, ("cuda", 16, 8)),
        ([(16, 1)], "cuda", None, ("cuda", 16, 1)),
        # A head without a GPU lends no cores; of unlike nodes the least share counts.
        ([(8, 0), (32, 4), (64, 4)], "auto", None, ("cuda", 8, 8)),
        ([(32, 4)], "auto", 2, ("cuda", 8, 2)),
        # More GPUs than cores: one core for each worker, and no more workers than cores.
        ([(2, 4)], "auto", None, ("cuda", 1, 2)),
        ([(32, 4)], "cpu", None, ("cpu", 4, 8)),
        ([(9, 0), (4, 0)], "auto", None, ("cpu", 4, 3)),
        ([(2, 0), (16, 0)], "auto", None, ("cpu", 2, 9)),
        ([(16, 0)], "auto", 8, ("cpu", 2, 8)),
        # A node that only stores objects has no processor to lend.
        ([(0, 0), (8, 0)], "auto", None, ("cpu", 4, 2)),
    ],
)
def test_each_worker_gets_its_share_of_cores(nodes, device, num_workers, expected):
    resources = [{"CPU": float(cores), "GPU": float(gpus)} for cores, gpus in nodes]
    for node in resources:
        if not node["GPU"]:
            del node["GPU"]
    name, num_cpus, count = expected
    wanted = WorkerShape(device=name, num_cpus=num_cpus, num_workers=count)
    assert worker_shape(resources, device, num_workers) == wanted


@pytest.mark.parametrize(
    ("nodes", "device", "said"),
    [
        ([{"CPU": 4.0}], "cuda", "Ray reports no GPU"),
        ([{"memory": 1.0}], "auto", "Ray reports no processor"),
        ([{"CPU": 4.0}], "mps", "device must be auto, cpu or cuda on a cluster, got 'mps'"),
    ],
)
def test_what_a_cluster_does_not_have_is_named(nodes, device, said):
    with pytest.raises(ValueError, match=said):
        worker_shape(nodes, device)


def test_a_worker_computes_with_the_threads_it_was_given(monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", lambda count: threads.append(count))
    monkeypatch.setattr(cv2, "setNumThreads", lambda count: threads.append(count))
    monkeypatch.setattr(ray_pool, "restore_part", lambda *args: [])
    monkeypatch.setattr(PartWorker, "_loaded", lambda self: object())
    worker = PartWorker(SimpleNamespace(settings=None), "cuda", 16)
    assert worker.restore([], None) == []
    assert threads == [16, 16]
