"""Tools: how larger models play, by native tool calls, and all others, by JSON in their words."""
import contextlib

from server import PLAYS_A_TURN, ActionStream, App, BrokenKey, DataTable, Into, PageHead, Play, Prose, here

TOOLS = [  # general verbs: the table or app is an argument, so the prompt's front never changes
    ("list_rows", "List the rows of a table", {"table": "string", "search": "string"}, ("table",)),
    ("insert_row", "Add a row to a table", {"table": "string", "fields": "object"}, ("table", "fields")),
    ("update_row", "Change fields of a row", {"table": "string", "id": "string", "fields": "object"},
     ("table", "id", "fields")),
    ("toggle_row", "Switch a row's yes-or-no field, as from open to done", {"table": "string", "id": "string"},
     ("table", "id")),
    ("delete_row", "Delete a row", {"table": "string", "id": "string"}, ("table", "id")),
    ("move_row", "Move a row to a position; 1 is the top", {"table": "string", "id": "string", "position": "integer"},
     ("table", "id", "position")),
    ("select_row", "Make a row the current one, such as a profile", {"table": "string", "id": "string"},
     ("table", "id")),
    ("open_app", "Open an app in the left column", {"app": "string"}, ("app",)),
    ("remember", "Remember a fact about the person", {"key": "string", "value": "string"}, ("key", "value")),
    ("undo", "Undo the last action of this turn", {}, ()),
    ("play", "Play any other action by its name", {"action": "string", "args": "object"}, ("action", "args")),
]
VERBS = {"list_rows": "list", "insert_row": "insert", "update_row": "update", "toggle_row": "toggle",
         "delete_row": "delete", "move_row": "sort", "select_row": "select"}


class Tools(App):
    "What a model that has tools is offered: a few general verbs, whatever the apps are."

    menu = False

    def start(self):
        "Be the way of models that have tools, and of those for which there is no other"
        here().chat.ways |= {"tools": play_tools, "json": play_json}

    def page(self, view):
        "The verbs"
        rows = [(name, doc, ", ".join(args)) for name, doc, args, _ in TOOLS]
        return PageHead(self.title, self.__doc__), DataTable(("Tool", "What it does", "Arguments"), rows, "Tools")


def tool_schemas() -> list[dict]:
    "The general verbs as a provider's tools; `id` takes a row's name as well"
    return [{"type": "function", "function": {"name": name, "description": doc, "parameters": {
        "type": "object", "properties": {n: {"type": kind} for n, kind in args.items()}, "required": list(needed)}}}
        for name, doc, args, needed in TOOLS]

def tool_action(name: str, args: dict) -> tuple[str, dict]:
    "The action a tool call means, as (name, args); what fits no verb is passed on as it is"
    args = dict(args) if isinstance(args, dict) else {}
    if name == "play":
        inner = args.get("args")
        return str(args.get("action", "")), inner if isinstance(inner, dict) else {}
    if name == "open_app": return "app.open", args
    if name == "remember": return "store.set", args
    if name == "undo": return "journal.undo", args
    if name not in VERBS: return name, args
    table, fields = str(args.pop("table", "")), args.pop("fields", {})
    if name == "insert_row": args |= fields if isinstance(fields, dict) else {"name": fields}
    if name == "update_row": args["set"] = fields
    return f"{table}.{VERBS[name]}", args


async def play_tools(turn, model) -> None:
    "Native tool calls: general verbs, so that the prompt's front never changes; plain-text calls are caught too"
    chat = here().chat
    for _ in range(PLAYS_A_TURN + 1):
        reply, stream, before = await chat.begin_reply(turn), ActionStream(set(chat.keyboard.actions)), len(turn.played)
        context = await chat.context(turn, model)
        chunks = model.stream(context.messages, tools=tool_schemas(), options=model.talk)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                await play_pieces(turn, reply, stream.feed(chunk.text), context.outside)
                for call in chunk.calls: await _call(turn, reply, call, context.outside)
                await chat.took(reply, chunk)
        await play_pieces(turn, reply, stream.close(), context.outside)
        await chat.end_reply()
        if len(turn.played) == before or len(turn.played) >= PLAYS_A_TURN: return

async def _call(turn, reply, call: dict, outside: bool) -> None:
    reply.calls.append(call)
    await reply.save(state="running")
    name, args = tool_action(call["name"], call["args"])
    await here().chat.play(turn, reply, name, args, outside)


async def play_json(turn, model) -> None:
    "Actions inside the reply, played as they come; after actions the model hears the results and goes on"
    chat = here().chat
    for _ in range(PLAYS_A_TURN + 1):
        reply, stream = await chat.begin_reply(turn), ActionStream(set(chat.keyboard.actions))
        before, broken = len(turn.played), ""
        context = await chat.context(turn, model)
        async with contextlib.aclosing(model.stream(context.messages, options=model.talk)) as chunks:
            async for chunk in chunks:
                reply.meant(chunk.text)
                broken = await play_pieces(turn, reply, stream.feed(chunk.text), context.outside) or broken
                await chat.took(reply, chunk)
        broken = await play_pieces(turn, reply, stream.close(), context.outside) or broken
        await chat.end_reply()
        if broken and not turn.repaired: await _repair(turn, broken)
        elif len(turn.played) == before or len(turn.played) >= PLAYS_A_TURN: return

async def _repair(turn, why: str) -> None:
    turn.repaired = True
    text = f"(That action was not understood: {why}. Write the one JSON object again, correctly, and nothing else.)"
    await here().chat.whisper(text)

async def play_pieces(turn, reply, pieces: list, outside: bool) -> str:
    "Show, play or refuse what an ActionStream found; returns what was wrong with a broken one"
    chat, broken = here().chat, ""
    for piece in pieces:
        if isinstance(piece, Prose): reply.write(piece.text)
        elif isinstance(piece, Play): await chat.play(turn, reply, piece.name, piece.args, outside)
        else:
            broken = piece.why
            reply.broken.append((piece.text, piece.why))
            chat.tabs.send(Into(f"#m{reply.id}-keys", BrokenKey(piece.text, piece.why)))
    return broken
