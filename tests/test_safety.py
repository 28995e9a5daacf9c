"SAFETY: nothing that comes from a model, a file or a name becomes live; nothing leaves this machine unasked; all can use it."
import http.server
import json
import socket
import threading
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import expect

from browser import REFUSED, browse, ollama, talk  # noqa: F401  (fixtures)
from scripted_ollama import says

APPS = ("introduction", "profiles", "tasks", "journal", "runs", "jobs", "settings", "models", "remote", "csv", "workshop", "hello", "stream")
AXE = Path(__file__).parent / "vendor/axe.min.js"
SAY = "window.dead.push"
HOSTILE = [f'<img src=x onerror="{SAY}(1)">', f"<script>{SAY}(2)</script>", f"<svg/onload={SAY}(3)>", f"\"'><b onclick={SAY}(4)>x",
           '<div hx-post="/do/chat.clear" hx-trigger="load">x</div>', '<span hx-swap-oob="innerHTML:#nav">gone</span>', "</textarea></script><iframe src=/>"]
MARKDOWN = f"""{' '.join(HOSTILE)}

[a](javascript:{SAY}(5)) [b](JaVa\tScRiPt:{SAY}(6)) [c](data:text/html,<script>{SAY}(7)</script>) [d](vbscript:x) [e](file:///etc/passwd)
[f](//evil.example/x) <javascript:{SAY}(8)> [g]: javascript:x [h](/do/chat.clear) [i](&#106;avascript:x) ![p](https://evil.example/p.png)
![q](data:image/svg+xml,<svg onload={SAY}(9)>) [j](https://ok.example/ "t\\" onmouseover={SAY}(10) x=\\"")

| <b onmouseover={SAY}(11)> | b |
|:-:|--:|
| <img src=x onerror={SAY}(12)> | 2 |

```html onload={SAY}(13)
<img src=x onerror={SAY}(14)>
```

<style>body{{display:none}}</style>
"""
LIVE = """(within) => [...document.querySelectorAll(within + ' *')].flatMap((e) => [
    ...(e.matches('script, img, svg, iframe, object, embed, style, link, form:not([hx-post], [hx-get], #composer), base, meta, video') ? [e.outerHTML] : []),
    ...[...e.attributes].filter((a) => /^on|^style$/.test(a.name) || /^hx-(?!ws-)/.test(a.name) && !/^(\\/do\\/|\\/app\\/|\\/messages|none|#|input|change|outer|inner|\\{|intersect|multipart)/.test(a.value))
        .map((a) => a.name + '=' + a.value + ' in ' + e.outerHTML.slice(0, 200)),
    ...(e.href && !/^(https?:\\/\\/(ok|127)|mailto:)/.test(e.href) ? [e.outerHTML] : [])])"""


@pytest.mark.parametrize("size", [3, 100_000])
def test_nothing_a_model_says_becomes_live(talk, browse, size):
    live = talk(says(*(MARKDOWN[at:at + size] for at in range(0, len(MARKDOWN), size)), "\n\nThe end."))
    v = browse(live, "/app/tasks")
    v.say(" ".join(HOSTILE))
    v.answered("The end.")
    assert v.page.evaluate(LIVE, "#grid-right") == []
    v.page.reload()
    v.answered("The end.")
    assert v.page.evaluate(LIVE, "#grid-right") == [] and v.page.locator("#nav").is_visible()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_task_or_profile_becomes_live_anywhere(talk, browse, name):
    act = lambda key, **args: json.dumps({"action": key, "args": args})  # noqa: E731
    live = talk(act("task.insert", name=name), name, act("task.delete", id=name), name, act("task.toggle", id="zz" + name), name)
    for table in ("task", "profile"): live.do(f"{table}.insert", name=name, note=name)
    live.do("store.set", key="name", value=name)
    live.do("profile.select", id=name)
    live.do("task.insert", name="x" + name)
    v = browse(live, "/app/tasks")
    for line in ("one", "two"): live.say(line)
    v.row(2).hover()
    v.row(2).locator(".delete").click()
    v.page.locator("#toasts button").wait_for()
    v.page.get_by_role("searchbox", name="Search tasks").fill(name)
    for app in APPS:
        v.go(f"/app/{app}?search={name}&actor={name}")
        assert v.page.evaluate(LIVE, "body") == [], app


def test_no_address_becomes_live(live, browse):
    v = browse(live, "/", REFUSED)
    for name in HOSTILE:
        for path in ("/app/", "/do/", "/file/", "/messages?search=", "/app/tasks?search=", "/journal?actor="):
            v.page.goto(live.url + path + name.replace("#", "%23"))
            assert v.page.evaluate("window.dead") == []
        answer = live.http.post(f"/do/{name}", headers={"hx-request": "true", "x-tab": "t"}, json={name: name})
        assert "<img" not in answer.text and "<script" not in answer.text and "<svg" not in answer.text


@pytest.mark.parametrize("name", HOSTILE[:4])
def test_no_csv_header_or_cell_becomes_live(talk, browse, tmp_path, name):
    file = tmp_path / f"{name.replace('/', ' ')}.csv"
    quoted = '"' + name.replace('"', '""') + '"'
    file.write_text(f"name,{quoted},done\n{quoted},{quoted},maybe\nfine,,true\n{quoted},,false\n")
    v = browse(talk(), "/app/csv", REFUSED)
    v.page.set_input_files("#csv-check-file", file)
    v.page.locator("#csv-check-table").select_option("task")
    v.page.get_by_role("button", name="Check the file").click()
    expect(v.page.locator("#grid-left")).to_contain_text("good rows")
    assert v.page.evaluate(LIVE, "body") == []
    v.page.get_by_role("button", name="Import the").click()
    v.go("/app/tasks")
    v.shows("fine", name)


def test_every_answer_carries_the_policy_and_no_page_has_anything_inline(live):
    for path in ("/", *(f"/app/{a}" for a in APPS), "/context", "/health", "/do", "/journal", "/nothing", "/static/app.js", "/messages"):
        answer = live.http.get(path, headers={"accept": "text/html"}, follow_redirects=True)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        if "html" in answer.headers.get("content-type", ""):
            assert " style=" not in answer.text and "<style" not in answer.text and "javascript:" not in answer.text and " onclick" not in answer.text, path


# ---- nothing leaves this machine unasked

class Remote:
    "An OpenAI-compatible server at `host` that keeps every byte it is sent"

    def __init__(self, host: str):
        self.seen, outer = [], self
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_GET(self): self.answer(b"", "application/json", {"object": "list", "data": [{"id": "m", "object": "model"}]})
            def do_POST(self): self.answer(self.rfile.read(int(self.headers["content-length"])), "text/event-stream", None)
            def answer(self, body, kind, whole):
                outer.seen.append(f"{self.command} {self.path} {body.decode()}")
                said = [{"delta": {"content": "From afar."}, "index": 0}, {"delta": {}, "index": 0, "finish_reason": "stop"}]
                lines = "".join(f"data: {json.dumps({'id': 'x', 'object': 'chat.completion.chunk', 'created': 1, 'model': 'm', 'choices': [c]})}\n\n" for c in said)
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(json.dumps(whole).encode() if whole else (lines + "data: [DONE]\n\n").encode())
        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def told(self) -> str: return "\n".join(s for s in self.seen if s.startswith("POST"))


@pytest.fixture
def afar():
    "An OpenAI-compatible server at an address that is not loopback"
    hosts = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET and not a.address.startswith("127.")]
    if not hosts: pytest.skip("this machine has only loopback")
    remote = Remote(hosts[0])
    yield remote
    remote.server.shutdown()


@pytest.fixture
def away(fresh, afar, tmp_path):
    return fresh(models=tmp_path, openai_base_url=afar.url, openai_api_key="sk-very-secret", model="openai/m")


def test_nothing_is_sent_to_another_machine_before_allow(away, afar, browse):
    v = browse(away, "/app/tasks")
    expect(v.page.locator("#model summary")).to_contain_text("leaves this machine")
    v.page.get_by_label("Name", exact=True).fill("a secret task")
    v.page.keyboard.press("Enter")
    v.say("a secret line")
    card = v.page.locator("[data-role=approval]")
    expect(card.get_by_role("button", name="Allow")).to_be_visible()
    expect(card).to_contain_text("leaves this machine")
    assert not afar.told()
    card.get_by_role("button", name="Allow").click()
    v.answered("From afar.")
    assert "a secret line" in afar.told() and "a secret task" not in afar.told() and "task.insert" not in afar.told().split("a secret line")[1]


def test_not_even_the_list_of_models_is_asked_for_before_allow(away, afar):
    away.http.get("/health"), away.http.get("/app/models"), away.http.get("/")
    assert not afar.seen


def test_a_denied_remote_model_hears_nothing(away, afar):
    items = away.say("a secret line")
    assert items[-1]["done"]["state"] == "waiting" and any("approval" in i.get("action", {}) for i in items)
    assert away.do("approval.deny", id=1)["ok"] and not afar.told()
    away.say("another")
    assert not afar.told()


def test_events_reach_another_machine_only_when_switched_on(away, afar):
    away.say("one")
    away.do("approval.allow", id=1)
    for name in ("first secret", "second secret"): away.do("task.insert", name=name)
    away.say("two")
    assert "secret" not in afar.told()
    away.do("settings.set", key="remote_events", value=True)
    away.do("task.insert", name="third secret")
    away.say("three")
    assert "third secret" in afar.told()


def test_a_cleared_chat_asks_again(away, afar):
    away.say("one")
    away.do("approval.allow", id=1)
    assert away.say("two")[-1]["done"]["state"] == "done"
    away.do("chat.clear")
    count = len(afar.told())
    assert away.say("three")[-1]["done"]["state"] == "waiting" and len(afar.told()) == count


def test_the_key_is_nowhere(away, afar):
    away.say("one")
    away.do("approval.allow", id=1)
    away.say("two")
    files = b"".join(p.read_bytes() for p in away.data.rglob("*") if p.is_file())
    pages = "".join(away.http.get(p).text for p in ("/", "/app/settings", "/app/remote", "/context", "/journal", "/health"))
    assert b"very-secret" not in files and "very-secret" not in pages and "very-secret" not in afar.told()


# ---- for everybody

@pytest.mark.parametrize("look", ["light", "dark", "matrix"])
def test_axe_finds_nothing_serious(talk, browse, look):
    act = json.dumps({"action": "task.delete", "args": {"id": 1}})
    live = talk(f"Yes. {act}", "I *asked* you.\n\n```\ncode\n```\n", '{"action": "task.insert", "args": {"name": "x"}}', "Done.")
    for name in ("a", "b"): live.do("task.insert", name=name)
    live.do("task.toggle", id=2)
    live.do("settings.set", key="theme", value=look)
    for step in ("name", "shout"): live.do(f"hello.{step}")
    for line in ("delete a", "add x"): live.say(line)
    v, found = browse(live), []
    v.page.emulate_media(reduced_motion="reduce")
    for app in APPS:
        v.go(f"/app/{app}")
        v.page.evaluate(AXE.read_text() + ";0")
        result = v.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        found += [f"{app}: {f['id']} {n['target']} {n['failureSummary'][:250]}" for f in result["violations"]
                  if f["impact"] in ("serious", "critical") for n in f["nodes"][:3]]
    assert not found, "\n".join(found)


def test_axe_finds_nothing_serious_in_palette_menu_and_completion(talk, browse):
    v = browse(talk(), "/app/tasks")
    for open_it in (lambda: v.page.keyboard.press("Control+k"), lambda: v.page.locator("#model summary").click(), lambda: v.page.locator("#msg").fill("/task")):
        v.go("/app/tasks")
        open_it()
        v.page.evaluate(AXE.read_text() + ";0")
        result = v.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert not [(f["id"], f["nodes"][0]["target"]) for f in result["violations"] if f["impact"] in ("serious", "critical")]
