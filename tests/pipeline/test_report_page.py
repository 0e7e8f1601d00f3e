"""The report's page: one sound offline document, the same each time, laid out within its window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supertickets.report import write_report
from supertickets.report.charts import spread
from supertickets.report.numbers import interval, nice_ticks
from tests.pipeline.report_run import (
    edit,
    jackpot_figures,
    make_run,
    outline,
    read,
    stage,
    write_stage,
)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "digits")


def test_the_page_is_one_sound_offline_document(run_folder: Path) -> None:
    page = read(run_folder)
    found = outline(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r"(?:https?|ftp|wss?):|url\(|@import|<(?:img|iframe|object|base)\b", page)
    assert not [a for a in found.attributes if a[1] in {"src", "srcset", "xlink:href"}]
    links = [value for _, key, value in found.attributes if key == "href"]
    assert all(str(link).startswith(("#", "data:,")) for link in links)
    assert [ident for ident, times in found.ids.items() if times > 1] == []
    assert [one for one in found.references if one not in found.ids] == []
    assert not [value for _, key, value in found.attributes if key.startswith("on")]


def test_a_reader_who_cannot_see_is_served(run_folder: Path) -> None:
    page = read(run_folder)
    assert page.count("<main>") == page.count("<h1>") == 1
    assert page.count("<table") == page.count("<caption")
    charts = re.findall(r'<svg [^>]*role="img"[^>]*>', page)
    assert len(charts) > 10
    assert all('aria-label="' in chart for chart in charts)


def test_same_folder_same_bytes(run_folder: Path, tmp_path: Path) -> None:
    first = write_report(run_folder)
    before = first.read_bytes()
    own = stage("report", "report", {"page": "report.html"}, wall_s=0.3)
    write_stage(run_folder, own)  # the record of the page itself must not change the page
    assert write_report(run_folder).read_bytes() == before
    assert write_report(make_run(tmp_path / "elsewhere" / "digits")).read_bytes() == before
    assert first == run_folder / "report.html"


def test_strings_cannot_leave_their_place(run_folder: Path) -> None:
    evil = '</title><script>alert("1")</script>&amp;'
    figures = jackpot_figures(0.9)
    figures["layers"][0]["name"] = evil
    figures["rows"].append({"name": evil, "test_accuracy": 0.5})
    write_stage(run_folder, stage("jackpot-90", "jackpot", figures, device=evil))
    rows = [{"format": evil, "path": evil, "note": evil}]
    edit(run_folder, "export", files=rows)
    (run_folder / "recipe.yaml").write_text(f"name: '{evil}'\n")
    page = read(run_folder)
    outline(page)
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;alert") > 5


def test_interval_is_the_exact_one() -> None:
    assert interval(0.0, 10) == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    low, high = interval(352 / 360, 360) or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.9567, 0.9904)
    assert interval(None, 10) is None
    assert interval(0.5, None) is None


@given(st.lists(st.floats(0, 300), max_size=12))
def test_labels_are_spread_without_touching(wanted: list[float]) -> None:
    placed = spread(wanted, 15, 0, 300)
    order = sorted(placed)
    assert all(after - before >= 15 - 1e-6 for before, after in pairwise(order))
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in placed)
    if all(after - before >= 15 for before, after in pairwise(sorted(wanted))):
        assert placed == pytest.approx(wanted)


@given(st.floats(0, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_lie_within_the_axis(low: float, length: float, most: int) -> None:
    high = low + length
    ticks = nice_ticks(low, high, most)
    assert len(ticks) <= most
    assert ticks == sorted(set(ticks))
    assert all(low - 1e-6 * length <= tick <= high + 1e-6 * length for tick in ticks)


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs the command chromium to lay the page out"
)
def test_a_browser_lays_the_page_out_and_sorts(run_folder: Path, tmp_path: Path) -> None:
    """Nothing may stick out sideways; a window cannot be as narrow as a phone, a frame can."""
    page, widths = write_report(run_folder).as_uri(), (390, 820, 1280)
    frames = "".join(
        f'<iframe src="{page}" style="width:{width}px;height:900px"></iframe>' for width in widths
    )
    script = """
        onload = () => {
          const frames = [...document.querySelectorAll("iframe")];
          const pages = frames.map((frame) => frame.contentDocument);
          const table = pages[0].querySelector("#table-accuracy");
          const cells = [];
          for (const click of [1, 2]) {
            table.querySelectorAll("th button")[2].click();
            cells.push(table.tBodies[0].rows[0].cells[2].textContent.trim());
          }
          const found = pages.map((page) => page.documentElement.scrollWidth);
          document.title = JSON.stringify({ widths: found, cells: cells });
        };"""
    host = tmp_path / "host.html"
    host.write_text(
        f"<title></title><style>iframe{{border:0}}</style>{frames}<script>{script}</script>"
    )
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"),
    ]
    done = subprocess.run(
        ["chromium", *options, "--dump-dom", host.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    title = re.search(r"<title>(.+?)</title>", done.stdout)
    assert title is not None, done.stderr[-500:]
    found = json.loads(title[1])
    assert all(seen <= width for seen, width in zip(found["widths"], widths, strict=True)), found
    assert found["cells"] == ["9.4", "98.6"]
