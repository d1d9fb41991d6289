"""Pages in a real browser: drawn, silent, and asking nobody for anything."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hierlm.report.compare import compare
from hierlm.report.compare_page import compare_page
from hierlm.report.page import Section, page, table
from hierlm.report.run_record import load_run
from hierlm.report.run_report import run_page
from hierlm.report.stage_balance import Stage, StageBalance
from tests.report.conftest import MakeRun

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OWN_HOSTS = re.compile(r"^https?://([a-z0-9-]+\.)*(google\.com|googleapis\.com|gvt1\.com|gstatic\.com)[:/]")
SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
]
BALANCE = StageBalance((Stage("0.Embed", "1.Block", 2, 0.6, 0.6), Stage("2.Head", "2.Head", 1, 0.4, 0.4)))
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium")


class Visit:
    """What a browser made of a page."""

    def __init__(self, html: str, folder: Path) -> None:
        path, log = folder / "page.html", folder / "net.json"
        path.write_text(html, encoding="utf-8")
        own = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}"]
        done = subprocess.run(
            [str(CHROMIUM), *SWITCHES, *own, path.as_uri()], capture_output=True, text=True, timeout=300, check=True
        )
        self.dom = done.stdout
        self.console = re.findall(r"CONSOLE[:(].*", done.stderr)
        asked = set(re.findall(r'"url":"(https?://[^"]*)"', log.read_text()))
        self.requests = {url for url in asked if not OWN_HOSTS.match(url)}  # the browser's own are no page's


@needs_browser
def test_the_comparison_is_drawn_without_errors_or_requests(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"h-seed{seed}", seed=seed, floor=1 + seed / 10) for seed in (1, 2)]
    runs += [make_run("lmu", arch="lmu", floor=1.4, memory_bytes=2**29), make_run("<b>", arch="lstm", summary=False)]
    visit = Visit(compare_page(compare("demo", [load_run(run.path) for run in runs])), tmp_path)
    assert visit.console == []
    assert visit.requests == set()
    assert 'data-drawn="5"' in visit.dom, "four trade-offs and the curves"
    assert visit.dom.count('class="point"') >= 4 * 2, "a mark for every known row and cost"
    assert len(re.findall(r'<svg class="main-svg"', visit.dom)) >= 5


@needs_browser
def test_the_report_of_a_run_is_drawn_without_errors_or_requests(make_run: MakeRun, tmp_path: Path) -> None:
    visit = Visit(run_page(load_run(make_run("a").path), balance=BALANCE), tmp_path)
    assert visit.console == []
    assert visit.requests == set()
    drawn = re.search(r'data-drawn="(\d+)"', visit.dom)
    assert drawn is not None
    assert int(drawn[1]) == 9, "the learning curve, the time bar, the stages, six measured quantities"


@needs_browser
def test_the_browser_would_tell_of_errors_and_requests(tmp_path: Path) -> None:
    """Otherwise silence proves nothing."""
    html = '<script>console.error("heard"); nothing.here;</script><img src="http://asked.invalid/x.png">'
    visit = Visit(html, tmp_path)
    assert any("heard" in line for line in visit.console)
    assert any("nothing is not defined" in line for line in visit.console)
    assert {"http://asked.invalid/x.png"} == visit.requests


def test_a_page_holds_everything_and_forbids_the_rest(make_run: MakeRun) -> None:
    html = compare_page(compare("demo", [load_run(make_run("a").path)]))
    outside_scripts = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]', outside_scripts)
    assert "default-src 'none'" in html
    assert html.count("plotly.js v") == 1, "the library is inside, once"


def test_text_of_a_config_cannot_become_markup() -> None:
    hostile = '</script><script>alert(1)</script>"&'
    section = Section(hostile, note=hostile, body=table([(hostile, "text")], [[hostile]]))
    html = page(title=hostile, lead=hostile, tiles={hostile: hostile}, sections=[section])
    assert "alert(1)</script>" not in html


def test_figures_hold_only_what_json_has(make_run: MakeRun) -> None:
    """A loss that became NaN must not make a page that no browser can read."""
    run_dir = make_run("a")
    text = run_dir.metrics.read_text().replace('"grad_norm": 1.0', '"grad_norm": NaN')
    run_dir.metrics.write_text(text)
    html = run_page(load_run(run_dir.path), balance=None)
    embedded = re.search(r'id="figures">(.*?)</script>', html, flags=re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1])
