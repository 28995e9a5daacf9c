"""Worker: what happens in the process of a step, and what a step may ask for."""
import asyncio
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import json
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue

import pydantic

from server import (
    ASKED, GIVEN, HERE, READERS, WORK, App, DataTable, DeniedError, PageHead, PianolaError, Workflow, chosen, here,
    html, import_plugin, load_result, markdown, save_result, shorten, steps_of, store, to_json, version_of)
from server import work as begin_work

TOLD_EVERY = 0.02     # seconds between two reports of a step that reports all the time
SAID_A_SECOND = 50    # printed lines a second that are kept


class WorkerPage(App):
    "A step runs in a process of its own. Parameters with these names are no fields of its form: it is handed them."

    menu, helps_workers = False, True

    def page(self, view):
        "The names there are"
        kinds = {"progress": Reporter, "llm": Llm, "chat": Voice, "store": FarStore}
        told = {name: inspect.getdoc(kind).partition(": ")[2] for name, kind in kinds.items()}
        rows = [(name, told.get(name, "the profile the run is for")) for name in GIVEN]
        return PageHead(self.title, self.__doc__), DataTable(("Name", "What it is"), rows, "What a step may ask for")


class Worker:
    "One process for the steps of one app: the server's end of the pipe"

    def __init__(self, file: Path, helpers: list[str], hear: Callable[["Worker", dict], None]):
        self.file, self.version, self.job = file, version_of(file), None
        kind = _nursery()
        self.conn, theirs = kind.Pipe()
        self.process = kind.Process(target=begin_work, args=(theirs, helpers), daemon=True)
        with _no_main(): self.process.start()
        theirs.close()
        self._loop, self._hear, self._context = here().loop, hear, copy_context()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, **message) -> None:
        "Send an order, an answer or `cancel`; a dead worker hears nothing"
        with contextlib.suppress(OSError, ValueError): self.conn.send_bytes(to_json(message).encode())

    def _listen(self) -> None:
        while True:
            try: message = json.loads(self.conn.recv_bytes())
            except (EOFError, OSError): message = {"gone": True}
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._hear, self, message, context=self._context)
            if "gone" in message: return

    def kill(self) -> None:
        "End it and what it has started, at once"
        with contextlib.suppress(OSError, AttributeError): os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError, ValueError): self.process.kill()

@functools.cache
def _nursery():
    "Where workers come from: forked from a process that has loaded us and pandas; on Windows each starts afresh"
    if sys.platform == "win32": return multiprocessing.get_context("spawn")
    kind, path = multiprocessing.get_context("forkserver"), os.environ.get("PYTHONPATH")
    kind.set_forkserver_preload(["server", "pandas"])
    os.environ["PYTHONPATH"] = str(HERE) + (os.pathsep + path if path else "")
    with _no_main(): multiprocessing.forkserver.ensure_running()
    if path is None: del os.environ["PYTHONPATH"]
    else: os.environ["PYTHONPATH"] = path
    return kind

@contextlib.contextmanager
def _no_main():
    "NOTE: multiprocessing runs the parent's main file again in each child; ours needs nothing from it"
    main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
    try: yield
    finally: sys.modules["__main__"] = main


class Pipe:
    "The worker's end of the pipe: tells, asks and waits for the answer, hears of orders and of Cancel"

    def __init__(self, conn):
        self.conn, self.orders, self.answers, self.cancelled = conn, SimpleQueue(), {}, threading.Event()
        self._lock, self._number = threading.Lock(), itertools.count(1)
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, **message) -> None:
        "Send a message to the server"
        with self._lock: self.conn.send_bytes(to_json(message).encode())

    def ask(self, what: str, **args):
        "Ask the server for something only it has, and wait; raises PianolaError with its reason"
        number, box = next(self._number), SimpleQueue()
        self.answers[number] = box
        self.tell(ask=number, what=what, args=args)
        answer = box.get()
        if "error" in answer: raise PianolaError(answer["error"])
        return answer["value"]

    def _listen(self) -> None:
        while True:
            try: message = json.loads(self.conn.recv_bytes())
            except (EOFError, OSError): os._exit(0)  # the server is gone
            if "cancel" in message: self.cancelled.set()
            elif "answer" in message: self.answers.pop(message["answer"]).put(message)
            else: self.orders.put(message)


class Said(io.TextIOBase):
    "What a step prints: lines of its log, at most so many a second"

    def __init__(self, link: Pipe): self.link, self.text, self.second, self.count = link, "", 0, 0

    def write(self, text: str) -> int:
        "Keep `text` until its line is whole"
        *lines, self.text = (self.text + text).split("\n")
        for line in lines[:SAID_A_SECOND]:
            second = int(time.monotonic())
            self.second, self.count = second, self.count + 1 if second == self.second else 1
            if self.count <= SAID_A_SECOND: self.link.tell(log=shorten(line, 500))
        self.text = self.text[-500:]
        return len(text)


def work(conn) -> None:
    "Run the orders that come, one at a time, until the server is gone"
    link = Pipe(conn)
    sys.stdout = sys.stderr = Said(link)
    while True: _obey(link, link.orders.get())

def _obey(link: Pipe, order: dict) -> None:
    link.cancelled.clear()
    try:
        if "warm" in order: return import_plugin(Path(order["file"]))
        link.tell(result=run_order(order, link))
    except BaseException as error:  # a step may raise anything, SystemExit included
        trace = "".join(traceback.format_exception(error)[-12:])
        cause = str(error) if isinstance(error, PianolaError) else f"{type(error).__name__}: {shorten(error, 500)}"
        link.tell(error=cause, trace=trace)

WORK |= {"hire": Worker, "work": work}


def run_order(order: dict, link: Pipe) -> dict:
    "In a worker: do one step, keep its result, return the record"
    app, folder = _loaded(order["file"]), Path(order["folder"])
    one = next(s for s in steps_of(type(app)) if s.name == order["step"])
    args = {n: load_result(r, folder) for n, r in order["given"].items()}
    form = one.form.model_validate(order["args"])
    for name in type(form).model_fields.keys() - {"run"}:
        value = getattr(form, name)
        if name in one.files and value: value = READERS[one.files[name]](Path(value))
        if name in one.lists: value = pydantic.TypeAdapter(list[one.lists[name]]).validate_python(value or [])
        args[name] = value
    value = one.fn(app, **args, **{n: give(n, link, order) for n in one.given})
    if inspect.iscoroutine(value): value = asyncio.run(value)
    if inspect.isgenerator(value): value = _drain(value, give("progress", link, order))
    if inspect.isasyncgen(value): value = asyncio.run(_drain_async(value, give("progress", link, order)))
    record = save_result(value, folder, order["name"])
    lists = [v for v in (value.values() if isinstance(value, dict) else [value]) if isinstance(v, list)]
    proposed = next((v for v in lists if v and dataclasses.is_dataclass(v[0])), None)
    if proposed:
        rows = [dataclasses.asdict(row) for row in proposed]
        record["rows"] = {"table": type(proposed[0]).__name__, "rows": rows}
    return record

@functools.cache
def _loaded(file: str) -> Workflow: return import_plugin(Path(file))[1]()

def _drain(parts: Iterator, progress: Callable):
    last = None
    while True:
        try: last = _yielded(next(parts), progress)
        except StopIteration as end: return last if end.value is None else end.value

async def _drain_async(parts: AsyncIterator, progress: Callable):
    last = None
    async for part in parts: last = _yielded(part, progress)
    return last

def _yielded(part, progress: Callable):
    "What a step yields: a number or (done, total, note) is progress, a text a line of its log, else perhaps its result"
    if isinstance(part, float | int) and not isinstance(part, bool): progress(part, 1 if isinstance(part, float) else 0)
    elif isinstance(part, tuple) and part and all(isinstance(n, float | int) for n in part[:2]): progress(*part[:3])
    elif isinstance(part, str): progress.log(part)
    return part

def give(name: str, link: Pipe, order: dict):
    "What a step asks for by name, as `progress` or `llm`; raises PianolaError where no plugin has it"
    if name not in GIVEN: raise PianolaError(f"No plugin gives a step {name!r}.", "Put that plugin back.")
    return GIVEN[name](link, order)


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
