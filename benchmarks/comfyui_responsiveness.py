"""How soon a run in ComfyUI shows that it works, and how soon it ends on Cancel.

    PYTHON -m video_deblur.benchmarks.comfyui_responsiveness --comfyui DIR --json FILE \
        --cases video:640x360:24 frames:1920x1080:4 video:5000x3000:2

PYTHON is that of ComfyUI's environment, DIR its checkout; a server is started with this
extension alone, on the CPU unless COMFYUI_DEVICE=gpu. Each case is run to its end once, or for
`--most` seconds, then again and again with another seed, and cancelled at moments that are
spread over that time. All times are taken from outside: from the request to the message on the
websocket that the page shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.demo import DEMO_FOLDER
from ..models.bundled import DEFAULT
from .clips import parse_size, write_looped
from .comfyui_server import ComfyServer, Event, ExecutionInterruptedError, make_base_directory

_NODES = {"video": "VideoDeblur_DeblurVideo", "frames": "VideoDeblur_Deblur"}
_SIGNS = ("progress", "text", "preview")
"""What a node sends that the page shows on it."""
_LAST_MOMENT = 0.97
"""Share of a run at which it is cancelled last, where the result is written."""
_TIMEOUT_S = 1200
_POLL_S = 0.005


@dataclass(frozen=True)
class Case:
    """A node at work on a clip."""

    node: str
    """One of `_NODES`."""
    width: int
    height: int
    num_frames: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read a case from text such as "video:640x360:24".

        Raises:
            ValueError: If it is not of that form.
        """
        node, size, num_frames = text.split(":")
        if node not in _NODES:
            raise ValueError(f"{text}: the node must be one of {', '.join(_NODES)}")
        return cls(node, *parse_size(size), int(num_frames))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was seen of a run, in seconds."""

    total_s: float
    """From the request to the end."""
    sign_s: float | None
    """To the first sign of our node."""
    moved_s: float | None
    """To the first movement of its bar, or picture."""
    cancel_s: float | None
    """From the request to cancel to the end; None if the run was over by then."""
    share: float
    """How far the bar was when the run ended, 0 to 1."""


def main() -> None:
    """Start ComfyUI, measure all cases, print a table and write what was asked for."""
    parser = argparse.ArgumentParser(description="Time first signs and ends of runs.")
    parser.add_argument("--comfyui", type=Path, required=True, help="checkout of ComfyUI")
    parser.add_argument("--cases", nargs="+", type=Case.parse, required=True)
    parser.add_argument("--moments", type=int, default=6, help="to cancel at, per case")
    parser.add_argument("--most", type=float, default=300, help="seconds of the first run")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    args = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(__file__).parents[1]
        server = ComfyServer(args.comfyui, make_base_directory(Path(folder), repository))
        try:
            server.start()
            print("| case | first sign | bar moves | cancel, median | cancel, longest |")
            print("|---|---|---|---|---|")
            for case in args.cases:
                runs = measure(server, case, args.moments, args.most)
                print(_row(case, runs), flush=True)
                load = os.getloadavg()[0]
                records.append(
                    {"case": vars(case), "runs": [vars(run) for run in runs], "load": load}
                )
        finally:
            server.stop()
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n")


def measure(server: ComfyServer, case: Case, moments: int, most_s: float) -> list[Run]:
    """Run a case once, then cancel it at moments spread over that time.

    Args:
        server: Running.
        case: What to run.
        moments: How many.
        most_s: After which the first run is cancelled as well.
    """
    clip = _upload_clip(server, case)
    runs = [_run(server, _graph(case, clip, 0), most_s)]
    whole = runs[0].total_s
    shares = [(index + 0.5) / moments for index in range(moments - 1)] + [_LAST_MOMENT]
    for seed, share in enumerate(shares, 1):
        runs.append(_run(server, _graph(case, clip, seed), share * whole))
    return runs


def _upload_clip(server: ComfyServer, case: Case) -> str:
    source = str(DEMO_FOLDER / "shake" / "blurry.mp4")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{case.width}x{case.height}x{case.num_frames}.mp4"
        write_looped(path, [source], case.num_frames, case.width, case.height)
        return server.upload(path)


def _graph(case: Case, clip: str, seed: int) -> dict[str, Any]:
    deblur = {"checkpoint": f"{DEFAULT} (bundled)", "preset": "fast", "strength": 1.0}
    deblur |= {"seed": seed}
    steps: list[tuple[str, dict[str, Any]]] = [("LoadVideo", {"file": clip})]
    if case.node == "video":
        deblur |= {"video": ["1", 0], "codec": "h264", "crf": 14}
        save = {"video": ["2", 0], "format": "mp4", "codec": "auto"}
        steps += [(_NODES["video"], deblur), ("SaveVideo", save | {"filename_prefix": "run"})]
    else:
        # Decoded once: the graph of the next seed starts from ComfyUI's cache.
        steps += [
            (_NODES["frames"], deblur | {"frames": ["3", 0]}),
            ("GetVideoComponents", {"video": ["1", 0]}),
            ("PreviewImage", {"images": ["2", 0]}),
        ]
    return {
        str(index): {"class_type": kind, "inputs": inputs}
        for index, (kind, inputs) in enumerate(steps, 1)
    }


def _run(server: ComfyServer, graph: dict[str, Any], cancel_at_s: float) -> Run:
    """Queue a graph, and cancel it that long after."""
    seen = len(server.events())
    queued = time.monotonic()
    prompt = server.queue(graph)
    cancelled = None
    while time.monotonic() - queued < _TIMEOUT_S:
        ended = [event for event in server.events()[seen:] if _is_end(event)]
        if ended:
            break
        if cancelled is None and time.monotonic() - queued > cancel_at_s:
            cancelled = time.monotonic()
            server.interrupt()
        time.sleep(_POLL_S)
    else:
        raise TimeoutError(f"a run did not end in {_TIMEOUT_S} s\n{server.log_tail()}")
    try:
        server.wait(prompt)
    except ExecutionInterruptedError:
        assert cancelled is not None
    else:
        cancelled = None
    return _seen(server.events()[seen:], queued, ended[0].time_s, cancelled)


def _is_end(event: Event) -> bool:
    return event.kind in ("execution_success", "execution_error", "execution_interrupted")


def _seen(events: list[Event], queued: float, ended: float, cancelled: float | None) -> Run:
    """Sum up the messages of a run; node "2" is ours."""
    signs, moves, share = [], [], 0.0
    for event in events:
        if event.kind not in _SIGNS:
            continue
        if event.kind == "progress":
            if event.data["node"] != "2":
                continue
            share = event.data["value"] / event.data["max"]
        signs.append(event.time_s - queued)
        if event.kind == "preview" or (event.kind == "progress" and share > 0):
            moves.append(event.time_s - queued)
    return Run(
        total_s=ended - queued,
        sign_s=min(signs, default=None),
        moved_s=min(moves, default=None),
        cancel_s=None if cancelled is None else ended - cancelled,
        share=share,
    )


def _row(case: Case, runs: list[Run]) -> str:
    name = {"video": "Deblur Video", "frames": "Deblur Frames"}[case.node]
    cells = [f"{name}, {case.width}x{case.height}, {case.num_frames} frames"]
    for values in ([run.sign_s for run in runs], [run.moved_s for run in runs]):
        known = [value for value in values if value is not None]
        cells.append(f"{statistics.median(known):.2f} s" if known else "none")
    cancels = [run.cancel_s for run in runs if run.cancel_s is not None]
    cells += [f"{f(cancels):.2f} s" for f in (statistics.median, max)] if cancels else ["", ""]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
