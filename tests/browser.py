"A real browser for the tests: one Chromium a session, a context a test, and everything a page complains of fails the test."
import asyncio
import atexit
import functools
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
WATCH = """addEventListener("securitypolicyviolation", (e) =>
    console.error(`CSP: ${e.effectiveDirective} forbids ${e.blockedURI} ${e.sample} at ${e.sourceFile}:${e.lineNumber}`));
window.dead = [];  // what must never run says so here"""
TRANSPORT = re.compile(r"WebSocket connection to|net::ERR_|Failed to fetch|NetworkError")   # what a stopped server makes a page say
expect.set_options(timeout=5000)


@functools.cache
def chromium() -> Browser:
    "The session's browser: Debian's Chromium, else Playwright's own"
    playwright = sync_playwright().start()
    debian = Path("/usr/bin/chromium")
    browser = playwright.chromium.launch(executable_path=debian if debian.exists() else None, args=FLAGS)
    atexit.register(lambda: (browser.close(), playwright.stop()))
    return browser


class Visitor:
    "A person at one page. Names are what the design promises: `left`, `msg`, `list`, `row(id)`, `message(id)`"

    def __init__(self, live, path: str, allow: str, **context):
        self.live, self.allow, self.problems = live, allow, []
        self.context = chromium().new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.context.set_default_timeout(5000)
        self.context.add_init_script(WATCH)
        self.page = self.watch(self.context.new_page(), path)

    def watch(self, page: Page, path: str = "/") -> Page:
        "Open `path` in `page`, wait until its socket stands, and note whatever it complains of"
        page.on("console", lambda m: m.type in ("error", "warning") and self.note(f"console: {m.text} {m.location.get('url', '')}"))
        page.on("pageerror", lambda e: self.note(f"error: {e} {e.stack}"))
        page.on("request", lambda r: self._foreign(r.url))
        page.on("websocket", lambda w: self._foreign(w.url))
        page.on("dialog", lambda d: (self.note(f"dialog: {d.message}"), d.dismiss()))
        page.goto(self.live.url + path)
        self.connected(page)
        return page

    def connected(self, page: Page | None = None):
        "Wait until the page's socket has brought it up to date"
        (page or self.page).wait_for_function("() => document.querySelector('#theme')?.dataset.value || window.pianolaReady || "
                                              "document.querySelector('#grid-left')?.dataset.app")

    def tab(self, path: str = "/") -> Page:
        "A second page in the same browser"
        return self.watch(self.context.new_page(), path)

    def note(self, problem: str):
        if not self.allow or not re.search(self.allow, problem): self.problems.append(problem)

    def _foreign(self, url: str):
        where = urlsplit(url)
        if where.scheme not in ("data", "blob", "about") and where.netloc != urlsplit(self.live.url).netloc: self.note(f"foreign: {url}")

    def close(self):
        dead = [d for page in self.context.pages for d in page.evaluate("window.dead || []")]
        self.context.close()
        assert not dead, f"these became live: {dead}"
        assert not self.problems, "\n".join(self.problems)

    # what a person does

    @property
    def left(self): return self.page.locator("#grid-left")

    @property
    def messages(self): return self.page.locator("#msg-list .msg")

    @property
    def last(self): return self.page.locator("#msg-list .msg[data-role=assistant]").last

    @property
    def stored(self): return self.page.evaluate("JSON.stringify([localStorage, sessionStorage])")

    def say(self, text: str):
        "Type a line and press Enter"
        self.page.fill("#msg", text)
        self.page.press("#msg", "Enter")

    def rows(self, table: str = "task") -> list[str]:
        "The names shown on the page, in order"
        return self.page.locator(f"#{table}-list .row .cell-name").evaluate_all("all => all.map(i => i.value)")

    def await_rows(self, *names: str, table: str = "task", page: Page | None = None):
        "Wait until the page shows exactly these names in this order"
        (page or self.page).wait_for_function(
            "([table, names]) => JSON.stringify([...document.querySelectorAll(`#${table}-list .row .cell-name`)].map(i => i.value)) === names",
            arg=[table, __import__("json").dumps(list(names), separators=(",", ":"), ensure_ascii=False)])


@pytest.fixture
def browse():
    "`browse(live, \"/app/tasks\")` gives a Visitor; `allow` is a pattern of complaints that this test expects"
    visitors = []
    def open_page(live, path: str = "/", allow: str = "", **context) -> Visitor:
        visitors.append(Visitor(live, path, allow, **context))
        return visitors[-1]
    yield open_page
    try:
        for visitor in visitors: visitor.close()
    finally: asyncio._set_running_loop(None)    # NOTE: Playwright leaves its loop marked as running; other tests have their own
