"""A page in a real browser: what it shows, and what the browser complains about."""

import os
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
# Counts the pictures that loaded and how far the page is wider than the window, into the document it is dumped with.
PROBE = """<script>addEventListener("load", () => {
  document.body.dataset.pictures = [...document.images].filter(image => image.naturalWidth > 0).length;
  document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
})</script></body>"""


@pytest.fixture(scope="session")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    reason = f"no browser on PATH (looked for {', '.join(NAMES)}): install chromium to run this test"
    if os.environ.get("MOEJAX_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def visit(browser: str, page, profile, *flags: str) -> tuple[str, list[str]]:
    """What the browser printed, and what it wrote to its console; `page` is a file or an address."""
    address = page if isinstance(page, str) else page.as_uri()
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
