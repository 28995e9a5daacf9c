"CONVERSATION: what was said stays, through reloads, restarts and kill -9; what the model hears is appended and never rewritten."
import json
import signal
import threading

import pytest
from playwright.sync_api import expect

from browser import AWAY, browse, ollama, talk  # noqa: F401  (fixtures)
from conftest import free_port
from scripted_ollama import says


def act(name: str, /, **args) -> str: return json.dumps({"action": name, "args": args})


def fill(live, count: int, text=lambda i: f"line {i}"):
    "Put `count` messages into the conversation, the person's and the model's in turn"
    p = live.pianola
    def write():
        for i in range(count): p.conversation.add(("user", "assistant")[i % 2], text(i))
    p.db.write_now(write)


# ---- what stays

def test_killed_in_mid_reply_it_comes_back_with_the_half_reply_and_sends_nothing_twice(process, ollama, browse, monkeypatch, tmp_path):
    port, go = free_port(), threading.Event()
    monkeypatch.setattr("conftest.free_port", lambda: port)
    env = {"OLLAMA_HOST": ollama.url, "PIANOLA_MODELS": str(tmp_path), "PIANOLA_MODEL": "ollama/llama3.2:3b"}
    ollama.replies += [says("The half ", "of a reply", threading.Event(), go)]
    live, first = process(**env)
    live.do("settings.set", key="way", value="json")
    v = browse(live, "/app/tasks", AWAY)
    v.say("tell me")
    expect(v.replies.last).to_contain_text("of a reply")
    v.page.wait_for_timeout(1500)   # words are stored once a second, whether more come or not
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    expect(v.page.locator("#offline")).to_be_visible()
    live, _ = process(**env)
    go.set()
    reply = v.answered("The half of a reply", "stopped")
    expect(v.page.locator("#offline")).to_be_hidden()
    expect(v.page.locator("#msg-list .msg")).to_have_count(2)
    expect(v.page.locator("#stop")).to_be_hidden()
    v.page.reload()
    expect(reply).to_contain_text("The half of a reply")
    assert len(ollama.requests) == 1
    v.say("go on")
    v.answered("All right.")
    assert len(ollama.requests) == 2 and [m["role"] for m in ollama.requests[1]["messages"]][-3:] == ["user", "assistant", "user"]


def test_a_line_is_saved_before_the_model_is_called(talk):
    go = threading.Event()
    live = talk(says(go, "Late."))
    thread = threading.Thread(target=live.say, args=("remember me",))
    thread.start()
    try:
        while not live.ollama.requests: pass
        rows = live.pianola.db.q("select content, state from message where kind='chat' order by id")
        assert rows == [{"content": "remember me", "state": "done"}, {"content": "", "state": "running"}]
    finally:
        go.set()
        thread.join(20)


def test_a_question_to_the_person_survives_a_restart(process, ollama, browse, monkeypatch, tmp_path):
    port = free_port()
    monkeypatch.setattr("conftest.free_port", lambda: port)
    env = {"OLLAMA_HOST": ollama.url, "PIANOLA_MODELS": str(tmp_path), "PIANOLA_MODEL": "ollama/llama3.2:3b"}
    ollama.replies += [act("task.delete", id=1), "I asked.", "It is gone."]
    live, first = process(**env)
    live.do("settings.set", key="way", value="json")
    live.do("task.insert", name="rent")
    live.say("delete rent")
    first.kill(), first.wait(10)
    live, _ = process(**env)
    v = browse(live, "/app/tasks")
    v.page.get_by_role("button", name="Allow").click()
    v.shows()
    v.answered("It is gone.")
    assert not live.rows()


def test_clear_empties_every_tab_and_undo_brings_all_back(talk, browse):
    live = talk("One.", "Two.")
    for line in ("first", "second"): live.say(line)
    v = browse(live, "/app/tasks")
    other = v.tab()
    v.page.get_by_role("button", name="Clear").first.click()
    for page in (v.page, other): expect(page.locator("#msg-list .msg")).to_have_count(0)
    assert live.pianola.conversation.page() == []
    v.page.locator("#toasts").get_by_role("button", name="Undo").click()
    for page in (v.page, other): expect(page.locator("#msg-list .msg")).to_have_count(4)


# ---- what a person sees

def test_older_messages_load_as_one_scrolls_up_and_the_view_stays(fresh, browse, tmp_path):
    live = fresh(models=tmp_path)
    fill(live, 250)
    v = browse(live)
    expect(v.page.locator("#msg-list .msg")).to_have_count(100)
    expect(v.page.locator("#msg-list .msg").last).to_be_in_viewport()
    v.page.locator("#msg-list").hover()
    for count, top in ((200, "line 150"), (250, "line 50")):
        v.page.evaluate("document.querySelector('#msg-list').scrollTop = 0")
        expect(v.page.locator("#msg-list .msg")).to_have_count(count)
        expect(v.page.get_by_text(top, exact=True)).to_be_in_viewport()
    assert v.page.locator("#msg-list .msg .body").all_inner_texts() == [f"line {i}" for i in range(250)]
    expect(v.page.locator("#older")).to_have_count(0)


def test_the_chat_search_finds_old_lines_and_gives_the_end_back(fresh, browse, tmp_path):
    live = fresh(models=tmp_path)
    fill(live, 300, lambda i: "the 100% needle" if i == 7 else f"hay {i}")
    v = browse(live)
    v.page.fill("#chat-search", "100% need")
    expect(v.page.locator("#msg-list .msg")).to_have_count(1)
    v.page.fill("#chat-search", "%")
    expect(v.page.locator("#msg-list .msg")).to_have_count(1)
    v.page.fill("#chat-search", "zebra")
    expect(v.page.locator("#msg-list")).to_contain_text("Nothing found")
    v.page.fill("#chat-search", "")
    expect(v.page.locator("#msg-list .msg")).to_have_count(100)
    expect(v.page.get_by_text("hay 299")).to_be_in_viewport()


def test_the_list_follows_the_words_unless_one_has_scrolled_up(talk, browse):
    gates = [threading.Event() for _ in range(2)]
    live = talk(says("One.\n\n" * 20, gates[0], "Two.\n\n" * 20, gates[1], "Three."))
    v = browse(live, viewport={"width": 1100, "height": 500})
    low = "() => { const l = document.querySelector('#msg-list'); return l.scrollHeight - l.scrollTop - l.clientHeight < 60; }"
    v.say("go")
    expect(v.replies.last.get_by_text("One.")).to_have_count(20)
    v.page.wait_for_function(low)
    v.page.locator("#msg-list").hover()
    v.page.mouse.wheel(0, -400)
    v.page.wait_for_function(low.replace("< 60", "> 100"))
    at = v.page.evaluate("document.querySelector('#msg-list').scrollTop")
    gates[0].set()
    expect(v.page.locator("#newer")).to_be_visible()
    assert v.page.evaluate("document.querySelector('#msg-list').scrollTop") == at
    v.page.locator("#newer").click()
    v.page.wait_for_function(low)
    expect(v.page.locator("#newer")).to_be_hidden()
    gates[1].set()
    v.answered("Three.")
    v.page.wait_for_function(low)


def test_what_one_did_is_folded_into_one_line(fresh, browse, tmp_path):
    v = browse(fresh(models=tmp_path), "/app/tasks")
    for i, name in enumerate(("a", "b", "c"), 1):
        v.page.get_by_label("Name", exact=True).fill(name)
        v.page.keyboard.press("Enter")
        expect(v.page.locator("#msg-list .events summary")).to_have_text(f"{i} thing{'s' * (i > 1)} you did")
    v.page.locator("#msg-list .events summary").click()
    assert v.page.locator("#msg-list .events li").all_inner_texts() == ["task.insert · a", "task.insert · b", "task.insert · c"]
    v.row(1).get_by_role("checkbox").click()
    expect(v.page.locator("#msg-list .events summary")).to_have_text("4 things you did")
    expect(v.page.locator("#msg-list .events ul")).to_be_visible()
    v.page.reload()
    expect(v.page.locator("#msg-list .events summary")).to_have_text("4 things you did")


def test_arrow_up_recalls_what_one_said_and_arrow_down_comes_back(talk, browse):
    v = browse(talk("One.", "Two."))
    for line, answer in (("first", "One."), ("second", "Two.")): v.say(line), v.answered(answer)
    for key, text in (("ArrowUp", "second"), ("ArrowUp", "first"), ("ArrowDown", "second"), ("ArrowDown", "")):
        v.page.press("#msg", key)
        expect(v.page.locator("#msg")).to_have_value(text)
    v.page.fill("#msg", "half a")
    v.page.press("#msg", "ArrowUp")
    expect(v.page.locator("#msg")).to_have_value("half a")


def test_a_moment_is_shown_on_hover_and_a_message_can_be_copied(talk, browse):
    v = browse(talk("Some *words*."), permissions=["clipboard-read", "clipboard-write"])
    v.say("hello")
    reply = v.answered("Some words.")
    reply.hover()
    expect(reply.locator("time")).to_be_visible()
    reply.get_by_role("button", name="Copy").click()
    expect(reply.get_by_role("button", name="Copied").or_(reply.get_by_text("Copied"))).to_be_visible()
    assert v.page.evaluate("navigator.clipboard.readText()").strip() == "Some words."


# ---- what the model hears

def test_the_model_hears_what_was_done_in_the_syntax_it_must_speak(talk):
    live = talk()
    live.do("task.insert", name="Buy milk")
    live.do("task.toggle", id=1)
    live.do("task.delete", id=99)
    live.say("what did I do?")
    said = live.ollama.requests[0]["messages"][-1]["content"]
    assert [m["role"] for m in live.ollama.requests[0]["messages"]] == ["system", "user"]
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [(e["action"], e["by"], e["ok"]) for e in lines][:2] == [("task.insert", "client", True), ("task.toggle", "client", True)]
    assert said.endswith("what did I do?")


@pytest.mark.parametrize("tab", ["", "t"])
@pytest.mark.parametrize("way", ["json", "tools", "guided"])
def test_what_was_sent_once_is_never_changed(talk, way, tab):
    live = talk(*["Yes."] * 6, way=way)
    if tab: live.pianola.chat.tabs.get(tab, "tasks")
    for i in range(6):
        live.do("task.insert", name=f"n{i}")
        live.http.post("/chat", json={"msg": f"line {i}"}, headers={"x-tab": tab} if tab else {}).read()
    sent = [r["messages"] for r in live.ollama.requests if "format" not in r]
    for before, after in zip(sent, sent[1:]): assert after[:len(before)] == before


def test_the_persons_line_is_the_last_thing_the_model_reads(talk):
    live = talk("Yes.")
    live.pianola.chat.tabs.get("t", "tasks")
    live.http.post("/chat", json={"msg": "add milk"}, headers={"x-tab": "t"}).read()
    assert live.ollama.requests[0]["messages"][-1]["content"].endswith("add milk")


def test_the_older_half_is_dropped_at_once_and_the_front_stays(talk):
    live = talk(*["word " * 300] * 30)
    live.do("settings.set", key="context", value=4096)
    for i in range(30): live.say(f"line {i}")
    sent = [r["messages"] for r in live.ollama.requests]
    changed = sum(a[:len(b)] != b for b, a in zip(sent, sent[1:]))
    assert 1 <= changed <= 6 and len({s[0]["content"] for s in sent}) == 1
    assert all(r["options"]["num_ctx"] == 4096 for r in live.ollama.requests)
    assert live.http.get("/context").json()["dropped"] > 0


def test_context_shows_what_was_sent(talk):
    live = talk("Yes.")
    live.do("task.insert", name="Buy milk")
    live.say("hello")
    report, sent = live.http.get("/context").json(), live.ollama.requests[0]["messages"]
    texts = [p["text"] for p in report["parts"]]
    assert [p["part"] for p in report["parts"]][0] == "who" and all(t in "".join(m["content"] for m in sent) for t in texts)
    assert report["tokens"] == sum(p["tokens"] for p in report["parts"]) and report["dropped"] == 0
    page = live.http.get("/app/context").text
    assert "Buy milk" in page


def test_after_an_undo_the_model_hears_of_it(talk):
    live = talk(act("task.insert", name="milk"), "Added.", "I see.")
    live.say("add milk")
    live.do("journal.undo")
    live.say("and now?")
    said = live.ollama.requests[-1]["messages"][-1]["content"]
    assert "journal.undo" in said and "milk" in said


@pytest.mark.parametrize("text", ["\0nul", "\ud83d lone", "a\u202eb", "x" * 200_000, "👩‍👩‍👧", "\n\n\n", "'; drop table message; --"])
def test_any_line_is_kept_or_refused_but_never_a_500(talk, text):
    live = talk()
    body = json.dumps({"msg": text})
    reply = live.http.post("/chat", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 422)
    assert live.say("still there?")[-1]["done"]["state"] == "done"
