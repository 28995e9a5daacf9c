"Workflows: forms from signatures, results by name, runs that last, cards"
import json
import re
import sys
import threading
import time

import pytest
from flows import LAB, add_plugin, state
from playwright.sync_api import expect

from browser import browse  # noqa: F401  (a fixture)
from conftest import in_thread


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A server with the lab workflow"
    with in_thread(tmp_path_factory.mktemp("lab") / "data") as live:
        add_plugin(live, LAB)
        yield live


@pytest.fixture
def new(lab):
    "The lab with a run of its own for each test"
    lab.do("run.new", app="lab")
    return lab


def upload(live, name: str, data: bytes) -> str:
    return live.http.post("/upload", files={"file": (name, data)}).json()["id"]


def result(live, step: str, **args):
    "What a step returned, as it was kept"
    answer = live.do(f"lab.{step}", **args)
    assert answer["ok"], answer
    folder = live.data.resolve() / "runs" / answer["result"]["run"]
    return json.loads((folder / f"{step}.json").read_text())


# ---- what a step takes

def test_every_annotation_gives_its_type(new):
    got = result(new, "fields", text="hi", count="4", day="2031-05-06", kind="b", lines=["p", "q"], sure=True)
    assert {k: v[0] for k, v in got.items()} == {
        "text": "str", "count": "int", "ratio": "float", "sure": "bool", "day": "date", "kind": "str", "lines": "list",
        "plain": "int", "maybe": "NoneType"}
    assert (got["count"][1], got["day"][1], got["lines"][1]) == (4, {"$date": "2031-05-06"}, ["p", "q"])


def test_the_page_has_an_input_for_each_field_and_its_default(new):
    page = new.http.get("/app/lab").text
    for part in ('type="number" name="count" value="3"', 'type="checkbox" name="sure"',
                 'type="date" name="day" value="2031-01-02"', "<select", 'name="lines"',
                 'type="file" name="path"', 'name="plain" value="7"'):
        assert part in page, part
    assert 'name="things"' not in page and 'name="progress"' not in page


def test_a_form_as_a_browser_sends_it_is_decoded(new):
    form = {"text": "hi", "count": "", "lines": "p\nq\n", "maybe": ""}
    reply = new.http.post("/do/lab.fields?wait=1", data=form).json()
    assert reply["ok"] and json.loads(state(new, "fields")["inputs"]) == {
        "text": "hi", "count": 3, "ratio": 0.5, "sure": False, "day": "2031-01-02", "kind": "a", "lines": ["p", "q"],
        "plain": 7, "maybe": None}


@pytest.mark.parametrize("args, field", [
    ({}, "text"), ({"text": "x", "count": "many"}, "count"), ({"text": "x", "kind": "c"}, "kind"),
    ({"text": "x", "day": "soon"}, "day"), ({"text": "x", "nope": 1}, "nope")])
def test_bad_inputs_are_named_by_field_and_nothing_runs(new, args, field):
    answer = new.do("lab.fields", **args)
    assert (answer["status"], answer["error"]["kind"]) == (422, "invalid") and field in answer["error"]["fields"]
    assert state(new, "fields")["state"] == "open"


def test_files_come_as_path_bytes_and_table_and_stay_with_the_run(new):
    text, data = upload(new, "näme <x>.txt", b"hello"), upload(new, "b.bin", b"123")
    got = result(new, "files", path=text, data=data, table=upload(new, "c.csv", b"x;y\n1;2\n3;4\n"))
    assert got == {"name": "näme _x_.txt", "text": "hello", "bytes": 3, "rows": 2}
    again = new.do("lab.files", table=None)
    assert again["ok"], "files chosen before are kept"


def test_no_path_of_this_machine_is_taken_for_an_upload(new):
    run = new.do("lab.later")["result"]["run"]
    (new.data / "runs" / run / "files").mkdir(parents=True, exist_ok=True)
    app = new.data.resolve() / "runs" / run / "files/../../../app.db"
    for path in ("/etc/passwd", "../../../app.db", str(app), "", "x" * 300):
        assert new.do("lab.files", path=path, data=path)["status"] in (404, 422), path


def test_a_missing_file_is_named(new):
    answer = new.do("lab.files", data=upload(new, "b.bin", b"1"))
    assert (answer["status"], list(answer["error"]["fields"])) == (422, ["path"])


def test_a_list_of_a_dataclass_is_a_table_of_the_run(new):
    for name, amount in (("a", 1), ("b", 2)): assert new.do("thing.insert", name=name, amount=amount)["ok"]
    new.do("thing.sort", id="b", position=1)
    assert result(new, "things") == {"total": 3, "names": ["b", "a"], "kind": ["Thing", "Thing"]}
    assert result(new, "total", extra=5) == 8
    new.do("run.new", app="lab")
    assert new.rows("thing") == [], "another run has a list of its own"


def test_a_list_may_be_given_as_rows(new):
    assert result(new, "things", items=[{"name": "z", "amount": 9}])["total"] == 9


@pytest.mark.parametrize("body, words", [
    ("def one(self, two): return 1\n    @step()\n    def two(self): return 2", "needs two"),
    ("def one(self, whatever): return 1", "Nobody knows whatever"),
    ("def llm(self): return 1", "cannot be called llm"),
    ("def one(self, run: str): return 1", "cannot be called run"),
    ("def one(self): return 1\n    @step()\n    def one(self): return 2", "Two steps are called one")])
def test_a_workflow_nobody_can_run_says_so_on_its_page_with_file_and_line(lab, body, words):
    head = '"""Bad."""\nfrom server import Workflow, step\nclass Bad(Workflow):\n    "x"\n    @step()\n    '
    add_plugin(lab, f"{head}{body}\n", "301_bad.py")
    page = lab.http.get("/app/bad").text
    assert words in page and "301_bad.py, line" in page
    assert lab.http.get("/app/lab").status_code == 200


def test_a_step_may_have_any_name_even_one_of_ours(lab):
    names = ("name", "page", "load", "start", "file", "actions", "title")
    steps = "".join(f'    @step()\n    def {n}(self): return "{n}"\n' for n in names)
    head = '"""Own."""\nfrom server import Workflow, step\nclass Own(Workflow):\n    "x"\n'
    add_plugin(lab, head + steps, "302_own.py")
    for name in names: assert lab.do(f"own.{name}")["result"]["preview"] == name


def test_a_step_may_propose_the_rows_of_a_list_that_the_person_then_edits(new):
    assert new.do("lab.propose")["ok"] and [r["name"] for r in new.rows("thing")] == ["p", "q"]
    new.do("thing.delete", id="p")
    new.do("lab.propose", names=["z"])
    assert [r["name"] for r in new.rows("thing")] == ["q"], "what was begun is not overwritten"


# ---- what it gives

def test_generators_and_coroutines_end_with_a_result(new):
    assert new.do("lab.parts")["result"]["preview"] == "all parts"
    assert new.do("lab.later")["result"]["preview"] == "later"


def test_profile_store_chat_and_progress_are_handed_in(new):
    before = new.do("store.get", key="seen")["result"] or 0
    assert result(new, "knows") == {"profile": "Default", "seen": before + 1}
    assert new.journal(actor="app")[0]["action"] == "store.set"
    assert any(r["content"] == "Said by a step." for r in new.pianola.conversation.page())


@pytest.mark.parametrize("how, words", [
    ("exit", "SystemExit"), ("die", "exit code 4"), ("object", "cannot return a object")])
def test_a_step_that_ends_badly_harms_nobody(new, how, words):
    answer = new.do("lab.odd", how=how)
    assert (answer["status"], answer["error"]["kind"]) == (422, "failed") and words in answer["error"]["message"]
    assert state(new, "odd")["state"] == "failed" and words in new.http.get("/app/lab").text
    assert new.do("lab.later")["ok"]


def test_a_step_that_prints_for_ever_is_kept_short(new):
    began = time.monotonic()
    assert new.do("lab.odd", how="print")["ok"] and time.monotonic() - began < 10


def test_a_failure_keeps_inputs_traceback_and_earlier_results(new):
    new.do("lab.things", items=[{"name": "a"}])
    answer = new.do("lab.count", n=3, fail=2)
    assert answer["error"]["message"] == "ValueError: boom"
    kept = state(new, "count")
    assert json.loads(kept["inputs"])["fail"] == 2 and "raise ValueError" in kept["trace"]
    assert state(new, "things")["state"] == "done"


def test_a_step_needs_the_results_it_names(new):
    answer = new.do("lab.total")
    assert (answer["status"], answer["error"]["kind"]) == (409, "conflict") and "List" in answer["error"]["message"]


# ---- runs

def test_changing_an_earlier_step_makes_what_builds_on_it_stale_and_keeps_its_inputs(new):
    new.do("lab.things", items=[{"name": "a"}])
    new.do("lab.total", extra=4)
    new.do("lab.later")
    new.do("lab.things", items=[{"name": "b"}])
    assert (state(new, "total")["state"], json.loads(state(new, "total")["inputs"])) == ("stale", {"extra": 4})
    assert state(new, "later")["state"] == "done", "what does not build on it is not stale"


def test_undo_brings_back_the_result_before(new):
    new.do("lab.things", items=[{"name": "a"}])
    journal = new.do("lab.things", items=[{"name": "b"}, {"name": "c"}])["journal"]
    assert new.do("journal.undo", id=journal)["ok"]
    assert json.loads(state(new, "things")["inputs"])["items"] == [{"name": "a"}]
    assert new.do("lab.total")["result"]["preview"] == "1", "and the file it was kept in"


def test_a_run_again_that_fails_keeps_the_result_before(new):
    new.do("lab.count", n=2)
    assert not new.do("lab.count", n=3, fail=1)["ok"]
    assert json.loads(state(new, "count")["record"])["preview"] == '{"n": 2, "from": 0}'


def test_finalize_locks_and_unlock_reopens(new):
    new.do("lab.later")
    assert new.do("run.finalize")["ok"]
    answer = new.do("lab.later")
    assert answer["status"] == 409 and "finalized" in answer["error"]["message"]
    assert "disabled" in new.http.get("/app/lab").text
    new.do("run.unlock")
    assert new.do("lab.later")["ok"]


def test_restart_from_a_step_forgets_it_and_what_builds_on_it(new):
    new.do("lab.things", items=[{"name": "a"}])
    new.do("lab.total", extra=2)
    new.do("run.restart", step="lab.things")
    assert (state(new, "things")["state"], state(new, "total")["state"]) == ("open", "open")
    assert json.loads(state(new, "total")["inputs"]) == {"extra": 2}


def test_runs_are_listed_searched_duplicated_archived_deleted_and_brought_back(new):
    new.do("lab.things", items=[{"name": "a"}])
    new.do("thing.insert", name="row")
    run = new.do("run.list")["result"]["rows"][-1]
    assert new.do("run.update", id=run["id"], set={"name": "Zebra run"})["ok"]
    assert [r["name"] for r in new.rows("run", search="zebra")] == ["Zebra run"]
    copy = new.do("run.duplicate", run=run["key"])["result"]["run"]
    assert new.do("run.open", run=copy)["ok"] and state(new, "things")["state"] == "done"
    assert [r["name"] for r in new.rows("thing")] == ["row"]
    assert new.do("run.toggle", id=run["id"])["result"]["archived"]
    journal = new.do("run.delete", id=run["id"])["journal"]
    assert [r["name"] for r in new.rows("run", search="zebra")] == ["Zebra run (copy)"]
    new.do("journal.undo", id=journal)
    assert len(new.rows("run", search="zebra")) == 2
    assert new.pianola.db.one("select count(*) as n from run_step where run_id=?", run["id"])["n"] == 1


def test_all_runs_of_one_app_are_a_press_away(new, browse):
    new.do("hello.name")
    v = browse(new, "/app/lab")
    v.page.get_by_role("button", name="All runs").click()
    expect(v.page.locator("#grid-left h1")).to_have_text("Runs")
    expect(v.page.locator("#app-menu summary")).to_contain_text("Runs")
    assert set(v.page.locator(".row .badge").all_inner_texts()) == {"Lab"}
    v.page.locator(".row").first.get_by_role("button", name="Open").click()
    expect(v.page.locator("#grid-left h1")).to_have_text("Lab")


def test_a_run_is_opened_by_its_address(new):
    first = new.do("lab.fields", text="first run")["result"]["run"]
    new.do("run.new", app="lab")
    new.do("lab.fields", text="second run")
    def left(address): return re.search('<section.*?</section>', new.http.get(address).text, re.S)[0]
    assert "first run" in left(f"/app/lab?run={first}") and "first run" not in left("/app/lab")


def test_results_are_files_anybody_can_read_and_nothing_else_is(new):
    run = new.do("lab.things", items=[{"name": "a"}])["result"]["run"]
    reply = new.http.get(f"/file/{run}/things.json")
    assert reply.json()["total"] == 1 and reply.headers["content-disposition"].startswith("attachment")
    for name in ("../app.db", "%2e%2e/app.db", "..%2fapp.db", "%2e%2e", "%00", "a%00.csv", "nope.json"):
        assert new.http.get(f"/file/{run}/{name}").status_code == 404
    assert new.http.get("/frame/x/things.json").status_code == 404


# ---- who hears of it

def test_listeners_and_the_model_hear_of_a_step(new):
    new.do("lab.things", items=[{"name": "a"}])
    new.do("lab.total", extra=1)
    newest = new.pianola.db.one("select content from message where kind='event' order by id desc limit 1")
    heard = json.loads(newest["content"])
    assert heard == {"action": "lab.total", "args": {"extra": 1}, "by": "client", "ok": True,
                     "journal": heard["journal"], "result": heard["result"]} and heard["result"]["preview"] == "2"


def test_a_plugin_may_listen_to_its_own_steps_and_knows_when_it_is_loaded_and_stopped(new, tmp_path):
    new.do("lab.things", items=[{"name": "a"}])
    new.do("lab.total", extra=6)
    wait_until = time.monotonic() + 2
    while not (heard := new.pianola.plugins.apps["lab"].heard) or heard[-1]["preview"] != "7":
        assert time.monotonic() < wait_until
        time.sleep(0.01)

    told = tmp_path / "told"
    text = ('"""Hooks."""\nfrom server import Workflow, step\nclass Hooks(Workflow):\n    "x"\n'
        '    def start(self): self.tell("start ")\n    def stop(self): self.tell("stop ")\n'
        f'    def tell(self, word): open({str(told)!r}, "a").write(word)\n'
        '    @step()\n    def one(self): return 1\n')
    add_plugin(new, text, "303_hooks.py")
    add_plugin(new, text + "# changed\n", "303_hooks.py")
    assert told.read_text() == "start stop start "


def test_the_model_runs_a_step_as_a_person_would(new):
    assert new.play("lab.fields", text="by the model")["result"]["step"] == "All fields"
    assert new.journal()[0]["actor"] == "model"


def test_what_the_model_is_told_of_the_open_run_is_short(new):
    new.do("lab.things", items=[{"name": "a" * 5000}])
    new.do("lab.odd", how="object")
    page = new.http.get("/app/lab")
    assert page.status_code == 200
    from server import Call, View, calling, current
    current.set(new.pianola), calling.set(Call())
    text = new.pianola.plugins.apps["lab"].for_model(View("lab"))
    assert "step 3 things (items) List: done" in text and "step 10 odd (how) Odd ends: failed" in text
    assert len(text) < 3000


def test_cards_fold_by_person_and_model(new):
    new.do("lab.things", items=[{"name": "a"}])
    assert new.do("card.minimize", card="lab.things")["ok"] and state(new, "things")["folded"]
    assert new.play("card.expand", card="step-lab-things")["ok"] and not state(new, "things")["folded"]


# ---- plugins reload alone

def test_a_saved_plugin_is_shown_within_half_a_second_with_its_run(new, browse):
    v = browse(new, "/app/lab")
    v.live.do("lab.later")
    expect(v.page.locator("#step-lab-later")).to_have_attribute("data-state", "done")
    add_plugin(new, LAB.replace('@step("Async")', '@step("Renamed")'))
    expect(v.page.locator("#step-lab-later h2")).to_have_text("Renamed", timeout=600)
    expect(v.page.locator("#step-lab-later")).to_have_attribute("data-state", "done")
    add_plugin(new, LAB.replace("import pandas as pd", "import pandas as pd, nothing_like_it"))
    expect(v.page.locator("#grid-left")).to_contain_text("nothing_like_it", timeout=1000)
    assert new.do("task.list")["ok"]
    add_plugin(new, LAB)
    expect(v.page.locator("#step-lab-later h2")).to_have_text("Async", timeout=1000)


def test_a_step_at_work_ends_with_the_version_it_began_with(new):
    box = {}
    new.do("lab.later")
    thread = threading.Thread(target=lambda: box.update(new.do("lab.count", n=30, gap=0.03)))
    thread.start()
    time.sleep(0.4)
    add_plugin(new, LAB.replace('return {"n": n, "from": at}', 'return {"n": "new"}'))
    thread.join(20)
    assert box["result"]["preview"] == '{"n": 30, "from": 0}'
    assert new.do("lab.count", n=1)["result"]["preview"] == '{"n": "new"}'
    add_plugin(new, LAB)


@pytest.mark.parametrize("said, meant", [
    ("open the csv studio", "CSV Studio"), ("go to competitive analysis", "Competitive Analysis"),
    ("open the journal", "journal"), ("bring up csv", "csv")])
def test_an_app_is_named_by_its_name_or_title_and_the_longer_wins(new, said, meant):
    from server import current
    current.set(new.pianola)
    module = sys.modules[type(new.pianola.apps["phrases"]).__module__]
    assert module.hear(said, {"app": new.pianola.apps["phrases"].names()["app"]}).linked["app"].names == [meant]
