"""Many videos on a real Ray cluster of processes: equal, spread, killed, stopped, refused."""

from __future__ import annotations

import os
import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from video_deblur.models.checkpoint import read_info
from video_deblur.restoration import files, parts, segments
from video_deblur.restoration.batch import BatchSettings, plan_batch, restore_batch
from video_deblur.restoration.files import Resumable, restore_file
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.ray_pool import RayPool, WorkerOptions, connected
from video_deblur.restoration.resume import checkpoint_identity, resume_folder
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

pytest.importorskip("ray")
# Ray leaves its processes and sockets to the end of the interpreter.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SETTINGS = RestorationSettings(window=4, overlap=2, borrow=False)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    made.add_node(num_cpus=1)
    yield made
    # Not `shutdown`: on a busy machine draining the nodes first times out.
    for node in [*made.worker_nodes, made.head_node]:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch):
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    monkeypatch.setattr(files, "PART_FRAMES", 8)
    monkeypatch.setattr(parts, "PART_FRAMES", 8)


def write_clip(path: Path, num_frames: int = 40) -> Path:
    rows, columns = np.mgrid[:48, :64]
    rate = Fraction(25)
    with VideoWriter(
        path, width=64, height=48, time_base=1 / rate, average_rate=rate, crf=4
    ) as writer:
        for index in range(num_frames):
            level = 70 if index < 25 else 180
            grey = (level + 50 * np.sin((columns + index) / 4) * np.cos(rows / 5)).astype("u1")
            writer.write(np.stack([grey] * 3, axis=-1), index)
    return path


def decoded(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


class Batch:
    """Videos, and what it takes to restore them."""

    def __init__(self, checkpoint: Path, sources: list[Path], folder: Path) -> None:
        self.info = read_info(str(checkpoint))
        self.identity = checkpoint_identity(self.info.path)
        self.sources, self.folder = sources, folder
        self.options = WorkerOptions(
            checkpoint=str(checkpoint),
            identity=self.identity,
            dtype="float32",
            settings=SETTINGS,
        )

    def run(self, pool, callback=None):
        clips = plan_batch(self.sources, self.folder, "h264")
        settings = BatchSettings(
            config=self.info.config, restoration=SETTINGS, identity=self.identity
        )
        restore_batch(clips, pool, settings, callback)
        return clips


@pytest.fixture
def batch(make_checkpoint, tmp_path) -> Batch:
    return Batch(make_checkpoint(), [write_clip(tmp_path / "clip.mp4")], tmp_path / "out")


def test_a_cluster_gives_the_file_of_one_machine_even_if_a_worker_is_killed(
    cluster, batch, tmp_path, caplog
):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    batch.sources.insert(0, broken)
    whole = tmp_path / "whole.mp4"
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    resumable = Resumable(folder=resume_folder(whole), identity={})
    restore_file(batch.sources[1], whole, deblurrer, SETTINGS, resumable=resumable)
    with connected(cluster.address):
        pool = RayPool(batch.options, "cpu")
        used = set()

        def kill_once(done, total):
            used.update(pool.pids)
            if 0 < done < total and len(used) == 2:
                os.kill(pool.pids[-1], signal.SIGKILL)
                used.add(0)

        failed, clip = batch.run(pool, kill_once)
        pool.close()
    assert (failed.state, clip.state) == ("failed", "restored")
    assert "broken.mp4" in failed.error
    assert len(used) >= 3
    assert np.array_equal(decoded(clip.output), decoded(whole))
    assert os.listdir(batch.folder) == ["clip.mp4"]


class LocalPool:
    """Restores parts in this process, the last one first, as a cluster might."""

    def __init__(self, deblurrer, most: int = 100) -> None:
        self.deblurrer, self.most, self.waiting, self.count = deblurrer, most, [], 0

    wants_more = True

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def submit(self, key, frames, task) -> None:
        self.waiting.append((key, frames, task))

    def completed(self, timeout_s):
        key, frames, task = self.waiting.pop()
        if self.count == self.most:
            raise KeyboardInterrupt
        self.count += 1
        yield key, parts.restore_part(frames, task, self.deblurrer, SETTINGS)


def test_a_second_call_does_only_what_is_missing(batch, tmp_path):
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    first = LocalPool(deblurrer, most=2)
    with pytest.raises(KeyboardInterrupt):
        batch.run(first)
    second = LocalPool(deblurrer)
    (clip,) = batch.run(second)
    pool = LocalPool(deblurrer)
    batch.folder = tmp_path / "again"
    (whole,) = batch.run(pool)
    assert second.count == pool.count - 2
    assert np.array_equal(decoded(clip.output), decoded(whole.output))
    assert batch.run(LocalPool(deblurrer))[0].state == "skipped"


def test_two_videos_of_one_name_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    clips = [write_clip(tmp_path / "a.mp4", 2), write_clip(tmp_path / "other" / "a.mp4", 2)]
    with pytest.raises(ValueError, match="would both become"):
        plan_batch(clips, tmp_path / "out", "h264")
