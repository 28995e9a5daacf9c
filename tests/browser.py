"A real browser for the tests: one Chromium a session, a context a test; whatever a page complains of fails the test."
import asyncio
import atexit
import functools
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scripted_ollama import Model, ScriptedOllama

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
WATCH = """
window.dead = [];       // what must never run says so here
window.heard = 0;       // messages of the socket that were taken in
addEventListener("htmx-ws-after-message-incoming", () => window.heard++, true);
addEventListener("securitypolicyviolation", (e) =>
    console.error(`CSP: ${e.effectiveDirective} forbids ${e.blockedURI} ${e.sample} at ${e.sourceFile}:${e.lineNumber}`));
"""
AWAY = "WebSocket|ws:error|net::ERR_|Failed to fetch|NetworkError"   # what a page says while its server is away
REFUSED = "the server responded with a status of 4"         # what Chromium says of an answer that is no success
expect.set_options(timeout=5000)


@functools.cache
def chromium() -> tuple[Browser, asyncio.AbstractEventLoop]:
    "The session's browser (Debian's Chromium, else Playwright's own), and the loop it lives in"
    playwright, debian = sync_playwright().start(), Path("/usr/bin/chromium")
    browser = playwright.chromium.launch(executable_path=debian if debian.exists() else None, args=FLAGS)
    loop = asyncio._get_running_loop()
    atexit.register(lambda: (asyncio._set_running_loop(loop), browser.close(), playwright.stop()))
    return browser, loop


class Visitor:
    "A person in front of the page of `live`. `allow` is a pattern of complaints that the test expects"

    def __init__(self, live, path: str = "/", allow: str = "", **context):
        self.live, self.allow, self.problems = live, allow, []
        self.context = chromium()[0].new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.context.set_default_timeout(5000)
        self.context.add_init_script(WATCH)
        self.page = self.tab(path)

    def tab(self, path: str = "/") -> Page:
        "One more page in the same browser, once its socket has brought it up to date"
        page = self.context.new_page()
        page.on("console", lambda m: m.type in ("error", "warning") and self._note(f"console: {m.text} {m.location.get('url', '')}"))
        page.on("pageerror", lambda e: self._note(f"error: {e} {e.stack}"))
        page.on("dialog", lambda d: (self._note(f"dialog: {d.message}"), d.dismiss()))
        page.on("request", lambda r: self._foreign(r.url))
        page.on("websocket", lambda w: self._foreign(w.url))
        self.go(path, page)
        return page

    def go(self, path: str, page: Page | None = None):
        "Load a page as if its address were typed"
        page = page or self.page
        page.goto(self.live.url + path)
        page.wait_for_function("() => window.heard > 0")

    def _note(self, problem: str):
        if not self.allow or not re.search(self.allow, problem): self.problems.append(problem)

    def _foreign(self, url: str):
        where = urlsplit(url)
        if where.scheme not in ("data", "blob", "about") and where.netloc != urlsplit(self.live.url).netloc: self._note(f"foreign: {url}")

    def close(self):
        dead = [d for page in self.context.pages for d in page.evaluate("window.dead || []")]
        self.context.close()
        assert not dead, f"became live: {dead}"
        assert not self.problems, "\n".join(self.problems)

    # what a person does and sees

    def say(self, text: str):
        "Type a line into the composer and press Enter"
        self.page.fill("#msg", text)
        self.page.press("#msg", "Enter")

    @property
    def replies(self): return self.page.locator("#msg-list .msg[data-role=assistant]")

    def answered(self, text: str, state: str = "done"):
        "Wait until the newest reply says `text` and has ended; gives its locator"
        last = self.replies.last
        expect(last).to_contain_text(text)
        expect(last).to_have_attribute("data-state", state)
        return last

    def row(self, id: int, table: str = "task"): return self.page.locator(f"#{table}-{id}")

    def cell(self, id: int, field: str = "name", table: str = "task"): return self.page.locator(f"#{table}-{id}-{field}")

    def shows(self, *names: str, table: str = "task", page: Page | None = None):
        "Wait until the list shows exactly these names, in this order"
        found = f"JSON.stringify([...document.querySelectorAll('#{table}-list > .row .cell-name')].map((i) => i.value))"
        try: (page or self.page).wait_for_function(f"(names) => {found} === names", arg=json.dumps(names, separators=(",", ":"), ensure_ascii=False))
        except Exception: raise AssertionError(f"{names} expected, shown: {(page or self.page).evaluate(found)}") from None


@pytest.fixture
def browse():
    "`browse(live, \"/app/tasks\")` gives a Visitor"
    asyncio._set_running_loop(chromium()[1])    # NOTE: Playwright marks its loop as running all the time; tests with loops
    visitors = []                               # of their own would not start, so it is taken off in between
    def visit(live, path: str = "/", allow: str = "", **context) -> Visitor:
        visitors.append(Visitor(live, path, allow, **context))
        return visitors[-1]
    yield visit
    try:
        for visitor in visitors: visitor.close()
    finally: asyncio._set_running_loop(None)


# ---- the other side of the chat: a model whose every word a test writes

@pytest.fixture
def ollama():
    "A scripted Ollama with one model, which can call tools"
    with ScriptedOllama(Model("llama3.2:3b", 2_000_000_000, "3.2B", can=("completion", "tools"))) as found: yield found


@pytest.fixture
def talk(fresh, ollama, tmp_path):
    "`talk(*script, way=\"json\")`: a Pianola whose model says this; its `ollama` is the model"
    def start(*script, way: str = "json", **settings):
        ollama.replies += script
        live = fresh(ollama_host=ollama.url, models=tmp_path / "none", **settings)
        live.do("settings.set", key="way", value=way)
        live.ollama = ollama
        return live
    return start
