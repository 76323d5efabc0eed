"""ComfyUI's own page in a headless Chromium, used as a person would use it.

Playwright is imported only when a browser starts, so that collecting tests needs neither it
nor Chromium.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Older pages have the button within what newer ones call so.
_RUN_BUTTON = 'button[data-testid="queue-button"], [data-testid="queue-button"] button'
_CANCEL_BUTTON = 'button[aria-label="Cancel current run"]'
_END_OF_RUN = ["execution_success", "execution_error", "execution_interrupted"]

_RECORD_EVENTS = """
() => {
  window.testEvents = [];
  const kinds = ['execution_start', 'execution_success', 'execution_error',
                 'execution_interrupted', 'executed', 'progress', 'b_preview'];
  for (const kind of kinds) {
    app.api.addEventListener(kind, (event) => window.testEvents.push({
      kind, data: kind === 'b_preview' ? {size: event.detail.size} : event.detail}));
  }
}
"""

_DROP_FILE = """
([name, text]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name, {type: 'application/json'}));
  document.querySelector('#graph-canvas').dispatchEvent(new DragEvent('drop', {
    bubbles: true, cancelable: true, clientX: 400, clientY: 300, dataTransfer: transfer}));
}
"""

_HAS_NODES = """
(expected) => {
  const nodes = app.graph._nodes.map((node) => `${node.id} ${node.type}`).sort();
  return JSON.stringify(nodes) === JSON.stringify(expected);
}
"""


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def launch_chromium(executable: str) -> Iterator[Browser]:
    """Run a headless browser for the length of a `with` block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def new_context(browser: Browser) -> BrowserContext:
    """Return a browser window with nothing remembered, of a common size."""
    size: ViewportSize = {"width": 1600, "height": 900}
    return browser.new_context(viewport=size)


class ComfyPage:
    """One tab with ComfyUI's page; `page` is playwright's, for what the methods lack."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        """Uncaught exceptions and console errors of the page so far."""
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._on_console)

    def open(self, node_type: str, timeout: float = 180) -> None:
        """Open the page and wait until the app runs and knows `node_type`."""
        self.page.goto(self.url, timeout=timeout * 1000)
        self.page.wait_for_function(
            "([type, button]) => Boolean(window.app?.graph && window.LiteGraph"
            " && LiteGraph.registered_node_types[type] && document.querySelector(button))",
            arg=[node_type, _RUN_BUTTON],
            timeout=timeout * 1000,
        )
        self.page.evaluate(_RECORD_EVENTS)

    def drop_workflow(self, path: Path, timeout: float = 30) -> None:
        """Drop a workflow file (UI format) on the canvas and wait until its nodes are there."""
        text = path.read_text()
        nodes = json.loads(text)["nodes"]
        self.page.evaluate(_DROP_FILE, [path.name, text])
        expected = sorted(f"{node['id']} {node['type']}" for node in nodes)
        self.page.wait_for_function(_HAS_NODES, arg=expected, timeout=timeout * 1000)

    def click_run(self) -> None:
        """Forget the events of earlier runs and click the Run button."""
        self.page.evaluate("() => { window.testEvents.length = 0; }")
        self._lift_mask()
        self.page.locator(_RUN_BUTTON).first.click()

    def click_cancel(self) -> None:
        """Click the button that cancels the current run."""
        self.page.locator(_CANCEL_BUTTON).click()

    def wait_for_event(self, *kinds: str, timeout: float = 60) -> dict[str, Any]:
        """Wait for the first event of one of these kinds since the last Run click.

        Returns:
            `{"kind": ..., "data": ...}`; data is what ComfyUI's page hands its listeners.
        """
        found = "(kinds) => window.testEvents.find((event) => kinds.includes(event.kind))"
        handle = self.page.wait_for_function(found, arg=list(kinds), timeout=timeout * 1000)
        return handle.json_value()

    def wait_for_end(self, timeout: float = 60) -> dict[str, Any]:
        """Wait for the end of a run: success, error or interrupted, as an event."""
        return self.wait_for_event(*_END_OF_RUN, timeout=timeout)

    def run(self, timeout: float = 60) -> dict[str, Any]:
        """Click Run and wait for its end."""
        self.click_run()
        return self.wait_for_end(timeout)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events since the last Run click, all kinds or only those named."""
        recorded = self.page.evaluate("() => window.testEvents")
        return [event for event in recorded if not kinds or event["kind"] in kinds]

    def set_widget(self, node_id: int, name: str, value: Any) -> None:
        """Set a widget of a node on the canvas, through its callback as typing would."""
        self.page.evaluate(
            """([id, name, value]) => {
                 const node = app.graph.getNodeById(id);
                 const widget = node?.widgets?.find((widget) => widget.name === name);
                 if (!widget) throw new Error(`node ${id} has no widget "${name}"`);
                 widget.value = value;
                 widget.callback?.(value, app.canvas, node);
               }""",
            [node_id, name, value],
        )

    def graph_to_prompt(self) -> dict[str, Any]:
        """Return the canvas in API format, as Run would queue it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def dialogs(self) -> list[str]:
        """Return the texts of the dialogs and messages now open over the canvas."""
        return self.page.locator(".p-dialog, .p-toast-message").all_inner_texts()

    def fit_view(self) -> None:
        """Move the view so that the whole graph shows, as the "." key does."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(500)

    def screenshot(self, path: Path) -> Path:
        """Save a picture of the page."""
        self.page.screenshot(path=str(path))
        return path

    def _lift_mask(self) -> None:
        """Remove a mask that fades out and stays: its last event gets lost under load."""
        self.page.wait_for_timeout(300)
        self.page.evaluate(
            "() => document.querySelectorAll('.p-overlay-mask-leave')"
            ".forEach((mask) => mask.remove())"
        )

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)
