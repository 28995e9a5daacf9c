"COMPONENTS: functions from data to tags; no database, no request, no server needed for most of these tests."
import datetime as dt
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Literal

import pytest

import server
from server import FieldInput, Labelled, LongText, html, markdown, play_label

FetchProgress = server.import_plugin(Path(server.__file__).parent / "plugins/060_models.py")[0].FetchProgress
ROW = {"id": 7, "role": "assistant", "content": "**Hi**", "created": "2026-01-02T03:04:05.000Z", "state": "done"}
PLAY = {"id": 3, "action": "task.insert", "args": '{"name": "Buy milk"}', "result": '{"id": 1, "name": "Buy milk"}',
        "state": "done", "error": "", "undone": None, "undoable": 1}
ASKED = {"id": 4, "action": "task.delete", "args": '{"id": 12}', "about": "Buy milk", "state": "waiting"}
FIXED = ("grid-left", "msg-list", "msg", "send", "stop", "poke", "model", "profile", "app-menu")  # DESIGN §4
HARM = '<img src=x onerror="alert(1)"><script>alert(1)</script>'


class Tags(HTMLParser):
    "The tags of a text with their attributes, as a browser would find them"

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(str(text))

    def handle_starttag(self, tag, attrs): self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict]: return [attrs for name, attrs in self.found if name == tag]


def said(text: str) -> str:
    "What markdown makes of a text, as HTML"
    return str(markdown(text))


# ---- markdown

@pytest.mark.parametrize("text, part", [
    ("**bold** and *soft*", "<strong>bold</strong> and <em>soft</em>"), ("# One\n\n- a\n- b", "<h1>One</h1>"),
    ("1. a\n2. b", "<ol>"), ("~~gone~~", "<s>gone</s>"), ("use `x < 1`", "<code>x &lt; 1</code>"),
    ("> so they say", "<blockquote>"), ("a\n\n---\n\nb", "<hr"), ("", "")])
def test_markdown_is_rendered(text, part):
    assert part in said(text)


def test_code_has_a_copy_button_and_its_text_as_it_was():
    made = said("```python\nif a < b: print('&')\n```")
    assert '<pre tabindex="0"><code>if a &lt; b: print(\'&amp;\')\n</code></pre>' in made
    assert made.count("data-copy-code") == 1 and made.count("<button") == 1


def test_indented_code_and_an_unclosed_fence_are_code_too():
    assert "data-copy-code" in said("    indented")
    assert "<code>half" in said("```\nhalf a block")


def test_a_table_is_a_table_without_styles():
    made = said("| a | b |\n|:--|--:|\n| 1 | 2 |")
    assert "<th>a</th>" in made and "<td>2</td>" in made and "style" not in made


@pytest.mark.parametrize("url", ["https://a.b/c?d=1&e=2", "http://a.b", "mailto:a@b.c", "/app/tasks", "/file/ab",
    "#m1"])
def test_a_link_to_a_safe_place_opens_elsewhere(url):
    (link,) = Tags(said(f"[go]({url})")).named("a")
    assert link == {"href": url, "target": "_blank", "rel": "noopener noreferrer"}


@pytest.mark.parametrize("url", ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x",
    "file:///etc/passwd",
                                 "page.html", "../up", "/do/chat.clear", "//evil.example", "\\\\evil",
                                 " javascript:x", "&#106;avascript:x"])
def test_a_link_elsewhere_is_refused_and_its_words_stay(url):
    made = said(f"[go]({url})")
    assert "<a" not in made and "go" in made


def test_a_bare_address_in_brackets_is_a_link_only_if_safe():
    assert Tags(said("<https://a.b>")).named("a")
    assert not Tags(said("<javascript:alert(1)>")).named("a")


@pytest.mark.parametrize("text", [HARM, f"a {HARM} b", f"```\n{HARM}\n```", f"`{HARM}`",
    f"| {HARM} |\n|---|\n| {HARM} |",
                                  f'[a](https://b.c "{HARM}")', f"# {HARM}", "<style>*{}</style>",
                                  "<a href='javascript:x'>x</a>"])
def test_raw_html_is_text(text):
    tags = Tags(said(text))
    assert not {name for name, _ in tags.found} & {"img", "script", "style", "iframe"}
    assert not [n for _, attrs in tags.found for n in attrs if n.startswith("on") or n == "style"]


@pytest.mark.parametrize("text", ["![a cat](https://evil.example/x.png)", f"![{HARM}](https://a.b/c.png)",
    "![](https://a.b/c.png)"])
def test_an_image_is_only_its_words(text):
    made = said(text)
    assert "<img" not in made and ".png" not in made


# ---- inputs by type

@pytest.mark.parametrize("kind, value, tag, attrs", [
    (str, "a", "input", {"type": "text", "value": "a"}), (int, 3, "input", {"type": "number", "value": "3"}),
    (float, 0.5, "input", {"type": "number", "step": "any", "value": "0.5"}), (str | None, None, "input",
    {"type": "text"}),
    (dt.date | None, dt.date(2026, 1, 2), "input", {"type": "date", "value": "2026-01-02"}), (Path, None, "input",
    {"type": "file"}),
    (bytes, None, "input", {"type": "file"}), (bool, True, "input", {"type": "checkbox", "value": "true",
    "checked": None}),
    (LongText, "a", "textarea", {"rows": "2"}), (list[str], ["a"], "textarea", {"rows": "2"}),
    (Literal["a", "b"], "b", "select", {}), (Annotated[int, "x"], 1, "input", {"type": "number"})])
def test_a_field_has_the_input_of_its_type(kind, value, tag, attrs):
    (found,) = Tags(html(FieldInput("field", kind, value))).named(tag)
    assert found["name"] == "field" and attrs.items() <= found.items()


def test_a_tick_that_is_off_is_not_checked():
    assert "checked" not in html(FieldInput("done", bool, False))


def test_a_select_shows_its_options_and_which_is_chosen():
    options = Tags(html(FieldInput("shelf", Literal["left", "right"], "right"))).named("option")
    assert [(o["value"], "selected" in o) for o in options] == [("left", False), ("right", True)]


def test_a_long_text_keeps_its_first_empty_line():
    assert "\n\n\nfirst</textarea>" in html(FieldInput("note", LongText, "\n\nfirst"))


def test_a_list_is_a_line_each():
    assert "red\ngreen</textarea>" in html(FieldInput("tags", list[str], ["red", "green"]))


def test_a_nought_is_shown_and_nothing_is_empty():
    assert 'value="0"' in html(FieldInput("pages", int, 0)) and "value" not in html(FieldInput("pages", int))


@pytest.mark.parametrize("kind", [str, LongText, list[str], Literal["a", HARM]])
def test_a_value_is_never_markup(kind):
    made = html(FieldInput("note", kind, [HARM] if kind == list[str] else HARM))
    assert "<script" not in made and "<img" not in made


@pytest.mark.parametrize("kind", [str, bool, int, dt.date, LongText, Literal["a"]])
def test_a_label_belongs_to_its_input_and_has_a_place_for_an_error(kind):
    tags = Tags(html(Labelled("new", "set.due_date", kind)))
    control = next(attrs for name, attrs in tags.found if name in ("input", "textarea", "select"))
    (label,), (error,) = tags.named("label"), tags.named("small")
    assert label["for"] == control["id"] and control["aria-describedby"] == error["id"] == "new-set-due_date-error"
    assert error["role"] == "alert"


def test_a_label_is_the_name_in_words_or_what_is_given():
    assert "Due date" in html(Labelled("new", "due_date", str))
    assert "Until when?" in html(Labelled("new", "due_date", str, label="Until when?"))


# ---- actions and what came of them

@pytest.mark.parametrize("name, args, result, label", [
    ("task.insert", {"name": "Buy milk"}, None, "task.insert · Buy milk"), ("chat.clear", {}, None, "chat.clear"),
    ("task.delete", {"id": 3}, {"name": "Buy milk"}, "task.delete · Buy milk"), ("task.delete", {"id": 3}, None,
    "task.delete · 3"),
    ("task.update", {"id": 3, "set": {"name": "Tea"}}, {"name": "Tea"}, "task.update · Tea: name = Tea"),
    ("task.sort", {"id": 3, "position": 1}, {"name": "Tea"}, "task.sort · Tea"), ("app.open", {"app": "tasks"}, "ok",
    "app.open · tasks")])
def test_a_play_is_named_by_what_it_is_about(name, args, result, label):
    assert play_label(name, args, result) == label


def test_a_long_name_is_cut_in_a_label():
    assert len(play_label("task.insert", {"name": "x" * 500})) < 100


@pytest.mark.parametrize("change, ok, has, hasnt", [
    ({}, "true", 'hx-post="/do/journal.undo"', "undone"), ({"undone": 9}, "true", "undone", "hx-post"),
    ({"undoable": 0}, "true", "Buy milk", "hx-post"), ({"state": "failed", "error": "No."}, "false", "No.", "hx-post"),
    ({"state": "started"}, "false", "Buy milk", "<small"), ({"result": None, "args": json.dumps({"name": HARM})},
    "true", "&lt;img", "<img")])
def test_a_key_shows_how_it_went_and_offers_undo_where_there_is_one(change, ok, has, hasnt):
    made = html(server.PlayKey(PLAY | change))
    assert 'id="key-3"' in made and f'data-ok="{ok}"' in made
    assert has in made and hasnt not in made


def test_a_waiting_card_shows_the_exact_arguments_and_two_answers():
    made = html(server.ApprovalCard(ASKED))
    assert 'id="approval-4"' in made and 'data-state="waiting"' in made
    assert "task.delete · Buy milk" in made and "<td>id</td>" in made and "<td>12</td>" in made
    assert [b["hx-post"] for b in Tags(made).named("button")] == ["/do/approval.allow", "/do/approval.deny"]


@pytest.mark.parametrize("state", ["allowed", "denied", "expired", "failed"])
def test_an_answered_card_says_so_and_has_no_buttons(state):
    made = html(server.ApprovalCard(ASKED | {"state": state}))
    assert f'data-state="{state}"' in made and f"<small>{state}</small>" in made and "<button" not in made


def test_a_card_without_arguments_has_no_table():
    assert "<table" not in html(server.ApprovalCard(ASKED | {"args": "{}", "about": ""}))


@pytest.mark.parametrize("actor, count, words", [("user", 1, "1 thing you did"), ("user", 3, "3 things you did"),
                                                 ("client", 2, "2 things a program did")])
def test_events_fold_into_one_line_that_counts(actor, count, words):
    event = json.dumps({"action": "task.insert", "args": {"name": HARM}, "ok": True})
    made = html(server.EventsFold([{"id": 5 + n, "actor": actor, "content": event} for n in range(count)]))
    assert f"<summary>{words}</summary>" in made and made.count("<li>") == count
    assert 'id="m5"' in made and 'data-role="event"' in made and "<img" not in made


def test_what_failed_is_told_in_a_fold():
    event = json.dumps({"action": "task.delete", "args": {"id": 3}, "ok": False})
    assert "failed" in html(server.EventsFold([{"id": 1, "actor": "user", "content": event}]))


# ---- messages

@pytest.mark.parametrize("state, note, thinks", [("done", "", False), ("running", "", True), ("stopped", "stopped",
    False), ("failed", "failed", False)])
def test_a_message_shows_its_state(state, note, thinks):
    made = html(server.Message(ROW | {"state": state}))
    assert 'id="m7"' in made and f'data-state="{state}"' in made and 'data-role="assistant"' in made
    assert ("Thinking…" in made) is thinks and (f"<small>{note}</small>" in made) is bool(note)


def test_a_message_that_waits_says_for_what():
    assert "Loading the model" in html(server.Message(ROW | {"state": "running"}, waiting="Loading the model"))


def test_the_assistants_words_are_markdown_and_the_persons_are_as_typed():
    assert "<strong>Hi</strong>" in html(server.Message(ROW))
    mine = html(server.Message(ROW | {"role": "user", "content": f"**Hi** {HARM}"}))
    assert "**Hi** &lt;img" in mine and 'data-role="user"' in mine


def test_what_is_shown_may_differ_from_what_was_said():
    assert "Added." in html(server.Message(ROW | {"content": '{"action": "x"}', "shown": "Added."}))


def test_a_message_has_its_time_and_a_copy_button():
    made = html(server.Message(ROW))
    assert 'datetime="2026-01-02T03:04:05.000Z"' in made and 'data-copy="m7"' in made


@pytest.mark.parametrize("message, embedded, action", [(7, True, "/do/chat.again"), (7, False, "/do/app.open"), (0,
    True, None)])
def test_a_failure_says_what_to_do_and_offers_a_way_out(message, embedded, action):
    made = html(server.Failure("No model.", "Start one.", message, embedded))
    assert "No model." in made and "Start one." in made
    assert [a.get("hx-post") for name, a in Tags(made).found if name in ("a", "button")] == ([action] if action else [])


def test_an_error_card_has_its_traceback_folded_and_as_text():
    made = html(server.ErrorCard("Broken", "It broke.", f"Traceback {HARM}"))
    assert 'role="alert"' in made and "<details" in made and "&lt;img" in made and "<img" not in made
    assert "<details" not in html(server.ErrorCard("Broken", "It broke."))


def test_a_fetch_shows_how_far_and_how_long():
    made = html(FetchProgress({"name": "qwen", "done": 50e6, "total": 100e6, "rate": 5e6}))
    assert "50 of 100 MB, 5.0 MB/s, 10 s left" in made and "model.stop" in made
    assert "left" not in html(FetchProgress({"name": "qwen", "done": 0, "total": 1, "rate": 0}))


def test_a_symbol_on_a_button_has_words_for_those_who_do_not_see_it():
    (button,) = Tags(html(server.ActionButton("×", "task.delete", title="Delete Buy milk", id=3))).named("button")
    assert button["aria-label"] == "Delete Buy milk" and json.loads(button["hx-vals"]) == {"id": 3}


# ---- the page

@pytest.fixture(scope="module")
def page(live):
    "The whole page, with a task and a line said"
    live.do("task.insert", name=HARM)
    live.say("hello")
    return live.http.get("/app/tasks").text


@pytest.mark.parametrize("id", FIXED)
def test_the_page_has_each_fixed_point_once(page, id):
    assert len([1 for _, attrs in Tags(page).found if attrs.get("id") == id]) == 1


def test_no_id_is_there_twice(page):
    ids = [attrs["id"] for _, attrs in Tags(page).found if attrs.get("id")]
    assert sorted(ids) == sorted(set(ids))


@pytest.mark.parametrize("app", ["introduction", "profiles", "tasks", "journal", "settings", "models", "csv",
    "workshop"])
def test_a_page_has_no_inline_script_style_or_handler(live, app):
    text = live.http.get(f"/app/{app}").text
    tags = Tags(text)
    assert not [n for _, attrs in tags.found for n in attrs if re.match(r"on[a-z]+$|style$|hx-on", n)]
    assert "<style" not in text and all(s.get("src") for s in tags.named("script"))


def test_the_page_asks_no_other_host(page):
    tags = Tags(page)
    asked = [s["src"] for s in tags.named("script")] + [link["href"] for link in tags.named("link")]
    assert asked and all(a.startswith("/static/") for a in asked)


def test_every_field_and_button_of_the_page_has_a_name(page):
    tags = Tags(page)
    labelled = {label.get("for") for label in tags.named("label")}
    fields = [a for name, a in tags.found if name in ("input", "textarea", "select") and a.get("type") != "hidden"]
    assert fields and not [a for a in fields if not a.get("aria-label") and a.get("id") not in labelled]


@pytest.mark.parametrize("look, attrs", [("light", {"data-theme": "light"}), ("dark", {"data-theme": "dark"}),
                                         ("matrix", {"data-theme": "dark", "data-look": "matrix"}), ("auto", {})])
def test_a_look_is_an_attribute_of_the_page(look, attrs):
    parts = {"bar": "", "left": "", "app": server.App(), "messages": "", "status": "", "palette": ""}
    (root,) = Tags(server.Page("Pianola", "t1", look, parts)).named("html")
    assert root == {"lang": "en", **attrs}
