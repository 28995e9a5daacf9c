"KEYBOARD: every change is an action: validated, permitted, run, journaled, undoable, and told to everybody."
import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import websockets
from conftest import in_thread
from hypothesis import HealthCheck, given, settings, strategies as st

import server

LAB = '''"""Lab: keys that misbehave."""
import asyncio
from server import App, Event, PianolaError, action, on, store

class Lab(App):
    "For tests."
    heard = []
    @action()
    def half(self):
        "Write, then fail"
        store["half"] = 1
        raise KeyError("half way")
    @action()
    def refuse(self):
        "Write, then refuse"
        store["half"] = 1
        raise PianolaError("The lab is closed.", "Come tomorrow.")
    @action()
    async def wait(self, seconds: float = 0):
        "Take a while"
        await asyncio.sleep(seconds)
        return {"waited": seconds}
    @action()
    async def boom(self):
        "Fail late"
        raise ZeroDivisionError("late")
    @action(danger="spend")
    def spend(self, much: int):
        "Cost something"
        store["spent"] = store.get("spent", 0) + much
        return store["spent"]
    @action(outside=True)
    def page(self):
        "Hold text from outside"
        return "from outside"
    @on("store.*")
    def listen(self, event):
        if event.action == "store.delete": raise OSError("deaf")
        self.heard.append(event.action)
'''


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    "One server for this module, without any model on the disk either"
    with in_thread(tmp_path_factory.mktemp("data"), models=tmp_path_factory.mktemp("none")) as found: yield found


@pytest.fixture
def lab(fresh, tmp_path):
    "A server whose plugins are ours and a lab of misbehaving keys"
    folder = tmp_path / "plugins"
    folder.mkdir()
    for file in (*server.HERE.glob("plugins/0[1-5]0_*.py"), *server.HERE.glob("plugins/*_pianola.py")):
        (folder / file.name).write_text(file.read_text())
    (folder / "900_lab.py").write_text(LAB)
    return fresh(plugins=folder, models=tmp_path / "models")


def perform(live, actor, name, /, **args):
    "Perform on the server's loop, as code inside the process does; the Outcome, or the error raised"
    call = args.pop("call", None)
    async def go():
        server.current.set(live.pianola)
        return await live.pianola.keyboard.perform(actor, name, args, call)
    return asyncio.run_coroutine_threadsafe(go(), live.pianola.loop).result(20)


def verdict(live, actor, name, /, **args):
    "What the keyboard says to an actor: yes, ask or no"
    try: outcome = perform(live, actor, name, **args)
    except server.DeniedError: return "no"
    return "ask" if outcome.approval else "yes"


def names(live, **query): return [r["name"] for r in live.rows(**query)]


def ask_to_delete(live, name="Milk"):
    "A row the model asks to delete; (its id, the approval's id)"
    id = live.do("task.insert", name=name)["result"]["id"]
    return id, perform(live, "model", "task.delete", id=id).approval


def count(live, state, name):
    return sum(r["state"] == state and r["action"] == name for r in live.journal(limit=1000))


# what a key says of itself

def test_every_key_says_what_it_does_what_it_takes_and_how_dangerous_it_is(live):
    keys = live.http.get("/do").json()
    assert {"task.insert", "task.sort", "profile.select", "app.open", "journal.undo", "store.set", "approval.allow"} <= {k["name"] for k in keys}
    for key in keys:
        assert set(key) >= {"name", "doc", "schema", "danger", "app"} and key["doc"] and key["app"]
        assert key["schema"]["type"] == "object" and key["schema"]["additionalProperties"] is False
        assert key["danger"] in ("read", "write", "destroy", "spend", "person")


def test_an_unknown_key_is_404_and_names_near_ones(live):
    found = live.do("task.instert", name="x")
    assert found["status"] == 404 and found["error"]["kind"] == "unknown" and "task.insert" in found["error"]["message"]


def test_bad_arguments_are_told_by_field(live):
    error = live.do("task.insert", done="perhaps", colour="red")["error"]
    assert error["kind"] == "invalid" and set(error["fields"]) == {"name", "done", "colour"}


def test_a_number_is_taken_where_text_is_asked(live):
    assert live.do("task.insert", name=1984)["result"]["name"] == "1984"


@pytest.mark.parametrize("id", [True, 1.0, [1], {"id": 1}, None, ""])
def test_only_a_number_or_a_text_means_a_row(live, id):
    live.do("task.insert", name="stays")
    before = live.do("task.list")["result"]["total"]
    assert live.do("task.delete", id=id)["status"] in (409, 422) and live.do("task.list")["result"]["total"] == before


def test_code_that_no_request_brought_can_perform_too(live):
    coroutine = live.pianola.keyboard.perform("app", "task.insert", {"name": "from a thread"})
    assert asyncio.run_coroutine_threadsafe(coroutine, live.pianola.loop).result(20).result["name"] == "from a thread"


# who may

TABLE = {"user": "yes yes yes yes yes", "client": "yes yes yes ask yes", "ask": "yes yes ask ask no", "watch": "yes ask ask ask no",
         "play": "yes yes yes ask no"}


@pytest.mark.parametrize("who, danger, said", [(who, danger, said) for who, row in TABLE.items() for danger, said in
                                               zip(("read", "write", "destroy", "spend", "person"), row.split())])
def test_the_permission_table_is_the_designs(who, danger, said):
    assert server.permit(who, danger) == said


def test_with_text_from_outside_the_models_writes_ask_too_and_reads_do_not():
    for mode in ("ask", "watch", "play"):
        assert [server.permit(mode, d, outside=True) for d in ("read", "write", "destroy", "spend", "person")] == ["yes", "ask", "ask", "ask", "no"]
    assert server.permit("user", "write", outside=True) == server.permit("client", "write", outside=True) == "yes"


@pytest.mark.parametrize("mode", ["ask", "watch", "play"])
def test_the_model_may_what_its_mode_says(lab, mode):
    lab.do("settings.set", key="model_mode", value=mode)
    lab.do("task.insert", name="Milk")
    found = [verdict(lab, "model", "task.list"), verdict(lab, "model", "store.set", key="k", value=1), verdict(lab, "model", "task.delete", id="Milk"),
             verdict(lab, "model", "lab.spend", much=1), verdict(lab, "model", "chat.clear")]
    assert found == TABLE[mode].split()


def test_with_text_from_outside_in_the_context_the_models_insert_waits(live):
    outcome = perform(live, "model", "task.insert", name="injected", call=server.Call(outside=True))
    assert outcome.approval and "injected" not in names(live)


@pytest.mark.parametrize("mode", ["ask", "play"])
@pytest.mark.parametrize("key, args", [
    ("approval.allow", {"id": 1}), ("approval.deny", {"id": 1}), ("chat.clear", {}), ("settings.set", {"key": "model_mode", "value": "play"}),
    ("model.pull", {"model": "ollama/llama3.2"}), ("model.select", {"model": "ollama/x"}), ("model.cycle", {}),
    ("journal.forget", {"before": "2999-01-01"})])
def test_the_model_never_plays_what_is_the_persons(live, mode, key, args):
    live.do("settings.set", key="model_mode", value=mode)
    assert verdict(live, "model", key, **args) == "no"
    live.do("settings.set", key="model_mode", value="ask")


def test_the_model_cannot_allow_its_own_request_even_when_it_may_play_freely(live):
    id, approval = ask_to_delete(live, "guarded")
    live.do("settings.set", key="model_mode", value="play")
    assert verdict(live, "model", "approval.allow", id=approval) == "no" and "guarded" in names(live)
    live.do("settings.set", key="model_mode", value="ask")


def test_a_program_spends_only_after_allow(lab):
    asked = lab.do("lab.spend", much=5)
    assert asked["ok"] and asked["approval"] and not lab.do("store.get", key="spent")["result"]
    assert lab.do("approval.allow", id=asked["approval"])["result"]["result"] == 5


def test_the_pages_own_person_spends_without_a_card(lab):
    assert lab.http.post("/do/lab.spend", json={"much": 5}, headers={"x-tab": "t"}).json()["result"] == 5


# asking

def test_what_was_allowed_runs_once_with_the_exact_arguments(live):
    id, approval = ask_to_delete(live, "allowed")
    first, second = live.do("approval.allow", id=approval), live.do("approval.allow", id=approval)
    assert first["ok"] and first["result"]["result"]["id"] == id and second["status"] == 409
    row = next(r for r in live.journal() if r["action"] == "task.delete")
    assert row["actor"] == "model" and row["args"] == {"id": id} and row["undoable"]


def test_however_often_it_is_pressed_at_once_it_runs_once(lab):
    approval = perform(lab, "model", "lab.spend", much=1).approval
    with ThreadPoolExecutor(20) as pool: found = list(pool.map(lambda _: lab.do("approval.allow", id=approval)["status"], range(20)))
    assert sorted(found) == [200] + [409] * 19 and lab.do("store.get", key="spent")["result"] == 1
    assert count(lab, "done", "lab.spend") == 1 and count(lab, "failed", "lab.spend") == 0, "a second press is not the model's failure"


def test_what_was_denied_never_runs(live):
    id, approval = ask_to_delete(live, "denied")
    assert live.do("approval.deny", id=approval)["ok"] and live.do("approval.allow", id=approval)["status"] == 409
    assert "denied" in names(live)


def test_a_question_expires(live):
    id, approval = ask_to_delete(live, "late")
    live.pianola.db.write_now(live_do(live, "update approval set expires='2020-01-01' where id=?", approval))
    found = live.do("approval.allow", id=approval)
    assert found["status"] == 409 and "expired" in found["error"]["message"] and "late" in names(live)


def live_do(live, sql, *params): return lambda: live.pianola.db.do(sql, *params)


def test_a_question_survives_a_restart(tmp_path):
    with in_thread(tmp_path, models=tmp_path) as live: id, approval = ask_to_delete(live)
    with in_thread(tmp_path, models=tmp_path) as live:
        assert names(live) == ["Milk"] and live.do("approval.allow", id=approval)["ok"] and names(live) == []


def test_permission_for_one_row_is_not_permission_for_the_next_with_its_number(fresh):
    live = fresh(models="none")
    id, approval = ask_to_delete(live, "old")
    live.do("task.delete", id=id)
    live.do("task.insert", name="new")
    assert live.do("approval.allow", id=approval)["status"] == 409 and names(live) == ["new"]


# failing

@pytest.mark.parametrize("key, words", [("lab.half", "KeyError"), ("lab.refuse", "The lab is closed. Come tomorrow."), ("lab.boom", "ZeroDivisionError")])
def test_a_failure_changes_nothing_and_keeps_its_row(lab, key, words):
    found = lab.do(key)
    assert found["status"] == 422 and found["error"]["kind"] == "failed" and words in found["error"]["message"]
    row = lab.journal()[0]
    assert (row["action"], row["ok"], row["state"], row["undoable"]) == (key, False, "failed", False) and words in row["error"]
    assert lab.do("store.get", key="half")["result"] is None


def test_a_listener_that_raises_stops_nobody(lab):
    assert lab.do("store.set", key="a", value=1)["ok"] and lab.do("store.delete", key="a")["ok"] and lab.do("store.set", key="b", value=2)["ok"]


# long actions

def test_a_long_action_answers_with_its_job_after_a_second(lab):
    found = lab.http.post("/do/lab.wait", json={"seconds": 1.5}).json()
    assert found["ok"] and found["job"] == lab.journal()[0]["id"] and lab.journal()[0]["state"] == "started"
    wait_for(lambda: lab.journal()[0]["state"] == "done")


def test_a_long_action_can_be_waited_for(lab):
    assert lab.do("lab.wait", seconds=1.2)["result"] == {"waited": 1.2}


def test_a_long_action_that_the_server_did_not_survive_is_interrupted(lab, tmp_path):
    lab.http.post("/do/lab.wait", json={"seconds": 60})
    db = server.apsw.Connection(str(lab.data / "app.db"))
    (tmp_path / "later").mkdir()
    db.execute("vacuum into ?", (str(tmp_path / "later" / "app.db"),))
    with in_thread(tmp_path / "later") as later: assert later.journal()[0]["state"] == "interrupted"


def wait_for(condition, seconds=10):
    "Wait until `condition()` holds"
    pause, tries = threading.Event(), int(seconds / 0.02)
    for _ in range(tries):
        if condition(): return
        pause.wait(0.02)
    raise AssertionError("it never came true")


# undo

@contextmanager
def undone(live):
    "What the block does is undone after it, and every table is as it was before"
    before = snapshot(live)
    yield
    assert snapshot(live) != before, "nothing was done"
    assert live.do("journal.undo")["ok"]
    assert snapshot(live) == before


def snapshot(live):
    db = live.pianola.db
    return [db.q(f"select * from {t} order by 1") for t in ("task", "profile", "store")] + [db.q("select * from message where kind='chat' order by id")]


@pytest.mark.parametrize("key, args", [
    ("task.insert", {"name": "new"}), ("task.update", {"id": "A", "set": {"name": "Z", "due": "2026-01-02"}}), ("task.toggle", {"id": "A"}),
    ("task.delete", {"id": "A"}), ("task.sort", {"ids": ["C", "B", "A"]}), ("task.sort", {"id": "A", "position": -1}), ("store.set", {"key": "k", "value": 2}),
    ("store.set", {"key": "n", "value": [1]}), ("store.delete", {"key": "k"}), ("profile.update", {"id": "Default", "set": {"note": "n"}}), ("chat.clear", {}),
    ("introduction.remember", {"name": "Ada", "colour": "red"})])
def test_everything_can_be_undone(fresh, key, args):
    live = fresh()
    for name in "ABC": live.do("task.insert", name=name)
    live.do("store.set", key="k", value=1)
    live.pianola.db.write_now(lambda: live.pianola.conversation.add("user", "hello"))
    with undone(live): assert live.do(key, **args)["ok"]


def test_undo_of_a_profiles_deletion_brings_its_tasks_back(fresh):
    live = fresh()
    live.do("profile.insert", name="Acme")
    live.do("profile.select", id="Acme")
    for name in "ABC": live.do("task.insert", name=name)
    with undone(live): assert live.do("profile.delete", id="Acme")["ok"] and names(live) == []
    assert names(live) == ["A", "B", "C"]


def test_undo_goes_back_step_by_step(fresh):
    live = fresh()
    for name in "ABC": live.do("task.insert", name=name)
    for left in ("AB", "A", ""): assert live.do("journal.undo")["ok"] and names(live) == [*left]
    found = live.do("journal.undo")
    assert found["status"] == 409 and "nothing to undo" in found["error"]["message"]


def test_undo_of_the_undo_is_redo_and_can_be_undone_again(live):
    done = live.do("task.insert", name="there and back")
    undo = live.do("journal.undo", id=done["journal"])
    assert live.do("journal.undo", id=done["journal"])["status"] == 409
    redo = live.do("journal.undo", id=undo["journal"])
    assert redo["ok"] and "there and back" in names(live)
    assert live.do("journal.undo", id=done["journal"])["ok"] and "there and back" not in names(live)


def test_undo_is_refused_when_the_same_cell_changed_since(live):
    id = live.do("task.insert", name="cell")["result"]["id"]
    first = live.do("task.update", id=id, set={"note": "one"})
    live.do("task.update", id=id, set={"note": "two"})
    found = live.do("journal.undo", id=first["journal"])
    assert found["status"] == 409 and found["error"]["kind"] == "conflict" and live.do("task.read", id=id)["result"]["note"] == "two"


def test_undo_of_one_cell_leaves_a_newer_change_of_another(live):
    id = live.do("task.insert", name="cells")["result"]["id"]
    first = live.do("task.update", id=id, set={"note": "one"})
    live.do("task.toggle", id=id)
    assert live.do("journal.undo", id=first["journal"])["ok"]
    row = live.do("task.read", id=id)["result"]
    assert row["note"] == "" and row["done"] is True


def test_undo_of_a_deletion_works_after_another_row_was_added(fresh):
    live = fresh()
    live.do("task.insert", name="first")
    gone = live.do("task.delete", id="first")
    live.do("task.insert", name="second")
    assert live.do("journal.undo", id=gone["journal"])["ok"] and sorted(names(live)) == ["first", "second"]


def test_undo_of_a_new_profile_does_not_take_newer_tasks_with_it(fresh):
    live = fresh()
    made = live.do("profile.insert", name="Acme")
    live.do("profile.select", id="Acme")
    live.do("task.insert", name="newer")
    assert live.do("journal.undo", id=made["journal"])["status"] == 409 and names(live) == ["newer"]


def test_undo_never_leaves_no_profile(fresh):
    live = fresh()
    made = live.do("profile.insert", name="Acme")
    live.do("profile.delete", id="Default")
    live.do("journal.undo", id=made["journal"])
    assert live.rows("profile") and live.do("task.insert", name="works")["ok"]


def test_what_is_no_change_cannot_be_undone(live):
    for key, args in (("app.open", {"app": "tasks"}), ("profile.select", {"id": "Default"}), ("settings.set", {"key": "theme", "value": "dark"})):
        done = live.do(key, **args)
        assert live.do("journal.undo", id=done["journal"])["status"] == 409


def test_the_model_undoes_only_what_it_did_in_the_same_turn(live):
    call = lambda turn: server.Call(turn=turn)  # noqa: E731
    mine = perform(live, "model", "task.insert", name="mine", call=call(7)).journal
    theirs = live.do("task.insert", name="theirs")["journal"]
    for id, turn in ((theirs, 7), (mine, 8)):
        with pytest.raises(server.DeniedError): perform(live, "model", "journal.undo", id=id, call=call(turn))
    assert perform(live, "model", "journal.undo", call=call(7)).result["undone"] == mine and "theirs" in names(live)


def test_the_model_hears_of_an_undo(live):
    done = live.do("task.insert", name="heard of")
    live.do("journal.undo", id=done["journal"])
    lines = [json.loads(r["content"]) for r in live.pianola.db.q("select content from message where kind='event' order by id desc limit 2")]
    assert [line["action"] for line in lines] == ["journal.undo", "task.insert"] and lines[0]["by"] == "client" and lines[0]["ok"]


# many at once

async def over_http(url, lines):
    "Post (action, args) pairs, twenty at a time"
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=20)) as http:
        return [r.status_code for r in await asyncio.gather(*(http.post(f"/do/{name}", json=args) for name, args in lines))]


async def over_socket(url, tab, lines, done):
    "Type slash commands into one tab, reading what it is sent, until `done()`"
    async with websockets.connect(f"{url.replace('http', 'ws')}/ws?tab={tab}", max_size=None) as ws:
        for name, args in lines: await ws.send(json.dumps({"msg": f"/{name} {json.dumps(args)}"}))
        while not done():
            try: await asyncio.wait_for(ws.recv(), 0.1)
            except TimeoutError: pass


def lines_for(where, many):
    "Inserts, each tenth of them a deletion of what is not there"
    return [("task.delete", {"id": f"{where} none {i}"}) if i % 10 == 0 else ("task.insert", {"name": f"{where} {i}"}) for i in range(many)]


def in_threads(live, lines):
    "Perform from four threads of the process"
    def one(line):
        try: return perform(live, "app", line[0], **line[1]).journal
        except server.ConflictError: return None
    with ThreadPoolExecutor(4) as pool: return list(pool.map(one, lines))


def test_a_thousand_at_once_from_sockets_requests_and_threads_agree_with_the_journal(fresh):
    live = fresh()
    total = lambda: live.pianola.db.one("select count(*) as n from journal")["n"]  # noqa: E731
    async def all_at_once():
        threads = asyncio.to_thread(in_threads, live, lines_for("thread", 300))
        return await asyncio.gather(over_http(live.url, lines_for("http", 400)), threads,
                                    *(over_socket(live.url, f"t{i}", lines_for(f"socket{i}", 100), lambda: total() == 1000) for i in range(3)))
    statuses = asyncio.run(asyncio.wait_for(all_at_once(), 60))[0]
    assert statuses.count(200) == 360 and statuses.count(409) == 40
    assert_journal_and_table_agree(live, 900, 100)


def assert_journal_and_table_agree(live, done, failed):
    "Each row of the table has one journal row that says it was made, with its id and name, in the same order"
    db = live.pianola.db
    rows = db.q("select id, name from task order by id")
    said = [json.loads(r["result"]) for r in db.q("select result from journal where action='task.insert' and state='done' order by id")]
    assert [(r["id"], r["name"]) for r in said] == [(r["id"], r["name"]) for r in rows] and len(rows) == done
    assert db.one("select count(*) as n from journal where state='failed'")["n"] == failed


# nothing gives a 500

NASTY = [None, True, -1, 0, 1.5, 10 ** 18, -(2 ** 63), 2 ** 64, 10 ** 400, float("nan"), float("inf"), "", " ", "²", "٣", "\0", "\ud800", "a" * 1_000_000,
         "%", "'\";--", "../../etc/passwd", "2026-02-30", [], [[]], {}, {"": {}}, ["\ud800"], {"\0": 1}, list(range(3000)), {"a": "\ud800"}]
DEEP = [b"[" * n + b"]" * n for n in (400, 5_000, 200_000)] + [b'{"a":' * n + b"1" + b"}" * n for n in (400, 900, 50_000)]
BODIES = [b"", b"null", b"[]", b"0", b'"x"', b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"id": 1' + b"0" * 5000 + b"}", b"{}" * 2, *DEEP]
FINE = (200, 403, 404, 409, 422, 502)


def assert_sound(reply, told):
    "An answer of the keyboard: a known status, strict JSON, and no failure of our own code"
    def no(word): raise AssertionError(f"{told}: {word} is not JSON")
    assert reply.status_code in FINE, (told, reply.status_code, reply.text[:300])
    body = json.loads(reply.text, parse_constant=no)
    assert body["ok"] == (reply.status_code == 200), told
    if not body["ok"]: assert {"kind", "message"} <= set(body["error"]) and "The log has the traceback" not in body["error"]["message"], (told, body)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    "A server without any model, for what may break it"
    with in_thread(tmp_path_factory.mktemp("victim"), models=tmp_path_factory.mktemp("none")) as live:
        live.do("task.insert", name="A")
        yield live


def test_no_value_of_any_argument_of_any_action_gives_a_500(victim):
    for key in victim.http.get("/do").json():
        fields = key["schema"].get("properties", {})
        for field in fields:
            for value in NASTY:
                args = {n: "A" for n in key["schema"].get("required", ())} | {field: value}
                body = json.dumps(args).encode("utf-8", "surrogatepass")
                assert_sound(victim.http.post(f"/do/{key['name']}", content=body), (key["name"], field, repr(value)[:60]))


def test_no_body_gives_a_500(victim):
    for name in ("task.insert", "task.update", "task.list", "store.set", "journal.undo", "settings.set", "csv.check"):
        for body in BODIES:
            for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain", ""):
                reply = victim.http.post(f"/do/{name}", content=body, headers={"content-type": kind})
                assert_sound(reply, (name, kind, body[:40]))


@pytest.mark.parametrize("value", [b"[" * n + b"]" * n for n in (300, 900, 2_000, 20_000)])
def test_deep_nesting_in_a_value_gives_no_500(victim, value):
    assert_sound(victim.http.post("/do/store.set", content=b'{"key": "deep", "value": ' + value + b"}"), len(value))
    assert victim.http.get("/journal").status_code == 200 and victim.http.get("/").status_code == 200


@pytest.mark.parametrize("body", ["set=x&set.name=y", "set.name=y&set=x", "set.=x", ".a=b", "=", "&&&", "id=A&set.name.x=1", "name=%ff%00", "&".join(["a=1"] * 3000), "name"])
def test_no_form_gives_a_500(victim, body):
    for name in ("task.update", "task.insert"):
        assert_sound(victim.http.post(f"/do/{name}", content=body, headers={"content-type": "application/x-www-form-urlencoded"}), (name, body[:40]))


PART = b'--x\r\nContent-Disposition: form-data; name="name"%s\r\n\r\nhello\r\n--x--\r\n'


@pytest.mark.parametrize("kind, body", [
    ("multipart/form-data", PART % b""), ("multipart/form-data; boundary=x", b"garbage"), ("multipart/form-data; boundary=x", b"--x\r\n"),
    ("multipart/form-data; boundary=y", PART % b""), ("multipart/form-data; boundary=x; charset=nonsense", PART % b""), ("multipart/form-data; boundary=x", b""),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nhello\r\n--x--\r\n"), ("multipart/form-data; boundary=x", PART % b""),
    ("multipart/form-data; boundary=x", b"--x\r\n\r\nhello\r\n--x--\r\n"), ("multipart/form-data; boundary=x", PART.replace(b"hello", b"y" * 5_000_000) % b""),
    ("multipart/form-data; boundary=x", PART.replace(b"--x--", b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n' * 2500 + b"--x--") % b"")])
def test_no_multipart_gives_a_500(victim, kind, body):
    for path in ("/do/task.insert", "/upload"):
        reply = victim.http.post(path, content=body, headers={"content-type": kind})
        assert reply.headers["content-type"].startswith("application/json"), (path, reply.status_code, reply.text[:100])
        assert_sound(reply, (path, kind, body[:60]))


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_validating_gives_arguments_or_says_what_is_wrong(victim, data):
    key = data.draw(st.sampled_from(sorted(victim.pianola.keyboard.actions.values(), key=lambda k: k.name)))
    args = data.draw(st.dictionaries(st.sampled_from([*key.form.model_fields, "other"]), VALUES) | VALUES)
    try: assert isinstance(server.validate(key, args), dict)
    except server.InvalidError as error: assert error.extra["fields"]


@pytest.mark.parametrize("frame", ['[1]', '5', 'null', '{"msg": 5}', '{"msg": {"a": 1}}', '{"msg": "\\ud800"}', '{"msg": "\\u0000"}', '{"msg": "/"}', '{"msg": "/task.insert {"}',
                                   '{"msg": "/task.insert set={"}', '{"msg": "/nope x"}', '{"msg": "/task.list search=[[[["}', "[" * 100_000, b"bytes", "", '{"msg": "/task.read ²"}',
                                   '{"msg": "/task.insert {\\"name\\": ' + "[" * 5000 + '}"}'])
def test_no_frame_on_the_socket_closes_it(victim, frame):
    async def talk():
        async with websockets.connect(f"{victim.url.replace('http', 'ws')}/ws?tab=fuzz", max_size=None) as ws:
            await ws.send(frame)
            await ws.send(json.dumps({"msg": "/store.set key=alive value=yes"}))
            while victim.do("store.get", key="alive")["result"] is None: await asyncio.wait_for(ws.recv(), 5)
    victim.do("store.set", key="alive", value=None)
    asyncio.run(asyncio.wait_for(talk(), 15))
