"""Chromium without a window, driven over a pipe with the DevTools protocol: no port, no package, no network."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from contextlib import suppress
from time import monotonic

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
WHY_NOT = (
    "needs Chromium (Debian: apt-get install chromium)"
    if PROGRAM is None
    else "needs pipes that a child inherits"
    if os.name == "nt"
    else ""
)
#: Gives its two pipes the numbers 3 and 4, at which Chromium reads commands and writes answers.
_LAUNCH = (
    "import os, sys; a, b = (os.dup(int(n)) for n in sys.argv[1:3]); a, b = os.dup(a), os.dup(b); "
    "a, b = (os.dup2(fd, 20 + k) for k, fd in enumerate((a, b))); os.dup2(a, 3); os.dup2(b, 4); "
    "os.execvp(sys.argv[3], sys.argv[3:])"
)
_SECONDS = 60  # for any answer


class Browser:
    """One Chromium with one page.

    Parameters
    ----------
    profile : an empty folder for its files
    """

    def __init__(self, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            "--no-first-run", "--no-default-browser-check", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), PROGRAM, *arguments],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._rest, self._number, self._session = ours_in, ours_out, b"", 0, None
        self.events = []  #: what the page has reported: (method, params)
        (page,) = [each for each in self._ask("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **params):
        """Send a command to the page; return its result."""
        return self._ask(method, **params)

    def open(self, address, width=1280, height=900, dark=False):
        """Load a page and wait until it has loaded."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=address)
        self._until(lambda: any(method == "Page.loadEventFired" for method, _ in self.events), "the page to load")

    def run(self, script):
        """The value of a JavaScript expression in the page; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition):
        """Wait until a JavaScript expression is true."""
        self._until(lambda: self.run(condition), condition)

    def problems(self):
        """What the page has complained about: messages of errors and warnings, and exceptions."""
        found = [str(params) for method, params in self.events if method == "Runtime.exceptionThrown"]
        for method, params in self.events:
            if method == "Runtime.consoleAPICalled" or method == "Log.entryAdded":
                found.append(str(params))
        return found

    def requests(self):
        """The addresses that the page has asked for."""
        return [params["request"]["url"] for method, params in self.events if method == "Network.requestWillBeSent"]

    def picture(self, whole=True):
        """A picture of the page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def close(self):
        """End Chromium."""
        with suppress(OSError):  # it may have ended already
            self._send("Browser.close", {}, None)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _ask(self, method, **params):
        number = self._send(method, params, self._session)
        end = monotonic() + _SECONDS
        while True:
            message = self._receive(end, method)
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]

    def _send(self, method, params, session):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return self._number

    def _until(self, is_true, what):
        end = monotonic() + _SECONDS
        while not is_true():
            assert monotonic() < end, f"waited in vain for {what}"
            if b"\0" in self._rest or select.select([self._in], [], [], 0.05)[0]:
                self._receive(end, what)

    def _receive(self, end, what):
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], max(0, end - monotonic()))[0], f"no answer: {what}"
            piece = os.read(self._in, 2**20)
            assert piece, "Chromium has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(message)
        if "method" in found:
            self.events.append((found["method"], found["params"]))
        return found
