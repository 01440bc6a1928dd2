#!/usr/bin/env python3
"""Pictures of every page of tandem-report, and what a reader could not see on them.

usage: scripts/screenshots.py [OUT [PAGE...]]   (default: build/screenshots, all; needs chromium)

Pages of the committed runs, and of runs that reports/tests can make, are opened in headless Chromium at 1400
and 800 pixels, light and dark, and printed to PDF. It ends with 1, naming page and element, where a page
scrolls sideways, something is cut off or wider than its cell, a print lacks a folded row, Enter on a header
does not sort, or a figure's point does not say its value. The pictures are for eyes: look at them.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "reports"
FIXTURES = REPORTS / "tests" / "fixtures"
BASELINES = REPORTS / "baselines" / "h200"
WIDTHS = (1400, 800)
SCHEMES = ("light", "dark")

CUT = """
(() => {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth)
    found.push(`the page scrolls sideways: ${document.documentElement.scrollWidth} of ${innerWidth}`);
  const name = (e) => `${e.tagName.toLowerCase()} ${(e.id || e.className.baseVal || e.className || "")} ` +
    JSON.stringify(e.textContent.trim().slice(0, 40));
  for (const e of document.body.querySelectorAll("*")) {
    if (e.closest("svg") && e.tagName !== "svg") continue;
    const style = getComputedStyle(e);
    if (style.display === "none" || style.visibility === "hidden") continue;
    const box = e.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    if (box.right > innerWidth + 1 || box.left < -1) found.push(`outside the page: ${name(e)}`);
    if (style.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 && !e.matches("input"))
      found.push(`cut or scrolled: ${name(e)}`);
    if (e.matches("td, th") && e.scrollWidth > e.clientWidth + 1) found.push(`over its cell: ${name(e)}`);
  }
  for (const svg of document.querySelectorAll("svg.figure")) {
    const frame = svg.getBoundingClientRect();
    for (const part of svg.querySelectorAll("g[id*='text'], g[id*='legend']")) {
      const box = part.getBoundingClientRect();
      if (box.right > frame.right + 1 || box.left < frame.left - 1 || box.bottom > frame.bottom + 1 ||
          box.top < frame.top - 1) found.push(`cut in figure ${svg.getAttribute("aria-label")}: ${part.id}`);
    }
  }
  return found;
})()
"""
UNFOLDED = """
[...document.querySelectorAll("tr.fold")].filter((row) => getComputedStyle(row).display === "none").length
"""


HEADER = "document.querySelector('table.sortable th button')"
SPOT = "document.querySelector('svg.figure .tip')"
CENTRE = f"{SPOT}.scrollIntoView({{block: 'center', behavior: 'instant'}})"
PLACE = f"({CENTRE}, {SPOT}.getBoundingClientRect().toJSON())"


class Browser:
    """Chromium over its debugging pipe: JSON messages that end with a zero byte, on descriptors 3 and 4."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
        ]
        command += [
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            f"--user-data-dir={profile}",
        ]
        wrapped = [
            "sh",
            "-c",
            f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}',
            *command,
        ]
        self._process = subprocess.Popen(
            wrapped,
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = itertools.count(1)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = None
        self._session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        self.call("Page.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 20)
            if not part:
                raise SystemExit("screenshots: chromium has gone")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        number = next(self._number)
        message = {"id": number, "method": method, "params": parameters}
        session = getattr(self, "_session", None)
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                if "error" in answer:
                    raise SystemExit(
                        f"screenshots: {method}: {answer['error']['message']}"
                    )
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise SystemExit(
                f"screenshots: {answer['exceptionDetails']['exception']['description']}"
            )
        return answer["result"].get("value")

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Opens a page and waits until it stands."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media="", features=features)
        self.call("Page.navigate", url=page.as_uri())
        ready = (
            f"location.href === {page.as_uri()!r} && document.readyState === 'complete'"
        )
        while not self.evaluate(ready):
            time.sleep(0.02)

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self.call(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def unreachable(self) -> list[str]:
        """What a keyboard or a pointer does not get at: sorting by a header, the values of a figure."""
        found = []
        self.evaluate(f"{HEADER}.focus()")
        for kind in ("keyDown", "keyUp"):
            key = {
                "key": "Enter",
                "code": "Enter",
                "windowsVirtualKeyCode": 13,
                "text": "\r",
            }
            self.call("Input.dispatchKeyEvent", type=kind, **key)
        if (
            self.evaluate(f"{HEADER}.closest('th').getAttribute('aria-sort')")
            != "ascending"
        ):
            found.append("Enter on the first header does not sort")
        if self.evaluate(f"{SPOT} !== null"):
            box = self.evaluate(PLACE)
            at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", **at)
            if self.evaluate("document.getElementById('tip').hidden"):
                found.append("a point of a figure does not say its value")
        return found

    def close(self) -> None:
        """Ends the browser."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=20)


def tandem_report(*arguments: object) -> None:
    """Runs the command; exit 1 is a verdict and fine."""
    command = [sys.executable, "-m", "tandem_reports", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPORTS, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1, 4):
        raise SystemExit(
            f"screenshots: {' '.join(command)} ended with {done.returncode}"
        )


def history(folder: Path) -> list[Path]:
    """Sixteen runs of six cases; two of them get slower at the tenth."""
    sys.path[:0] = [str(REPORTS), str(REPORTS / "tests")]
    import fixture_runs as made

    cases = [
        made.case("decoder", model=m, batch=b)
        for m in ("t5-base", "bart-large")
        for b in (1, 8, 64)
    ]
    paths = []
    for index in range(16):
        environment = made.gpu_environment(f"nightly-{index:02}")
        environment["created"] = f"2026-02-{index + 1:02}T03:00:00Z"
        environment["git"]["revision"] = hashlib.sha1(str(index).encode()).hexdigest()
        model = made.Model(
            factor=lambda axes, late=index >= 9: (
                1.04 if late and axes["batch"] == 64 else 1.0
            ),
            samples=12,
        )
        path = folder / f"{index:02}"
        made.make_run(
            path,
            cases,
            workers=3,
            seed=index,
            model=model,
            environment=environment,
            keep_samples=False,
        )
        paths.append(path)
    return paths


def kinds_of_runs(folder: Path) -> dict[str, Path]:
    """Runs with the other figures: formats side by side, several cards, a profile."""
    import test_precisions
    import test_scaling

    cases = [
        *test_precisions.grid(),
        *(case | {"suite": "encoder"} for case in test_precisions.grid((8,))),
    ]
    test_precisions.results(folder / "formats", cases, slow={(64, "w4a16"): 1.08})
    layouts = [test_scaling.generate(tp, dp) for tp, dp in test_scaling.TIMES]
    test_scaling.results(folder / "cards", layouts)
    profiled = folder / "profiled"
    shutil.copytree(FIXTURES / "gpu_a", profiled)
    (profiled / "traces").mkdir()
    trace = REPORTS / "tests" / "recorded" / "decoder-transformer-big-node.json"
    shutil.copy(trace, profiled / "traces" / "a.json")
    case = json.loads(trace.read_text())
    line = {
        "schema": "1.0.0",
        "id": case["id"],
        "name": case["name"],
        "status": "ok",
        "reason": None,
    }
    line |= {
        "pass": "node",
        "trace": "traces/a.json",
        "gpu_busy_attributed": 1.0,
        "slowdown": 0.05,
    }
    (profiled / "profiles.jsonl").write_text(json.dumps(line) + "\n")
    return {name: folder / name for name in ("formats", "cards", "profiled")}


def pages(folder: Path) -> dict[str, Path]:
    """Makes all pages and names them."""
    a, b, smoke = FIXTURES / "gpu_a", FIXTURES / "gpu_b", FIXTURES / "cpu_smoke"
    encoder, generate = sorted(path for path in BASELINES.iterdir() if path.is_dir())[
        :2
    ]
    runs = history(folder / "runs")
    kinds = kinds_of_runs(folder)
    for name, runs_of in {
        **{f"report-{kind}": [run] for kind, run in kinds.items()},
        "report": [a], "report-encoder": [encoder], "report-generate": [generate], "report-cpu": [smoke],
        "report-two": [a, b],
    }.items():  # fmt: skip
        tandem_report("report", *runs_of, "--out", folder / name)
    for name, arguments in {
        "compare": ["compare", a, b], "gate": ["gate", a, b], "trend": ["trend", *runs],
        "trend-two": ["trend", *runs[8:10]],
    }.items():  # fmt: skip
        tandem_report(*arguments, "--format", "html", "--out", folder / f"{name}.html")
    found = {
        path.parent.name: path for path in sorted(folder.glob("report*/report.html"))
    }
    return found | {path.stem: path for path in sorted(folder.glob("*.html"))}


def main() -> int:
    """Makes the pictures and prints what is wrong."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "screenshots"
    wanted = sys.argv[2:]
    if out.name.startswith("-"):
        print((__doc__ or "").split("\n\n")[1])
        return 0 if out.name in ("-h", "--help") else 2
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if program is None:
        print(
            "screenshots: no chromium on PATH: apt-get install chromium",
            file=sys.stderr,
        )
        return 2
    out.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tandem-pages-") as folder:
        made = pages(Path(folder))
        unknown = [name for name in wanted if name not in made]
        if unknown:
            print(
                f"screenshots: no page {unknown[0]!r}; there are: {', '.join(made)}",
                file=sys.stderr,
            )
            return 2
        made = {
            name: page for name, page in made.items() if not wanted or name in wanted
        }
        browser = Browser(program, Path(folder) / "profile")
        for (name, page), width, scheme in itertools.product(
            made.items(), WIDTHS, SCHEMES
        ):
            browser.open(page, width, scheme)
            browser.picture(out / f"{name}-{width}-{scheme}.png")
            wrong += [
                f"{name} at {width} {scheme}: {what}" for what in browser.evaluate(CUT)
            ]
            browser.evaluate(
                "document.querySelectorAll('button.more').forEach((each) => each.click())"
            )
            wrong += [
                f"{name} at {width} {scheme}, unfolded: {what}"
                for what in browser.evaluate(CUT)
            ]
        for name, page in made.items():
            browser.open(page, 800, "light")
            wrong += [f"{name}: {what}" for what in browser.unreachable()]
            browser.picture(out / f"{name}-used.png")
            browser.call("Emulation.setEmulatedMedia", media="print", features=[])
            hidden = browser.evaluate(UNFOLDED)
            wrong += [f"{name}, printed: {hidden} rows are folded"] if hidden else []
            browser.picture(out / f"{name}-print.png")
            data = browser.call("Page.printToPDF", printBackground=True)["data"]
            (out / f"{name}.pdf").write_bytes(base64.b64decode(data))
        browser.close()
    for line in dict.fromkeys(wrong):
        print(line)
    print(
        f"screenshots: {len(made) * len(WIDTHS) * len(SCHEMES)} pictures in {out}",
        file=sys.stderr,
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
