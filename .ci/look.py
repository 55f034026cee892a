#!/usr/bin/env python3
"""Look at a report in Chromium, without a network: is all of it shown, a picture of it, and what axe-core finds.

    python .ci/look.py runs/quickstart/report.html --out looks --axe package/axe.min.js
    python .ci/look.py runs/quickstart/report.html --picture docs/report.png

The page is opened at 1280 and 375 pixels, light and dark. The exit status is 1 if an image or a player in it does not
load, the browser refuses or fails something, the page is wider than its window, or axe-core (of npm: `npm pack
axe-core`) finds a fault.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WINDOWS = {
    "1280-light": (1280, "light"),
    "1280-dark": (1280, "dark"),
    "375-light": (375, "light"),
    "375-dark": (375, "dark"),
}
HEIGHT = 800

LOADED = """
(async () => {
  const faults = [];
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const image of document.images) {
    await image.decode().catch((error) => faults.push("image: " + image.alt + ": " + error));
    if (!image.alt) faults.push("image without words: " + image.src.slice(0, 60));
  }
  for (const sound of document.querySelectorAll("audio")) {
    await new Promise((resolve) => {
      sound.onloadedmetadata = resolve;
      sound.onerror = () => { faults.push("player: " + sound.ariaLabel + ": " + sound.error.message); resolve(); };
      sound.preload = "metadata";
      sound.load();
    });
    if (!(sound.duration > 0)) faults.push("player without sound: " + sound.ariaLabel);
  }
  const wider = document.documentElement.scrollWidth - innerWidth;
  if (wider > 0) faults.push("the page is " + wider + " pixels wider than its window");
  const counted = [document.images.length + " images", document.querySelectorAll("audio").length + " players"];
  return JSON.stringify({ counted, faults });
})()
"""
AXE = """
axe.run(document, { resultTypes: ["violations"] }).then((found) => JSON.stringify(found.violations.map(
  (each) => [each.impact, each.id, each.help, ...each.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))]
    .join(": "))))
"""


class Browser:
    """Chromium, spoken to through a pair of pipes."""

    def __init__(self, program: str, folder: str) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def connect() -> None:  # the browser reads from 3 and writes to 4
            reading, writing = os.dup(to_browser), os.dup(from_browser)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            [program, *options, f"--user-data-dir={folder}", "about:blank"],
            close_fds=False,
            preexec_fn=connect,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[Mapping[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command of Chrome's DevTools protocol, and wait for its result; events are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                if "error" in found:
                    raise SystemExit(f"{method}: {found['error']['message']}")
                return found["result"]

    def wait_for(self, event: str) -> None:
        """Wait for an event that has not come yet."""
        while all(each.get("method") != event for each in self.events):
            self._next()

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise SystemExit(f"a script failed: {found['exceptionDetails']}")
        return found["result"].get("value")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _next(self) -> Mapping[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 20)
            if not part:
                raise SystemExit("Chromium has ended")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: Mapping[str, Any] = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found


def look(browser: Browser, page: Path, width: int, scheme: str) -> None:
    """Open the page in a window of this width."""
    browser.events.clear()
    screen = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.ask("Emulation.setDeviceMetricsOverride", **screen)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.ask("Page.navigate", url=page.resolve().as_uri())
    browser.wait_for("Page.loadEventFired")


def picture(browser: Browser, out: Path, *, whole: bool) -> None:
    """Write what is shown as PNG: the window, or the whole page."""
    parameters: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
    if whole:
        size = browser.ask("Page.getLayoutMetrics")["cssContentSize"]
        parameters["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(base64.b64decode(browser.ask("Page.captureScreenshot", **parameters)["data"]))


def refused(events: list[Mapping[str, Any]]) -> list[str]:
    """What the browser complained of: requests, the page's policy, scripts."""
    found = [each["params"]["entry"]["text"] for each in events if each["method"] == "Log.entryAdded"]
    found += [str(each["params"]["exceptionDetails"]) for each in events if each["method"] == "Runtime.exceptionThrown"]
    urls = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    return found + [f"a request: {url}" for url in urls if not url.startswith(("file:", "data:"))]


def main() -> int:
    """Look, print what was found, and say by the exit status whether all is well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path, metavar="REPORT", help="the page: RUN/report.html")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only make a picture of its first screen")
    parser.add_argument("--windows", nargs="+", choices=WINDOWS, default=list(WINDOWS), help="default: all of them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep pictures of the whole page")
    parser.add_argument("--axe", type=Path, metavar="FILE", help="axe.min.js of axe-core")
    options = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("there is no Chromium here: apt-get install chromium", file=sys.stderr)
        return 2
    good = True
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            if options.picture is not None:
                look(browser, options.page, *WINDOWS["1280-light"])
                picture(browser, options.picture, whole=False)
                return 0
            for name in options.windows:
                look(browser, options.page, *WINDOWS[name])
                found = json.loads(browser.evaluate(LOADED))
                faults = [*found["faults"], *refused(browser.events)]
                if options.axe is not None:
                    browser.evaluate(options.axe.read_text(encoding="utf-8"))
                    faults += [f"axe: {each}" for each in json.loads(browser.evaluate(AXE))]
                if options.out is not None:
                    picture(browser, options.out / f"{name}.png", whole=True)
                print(f"{name}: {', '.join(found['counted'])}; faults: {len(faults)}")
                print(*(f"  {fault}" for fault in faults), sep="\n", end="\n" if faults else "")
                good = good and not faults
        finally:
            browser.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
