"""What Deblur Video writes into the temporary folder goes when nothing can read it any more."""

from __future__ import annotations

import copy
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from video_deblur.benchmarks.comfyui_server import ComfyServer, make_base_directory

from .checkpoints import NAME, blurry_clip
from .conftest import REPOSITORY
from .test_deblur_video import write_clip

DAY_S = 24 * 3600


@pytest.fixture
def restore(comfy, call_node, random_checkpoint, tmp_path):
    def call():
        clip = write_clip(tmp_path / "clip.mp4", blurry_clip(5, 32, 48), Fraction(25))
        video = comfy.api.InputImpl.VideoFromFile(str(clip))
        return call_node("VideoDeblur_DeblurVideo", video=video, checkpoint=NAME)[0]

    return call


@pytest.fixture
def server(comfyui_path, tmp_path):
    """A server that has not been started, whose temporary folder is a link to another disk."""
    pytest.importorskip("requests")
    make_base_directory(tmp_path / "base", REPOSITORY)
    (tmp_path / "other_disk").mkdir()
    (tmp_path / "base" / "temp").rmdir()
    (tmp_path / "base" / "temp").symlink_to(tmp_path / "other_disk", target_is_directory=True)
    server = ComfyServer(comfyui_path, tmp_path / "base")
    yield server
    server.stop()


def test_the_file_goes_with_the_last_that_can_read_it(comfy, restore, tmp_path):
    folder = Path(comfy.folder_paths.get_temp_directory())
    before = set(folder.glob("*"))
    videos = [restore()]
    (path,) = set(folder.glob("*")) - before
    assert type(videos[0].get_stream_source()) is str
    # Nodes of others look at the name of the class.
    assert type(videos[0]).__name__ == "VideoFromFile"
    videos.append(copy.deepcopy(videos[0]))
    base = comfy.api.InputImpl.VideoFromFile
    assert hasattr(videos[0], "as_trimmed") == hasattr(base, "as_trimmed")
    if hasattr(base, "as_trimmed"):
        videos.append(videos[0].as_trimmed(0.04, 0.12))
        videos.append(videos[-1].as_trimmed(0.04, 0.08))
    if hasattr(base, "as_cropped"):
        videos.append(videos[0].as_cropped(0, 0, 32, 16))
    while videos:
        assert path.exists()
        videos[0].save_to(str(tmp_path / f"saved_{len(videos)}.mp4"))
        del videos[0]
    assert not path.exists()


def test_a_view_of_a_class_of_another_keeps_it_and_the_file(comfy, restore, monkeypatch):
    base = comfy.api.InputImpl.VideoFromFile
    if not hasattr(base, "as_trimmed"):
        pytest.skip("this ComfyUI has no views of videos")

    class Small(base):
        def get_dimensions(self):
            return 1, 1

    monkeypatch.setattr(base, "as_trimmed", lambda self, *_: Small(self.get_stream_source()))
    video = restore()
    path, view = Path(video.get_stream_source()), video.as_trimmed(0.0, 0.1)
    del video
    assert view.get_dimensions() == (1, 1)
    assert path.exists()
    del view
    assert not path.exists()


@pytest.fixture
def results(our_module, monkeypatch):
    """Results of our own and a run that is going on; set `run[0]` to None when it is over."""
    module, run = our_module("nodes.temporary"), [7]
    monkeypatch.setattr(module, "_current_run", lambda: run[0])
    return module.Results(), run


def make_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index}.mp4" for index in range(count)]
    for path in paths:
        path.write_bytes(b"frames")
    return paths


def test_a_run_whose_videos_go_at_once_keeps_the_files_of_the_last_ones(results, tmp_path):
    own, run = results
    paths = make_files(tmp_path, 12)
    for path in paths:
        own.release(str(path), 7)
    assert [path.exists() for path in paths] == [False] * 4 + [True] * 8
    run[0] = None
    own.remove_orphans()
    assert not any(path.exists() for path in paths)


def test_at_the_end_of_the_session_nothing_waits(results, tmp_path):
    own, _ = results
    first, second = make_files(tmp_path, 2)
    own.release(str(first), 7)
    assert first.exists()
    own._end()
    own.release(str(second), 7)
    assert not first.exists()
    assert not second.exists()


def test_a_file_that_is_open_goes_later(results, tmp_path, monkeypatch):
    own, _ = results
    (path,) = make_files(tmp_path, 1)

    def refuse(path):
        raise PermissionError(13, "is open", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        own.release(str(path), None)
        own.remove_orphans()
        assert path.exists()
    own.remove_orphans()
    assert not path.exists()


def test_a_file_that_was_moved_away_is_not_missed(restore, tmp_path):
    video = restore()
    os.replace(video.get_stream_source(), tmp_path / "moved.mp4")
    del video
    assert (tmp_path / "moved.mp4").stat().st_size > 0


def _graph(clip: str, seed: int, prefix: str) -> dict:
    options = {"checkpoint": "divd-tiny (bundled)", "preset": "fast", "strength": 1.0}
    options |= {"seed": seed, "codec": "h264", "crf": 14}
    saving = {"filename_prefix": prefix, "format": "mp4", "codec": "auto"}
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": clip}},
        "2": {
            "class_type": "VideoDeblur_DeblurVideo",
            "inputs": {"video": ["1", 0], **options},
        },
        "3": {"class_type": "SaveVideo", "inputs": {"video": ["2", 0], **saving}},
    }


def test_runs_of_one_id_and_freed_caches_leave_no_files(server, tmp_path):
    import requests

    temporary = server.base / "temp"
    server.start()
    clip = server.upload(write_clip(tmp_path / "c.mp4", blurry_clip(4, 32, 48), Fraction(25)))
    for seed in range(3):
        _run_under_one_id(server, _graph(clip, seed, f"seed_{seed}"), seed)
        assert len(list(temporary.iterdir())) == 1
    requests.post(f"{server.url}/free", json={"free_memory": True}, timeout=10)
    deadline = time.monotonic() + 30
    while list(temporary.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_runs_leave_the_folder_flat_and_a_cached_result_can_be_saved_again(server, tmp_path):
    temporary = server.base / "temp"
    server.start()
    clip = server.upload(write_clip(tmp_path / "c.mp4", blurry_clip(4, 32, 48), Fraction(25)))
    for seed in range(3):
        (saved,) = server.run(_graph(clip, seed, f"seed_{seed}"))
        assert saved.stat().st_size > 0
        assert len(list(temporary.iterdir())) == 1
    _wait_for_runs(server, 3)
    cached = max(temporary.iterdir())
    (again,) = server.run(_graph(clip, 2, "again"))
    assert again.stat().st_size > 0
    assert list(temporary.iterdir()) == [cached]
    _wait_for_runs(server, 4)


def _run_under_one_id(server, graph: dict, num_before: int) -> None:
    import requests

    body = {"prompt": graph, "prompt_id": "5b9f0c6e-7d0e-4d57-9d93-7f3e2f1f9a11"}
    requests.post(f"{server.url}/prompt", json=body, timeout=10).raise_for_status()
    _wait_for_runs(server, num_before + 1)


def test_a_cache_that_keeps_everything_does_not_fill_the_disk(server, tmp_path):
    temporary = server.base / "temp"
    # More than any of the two versions would keep by itself.
    server.options = ["--cache-lru", "1000"]
    server.start()
    clips = [
        server.upload(write_clip(tmp_path / f"{i}.mp4", blurry_clip(3, 32, 48), Fraction(25)))
        for i in range(2)
    ]
    for run in range(12):
        server.run(_graph(clips[run % 2], run // 6, f"run_{run}"))
        assert len(list(temporary.iterdir())) <= 8
    _wait_for_runs(server, 12)
    for run in (0, 1, 11):
        # Seed and clip of a run whose file is gone, and of the last, whose file is there.
        (saved,) = server.run(_graph(clips[run % 2], run // 6, f"again_{run}"))
        assert saved.stat().st_size > 0
    _wait_for_runs(server, 15)


def test_neither_does_it_where_all_runs_have_one_id(server, tmp_path):
    server.options = ["--cache-lru", "1000"]
    server.start()
    clip = server.upload(write_clip(tmp_path / "c.mp4", blurry_clip(3, 32, 48), Fraction(25)))
    for run in range(11):
        _run_under_one_id(server, _graph(clip, run, f"run_{run}"), run)
        assert len(list((server.base / "temp").iterdir())) == min(run + 1, 8)


def _wait_for_runs(server, count: int) -> None:
    """Check how many runs the log tells of; it may tell of the last one late."""
    deadline = time.monotonic() + 30
    while (found := server.log_text().count("Prompt executed")) < count:
        assert time.monotonic() < deadline, f"{found} runs of {count}"
        time.sleep(0.1)
    assert found == count


def _two_videos(clips: list[str], seed: int, run: int) -> dict:
    """A graph whose first video stays the same, with the same widgets in both at first."""
    graph = _graph(clips[0], 0, f"first_{run}")
    other = _graph(clips[1], seed, f"second_{run}")
    for key, node in other.items():
        inputs = {
            name: [f"b{value[0]}", value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        graph[f"b{key}"] = {**node, "inputs": inputs}
    return graph


def test_what_the_present_graph_takes_from_the_cache_stays(server, tmp_path):
    server.options = ["--cache-lru", "1000"]
    server.start()
    clips = [
        server.upload(write_clip(tmp_path / f"{i}.mp4", blurry_clip(3, 32, 48), Fraction(25)))
        for i in range(2)
    ]
    for run in range(12):
        saved = server.run(_two_videos(clips, run, run))
        assert len(saved) == 2
        assert len(list((server.base / "temp").iterdir())) <= 9


NODE_OF_ANOTHER = """
from comfy_api.latest import InputImpl, io


class PathOf(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Video.Input("video")]
        return io.Schema("PathOf", inputs=inputs, outputs=[io.String.Output()])

    @classmethod
    def execute(cls, video):
        return io.NodeOutput(video.get_stream_source())


class OfPath(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("path")]
        return io.Schema("OfPath", inputs=inputs, outputs=[io.Video.Output()])

    @classmethod
    def execute(cls, path):
        return io.NodeOutput(InputImpl.VideoFromFile(path))


NODE_CLASS_MAPPINGS = {"PathOf": PathOf, "OfPath": OfPath}
"""


def test_nodes_that_know_the_path_alone_find_the_file_in_the_same_run(server, tmp_path):
    temporary = server.base / "temp"
    (server.base / "custom_nodes" / "another.py").write_text(NODE_OF_ANOTHER)
    # The VIDEO goes as soon as the first of the two has run.
    server.options = ["--cache-none"]
    server.start()
    clip = server.upload(write_clip(tmp_path / "c.mp4", blurry_clip(4, 32, 48), Fraction(25)))
    for run in range(2):
        graph = _graph(clip, 0, f"run_{run}")
        graph["4"] = {"class_type": "PathOf", "inputs": {"video": ["2", 0]}}
        graph["5"] = {"class_type": "OfPath", "inputs": {"path": ["4", 0]}}
        graph["3"]["inputs"]["video"] = ["5", 0]
        (saved,) = server.run(graph)
        assert saved.stat().st_size > 0
        assert len(list(temporary.iterdir())) == 1
    _wait_for_runs(server, 2)


def test_what_a_crashed_session_left_goes_at_the_next_start(server):
    temporary = server.base / "temp"
    old, parts = temporary / "video_deblur_a.mp4", temporary / "video_deblur_parts_b"
    fresh, foreign = temporary / "video_deblur_c.mp4", temporary / "ComfyUI_temp_1.png"
    parts.mkdir()
    for path in (old, parts / "0001.mp4", fresh, foreign):
        path.write_bytes(b"frames")
    for path in (old, parts, foreign):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    server.start()
    assert set(temporary.iterdir()) == {fresh, foreign}
