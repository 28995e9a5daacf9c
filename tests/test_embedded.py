"The real embedded model: it chats, and it plays. Fetched once if it is not on this machine."
import asyncio
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, in_thread

import server

pytestmark = pytest.mark.timeout(600)
FOLDER, NAME = Path.home() / ".cache/pianola/models", "qwen2.5-coder-0.5b"


@pytest.fixture(scope="module")
def model():
    "The name of the model, whose file is there"
    plugin = server.import_plugin(ROOT / "plugins/060_models.py")[0]
    asyncio.run(plugin.fetch_model(plugin.MODELS[NAME], FOLDER))
    return f"embedded/{NAME}"


@pytest.fixture(scope="module")
def live(model, tmp_path_factory):
    "One server for this file, with the real model"
    with in_thread(tmp_path_factory.mktemp("data"), models=FOLDER, model=model) as found: yield found


def ask(live, text: str, tab: str = "") -> tuple[str, list[dict], str]:
    "Say a line; the words of the reply, what it played, how it ended"
    with live.http.stream("POST", "/chat", json={"msg": text}, headers={"X-Tab": tab} if tab else {}, timeout=500) as reply:
        items = [json.loads(line) for line in reply.iter_lines()]
    words = "".join(i.get("delta", "") for i in items)
    return words, [i["action"] for i in items if "action" in i], items[-1]["done"]["state"]


def milk(live) -> list[dict]:
    return [r for r in live.rows() if "oat milk" in r["name"].lower()]


def is_plain(words: str) -> bool:
    return not set(words) & set("{}[]") and '"action"' not in words


def test_it_chats(live):
    words, plays, state = ask(live, "Good morning! How are you?")
    assert state == "done" and words.strip() and is_plain(words) and plays == []
    health = live.http.get("/health").json()
    assert (health["provider"], health["model"]) == ("embedded", NAME)


def test_it_adds_ticks_off_and_deletes_a_task_once_allowed(live):
    words, plays, state = ask(live, "add buy oat milk to my tasks")
    assert [p["name"] for p in plays] == ["task.insert"] and state == "done" and is_plain(words)
    assert len(milk(live)) == 1 and not milk(live)[0]["done"]
    words, plays, _ = ask(live, "tick off the oat milk")
    assert [p["name"] for p in plays] == ["task.toggle"] and milk(live)[0]["done"] and is_plain(words)
    words, plays, _ = ask(live, "delete the oat milk")
    assert [p["name"] for p in plays] == ["task.delete"] and plays[0]["approval"] and is_plain(words)
    assert len(milk(live)) == 1  # nothing before the person allows it
    assert live.do("approval.allow", id=plays[0]["approval"])["ok"]
    assert milk(live) == []
    assert [r["action"] for r in live.journal(actor="model")] == ["task.delete", "task.toggle", "task.insert"]


def test_it_fills_in_and_runs_a_workflow_to_its_end(live):
    tab = re.search(r'data-tab="?(\w+)', live.http.get("/app/hello").text)[1]
    for line, step, args in (("do step one with Grace", "name", {"name": "Grace"}), ("fill in step two with 5 and run it", "shout", {"times": 5}),
                             ("now run make a card", "card", {})):
        _, plays, _ = ask(live, line, tab)
        played = [(p["name"], {k: v for k, v in p["args"].items() if v is not None and k != "emoji"}, p.get("ok")) for p in plays]
        assert played == [(f"hello.{step}", args, True)], line
    assert "HELLO GRACE." in live.http.get("/app/hello").text
