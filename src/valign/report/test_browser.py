"""The page in a real browser: it draws, its script runs, no network is asked, and nothing overflows."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from valign.report.html import render
from valign.report.watch import watch_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
    ),
]


def chromium(folder: Path, *args: str) -> tuple[str, list[str]]:
    """(stdout, console messages) of one headless run with a profile of its own."""
    profile = folder / "profile"
    done = subprocess.run(
        [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *args],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def pixels(path: Path) -> tuple[int, int, int]:
    """(width, height, distinct bytes of the picture's data) of a PNG."""
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    parts, at = b"", 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            parts += data[at + 8 : at + 8 + size]
        at += 12 + size
    return width, height, len(set(zlib.decompress(parts)))


@pytest.mark.parametrize(("width", "height"), [(1280, 3000), (500, 3000)])
def test_the_page_is_drawn_without_a_complaint(
    tmp_path: Path, seven: dict[str, Any], width: int, height: int
):
    page = tmp_path / "report.html"
    page.write_text(render(seven), encoding="utf-8")
    shot = tmp_path / "shot.png"
    _, console = chromium(tmp_path, f"--window-size={width},{height}", f"--screenshot={shot}", page.as_uri())
    assert console == []
    found = pixels(shot)
    assert found[:2] == (width, height) and found[2] > 100, "a blank picture"


def test_the_script_runs_under_its_own_policy(tmp_path: Path, seven: dict[str, Any]):
    page = tmp_path / "report.html"
    page.write_text(render(seven), encoding="utf-8")
    dom, console = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert console == [] and re.search(r'<html[^>]*class="js"', dom)
    assert "6 of 18 shown" in dom, "the sample filter did not run"


def test_nothing_overflows_on_desktop_or_phone(tmp_path: Path, seven: dict[str, Any], run_folder: Path):
    """The page is as wide as the window: 390 and 1280 pixels, the report and the page of a run."""
    probe = "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script></body>"
    frames = []
    for name, html in (("report", render(seven)), ("watch", watch_page(run_folder))):
        free = re.sub(r'<meta http-equiv="(?:Content-Security-Policy|refresh)"[^>]*>', "", html)
        (tmp_path / f"{name}.html").write_text(free.replace("</body>", probe), encoding="utf-8")
        frames += [
            f'<iframe src="{name}.html" style="width:{w}px;height:800px;border:0"></iframe>'
            for w in (390, 1280)
        ]
    listen = "<script>addEventListener('message', (e) => document.body.append(' [' + e.data + ']'))</script>"
    (tmp_path / "all.html").write_text(listen + "<body>" + "".join(frames), encoding="utf-8")
    dom, _ = chromium(tmp_path, "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "all.html").as_uri())
    assert sorted(map(int, re.findall(r"\[(\d+)\]", dom))) == [390, 390, 1280, 1280]
