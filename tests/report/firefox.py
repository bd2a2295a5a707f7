"""Control of Firefox through its Marionette protocol, with the standard library only.

It runs on a screen of Xvfb, because headless Firefox offers no WebGL without a GPU."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FIREFOX = next((path for name in ("firefox-esr", "firefox") if (path := shutil.which(name))), None)
"""The browser of this machine, None without one."""
XVFB = shutil.which("Xvfb")
TIMEOUT = 60.0
PREFERENCES = {
    "marionette.port": 0,
    "webgl.force-enabled": True,  # also without a GPU
    "browser.dom.window.dump.enabled": True,
    "devtools.console.stdout.content": True,
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}


class Firefox:
    """One page in a Firefox, with the methods of ``browser.Browser`` that tests of both browsers use."""

    def __init__(self, profile: Path, width: int = 1400, height: int = 1000) -> None:
        assert FIREFOX is not None and XVFB is not None
        reads, writes = os.pipe()
        screen = [XVFB, "-displayfd", str(writes), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"]
        self._screen = subprocess.Popen(screen, pass_fds=[writes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(writes)
        with os.fdopen(reads) as answer:
            display = answer.readline().strip()
        assert display, "Xvfb did not start"
        profile.mkdir(parents=True, exist_ok=True)
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        self._log = profile / "output.txt"
        command = [FIREFOX, "--marionette", "--no-remote", "--profile", str(profile)]
        command += [f"--width={width}", f"--height={height}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(profile), "DISPLAY": f":{display}", "LIBGL_ALWAYS_SOFTWARE": "1"},
            )
        port_file, deadline = profile / "MarionetteActivePort", time.monotonic() + TIMEOUT
        while not (port_file.is_file() and port_file.read_text().strip()):
            assert time.monotonic() < deadline and self._process.poll() is None, self._log.read_text(errors="replace")
            time.sleep(0.05)
        self._socket = socket.create_connection(("127.0.0.1", int(port_file.read_text())), TIMEOUT)
        self._buffer = b""
        self._number = 0
        self._receive()
        self.call("WebDriver:NewSession")
        self.call("WebDriver:SetWindowRect", width=width, height=height)

    def __enter__(self) -> Firefox:
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()
        for process in (self._process, self._screen):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def errors(self) -> list[str]:
        """Return errors and warnings of the page that Firefox has printed."""
        lines = self._log.read_text(errors="replace").splitlines()
        page = [line for line in lines if line.startswith("JavaScript") and "file://" in line]
        # RSLoader is a part of the browser that wants the network
        console = [
            line for line in lines if line.startswith(("console.error", "console.warn")) and "RSLoader" not in line
        ]
        return page + console

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        text = json.dumps([0, self._number, method, parameters]).encode()
        self._socket.sendall(str(len(text)).encode() + b":" + text)
        _, number, error, result = self._receive()
        assert number == self._number and error is None, error
        return result["value"] if isinstance(result, dict) and set(result) == {"value"} else result

    def open(self, path: Path) -> None:
        """Load a file and wait until it has run."""
        self.call("WebDriver:Navigate", url=path.resolve().as_uri())

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        return self.call("WebDriver:ExecuteScript", script=f"return ({script});", args=[], newSandbox=False)

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.run(
            f"new Promise((done) => {{ const timer = setInterval(() => {{ if ({condition}) {{"
            "clearInterval(timer); done(); } }, 20); })"
        )

    def move(self, x: float, y: float) -> None:
        """Move the pointer without a button."""
        self._pointer([self._to(x, y)])

    def drag(self, path: Sequence[tuple[float, float]], modifiers: int = 0) -> None:
        """Press, follow a path, release; without modifiers."""
        assert not modifiers
        steps = [self._to(*path[0]), {"type": "pointerDown", "button": 0}, *(self._to(*point) for point in path[1:])]
        self._pointer([*steps, {"type": "pointerUp", "button": 0}])

    def picture(self, path: Path, whole: bool = False) -> None:
        """Save the visible part or the whole page as PNG."""
        path.write_bytes(base64.b64decode(self.call("WebDriver:TakeScreenshot", full=whole)))

    def _pointer(self, actions: list[dict[str, Any]]) -> None:
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.call("WebDriver:PerformActions", actions=[mouse])

    @staticmethod
    def _to(x: float, y: float) -> dict[str, Any]:
        return {"type": "pointerMove", "duration": 0, "origin": "viewport", "x": round(x), "y": round(y)}

    def _receive(self) -> Any:
        while b":" not in self._buffer:
            self._read()
        size, _, self._buffer = self._buffer.partition(b":")
        while len(self._buffer) < int(size):
            self._read()
        text, self._buffer = self._buffer[: int(size)], self._buffer[int(size) :]
        return json.loads(text)

    def _read(self) -> None:
        data = self._socket.recv(1 << 16)
        assert data, "the browser has ended"
        self._buffer += data
