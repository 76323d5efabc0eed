"""The soak queues every run with another seed and tells growth from flat."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from video_deblur.benchmarks.comfyui_soak import figures, watch


def samples(num_runs, leak_mib=0.0, files_per_run=0):
    return [
        {
            "resident_mib": 900 + leak_mib * run,
            "files": 1 + files_per_run * run,
            "temp_mib": 1.0,
        }
        for run in range(num_runs)
    ]


def test_flat_and_growing_memory_are_told_apart():
    assert figures(samples(100))["memory, MiB per run"] == pytest.approx(0, abs=1e-6)
    leaking = figures(samples(100, leak_mib=0.5, files_per_run=1))
    assert leaking["memory, MiB per run"] == pytest.approx(0.5)
    assert leaking["memory at the end, MiB"] - leaking["memory after warm-up, MiB"] == 40
    assert leaking["temporary files at the end"] == 100


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="at least 30 runs"):
        figures(samples(29))


@pytest.fixture
def server():
    """What the soak asks of a ComfyUI; every run succeeds but that of seed 31."""
    seeds = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seeds.append(body["prompt"]["1"]["inputs"]["seed"])
            self._answer({"prompt_id": str(seeds[-1])})

        def do_GET(self):
            seed = self.path.rpartition("/")[2]
            status = {"status_str": "error" if seed == "31" else "success", "messages": [seed]}
            known = {"system": {"comfyui_version": "1.2.3"}}
            self._answer(known if seed == "system_stats" else {seed: {"status": status}})

        def _answer(self, content):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seeds
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_run_has_another_seed_and_a_sample(server, tmp_path):
    url, seeds = server
    (tmp_path / "left.mp4").write_bytes(b"0" * 2**20)
    graph = {"1": {"inputs": {"seed": 7}}, "2": {"inputs": {}}}
    session = watch(url, os.getpid(), tmp_path, graph, 30)
    assert seeds == list(range(30))
    assert session["version"] == "1.2.3"
    assert len(session["samples"]) == 30
    last = session["samples"][-1]
    assert (last["files"], last["temp_mib"]) == (1, 1.0)
    assert last["resident_mib"] > 10


def test_a_run_that_fails_ends_the_soak(server, tmp_path):
    with pytest.raises(RuntimeError, match="a run failed"):
        watch(server[0], os.getpid(), tmp_path, {"1": {"inputs": {"seed": 0}}}, 40)
