"""Given: what a step may ask for by its parameters' names."""
import asyncio
import contextlib
import inspect
import json
import time
from collections.abc import MutableMapping

import pydantic

from server import (
    ASKED, GIVEN, App, DataTable, DeniedError, PageHead, PianolaError, Pipe, chosen, here, html, markdown, shorten,
    store)

TOLD_EVERY = 0.02  # seconds between two reports of a step that reports all the time


class Given(App):
    "A parameter of a step that has one of these names is not a field of its form: it is handed to the step."

    menu, helps_workers = False, True

    def page(self, view):
        "The names there are"
        kinds = {"progress": Reporter, "llm": Llm, "chat": Voice, "store": FarStore}
        told = {name: inspect.getdoc(kind).partition(": ")[2] for name, kind in kinds.items()}
        rows = [(name, told.get(name, "the profile the run is for")) for name in GIVEN]
        return PageHead(self.title, self.__doc__), DataTable(("Name", "What it is"), rows, "What a step may ask for")


class Reporter:
    "What a step knows as `progress`: call it with how much is done of how much; see its methods for the rest"

    def __init__(self, link: Pipe, checkpoint=None): self._link, self._checkpoint, self._last = link, checkpoint, 0.0

    def __call__(self, done: float, total: float = 0, note: str = "") -> None:
        "Tell how far it is; as often as you like"
        moment = time.monotonic()
        if moment - self._last < TOLD_EVERY and done != total: return
        self._last = moment
        self._link.tell(progress=[float(done), float(total), shorten(note)])

    def checkpoint(self, value=None):
        "Keep where to go on from (what JSON can say), or, without a value, what was kept before an interruption"
        if value is None: return self._checkpoint
        self._checkpoint = value
        self._link.tell(checkpoint=value)

    def log(self, line: str) -> None:
        "Add a line under the bar"
        self._link.tell(log=shorten(line, 500))

    def show(self, part) -> None:
        "Add a partial result to the card: markdown, or tags"
        self._link.tell(show=html(part) if hasattr(part, "tag") else html(markdown(str(part))))

    @property
    def cancelled(self) -> bool:
        "Whether the person pressed Cancel; a step that looks may end well, another is stopped"
        return self._link.cancelled.is_set()


class Llm:
    "What a step knows as `llm`: `llm(text)` is the model's answer; `llm(text, Kind)` an object of that dataclass"

    def __init__(self, link: Pipe): self._link = link

    def __call__(self, text: str, kind: type | dict | None = None, system: str = ""):
        "Raises PianolaError when the answer does not fit `kind` (a dataclass, or a JSON schema) at a second try either"
        shape = pydantic.TypeAdapter(kind) if isinstance(kind, type) else None
        schema = shape.json_schema() if shape else kind
        wish = text
        for _ in range(2):
            said = self._link.ask("llm", text=wish, schema=schema, system=system)
            if not schema: return said
            try: return shape.validate_json(said) if shape else json.loads(said)
            except ValueError as error: why = " ".join(str(error).split())[:300]
            wish = f"{text}\n\nThe last answer did not fit: {why}. Answer once more, as JSON of that form."
        raise PianolaError(f"The model's answer does not fit: {why}.", "Try a larger model, or another wording.")


class Voice:
    "What a step knows as `chat`: `chat(text)` says it as the assistant, `chat.ask(text)` lets the model say something"

    def __init__(self, link: Pipe): self._link = link

    def __call__(self, text: str) -> None:
        "Say `text` as it is"
        self._link.ask("say", text=str(text))

    def ask(self, text: str) -> None:
        "Ask the model to say something; it does so when it is free"
        self._link.ask("chat", text=str(text))


class FarStore(MutableMapping):
    "What a step knows as `store`: the person's facts, read and written through the server"

    def __init__(self, link: Pipe): self._link = link

    def __getitem__(self, key: str): return self._link.ask("store")[key]

    def __setitem__(self, key: str, value) -> None:
        self._link.ask("perform", name="store.set", args={"key": key, "value": value})

    def __delitem__(self, key: str) -> None: self._link.ask("perform", name="store.delete", args={"key": key})

    def __iter__(self): return iter(self._link.ask("store"))

    def __len__(self) -> int: return len(self._link.ask("store"))


GIVEN |= {
    "progress": lambda link, order: Reporter(link, order["checkpoint"]),
    "llm": lambda link, order: Llm(link),
    "chat": lambda link, order: Voice(link),
    "store": lambda link, order: FarStore(link),
    "profile": lambda link, order: order["profile"]}

# ---- the server's half

async def _say(job, args: dict): return await here().chat.broadcast(args["text"])

async def _ask(job, args: dict): return bool(await here().chat.ask(args["text"]))

async def _facts(job, args: dict): return await asyncio.to_thread(lambda: dict(store))

async def _perform(job, args: dict): return (await here().keyboard.perform("app", args["name"], args["args"])).result

async def _answer(job, args: dict) -> str:
    "What the model answers; on another machine only once the person has allowed it"
    models = here().models
    async with models.using() as model:
        if not model.local and chosen.get("consent") != models.current:
            raise DeniedError("The model runs on another machine.",
                              "Say something to it in the chat first, and allow it.")
        system = [{"role": "system", "content": args["system"]}] if args["system"] else []
        messages, parts = [*system, {"role": "user", "content": args["text"]}], []
        async with contextlib.aclosing(model.stream(messages, schema=args["schema"], options=model.talk)) as chunks:
            async for chunk in chunks: parts.append(chunk.text)
    return "".join(parts)

ASKED |= {"say": _say, "chat": _ask, "store": _facts, "perform": _perform, "llm": _answer}
