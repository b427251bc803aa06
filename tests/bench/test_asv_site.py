"""The published history: asv's pages in a real browser.

They take their scripts from public hosts; the test takes the same versions from npm, so that it needs none of these.
`.ci/run` installs Chromium and runs this file by ``pytest -m browser``.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "asv_bench"
PACKAGES = {
    "jquery-3.3.1.min.js": ("jquery@3.3.1", "jquery/dist/jquery.min.js"),
    "jquery.flot.min.js": ("flot@0.8.3", "flot/jquery.flot.js"),
    "jquery.flot.time.min.js": ("flot@0.8.3", "flot/jquery.flot.time.js"),
    "jquery.flot.selection.min.js": ("flot@0.8.3", "flot/jquery.flot.selection.js"),
    "jquery.flot.categories.min.js": ("flot@0.8.3", "flot/jquery.flot.categories.js"),
    "jquery.flot.orderBars.js": ("flot-orderbars@1.0.0", "flot-orderbars/js/jquery.flot.orderBars.js"),
    "stupidtable.min.js": ("stupid-table-plugin@1.1.3", "stupid-table-plugin/stupidtable.min.js"),
    "md5.min.js": ("blueimp-md5@2.19.0", "blueimp-md5/js/md5.min.js"),
    "bootstrap.min.js": ("bootstrap@3.1.1", "bootstrap/dist/js/bootstrap.min.js"),
    "bootstrap.min.css": ("bootstrap@3.1.1", "bootstrap/dist/css/bootstrap.min.css"),
}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(request, tmp_path_factory):
    """Publish the stored results; return the folder, its scripts within it."""
    if "browser" not in request.config.option.markexpr:
        pytest.skip("needs Chromium and npm; asked for by -m browser")
    work = tmp_path_factory.mktemp("site")
    html = Path(os.environ.get("FASTEM_SITE", work / "html"))
    if not html.exists():
        command = [sys.executable, "-m", "asv", "publish", "--html-dir", str(html)]
        subprocess.run(command, cwd=SUITE, check=True)
    wanted = sorted({package for package, _ in PACKAGES.values()})
    subprocess.run(["npm", "install", "--silent", "--prefix", str(work / "npm"), *wanted], check=True)
    copy = work / "copy"
    shutil.copytree(html, copy)
    page = (copy / "index.html").read_text()
    for address in re.findall(r'(?:src|href)="(https://[^"]+\.(?:js|css))"', page):
        name = address.rpartition("/")[2]
        assert name in PACKAGES, f"asv's page takes {address} from somewhere: add it to PACKAGES"
        shutil.copy(work / "npm" / "node_modules" / PACKAGES[name][1], copy / name)
        page = page.replace(address, name)
    (copy / "index.html").write_text(re.sub(r' (integrity|crossorigin|referrerpolicy)="[^"]*"', "", page))
    return copy


@pytest.fixture(scope="module")
def browse(site, tmp_path_factory):
    """Return a function from an address within the site to the page's text and a picture of it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pictures = Path(os.environ.get("FASTEM_SCREENSHOTS", tmp_path_factory.mktemp("pictures")))
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    options = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --hide-scrollbars
        --disable-background-networking --disable-component-update --virtual-time-budget=20000
        --window-size=1400,1000"""

    def show(where, name):
        from matplotlib.image import imread

        address = f"http://127.0.0.1:{server.server_address[1]}/{where}"
        profile = tmp_path_factory.mktemp("profile")
        command = [browser, *options.split(), f"--user-data-dir={profile}"]
        picture = pictures / f"{name}.png"
        run = functools.partial(subprocess.run, capture_output=True, text=True, check=True, timeout=100)
        run([*command, f"--screenshot={picture}", address])
        return run([*command, "--dump-dom", address]).stdout, imread(picture)[:, :, :3]

    yield show
    server.shutdown()


def coloured(picture):
    """Return the share of pixels that are neither grey nor nearly so."""
    return float((np.ptp(picture, axis=2) > 0.15).mean())


def test_the_overview_draws_a_graph_for_each_benchmark(browse):
    page, picture = browse("index.html", "overview")
    names = set(re.findall(r"(?:kernels|quality|missing|small)\.\w+\.\w+", page))
    assert len(names) > 20
    assert page.count("<canvas") > 20  # drawn as they come into view
    assert picture.std() > 0.05


def test_a_benchmark_has_a_graph_over_commits(browse, site):
    index = json.loads((site / "index.json").read_text())
    name = "kernels.NearestCenter.time_assign"
    assert name in index["benchmarks"]
    page, picture = browse(f"index.html#{name}", "graph")
    assert len(re.findall("flot-tick-label", page)) >= 6  # the axes have numbers
    assert "legend" in page
    assert coloured(picture) > 0.002  # lines
    assert len(index["revision_to_hash"]) >= 12


def test_the_page_of_regressions_opens(browse):
    page, _ = browse("index.html#regressions", "regressions")
    assert "Date" in page
    assert "regression" in page.lower()
