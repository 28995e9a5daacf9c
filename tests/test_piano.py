"PLAYER PIANO: what the model says is read once, as it comes, and only an action is played."
import json
import random
import time

import pytest
from hypothesis import example, given, settings, strategies as st

from server import ActionStream, Broken, Play, Prose, find_actions

KEYS = {"task.insert", "task.toggle", "task.delete"}
MILK = '{"action": "task.insert", "args": {"name": "Buy milk"}}'
PLAY = Play("task.insert", {"name": "Buy milk"})


def pieces(*chunks):
    "What a stream makes of `chunks`, neighbouring prose joined."
    stream, out = ActionStream(KEYS), []
    for piece in [p for c in chunks for p in stream.feed(c)] + stream.close():
        if out and isinstance(piece, Prose) and isinstance(out[-1], Prose): out[-1] = Prose(out[-1].text + piece.text)
        else: out.append(piece)
    return out


def prose(found): return "".join(p.text for p in found if isinstance(p, Prose))


def plays(found): return [p for p in found if isinstance(p, Play)]


@pytest.mark.parametrize("text, words", [
    (MILK, ""),
    (f"Sure: {MILK} done", "Sure:  done"),
    (f"Sure.\n```json\n{MILK}\n```\nDone.", "Sure.\n\nDone."),
    (f"```\n\n{MILK}\n\n```", ""),
    (f"~~~json\n{MILK}\n~~~", ""),
    (f"```json {MILK} ``` done", "```json  ``` done"),
    (f"[1] says {{x}} and {MILK}", "[1] says {x} and "),
    (f"```python\nd = {{1: 2}}\n```\n{MILK}", "```python\nd = {1: 2}\n```\n"),
    (f"```example\n{MILK}\n```\n{MILK}", f"```example\n{MILK}\n```\n"),
    (f'{{"n": 1}}{MILK}', '{"n": 1}'),
    (f"Use {{ or [ or }} {MILK}", "Use { or [ or } "),
    (f'```json\n{MILK}\n{{"n": 1}}\n```', '```json\n\n{"n": 1}\n```'),
    ('{"args": {"name": "Buy milk"}, "action": "task.insert"}', ""),
    ('{ "action" :\n"task.insert",\n"args":{"name":"Buy \\u006dilk"} }', ""),
    (f"[{MILK}]", ""),
])
def test_an_action_is_played_wherever_it_stands(text, words):
    found = pieces(text)
    assert plays(found) == [PLAY] and prose(found) == words and len(found) <= 3


@pytest.mark.parametrize("text", [
    '{"action": "task.toggle", "args": {"id": 7}, "by": "user", "ok": true}',
    '{"action": "task.explode", "args": {}}',
    '{"action": "task.insert"}', '{"action": "task.insert", "args": []}', '{"action": ["task.insert"], "args": {}}',
    f'{{"say": {MILK}}}', f'["say", {MILK}]', f"[[{MILK}]]", json.dumps(MILK)[:-1] + '"', f"```example\n{MILK}",
    f"```EXAMPLE of it\n{MILK}\n```", '{"Action": "task.insert", "args": {}}', "[citation, 3] {action items} [x]",
    "```json\n```", "```", "[", "{", '{"', '"{"', "", "{\n}", "[]", "[ ]", "[{}]", '{"action items": [1, 2]}',
])
def test_everything_else_stays_prose(text):
    assert pieces(text) == ([Prose(text)] if text else [])
    assert pieces(*text) == pieces(text)


@pytest.mark.parametrize("text, why, words", [
    ('{"action": "task.insert", "args": {"name": "x",}} ok', "JSON", " ok"),
    ("{'action': 'task.insert', 'args': {'name': 'x'}} ok", "double quotes", " ok"),
    ('{action: "task.insert", args: {}} ok', "double quotes", " ok"),
    ('{“action”: “task.insert”, “args”: {}} ok', "double quotes", " ok"),
    ('{"action": "task.insert", "args": {"name": "x"}', "',' delimiter", ""),
    ('{"action": "task.insert", "args": {"name": "x', "string", ""),
    ('```json\n{"action": "task.insert", "args": {"name": "x"}\n```\nok', "',' delimiter", "\nok"),
    ('{"action": "task.insert", "args": {"name": "x"}\n\nIt is done.', "',' delimiter", "It is done."),
    ('{"action": "task.insert", "args": {"name": "a\nb"}}', "string", '\nb"}}'),
    ('{"action": "task.insert" "args": {}}', "',' delimiter", ""),
    ('{"action": "task.insert", "args": {"n": NaN}}', "number", ""),
    ('{"action": "task.insert", "args": {"n": 1e999}}', "number", ""),
    ('{"action": "task.insert", "args": {"n": "\\ud800"}}', "half a character", ""),
    ('{"action": "task.insert", "args": {}, "args": {}}', "twice", ""),
    ('{"action": "task.insert", "args": {"n": "\\x"}}', "escape", ""),
    ('{"action": "task.insert", "args": {"n": 01}}', "JSON", ""),
    ('{"action": "task.insert", "args": {"n": ' + "1" * 9999 + "}}", "digits", ""),
    ('{"action": "task.insert", "args": {"n": ' + "[" * 99 + "]" * 99 + "}}", "too deep", ""),
])
def test_an_action_written_badly_says_why(text, why, words):
    found = pieces(text)
    assert not plays(found) and prose(found) == words
    assert [why in p.why for p in found if isinstance(p, Broken)] == [True]


def test_after_a_broken_action_the_next_one_is_played():
    assert [type(p) for p in pieces(f'{MILK[:-1]}\n{MILK}')] == [Broken, Play]


def test_several_in_a_row_are_played_in_order():
    assert find_actions(f"{MILK}{MILK} {MILK}\n[{MILK},\n {MILK}]", KEYS) == [json.loads(MILK)] * 5
    assert find_actions(f"```json\n{MILK}\n{MILK}\n```") == [json.loads(MILK)] * 2


def test_words_are_shown_as_they_come():
    stream = ActionStream(KEYS)
    for chunk in ["Sure", " {", "x", ' {"', "na", 'me": 1} [1, ', '{"action": "task.insert", "args": {}}', "] `b`"]:
        shown = prose(stream.feed(chunk))
        assert shown == chunk or chunk in (" {", ' {"') or shown.endswith(chunk)
    assert stream.feed(MILK[:-1]) == [] and stream.feed(MILK[-1]) == [PLAY]
    assert stream.feed("\n``") == [Prose("\n")] and stream.feed("x") == [Prose("``x")]


def test_an_object_too_large_to_hold_is_prose():
    text = MILK.replace("milk", "m" * 300_000)
    assert pieces(text) == [Prose(text)]
    held = ActionStream(KEYS)
    assert sum(len(prose(held.feed(text[i:i + 1000]))) for i in range(0, len(text), 1000)) == len(text)


PARTS = st.sampled_from([
    MILK, MILK[:-1], "[", "]", "{", "}", '"', "'", "\\", ",", ":", "\n", " ", "  ", "`", "```", "~~~",
    "```json\n", "\n```\n", "```example\n",
    '{"action": "', 'task.insert"', ', "args": {', '{"args": ', '{"a": ', "{'action': '", "1", "null", "é♪", "text",
    '{"action": "task.insert", "args": {"name": "'])


@settings(max_examples=120, deadline=None)
@given(st.lists(PARTS | st.text(max_size=6), max_size=12).map("".join), st.data())
@example(f"```json\n{MILK}\n``` ", None)
def test_cuts_anywhere_change_nothing(text, data):
    whole = pieces(text)
    assert pieces(*text) == whole
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4))) if data else []
    assert pieces(*[text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]) == whole
    assert find_actions(text, KEYS) == [{"action": p.name, "args": p.args} for p in plays(whole)]


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | st.text(),
                      lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=8)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), VALUES), st.booleans(), st.sampled_from([None, 2]))
def test_whatever_arguments_are_written_come_back(args, ascii, indent):
    text = json.dumps({"action": "task.toggle", "args": args}, ensure_ascii=ascii, indent=indent)
    assert find_actions(f"Well: {text} so", KEYS) == [{"action": "task.toggle", "args": args}]


def seconds(text):
    start = time.process_time()
    find_actions(text, KEYS)
    return time.process_time() - start


@pytest.mark.parametrize("noise", [
    "{", "[", '"', '{"', '{"action":', '[{"args":[', "{'action': '", '[{"action": "task.insert", "args": {}},', "```\n",
    '{"action": "task.insert", "args": {"a', '{"action": "task.insert", "args": [[', "mixed"])
def test_noise_takes_time_in_proportion_and_never_raises(noise):
    text = "".join(random.Random(1).choices('{["', k=80_000)) if noise == "mixed" else noise * (80_000 // len(noise))
    assert seconds(text) < 25 * min(seconds(text[:10_000]) for _ in range(3)) + 0.05  # 8 if linear, 64 if quadratic


def test_brackets_without_end_are_held_only_to_the_limit():
    stream = ActionStream(KEYS)
    start = '{"action": "task.insert", "args": {"n": '
    assert stream.feed(start + "[" * 200_000) == []
    assert prose(stream.feed("[" * 200_000) + stream.feed("[" * 100_000)) == start + "[" * 500_000
    assert find_actions("[" * 500_000 + MILK, KEYS) == []
