"""A headless Chromium that opens a page, listens to its console, presses keys and moves the mouse.

It speaks the browser's own DevTools protocol over a websocket; nothing needs to be downloaded for it.
"""

import base64
import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import websocket


class Page:
    """One open page. ``errors`` collects what the console and failed requests report."""

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.numbers = itertools.count(1)
        self.errors: list[str] = []

    def call(self, method: str, **parameters) -> dict:
        """Call the protocol and wait for its answer; events that arrive meanwhile are looked at."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := self.receive()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self) -> dict:
        answer = json.loads(self.socket.recv())
        what, about = answer.get("method"), answer.get("params", {})
        if what == "Runtime.exceptionThrown":
            self.errors.append(str(about["exceptionDetails"])[:500])
        elif what == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.errors.append(str(about["args"])[:500])
        elif what == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        elif what == "Network.loadingFailed":
            self.errors.append(f"a request failed: {about['errorText']}")
        return answer

    def open(self, uri: str, dark: bool = False, width: int = 1200, height: int = 900) -> None:
        """Load a page and wait until it has loaded. Nothing moves, as for people who want that."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        wants = {"color-scheme": "dark" if dark else "light", "reduced-motion": "reduce"}
        features = [{"name": f"prefers-{name}", "value": value} for name, value in wants.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url=uri)
        while self.receive().get("method") != "Page.loadEventFired":
            pass

    def ask(self, expression: str) -> object:
        """The value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, e.g. ArrowRight, on what has the focus."""
        code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "End": 35}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def click(self, x: float, y: float) -> None:
        """Press and release the mouse at a point of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser of our own with an empty profile; it ends with the block."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--no-first-run", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"ws://(\S+?)/", line):
                break
        else:
            raise RuntimeError("chromium did not start")
        with urlopen(f"http://{found[1]}/json/list") as answer:
            (tab,) = [each for each in json.load(answer) if each["type"] == "page"]
        yield Page(tab["webSocketDebuggerUrl"])
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stderr.close()
