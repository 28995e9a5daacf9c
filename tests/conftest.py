"Real servers for the tests: one in a thread a module (`live`), fresh ones (`fresh`), and whole processes (`process`)."
import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import server  # noqa: E402  (after the path)

server.console.quiet = True
NO_OLLAMA = "http://127.0.0.1:9"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Live:
    "A running Pianola and the few calls a test makes"

    def __init__(self, url: str, data: Path, pianola=None):
        self.url, self.data, self.pianola = url, data, pianola
        self.http = httpx.Client(base_url=url, timeout=30)

    def do(self, action: str, **args) -> dict:
        "Perform an action as a program; the answer's JSON, with its `status`"
        reply = self.http.post(f"/do/{action}?wait=1", json=args)
        return reply.json() | {"status": reply.status_code}

    def rows(self, table: str = "task", **args) -> list[dict]:
        return self.do(f"{table}.list", **args)["result"]["rows"]

    def play(self, action: str, **args) -> dict:
        "Perform an action as the model, on the server's own loop"
        work = self.pianola.keyboard.perform("model", action, args)
        return asyncio.run_coroutine_threadsafe(work, self.pianola.loop).result(20).as_json()

    def journal(self, **query) -> list[dict]:
        return self.http.get("/journal", params=query).json()["rows"]

    def say(self, text: str) -> list[dict]:
        "Chat as a program; the NDJSON items of the reply"
        with self.http.stream("POST", "/chat", json={"msg": text}, timeout=120) as reply:
            return [json.loads(line) for line in reply.iter_lines()]


@contextlib.contextmanager
def in_thread(data: Path, **settings):
    "A Pianola in a thread of this process, on a port of its own"
    port = free_port()
    plugins = data.parent / f"{data.name}-plugins"  # a copy: some actions write plugins
    if not plugins.exists(): shutil.copytree(ROOT / "plugins", plugins, ignore=shutil.ignore_patterns("__pycache__"))
    given = {"port": port, "data": data, "plugins": plugins, "models": data.parent / "no models", "ollama_host": NO_OLLAMA, "warm": False, "offline": True} | settings
    app = server.create_app(server.Settings(**given))
    runner = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not runner.started and thread.is_alive() and time.monotonic() < deadline: time.sleep(0.01)
    assert runner.started, "the server did not start"
    live = Live(f"http://127.0.0.1:{port}", data, app.state.pianola)
    try: yield live
    finally:
        live.http.close()
        runner.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def as_process(data: Path, *words: str, **env):
    "A Pianola as a user starts it; yields (Live, process)"
    port = free_port()
    given = {"PORT": str(port), "PIANOLA_DATA": str(data), "OLLAMA_HOST": NO_OLLAMA, "PIANOLA_OFFLINE": "1", **env}
    process = subprocess.Popen([sys.executable, str(ROOT / "server.py"), *words], env={**os.environ, **given}, cwd=ROOT,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    live = Live(f"http://127.0.0.1:{port}", data)
    try:
        for _ in range(200):
            with contextlib.suppress(httpx.HTTPError):
                if live.http.get("/health").status_code == 200: break
            time.sleep(0.05)
        yield live, process
    finally:
        live.http.close()
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    "One server for a module's tests, without any model"
    with in_thread(tmp_path_factory.mktemp("data")) as found: yield found


@pytest.fixture
def fresh(tmp_path):
    "Makes servers on data folders of their own: `fresh(ollama_host=…)`"
    with contextlib.ExitStack() as stack:
        yield lambda name="data", **settings: stack.enter_context(in_thread(tmp_path / name, **settings))


@pytest.fixture
def process(tmp_path):
    "Starts whole processes: `process()` gives (Live, Popen); the same folder may be started again"
    with contextlib.ExitStack() as stack:
        yield lambda *words, **env: stack.enter_context(as_process(tmp_path / "data", *words, **env))
