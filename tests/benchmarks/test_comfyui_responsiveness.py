"""Times of signs and ends are told apart, and every case is cancelled at spread moments."""

from __future__ import annotations

import pytest
from video_deblur.benchmarks import comfyui_responsiveness
from video_deblur.benchmarks.comfyui_responsiveness import Case, measure
from video_deblur.benchmarks.comfyui_server import Event, ExecutionInterruptedError


class Server:
    """What is asked of a ComfyUI: a run takes 0.4 s and ends 0.1 s after Cancel."""

    def __init__(self, clock):
        self._clock = clock
        self.graphs, self.cancelled = [], []
        self._events, self._prompts = [], []

    def upload(self, path):
        return path.name

    def queue(self, graph):
        self.graphs.append(graph)
        self._start, self._end = self._clock.monotonic(), self._clock.monotonic() + 0.4
        self._kind, self._told = "execution_success", 0
        return str(len(self.graphs))

    def interrupt(self):
        self.cancelled.append(self._clock.monotonic() - self._start)
        self._kind, self._end = "execution_interrupted", self._clock.monotonic() + 0.1

    def events(self):
        coming = [
            (0.05, "progress", {"node": "1", "value": 1, "max": 1}),
            (0.1, "progress", {"node": "2", "value": 0, "max": 10}),
            (0.2, "progress", {"node": "2", "value": 5, "max": 10}),
            (self._end - self._start, self._kind, {}),
        ]
        for seconds, kind, data in coming[self._told :]:
            if self._clock.monotonic() >= self._start + seconds:
                self._events.append(Event(kind, data, self._start + seconds))
                self._told += 1
        return list(self._events)

    def wait(self, prompt):
        if self._kind == "execution_interrupted":
            raise ExecutionInterruptedError


@pytest.fixture
def server(monkeypatch, clock):
    monkeypatch.setattr(
        comfyui_responsiveness, "write_looped", lambda path, *args: path.write_bytes(b"")
    )
    monkeypatch.setattr(comfyui_responsiveness, "time", clock)
    fake = Server(clock)
    fake._start = fake._end = clock.monotonic()
    fake._kind, fake._told = "", 4
    return fake


def test_a_case_is_run_once_and_cancelled_at_moments_of_it(server):
    runs = measure(server, Case.parse("video:96x64:8"), moments=3, most_s=10)
    assert [graph["2"]["inputs"]["seed"] for graph in server.graphs] == [0, 1, 2, 3]
    whole = runs[0]
    assert whole.cancel_s is None
    assert whole.total_s == pytest.approx(0.4, abs=0.05)
    assert (whole.sign_s, whole.moved_s) == pytest.approx((0.1, 0.2), abs=0.01)
    shares = [seconds / whole.total_s for seconds in server.cancelled]
    assert shares == pytest.approx([1 / 6, 3 / 6, 0.97], abs=0.1)
    for run in runs[1:]:
        assert run.cancel_s == pytest.approx(0.1, abs=0.05)
    assert [run.moved_s is None for run in runs] == [False, True, False, False]


def test_a_case_of_frames_decodes_before_our_node(server):
    measure(server, Case.parse("frames:96x64:8"), moments=1, most_s=10)
    kinds = [node["class_type"] for node in server.graphs[0].values()]
    assert kinds == ["LoadVideo", "VideoDeblur_Deblur", "GetVideoComponents", "PreviewImage"]


def test_another_node_is_refused():
    with pytest.raises(ValueError, match="must be one of video, frames"):
        Case.parse("audio:96x64:8")
