"CHAT: the model plays in each of its three ways, asks for leave, fails in clear sentences, and can be stopped."
import json
import threading
import time

import httpx
import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from browser import browse, ollama, talk  # noqa: F401  (fixtures)
from scripted_ollama import cut, dies, fails, garbles, says

WAYS = ("guided", "tools", "json")
SOLE = ("task.toggle", "task.sort", "task.delete")  # where these are meant but one play is possible: no guided model is asked
TOOL = {"task.insert": lambda a: ("insert_row", {"table": "task", "fields": a}),
        "task.update": lambda a: ("update_row", {"table": "task", "id": str(a["id"]), "fields": a["set"]}),
        "task.toggle": lambda a: ("toggle_row", {"table": "task", "id": str(a["id"])}),
        "task.delete": lambda a: ("delete_row", {"table": "task", "id": str(a["id"])}),
        "task.sort": lambda a: ("move_row", {"table": "task", "id": str(a["id"]), "position": a["position"]})}


def act(name: str, /, **args) -> str: return json.dumps({"action": name, "args": args})


def turn(way: str, *plays: tuple[str, dict], words: str = "There you are.") -> list:
    "What a model says in one turn that plays `plays` in this way"
    if way == "tools": return [says(calls=(TOOL[name](args),)) for name, args in plays] + [words]
    if way == "guided": plays = tuple(p for p in plays if p[0] not in SOLE)
    return [act(name, **args) for name, args in plays] + [words]


def actions(items: list[dict]) -> list[tuple]: return [(i["action"]["name"], i["action"].get("ok")) for i in items if "action" in i]


def words(items: list[dict]) -> str: return "".join(i.get("delta", "") for i in items)


# ---- POST /chat

def test_a_script_gets_words_as_they_come_and_then_the_end(talk):
    items = talk("Hello **there**, how are you?").say("Hi")
    assert words(items) == "Hello **there**, how are you?" and len(items) > 3
    assert items[-1] == {"done": {"state": "done", "model": "ollama/llama3.2:3b", "tokens_in": 13, "tokens_cached": 0, "tokens_out": 12}}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"hi"', b"{}", b'{"msg": ""}', b'{"msg": " "}', b'{"msg": 5}', b'{"msg": null}'])
def test_what_is_no_line_is_refused_with_422(live, body):
    reply = live.http.post("/chat", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 422 and reply.json()["error"]["kind"] == "invalid"


def test_a_slash_command_by_a_script_plays_as_typing_does(talk):
    live = talk()
    items = live.say("/task.insert Buy milk")
    assert actions(items) == [("task.insert", True)] and items[-1]["done"]["state"] == "done"
    assert [r["name"] for r in live.rows()] == ["Buy milk"] and not live.ollama.requests


def test_two_scripts_at_once_each_get_their_own_answer(talk):
    live, got = talk("first answer", "second answer"), {}
    def ask(text): got[text] = words(live.say(text))
    threads = [threading.Thread(target=ask, args=(t,)) for t in ("one", "two")]
    for t in threads: t.start()
    for t in threads: t.join(20)
    assert sorted(got.values()) == ["first answer", "second answer"]


# ---- the three ways

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("line, name, args, after", [
    ("add Buy milk to my tasks", "task.insert", {"name": "Buy milk"}, ["rent", "plumber", "Buy milk"]),
    ("rename the task plumber to Baker", "task.update", {"id": "plumber", "set": {"name": "Baker"}}, ["rent", "Baker"]),
    ("tick off the task rent", "task.toggle", {"id": "rent"}, ["rent ✓", "plumber"]),
    ("move the task plumber to the top", "task.sort", {"id": "plumber", "position": 1}, ["plumber", "rent"])])
def test_the_model_plays_as_a_person_would(talk, way, line, name, args, after):
    live = talk(*turn(way, (name, args)), way=way)
    for each in ("rent", "plumber"): live.do("task.insert", name=each)
    items = live.say(line)
    assert [r["name"] + " ✓" * r["done"] for r in live.rows()] == after
    assert actions(items) == [(name, True)] and words(items).strip() == "There you are." and items[-1]["done"]["state"] == "done"
    assert not live.ollama.replies
    row = live.journal()[0]
    assert (row["actor"], row["action"], row["undoable"]) == ("model", name, True)
    assert next(i["action"] for i in items if "action" in i)["journal"] == row["id"]


@pytest.mark.parametrize("way", WAYS)
def test_the_model_is_told_the_result_before_it_speaks(talk, way):
    live = talk(*turn(way, ("task.insert", {"name": "Buy milk"})), way=way)
    live.say("add Buy milk to my tasks")
    last = json.dumps(live.ollama.requests[-1]["messages"][-2:], ensure_ascii=False)
    assert "task.insert" in last and "Buy milk" in last


@pytest.mark.parametrize("way", ["guided", "json"])
def test_a_request_naming_two_actions_plays_both_in_order(talk, way):
    both = [("task.insert", {"name": "Milk"}), ("task.toggle", {"id": "rent"})]
    script = ["\n".join(act(name, **args) for name, args in both), "Both done."]
    live = talk(*(turn(way, *both, words="Both done.") if way == "guided" else script), way=way)
    live.do("task.insert", name="rent")
    items = live.say("add Milk to my tasks and tick off the rent")
    assert actions(items) == [("task.insert", True), ("task.toggle", True)] and words(items).strip() == "Both done."
    assert [(r["name"], r["done"]) for r in live.rows()] == [("rent", True), ("Milk", False)]


@pytest.mark.parametrize("way", WAYS)
def test_five_actions_are_the_limit_of_a_turn(talk, way):
    names = "Milk Bread Eggs Tea Rice Salt Oil Jam".split()
    plays = [("task.insert", {"name": name}) for name in names]
    script = {"json": ["\n".join(act(n, **a) for n, a in plays)], "tools": [says(calls=tuple(TOOL[n](a) for n, a in plays))],
              "guided": [act(n, **a) for n, a in plays]}[way]
    live = talk(*script, way=way)
    live.say(" and ".join(f"add {name} to my tasks" for name in names))
    assert [r["name"] for r in live.rows()] == names[:5]


def test_a_model_that_plays_for_ever_is_ended(talk):
    live = talk(*[act("task.insert", name=f"n{i}") for i in range(20)])
    items = live.say("add")
    assert len(live.rows()) == 5 and items[-1]["done"]["state"] == "done" and len(live.ollama.requests) <= 7


@pytest.mark.parametrize("way", ["tools", "json"])
def test_a_call_in_plain_text_is_caught(talk, way):
    live = talk("Sure.\n```json\n" + act("task.insert", name="Buy milk") + "\n```\n", "Done.", way=way)
    items = live.say("add Buy milk")
    assert [r["name"] for r in live.rows()] == ["Buy milk"] and "{" not in words(items)


@pytest.mark.parametrize("text", ['{"action": "task.insert", "args": {"name": "x"}, "by": "user", "ok": true}', '{"action": "task.fly", "args": {}}',
                                  '```example\n{"action": "task.insert", "args": {"name": "x"}}\n```', '[1] {"a": 1} [x]'])
@pytest.mark.parametrize("way", ["tools", "json"])
def test_an_echo_or_an_example_plays_nothing(talk, way, text):
    live = talk(text, way=way)
    items = live.say("explain")
    assert not live.rows() and not actions(items) and words(items) == text


def test_a_broken_object_is_repaired_once(talk):
    live = talk('{"action": "task.insert", "args": {"name": "Buy milk",}}', act("task.insert", name="Buy milk"), "Done.")
    live.say("add Buy milk")
    assert [r["name"] for r in live.rows()] == ["Buy milk"]
    assert "not understood" in live.ollama.requests[1]["messages"][-1]["content"]


def test_an_object_broken_twice_is_shown_to_the_person(talk, browse):
    live = talk(*['{"action": "task.insert", "args": {"name": "Buy milk",}}'] * 3)
    v = browse(live)
    v.say("add Buy milk")
    expect(v.page.locator("#msg-list .key[data-ok=false]")).to_have_count(2)
    expect(v.page.locator("#msg-list .key[data-ok=false]").last).to_contain_text("not valid JSON")
    assert len(live.ollama.requests) == 2
    v.page.reload()
    expect(v.page.locator("#msg-list .key[data-ok=false]").last).to_contain_text("not valid JSON")


NO_ROW = ("tick off the zebra", ("task.toggle", {"id": "zebra"}), "No task is called 'zebra'")
TOO_LONG = (f"add {'Z' * 1001} to my tasks", ("task.insert", {"name": "Z" * 1001}), "at most 1000 characters")


@pytest.mark.parametrize("way, line, play, why", [("tools", *NO_ROW), ("json", *NO_ROW), ("guided", *TOO_LONG)])
def test_a_refused_action_is_told_to_model_and_person(talk, browse, way, line, play, why):
    live = talk(*turn(way, play, words="I could not."), way=way)
    live.do("task.insert", name="rent")
    v = browse(live, "/app/tasks")
    v.say(line)
    v.answered("I could not.")
    expect(v.page.locator("#msg-list .key[data-ok=false]")).to_contain_text(why)
    assert why in json.dumps(live.ollama.requests[-1]["messages"])


def test_a_row_that_is_not_there_is_asked_about_and_no_guided_model_is_troubled(talk):
    live = talk(way="guided")
    live.do("task.insert", name="rent")
    items = live.say("tick off the zebra")
    assert words(items) == "Which task do you mean?" and not actions(items) and not live.ollama.requests


@pytest.mark.parametrize("name, args", [("chat.clear", {}), ("settings.set", {"key": "model_mode", "value": "play"}), ("approval.allow", {"id": 1}),
                                        ("model.pull", {"model": "smollm2-135m"}), ("journal.forget", {"before": "2099-01-01"})])
@pytest.mark.parametrize("way", ["tools", "json"])
def test_what_is_the_persons_is_never_the_models(talk, way, name, args):
    live = talk(says(calls=(("play", {"action": name, "args": args}),)) if way == "tools" else act(name, **args), "I may not.", way=way)
    live.do("task.insert", name="rent")
    items = live.say("go on")
    assert actions(items) == [(name, False)] and "person" in items[[*map(lambda i: "action" in i, items)].index(True)]["action"]["error"]
    assert live.journal()[0]["action"] == "task.insert" and name not in json.dumps(live.ollama.requests[0]["messages"][0])


def test_an_ambiguous_name_asks_back_and_touches_nothing(talk):
    live = talk(act("task.toggle", id="milk"), "Which one?")
    for name in ("Milk", "mi lk"): live.do("task.insert", name=name)
    items = live.say("tick off milk")
    assert not any(r["done"] for r in live.rows()) and words(items) == "Which one?"
    assert "Milk (1)" in json.dumps(live.ollama.requests[-1]["messages"])


def test_the_model_opens_an_app_in_the_tab_that_asked(talk, browse):
    v = browse(talk(act("app.open", app="journal"), "Here it is."), "/app/tasks")
    other = v.tab("/app/tasks")
    v.say("open the journal")
    expect(v.page.get_by_role("heading", name="Journal")).to_be_visible()
    v.answered("Here it is.")
    expect(other.get_by_role("heading", name="Tasks")).to_be_visible()


# ---- keys, undo, permission

@pytest.mark.parametrize("way", WAYS)
def test_a_played_key_is_shown_instead_of_json_and_has_an_undo(talk, browse, way):
    v = browse(talk(*turn(way, ("task.insert", {"name": "Buy milk"})), way=way), "/app/tasks")
    v.say("add Buy milk")
    v.shows("Buy milk")
    v.answered("There you are.")
    key = v.page.locator("#msg-list .key")
    expect(key).to_contain_text("task.insert · Buy milk")
    expect(v.page.locator("#msg-list")).not_to_contain_text('"action"')
    key.get_by_role("button", name="Undo").click()
    v.shows()
    expect(key).to_contain_text("undone")
    v.page.reload()
    expect(key).to_contain_text("undone")
    expect(key.get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("way", WAYS)
def test_a_deletion_waits_for_the_person_and_is_done_once_when_allowed(talk, browse, way):
    asked = "press Allow" if way == "guided" else "I asked you."  # guided: the app says so itself
    replies = [r for r in turn(way, ("task.delete", {"id": "rent"}), words="I asked you.") if way != "guided" or r != "I asked you."]
    live = talk(*replies, "It is gone.", way=way)
    live.do("task.insert", name="rent")
    v = browse(live, "/app/tasks")
    v.say("delete rent")
    card = v.page.locator("[data-role=approval]")
    expect(card).to_contain_text("task.delete")
    expect(card).to_contain_text("rent")
    v.answered(asked)
    v.page.reload()
    assert live.rows()
    card.get_by_role("button", name="Allow").click()
    v.shows()
    v.answered("It is gone.")
    expect(card.get_by_role("button")).to_have_count(0)
    assert [r["actor"] for r in live.journal() if r["action"] == "task.delete"] == ["model"]
    v.page.locator("#msg-list .key").get_by_role("button", name="Undo").click()
    v.shows("rent")


def test_a_denied_deletion_never_happens_and_the_model_hears_of_it(talk, browse):
    live = talk(act("task.delete", id="rent"), "I asked you.", "All right, it stays.")
    live.do("task.insert", name="rent")
    v = browse(live, "/app/tasks")
    v.say("delete rent")
    v.page.get_by_role("button", name="Deny").click()
    card = v.page.locator("[data-role=approval]")
    expect(card).to_contain_text("denied")
    v.page.reload()
    expect(card).to_contain_text("denied")
    expect(card.get_by_role("button")).to_have_count(0)
    v.shows("rent")
    assert live.do("approval.allow", id=1)["status"] == 409
    live.say("and now?")
    assert "approval.deny" in json.dumps(live.ollama.requests[-1]["messages"]) or "denied" in json.dumps(live.ollama.requests[-1]["messages"])


def test_a_script_hears_that_a_deletion_waits(talk):
    live = talk(act("task.delete", id="rent"), "I asked you.")
    live.do("task.insert", name="rent")
    items = live.say("delete rent")
    assert {"action": {"name": "task.delete", "args": {"id": 1}, "approval": 1}} in items and len(live.rows()) == 1
    assert live.do("approval.allow", id=1)["ok"] and not live.rows()
    assert live.do("approval.allow", id=1)["status"] == 409


def test_pressing_allow_twice_deletes_once(talk):
    live = talk(act("task.delete", id="rent"), "I asked you.")
    for name in ("rent", "milk"): live.do("task.insert", name=name)
    live.say("delete rent")
    got, post = [], lambda: got.append(httpx.post(f"{live.url}/do/approval.allow?wait=1", json={"id": 1}).status_code)  # noqa: E731
    threads = [threading.Thread(target=post) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert sorted(got) == [200, 409, 409, 409]
    assert [r["name"] for r in live.rows()] == ["milk"] and sum(r["action"] == "task.delete" for r in live.journal()) == 1


def test_watch_mode_asks_before_every_change_and_play_mode_before_none(talk):
    live = talk(act("task.insert", name="milk"), "I asked.", act("task.delete", id="rent"), "Gone.")
    live.do("task.insert", name="rent")
    live.do("settings.set", key="model_mode", value="watch")
    assert [("approval" in i["action"]) for i in live.say("add milk") if "action" in i] == [True]
    live.do("settings.set", key="model_mode", value="play")
    assert actions(live.say("delete rent")) == [("task.delete", True)]
    assert live.rows() == []


def test_the_model_undoes_only_what_it_did_in_this_turn(talk):
    live = talk(act("task.insert", name="milk"), act("journal.undo"), "Taken back.", act("journal.undo"), "I cannot.")
    live.do("task.insert", name="rent")
    assert actions(live.say("add milk, no, undo")) == [("task.insert", True), ("journal.undo", True)]
    assert actions(live.say("undo")) == [("journal.undo", False)]
    assert [r["name"] for r in live.rows()] == ["rent"]


# ---- errors of the model

@pytest.mark.parametrize("item, cause, said", [
    (fails(404, "model 'llama3.2:3b' not found"), "has no model", ""), (fails(500, "it is broken"), "says (500)", ""),
    (dies("Half a "), "broke off", "Half a "), (cut("Half a "), "middle", "Half a "), (garbles("Half a "), "unreadable", "Half a ")])
@pytest.mark.parametrize("way", ["tools", "json", "guided"])
def test_each_error_of_ollama_is_a_sentence_and_the_next_line_works(talk, way, item, cause, said):
    live = talk(item, way=way)
    first = live.say("hello")
    assert cause in words(first) and words(first).startswith(said) and "Traceback" not in words(first)
    assert first[-1]["done"]["state"] == "failed" and first[-1]["done"]["tokens_out"] == 0
    live.ollama.replies[:] = ["Here I am."]
    again = live.say("hello again")
    assert words(again) == "Here I am." and again[-1]["done"]["state"] == "done"
    assert cause not in json.dumps(live.ollama.requests[-1]["messages"])


def test_a_refused_connection_is_a_sentence_with_a_way_out(fresh, browse, tmp_path):
    v = browse(fresh(models=tmp_path, model="ollama/llama3.2:3b"), "/app/tasks")
    v.say("hello")
    reply = v.answered("Ollama does not answer", "failed")
    expect(reply).to_contain_text("ollama serve")
    way_out = reply.locator(".keys").get_by_role("button").or_(reply.locator(".keys").get_by_role("link")).first
    expect(way_out).to_be_visible()
    v.page.reload()
    expect(way_out).to_be_visible()
    v.page.get_by_label("Name", exact=True).fill("Buy milk")
    v.page.keyboard.press("Enter")
    v.shows("Buy milk")


def test_silence_is_ended_with_a_sentence(talk, monkeypatch):
    monkeypatch.setattr("server.Provider.between", 0.3)
    never = threading.Event()
    items = talk(says("Half a ", never, "word")).say("hello")
    never.set()
    assert "said nothing for" in words(items) and words(items).startswith("Half a ") and items[-1]["done"]["state"] == "failed"


def test_no_model_at_all_is_a_sentence_that_says_where_to_get_one(fresh, tmp_path):
    items = fresh(models=tmp_path).say("hello")
    assert "no language model" in words(items) and "Models page" in words(items) and items[-1]["done"]["state"] == "failed"


def test_a_person_sees_what_failed_and_asks_again(talk, browse):
    live = talk(dies("Half a "), "Whole.")
    v = browse(live)
    v.say("hello")
    v.answered("Half a", "failed")
    expect(v.page.locator("#stop")).to_be_hidden()
    v.say("again")
    v.answered("Whole.")
    v.page.reload()
    expect(v.replies.first).to_have_attribute("data-state", "failed")
    expect(v.replies.first).to_contain_text("broke off")


# ---- stop, streams, tabs

def test_stop_ends_the_reply_keeps_what_was_said_and_frees_the_model(talk, browse):
    go = threading.Event()
    live = talk(says("Half a thought", go, " never said"), "Fresh.")
    v = browse(live)
    v.say("hello")
    expect(v.replies.last).to_contain_text("Half a thought")
    v.page.locator("#stop").click()
    v.answered("Half a thought", "stopped")
    expect(v.page.locator("#stop")).to_be_hidden()
    expect(v.page.locator("#send")).to_be_visible()
    go.set()
    v.say("again")
    v.answered("Fresh.")
    assert "never said" not in v.page.locator("#msg-list").inner_text()
    told = [m["content"] for m in live.ollama.requests[-1]["messages"]][-3:]
    assert told[0].endswith("hello") and told[1] == "Half a thought" and told[2].endswith("again")


def test_escape_stops_too(talk, browse):
    go = threading.Event()
    v = browse(talk(dies("Half", go)))
    v.say("hello")
    expect(v.replies.last).to_contain_text("Half")
    v.page.press("#msg", "Escape")
    v.answered("Half", "stopped")
    go.set()


def test_the_reply_shows_that_the_model_thinks_until_it_speaks(talk, browse):
    go, end = threading.Event(), threading.Event()
    v = browse(talk(says(go, "Hello.", end)))
    v.say("hello")
    expect(v.replies.last.locator(".thinking")).to_be_visible()
    expect(v.page.locator("#stop")).to_be_visible()
    go.set()
    expect(v.replies.last).to_contain_text("Hello.")
    expect(v.replies.last.locator(".thinking")).to_have_count(0)
    end.set()


def test_lines_sent_while_a_reply_runs_are_answered_in_order(talk, browse):
    go = threading.Event()
    v = browse(talk(says("One", go, " and only."), "Two.", "Three."))
    for line in ("first", "second", "third"): v.say(line)
    expect(v.page.locator("#msg-list .msg[data-role=user]")).to_have_count(3)
    go.set()
    v.answered("Three.")
    assert v.replies.locator(".body").all_inner_texts() == ["One and only.", "Two.", "Three."]


def test_a_second_tab_sees_the_reply_grow_and_a_late_one_joins_in(talk, browse):
    go, end = threading.Event(), threading.Event()
    v = browse(talk(says("# Title\n\nFirst para", go, "graph.\n\nSecond", end, " one.")))
    early = v.tab()
    v.say("tell me")
    expect(early.locator("#msg-list")).to_contain_text("First para")
    late = v.tab()
    expect(late.locator("#msg-list .msg[data-role=assistant]")).to_contain_text("First para")
    go.set()
    for page in (v.page, early, late): expect(page.locator("#msg-list .msg[data-role=assistant]")).to_contain_text("Second")
    end.set()
    v.answered("Second one.")
    texts = {page.locator("#msg-list .msg[data-role=assistant] .body").inner_html() for page in (v.page, early, late)}
    assert len(texts) == 1 and "<h1>Title</h1>" in texts.pop()


def test_markdown_is_rendered_when_a_block_closes_and_code_can_be_copied(talk, browse):
    text = "Some *words*:\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n- x\n- y\n"
    v = browse(talk(text), permissions=["clipboard-read", "clipboard-write"])
    v.say("go")
    reply = v.answered("words")
    for tag, count in (("em", 1), ("pre code", 1), ("table td", 2), ("li", 2)): expect(reply.locator(tag)).to_have_count(count)
    reply.locator(".code").hover()
    reply.locator("[data-copy-code]").click()
    assert v.page.evaluate("navigator.clipboard.readText()") == "print(1)"
    reply.hover()
    reply.get_by_role("button", name="Copy this message").click()
    assert "Some words:" in v.page.evaluate("navigator.clipboard.readText()")


def test_a_chunk_reaches_the_socket_about_as_fast_as_the_network_allows(talk):
    gates = [threading.Event() for _ in range(12)]
    live = talk(says(*(part for i, gate in enumerate(gates) for part in (gate, f"<{i}>"))))
    spent = []
    with connect(f"ws{live.url[4:]}/ws?tab=t", origin=live.url) as socket:
        socket.recv(5)
        start = time.perf_counter()
        for _ in range(20): live.http.get("/health")
        usual = (time.perf_counter() - start) / 20
        socket.send(json.dumps({"msg": "go"}))
        for i, gate in enumerate(gates):
            time.sleep(0.01)  # longer than the gap between two frames
            gate.set(), spent.append(-time.perf_counter())
            while f"&lt;{i}&gt;" not in socket.recv(5): pass
            spent[-1] += time.perf_counter()
    assert sorted(spent)[6] < 10 * usual + 0.01, (spent, usual)


def test_a_reply_sends_each_word_once_and_not_the_whole_text_again(talk):
    live, size = talk("word " * 2000), 0
    with connect(f"ws{live.url[4:]}/ws?tab=t", origin=live.url, max_size=None) as socket:
        socket.recv(5)
        socket.send(json.dumps({"msg": "go"}))
        while True:
            frame = socket.recv(10)
            size += len(frame)
            if 'data-state="done"' in frame and 'data-role="assistant"' in frame: break
    assert size < 12 * 10_000


@pytest.mark.parametrize("frame", ["", "[1]", "5", "null", "{", '{"msg": 5}', '{"msg": ""}', "[" * 5000, '{"x": 1}', "\ud7ff", b"\x00\xff"])
def test_no_frame_of_any_kind_harms_the_socket(talk, frame):
    live = talk("Still here.")
    with connect(f"ws{live.url[4:]}/ws?tab=t", origin=live.url) as socket:
        socket.recv(5)
        socket.send(frame)
        socket.send(json.dumps({"msg": "hello"}))
        while "Still here." not in socket.recv(5): pass


def test_a_reply_that_comes_all_in_one_frame_is_shown_whole(talk, browse, monkeypatch):
    v = browse(talk("One.\n\n" * 20 + act("task.insert", name="Buy milk"), "Two."), "/app/tasks")
    monkeypatch.setattr("server.FRAME_GAP", 0.4)
    v.say("go")
    v.answered("Two.")
    expect(v.replies.first.locator("p")).to_have_count(20)
    expect(v.page.locator("#msg-list .key")).to_have_count(1)
    v.shows("Buy milk")


def test_poke_makes_the_model_say_something_and_clear_can_be_undone(talk, browse):
    v = browse(talk("You are doing well.", "Hi."))
    v.page.get_by_role("button", name="Poke").click()
    v.answered("You are doing well.")
    expect(v.page.locator("#msg-list .msg[data-role=user]")).to_have_count(0)
    v.page.get_by_role("button", name="Clear").first.click()
    expect(v.page.locator("#msg-list .msg")).to_have_count(0)
    v.page.locator("#toasts").get_by_role("button", name="Undo").click()
    v.answered("You are doing well.")


def test_the_introduction_offers_things_that_work(talk, browse):
    live = talk("Hello, I am your assistant.", act("task.insert", name="Buy milk"), "Added.")
    v = browse(live)
    v.page.get_by_role("button", name="Chat with the assistant").click()
    v.answered("Hello, I am your assistant.")
    v.page.get_by_role("button", name="Buy milk").click()
    v.answered("Added.")
    assert [r["name"] for r in live.rows()] == ["Buy milk"]


def test_the_model_menu_changes_the_model_and_says_so(talk, browse):
    v = browse(talk())
    v.page.locator("#model summary").click()
    v.page.locator("#model").get_by_role("button", name="llama3.2").click()
    expect(v.page.locator("#status")).to_contain_text("llama3.2:3b")
    expect(v.page.locator("#model ul")).to_be_hidden()
