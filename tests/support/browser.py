"""A headless Chromium, spoken to through its DevTools pipe."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE_S = 120


def find_browser() -> str:
    """Return the browser's path; without one the test is skipped, and on CI it fails."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"no browser: install one of {', '.join(_NAMES)}")
    if found is None:
        pytest.skip(f"no browser: one of {', '.join(_NAMES)}")
    return found


class Browser:
    """One tab.

    Args:
        send, receive: file descriptors of the DevTools pipe.
    """

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive = send, receive
        self.count, self.rest, self.events = 0, b"", list[dict[str, Any]]()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a DevTools method and return its result; events on the way are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        began = time.monotonic()
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.receive], [], [], 1.0)
            if ready:
                read = os.read(self.receive, 1 << 20)
                assert read, "the browser ended"
                self.rest += read
            assert time.monotonic() - began < _PATIENCE_S, "the browser does not answer"
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int, height: int, mobile: bool) -> list[str]:
        """Open a page in a window of this size; returns what the console said in the meantime."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        self.evaluate("1")
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in said]

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@contextmanager
def browser(scratch: Path) -> Iterator[Browser]:
    """Run a browser with a profile of its own."""
    command = f"exec {find_browser()} --headless --no-sandbox --disable-gpu --remote-debugging-pipe"
    to_read, send = os.pipe()
    receive, to_write = os.pipe()
    process = subprocess.Popen(
        ["bash", "-c", f'{command} --user-data-dir="{scratch}" 3<&{to_read} 4>&{to_write}'],
        pass_fds=[to_read, to_write],
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(send, receive)
    finally:
        process.kill()
        process.wait()
        os.close(send)
        os.close(receive)
