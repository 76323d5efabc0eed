"""Whether a ComfyUI server that restores clip after clip keeps its memory and its disk.

    python main.py --cpu --base-directory BASE      in a ComfyUI with this extension
    python -m video_deblur.benchmarks.comfyui_soak --pid PID --temp BASE/temp --json FILE \
        --chart FILE.png

Queues the same small graph again and again, with another seed each time, and looks at the
server's resident memory and at its temporary folder after every run. Several servers, one after
the other, go into one file and one chart. Linux; the server runs on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.demo import DEMO_FOLDER
from ..models.bundled import DEFAULT
from .clips import write_looped

_FRAMES, _WIDTH, _HEIGHT = 8, 96, 64
_WARM = 10
"""Runs until caches, memory pools and compiled kernels have what they will have."""
_TIMEOUT_S = 300
_POLL_S = 0.05


def main() -> None:
    """Queue, sample, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description="Watch a ComfyUI server over many runs.")
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--pid", type=int, required=True, help="process of the server")
    parser.add_argument("--temp", type=Path, required=True, help="its temporary folder")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--graph", help="API-format graph; default: load, deblur, save a video")
    parser.add_argument("--label", default="", help="added to ComfyUI's version in the chart")
    parser.add_argument("--json", type=Path, required=True, help="add the figures to this file")
    parser.add_argument("--chart", type=Path, help="draw all that the file holds into this PNG")
    args = parser.parse_args()
    if args.graph:
        graph = json.loads(Path(args.graph).read_text())
    else:
        graph = _deblur_video_graph(_upload_clip(args.url))
    session = watch(args.url, args.pid, args.temp, graph, args.runs)
    session["label"] = f"{session['version']} {args.label}".strip()
    for name, value in session["figures"].items():
        print(f"{name:32}{value:.4g}")
    sessions = json.loads(args.json.read_text()) if args.json.exists() else []
    args.json.write_text(json.dumps([*sessions, session], indent=1) + "\n")
    if args.chart:
        _draw([*sessions, session], args.chart)


def watch(url: str, pid: int, temp: Path, graph: dict[str, Any], runs: int) -> dict[str, Any]:
    """Run a graph with one seed after the other.

    Returns:
        "version" of ComfyUI, "samples" (one per run: resident MiB, files and MiB in the
        temporary folder) and "figures".
    """
    samples = []
    for seed in range(runs):
        for node in graph.values():
            if "seed" in node["inputs"]:
                node["inputs"]["seed"] = seed
        _run(url, graph)
        files, mib = _content(temp)
        samples.append({"resident_mib": _resident_mib(pid), "files": files, "temp_mib": mib})
        if (seed + 1) % 10 == 0:
            print(seed + 1, samples[-1], flush=True)
    version = _get(f"{url}/system_stats")["system"]["comfyui_version"]
    return {"version": version, "samples": samples, "figures": figures(samples)}


def figures(samples: list[dict[str, float]]) -> dict[str, float]:
    """Compare the first ten runs after the warm-up with the last ten.

    Returns:
        Resident memory at both ends in MiB, its trend in MiB per run (least squares), and what
        lies in the temporary folder at both ends.

    Raises:
        ValueError: If there are too few runs to compare.
    """
    if len(samples) < 3 * _WARM:
        raise ValueError(f"needs at least {3 * _WARM} runs, got {len(samples)}")
    warm = samples[_WARM:]
    resident = np.array([sample["resident_mib"] for sample in warm])
    return {
        "memory after warm-up, MiB": float(resident[:_WARM].mean()),
        "memory at the end, MiB": float(resident[-_WARM:].mean()),
        "memory, MiB per run": float(np.polyfit(np.arange(len(warm)), resident, 1)[0]),
        "temporary files after warm-up": warm[0]["files"],
        "temporary files at the end": warm[-1]["files"],
        "temporary MiB after warm-up": warm[0]["temp_mib"],
        "temporary MiB at the end": warm[-1]["temp_mib"],
    }


def _deblur_video_graph(clip: str) -> dict[str, Any]:
    deblur = {"checkpoint": f"{DEFAULT} (bundled)", "preset": "fast", "strength": 1.0}
    deblur |= {"seed": 0, "codec": "h264", "crf": 14}
    save = {"filename_prefix": "soak/clip", "format": "mp4", "codec": "auto"}
    kinds = ("LoadVideo", "VideoDeblur_DeblurVideo", "SaveVideo")
    inputs = ({"file": clip}, {"video": ["1", 0], **deblur}, {"video": ["2", 0], **save})
    return {
        str(index): {"class_type": kind, "inputs": values}
        for index, (kind, values) in enumerate(zip(kinds, inputs, strict=True), 1)
    }


def _upload_clip(url: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source = str(DEMO_FOLDER / "shake" / "blurry.mp4")
        path = write_looped(Path(folder) / "soak.mp4", [source], _FRAMES, _WIDTH, _HEIGHT)
        clip = path.read_bytes()
    boundary = uuid.uuid4().hex
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="soak.mp4"\r\n'
        f"Content-Type: video/mp4\r\n\r\n"
    )
    body = parts.encode() + clip + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return _post(f"{url}/upload/image", body, kind)["name"]


def _run(url: str, graph: dict[str, Any]) -> None:
    body = json.dumps({"prompt": graph}).encode()
    prompt = _post(f"{url}/prompt", body, "application/json")["prompt_id"]
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        history = _get(f"{url}/history/{prompt}")
        if prompt in history:
            status = history[prompt]["status"]
            if status["status_str"] != "success":
                raise RuntimeError(f"a run failed: {status['messages']}")
            return
        time.sleep(_POLL_S)
    raise TimeoutError(f"a run took longer than {_TIMEOUT_S} s")


def _get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as response:
        return json.load(response)


def _post(address: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _content(folder: Path) -> tuple[int, float]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes) / 2**20


def _draw(sessions: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (memory, disk) = pyplot.subplots(1, 2, figsize=(9, 3.2), dpi=110)
    for session in sessions:
        samples = session["samples"]
        runs = range(1, len(samples) + 1)
        label = f"ComfyUI {session['label']}"
        memory.plot(runs, [sample["resident_mib"] for sample in samples], label=label)
        disk.plot(runs, [sample["files"] for sample in samples], label=label)
    memory.set(xlabel="runs", ylabel="resident memory, MiB", xlim=(0, None))
    disk.set(xlabel="runs", ylabel="files in the temporary folder", xlim=(0, None))
    for axes in (memory, disk):
        axes.set_ylim(0, None)
        axes.legend(loc="best", frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
