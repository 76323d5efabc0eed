"""A real ComfyUI server as a subprocess, driven over HTTP and its websocket.

All its folders (input, output, temp, user, models, custom_nodes) are under a base folder of the
caller's, so that the checkout of ComfyUI is only read. Runs in ComfyUI's own environment, which
has aiohttp; `requests` must be there besides. Tests of the nodes use it, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER_NAME = "video-deblur"
"""Name of the extension's folder under `custom_nodes/`, as the registry installs it."""

_START_TIMEOUT_S = 300
_REQUEST_TIMEOUT_S = 120
_POLL_S = 0.05
_PREVIEW_IMAGE = 1  # protocol.BinaryEventTypes
_TEXT = 3
_PREVIEW_IMAGE_WITH_METADATA = 4


def wants_gpu() -> bool:
    """Tell whether `COMFYUI_DEVICE=gpu` asks to run ComfyUI on its own choice of device."""
    return os.environ.get("COMFYUI_DEVICE", "cpu") == "gpu"


def make_base_directory(base: Path, repository: Path) -> Path:
    """Lay out a ComfyUI base folder whose only custom node is a link to `repository`."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / FOLDER_NAME
    if not link.is_symlink():
        link.symlink_to(repository, target_is_directory=True)
    return base


class PromptRejectedError(RuntimeError):
    """The server refused a graph before running it (the message holds its reasons)."""


class ExecutionFailedError(RuntimeError):
    """A node raised; the message is `<node type>: <exception message>`."""


class ExecutionInterruptedError(RuntimeError):
    """The run was cancelled."""


@dataclass(frozen=True)
class Event:
    """One websocket message: `data` is the JSON payload, or the image bytes of a `preview`."""

    kind: str
    data: Any
    time_s: float = field(default_factory=time.monotonic)


class ComfyServer:
    """Start with `start`, end with `stop`."""

    def __init__(self, comfyui_path: Path, base: Path) -> None:
        self.comfyui_path = comfyui_path
        self.base = base
        self.log_path = base / "server.log"
        self.client_id = uuid.uuid4().hex
        self.options: list[str] = []
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None
        self._listener: _Listener | None = None

    def start(self) -> None:
        """Start the process and return once `/object_info` answers."""
        command = [sys.executable, str(self.comfyui_path / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-api-nodes", "--disable-auto-launch"]
        command += ["--preview-method", "latent2rgb"]
        command += [] if wants_gpu() else ["--cpu"]
        command += self.options
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.base
            )
        self._wait_until_ready()
        # The first visit of a user opens a dialog with templates over the page.
        self.change_setting("Comfy.TutorialCompleted", True)
        self._listener = _Listener(self.port, self.client_id)
        self._listener.start()

    def stop(self) -> None:
        """End the process (and only it)."""
        if self._listener is not None:
            self._listener.stop()
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def upload(self, path: Path, name: str | None = None) -> str:
        """Put an image or a video into the input folder; return the name loaders know it by."""
        name = name or path.name
        with path.open("rb") as file:
            form = {"image": (name, file)}
            return self._post("/upload/image", files=form, data={"overwrite": "true"})["name"]

    def queue(self, graph: dict[str, Any]) -> str:
        """Queue an API-format graph and return its prompt id.

        Raises:
            PromptRejectedError: If the graph does not validate.
        """
        import requests

        body = {"prompt": graph, "client_id": self.client_id}
        response = requests.post(f"{self.url}/prompt", json=body, timeout=_REQUEST_TIMEOUT_S)
        if response.status_code != 200:
            raise PromptRejectedError(response.text)
        return response.json()["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 60) -> dict[str, Any]:
        """Wait for the end of a run and return its history entry.

        Raises:
            ExecutionFailedError: If a node raised.
            ExecutionInterruptedError: If the run was cancelled.
            TimeoutError: If it has not ended after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            history = self._get(f"/history/{prompt_id}")
            if prompt_id in history:
                _raise_if_failed(history[prompt_id])
                return history[prompt_id]
            time.sleep(_POLL_S)
        raise TimeoutError(f"prompt {prompt_id} did not end in {timeout} s\n{self.log_tail()}")

    def run(self, graph: dict[str, Any], timeout: float = 60) -> list[Path]:
        """Queue a graph, wait for its end and return the files it wrote."""
        return self.outputs(self.wait(self.queue(graph), timeout))

    def wait_for_event(self, kind: str, since: int = 0, timeout: float = 60) -> Event:
        """Wait for the first event of a kind among `events()[since:]`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for event in self.events()[since:]:
                if event.kind == kind:
                    return event
            time.sleep(_POLL_S)
        raise TimeoutError(f"no {kind!r} event in {timeout} s\n{self.log_tail()}")

    def outputs(self, history: dict[str, Any]) -> list[Path]:
        """Return the files of a history entry (saved and previewed), in node order."""
        return [
            self.base / entry["type"] / entry.get("subfolder", "") / entry["filename"]
            for node_outputs in history["outputs"].values()
            for entries in node_outputs.values()
            for entry in entries
            if isinstance(entry, dict) and "filename" in entry
        ]

    def interrupt(self) -> None:
        """Cancel the run in progress."""
        self._post("/interrupt", json={})

    def object_info(self) -> dict[str, Any]:
        """Return the schemas of all nodes, by node id."""
        return self._get("/object_info")

    def locales(self) -> dict[str, Any]:
        """Return the texts that extensions bring, by language."""
        return self._get("/i18n")

    def change_setting(self, name: str, value: Any) -> None:
        """Change a setting that the page reads when it opens."""
        self._post("/settings", json={name: value})

    def events(self, *kinds: str) -> list[Event]:
        """Return what the websocket told so far, all kinds or only those named.

        `progress` has data `{"value", "max", "prompt_id", "node"}`; `preview` has the encoded
        image as bytes; `text` is the id of a node and the line it shows; the rest is as ComfyUI
        sends it (`executing`, `execution_error`, ...).
        """
        assert self._listener is not None
        recorded = list(self._listener.events)
        return [event for event in recorded if not kinds or event.kind in kinds]

    def log_text(self) -> str:
        """Return everything the server has printed."""
        return self.log_path.read_text(errors="replace")

    def log_tail(self, num_lines: int = 30) -> str:
        """Return the last lines the server has printed."""
        return "\n".join(self.log_text().splitlines()[-num_lines:])

    def memory_bytes(self) -> int:
        """Return the resident memory of the server process (Linux)."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def _wait_until_ready(self) -> None:
        import requests

        assert self._process is not None
        end = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting\n{self.log_tail()}")
            try:
                if requests.get(f"{self.url}/object_info", timeout=10).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.2)
        self.stop()
        raise TimeoutError(f"ComfyUI did not start in {_START_TIMEOUT_S} s\n{self.log_tail()}")

    def _get(self, route: str) -> Any:
        import requests

        response = requests.get(self.url + route, timeout=_REQUEST_TIMEOUT_S)
        response.raise_for_status()
        return response.json()

    def _post(self, route: str, **body: Any) -> Any:
        import requests

        response = requests.post(self.url + route, timeout=_REQUEST_TIMEOUT_S, **body)
        response.raise_for_status()
        return response.json() if response.content else None


class _Listener(threading.Thread):
    """Record websocket messages until stopped; aiohttp is one of ComfyUI's requirements."""

    def __init__(self, port: int, client_id: str) -> None:
        super().__init__(daemon=True)
        self.events: list[Event] = []
        self._url = f"ws://127.0.0.1:{port}/ws?clientId={client_id}"
        self._loop = asyncio.new_event_loop()
        self._connected = threading.Event()
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        super().start()
        if not self._connected.wait(20):
            raise TimeoutError(f"no websocket connection to {self._url} in 20 s")

    def stop(self) -> None:
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join(10)

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._listen())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        import aiohttp

        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self._url, max_msg_size=0) as websocket,
        ):
            self._connected.set()
            async for message in websocket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    payload = json.loads(message.data)
                    self.events.append(Event(payload["type"], payload.get("data")))
                elif message.type is aiohttp.WSMsgType.BINARY:
                    self._add_binary(message.data)

    def _add_binary(self, data: bytes) -> None:
        kind, second = struct.unpack(">II", data[:8])
        if kind == _TEXT:  # `second` is the length of the node's id
            node, text = data[8 : 8 + second].decode(), data[8 + second :].decode()
            self.events.append(Event("text", f"{node} {text}"))
        if kind == _PREVIEW_IMAGE:
            self.events.append(Event("preview", data[8:]))
        elif kind == _PREVIEW_IMAGE_WITH_METADATA:  # `second` is the length of the metadata
            self.events.append(Event("preview", data[8 + second :]))


def _raise_if_failed(history: dict[str, Any]) -> None:
    for kind, data in history["status"]["messages"]:
        if kind == "execution_error":
            message = data["exception_message"].strip()
            raise ExecutionFailedError(f"{data['node_type']}: {message}")
        if kind == "execution_interrupted":
            raise ExecutionInterruptedError(f"cancelled in {data.get('node_type')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
