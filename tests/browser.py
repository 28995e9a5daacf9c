"A real browser for the tests: one Chromium a session, a context a test; whatever a page complains of fails the test."
import asyncio
import atexit
import contextlib
import functools
import http.server
import json
import re
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

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


# ---- the other side of the chat: a model whose every word a test writes, in Ollama's wire format

class Call(dict):
    "A native tool call in a script: `Call(\"insert_row\", table=\"task\", fields={…})`"
    def __init__(self, name: str, /, **args): super().__init__(function={"index": 0, "name": name, "arguments": args}, id=f"call_{name}")


class Ollama:
    """Answers each request with the next item of `script`; `seen` is what it was sent.

    An item is a text (sent in small pieces), or a list of texts, Calls, Events to wait for, and ends: "!die" (the bare error
    line), "!cut" (no end), "!garbage"; or a number, the status of an error. An empty script says "All right.". A request for
    JSON by a schema takes the next item if that is JSON, else the answer is that nothing is to be played.
    """

    def __init__(self, *script):
        self.script, self.seen, outer = list(script), [], self
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *args): pass
            def do_GET(self): outer._tags(self)
            def do_POST(self): outer._post(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *args: None   # a client that went away
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self): self.server.shutdown(), self.server.server_close()

    def _whole(self, to, answer: dict, status: int = 200):
        body = json.dumps(answer).encode()
        to.send_response(status)
        to.send_header("Content-Type", "application/json")
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)

    def _tags(self, to):
        card = {"name": "llama3.2:3b", "model": "llama3.2:3b", "size": 2_000_000_000, "digest": "d1", "details": {"parameter_size": "3.2B"}}
        self._whole(to, {"models": [card]})

    def _post(self, to, body: dict):
        if to.path == "/api/show":
            return self._whole(to, {"details": {"parameter_size": "3.2B"}, "capabilities": ["completion", "tools"], "model_info": {"llama.context_length": 8192}})
        self.seen.append(body)
        item = self._next(bool(body.get("format")))
        if isinstance(item, int): return self._whole(to, {"error": f"model '{body['model']}' not found" if item == 404 else "it is broken"}, item)
        to.send_response(200)
        to.send_header("Content-Type", "application/x-ndjson")
        to.send_header("Transfer-Encoding", "chunked")
        to.end_headers()
        with contextlib.suppress(OSError): self._stream(to, body["model"], item)

    def _next(self, constrained: bool):
        if constrained and not (self.script and str(self.script[0]).startswith("{")): return '{"action": "none", "args": {}}'
        return self.script.pop(0) if self.script else "All right."

    def _stream(self, to, model: str, item):
        def line(data):
            raw = (data if isinstance(data, str) else json.dumps(data)).encode() + b"\n"
            to.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        def say(**message): line({"model": model, "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "", **message}, "done": False})
        for part in [item] if isinstance(item, str) else item:
            if isinstance(part, threading.Event): part.wait(20)
            elif isinstance(part, Call): say(tool_calls=[part])
            elif part == "!die": return line({"error": "llama runner process no longer running: 2"}), to.wfile.write(b"0\r\n\r\n")
            elif part == "!cut": return setattr(to, "close_connection", True), to.connection.shutdown(2)
            elif part == "!garbage": line("<html>not json")
            else:
                for at in range(0, len(part), 7): say(content=part[at:at + 7])
        line({"model": model, "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
              "total_duration": 10**9, "prompt_eval_count": 20, "prompt_eval_duration": 10**8, "eval_count": 9, "eval_duration": 10**8})
        to.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def ollama():
    "A scripted Ollama"
    model = Ollama()
    yield model
    model.close()


@pytest.fixture
def talk(fresh, ollama, tmp_path):
    "`talk(*script, way=\"json\")`: a Pianola whose model says this; its `ollama` is the model"
    def start(*script, way: str = "json", **settings):
        ollama.script += script
        live = fresh(ollama_host=ollama.url, models=tmp_path / "none", **settings)
        live.do("settings.set", key="way", value=way)
        live.ollama = ollama
        return live
    return start
