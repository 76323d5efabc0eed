"""Many videos on a real Ray cluster of processes: equal, spread, killed, stopped, refused."""

from __future__ import annotations

import dataclasses
import os
import signal
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from video_deblur.images.folders import FrameFolder, FrameFolderWriter, read_image
from video_deblur.jobs import parts
from video_deblur.jobs.batch import BatchSettings, plan_batch, restore_batch
from video_deblur.jobs.batch_record import RECORD_NAME
from video_deblur.jobs.files import Resumable, restore_file, restore_folder
from video_deblur.jobs.part_store import checkpoint_identity, resume_folder
from video_deblur.jobs.ray_pool import RayPool, WorkerOptions, connected
from video_deblur.models.checkpoint import read_info
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from ..images import image_files

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

    def run(self, pool, callback=None, **options):
        clips = plan_batch(self.sources, self.folder, "h264")
        values = {"restoration": SETTINGS, "identity": self.identity, **options}
        settings = BatchSettings(config=self.info.config, **values)
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
        # Else one of them may have done everything before the other is up.
        for _ in range(10):
            if len(pool.pids) < 2:
                pool.collect(lambda *_: None, timeout_s=30)
        used = set(pool.pids)
        assert len(used) == 2

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
    assert sorted(os.listdir(batch.folder)) == [RECORD_NAME, "clip.mp4"]


@pytest.fixture
def image_network(randomise, tmp_path) -> Path:
    """Write a network for single images, as its authors would."""
    pytest.importorskip("spandrel")
    from spandrel.architectures.NAFNet import NAFNet

    network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1])
    path = tmp_path / "nafnet.pth"
    torch.save(randomise(network, 0.05, add=True).state_dict(), path)
    return path


def test_workers_have_a_first_stage_of_their_own(cluster, batch, image_network, tmp_path):
    # What the network sees shows in the result, whatever fusion makes of the candidates.
    settings = dataclasses.replace(SETTINGS, network_input="first_stage")
    whole = tmp_path / "whole.mp4"
    engine = load_deblurrer(batch.options.checkpoint, "cpu", "float32", image_network)
    resumable = Resumable(folder=resume_folder(whole), identity={})
    restore_file(batch.sources[0], whole, engine, settings, resumable=resumable)
    identity = {**batch.identity, **engine.first_stage.identity}
    options = dataclasses.replace(
        batch.options, settings=settings, identity=identity, first_stage=str(image_network)
    )
    with connected(cluster.address):
        pool = RayPool(options, "cpu", 1)
        (clip,) = batch.run(pool, restoration=settings, identity=identity)
        assert clip.state == "restored", clip.error
        assert np.array_equal(decoded(clip.output), decoded(whole))
        (again,) = batch.run(pool, restoration=settings)
        assert again.changes == ["first stage"]
        pool.close()
        image_network.write_bytes(image_network.read_bytes() + b" ")
        pool = RayPool(options, "cpu", 1)
        (other,) = batch.run(pool, restoration=settings, identity=identity, overwrite=True)
        pool.close()
    assert (other.state, other.error.partition(": differs")[1]) == ("failed", ": differs")
    assert str(image_network) in other.error


class LastFirstPool:
    """Restores parts in this process, the last one first, as a cluster might."""

    def __init__(self, deblurrer, most: int = 100) -> None:
        self.deblurrer, self.most, self.waiting, self.count = deblurrer, most, [], 0

    wants_more = True

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def submit(self, key, frames, task) -> None:
        self.waiting.append((key, frames, task))

    def collect(self, done, timeout_s):
        key, frames, task = self.waiting.pop()
        if self.count == self.most:
            raise KeyboardInterrupt
        self.count += 1
        done(key, parts.restore_part(frames, task, self.deblurrer, SETTINGS))

    def give_up(self, done) -> None:
        pass


def test_a_second_call_does_only_what_is_missing(batch, tmp_path):
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    first = LastFirstPool(deblurrer, most=2)
    with pytest.raises(KeyboardInterrupt):
        batch.run(first)
    second = LastFirstPool(deblurrer)
    (clip,) = batch.run(second)
    pool = LastFirstPool(deblurrer)
    batch.folder = tmp_path / "again"
    (whole,) = batch.run(pool)
    assert second.count == pool.count - 2
    assert np.array_equal(decoded(clip.output), decoded(whole.output))
    assert batch.run(LastFirstPool(deblurrer))[0].state == "skipped"


def test_a_folder_of_frames_becomes_the_folder_of_one_machine(batch, tmp_path):
    source = tmp_path / "frames"
    with FrameFolderWriter(source) as writer:
        for index, pixels in enumerate(decoded(batch.sources[0])[:30]):
            alpha = np.full_like(pixels[..., :1], index)
            writer.write(np.concatenate([pixels, alpha], axis=2), f"shot {index}.png")
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    restore_folder(source, tmp_path / "whole", deblurrer, SETTINGS)
    batch.sources.append(source)
    with pytest.raises(KeyboardInterrupt):
        batch.run(LastFirstPool(deblurrer, most=2))
    video, clip = batch.run(LastFirstPool(deblurrer))
    assert (video.state, clip.state, clip.num_frames) == ("restored", "restored", 30)
    names = [f"shot {index}.png" for index in range(30)]
    assert FrameFolder(clip.output).names == names
    for name in names:
        assert (clip.output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert batch.run(LastFirstPool(deblurrer))[1].state == "skipped"
    (refused,) = [c for c in batch.run(LastFirstPool(deblurrer), overwrite=True) if c.error]
    assert "not empty" in refused.error
    assert FrameFolder(clip.output).names == names


def test_outputs_of_other_settings_are_named_and_left_alone(batch):
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    (clip,) = batch.run(LastFirstPool(deblurrer))
    before = clip.output.read_bytes()
    assert list(batch.run(LastFirstPool(deblurrer))[0].changes) == []
    changed = {
        "restoration": dataclasses.replace(SETTINGS, strength=0.5),
        "identity": {"checkpoint": "another"},
        "crf": 30,
        "deinterlace": "field",
    }
    (again,) = batch.run(LastFirstPool(deblurrer), **changed)
    assert (again.state, again.changes) == (
        "skipped",
        ["checkpoint", "crf", "deinterlace", "settings"],
    )
    write_clip(batch.sources[0], 12)
    assert batch.run(LastFirstPool(deblurrer))[0].changes == ["input"]
    assert clip.output.read_bytes() == before
    (anew,) = batch.run(LastFirstPool(deblurrer), overwrite=True)
    assert (anew.state, anew.num_frames) == ("restored", 12)
    assert batch.run(LastFirstPool(deblurrer))[0].changes == []


def test_a_part_of_a_damaged_video_does_not_pass_for_all_of_it(batch):
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    damaged = batch.sources[0].with_suffix(".mkv")
    with VideoReader(batch.sources[0]) as reader, VideoWriter.like(damaged, reader.info) as out:
        for frame in reader:
            out.write(frame.pixels, frame.pts, frame.duration)
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) * 3 // 4])
    batch.sources = [damaged]
    (first,) = batch.run(LastFirstPool(deblurrer))
    (second,) = batch.run(LastFirstPool(deblurrer))
    assert first.state == second.state == "failed"
    assert second.error == first.error
    assert "before that are restored" in first.error


def test_what_one_clip_cannot_give_does_not_stop_the_others(batch, tmp_path):
    class FailingPool(LastFirstPool):
        def collect(self, done, timeout_s):
            (work, index), *_ = self.waiting[-1]
            if index == 1:
                self.waiting.pop()
                done((work, index), FloatingPointError("frame 9: the network gave NaN"))
                return
            super().collect(done, timeout_s)

    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.full((40, 56, 3), 90, np.uint8))
    batch.sources.append(photo)
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    clip, other = batch.run(FailingPool(deblurrer))
    assert (clip.state, clip.error) == (
        "failed",
        f"{batch.sources[0]}: frame 9: the network gave NaN",
    )
    assert (other.state, other.output.name, other.num_frames) == ("restored", "photo.png", 1)
    assert cv2.imread(str(other.output)).shape == (40, 56, 3)
    assert batch.run(LastFirstPool(deblurrer))[1].state == "skipped"


def test_what_the_encoder_refuses_is_named_by_its_file(batch, tmp_path):
    wide = tmp_path / "wide.mkv"
    with VideoWriter(
        wide,
        width=20000,
        height=16,
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        codec="ffv1",
    ) as writer:
        writer.write(np.zeros((16, 20000, 3), np.uint8), 0)
    batch.sources = [wide]
    (clip,) = batch.run(LastFirstPool(None))
    assert clip.error.startswith(f"{wide}: h264 cannot encode 20000x16 pixels")
    assert not clip.output.exists()


def test_an_input_is_not_overwritten(batch):
    (clip,) = plan_batch(batch.sources, batch.sources[0].parent, "h264")
    assert clip.state == "failed"
    assert "is the input itself" in clip.error


def test_of_inputs_that_would_share_an_output_only_those_are_refused(batch, tmp_path):
    (tmp_path / "other").mkdir()
    twins = [write_clip(tmp_path / "a.mp4", 2), write_clip(tmp_path / "other" / "a.mov", 2)]
    batch.sources = [twins[0], batch.sources[0], twins[1], batch.sources[0], twins[0]]
    batch.folder = tmp_path / "new" / "out"
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    first, clip, second = batch.run(LastFirstPool(deblurrer))
    assert [c.state for c in (first, clip, second)] == ["failed", "restored", "failed"]
    for one, other in ((first, second), (second, first)):
        assert one.error.startswith(f"{one.source}: would become ")
        assert str(other.source) in one.error
    assert sorted(os.listdir(batch.folder)) == [RECORD_NAME, "clip.mp4"]


def test_no_folder_is_made_for_inputs_that_cannot_be_used(batch, tmp_path):
    batch.sources[0].write_bytes(b"no video at all")
    batch.folder = tmp_path / "new" / "out"
    assert [clip.state for clip in batch.run(LastFirstPool(None))] == ["failed"]
    assert not batch.folder.parent.exists()


def test_photos_animations_and_pages_are_restored_as_what_they_are(batch, tmp_path):
    """Also after a stop, and not again."""
    frames = decoded(batch.sources[0])[:20]
    names = ["photo.webp", "loop.webp", "pages.tif", "frames"]
    batch.sources = [tmp_path / name for name in names]
    batch.sources[0].write_bytes(image_files.webp(frames[0], image_files.exif(6)))
    opaque = np.full_like(frames[0][..., :1], 255)
    parts = [(np.concatenate([f, opaque], 2), 0, 0, 40, 0) for f in frames]
    batch.sources[1].write_bytes(image_files.webp_animation((48, 64), parts))
    batch.sources[2].write_bytes(image_files.tiff(list(frames)))
    batch.sources[3].mkdir()
    for index, pixels in enumerate(frames):
        (batch.sources[3] / f"{index}.jpg").write_bytes(image_files.jpeg(pixels))
    deblurrer = load_deblurrer(batch.options.checkpoint, "cpu", "float32")
    with pytest.raises(KeyboardInterrupt):
        batch.run(LastFirstPool(deblurrer, most=4))
    clips = batch.run(LastFirstPool(deblurrer))
    assert "failed" not in {clip.state for clip in clips}
    assert [clip.output.name for clip in clips] == ["photo.png", "loop.mp4", "pages", "frames"]
    assert read_image(clips[0].output).shape == (64, 48, 3)
    assert decoded(clips[1].output).shape == frames.shape
    assert [clip.num_frames for clip in clips] == [1, 20, 20, 20]
    assert len(FrameFolder(clips[2].output)) == len(FrameFolder(clips[3].output)) == 20
    assert {clip.state for clip in batch.run(LastFirstPool(deblurrer))} == {"skipped"}
