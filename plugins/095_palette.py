"""Palette: everything by name, with Ctrl-K and with / in the chat."""
import json
import re

from fasthtml.common import Dialog

from server import (
    Action, App, Call, DataTable, Details, Div, Input, Into, InvalidError, Li, PageHead, PianolaError, Small, Summary,
    Toast, Ul, here, markdown, shorten, signature)


class PalettePage(App):
    "Ctrl-K finds every app and action by a few letters; a line of the chat that begins with / plays one by hand."

    menu = False

    def start(self):
        "Take the lines that begin with /"
        here().chat.by_hand = play_by_hand

    def page(self, view):
        "The actions, with their arguments"
        rows = [(f"/{k.name}", signature(k), k.doc) for k in all_actions()]
        return PageHead(self.title, self.__doc__), DataTable(("Action", "Arguments", "What it does"), rows, "Actions")

    def at_end(self):
        "The palette, closed"
        return Palette(list(here().apps.values()), all_actions())


def all_actions() -> list[Action]:
    "Every action by name"
    return sorted(here().keyboard.actions.values(), key=lambda k: k.name)

def Palette(apps: list, actions: list):
    "Ctrl-K: every app and action by name"
    options = [Li(app.title, Small(" app"), role="option", data_app=app.name,
                  data_words=f"open {app.name} {app.title}") for app in apps]
    options += [Li(a.name, Small(f" {signature(a)}", cls="args") if signature(a) else "", Small(f" {a.doc}"),
                   role="option", data_action=a.name, data_words=f"{a.name} {a.doc}") for a in actions]
    field = Input(type="search", id="palette-input", placeholder="Go to an app, or play an action",
                  aria_label="Search or do", role="combobox", aria_controls="palette-list", aria_expanded="true",
                  autocomplete="off")
    found = Ul(*options, id="palette-list", role="listbox", aria_label="Apps and actions")
    return Dialog(field, found, id="palette", aria_label="Search or do")

async def play_by_hand(text: str, tab: str, listener=None) -> None:
    "A slash command: `/task.insert Buy milk`, `/task.update id=7 set={\"done\": true}`, `/app.open tasks`"
    keyboard, tabs = here().keyboard, here().chat.tabs
    name, _, rest = text[1:].partition(" ")
    said: dict = {"name": name, "args": {}}
    try:
        key = keyboard.find(name)
        outcome = await keyboard.perform("user", name, slash_args(key, rest.strip()), Call(tab))
        said |= {"args": outcome.args, "ok": True, "journal": outcome.journal, "result": outcome.result}
        found = markdown(f"```\n{json.dumps(outcome.result, indent=1, ensure_ascii=False, default=str)}\n```")
        part = Details(Summary(f"/{name}"), Div(found, cls="md"), cls="events", open=True)
        if key.danger == "read": tabs.get(tab).send(Into("#msg-list", part))
    except PianolaError as error:
        said |= {"ok": False, "error": str(error)}
        tabs.get(tab).send(Toast(str(error), kind="error"))
    if listener:
        listener.put_nowait({"action": said})
        spent = {"tokens_in": 0, "tokens_cached": 0, "tokens_out": 0}
        listener.put_nowait({"done": {"state": "done", "model": "", **spent}})

def slash_args(key: Action, rest: str) -> dict:
    "Arguments typed by hand: a JSON object, `name=value` pairs, or the first text field's value"
    fields = list(key.form.model_fields)
    if not rest: return {}
    if rest.startswith("{"): return _json_args(rest)
    pairs = list(re.finditer(rf"(?:^|\s)({'|'.join(map(re.escape, fields)) or '$^'})=", rest))
    if not pairs: return {fields[0]: rest} if fields else {"args": rest}
    args = {fields[0]: rest[:pairs[0].start()].strip()} if rest[:pairs[0].start()].strip() else {}
    for i, pair in enumerate(pairs):
        text = rest[pair.end():pairs[i + 1].start() if i + 1 < len(pairs) else None].strip()
        args[pair[1]] = _json_args(text) if text[:1] in "{[" else text
    return args

def _json_args(text: str):
    try: return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidError("That is not JSON.", f"{shorten(error, 100)}.", fields={"args": "not JSON"}) from None
