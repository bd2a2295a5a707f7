"""Control of a headless Chromium through its debugging pipe, with the standard library only."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
"""The browser of this machine, None without one."""
TIMEOUT = 60.0
SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
# the browser reads from descriptor 3 and writes to 4
_START = """
import os, sys
read, write = (os.dup(os.dup(os.dup(os.dup(int(n))))) for n in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page in a headless Chromium.

    ``errors`` collects what the page's console reports: exceptions, errors and warnings, and requests of any kind
    beyond the page itself. Without `webgl`, the browser offers none.
    """

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000, webgl: bool = True) -> None:
        assert CHROMIUM is not None
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [
            *(sys.executable, "-c", _START, str(to_browser), str(from_browser), CHROMIUM, "--headless=new"),
            *("--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage"),
            *("--disable-background-networking", f"--user-data-dir={profile}", f"--window-size={width},{height}"),
            *(SOFTWARE_WEBGL if webgl else ("--disable-gpu", "--disable-3d-apis")),
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def open(self, path: Path) -> None:
        """Load a file and wait until it has run."""
        self._events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + TIMEOUT
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            assert time.monotonic() < deadline, "the page did not load"
            self._receive()

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true, at most ``TIMEOUT``."""
        self.run(
            f"new Promise((done) => {{ const timer = setInterval(() => {{ if ({condition}) {{"
            "clearInterval(timer); done(); } }, 20); })"
        )

    def mouse(self, kind: str, x: float, y: float, button: str = "left", modifiers: int = 0) -> None:
        """Send a real mouse event: ``Pressed``, ``Moved`` or ``Released``."""
        held = 1 if button == "left" and kind != "Released" else 0
        self.call(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button=button if kind != "Moved" or held else "none",
            buttons=held,
            clickCount=1,
            modifiers=modifiers,
        )

    def move(self, x: float, y: float) -> None:
        """Move the pointer without a button."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="none", buttons=0)

    def drag(self, path: Sequence[tuple[float, float]], modifiers: int = 0) -> None:
        """Press, follow a path, release."""
        self.mouse("Pressed", *path[0], modifiers=modifiers)
        for x, y in path[1:]:
            self.mouse("Moved", x, y, modifiers=modifiers)
        self.mouse("Released", *path[-1], modifiers=modifiers)

    def click(self, selector: str) -> None:
        """Click at the center of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
        )
        self.drag([(x, y)])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save the visible part or the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._read, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        method, details = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            described = details["exceptionDetails"]
            self.errors.append(str(described.get("exception", {}).get("description", described["text"])))
        elif method == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.errors.append(str(details["args"]))
        elif method == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.errors.append(details["entry"]["text"])
        elif method == "Network.requestWillBeSent" and details["type"] != "Document":
            self.errors.append(f"request: {details['request']['url'][:100]}")
