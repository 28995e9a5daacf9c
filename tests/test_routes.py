"ROUTES: every address, every error code, and who is let in."
import asyncio
import contextlib
import json
import signal
import socket
import threading
import time

import httpx
import pytest
import websockets
from browser import ollama  # noqa: F401  (a fixture)
from conftest import free_port, in_thread
from scripted_ollama import says
from test_database import start  # noqa: F401  (a fixture)
from test_keyboard import over_socket, wait_for

import server

PAGE = {"hx-request": "true", "x-tab": "t"}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    "One server for this module, without any model"
    with in_thread(tmp_path_factory.mktemp("data"), models=tmp_path_factory.mktemp("none")) as found: yield found


# what is there

@pytest.mark.parametrize("path, kind", [("/", "text/html"), ("/app/tasks", "text/html"), ("/do", "application/json"), ("/journal", "application/json"), ("/context", "application/json"),
                                        ("/health", "application/json"), ("/messages", "text/html"), ("/static/app.css", "text/css"), ("/static/app.js", "text/javascript")])
def test_every_address_answers_in_its_kind(live, path, kind):
    reply = live.http.get(path)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith(kind)


def test_health_names_the_plugins_and_their_errors(live):
    found = live.http.get("/health").json()
    assert found["status"] == "ok" and {"tasks", "profiles", "journal"} <= set(found["plugins"]) and found["errors"] == {} and {"model", "provider"} <= set(found)


@pytest.mark.parametrize("path, status", [("/app/nope", 404), ("/nope", 404), ("/file/nope", 404), ("/file/..%2f..%2fapp.db", 404), ("/static/../server.py", 404), ("/static/..%2f..%2fserver.py", 404),
                                          ("/do/task.insert", 405), ("/chat", 405), ("/upload", 405)])
def test_what_is_not_there_says_so(live, path, status):
    assert live.http.get(path).status_code == status


def test_for_htmx_a_page_is_only_its_left_column(live):
    part, page = live.http.get("/app/tasks", headers=PAGE).text, live.http.get("/app/tasks").text
    assert part.startswith("<section") and 'id="grid-left"' in part and "<html" not in part
    assert page.startswith("<!doctype html><html") and all(f'id="{i}"' in page for i in ("grid-left", "msg-list", "msg", "send", "stop", "poke", "model", "profile", "app-menu"))


# what /do answers

@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/plain", ""])
def test_json_is_read_whatever_its_type_is_called(live, kind):
    reply = live.http.post("/do/task.insert", content='{"name": "Ünï"}'.encode(), headers={"content-type": kind})
    assert reply.json()["result"]["name"] == "Ünï" and set(reply.json()) == {"ok", "result", "journal"}


def test_the_body_is_what_counts_not_query_or_cookie(live):
    reply = live.http.post("/do/task.insert?name=query", json={"name": "body"}, headers={"cookie": "name=cookie"})
    assert reply.json()["result"]["name"] == "body"


@pytest.mark.parametrize("key, args, status, kind", [
    ("nope.nope", {}, 404, "unknown"), ("task.insert", {}, 422, "invalid"), ("task.delete", {"id": "nobody"}, 409, "conflict"), ("approval.allow", {"id": 99}, 409, "conflict")])
def test_an_error_has_its_status_kind_and_message(live, key, args, status, kind):
    found = live.do(key, **args)
    assert found["status"] == status and found["ok"] is False and found["error"]["kind"] == kind and found["error"]["message"].endswith((".", "?"))


@pytest.mark.parametrize("body", ["[]", "0", '"x"', "[1]", "false"])
def test_arguments_that_are_no_object_are_refused(live, body):
    assert live.http.post("/do/task.list", content=body).status_code == 422


def test_the_page_is_answered_204_or_with_a_note_at_each_field(live):
    form = PAGE | {"hx-source": "form#task-new"}
    assert (r := live.http.post("/do/task.insert", data={"name": "x"}, headers=form)).status_code == 204 and not r.content
    bad = live.http.post("/do/task.insert", data={"name": "", "due": "soon"}, headers=form)
    assert bad.status_code == 422 and bad.headers["content-type"].startswith("text/html")
    assert all(f'id="task-new-{n}-error"' in bad.text for n in ("name", "due")) and bad.text.count("hx-swap-oob") == 2


def test_a_fault_that_has_no_field_on_the_page_is_still_told(live):
    for data in ({"name": "x", "colour": "red"}, {"name": "a\0b"}):
        reply = live.http.post("/do/task.insert", data=data, headers=PAGE | {"hx-source": "form#task-new"})
        assert reply.status_code == 422 and "toasts" in reply.text


def test_what_was_typed_wrong_comes_back_escaped(live):
    for name in ("<img src=x onerror=alert(1)>", "%3Cscript%3Ealert(1)%3C/script%3E"):
        reply = live.http.post(f"/do/{name}", json={name: 1}, headers=PAGE)
        assert "<img" not in reply.text and "<script" not in reply.text
        reply = live.http.post("/do/task.insert", json={"name": "x", name: 1}, headers=PAGE | {"hx-source": "form#a"})
        assert "<img" not in reply.text


def test_a_request_that_is_too_large_is_refused(live):
    found = live.http.post("/do/task.insert", content=b'{"name": "' + b"x" * (server.BODY_LIMIT + 10) + b'"}')
    assert found.status_code in (413, 422) and found.json()["ok"] is False


# the journal

def test_the_journal_filters_and_pages(live):
    live.http.post("/do/task.insert", json={"name": "by a user"}, headers={"x-tab": "t"})
    live.do("task.insert", name="by a program")
    rows = live.journal(actor="user", app="tasks", limit=1)
    assert len(rows) == 1 and rows[0]["actor"] == "user" and set(rows[0]) >= {"id", "at", "actor", "action", "args", "ok", "result", "undone", "undoable"}
    assert all(r["id"] < rows[0]["id"] for r in live.journal(before=rows[0]["id"])) and live.journal(actor="nobody") == []


@pytest.mark.parametrize("query", [{"limit": "²"}, {"before": "²"}, {"limit": -1}, {"limit": 10 ** 30}, {"before": "x"}, {"before": 10 ** 30}, {"actor": "' or 1=1 --"}, {"actor": "\0"}, {"app": "\ud800"}])
def test_odd_questions_to_the_journal_and_the_messages_are_answered(live, query):
    query = {k: v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v for k, v in query.items()}
    for path in ("/journal", "/messages", "/app/journal", "/app/tasks"): assert live.http.get(path, params=query).status_code == 200, path


def test_a_browser_gets_the_journal_as_a_page(live):
    reply = live.http.get("/journal?actor=user", headers={"accept": "text/html"}, follow_redirects=True)
    assert reply.status_code == 200 and reply.url.path == "/app/journal"


# chat

@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b'{"msg": 5}', b'{"msg": ""}', b'{"msg": "  "}', b'{"msg": "\\u0000"}', b'{"text": "x"}', b"\xff"])
def test_a_line_that_says_nothing_is_refused_at_once(live, body):
    assert live.http.post("/chat", content=body, timeout=5).status_code == 422


@pytest.mark.parametrize("words", ["Hi \ud800", "x" * 300_000, "\u202e\x1b[31m"])
def test_any_line_is_answered_to_its_end_even_without_a_model(live, words):
    with live.http.stream("POST", "/chat", content=json.dumps({"msg": words}), timeout=20) as reply:
        assert reply.headers["content-type"].startswith("application/x-ndjson")
        assert json.loads([*reply.iter_lines()][-1])["done"]["state"] == "failed"


def test_a_slash_command_is_played_from_a_script_as_from_the_page(live):
    reply = live.http.post("/chat", json={"msg": "/task.insert from a script"}, timeout=10)
    assert reply.status_code == 200 and "from a script" in [r["name"] for r in live.rows()]
    assert [i for i in map(json.loads, reply.text.splitlines()) if "done" in i]


# the socket

async def heard(ws, word, seconds=3):
    "Read frames until one holds `word`; False if none comes"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while word not in await ws.recv(): pass
            return True
    return False


def test_a_row_shows_in_every_open_tab_and_only_where_its_app_is_open(live):
    async def watch():
        url = live.url.replace("http", "ws") + "/ws?tab="
        async with websockets.connect(url + "a&app=tasks", max_size=None) as a, websockets.connect(url + "b&app=tasks", max_size=None) as b:
            await heard(a, "grid-left")
            await heard(b, "grid-left")
            await asyncio.to_thread(live.do, "task.insert", name="seen by both")
            return await asyncio.gather(heard(a, "seen by both"), heard(b, "seen by both"))
    assert asyncio.run(watch()) == [True, True]


def test_a_tab_that_reconnects_before_its_old_socket_is_gone_hears_on(live):
    async def watch():
        url = live.url.replace("http", "ws") + "/ws?tab=again&app=tasks"
        old = await websockets.connect(url, max_size=None)
        async with websockets.connect(url, max_size=None) as new:
            await heard(new, "grid-left")
            await old.close()
            await asyncio.to_thread(live.do, "task.insert", name="after the old one")
            return await heard(new, "after the old one")
    assert asyncio.run(watch())


def test_two_sockets_of_one_tab_each_get_everything(live):
    async def watch():
        url = live.url.replace("http", "ws") + "/ws?tab=twice&app=tasks"
        async with websockets.connect(url, max_size=None) as a, websockets.connect(url, max_size=None) as b:
            found = await asyncio.gather(heard(a, "grid-left"), heard(b, "grid-left"))
            await asyncio.to_thread(live.do, "task.insert", name="for both sockets")
            return found + await asyncio.gather(heard(a, "for both sockets"), heard(b, "for both sockets"))
    assert asyncio.run(watch()) == [True] * 4


# who is let in

def with_heads(live, **heads):
    "The status of a GET and of a POST with these headers, and whether the socket opens"
    heads = {k.replace("_", "-"): v for k, v in heads.items()}
    port = live.url.rpartition(":")[2]
    heads = {k: v.replace("PORT", port) for k, v in heads.items()}
    found = [live.http.get("/do", headers=heads).status_code, live.http.post("/do/task.list", json={}, headers=heads).status_code]
    return [*found, asyncio.run(shake_hands(live.url, heads))]


async def shake_hands(url, heads):
    "The status of a socket's handshake with these headers"
    place = httpx.URL(url)
    reader, writer = await asyncio.open_connection(place.host, place.port)
    lines = {"Host": f"{place.host}:{place.port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    lines |= {k.title(): v for k, v in heads.items()}
    writer.write("".join(["GET /ws?tab=x HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n"]).encode("latin-1"))
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


@pytest.mark.parametrize("heads", [{"origin": "http://127.0.0.1:PORT"}, {"host": "localhost:PORT", "origin": "http://localhost:PORT"}, {"host": "LOCALHOST:PORT"}, {"host": "[::1]:PORT"},
                                   {"host": "[::1]:PORT", "origin": "http://[::1]:PORT"}, {"sec_fetch_site": "same-origin", "origin": "http://127.0.0.1:PORT"}, {"sec_fetch_site": "none"}])
def test_our_own_page_is_let_in(live, heads):
    assert with_heads(live, **heads) == [200, 200, 101]


@pytest.mark.parametrize("heads", [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": ""}, {"origin": "http://127.0.0.1:1"}, {"origin": "http://localhost:PORT"}, {"origin": "http://127.0.0.1:PORT.evil.example"},
    {"origin": "http://evil.example/http://127.0.0.1:PORT"}, {"origin": "http://127.0.0.1:PORT@evil.example"}, {"origin": "file://"}, {"origin": "http://["}, {"origin": "http://[::1"},
    {"host": "evil.example"}, {"host": "evil.example:PORT"}, {"host": "evil.example:PORT", "origin": "http://evil.example:PORT"}, {"host": "127.0.0.1.evil.example:PORT"}, {"host": "localhost.evil.example"},
    {"host": "127.0.0.1@evil.example"}, {"host": "192.168.1.5:PORT"}, {"host": "["}, {"host": "[::1"}, {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "cors", "origin": "http://evil.example"}])
def test_a_foreign_origin_or_host_gets_403_on_get_post_and_socket(live, heads):
    assert with_heads(live, **heads) == [403, 403, 403]


@pytest.mark.parametrize("path", ["/", "/do", "/nope", "/static/app.css", "/file/nope", "/app/nope", "/messages", "/context"])
def test_the_safe_headers_are_on_every_answer(live, path):
    for reply in (live.http.get(path), live.http.get(path, headers={"origin": "http://evil.example"}), live.http.post(path, content=b"x")):
        heads = reply.headers
        assert "default-src 'self'" in heads["content-security-policy"] and "frame-ancestors 'none'" in heads["content-security-policy"]
        assert heads["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in heads and "unsafe" not in heads["content-security-policy"]


def test_a_loopback_address_that_is_not_127_0_0_1_answers_under_its_own_name(fresh):
    live = fresh(host="127.0.0.2", models="none")
    assert live.http.get("/health", headers={"host": f"127.0.0.2:{live.url.rpartition(':')[2]}"}).status_code == 200


# a token, where others can reach it

TOKEN = "s3cret; \"ä\" tok=en"


@pytest.fixture
def public(fresh):
    "A server that believes it is reachable from elsewhere"
    return fresh(host="0.0.0.0", token="open-sesame", models="none")


def test_without_the_token_nothing_but_the_door_is_open(public):
    for path in ("/", "/do", "/journal", "/context", "/health", "/app/tasks", "/file/x"): assert public.http.get(path).status_code == 401, path
    assert public.http.post("/do/task.insert", json={"name": "x"}).status_code == 401 and asyncio.run(shake_hands(public.url, {})) == 403
    assert public.http.get("/", headers={"accept": "text/html"}).headers["location"] == "/token"


def test_with_the_token_all_is_open_in_either_way(public):
    assert public.http.get("/do", headers={"authorization": "Bearer open-sesame"}).status_code == 200
    assert public.http.get("/do", headers={"authorization": "Bearer open-sesam"}).status_code == 401
    assert public.http.post("/token", data={"token": "wrong"}).status_code == 401
    assert public.http.post("/token", data={"token": "open-sesame"}).status_code == 303 and public.http.get("/do").status_code == 200


@pytest.mark.parametrize("token", [TOKEN, "with space", "pät", "🎹", "a=b;c", '"quoted"'])
def test_any_token_a_person_may_choose_opens_the_door(fresh, token):
    live = fresh(host="0.0.0.0", token=token, models="none")
    assert live.http.post("/token", data={"token": token}).status_code == 303 and live.http.get("/do").status_code == 200


@pytest.mark.parametrize("kind, body", [("", b"{"), ("application/json", b"[]"), ("application/json", b"null"), ("multipart/form-data", b"x"), ("application/x-www-form-urlencoded", b"\xff" * 50), ("application/json", b'{"token": 5}'),
                                        ("application/x-www-form-urlencoded", b"a=1&" * 3000), ("text/plain", b"x" * (5 << 20))])
def test_rubbish_at_the_door_gives_no_500(public, kind, body):
    assert 200 <= public.http.post("/token", content=body, headers={"content-type": kind}).status_code < 500


def test_nothing_can_be_stored_at_the_door(public):
    public.http.post("/token", files={"token": ("a.bin", b"x" * 1000)})
    assert not [*public.data.glob("uploads/*")]


def test_another_origin_is_refused_with_the_token_too(public):
    assert public.http.get("/do", headers={"authorization": "Bearer open-sesame", "origin": "http://evil.example"}).status_code == 403


def test_an_app_for_others_is_never_built_without_a_token(fresh):
    with pytest.raises((server.PianolaError, AssertionError)): fresh(host="0.0.0.0", models="none").http.get("/do").raise_for_status()


# files

def test_an_upload_comes_back_as_an_attachment_under_its_own_name(live):
    for name in ("evil.html", "../../etc/passwd", "..\\..\\x.txt", "a\"b;c.txt", "ünï ✓.txt", ".", "x" * 500, "\r\nX-Evil: 1"):
        id = live.http.post("/upload", files={"file": (name, b"<script>alert(1)</script>", "text/html")}).json()["id"]
        reply = live.http.get(f"/file/{id}")
        assert reply.content == b"<script>alert(1)</script>" and reply.headers["content-type"] == "application/octet-stream" and "x-evil" not in reply.headers
        assert reply.headers["content-disposition"].startswith("attachment") and "/" not in reply.headers["content-disposition"] and (live.data / "uploads" / id).is_file()
    assert {p.parent for p in live.data.rglob("*") if p.is_file()} <= {live.data, live.data / "uploads", live.data / "logs"}


@pytest.mark.parametrize("send", [{"json": {"a": 1}}, {"data": {"file": "text"}}, {"files": {"file": (None, "only text")}}, {"content": b""}, {"files": {"file": ("", b"")}}])
def test_an_upload_without_a_file_is_refused(live, send):
    reply = live.http.post("/upload", **send)
    assert reply.status_code == 422 and reply.json()["error"]["kind"] == "invalid"


def test_an_upload_over_the_limit_leaves_nothing_behind(live, monkeypatch):
    monkeypatch.setattr(server, "UPLOAD_LIMIT", 100_000)
    before = sorted(live.data.glob("uploads/*"))
    reply = live.http.post("/upload", files=[("file", ("small.bin", b"x")), ("file", ("big.bin", b"x" * 200_000))])
    assert reply.status_code in (413, 422) and sorted(live.data.glob("uploads/*")) == before


def test_an_upload_far_over_the_limit_is_not_read_to_its_end(live, monkeypatch):
    monkeypatch.setattr(server, "UPLOAD_LIMIT", 100_000)
    head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {10 ** 12}\r\n\r\n--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2])), timeout=5) as s:
        s.sendall(head.encode() + b"x" * 3_000_000)
        assert b" 422 " in (reply := s.recv(100)) or b" 413 " in reply


# starting and stopping

def test_a_taken_port_is_told_in_a_sentence_and_exits_with_1(live, start):  # noqa: F811
    port = live.url.rpartition(":")[2]
    code, said = start(PORT=port)
    assert code == 1 and f"Port {port} is taken" in said and f"PORT={int(port) + 1}" in said and "Traceback" not in said


@pytest.mark.parametrize("env, word", [({"PORT": "abc"}, "PORT"), ({"PORT": "99999"}, "PORT"), ({"HOST": "0.0.0.0"}, "PIANOLA_TOKEN"), ({"HOST": "no-such-host.invalid", "PIANOLA_TOKEN": "x"}, "HOST"),
                                       ({"PIANOLA_PLUGINS": "/nowhere/at/all"}, "PIANOLA_PLUGINS")])
def test_a_setting_that_cannot_be_is_told_by_its_name(start, env, word):  # noqa: F811
    code, said = start(seconds=15, **env)
    assert code == 1 and word in said and "Traceback" not in said


def stopped_in(popen, sig=signal.SIGINT):
    "Seconds from the signal to the end of the process"
    before = time.monotonic()
    popen.send_signal(sig)
    popen.wait(15)
    return time.monotonic() - before


def test_ctrl_c_stops_within_a_second_in_the_middle_of_a_reply_and_with_open_sockets(process, ollama, tmp_path):  # noqa: F811
    ollama.replies += [says(threading.Event())]
    live, popen = process(OLLAMA_HOST=ollama.url, PIANOLA_MODEL="ollama/llama3.2:3b", PIANOLA_MODELS=str(tmp_path / "none"))
    live.do("settings.set", key="way", value="json")
    threading.Thread(target=_say, args=(live,), daemon=True).start()
    threading.Thread(target=lambda: asyncio.run(_sit(live)), daemon=True).start()
    wait_for(lambda: ollama.requests)
    assert stopped_in(popen) < 1.5 and popen.returncode in (0, -2, 130)


def _say(live):
    with contextlib.suppress(httpx.HTTPError, ValueError): live.say("Hi")


async def _sit(live):
    with contextlib.suppress(Exception): await over_socket(live.url, "sitting", [], lambda: False)


def test_ctrl_c_stops_within_a_second_when_nothing_runs(process, tmp_path):
    _, popen = process(PIANOLA_MODELS=str(tmp_path / "none"))
    assert stopped_in(popen) < 1.5 and popen.returncode == 0


@pytest.mark.skipif(not list(server.Settings().models.glob("*.gguf")), reason="no model on this machine")
def test_ctrl_c_stops_within_a_second_while_a_model_is_being_loaded(process):
    live, popen = process()
    threading.Thread(target=_say, args=(live,), daemon=True).start()
    wait_for(lambda: live.pianola is None and len(live.http.get("/messages").text) > 300)
    assert stopped_in(popen) < 2


# settings

@pytest.mark.parametrize("key, value, kept", [("theme", "matrix", "matrix"), ("manners", "false", False), ("context", "16384", 16384), ("context", 4096, 4096), ("expert", "123", "123"), ("remote_events", True, True)])
def test_a_setting_is_kept_as_its_kind(live, key, value, kept):
    assert live.do("settings.set", key=key, value=value)["result"] == {"key": key, "value": kept}


@pytest.mark.parametrize("key, value", [("theme", "pink"), ("context", 5), ("context", "²"), ("nope", 1), ("manners", [1]), ("model_mode", None), ("consent", "x"), ("theme", {}), ("expert", 5.5)])
def test_a_setting_that_cannot_be_is_refused(live, key, value):
    found = live.do("settings.set", key=key, value=value)
    assert found["status"] == 422 and found["error"]["kind"] == "invalid"


def test_a_checkbox_that_is_off_is_false(live):
    reply = live.http.post("/do/settings.set", data={"key": "manners"})
    assert reply.json()["result"] == {"key": "manners", "value": False}
