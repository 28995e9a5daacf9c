"""
Pianola: a local-first web app framework in one file. Left, apps from plugins/; right, a chat with a local model.

You play the apps by hand; the model hears every key and can play the same keys: a player piano. Everything that changes
anything is an action on one keyboard, and `perform` is the only door to it: the mouse, the model's JSON, native tool
calls, slash commands and outside programs all go through it, into one journal, with one undo.

It is not a multi-user server, not a JavaScript framework, not a cloud client. One person, one process, one data folder.

    python server.py                 # serve on http://localhost:5001
    python server.py doctor          # what works on this machine, and what to do about the rest
    python server.py new app NAME    # write a plugin that works (verbs like these come from plugins)
    python server.py -v              # tell everything: phases, replies, played actions

Read it top to bottom, or search for the word `figlet` to walk from banner to banner:

    01 LOGGING: one line a request, tables for people, no secrets
    02 SYSTEM PROMPT: who the assistant is, in layers
    03 DATABASE: one writer thread, many readers, numbered migrations
    04 CONVERSATION: what the model hears, append-only
    05 MODELS: one protocol, every provider a plugin
    06 COMPONENTS: from data to tags, no database and no request
    07 KEYBOARD: every change is an action
    08 PLAYER PIANO: from the model's words to the keys
    09 CHAT: tabs, turns and streams
    10 JOBS: long work in a process of its own
    11 CRUD: a dataclass is a table, a form and seven actions
    12 WORKFLOWS: a Python file that reads like the notebook it came from
    13 PLUGINS: one app per file
    14 ROUTES: the page is the server's
    15 SERVER: put together, started, stopped

A section uses only sections above it; what must go upward goes through a listener (`Keyboard.listeners`).
A private function or method, `__init__` too, follows what it belongs to without a blank line.
"""
import argparse, asyncio, contextlib, dataclasses, fnmatch, functools, hashlib, hmac, importlib.util, inspect
import ipaddress, itertools, json, logging, math, os, re, secrets, shutil, socket, sys, threading, time, traceback
import types, typing, unicodedata, weakref
import datetime as dt
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

import apsw
import fastlite
import pyfiglet
import pydantic
import rich.console
import rich.table
import uvicorn
from dotenv import dotenv_values
from fasthtml.common import (
    A, Article, Aside, Body, Button, Details, Div, FastHTML, Fieldset, Footer, Form, H1, H2, Head, Header, Html,
    Input, Kbd, Label, Li, Link, Main, Meta, NotStr, Nav, Option, P, Progress, Script, Section, Select, Small, Span,
    Strong, Summary, Table, Tbody, Td, Textarea, Th, Thead, Time, Title, Tr, Ul, to_xml)
from filelock import FileLock, Timeout
from loguru import logger
from markdown_it import MarkdownIt
from pydantic import BaseModel, ConfigDict, Field, create_model
from rich.logging import RichHandler
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

VERSION = "0.1.0"
HERE = Path(__file__).resolve().parent
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MESSAGES_SHOWN = 100      # newest messages on a fresh page; older ones load as one scrolls up
ROWS_SHOWN = 200          # rows of a table on one page
PLAYS_A_TURN = 5          # actions the model may play for one line of the person
FRAME_GAP = 0.008         # seconds between two frames on one socket; what comes sooner joins the next
APPROVAL_HOURS = 24       # an unanswered permission card expires after this
BODY_LIMIT = 4 << 20      # bytes of a request that is not an upload
UPLOAD_LIMIT = 200 << 20  # bytes of one uploaded file
TEXT_LIMIT = 100_000      # characters of one text argument or one chat line


class PianolaError(Exception):
    """What a person is told: one sentence of cause, one of fix.

        PianolaError          failed, 422   an action that could not do its work
        ├── UnknownError      unknown, 404  no such action, app or file
        ├── InvalidError      invalid, 422  bad arguments; `fields` says which
        ├── DeniedError       denied, 403   not permitted to this actor
        ├── ConflictError     conflict, 409 ambiguous name (`candidates`), or a newer change in the way
        │   └── AnsweredError               a permission card that was answered before
        └── ModelError        model, 502    the language model is missing, dead or confused
    """
    kind, status = "failed", 422
    def __init__(self, cause: str, fix: str = "", **extra):
        super().__init__(f"{cause} {fix}".strip())
        self.cause, self.fix, self.extra = cause, fix, extra

    def as_json(self) -> dict:
        "The error as `POST /do` answers it"
        return {"kind": self.kind, "message": str(self), **self.extra}


class UnknownError(PianolaError): kind, status = "unknown", 404
class InvalidError(PianolaError): kind, status = "invalid", 422
class DeniedError(PianolaError): kind, status = "denied", 403
class ConflictError(PianolaError): kind, status = "conflict", 409
class AnsweredError(ConflictError): "A permission card that was answered before, or has expired"
class ModelError(PianolaError): kind, status = "model", 502


@dataclass
class Settings:
    "Where this Pianola lives and listens; every field but the last is an environment variable (or a line of .env)"
    host: str = "127.0.0.1"                              # HOST; anything but loopback needs PIANOLA_TOKEN
    port: int = 5001                                     # PORT
    data: Path = Path("data")                            # PIANOLA_DATA: app.db, uploads/, logs/
    plugins: Path = HERE / "plugins"                     # PIANOLA_PLUGINS
    prompt: Path = HERE / "system_prompt.md"             # PIANOLA_PROMPT
    models: Path = Path("~/.cache/pianola/models")       # PIANOLA_MODELS: shared by checkouts
    offline: bool = False                                # PIANOLA_OFFLINE: fetch nothing
    model: str = ""                                      # PIANOLA_MODEL: provider/name; "" means choose
    token: str = field(default="", repr=False)           # PIANOLA_TOKEN
    app_name: str = "Pianola"                            # APP_NAME
    ollama_host: str = ""                                # OLLAMA_HOST, as Ollama's own client reads it
    openai_base_url: str = ""                            # OPENAI_BASE_URL
    openai_api_key: str = field(default="", repr=False)  # OPENAI_API_KEY
    verbose: bool = False                                # -v
    warm: bool = True                                    # load and warm the model at start (tests say no)

    @classmethod
    def from_env(cls, env: dict | None = None) -> "Settings":
        "Settings from the environment; a line of .env counts where the environment says nothing"
        env = {**dotenv_values(".env"), **os.environ} if env is None else env
        ours, found = ("data", "plugins", "prompt", "models", "offline", "model", "token"), {}
        for f in dataclasses.fields(cls):
            text = env.get(("PIANOLA_" if f.name in ours else "") + f.name.upper())
            if text and f.name not in ("verbose", "warm"): found[f.name] = _setting_from(f, text)
        return cls(**found)
    def __post_init__(self):
        self.data, self.plugins, self.prompt, self.models = (
            Path(p).expanduser() for p in (self.data, self.plugins, self.prompt, self.models))

def _setting_from(f: dataclasses.Field, text: str):
    if f.type is bool: return text.lower() not in ("0", "false", "no", "off")
    if f.type is not int: return f.type(text)
    if not text.isdecimal() or not 0 <= int(text) < 65536:
        raise PianolaError(f"{f.name.upper()}={text!r} is not a port number.", "Use a number from 1 to 65535.")
    return int(text)

current: ContextVar["Pianola"] = ContextVar("pianola")  # the app this request, job or test belongs to

def here() -> "Pianola":
    "The Pianola at work: set by the gate for requests and sockets, by `perform` for everything else"
    return current.get()

def now() -> str:
    "This moment as ISO 8601 in UTC, to the millisecond"
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

def to_json(value) -> str:
    "`value` as one line of JSON; what JSON does not know becomes its text"
    return json.dumps(value, ensure_ascii=False, default=str)

def shorten(text, size: int = 200) -> str:
    "`text` in at most `size` characters, with an ellipsis where it was cut"
    text = str(text)
    return text if len(text) <= size else text[:size - 1] + "…"

# ----------------------------------------------------------------------------------------------------------------------
#  _    ___   ___  ___ ___ _  _  ___                                                                              figlet
# | |  / _ \ / __|/ __|_ _| \| |/ __|
# | |_| (_) | (_ | (_ || || .` | (_ |
# |____\___/ \___|\___|___|_|\_|\___|
# 01 LOGGING: one line a request, tables for people, no secrets

console = rich.console.Console(stderr=True)

def setup_logging(settings: Settings) -> list[int]:
    "Console through rich and a rotating file under data/logs; returns loguru's handler ids, to take them off again"
    logger.remove()
    level = "DEBUG" if settings.verbose else "INFO"
    rich_handler = RichHandler(console=console, show_path=False, markup=False, log_time_format="%H:%M:%S")
    folder = settings.data / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    line = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level:7} {message}"
    logging.getLogger("httpx").setLevel(logging.WARNING)
    plain = {"level": level, "backtrace": False, "diagnose": False}
    return [logger.add(rich_handler, format="{message}", **plain),
            logger.add(folder / "pianola.log", format=line, rotation="10 MB", retention=5, **plain)]

def show_figlet(text: str, font: str = "small") -> None:
    "Print `text` in big letters on the console"
    console.print(pyfiglet.figlet_format(text, font=font).rstrip(), style="bold cyan", highlight=False, markup=False)

def show_table(title: str, rows: list[dict], style: str = "", to: rich.console.Console = console) -> None:
    "Print `rows` as a table, one column a key; under -v this is how replies and played actions appear"
    table = rich.table.Table(title=title, style=style, title_style=style or "bold", title_justify="left")
    for name in rows[0] if rows else (): table.add_column(str(name), overflow="fold")
    for row in rows: table.add_row(*(rich.text.Text(shorten(v, 300)) for v in row.values()))
    to.print(table)

# ----------------------------------------------------------------------------------------------------------------------
#  _____   _____ _____ ___ __  __   ___ ___  ___  __  __ ___ _____                                                figlet
# / __\ \ / / __|_   _| __|  \/  | | _ \ _ \/ _ \|  \/  | _ \_   _|
# \__ \\ V /\__ \ | | | _|| |\/| | |  _/   / (_) | |\/| |  _/ | |
# |___/ |_| |___/ |_| |___|_|  |_| |_| |_|_\\___/|_|  |_|_|   |_|
# 02 SYSTEM PROMPT: who the assistant is, in layers

MANNERS = ("Answer in one to three short sentences, in plain words, in the language of the person. "
           "Emoji only where one helps.")
NAMELESS = "Your name is {name}. You are a calm, friendly assistant for one person at one machine."
DESCRIBED = "You work inside {name}, an app on the person's own machine. You are told what was done there, and by whom."
PLAY_GUIDED = "Actions were chosen before you speak. Speak of an action as done only where a line says so."
PLAY_TOOLS = "To do something in the app, call a tool. Never claim an action was done before its result says so."
PLAY_JSON = """To do something in the app, write one JSON object on a line of its own, and nothing else on that line:
{"action": "task.insert", "args": {"name": "Buy milk"}}
Use only actions named below, only when the person asks for it. Name a row by its `name` or its `id`.
After it you are told the result. To show such JSON without doing it, put it in a ```example block."""


@dataclass
class Layer:
    "One named part of the front of every conversation"
    name: str
    text: str


class SystemPrompt:
    "The file `system_prompt.md`, read again at a new turn when it has changed; absent, a sentence of our own"
    def __init__(self, path: Path, app_name: str):
        self.path, self.app_name, self._seen, self._text = path, app_name, None, ""

    def text(self) -> str:
        "Who the assistant is"
        stamp = self.path.stat().st_mtime_ns if self.path.is_file() else 0
        if stamp != self._seen:
            self._seen = stamp
            self._text = self.path.read_text(encoding="utf-8", errors="replace").strip() if stamp else ""
        return self._text or NAMELESS.format(name=self.app_name)

    def layers(self, way: str, manners: bool = True, expert: str = "") -> list[Layer]:
        "The front, in its fixed order: who · manners · how to play · expert"
        how = {"guided": PLAY_GUIDED, "tools": PLAY_TOOLS, "json": PLAY_JSON}[way]
        parts = [Layer("who", self.text()), Layer("manners", MANNERS if manners else ""),
                 Layer("how to play", DESCRIBED.format(name=self.app_name) + "\n" + how),
                 Layer("expert", _read_expert(expert))]
        return [p for p in parts if p.text]

def _read_expert(path: str) -> str:
    try: return Path(path).expanduser().read_text(encoding="utf-8", errors="replace")[:20_000].strip() if path else ""
    except (OSError, RuntimeError, ValueError): return ""  # a bad path costs the expert, never the reply

# ----------------------------------------------------------------------------------------------------------------------
#  ___   _ _____ _   ___   _   ___ ___                                                                            figlet
# |   \ /_\_   _/_\ | _ ) /_\ / __| __|
# | |) / _ \| |/ _ \| _ \/ _ \\__ \ _|
# |___/_/ \_\_/_/ \_\___/_/ \_\___/___|
# 03 DATABASE: one writer thread, many readers, numbered migrations

MIGRATIONS = (  # never edit one that has shipped: add the next
    """
    create table setting(key text primary key, value text not null) without rowid;
    create table store(key text primary key, value text not null);
    create table profile(
        id integer primary key autoincrement, name text not null, note text not null default '',
        position real not null);
    insert into profile values(1, 'Default', '', 1);
    create table message(
        id integer primary key autoincrement, role text not null, content text not null default '',
        kind text not null default 'chat', app text, actor text, created text not null,
        tokens integer not null default 0, state text not null default 'done', journal integer,
        meta text not null default '{}', outside integer not null default 0);
    create table journal(
        id integer primary key autoincrement, at text not null, ended text, actor text not null, app text,
        action text not null, args text not null, state text not null, result text, error text, changeset blob,
        undone integer, turn integer, message integer);
    create index journal_message on journal(message) where message is not null;
    create table approval(
        id integer primary key autoincrement, created text not null, expires text not null, actor text not null,
        action text not null, args text not null, state text not null default 'waiting', turn integer,
        message integer, tab text, journal integer, about text not null default '');
    create index approval_message on approval(message) where message is not null;
    create table upload(
        id text primary key, name text not null, size integer not null, created text not null) without rowid;
    """,
    """
    create table run(
        id integer primary key autoincrement, key text not null unique, name text not null, app text not null,
        profile_id integer not null references profile(id) on delete cascade,
        created text not null, changed text not null, archived integer not null default 0,
        finalized integer not null default 0, position real not null);
    create index run_app on run(app, changed);
    create table run_step(
        id integer primary key autoincrement, run_id integer not null references run(id) on delete cascade,
        step text not null, state text not null, inputs text not null default '{}', record text, error text, trace text,
        seconds real not null default 0, at text not null, folded integer not null default 0, unique(run_id, step));
    create table job(
        id integer primary key, app text not null, run_id integer not null, step text not null, title text not null,
        args text not null, state text not null, started text not null, ended text, done real not null default 0,
        total real not null default 0, note text not null default '', log text not null default '',
        checkpoint text not null default 'null', error text not null default '', trace text not null default '');
    create index job_run on job(run_id);
    """,
)
# names no plugin's table may have; and the tables no changeset covers, so that no undo touches them
OWN_TABLES = ("setting", "store", "message", "journal", "approval", "upload", "run", "run_step", "job")
UNRECORDED = ("journal", "approval", "setting", "job", "sqlite_sequence")


class Database:
    """The data folder's `app.db`: all writing on one thread with the only writing connection, reading on any thread.

    `q`, `one` and `do` use the connection of the thread they are called on; outside the writer it is read-only,
    so code that writes anywhere but in an action fails at once.
    """
    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "app.db"
        self._lock, self._own, self._readers = FileLock(folder / "app.lock"), threading.local(), weakref.WeakSet()
        self._jobs: deque = deque()
        self._wake, self._open = threading.Condition(), False

    def open(self) -> None:
        "Take the folder's lock, start the writer, update the schema; raises ConflictError if another server has it"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConflictError(f"Another Pianola is using {self.folder.resolve()}.",
                                "Use that one, or set PIANOLA_DATA to another folder.") from None
        except OSError as error:
            raise PianolaError(f"{self.folder} cannot be used: {error.strerror}.",
                               "Set PIANOLA_DATA to another folder.") from None
        self._open = True
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()
        try: self.write_now(self._migrate)
        except (apsw.Error, PianolaError) as error:
            self.close()
            if isinstance(error, PianolaError): raise
            raise PianolaError(f"{self.path} cannot be read: {error}.",
                               "Move it away, or set PIANOLA_DATA to another folder.") from error

    def close(self) -> None:
        "Finish what is queued, close all connections, free the lock"
        if not self._open: return
        with self._wake:
            self._open = False
            self._wake.notify()
        self._thread.join()
        for conn in list(self._readers): conn.close()
        self._lock.release()

    def write_now(self, fn: Callable, *args):
        "Run `fn(*args)` in one transaction on the writer thread and wait for it; not from the event loop"
        done, box = threading.Event(), []
        self._submit(fn, args, lambda result, error: (box.extend((result, error)), done.set()))
        done.wait()
        if box[1]: raise box[1]
        return box[0]

    async def write(self, fn: Callable, *args):
        "Run `fn(*args)` in one transaction on the writer thread; the event loop goes on meanwhile"
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._submit(fn, args, lambda result, error: loop.call_soon_threadsafe(_settle, future, result, error))
        return await future
    def _submit(self, fn, args, done) -> None:
        with self._wake:
            if not self._open: raise PianolaError("The server is stopping.", "Start it again.")
            self._jobs.append((copy_context(), fn, args, done))
            self._wake.notify()
    def _work(self) -> None:
        while True:
            with self._wake:
                while self._open and not self._jobs: self._wake.wait()
                if not self._jobs: break
                context, fn, args, done = self._jobs.popleft()
            done(*context.run(self._transact, fn, args))
        if hasattr(self._own, "db"): self._own.db.conn.close()
    def _transact(self, fn, args):
        try:
            if not hasattr(self._own, "db"): self._connect()
            if fn == self.scrub: return fn(), None
            with self._own.db.conn: return fn(*args), None
        except BaseException as error:  # handed to whoever asked, with its traceback
            return None, error
    def _connect(self) -> None:
        db = fastlite.database(self.path)
        mac = "pragma fullfsync=1; pragma checkpoint_fullfsync=1;" if sys.platform == "darwin" else ""
        db.conn.execute("pragma synchronous=full; pragma foreign_keys=on; pragma busy_timeout=5000; "
                        f"pragma secure_delete=on; {mac}")
        self._own.db = _prepared(db)
    def _migrate(self) -> None:
        done = self.one("pragma user_version")["user_version"]
        if done > len(MIGRATIONS):
            raise PianolaError(f"{self.path} was made by a newer Pianola.",
                               "Update this one, or choose another PIANOLA_DATA.")
        for number, script in enumerate(MIGRATIONS[done:], done + 1):
            self._own.db.conn.execute(f"{script}; pragma user_version={number}")
    def _fast(self) -> fastlite.Database:
        if not hasattr(self._own, "db"):
            self._own.db = _prepared(fastlite.database(self.path, wal=False, flags=apsw.SQLITE_OPEN_READONLY))
            self._readers.add(self._own.db.conn)
        return self._own.db

    @property
    def writing(self) -> bool: return threading.current_thread() is self._thread  # whether this is the writer's thread

    @property
    def conn(self) -> apsw.Connection: return self._fast().conn  # this thread's connection

    def q(self, sql: str, *params) -> list[dict]: return self._fast().q(sql, params)  # all rows of a query

    def one(self, sql: str, *params) -> dict | None:
        "The first row of a query, or None"
        rows = self.q(sql, *params)
        return rows[0] if rows else None

    def do(self, sql: str, *params) -> int:
        "Run one statement in the writer; returns the rowid of an insert"
        self.conn.execute(sql, params)
        return self.conn.last_insert_rowid()

    def insert(self, table: str, **values) -> int:
        "Insert a row; returns its id. `table` and the names are ours, never a person's"
        names = ", ".join(f'"{n}"' for n in values)
        return self.do(f'insert into "{table}"({names}) values({", ".join("?" * len(values))})', *values.values())

    @contextlib.contextmanager
    def changes(self):
        "Record what the block changes, in the writer; yields what gives the changeset, None if nothing changed"
        with contextlib.closing(apsw.Session(self.conn, "main")) as session:
            session.table_filter(lambda name: name not in UNRECORDED)
            session.attach()
            yield lambda: None if session.is_empty else session.changeset()

    def scrub(self) -> None:
        "Rewrite the file without what was deleted, in the writer but outside any transaction"
        self.conn.execute("vacuum")
        self.conn.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def revert(self, changeset: bytes) -> None:
        "Apply the inverse of a changeset; raises ConflictError if something newer stands in the way"
        clash = []
        def conflict(reason, change):
            clash.append(change.name)
            return apsw.SQLITE_CHANGESET_ABORT
        flags = apsw.SQLITE_CHANGESETAPPLY_FKNOACTION  # an undo takes nothing with it that it did not make
        try: apsw.Changeset.apply(apsw.Changeset.invert(changeset), self.conn, conflict=conflict, flags=flags)
        except (apsw.AbortError, apsw.ConstraintError):
            raise ConflictError(f"A newer change to {clash[0] if clash else 'the same data'} is in the way.",
                                "Undo the newer change first.") from None

def _prepared(db: fastlite.Database) -> fastlite.Database:
    db.conn.execute("pragma busy_timeout=5000")
    db.conn.create_scalar_function("fold", lambda text: str(text).casefold(), 1, deterministic=True)
    return db
def _settle(future: asyncio.Future, result, error) -> None:
    if future.cancelled(): return
    if error: future.set_exception(error)
    else: future.set_result(result)


class Store(MutableMapping):
    "Small values that last, like a dict: the person's name, a favourite colour. Write inside an action, read anywhere"
    table = "store"
    def __getitem__(self, key: str):
        row = here().db.one(f"select value from {self.table} where key=?", key)
        if row is None: raise KeyError(key)
        return json.loads(row["value"])
    def __setitem__(self, key: str, value) -> None:
        sql = f"insert into {self.table} values(?, ?) on conflict(key) do update set value=excluded.value"
        here().db.do(sql, key, to_json(value))
    def __delitem__(self, key: str) -> None:
        self[key]
        here().db.do(f"delete from {self.table} where key=?", key)
    def __iter__(self):
        return iter([row["key"] for row in here().db.q(f"select key from {self.table} order by key")])
    def __len__(self) -> int:
        return here().db.one(f"select count(*) as n from {self.table}")["n"]


CHOICES = {  # what the person may choose: what it is at first, and what it may be; the Settings page explains it
    "theme": ("auto", Literal["auto", "light", "dark", "matrix"]),
    "model_mode": ("ask", Literal["ask", "watch", "play"]),
    "way": ("auto", Literal["auto", "guided", "tools", "json"]),
    "manners": (True, bool),
    "expert": ("", str),
    "context": (8192, Literal[4096, 8192, 16384, 32768]),
    "remote_events": (False, bool),
}


class SettingStore(Store):
    "What the person chose on the Settings page, and what the page itself remembers: never undone, never the model's"
    table = "setting"
    def __getitem__(self, key: str):
        try: return super().__getitem__(key)
        except KeyError:
            if key not in CHOICES: raise
            return CHOICES[key][0]

store, chosen = Store(), SettingStore()

# ----------------------------------------------------------------------------------------------------------------------
#   ___ ___  _  ___   _____ ___  ___   _ _____ ___ ___  _  _                                                      figlet
#  / __/ _ \| \| \ \ / / __| _ \/ __| /_\_   _|_ _/ _ \| \| |
# | (_| (_) | .` |\ V /| _||   /\__ \/ _ \| |  | | (_) | .` |
#  \___\___/|_|\_| \_/ |___|_|_\|___/_/ \_\_| |___\___/|_|\_|
# 04 CONVERSATION: what the model hears, append-only

HEARD = "What happened in the app since:\n"
ANSWERED = "What your actions did (say so in one short sentence; claim nothing else):\n"

def count_tokens(text: str) -> int:
    "About how many tokens `text` takes; a little high on purpose (3.2 bytes a token, and 4 for the message around it)"
    return int(len(text.encode("utf-8", "replace")) / 3.2) + 4


@dataclass
class Context:
    "What one request sends: `messages` for the provider, `report` for people (one line a layer and a message)"
    messages: list[dict]
    report: list[dict]
    tokens: int
    outside: bool


class Conversation:
    """The `message` table: what was said, and what the model heard in between.

    Rows are only ever appended. Kinds: `chat` (seen), `event` (one action, folded on the page), `prompt` (an app's own
    words, hidden), `summary`. The front never changes while it fits; then the older half is dropped at once, so that a
    model server's prompt cache is thrown away once in many turns instead of at each.
    """
    def __init__(self, db: Database): self.db = db

    def add(self, role: str, content: str, kind: str = "chat", **values) -> int:
        "Append a message, in the writer; returns its id"
        values = {"created": now(), "tokens": count_tokens(content), **values}
        if "meta" in values: values["meta"] = to_json(values["meta"])
        return self.db.insert("message", role=role, content=content, kind=kind, **values)

    def set(self, id: int, **values) -> None:
        "Change a message that is still growing, in the writer"
        if "content" in values: values["tokens"] = count_tokens(values["content"])
        if "meta" in values: values["meta"] = to_json(values["meta"])
        names = ", ".join(f"{n}=?" for n in values)
        self.db.do(f"update message set {names} where id=?", *values.values(), id)

    def get(self, id: int) -> dict | None: return self.db.one("select * from message where id=?", id)  # one message

    def page(self, before: int | None = None, limit: int = MESSAGES_SHOWN, search: str = "") -> list[dict]:
        "The newest `limit` messages a person sees, oldest first; `before` an id, or with `search` in them"
        sql = ("select * from message where id < ? and (kind = 'chat' or kind = 'event' and ? = '') "
               "and instr(fold(content), ?) order by id desc limit ?")
        return self.db.q(sql, before or 1 << 62, search, search.casefold(), limit)[::-1]

    def clear(self) -> int:
        "Delete all messages, in the writer; the journal can bring them back"
        count = self.db.one("select count(*) as n from message")["n"]
        self.db.do("delete from message")
        return count

    def interrupt(self) -> None:
        "At start, in the writer: a reply that was growing when the last server died is stopped, with its half text"
        self.db.do("update message set state='stopped' where state='running'")

    async def context(self, layers: list[Layer], budget: int, events: bool = True, told=None) -> Context:
        """The front and the newest messages within `budget` tokens.

        `events=False` leaves out what others than the model did, for models on other machines; `told(row)` rewrites
        each row, for models so small that they would echo JSON.
        """
        front = sum(count_tokens(layer.text) for layer in layers)
        start = int(chosen.get("context_start", 0))
        rows = self._since(start, events)
        if front + sum(r["tokens"] for r in rows) > budget:
            start = _halved(rows, (budget - front) // 2)
            await self.db.write(chosen.__setitem__, "context_start", start)
            rows = [r for r in rows if r["id"] >= start]
        system = {"role": "system", "content": "\n\n".join(layer.text for layer in layers)}
        report = [{"part": layer.name, "tokens": count_tokens(layer.text), "text": layer.text} for layer in layers]
        report += [{"part": f"#{r['id']} {r['kind']}", "role": r["role"], "tokens": r["tokens"], "text": r["content"]}
                   for r in rows]
        tokens = sum(r["tokens"] for r in report)
        return Context([system, *merge_rows(rows, told)], report, tokens, self._outside(rows))
    def _since(self, start: int, events: bool) -> list[dict]:
        return self.db.q("select * from message where id >= ? and (kind != 'event' or ? or actor = 'model') "
                         "and (content != '' or meta like '%\"calls\"%') order by id", start, events)
    def _outside(self, rows: list[dict]) -> bool:
        asked = max((r["id"] for r in rows if r["role"] == "user" and r["kind"] == "chat"), default=0)
        return any(r["outside"] and r["id"] > asked for r in rows)

    def dropped(self) -> int:
        "How many messages no longer fit"
        return self.db.one("select count(*) as n from message where id < ?", int(chosen.get("context_start", 0)))["n"]

def _halved(rows: list[dict], room: int) -> int:
    total = 0
    for row in reversed(rows):
        total += row["tokens"]
        if total > room: return row["id"] + 1
    return 0

def merge_rows(rows: list[dict], told: Callable | None = None) -> list[dict]:
    "Messages as a provider wants them: events join the person's next line, roles alternate, calls have their results"
    merged, heard, calls = [], [], deque()
    for row in map(told, rows) if told else rows:
        meta = json.loads(row["meta"])
        if not row["content"] and not meta.get("calls"): continue
        if row["kind"] == "event" and calls and row["actor"] == "model":
            call = calls.popleft()
            merged.append({"role": "tool", "content": row["content"], "call_id": call["id"], "name": call["name"]})
        elif row["kind"] in ("event", "prompt"): heard.append(row)
        else:
            if row["role"] == "user": _say(merged, "user", _heard_text(heard) + row["content"], [])
            else: _say(merged, row["role"], row["content"], heard)
            heard = []
            if meta.get("calls"):
                merged[-1]["calls"] = meta["calls"]
                calls = deque(meta["calls"])
    if heard: _say(merged, "user", _heard_text(heard), [])
    return merged
def play_label(action: str, args: dict, result=None) -> str:
    "What an action was about, in a few words: `task.insert · Buy milk`"
    named = [result.get("name")] if isinstance(result, dict) else []
    words = named + [v for k, v in args.items() if k not in ("id", "field") and isinstance(v, str)]
    about = next((w for w in words if w), "") or (str(args["id"]) if "id" in args else "")
    change = args.get("set")
    if isinstance(change, dict): about += ": " + ", ".join(f"{k} = {shorten(v, 40)}" for k, v in change.items())
    return f"{action} · {shorten(about, 80)}" if about else action
def _say(merged: list[dict], role: str, text: str, heard: list[dict]) -> None:
    if heard: _say(merged, "user", _heard_text(heard), [])
    if role == "assistant" and not merged: _say(merged, "user", "(The app was opened.)", [])
    last = merged[-1] if merged else None
    if last and last["role"] == role and not last.get("calls"): last["content"] += "\n\n" + text
    else: merged.append({"role": role, "content": text})
def _heard_text(heard: list[dict]) -> str:
    prompts = [r["content"] for r in heard if r["kind"] == "prompt"]
    own = [r["content"] for r in heard if r["kind"] == "event" and r["actor"] == "model"]
    others = [r["content"] for r in heard if r["kind"] == "event" and r["actor"] != "model"]
    parts = prompts + ([HEARD + "\n".join(others)] if others else []) + ([ANSWERED + "\n".join(own)] if own else [])
    return "".join(part + "\n\n" for part in parts)

def event_line(action: str, args: dict, by: str, ok: bool, **more) -> str:
    "One action as the model hears it: the syntax it must speak, and who and how it went, so that no echo is played"
    return to_json({"action": action, "args": {k: _brief(v) for k, v in args.items()}, "by": by, "ok": ok, **more})
def _brief(value):
    if isinstance(value, str): return shorten(value, 300)
    if isinstance(value, dict): return {k: _brief(v) for k, v in value.items()}
    return value if len(to_json(value)) <= 600 else shorten(to_json(value), 600)

# ----------------------------------------------------------------------------------------------------------------------
#  __  __  ___  ___  ___ _    ___                                                                                 figlet
# |  \/  |/ _ \|   \| __| |  / __|
# | |\/| | (_) | |) | _|| |__\__ \
# |_|  |_|\___/|___/|___|____|___/
# 05 MODELS: one protocol, every provider a plugin


@dataclass
class Usage:
    "What a reply cost. `tokens_cached` is 0 where the server does not tell it (Ollama); `rate` is tokens a second"
    reason: str = "stop"            # "stop", "length", "tool_calls"
    tokens_in: int = 0              # the whole prompt, cached tokens included
    tokens_cached: int = 0
    tokens_out: int = 0
    seconds: float = 0.0            # by our clock, from the request to the last byte
    price: float | None = None
    rate: float = 0.0               # while writing, as the server measured it; 0 when unknown


@dataclass
class Chunk:
    "A piece of a reply; only the last one has `usage`"
    text: str = ""
    thinking: str = ""
    calls: list = field(default_factory=list)       # of {"id", "name", "args": dict}
    usage: Usage | None = None


@dataclass
class Options:
    """How one reply is to be made. `slot` ("talk" or "play") matters to the embedded model only."""
    context: int = 8192
    temperature: float | None = None
    max_tokens: int | None = None
    slot: str = "talk"
    think: bool | None = None       # None leaves it to the model


@dataclass
class ModelInfo:
    "A model one could talk to now. Sizes in bytes, `params` in billions; 0 is unknown"
    name: str
    provider: str
    size: int = 0
    params: float = 0.0
    context: int = 0
    capabilities: frozenset = frozenset()   # "completion", "tools", "thinking", …; "schema": can be constrained
    local: bool = True


class Provider:
    "A place where models run. Closing the generator of `stream` closes the model's connection at once"
    name = ""
    local = True        # False when the address is not this machine
    first = 300.0       # seconds of silence allowed before the first word: a cold load or a long prompt is silent
    between = 60.0      # and between two pieces of a reply

    async def models(self) -> list[ModelInfo]:
        raise NotImplementedError

    def stream(self, model, messages, *, tools=None, schema=None, options=Options()) -> AsyncIterator[Chunk]:
        raise NotImplementedError

    async def close(self):
        pass

async def paced(parts: AsyncIterator, first: float, between: float) -> AsyncIterator:
    "The same parts; TimeoutError after `first` seconds of silence, later after `between`. Closing it closes them"
    async with contextlib.aclosing(parts):
        wait = first
        while True:
            try:
                async with asyncio.timeout(wait):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise TimeoutError(wait) from None
            yield part
            wait = between

def silent(model: str, error: TimeoutError) -> ModelError:
    return ModelError(f"{model} said nothing for {(*error.args, 10)[0]:.0f} seconds.",
                      "Ask again, or choose a smaller model: this one may be too big for this machine.")

def too_long(model: str) -> ModelError:
    return ModelError(f"This conversation is too long for {model}.",
                      "Clear the chat, or raise the context length in the settings.")

def one_line(text) -> str:
    return shorten(" ".join(str(text).split()))

def is_local_address(address: str) -> bool:
    "Whether an address, as OLLAMA_HOST or a URL, is this machine. 0.0.0.0 means it too"
    host = urlsplit("//" + address.rpartition("://")[2]).hostname or "127.0.0.1"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return ip.is_loopback or ip.is_unspecified

def choose_way(info: ModelInfo) -> str:
    """How a model plays unless told otherwise: "guided", "tools" or "json"."""
    params = info.params or info.size / 0.65e9
    if "schema" not in info.capabilities: return "tools" if "tools" in info.capabilities else "json"
    if info.provider == "openai" or "tools" in info.capabilities and (params >= 4 or not params): return "tools"
    return "guided"


class Playing:
    "A model at work for one turn: where it runs, how it plays, how much it can read"
    def __init__(self, provider: Provider, info: ModelInfo):
        self.provider, self.info, self.local = provider, info, provider.local and info.local
        self.way = chosen["way"] if chosen["way"] != "auto" else choose_way(info)
        self.context = min(chosen["context"], info.context or chosen["context"])
        self.budget = self.context - 1024  # room for the reply
        self.talk = Options(self.context, temperature=0.3 if 0 < info.params < 4 else None, max_tokens=900)

    def stream(self, messages: list[dict], **more) -> AsyncIterator[Chunk]:
        "Chunks of the reply to `messages`"
        return self.provider.stream(self.info.name, messages, **more)

    async def complete(self, messages: list[dict], schema: dict) -> str:
        "A whole reply constrained to `schema`, for choosing actions"
        parts, options = [], Options(self.context, temperature=0.0, max_tokens=200, slot="play")
        async with contextlib.aclosing(self.stream(messages, schema=schema, options=options)) as chunks:
            async for chunk in chunks: parts.append(chunk.text)
        return "".join(parts)


class Models:
    "Which models there are, and which one is used"
    def __init__(self, settings: Settings):
        self.settings = settings
        self.providers: dict[str, Provider] = {}  # plugins put theirs here; the first one's first model is the default
        self.found: list[ModelInfo] = []
        self.current, self.note = "", ""
        self.on_change: Callable[[], None] = lambda: None
        self.first_run: Callable[[Callable], Awaitable] | None = None  # the plugin that fetches models puts itself here
        self.fetching: Callable[[], Any] = lambda: ""                  # and here: how far it is, for the status line
        self.menu: Callable[[], list] = lambda: [Span("No model yet", cls="muted")]
        self.read_front: Callable[[Playing], Awaitable] = lambda model: asyncio.sleep(0)  # for a quick first reply
        self._tasks: list[asyncio.Task] = []

    @property
    def current_provider(self) -> str: return self.current.partition("/")[0]

    @property
    def current_name(self) -> str: return self.current.partition("/")[2]

    @property
    def label(self) -> str:
        "The model as the menu shows it"
        away = "" if not self.current or self.providers[self.current_provider].local else " (leaves this machine)"
        return (Path(self.current_name).name or "no model") + away

    @property
    def way(self) -> str:
        "How the model in use plays"
        if chosen["way"] != "auto": return chosen["way"]
        info = next((i for i in self.found if f"{i.provider}/{i.name}" == self.current), None)
        return choose_way(info or ModelInfo(self.current_name, self.current_provider))

    @property
    def hears_events(self) -> bool:
        "Whether the model in use hears what the person does"
        return not self.current or self.providers[self.current_provider].local or chosen["remote_events"]

    def start(self, warm: bool) -> None:
        "Look for models; if asked to, load the chosen one and read its front, and fetch what is missing"
        self._tasks.append(asyncio.create_task(self._begin(warm)))
    async def _begin(self, warm: bool) -> None:
        await self.refresh()
        if warm and self.first_run: await self.first_run(self._warm)

    async def refresh(self, everywhere: bool = False) -> list[ModelInfo]:
        "Ask the providers what they have, those on other machines only with consent; keep the choice if it is there"
        asked = [p for p in self.providers.values() if p.local or everywhere or chosen.get("consent")]
        lists = await asyncio.gather(*(p.models() for p in asked), return_exceptions=True)
        self.found = [info for found in lists if isinstance(found, list) for info in found]
        names = [f"{i.provider}/{i.name}" for i in self.found]
        wanted = [self.settings.model, chosen.get("model", "")]
        ready = [f"{i.provider}/{i.name}" for i in self.found if i.local]
        there = [w for w in wanted if w in names or "/" in w and w.partition("/")[0] in self.providers]
        self.current = (there + ready + [""])[0]
        self.on_change()
        return self.found
    async def _warm(self) -> None:
        try:
            async with self.using() as model: await self.read_front(model)
        except ModelError as error: logger.warning("The model could not be loaded: {}", error)

    @property
    def spare(self) -> str:
        "An embedded model that can answer in place of the one in use; empty if there is none"
        return next((f"embedded/{i.name}" for i in self.found if i.provider == "embedded"), "")

    @contextlib.asynccontextmanager
    async def using(self, name: str = ""):
        "The model in use (or `name`) for one turn, as a `Playing`; raises ModelError when there is none"
        full = name or self.current
        if not full: full = self.current = (await self.refresh() and self.current) or ""
        provider, _, short = full.partition("/")
        if provider not in self.providers:
            raise ModelError("There is no language model yet." + (f" {self.note}" if self.note else ""),
                             "Start Ollama, or fetch an embedded model on the Models page.")
        info = next((i for i in self.found if i.provider == provider and i.name == short), None)
        place = self.providers[provider]
        yield Playing(place, info or ModelInfo(short, provider, local=place.local))

    async def close(self) -> None:
        "Stop fetching and free the models"
        for task in self._tasks: task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for provider in self.providers.values(): await provider.close()

# ----------------------------------------------------------------------------------------------------------------------
#   ___ ___  __  __ ___  ___  _  _ ___ _  _ _____ ___                                                             figlet
#  / __/ _ \|  \/  | _ \/ _ \| \| | __| \| |_   _/ __|
# | (_| (_) | |\/| |  _/ (_) | .` | _|| .` | | | \__ \
#  \___\___/|_|  |_|_|  \___/|_|\_|___|_|\_| |_| |___/
# 06 COMPONENTS: from data to tags, no database and no request

Upload = Annotated[str, "upload"]   # a file: the id of an upload
LongText = Annotated[str, "long"]   # a text of several lines, in a dataclass or a signature
CSP = ("default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
       "frame-ancestors 'none'")
FRAME_CSP = ("sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob:; "
             "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; frame-ancestors 'self'")
HTMX_CONFIG = {
    "metaCharacter": "-", "includeIndicatorCSS": False, "history": False, "defaultSwap": "none",
    "noSwap": [204, 304, "4xx", "5xx"], "sse": {"pauseOnBackground": False},
    "ws": {"pauseOnBackground": False, "reconnectDelay": 300, "reconnectMaxDelay": 1500}}
LOOKS = {"auto": "◐", "light": "☀\uFE0E", "dark": "☾", "matrix": "▦"}
SAFE_LINK = re.compile(r"(https?://|mailto:|/app/|/file/|#)", re.I)

def html(*parts) -> str:
    "Tags as text for the socket"
    return "".join(str(p) if isinstance(p, NotStr) else to_xml(p, indent=False) for p in parts)

def swap(part, how: str = "outerMorph"):
    "`part` marked to replace the element with its id, wherever it is"
    part.attrs["hx-swap-oob"] = how
    return part

def Into(target: str, *parts, how: str = "beforeend"):
    "Parts to put into (or `how`: before, after) the element `target`, a selector"
    return Div(*parts, hx_swap_oob=f"{how}:{target}")

def Gone(target: str): return Div(hx_swap_oob=f"delete:{target}")  # the element `target`, a selector, is to go
@functools.cache
def _markdown() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    md.validateLink = lambda url: bool(SAFE_LINK.match(url.strip()))
    for name in ("fence", "code_block"): md.add_render_rule(name, _render_code)
    md.add_render_rule("image", lambda self, tokens, i, options, env: Safe(tokens[i].content or "image"))
    md.add_render_rule("link_open", _render_link)
    for name in ("th_open", "td_open"):
        md.add_render_rule(name, lambda self, tokens, i, options, env: f"<{tokens[i].tag}>")
    return md

def Safe(text: str) -> str:
    "`text` escaped for HTML"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
def _render_code(self, tokens, i, options, env) -> str:
    copy = '<button class="copy" type="button" data-copy-code>Copy</button>'
    return f'<div class="code">{copy}<pre tabindex="0"><code>{Safe(tokens[i].content)}</code></pre></div>'
def _render_link(self, tokens, i, options, env) -> str:
    return f'<a href="{Safe(tokens[i].attrs.get("href", ""))}" target="_blank" rel="noopener noreferrer">'

def markdown(text: str) -> NotStr:
    "Markdown as HTML: raw HTML is text, links only to safe places, images and styles left out"
    return NotStr(_markdown().render(text))

def Clock(iso: str):
    "A moment, shown as the person's local time"
    local = dt.datetime.fromisoformat(iso).astimezone()
    return Time(local.strftime("%H:%M"), datetime=iso, title=local.strftime("%Y-%m-%d %H:%M:%S"))

def ActionButton(label, action: str, cls: str = "", title: str = "", pane: str = "", **args):
    "A button that performs an action with `args`; on a narrow page `pane` (left or right) comes into view"
    symbol = isinstance(label, str) and len(label) == 1
    return Button(label, type="button", cls=cls, title=title or None, aria_label=title if symbol else None,
                  data_pane=pane or None, hx_post=f"/do/{action}", hx_swap="none",
                  hx_vals=to_json(args) if args else None)

def PartButton(label, address: str, part: str, **attrs):
    "A button that shows one part of the page again, as it is at `address`"
    return Button(label, type="button", hx_get=address, hx_target=f"#{part}", hx_select=f"#{part}", hx_swap="outerHTML",
                  **attrs)

def AppLink(label, app: str, **attrs):
    "A link that opens an app in this tab (and, without JavaScript, as a page)"
    return A(label, href=f"/app/{app}", hx_post="/do/app.open", hx_swap="none", hx_vals=to_json({"app": app}), **attrs)

def input_kind(annotation) -> tuple[str, tuple]:
    "What kind of input an annotation asks for, and a select's options"
    if typing.get_origin(annotation) is Annotated:
        kind, options = input_kind(annotation.__origin__)
        return next((m for m in ("long", "upload") if m in annotation.__metadata__), kind), options
    if typing.get_origin(annotation) is Literal: return "select", typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return input_kind(next(a for a in typing.get_args(annotation) if a is not type(None)))
    if typing.get_origin(annotation) is list: return "lines", ()
    kinds = {bool: "checkbox", int: "number", float: "number", dt.date: "date", Path: "file", bytes: "file"}
    return kinds.get(annotation, "text"), ()

def FieldInput(name: str, annotation, value=None, **attrs):
    "The input for one field by its type; a required one says so"
    kind, options = input_kind(annotation)
    kind = "file" if kind == "upload" else kind
    if kind == "select":
        return Select(*(Option(o, value=o, selected=o == value) for o in options), name=name, **attrs)
    if kind in ("long", "lines"):
        text = "\n".join(value) if isinstance(value, list) else value or ""
        return Textarea("\n" + str(text), name=name, rows=2, **attrs)
    if kind == "checkbox": return Input(type="checkbox", name=name, checked=bool(value), value="true", **attrs)
    if kind == "number": attrs["step"] = "any" if annotation is float else None
    shown = None if value is None or kind == "file" else str(value)
    return Input(type=kind, name=name, value=shown, autocomplete="off", **attrs)

def Labelled(form: str, name: str, annotation, value=None, label: str = "", **attrs):
    "A field with its label above and the place for its error below"
    error = f"{form}-{name.replace('.', '-')}-error"
    control = FieldInput(name, annotation, value, id=f"{form}-{name}", aria_describedby=error, **attrs)
    text = label or name.replace("_", " ").capitalize()
    parts = (control, text) if input_kind(annotation)[0] == "checkbox" else (text, control)
    return Div(Label(*parts, fr=f"{form}-{name}"), FieldError(error), cls="field")

def FieldError(id: str, text: str = ""):
    "What is wrong with one field, read out when it appears"
    return Small(text, id=id, cls="error", role="alert")

def ActionForm(action: str, *parts, button: str = "Save", id: str = "", now: bool = False, reset: bool = False, **args):
    "A form that performs an action with its fields and `args`; `now` sends each change at once, `reset` empties it"
    hidden = [Input(type="hidden", name=k, value=str(v)) for k, v in args.items()]
    return Form(*hidden, *parts, "" if now else Button(button, type="submit"), id=id or action.replace(".", "-"),
                cls="new-row", hx_post=f"/do/{action}", hx_swap="none", hx_trigger="change" if now else None,
                data_reset=reset or None, novalidate=True)

def StepForm(action: str, one, inputs: dict, locked: bool, button: str):
    "A step's form, filled with what was given before; locked while it runs, waits or is finalized"
    form = f"form-{action.replace('.', '-')}"
    fields = []
    for name, (kind, default) in one.inputs.items():
        value = inputs.get(name, None if default is ... else default)
        if name not in one.lists: fields.append(Labelled(form, name, kind, value, required=default is ... or None))
    kept = [Small(f"Kept: {Path(inputs[n]).name}", cls="muted") for n in one.files if inputs.get(n)]
    press = Button(button, type="submit", aria_busy=str(locked == "busy").lower())
    return Form(Fieldset(*fields, *kept, press, disabled=bool(locked)), id=form, cls="step-form", novalidate=True,
                hx_post=f"/do/{action}", hx_swap="none", hx_encoding="multipart/form-data")

def JobBar(job):
    "How far a job is: bar, rate and time left once they are known, its last lines, what it has shown so far, Cancel"
    known = job.as_json()
    far = {"value": str(job.done), "max": str(job.total)} if job.total else {}
    words = [f"{100 * job.done / job.total:.0f} %" if job.total else f"{job.done:g}" if job.done else job.state]
    if known["rate"]: words.append(f"{known['rate']:,.1f} a second")
    if known["left"] is not None: words.append(f"{known['left']:.0f} s left")
    lines = "\n".join(list(job.log)[-20:])
    log = Details(Summary("Log"), NotStr(f"<pre tabindex=0>{Safe(lines)}</pre>")) if lines else ""
    bar = Div(Progress(aria_label=job.title, **far), Span(" · ".join(words)), Span(job.note, cls="muted"),
              ActionButton("Cancel", "job.cancel", cls="quiet", id=job.id), cls="bar")
    return Div(bar, log, Div(*map(NotStr, job.shown), cls="shown"), id=f"job-{job.id}", cls="job", data_state=job.state)

def FilterForm(app: str, *parts):
    "A form that shows the page of `app` again, filtered by its fields"
    return Form(*parts, cls="list-tools", hx_get=f"/app/{app}", hx_trigger="change, submit", hx_target="#grid-left",
                hx_swap="outerMorph", id=f"{app}-filter")

def PageHead(title: str, lead="", *more):
    "The top of an app's page"
    return Header(H1(title), P(lead, cls="lead") if lead else "", *more, cls="page-head")

def ErrorCard(title: str, error: str, details: str = ""):
    "Something that failed, with what to do, at the place where it failed"
    trace = Details(Summary("Traceback"), Div(NotStr(f"<pre tabindex=0>{Safe(details)}</pre>"))) if details else ""
    return Article(Header(Strong(title)), P(error), trace, cls="error-card", role="alert")

def DataTable(heads: Iterable[str], rows: Iterable[Iterable], caption: str = ""):
    "A plain table with a header row"
    body = [Tr(*(Td(cell) for cell in row)) for row in rows]
    head = Thead(Tr(*(Th(h or Span("Do", cls="sr-only"), scope="col") for h in heads)))
    return Div(Table(head, Tbody(*body), cls="data", aria_label=caption or None), cls="scroll", tabindex="0",
               role="region", aria_label=caption or "Table")

def PlayKey(row: dict):
    "One action the model played, as a key under its reply, with Undo beside it; `row` is from the journal"
    args, result = json.loads(row["args"]), json.loads(row["result"] or "null")
    label = play_label(row["action"], args, result)
    ok = row["state"] == "done"
    after = Small("undone") if row["undone"] else (
        ActionButton("Undo", "journal.undo", id=row["id"]) if ok and row["undoable"] else "")
    why = "" if ok or row["state"] == "started" else Small(row["error"] or row["state"])
    return Span(f"♪ {label} ", why, after, cls="key", id=f"key-{row['id']}", data_ok=str(ok).lower())

def BrokenKey(text: str, why: str):
    "What the model meant to play and could not"
    return Span(f"♪ {shorten(text, 120)} ", Small(why), cls="key", data_ok="false")

def Failure(cause: str, fix: str, message: int, embedded: bool):
    "Why a reply failed, what to do, and a way out at one press where there is one"
    out = ""
    if message and embedded:
        out = ActionButton("Answer with the embedded model", "chat.again", message=message, embedded=True)
    elif message: out = AppLink("Look at the models", "models")
    return Div(P(cause, cls="failure"), P(fix, cls="failure-fix"), out, cls="failed")

def ApprovalCard(row: dict):
    "A question to the person: may the model do exactly this?"
    args = json.loads(row["args"])
    label = f"{row['action']} · {row['about']}" if row["about"] else play_label(row["action"], args)
    shown = {"id": f"approval-{row['id']}", "cls": "approval", "data_role": "approval", "data_state": row["state"]}
    if row["state"] != "waiting": return Article(Span(f"♪ {label} ", Small(row["state"]), cls="key"), **shown)
    table = DataTable(("Argument", "Value"), [(k, to_json(v)) for k, v in args.items()], "Arguments") if args else ""
    return Article(Header(Strong(f"♪ {label}"), P("The assistant asks to do this.")), table,
                   Footer(ActionButton("Allow", "approval.allow", id=row["id"]),
                          ActionButton("Deny", "approval.deny", cls="secondary outline", id=row["id"])), **shown)

def Thinking(text: str = "Thinking…"):
    "What shows from sending to the first word"
    return Div(text, cls="thinking", role="status")

def Message(row: dict, keys: Iterable = (), waiting: str = ""):
    "One message: whose, the words rendered, the keys played under it"
    mid, role, state = f"m{row['id']}", row["role"], row["state"]
    words = markdown(row["shown"] if "shown" in row else row["content"]) if role == "assistant" else row["content"]
    done = Div(words, id=f"{mid}-done", cls="md" if role == "assistant" else "text")
    tail = Div(Thinking(waiting or "Thinking…") if state == "running" else "", id=f"{mid}-tail", cls="tail")
    note = {"stopped": "stopped", "failed": "failed"}.get(state)
    foot = Footer(Clock(row["created"]), Small(note) if note else "",
                  Button("Copy", type="button", cls="copy", data_copy=mid, aria_label="Copy this message"))
    return Article(Div(done, tail, cls="body"), Div(*keys, id=f"{mid}-keys", cls="keys"), foot,
                   id=mid, cls="msg", data_role=role, data_state=state)

def EventsFold(rows: list[dict]):
    "Actions of one actor between two lines of the conversation, folded: `3 things you did`"
    who = {"user": "you", "client": "a program", "app": "an app"}.get(rows[0]["actor"], rows[0]["actor"])
    lines = [json.loads(r["content"]) for r in rows]
    items = [Li(play_label(e["action"], e["args"], e.get("result")), "" if e["ok"] else Small(" failed"))
             for e in lines]
    count = f"{len(rows)} thing{'s' if len(rows) > 1 else ''} {who} did"
    return Details(Summary(count), Ul(*items), id=f"m{rows[0]['id']}", cls="events", data_role="event")

def Toast(text: str, *more, kind: str = "info"):
    "A short note at the edge of the page"
    return Into("#toasts", Div(Span(text), *more, cls="toast", data_kind=kind))

def Menu(id: str, label: str, title: str, *items):
    "A drop-down menu in the bar"
    return Details(Summary(label, title=title, aria_label=f"{title}: {label}"), Ul(*(Li(i) for i in items)), cls="menu",
                   id=id)

def Page(app_name: str, tab: str, look: str, parts: dict):
    "The whole page; `parts` are the pieces by name: bar, left, app, messages, status, palette"
    vendored = [Script(src=f"/static/vendor/{f}.min.js") for f in ("htmx", "hx-ws", "hx-sse", "Sortable")]
    head = Head(Meta(charset="utf-8"), Meta(name="viewport", content="width=device-width, initial-scale=1"),
                Meta(name="htmx-config", content=to_json(HTMX_CONFIG)), Title(f"{parts['app'].title} · {app_name}"),
                Link(rel="icon", href="/static/favicon.svg"),
                Link(rel="stylesheet", href="/static/vendor/pico.min.css"),
                Link(rel="stylesheet", href=f"/static/app.css?{VERSION}"),
                *vendored, Script(src=f"/static/app.js?{VERSION}"))
    split = Div(id="split", role="separator", tabindex="0", aria_orientation="vertical", aria_label="Width of the chat",
                aria_valuemin="20", aria_valuemax="75", aria_valuenow="35")
    panes = Nav(Button("App", type="button", data_pane="left"), Button("Chat", type="button", data_pane="right"),
                id="panes", aria_label="Panes")
    body = Body(A("Skip to the chat", cls="skip", href="#msg"), parts["bar"],
                Div("Reconnecting…", id="offline", role="status", hidden=True),
                panes, Main(parts["left"], split, ChatPane(parts["messages"]), id="columns"), parts["status"],
                *parts["palette"], Div(id="toasts", role="status", aria_live="polite"), Div(id="stream", hidden=True),
                data_tab=tab, hx_ws_connect=f"/ws?tab={tab}", hx_headers_inherited=to_json({"X-Tab": tab}))
    theme = {"light": {"data-theme": "light"}, "dark": {"data-theme": "dark"},
             "matrix": {"data-theme": "dark", "data-look": "matrix"}}.get(look, {})
    return html(Html(head, body, lang="en", **theme))

def ChatPane(messages):
    "The right column: head, messages, composer"
    search = Input(type="search", id="chat-search", name="search", placeholder="Search the chat",
                   aria_label="Search the chat", hx_get="/messages", hx_target="#msg-list", hx_swap="outerHTML",
                   hx_trigger="input changed delay:250ms, search")
    clear = ActionButton("Clear", "chat.clear", cls="quiet", title="Clear the chat (Undo brings it back)")
    text = Textarea(id="msg", name="msg", rows="1", aria_label="Message", placeholder="Ask, or / to play an action",
                    maxlength=TEXT_LIMIT, aria_autocomplete="list", aria_controls="complete")
    stop = ActionButton("■", "chat.stop", title="Stop the reply")
    stop.attrs |= {"id": "stop", "hidden": True}
    form = Form(Ul(id="complete", role="listbox", aria_label="Actions", hidden=True), text,
                Button("▸", id="send", type="submit", aria_label="Send"), stop, id="composer", hx_ws_send=True)
    return Aside(Header(H2("Assistant"), search, clear, id="chat-head"), messages,
                 Button("↓ new", id="newer", type="button", hidden=True), form, id="grid-right", aria_label="Chat")

def MessageList(parts: list, older: int | None = None, search: str = ""):
    "The list of messages; scrolling up to its first element loads older ones"
    more = Older(older, search) if older else ""
    empty = P("Nothing found." if search else "Say something, or press a key on the left. I hear both.", cls="empty")
    return Div(more, *parts, empty, id="msg-list", role="log", aria_live="polite", aria_label="Messages", tabindex="0")

def Older(before: int, search: str = ""):
    "Where older messages load when it comes into view"
    return Div("Loading older messages…", id="older", cls="muted", hx_trigger="intersect once", hx_swap="outerHTML",
               hx_get=f"/messages?before={before}&search={quote(search)}")

def signature(key) -> str:
    "An action's arguments in a few words: `name done? due?`"
    return " ".join(n + ("" if f.is_required() else "?") for n, f in key.form.model_fields.items())

# ----------------------------------------------------------------------------------------------------------------------
#  _  _______   _____  ___   _   ___ ___                                                                          figlet
# | |/ / __\ \ / / _ )/ _ \ /_\ | _ \   \
# | ' <| _| \ V /| _ \ (_) / _ \|   / |) |
# |_|\_\___| |_| |___/\___/_/ \_\_|_\___/
# 07 KEYBOARD: every change is an action

Danger = Literal["read", "write", "destroy", "spend", "person"]
Actor = Literal["user", "client", "model", "roll", "app"]
JOURNAL = "select *, changeset is not null as undoable from journal"
INJECTED = ("self", "llm", "chat", "progress", "profile", "store")  # parameters that are never form fields
PERMITS = {  # who may do what: yes, ask (a card in the chat), no
    #            read   write  destroy spend  person
    "user":     ("yes", "yes", "yes",  "yes", "yes"),
    "client":   ("yes", "yes", "yes",  "ask", "yes"),
    "app":      ("yes", "yes", "yes",  "ask", "no"),
    "roll":     ("yes", "yes", "yes",  "ask", "no"),
    "ask":      ("yes", "yes", "ask",  "ask", "no"),   # the model, by its mode: ask is the default
    "watch":    ("yes", "ask", "ask",  "ask", "no"),
    "play":     ("yes", "yes", "yes",  "ask", "no"),
}


class Args(BaseModel):
    "Base of every action's form: unknown names refused, numbers taken for text where text is asked"
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, str_max_length=TEXT_LIMIT,
                              allow_inf_nan=False, protected_namespaces=())


@dataclass(frozen=True)
class Action:
    "One key: what it is called, what it takes (`form`), what it does (`run`), how people ask for it (`says`)"
    name: str
    run: Callable
    form: type[BaseModel]
    doc: str
    says: tuple = ()              # (phrase, args) pairs a small model learns from
    danger: Danger = "write"
    app: str = ""
    undo: bool = True             # False: navigation and settings, an event but not undoable
    heard: bool = True            # False: the model is not told
    outside: bool = False         # its result holds text from outside (a file, a page)
    resolve: Callable | None = None  # args -> args, inside the transaction: names become ids
    about: Callable | None = None    # args -> the name of what it is about, for a permission card
    finish: Callable | None = None   # a long action's Event -> what it leaves in the tables, in the last transaction

    @property
    def long(self) -> bool:
        "Whether it awaits, so that it cannot be one transaction"
        return inspect.iscoroutinefunction(self.run)

    def schema(self) -> dict: return self.form.model_json_schema()  # JSON schema of its arguments


@dataclass
class Call:
    "Where an action comes from: the tab, the turn and message it belongs to, the approval that allows it"
    tab: str = ""
    turn: int | None = None
    message: int | None = None
    approval: int | None = None
    actor: str = ""
    outside: bool = False
    journal: int | None = None      # set once a long action has begun
    resume: int | None = None       # the interrupted job a step goes on from


@dataclass
class Event:
    "What everybody hears after an action: the journal's row without the changeset"
    journal: int
    actor: str
    app: str
    action: str
    args: dict
    ok: bool
    result: Any = None
    error: str = ""
    undoable: bool = False
    call: Call = field(default_factory=Call)


@dataclass
class Outcome:
    "How a perform ended: a result with its journal number, or the approval it waits for"
    action: str
    args: dict
    result: Any = None
    journal: int | None = None
    approval: int | None = None

    def as_json(self) -> dict:
        "As `POST /do` answers it"
        if self.approval: return {"ok": True, "approval": self.approval}
        return {"ok": True, "result": self.result, "journal": self.journal}

calling: ContextVar[Call] = ContextVar("calling", default=Call())

def form_of(fn: Callable, name: str) -> type[BaseModel]:
    "A pydantic model of a function's form parameters; files become upload ids"
    fields = {}
    for p in inspect.signature(fn, eval_str=True).parameters.values():
        if p.name in INJECTED or p.kind is p.VAR_KEYWORD: continue
        kind = p.annotation
        if kind is p.empty: kind = str if p.default in (p.empty, None) else type(p.default)
        if kind in (Path, bytes): kind = str
        fields[p.name] = (kind, ... if p.default is p.empty else p.default)
    return create_model(name, __base__=Args, **fields)

def action(name: str = "", danger: Danger = "write", **more):
    "Mark a method of an app as an action: `@action()` is `{app}.{method}`; see `Action` for the rest"
    def mark(fn):
        fn.action = {"name": name, "danger": danger, **more}
        return fn
    return mark

def on(pattern: str):
    "Mark a method of an app as a listener: `@on(\"task.*\")` is called with each such Event, after the commit"
    def mark(fn):
        fn.hears = pattern
        return fn
    return mark


class App:
    """What a plugin file holds: a bundle of actions and a page.

    `title` is the first line of the plugin's docstring, the class's docstring its lead. `page(view)` gives tags.
    `shows(event, view)` gives the fragments that bring a page on which this app is open up to date after an event:
    a list of out-of-band tags, `REFRESH` for the whole page, or None when nothing of it changed.
    """
    name, title, prompt, file = "", "", "", Path()
    tables: typing.Sequence["Crud"] = ()
    helps_workers = False               # True: its file is imported by every worker process, to add kinds of results
    menu = True                         # False: found by the palette and by links, not in the menu
    for_tables = False                  # linked from the page of every table
    commands: dict[str, Callable] = {}  # verbs for the command line: name -> function(settings, args)

    def page(self, view: "View"): return PageHead(self.title, inspect.getdoc(self) or "")  # the app's page

    def shows(self, event: Event, view: "View"): return None  # what an open page of this app changes after `event`

    def actions(self) -> list[Action]:
        "The actions of this app: its methods marked with `@action`"
        marked = inspect.getmembers(self, lambda o: inspect.ismethod(o) and hasattr(o, "action"))
        return [self._action_of(fn) for _, fn in marked]
    def _action_of(self, fn) -> Action:
        more = dict(fn.action)
        name = more.pop("name") or f"{self.name}.{fn.__name__}"
        doc = (inspect.getdoc(fn) or name).splitlines()[0]
        return Action(name, fn, form_of(fn, name), doc, app=self.name, **more)

    def listeners(self) -> list[tuple[str, Callable]]:
        "Pattern and method of each `@on`"
        marked = inspect.getmembers(self, lambda o: inspect.ismethod(o) and hasattr(o, "hears"))
        return [(fn.hears, fn) for _, fn in marked]

    def at_end(self): return ""  # what this app adds at the end of the whole page, out of sight at first

    def set_up(self) -> None:
        "Prepare what `actions` needs; raises PianolaError for what is wrong with the plugin"

    def for_model(self, view: "View") -> str:
        "What the model is told of the page beside title, lead and `prompt`"
        return ""

    def address(self, view: "View") -> str: return f"/app/{self.name}"  # the address of what a tab shows

    def start(self) -> None:
        "Called when the app is loaded"

    def stop(self) -> None:
        "Called when the app is reloaded or the server stops"


@dataclass
class View:
    "What one tab shows: which app, and where in it"
    app: str = ""
    search: str = ""
    offset: int = 0
    filters: dict = field(default_factory=dict)
    run: str = ""       # the key of the run it looks at
    tab: str = ""

REFRESH = "refresh"


class Keyboard:
    "All actions by name, and `perform`, the only door to them"
    def __init__(self, db: Database, conversation: Conversation, home: "Pianola | None" = None):
        self.db, self.conversation, self.home = db, conversation, home
        self.actions: dict[str, Action] = {}
        self.listeners: list[Callable[[Event], None]] = []  # called in commit order, on the event loop
        self._running: dict[int, asyncio.Task] = {}         # long actions by journal number

    def add(self, new: Action) -> None:
        "Put a key on the keyboard"
        if new.name in self.actions:
            raise PianolaError(f"Two actions are called {new.name}.", f"Rename the one in app {new.app!r}.")
        self.actions[new.name] = new

    def remove(self, app: str) -> None:
        "Take an app's keys off"
        self.actions = {n: a for n, a in self.actions.items() if a.app != app}

    def find(self, name: str) -> Action:
        "The action called `name`; raises UnknownError with the nearest names"
        if found := self.actions.get(name): return found
        near = sorted(self.actions, key=lambda n: -similarity(n, str(name)))[:3]
        fix = f"Did you mean {', '.join(near)}?" if near else ""
        raise UnknownError(f"There is no action {shorten(name, 60)!r}.", fix)

    async def perform(self, actor: Actor, name: str, args: dict | None = None, call: Call | None = None) -> Outcome:
        """Validate, permit, run, journal, announce: the one way anything changes.

        `args` as JSON would give them. Returns an Outcome; raises PianolaError (see its tree) when it did not happen.
        A caller that goes away does not stop it.
        """
        call = call or Call()
        call.actor = actor
        task = asyncio.ensure_future(self._perform(actor, self.find(name), {} if args is None else args, call))
        task.add_done_callback(lambda t: t.cancelled() or t.exception())  # whoever asked may be gone
        return await asyncio.shield(task)
    async def _perform(self, actor: Actor, key: Action, args: dict, call: Call) -> Outcome:
        calling.set(call)
        if self.home: current.set(self.home)
        form = validate(key, args)
        mode = chosen["model_mode"] if actor == "model" else actor
        verdict = permit(mode, key.danger, call.outside)
        if verdict == "no": raise DeniedError(f"{key.name} is for the person to do.", "Ask them to do it on the page.")
        if key.danger == "read": return Outcome(key.name, args, await asyncio.to_thread(_run, key, form))
        if verdict == "ask" and not call.approval: return await self._ask(actor, key, form, call)
        return await (self._long if key.long else self._short)(actor, key, form, call)
    async def _short(self, actor: Actor, key: Action, form: dict, call: Call) -> Outcome:
        try: event = await self.db.write(self._commit, actor, key, form, call)
        except Exception as error:  # whatever an action raises is its failure, kept in the journal
            raise await self._failed(actor, key, form, call, error) from error
        self._announce(event)
        return Outcome(key.name, event.args, event.result, event.journal)
    def _commit(self, actor: Actor, key: Action, form: dict, call: Call) -> Event:
        self._use_approval(call.approval)
        with self.db.changes() as changes:
            args = key.resolve(form) if key.resolve else form
            result = key.run(**args)
            changeset = changes() if key.undo else None
        event = Event(0, actor, key.app, key.name, given(key, args), True, result, "", changeset is not None, call)
        event.journal = self._record(event, "done", changeset)
        self._close_approval(call.approval, "allowed", event.journal)
        self._tell(key, event)
        return event
    async def _long(self, actor: Actor, key: Action, form: dict, call: Call) -> Outcome:
        args = await asyncio.to_thread(key.resolve, form) if key.resolve else form
        event = Event(0, actor, key.app, key.name, given(key, args), True, call=call)
        event.journal = call.journal = await self.db.write(self._begin, event)
        self._running[event.journal] = asyncio.current_task()
        try: event.result = await key.run(**args)
        except (Exception, asyncio.CancelledError) as error:  # as above: a long action's failure is kept too
            failure = _as_failure(key, error)
            event.ok, event.error = False, "stopped" if isinstance(error, asyncio.CancelledError) else str(failure)
            await self.db.write(self._end, key, event)
            self._announce(event)
            failure.extra["journal"] = event.journal
            raise failure from error
        finally: self._running.pop(event.journal, None)
        await self.db.write(self._end, key, event)
        self._announce(event)
        return Outcome(key.name, args, event.result, event.journal)
    def _begin(self, event: Event) -> int:
        self._use_approval(event.call.approval)
        journal = self._record(event, "started")
        self._close_approval(event.call.approval, "allowed", journal)
        return journal
    def _end(self, key: Action, event: Event) -> None:
        state, changeset = "done" if event.ok else "stopped" if event.error == "stopped" else "failed", None
        if key.finish:
            with self.db.changes() as changes:
                key.finish(event)
                changeset = changes() if key.undo else None
            event.undoable = changeset is not None
        self.db.do("update journal set state=?, ended=?, result=?, error=?, changeset=? where id=?", state, now(),
                   shorten(to_json(event.result), 20_000), event.error or None, changeset, event.journal)
        self._tell(key, event)
    async def _failed(self, actor: Actor, key: Action, form: dict, call: Call, error: Exception) -> PianolaError:
        failure = _as_failure(key, error)
        event = Event(0, actor, key.app, key.name, given(key, form), False, error=str(failure), call=call)
        def record():
            event.journal = self._record(event, "failed")
            self._close_approval(call.approval, "failed", event.journal)
            self._tell(key, event)
        if not isinstance(failure, (InvalidError, DeniedError, AnsweredError)):
            await self.db.write(record)
            self._announce(event)
            failure.extra["journal"] = event.journal
        return failure
    def _record(self, event: Event, state: str, changeset: bytes | None = None) -> int:
        at, ended = now(), None if state == "started" else now()
        result = None if state != "done" else shorten(to_json(event.result), 20_000)
        return self.db.insert("journal", at=at, ended=ended, actor=event.actor, app=event.app, action=event.action,
                              args=to_json(event.args), state=state, result=result, error=event.error or None,
                              changeset=changeset, turn=event.call.turn, message=event.call.message)
    def _tell(self, key: Action, event: Event) -> None:
        if not key.heard: return
        result = event.result if isinstance(event.result, dict) else {}
        whole = event.actor == "model" or "preview" in result
        more = {} if event.ok else {"error": shorten(event.error, 300)}
        if whole and event.ok or event.action == "journal.undo": more["result"] = _brief(event.result)
        elif result.get("name"): more["result"] = {"name": result["name"]}
        line = event_line(event.action, event.args, event.actor, event.ok, journal=event.journal, **more)
        self.conversation.add("user", line, "event", actor=event.actor, app=event.app, journal=event.journal,
                              outside=key.outside)
    def _announce(self, event: Event) -> None:
        for listen in self.listeners: listen(event)
    async def _ask(self, actor: Actor, key: Action, form: dict, call: Call) -> Outcome:
        args = given(key, await asyncio.to_thread(key.resolve, form) if key.resolve else form)
        expires = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=APPROVAL_HOURS)).isoformat()
        about = await asyncio.to_thread(key.about, args) if key.about else ""
        row = {"about": about, "created": now(), "expires": expires, "actor": actor, "action": key.name,
               "args": to_json(args), "turn": call.turn, "message": call.message, "tab": call.tab}
        id = await self.db.write(lambda: self.db.insert("approval", **row))
        self._announce(Event(0, actor, key.app, "approval.asked", {"id": id}, True, call=call))
        return Outcome(key.name, args, approval=id)
    def _use_approval(self, id: int | None) -> None:
        if id is None: return
        row = self.db.one("select state, expires from approval where id=?", id)
        if not row or row["state"] != "waiting": raise AnsweredError("That question was answered before.", "Ask again.")
        if row["expires"] < now(): raise AnsweredError("That question has expired.", "Ask again.")
    def _close_approval(self, id: int | None, state: str, journal: int) -> None:
        sql = "update approval set state=?, journal=? where id=? and state='waiting'"
        if id is not None: self.db.do(sql, state, journal, id)

    def interrupt(self) -> None:
        "At start, in the writer: long actions the last server did not finish are interrupted"
        self.db.do("update journal set state='interrupted', ended=? where state='started'", now())

    def stop(self, journal: int | None = None) -> int:
        "Cancel one long action, or all; returns how many"
        found = [t for id, t in self._running.items() if journal in (None, id)]
        for task in found: task.cancel()
        return len(found)

def permit(mode: str, danger: Danger, outside: bool = False) -> Literal["yes", "ask", "no"]:
    "The verdict of the permission table; with text from outside in the context, the model's writes ask too"
    verdict = PERMITS[mode][typing.get_args(Danger).index(danger)]
    model = mode in ("ask", "watch", "play")
    return "ask" if verdict == "yes" and model and outside and danger != "read" else verdict

def validate(key: Action, args: dict) -> dict:
    "The arguments as the action takes them; raises InvalidError with what is wrong by field"
    try: form = key.form.model_validate(_sound(args))
    except pydantic.ValidationError as error:
        fields = {".".join(str(p) for p in e["loc"]) or "args": e["msg"] for e in error.errors(include_url=False)}
        said = "; ".join(f"{name}: {text}" for name, text in list(fields.items())[:3])
        raise InvalidError(f"{key.name} cannot take these arguments: {said}.", fields=fields) from None
    values = {name: getattr(form, name) for name in type(form).model_fields}
    return {n: v.model_dump(exclude_unset=True) if isinstance(v, BaseModel) else v for n, v in values.items()}

def given(key: Action, args: dict) -> dict:
    "The arguments that say something: not those left at their default"
    fields = key.form.model_fields
    return {n: v for n, v in args.items() if n not in fields or fields[n].is_required() or v != fields[n].default}
def _sound(args) -> dict:
    "Refuse what no text or number column can hold: lone surrogates, NUL, numbers over 64 bits"
    if not isinstance(args, dict): raise InvalidError("Arguments must be an object.", fields={"args": "not an object"})
    todo = [args]
    while todo:
        item = todo.pop()
        if isinstance(item, dict): todo += [*item.keys(), *item.values()]
        elif isinstance(item, list): todo += item
        elif isinstance(item, str) and ("\0" in item or not _encodable(item) or len(item) > TEXT_LIMIT):
            raise InvalidError("A text is too long, or holds what cannot be stored.", fields={"args": "invalid text"})
        elif isinstance(item, float) and not math.isfinite(item):
            raise InvalidError("NaN and Infinity are no numbers here.", fields={"args": "not a number"})
        elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 63:
            raise InvalidError("A number is too large.", fields={"args": "over 64 bits"})
    return args
def _encodable(text: str) -> bool:
    try: return text.encode() is not None
    except UnicodeEncodeError: return False
def _run(key: Action, form: dict):
    try: return key.run(**(key.resolve(form) if key.resolve else form))
    except Exception as error: raise _as_failure(key, error) from error  # a read's failure, as an action's above
def _as_failure(key: Action, error: BaseException) -> PianolaError:
    if isinstance(error, PianolaError): return error
    if isinstance(error, asyncio.CancelledError): return PianolaError(f"{key.name} was stopped.")
    logger.opt(exception=error).error("{} failed", key.name)
    return PianolaError(f"{key.name} failed: {type(error).__name__}: {shorten(error, 300)}.",
                        "The log has the traceback.")

def similarity(a: str, b: str) -> float:
    "How alike two texts are by their letter pairs, 0 to 1"
    pairs = [Counter(zip(t, t[1:])) for t in (squeeze(a), squeeze(b))]
    total = sum(map(Counter.total, pairs))
    return 2 * (pairs[0] & pairs[1]).total() / total if total else 0.0

def squeeze(text: str) -> str:
    "`text` without case, space and accents' variants, for comparing names"
    return "".join(unicodedata.normalize("NFKC", str(text)).casefold().split())

def pick_by_name(wanted, rows: list[tuple[int, str]], what: str) -> int:
    "An id from an id or a name: the id, an exact name, a unique name ignoring case and space; else ConflictError"
    text = str(wanted)
    for matches in ([i for i, _ in rows if str(i) == text], [i for i, n in rows if n == text],
                    [i for i, n in rows if squeeze(n) == squeeze(text)]):
        if len(matches) == 1: return matches[0]
        if matches: raise _ambiguous(what, text, [(i, n) for i, n in rows if i in set(matches)])
    raise _ambiguous(what, text, sorted(rows, key=lambda r: -similarity(r[1], text))[:5], found=False)
def _ambiguous(what: str, text: str, rows: list[tuple[int, str]], found: bool = True) -> ConflictError:
    names = ", ".join(f"{shorten(n, 40)} ({i})" for i, n in rows[:5])
    cause = f"{len(rows)} {what}s are" if found else f"No {what} is"
    fix = f"Which one: {names}?" if names else "There is none yet."
    return ConflictError(f"{cause} called {shorten(text, 60)!r}.", fix,
                         candidates=[{"id": i, "name": n} for i, n in rows[:10]])

def decode_form(items: Iterable[tuple[str, Any]], form: type[BaseModel]) -> dict:
    "Arguments from an HTML form: empty is absent, a missing checkbox is false, lines are a list, `set.name` is nested"
    args: dict = {}
    for name, value in items:
        head, _, rest = name.partition(".")
        if rest and isinstance(args.setdefault(head, {}), dict): args[head][rest] = value
        elif value != "" and not rest and isinstance(args.get(head, []), list): args.setdefault(head, []).append(value)
    args = {n: v[0] if isinstance(v, list) and len(v) == 1 else v for n, v in args.items()}
    for name, f in form.model_fields.items():
        kind, text = input_kind(f.annotation)[0], args.get(name)
        if kind == "checkbox": args.setdefault(name, False)
        if kind == "lines" and isinstance(text, str): args[name] = [line for line in text.splitlines() if line.strip()]
    return args


class CoreApp(App):
    "The actions no plugin owns: undo and permission"
    name = "app"

    @action("journal.undo", says=(("undo that", {}), ("take that back", {}), ("revert the last change", {})))
    def undo(self, id: int | None = None):
        "Undo an action: the newest one, or the one with this journal number"
        call, db = calling.get(), here().db
        row = self._undoable(id, call)
        if call.actor == "model" and (row["actor"] != "model" or row["turn"] != call.turn):
            raise DeniedError("The assistant can undo only what it did just now.", "Press Undo in the Journal.")
        db.revert(row["changeset"])
        if not db.one("select id from profile limit 1"):
            raise ConflictError("That would leave no profile.", "Add one first.")
        next_id = (db.one("select seq from sqlite_sequence where name='journal'") or {"seq": 0})["seq"] + 1
        db.do("update journal set undone=null where undone=?", row["id"])
        db.do("update journal set undone=? where id=?", next_id, row["id"])
        return {"undone": row["id"], "action": row["action"], "args": json.loads(row["args"])}
    def _undoable(self, id: int | None, call: Call) -> dict:
        db, live = here().db, "changeset is not null and undone is null"
        newest = f"select * from journal where {live} and action != 'journal.undo'"
        if id is not None: row = db.one(f"select * from journal where id=? and {live}", id)
        elif call.actor == "model":
            row = db.one(f"{newest} and actor='model' and turn=? order by id desc", call.turn)
        else: row = db.one(f"{newest} order by id desc")
        if row: return row
        raise ConflictError("There is nothing to undo." if id is None else f"Journal row {id} cannot be undone.")

    @action("approval.allow", danger="person", undo=False, heard=False)
    async def allow(self, id: int):
        "Let the assistant do what it asked for"
        row = self._waiting(id)
        call = Call(row["tab"] or "", row["turn"], row["message"], approval=id)
        outcome = await here().keyboard.perform(row["actor"], row["action"], json.loads(row["args"]), call)
        return {"id": id, "journal": outcome.journal, "result": outcome.result}

    @action("approval.deny", danger="person", undo=False)
    def deny(self, id: int):
        "Do not let the assistant do what it asked for"
        row = self._waiting(id)
        here().db.do("update approval set state='denied' where id=?", id)
        return {"id": id, "action": row["action"]}
    def _waiting(self, id: int) -> dict:
        row = here().db.one("select * from approval where id=?", id)
        if not row or row["state"] != "waiting":
            raise ConflictError("That question was answered before.", "Ask the assistant again.")
        return row

# ----------------------------------------------------------------------------------------------------------------------
#  ___ _      ___   _____ ___   ___ ___   _   _  _  ___                                                           figlet
# | _ \ |    /_\ \ / / __| _ \ | _ \_ _| /_\ | \| |/ _ \
# |  _/ |__ / _ \ V /| _||   / |  _/| | / _ \| .` | (_) |
# |_| |____/_/ \_\_| |___|_|_\ |_| |___/_/ \_\_|\_|\___/
# 08 PLAYER PIANO: from the model's words to the keys

HELD_MAX, DEEP_MAX, FENCE_MAX = 256 * 1024, 64, 100  # characters of an object, its levels, characters of a fence line
_HEADS, _QUOTES = ("{action:", "{args:"), "\"'“”‘’"  # how an action begins, blanks and quotes left out
_DOTTED, _NAMED = re.compile(r"\w+(\.\w+)+"), re.compile(r"\{\W*action\W*([\w.]+)")
_PLAIN, _EXAMPLE = re.compile(r"[^{\[`~]*"), re.compile(r"[^`~]*")  # words; inside an example braces are words too
_STRING = re.compile(r'[^"\\\n]*')
_OTHER = re.compile(r"[\s,:\d.+\-Etrufalsn]*")  # what JSON has between strings and brackets: numbers, true, false, null
_LOOSE = re.compile(r'\s+|[^"{}\[\]`\s][^"{}\[\]`\n]*|')  # the same for what may be an action written badly
_WORDS = re.compile(r"[^\s\"'“”‘’{}\[\],:\-\da-z]")  # no line of an object begins so: these are words again
_FENCE = re.compile(r"(`{3,}|~{3,})\s*(\S*)[^\n]*")
_FENCE_PART = re.compile(r"`{1,2}|~{1,2}|(`{3,}|~{3,})[^`{\n]*")
Prose = NamedTuple("Prose", [("text", str)])
Play = NamedTuple("Play", [("name", str), ("args", dict)])
Broken = NamedTuple("Broken", [("text", str), ("why", str)])

def find_actions(text: str, names=None) -> list[dict]:
    "Every action in `text`, in order; `names` are the keys on the keyboard (None: any dotted name)."
    stream = ActionStream(names)
    return [{"action": p.name, "args": p.args} for p in stream.feed(text) + stream.close() if isinstance(p, Play)]

def load_strictly(text: str):
    "JSON without what it allows but nobody means: a key twice, NaN, Infinity, half a character. Raises ValueError."
    def once(pairs):
        if len(pairs) > len(dict(pairs)): raise ValueError("a key stands twice")
        return dict(pairs)
    def number(word):
        if math.isfinite(float(word)): return float(word)
        raise ValueError("a number is too large or is none")
    value = json.loads(text, object_pairs_hook=once, parse_float=number, parse_constant=number)
    if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)): raise ValueError("half a character")
    return value


class ActionStream:
    """Fed chunks, answers Prose, Play and Broken; holds back only what may still be an action, or a fence of them.

    A `mode` reads on from a place in the text and answers where it stopped. _prose goes to _fence_line where a line
    begins with ``` and to _head at a bracket; _head to _hold once it reads like an action, else to _pass: other JSON.
    """
    def __init__(self, names=None):
        self.known = _DOTTED.fullmatch if names is None else frozenset(names).__contains__
        self.out, self.words = [], []  # the pieces to answer, and the prose after them
        self.mode, self.blank = self._prose, True  # blank: only blanks so far in this line
        self.held, self.size, self.head, self.array = [], 0, "", False  # array: we are in one that may hold actions
        self.depth, self.deepest, self.quoted, self.escaped, self.last = 0, 0, False, False, ""
        self.fence, self.example = "", False  # the marks that opened the fence we are in
        self.opener, self.played = "", False  # its first line, withheld while there are only actions in it

    def feed(self, chunk: str) -> list:
        "The pieces that `chunk` completes."
        at = 0
        while at < len(chunk):
            start, at = at, self.mode(chunk, at)
            line = chunk.rfind("\n", start, at) + 1
            self.blank = (self.blank or line > 0) and not chunk[line or start:at].strip()
        self._put()
        pieces, self.out = self.out, []
        return pieces

    def close(self) -> list:
        "The last pieces: the stream has ended."
        if self.mode == self._fence_line: self._end_line("\n")
        elif self.mode == self._hold: self._judge()
        self._say(self._unhold())
        self.words.append("" if self.played else self.opener)
        self.opener, self.mode = "", self._prose
        return self.feed("")
    def _put(self, *pieces):
        if text := "".join(self.words): self.out.append(Prose(text))
        self.words = []
        self.out += pieces
    def _say(self, text):
        "Adds prose; blanks after a withheld fence line are withheld with it."
        if self.opener and not text.strip() and len(self.opener + text) < 1000: self.opener += text
        else:
            self.words += [self.opener, text]
            self.opener = ""
    def _keep(self, text):
        self.held.append(text)
        self.size += len(text)
    def _unhold(self):
        text = "".join(self.held)
        self.held, self.size = [], 0
        return text
    def _prose(self, text, i):
        c = text[i]
        if c in "`~" and self.blank:
            self.mode = self._fence_line
            return i
        if c in "{[" and not self.example:
            self._keep(c)
            self.array, self.head, self.mode = c == "[", "" if c == "[" else c, self._head
            return i + 1
        end = (_EXAMPLE if self.example else _PLAIN).match(text, i + 1).end()
        self._say(text[i:end])
        return end
    def _head(self, text, i):
        "Holds an opening bracket, or what follows an action in an array, until it is clear whether an action begins."
        c = text[i]
        if c == "]" and not self.head and self.held[:1] != ["["]:  # an array of actions goes with its brackets
            self._unhold()
            self.mode = self._prose
            return i + 1
        if not c.isspace() and c not in (_QUOTES if self.head else ","): self.head += c
        fits = self.size < HELD_MAX and any(h.startswith(self.head) for h in _HEADS)
        if fits: self._keep(c)
        if not fits or self.head in _HEADS:
            self.depth, self.deepest, self.last = self.array + ("{" in self.held), 0, ":"
            self.quoted, self.escaped = self.held.count('"') % 2 == 1, False
            self.mode = self._hold if fits else self._pass
        if not fits: self._say(self._unhold())
        return i + fits
    def _token(self, text, i, between, end):
        "Reads one token of JSON and answers where it stops: `i` where there is none; `between` is a pattern."
        c = text[i]
        if self.escaped: self.escaped = False
        elif c == '"': self.quoted = not self.quoted
        elif c == "\\" and self.quoted: self.escaped = True
        elif self.quoted: return _STRING.match(text, i, end).end()
        elif c in "{[": self.depth += 1
        elif c in "}]": self.depth -= 1
        else: return between.match(text, i, end).end()
        self.deepest = max(self.deepest, self.depth)
        return i + 1
    def _pass(self, text, i):
        "Other JSON is prose to its end, so that nothing inside it is played; what is not JSON after all ends it too."
        end = i
        while end < len(text) and self.mode == self._pass:
            start, end = end, self._token(text, end, _OTHER, len(text))
            if end == start or self.depth <= 0: self.mode = self._prose
        self._say(text[i:end])
        return end
    def _hold(self, text, i):
        "Holds what reads like an action until its braces balance, or until something else begins."
        stray = self.blank and _WORDS.match(text, i) or text[i] == "{" and self.last not in ":,["
        end = i if stray and not self.quoted else self._token(text, i, _LOOSE, i + HELD_MAX + 1 - self.size)
        self._keep(text[i:end])
        self.last = text[i:end].rstrip()[-1:] or self.last
        if end == i or self.depth <= self.array: self._judge()
        elif self.size > HELD_MAX:
            self._say(self._unhold())
            self.mode = self._pass
        return end
    def _judge(self):
        "Plays what is held, says what is broken in it, or gives it back as prose."
        text = self._unhold()
        if piece := self._weigh(text[text.index("{"):]):
            self._put(piece)
            self.played, self.head, self.mode = True, "", self._head if self.array else self._prose
        else:
            self._say(text)
            self.mode = self._pass if self.array else self._prose
    def _weigh(self, text):
        "The Play or Broken that `text` is, or None."
        try:
            if self.deepest > DEEP_MAX: raise ValueError("it nests too deep")
            value = load_strictly(text)
        except ValueError as e:
            named = _NAMED.match(text)
            return Broken(text, f"it is not valid JSON: {e}") if named and self.known(named[1]) else None
        name, args = value.get("action"), value.get("args")
        exact = len(value) == 2 and isinstance(name, str) and isinstance(args, dict)
        return Play(name, args) if exact and self.known(name) else None
    def _fence_line(self, text, i):
        "Collects a line that may open or close a fence."
        line = "".join(self.held) + text[i]
        if len(line) <= FENCE_MAX and _FENCE_PART.fullmatch(line):
            self._keep(text[i])
            return i + 1
        self._end_line(text[i])
        return i
    def _end_line(self, after):
        "Opens or closes a fence, or neither; a fence with nothing but actions in it goes with its marks."
        line, self.mode = self._unhold(), self._prose
        marks, word = found.groups() if (found := _FENCE.fullmatch(line)) else ("", "")
        example = word.lower() == "example" and after in "\n{"
        if marks and not word and self.fence and marks.startswith(self.fence):
            if not self.opener or not self.played: self._say(line)
            self.fence, self.example, self.opener = "", False, ""
        elif marks and not self.example and (example or after == "\n"):
            self.words.append(self.opener)
            self.fence, self.example, self.opener, self.played = marks, example, line, False
        else: self._say(line)


class Piano:
    "What the model is offered, by the app that is open"
    def __init__(self, keyboard: Keyboard): self.keyboard = keyboard

    def offered(self, app: str) -> list[Action]:
        "The actions for the model: the open app's first, then the general ones; never what is the person's"
        keys = [k for k in self.keyboard.actions.values() if k.danger != "person" and k.heard]
        return sorted(keys, key=lambda k: (k.app != app, k.app not in ("app", "pianola"), len(k.name)))

    def describe(self, app: App, way: str) -> str:
        "An open app in the model's words: title, lead, its own prompt, and unless guided its actions, shortest first"
        text = f"The person has opened the app {app.title}: {inspect.getdoc(app) or ''} {app.prompt}".strip()
        if more := app.for_model(View(app.name)): text += "\n" + more
        if way == "guided": return text
        keys = [k for k in self.offered(app.name) if k.app in (app.name, "app", "pianola")]
        return text + "\nActions:\n" + "\n".join(f"{k.name}({signature(k)}): {k.doc}" for k in keys)

# ----------------------------------------------------------------------------------------------------------------------
#   ___ _  _   _ _____                                                                                            figlet
#  / __| || | /_\_   _|
# | (__| __ |/ _ \| |
#  \___|_||_/_/ \_\_|
# 09 CHAT: tabs, turns and streams

POKED = "(The person pokes you. Say one short, useful or kind thing about what you last heard.)"
BACKLOG = 5_000  # parts a tab may fall behind before it is sent the whole page again


class Line:
    "One socket: what is on its way to it"
    def __init__(self):
        self._parts: list = []      # html, or (target, [texts]) to be joined
        self._wake, self._lost = asyncio.Event(), False

    def put(self, part) -> None:
        "Queue html, or (target, [text]): words for the same element share a swap"
        last = self._parts[-1] if self._parts else None
        if isinstance(part, tuple) and isinstance(last, tuple) and last[0] == part[0]: last[1].extend(part[1])
        else: self._parts.append(part)
        self._lost = self._lost or len(self._parts) > BACKLOG
        self._wake.set()

    async def pump(self, socket: WebSocket) -> None:
        "Send what comes: at once after a pause, words joined when they come close; one too far behind starts anew"
        last = 0.0
        while not self._lost:
            await self._wake.wait()
            await asyncio.sleep(max(0.0, last + FRAME_GAP - time.monotonic()))
            self._wake.clear()
            parts, self._parts = self._parts, []
            last = time.monotonic()
            # NOTE: one message a part: htmx finds all targets of a message before it swaps any of them
            for p in parts: await socket.send_text(p if isinstance(p, str) else _words(*p))
        await socket.close(1012)  # the page comes back, and is sent everything


class Tab:
    "One open page: what it shows, and its sockets (two for a moment when it reconnects)"
    def __init__(self, id: str, app: str = ""):
        self.id, self.view, self.lines, self.streams = id, View(app, tab=id), set(), 0

    @property
    def live(self) -> bool: return bool(self.lines)  # whether anybody listens

    def send(self, *parts) -> None:
        "Queue out-of-band tags"
        if self.lines:
            for part in parts: self.put(html(part))

    def put(self, part) -> None:
        "Queue html or words on every socket"
        for line in self.lines: line.put((part[0], [*part[1]]) if isinstance(part, tuple) else part)

def _words(target: str, texts: list[str]) -> str:
    return f'<span hx-swap-oob="beforeend:#{target}">{Safe("".join(texts))}</span>'


class Tabs:
    "All open pages"
    def __init__(self): self.open: dict[str, Tab] = {}

    def get(self, id: str, app: str = "") -> Tab:
        "The tab called `id`, made if new"
        if len(self.open) > 500: self.open = {i: t for i, t in self.open.items() if t.live}
        tab = self.open.setdefault(id, Tab(id, app))
        tab.view.app = tab.view.app or app
        return tab

    def send(self, *parts) -> None:
        "The same tags to every tab"
        texts = [html(part) for part in parts]
        for tab in self.open.values():
            for text in texts: tab.put(text)

    def write(self, target: str, text: str) -> None:
        "The same words to every tab"
        for tab in self.open.values(): tab.put((target, [text]))


class Blocks:
    "Cuts growing markdown where a block is complete: fed with text, gives the blocks that closed"
    LIST = re.compile(r"\s*([-*+]|\d+[.)])\s|\s{2,}\S|\t")
    FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
    def __init__(self):
        self.tail, self._scanned, self._fence, self._blank = "", 0, "", False

    def feed(self, text: str) -> list[str]:
        "Append `text`; returns the blocks it closed, leaving the rest in `tail`"
        self.tail += text
        closed = []
        while (end := self.tail.find("\n", self._scanned)) >= 0:
            start, self._scanned = self._scanned, end + 1
            cut = self._line(self.tail[start:end], start, end + 1)
            if cut and self.tail[:cut].strip():
                closed.append(self.tail[:cut])
                self.tail, self._scanned, self._blank = self.tail[cut:], self._scanned - cut, False
        return closed
    def _line(self, line: str, start: int, end: int) -> int:
        fence = self.FENCE.match(line)
        if self._fence:
            if not fence or not line.strip().startswith(self._fence) or line.strip().strip(self._fence[0]): return 0
            self._fence = ""
            return end
        if fence: self._fence = fence[1]
        elif not line.strip():
            self._blank = True
            return 0 if self.LIST.match(self.tail) else end
        cut = start if self._blank and not self.LIST.match(line) else 0
        self._blank = False
        return cut


class Reply:
    "One reply as it grows: its words in every tab, in the database each second, and for whoever listens"
    def __init__(self, chat: "Chat", turn: "Turn", id: int):
        self.chat, self.turn, self.id = chat, turn, id
        self.said, self.raw, self.blocks, self.closed = [], [], Blocks(), []
        self.calls: list[dict] = []
        self.broken: list[tuple[str, str]] = []     # what was meant as an action and was none, and why
        self.error: tuple = ()                      # cause and fix, of a reply that failed
        self._saved = 0
        self.usage: "Usage | None" = None

    def write(self, text: str) -> None:
        "Words for the person"
        if not text: return
        tabs, mid = self.chat.tabs, f"m{self.id}"
        self.turn.tell({"delta": text})
        if not self.said: tabs.send(Div(id=f"{mid}-tail", cls="tail", hx_swap_oob="innerHTML"))
        self.said.append(text)
        closed = self.blocks.feed(text)
        if not closed: return tabs.write(f"{mid}-tail", text)
        self.closed += [markdown(block) for block in closed]
        tabs.send(Into(f"#{mid}-done", *self.closed[-len(closed):]),
                  Div(self.blocks.tail, id=f"{mid}-tail", cls="tail", hx_swap_oob="innerHTML"))

    def meant(self, text: str) -> None:
        "What the model said literally, actions included, which is what it will see of itself"
        self.raw.append(text)

    @property
    def content(self) -> str: return "".join(self.raw or self.said)  # what is stored

    async def save(self, **values) -> None:
        "Store what was said so far, if there is anything new, or with a final `state`"
        size = sum(map(len, self.raw or self.said))
        if not values and size == self._saved: return
        self._saved = size
        meta = {"model": self.turn.model or self.chat.models.current, "way": self.turn.way}
        if self.raw: meta["shown"] = "".join(self.said)
        meta |= {k: v for k, v in (("calls", self.calls), ("broken", self.broken), ("error", self.error)) if v}
        if self.usage: meta |= dataclasses.asdict(self.usage)
        record = functools.partial(self.chat.conversation.set, self.id, content=self.content, meta=meta, **values)
        await self.chat.db.write(record)

    def article(self, row: dict, keys: Iterable = ()):
        "The message as a page that opens now must show it"
        part = Message(row | {"shown": ""}, keys)
        if self.said:
            mid = f"m{self.id}"
            part.children[0].children = (Div(*self.closed, id=f"{mid}-done", cls="md"),
                                         Div(self.blocks.tail, id=f"{mid}-tail", cls="tail"))
        return part


@dataclass
class Turn:
    "One answer asked of the model: the person's line (or a poke), the tab it came from, who else listens"
    message: int
    text: str = ""
    tab: str = ""
    kind: str = "line"            # line | poke | ask
    model: str = ""               # another model for this turn only
    listeners: list[asyncio.Queue] = field(default_factory=list)
    way: str = ""
    played: list[dict] = field(default_factory=list)
    repaired: bool = False
    usage: Usage | None = None

    def tell(self, item: dict) -> None:
        "Tell whoever listens to this turn"
        for queue in self.listeners: queue.put_nowait(item)


class Chat:
    "The right column: takes lines, answers them one at a time, the person's before what apps ask for"
    def __init__(self, db: Database, conversation: Conversation, keyboard: Keyboard, models: "Models",
                 prompt: SystemPrompt):
        self.db, self.conversation, self.keyboard, self.models, self.prompt = db, conversation, keyboard, models, prompt
        self.tabs, self.piano = Tabs(), Piano(keyboard)
        self.ways: dict[str, Callable[[Turn, Playing], Awaitable]] = {"json": self._talk}  # plugins put theirs
        self.apps: dict[str, App] = {}
        self.by_hand: Callable | None = None    # the plugin that plays lines like `/action …` puts itself here
        self.reply: Reply | None = None
        self.last_context: Context | None = None
        self.last_usage: "Usage | None" = None
        self._turns: tuple[deque, deque] = deque(), deque()
        self._wake, self._task, self._worker = asyncio.Event(), None, None

    def start(self) -> None: self._worker = asyncio.create_task(self._work())  # begin answering

    async def stop(self) -> None:
        "Stop answering: the reply that runs is stopped and kept"
        for task in (self._worker, self._task):
            if not task: continue
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError): await task

    @staticmethod
    def clean(text: str) -> str:
        "A line as it can be stored: no NUL, no half characters, not endless"
        return text[:TEXT_LIMIT].encode("utf-8", "replace").decode().replace("\0", "").strip()

    async def hear(self, text: str, tab: str = "", listener: asyncio.Queue | None = None) -> Turn | None:
        "A line of the person: saved first, then answered; what begins with / may be played by hand"
        text = self.clean(text)
        if not text: return None
        if text.startswith("/") and self.by_hand: return await self.by_hand(text, tab, listener)
        id = await self.db.write(self._append, text, "chat", tab)
        self.tabs.send(Into("#msg-list", Message(self.conversation.get(id))))
        return self._enqueue(Turn(id, text, tab, listeners=[listener] if listener else []))

    async def ask(self, text: str, tab: str = "", kind: str = "ask") -> Turn:
        "Ask the model to say something (`text` is not shown); answered after the person's own lines"
        id = await self.db.write(self._append, text, "prompt", tab)
        return self._enqueue(Turn(id, text, tab, kind))

    def remark(self, text: str, tab: str = "") -> None:
        "Let the model say something, unless it is busy or another such wish waits"
        if self.reply or any(self._turns) or not self.models.current: return
        asyncio.create_task(self.ask(f"({text} Say one short sentence about it.)", tab))

    async def broadcast(self, text: str) -> int:
        "Say something as the assistant, as it is, without the model"
        id = await self.db.write(self.conversation.add, "assistant", text)
        self.tabs.send(Into("#msg-list", Message(self.conversation.get(id))))
        return id

    async def whisper(self, text: str) -> None:
        "Tell the model something the person does not see"
        await self.db.write(self.conversation.add, "user", text, "prompt")

    def again(self, message: int, model: str = "", tab: str = "") -> Turn:
        "Answer a line once more, after it failed or had to wait for permission"
        row = self.conversation.get(message)
        if not row: raise ConflictError("That line is no longer there.", "Say it again.")
        return self._enqueue(Turn(message, row["content"], tab, "line" if row["kind"] == "chat" else "ask", model))
    def _enqueue(self, turn: Turn) -> Turn:
        self._turns[turn.kind != "line"].append(turn)
        self._wake.set()
        return turn

    def stop_reply(self) -> bool:
        "Stop the reply that runs, if any"
        running = bool(self._task and not self._task.done())
        if running: self._task.cancel()
        return running
    async def _work(self) -> None:
        while True:
            turn = next((queue.popleft() for queue in self._turns if queue), None)
            if turn is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._task = asyncio.create_task(self._answer(turn))
            await asyncio.wait([self._task])  # NOTE: our own cancelling must come through, or `stop` waits for ever
    async def _answer(self, turn: Turn) -> None:
        "One turn, to its end: done, stopped or failed, never an exception"
        state, ticker = "done", asyncio.create_task(self._keep_saving())
        try:
            async with self.models.using(turn.model) as model:
                turn.way = self.way_of(model.way)
                if not model.local and not await self._consented(turn): return
                await self.ways[turn.way](turn, model)
        except asyncio.CancelledError: state = "stopped"
        except PianolaError as error: state = await self._fail(turn, error)
        except Exception as error:  # one socket's reply: whatever goes wrong in it ends only this reply
            logger.opt(exception=error).error("The reply failed")
            failure = PianolaError(f"The reply failed: {type(error).__name__}.", "The log has the traceback.")
            state = await self._fail(turn, failure)
        finally: ticker.cancel()
        if self.reply: await self.end_reply(state)
        usage = turn.usage or Usage()
        turn.tell({"done": {"state": state, "model": turn.model or self.models.current, "tokens_in": usage.tokens_in,
                            "tokens_cached": usage.tokens_cached, "tokens_out": usage.tokens_out}})
        self.tabs.send(*self.status_parts())

    def way_of(self, wanted: str) -> str:
        "The way a model plays: the one wanted if a plugin has it, else JSON in its words"
        return wanted if wanted in self.ways else "json"
    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self.reply: await self.reply.save()
    async def _consented(self, turn: Turn) -> bool:
        "A model on another machine: asked once in a conversation, before anything is sent"
        name = turn.model or self.models.current
        if chosen.get("consent") == name: return True
        call = Call(turn.tab, turn.message, turn.message)
        outcome = await self.keyboard.perform("model", "model.use", {"model": name}, call)
        turn.tell({"action": {"name": "model.use", "args": {"model": name}, "approval": outcome.approval}})
        turn.tell({"done": {"state": "waiting", "model": name, "tokens_in": 0, "tokens_cached": 0, "tokens_out": 0}})
        return False

    async def begin_reply(self, turn: Turn) -> Reply:
        "A new message of the assistant, to be written"
        meta = {"model": turn.model or self.models.current}
        id = await self.db.write(lambda: self.conversation.add("assistant", "", state="running", meta=meta))
        self.reply = Reply(self, turn, id)
        self.tabs.send(Into("#msg-list", Message(self.conversation.get(id))), *self.status_parts())
        return self.reply

    async def end_reply(self, state: str = "done") -> None:
        "The message is whole: stored, and shown with its keys; one without words or keys goes"
        reply, self.reply = self.reply, None
        await reply.save(state=state)
        row = self.conversation.get(reply.id)
        if not row: return
        empty = not row["content"] and not reply.calls and state == "done"
        part = self.article(row)
        self.tabs.send(Gone(f"#m{reply.id}") if empty else swap(part, "outerMorph"))
        if here().settings.verbose:
            show_table("reply", [{"model": self.models.current, "state": state, "text": row["content"]}], "green")
    async def _fail(self, turn: Turn, error: PianolaError) -> str:
        reply = self.reply or await self.begin_reply(turn)
        reply.error = (error.cause, error.fix, turn.message if isinstance(error, ModelError) else 0)
        turn.tell({"delta": ("\n\n" if reply.said else "") + str(error)})
        return "failed"

    async def context(self, turn: Turn, model: "Playing", told: Callable | None = None) -> Context:
        "What a request of this turn sends; `told` as in `Conversation.context`"
        layers = self.prompt.layers(turn.way, chosen["manners"], chosen["expert"])
        events = model.local or chosen["remote_events"]
        self.last_context = await self.conversation.context(layers, model.budget, events, told)
        return self.last_context
    def _introduction(self, tab: str) -> list[tuple]:
        "The open app's own words and what is known of the person, unless they stand in the conversation already"
        app = self.apps.get(self.tabs.get(tab).view.app if tab else "")
        if not app: return []
        text = self.piano.describe(app, self.way_of(self.models.way))
        facts = "; ".join(f"{k}: {shorten(store[k])}" for k in itertools.islice(store, 20))
        if facts: text += f"\nWhat the person has told you: {facts}."
        sql = "select content from message where kind='prompt' and app is not null and id >= ? order by id desc"
        last = self.db.one(sql, int(chosen.get("context_start", 0)))
        return [] if last and last["content"] == text else [(text, app.name)]
    def _append(self, text: str, kind: str, tab: str) -> int:
        for words, app in self._introduction(tab): self.conversation.add("user", words, "prompt", app=app)
        return self.conversation.add("user", text, kind)

    async def took(self, reply: Reply, chunk: "Chunk") -> None:
        "Note what a chunk cost, and show what the model thinks"
        if chunk.usage: self.last_usage = reply.usage = reply.turn.usage = chunk.usage
        if chunk.thinking and not reply.said:
            self.tabs.send(Div(Thinking(f"Thinking… {shorten(chunk.thinking.strip()[-80:], 80)}"),
                               id=f"m{reply.id}-tail", hx_swap_oob="innerHTML"))
    async def _talk(self, turn: Turn, model: "Playing") -> None:
        "Words only: what a model does as long as no plugin lets it play"
        reply, context = await self.begin_reply(turn), await self.context(turn, model)
        async with contextlib.aclosing(model.stream(context.messages, options=model.talk)) as chunks:
            async for chunk in chunks:
                reply.write(chunk.text)
                await self.took(reply, chunk)

    async def play(self, turn: Turn, reply: Reply, name: str, args: dict, outside: bool) -> None:
        "One action by the model; what came of it goes to the page, to whoever listens, and into the conversation"
        if len(turn.played) >= PLAYS_A_TURN: return
        said: dict = {"name": name, "args": args}
        call = Call(turn.tab, turn.message, reply.id, outside=outside)
        try:
            outcome = await self.keyboard.perform("model", name, args, call)
            said["args"] = outcome.args
            if outcome.approval: said["approval"] = outcome.approval
            else: said |= {"ok": True, "journal": outcome.journal, "result": outcome.result}
            if not outcome.journal: await self._heard(outcome.action, outcome.args, outcome)
        except PianolaError as error:
            said |= {"ok": False, "error": str(error)}
            if not error.extra.get("journal"):
                reply.broken.append((f"{name} {to_json(args)}", str(error)))
                self.tabs.send(Into(f"#m{reply.id}-keys", BrokenKey(*reply.broken[-1])))
                await self._heard(name, args, error)
        turn.played.append(said)
        turn.tell({"action": said})
        if here().settings.verbose: show_table("played", [said], "cyan")
    async def _heard(self, name: str, args: dict, came: Outcome | PianolaError) -> None:
        "The result of what left no journal row: a read, a question to the person, a refusal"
        if isinstance(came, PianolaError): ok, more = False, {"error": shorten(came, 400)}
        elif came.approval: ok, more = False, {"waiting": "for the person's permission; not done yet"}
        else: ok, more = True, {"result": brief_result(came.result)}
        line = event_line(name, args, "model", ok, **more)
        await self.db.write(lambda: self.conversation.add("user", line, "event", actor="model"))

    def article(self, row: dict):
        "A message as it stands, with its keys and questions"
        rows = self.db.q(f"{JOURNAL} where message=? order by id", row["id"])
        asked = self.db.q("select * from approval where message=? and journal is null order by id", row["id"])
        meta = json.loads(row["meta"])
        keys = [PlayKey(r) for r in rows if r["action"] != "approval.allow"] + [ApprovalCard(r) for r in asked]
        keys += [BrokenKey(*b) for b in meta.get("broken", ())]
        other = bool(self.models.spare) and self.models.current_provider != "embedded"
        if meta.get("error"): keys.append(Failure(*meta["error"], embedded=other))
        if self.reply and self.reply.id == row["id"]: return self.reply.article(row, keys)
        shown = meta.get("shown")
        return Message(row | ({"shown": shown} if shown is not None else {}), keys)

    def messages(self, before: int | None = None, search: str = "") -> tuple[list, int | None]:
        "A page of the chat as tags, oldest first, and where the page before it begins"
        rows = self.conversation.page(before, search=search)
        parts = []
        for (kind, actor), group in itertools.groupby(rows, lambda r: (r["kind"], r["actor"])):
            group = list(group)
            if kind == "chat": parts += [self.article(r) for r in group]
            elif actor != "model": parts.append(EventsFold(group))
        return parts, rows[0]["id"] if len(rows) == MESSAGES_SHOWN else None

    def fold(self, event: Event) -> None:
        "Show an action of somebody else than the model as a folded line: in the last fold, or a new one"
        if not any(tab.live for tab in self.tabs.open.values()): return
        rows = self.conversation.page(limit=50)
        last = rows[-1] if rows else {"kind": "", "actor": "model"}
        if last["kind"] != "event" or last["actor"] == "model": return
        group = list(itertools.takewhile(lambda r: (r["kind"], r["actor"]) == ("event", last["actor"]), reversed(rows)))
        fold = EventsFold(group[::-1])
        self.tabs.send(Into("#msg-list", fold) if len(group) == 1 else swap(fold, "outerMorph"))

    def status_parts(self) -> list:
        "The status line, and whether Stop is to be seen"
        stop = ActionButton("■", "chat.stop", title="Stop the reply")
        stop.attrs |= {"id": "stop", "hidden": self.reply is None}
        return [swap(self.status()), swap(stop, "outerHTML")]

    def status(self):
        "The line at the foot of the page: model, speed, context used, poke"
        usage, context = self.last_usage, self.last_context
        speed = f"{usage.rate:.0f} tokens/s" if usage and usage.rate else ""
        poke = ActionButton("Poke", "chat.poke", cls="quiet", title="Let the assistant say something")
        poke.attrs["id"] = "poke"
        room = chosen["context"]
        used = context.tokens if context else 0
        title = "What the model was last sent"
        sent = A(f"context {used:,} of {room:,}", href="/context", target="_blank", title=title)
        return Footer(Span(self.models.current or "no model", cls="model"), Span(speed),
                      Span(self.models.note, cls="muted"), self.models.fetching(), Span(cls="spacer"), sent,
                      Progress(value=str(used), max=str(room), aria_label="Context used"), poke, id="status")

def brief_result(result):
    "A read's result in few words: rows as their names, done ones marked"
    if not isinstance(result, dict) or "rows" not in result: return _brief(result)
    rows = [f"{r.get('name', r)}{' (done)' if r.get('done') else ''}" for r in result["rows"][:40]]
    return {"total": result.get("total", len(rows)), "rows": rows}
def chatq(text: str, tab: str = "") -> None:
    "Ask the model to say something, from any code and any thread; it queues behind the person's own lines"
    asyncio.run_coroutine_threadsafe(here().chat.ask(text, tab), here().loop)


class ChatApp(App):
    "The actions of the right column"
    name = "chat"

    @action("chat.poke", undo=False, heard=False)
    async def poke(self):
        "Let the assistant say something about what it last heard"
        await here().chat.ask(POKED, calling.get().tab, "poke")

    @action("chat.stop", undo=False, heard=False)
    async def stop_reply(self):
        "Stop the reply that is running"
        return {"stopped": here().chat.stop_reply()}

    @action("chat.clear", danger="person", heard=False)
    def clear(self):
        "Clear the chat; Undo brings it back"
        if "consent" in chosen: del chosen["consent"]
        return {"messages": here().conversation.clear()}

# ----------------------------------------------------------------------------------------------------------------------
#     _  ___  ___ ___                                                                                             figlet
#  _ | |/ _ \| _ ) __|
# | || | (_) | _ \__ \
#  \__/ \___/|___/___/
# 10 JOBS: long work in a process of its own

STEP_SHOWS_AFTER = 1.0    # seconds after which a step shows as a job
CANCEL_GRACE = 0.1        # seconds a cancelled step has to end by itself
EVENTS_KEPT = 5_000       # progress events a dropped connection can catch up with
WORK: dict[str, Callable] = {}  # a plugin's: "hire" starts a process for a file, "work" is what is done in it
GIVEN: dict[str, Callable[[Any, dict], Any]] = {}            # what a step may ask for by name, from pipe and order
ASKED: dict[str, Callable[["Job", dict], Awaitable]] = {}       # and the server's half of it: what workers may ask for


def work(conn, helpers: list[str]) -> None:
    "A worker process: imports what `helpers` add, then does what comes by the pipe until the server is gone"
    with contextlib.suppress(AttributeError, OSError):  # Windows has neither
        os.setsid()
        os.nice(10)                                     # the chat and the model go first
    for file in helpers: import_plugin(Path(file))
    WORK["work"](conn)


@dataclass
class Job:
    "One step at work. `done` and `total` are the step's own units; `rate` is units a second, 0 until it is known"
    id: int
    app: str
    run: int
    step: str
    title: str
    args: dict
    state: str = "queued"           # queued | running | done | failed | cancelled | interrupted
    done: float = 0.0
    total: float = 0.0
    note: str = ""
    log: deque = field(default_factory=lambda: deque(maxlen=200))
    shown: list = field(default_factory=list)
    checkpoint: Any = None
    error: str = ""
    trace: str = ""
    seen: deque = field(default_factory=lambda: deque(maxlen=40))  # (moment, done): the window the rate is taken from
    began: float = 0.0
    told: int = 0                   # quarters the assistant has spoken of
    worker: Any = None
    future: asyncio.Future | None = None
    dirty: bool = True
    visible: bool = False           # at work so long that it shows as a job

    @property
    def rate(self) -> float:
        "Units a second over the last 10 seconds, 0 while too little was seen"
        recent = [s for s in self.seen if s[0] > self.seen[-1][0] - 10]
        if len(recent) < 3 or recent[-1][0] - recent[0][0] < 0.5: return 0.0
        return max(recent[-1][1] - recent[0][1], 0) / (recent[-1][0] - recent[0][0])

    def as_json(self) -> dict:
        "As scripts see it"
        left = (self.total - self.done) / self.rate if self.total and self.rate else None
        return {"id": self.id, "app": self.app, "step": self.step, "state": self.state, "done": self.done,
                "total": self.total, "note": self.note, "rate": round(self.rate, 2),
                "left": left and round(left, 1), "error": self.error}


def version_of(file: Path) -> tuple:
    "What changes when a file is saved"
    try: stat = file.stat()
    except OSError: return ()
    return stat.st_mtime_ns, stat.st_size


class Jobs:
    "All workers and what they do: a few at a time for each app, the others wait their turn"
    def __init__(self, db: Database):
        self.db, self.live, self.idle = db, {}, {}          # jobs by id; idle workers by app
        self.helpers: list[str] = []                        # plugins every worker imports
        self.ring: deque = deque(maxlen=EVENTS_KEPT)        # (number, job, what) of all jobs
        self.changed: Callable[[Job], None] = lambda job: None      # a job began or ended
        self.remark: Callable[[Job, str], None] = lambda job, text: None
        self._numbers, self._wakes, self._rooms, self._task = itertools.count(1), set(), {}, None
        self.closing = False

    def interrupt(self) -> None:
        "At start, in the writer: what the last server did not finish is interrupted"
        self.db.do("update job set state='interrupted', ended=? where state in ('queued', 'running')", now())

    def start(self) -> None:
        "Begin to save progress, twice a second"
        self._task = asyncio.create_task(self._keep_saving())

    async def run(self, job: Job, limit: int, order: dict, file: Path) -> dict:
        "Do a step in a worker and wait for its record; raises PianolaError, with the traceback in `extra`"
        if not WORK: raise PianolaError("No plugin here runs steps.", "Put it back into the folder of plugins.")
        self.live[job.id] = job
        job.future = asyncio.get_running_loop().create_future()
        row = {n: getattr(job, n) for n in ("id", "app", "step", "title", "state")}
        await self.db.write(lambda: self.db.insert("job", **row, run_id=job.run, args=to_json(job.args), started=now()))
        asyncio.get_running_loop().call_later(STEP_SHOWS_AFTER, self._show, job)
        try:
            async with self._rooms.setdefault(job.app, asyncio.Semaphore(limit)):
                if not job.future.done(): await self._send(job, order, file)
                result = await job.future
                job.state = "done"
                return result
        except (PianolaError, asyncio.CancelledError) as error:
            failed = isinstance(error, PianolaError) and job.state != "cancelled"
            job.state = "interrupted" if self.closing else "failed" if failed else "cancelled"
            job.error = job.error or str(error)
            raise
        finally: await asyncio.shield(self._finish(job))
    async def _send(self, job: Job, order: dict, file: Path) -> None:
        worker = await asyncio.to_thread(self._hire, job.app, file)
        job.worker, worker.job, job.state, job.began = worker, job, "running", time.monotonic()
        worker.send(**order)
        self.tell(job)
    def _hire(self, app: str, file: Path):
        workers = self.idle.setdefault(app, [])
        while workers:
            worker = workers.pop()
            if worker.version == version_of(file) and worker.process.is_alive(): return worker
            worker.kill()
        return WORK["hire"](file, self.helpers, self._hear)

    def warm(self, app: str, file: Path) -> None:
        "Have a worker ready for an app that is looked at"
        if not WORK or self.idle.get(app) or self.closing or any(j.app == app for j in self.live.values()): return
        self.idle[app] = []
        worker = self._hire(app, file)
        worker.send(warm=True, file=str(file))
        self.idle.setdefault(app, []).append(worker)

    def retire(self, app: str) -> None:
        "The app's file has changed: idle workers go, those at work finish what they do"
        for worker in self.idle.pop(app, ()): worker.kill()
    def _hear(self, worker, message: dict) -> None:
        job = worker.job
        if not job or job.future.done(): return
        if "progress" in message: self._progress(job, *message["progress"])
        elif "log" in message: job.log.append(message["log"])
        elif "show" in message: job.shown.append(message["show"])
        elif "checkpoint" in message:
            job.checkpoint, job.dirty = message["checkpoint"], True
        elif "ask" in message: asyncio.create_task(self._answer(worker, job, message))
        elif "result" in message: job.future.set_result(message["result"])
        elif "error" in message:
            job.trace = message["trace"]
            self._fail(job, message["error"])
        elif "gone" in message:
            worker.process.join(0.2)
            self._fail(job, f"The step's process ended (exit code {worker.process.exitcode}).")
        if "result" in message: message = {"preview": message["result"]["preview"]}  # the ring keeps no pictures
        if not message.keys() & {"ask", "checkpoint"}: self.tell(job, message)
    def _fail(self, job: Job, cause: str) -> None:
        job.error = cause
        job.future.set_exception(PianolaError(cause, trace=job.trace))
    def _progress(self, job: Job, done: float, total: float, note: str) -> None:
        job.done, job.total, job.note, job.dirty = done, total, note, True
        job.seen.append((time.monotonic(), done))
        quarter = int(4 * done / total) if total > 0 else 0
        if quarter > job.told and time.monotonic() - job.began > STEP_SHOWS_AFTER:
            job.told = quarter
            if quarter < 4: self.remark(job, f"The job “{job.title}” is {25 * quarter} % done.")
    async def _answer(self, worker, job: Job, message: dict) -> None:
        try:
            if message["what"] not in ASKED: raise PianolaError(f"Nobody here answers {message['what']!r}.")
            worker.send(answer=message["ask"], value=await ASKED[message["what"]](job, message["args"]))
        except Exception as error:  # a step that asks must be answered, whatever goes wrong
            worker.send(answer=message["ask"], error=str(error) or type(error).__name__)

    def tell(self, job: Job, what: dict | None = None) -> None:
        "Put an event into the ring and wake who listens"
        self.ring.append((next(self._numbers), job, what or {}))
        for wake in self._wakes: wake.set()

    async def cancel(self, id: int) -> None:
        "Ask a step to end, then end it"
        job = self.live.get(id)
        if not job: raise ConflictError(f"Job {id} is not running.")
        job.state = "cancelled"
        if job.worker: job.worker.send(cancel=True)
        await asyncio.wait([job.future], timeout=CANCEL_GRACE if job.worker else 0)
        if job.future.done(): return
        job.error = "cancelled"
        job.future.set_exception(PianolaError("The job was cancelled.", "Resume goes on, Run begins anew."))
        if job.worker: job.worker.kill()
    async def _finish(self, job: Job) -> None:
        worker, self.live = job.worker, {i: j for i, j in self.live.items() if i != job.id}
        if worker: worker.job = None
        if not worker or job.state in ("cancelled", "interrupted") or not worker.process.is_alive():
            if worker: worker.kill()
        elif self.idle.setdefault(job.app, []): worker.kill()  # one kept warm is enough
        else: self.idle[job.app].append(worker)
        await self._save([job], now())
        self.tell(job)
        self.changed(job)
    def _show(self, job: Job) -> None:
        job.visible = not job.future.done()
        if job.visible: self.changed(job)
    async def _keep_saving(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self._save([j for j in self.live.values() if j.dirty])
    async def _save(self, jobs: list[Job], ended: str | None = None) -> None:
        columns = "state=?, done=?, total=?, note=?, log=?, checkpoint=?, error=?, trace=?, ended=?"
        def save():
            for j in jobs:
                log, kept = "\n".join(j.log), to_json(j.checkpoint)
                values = j.state, j.done, j.total, j.note, log, kept, j.error, j.trace, ended
                self.db.do(f"update job set {columns} where id=?", *values, j.id)
        for job in jobs: job.dirty = False
        if jobs: await self.db.write(save)

    async def follow(self, wanted: Callable[[Job], bool], after: int = 0) -> AsyncIterator[list]:
        """Events of the jobs `wanted` accepts, those after number `after` first; ends when none of them is live.

        Yields lists of (number, job, what), oldest first; what is older than the ring is not told again.
        """
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            while not self.closing:
                wake.clear()
                live = any(wanted(job) for job in self.live.values())
                new = list(itertools.takewhile(lambda e: e[0] > after, reversed(self.ring)))
                after = new[0][0] if new else after
                if found := [e for e in reversed(new) if wanted(e[1])]: yield found
                elif not live: return
                else: await wake.wait()
        finally: self._wakes.discard(wake)

    def close(self) -> None:
        "The server stops: what runs is interrupted, and can be resumed"
        self.closing = True
        if self._task: self._task.cancel()
        for wake in self._wakes: wake.set()
        for workers in self.idle.values():
            for worker in workers: worker.kill()
        for job in self.live.values():
            if job.worker: job.worker.kill()

# ----------------------------------------------------------------------------------------------------------------------
#   ___ ___ _   _ ___                                                                                             figlet
#  / __| _ \ | | |   \
# | (__|   / |_| | |) |
#  \___|_|_\\___/|___/
# 11 CRUD: a dataclass is a table, a form and seven actions

def _no_bool(value):
    if isinstance(value, (bool, float)): raise ValueError("an id is a number or a name")
    return value

RowId = Annotated[int | str, pydantic.BeforeValidator(_no_bool)]  # where a row is meant: its id, or its name
COLUMN = {"checkbox": "integer not null default 0", "number": "real", "text": "text not null default ''",
          "long": "text not null default ''", "select": "text not null default ''", "date": "text",
          "lines": "text not null default '[]'"}


class Crud(App):
    """A table as an app: `table` is a dataclass with a `name`; its fields are columns, inputs and arguments.

    `per = "profile"` makes rows belong to the current profile. `selectable` adds `.select`: one row is the current one.
    `samples` are names people might use, from which a small model learns how the actions are asked for.
    """
    table: type
    per, selectable, samples = "", False, ()

    @property
    def one(self) -> str:
        "The table's name, in the singular"
        return self.table.__name__.lower()

    @functools.cached_property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        "Each field's annotation and default (`...` where it is required)"
        hints = typing.get_type_hints(self.table, include_extras=True)
        missing = dataclasses.MISSING
        return {f.name: (hints[f.name], f.default_factory() if f.default_factory is not missing
                         else ... if f.default is missing else f.default) for f in dataclasses.fields(self.table)}

    @property
    def bools(self) -> list[str]:
        "The fields that toggle"
        return [n for n, (kind, _) in self.fields.items() if kind is bool]

    def set_up(self) -> None:
        "It is its own and only table"
        self.tables = (self,)

    def make(self) -> None:
        "Make the table, or add the columns it lacks"
        if self.one in OWN_TABLES:
            raise PianolaError(f"The table {self.one!r} is Pianola's own.", "Call the dataclass something else.")
        here().db.write_now(self._make_table)
    def _make_table(self) -> None:
        db = here().db
        owner = f", {self.per}_id integer not null references {self.per}(id) on delete cascade" if self.per else ""
        columns = f"id integer primary key autoincrement, name text not null, position real not null{owner}"
        db.do(f'create table if not exists "{self.one}"({columns})')
        have = {row["name"] for row in db.q(f'select name from pragma_table_info("{self.one}")')}
        for name, (kind, default) in self.fields.items():
            if name not in have: db.do(f'alter table "{self.one}" add column "{name}" {self._column(kind, default)}')
        scope = f"{self.per}_id, " if self.per else ""
        for on in ("position", "name"):
            db.do(f'create index if not exists "{self.one}_{on}" on "{self.one}"({scope}{on})')
    def _column(self, kind, default) -> str:
        column = "integer" if kind is int else COLUMN.get(input_kind(kind)[0], "text")
        base = column.partition(" ")[0]
        if isinstance(default, (bool, int, float)): return f"{base} not null default {default + 0}"
        quoted = default.replace("'", "''") if isinstance(default, str) else ""
        return f"{base} not null default '{quoted}'" if quoted else column

    # what is where
    def _scope(self) -> tuple[str, tuple]:
        return (f"{self.per}_id=?", (self.owner(),)) if self.per else ("1", ())

    def owner(self) -> int:
        "The id of what the rows belong to now"
        return current_profile()

    def all_rows(self, owner: int) -> list[dict]:
        "All rows of an owner, in their order"
        sql = f'select * from "{self.one}" where {self.per}_id=? order by position, id'
        return [self._shown(r) for r in here().db.q(sql, owner)]
    def _get(self, id: int) -> dict:
        where, params = self._scope()
        row = here().db.one(f'select * from "{self.one}" where id=? and {where}', id, *params)
        if not row: raise ConflictError(f"There is no {self.one} {id}.", "It may have been deleted.", candidates=[])
        return self._shown(row)
    def _shown(self, row: dict) -> dict:
        shown = {"id": row["id"]} | {name: row[name] for name in self.fields}
        for name, (kind, _) in self.fields.items():
            if kind is bool: shown[name] = bool(row[name])
            if input_kind(kind)[0] == "lines": shown[name] = json.loads(row[name] or "[]")
        return shown

    def find(self, wanted: RowId) -> int:
        "The id of the row meant by an id or a name; raises ConflictError with candidates"
        (where, params), db = self._scope(), here().db
        if str(wanted).isdecimal() and len(str(wanted)) < 19 and str(int(wanted)) == str(wanted):
            if db.one(f'select id from "{self.one}" where id=? and {where}', int(wanted), *params): return int(wanted)
        exact = db.q(f'select id, name from "{self.one}" where name=? and {where} limit 11', str(wanted), *params)
        if not exact and str(wanted).isdecimal():
            cause = f"There is no {self.one} {shorten(wanted, 20)}."
            raise ConflictError(cause, "It may have been deleted.", candidates=[])
        rows = exact or db.q(f'select id, name from "{self.one}" where {where} order by position', *params)
        return pick_by_name(wanted, [(r["id"], r["name"]) for r in rows], self.one)
    def _resolve(self, args: dict) -> dict:
        found = dict(args)
        if found.get("id") is not None: found["id"] = self.find(found["id"])
        if found.get("ids"): found["ids"] = [self.find(i) for i in found["ids"]]
        return found
    def _about(self, args: dict) -> str:
        return self._get(args["id"])["name"] if args.get("id") else str(args.get("name", ""))

    # the seven actions, and select
    def list_rows(self, search: str = "", limit: int = ROWS_SHOWN, offset: int = 0) -> dict:
        "List the rows, or search them"
        where, params = self._scope()
        texts = [n for n, (kind, _) in self.fields.items() if input_kind(kind)[0] in ("text", "long", "select")]
        if search:
            where += " and (" + " or ".join(f'instr(fold("{n}"), ?)' for n in texts) + ")"
            params += (search.casefold(),) * len(texts)
        total = here().db.one(f'select count(*) as n from "{self.one}" where {where}', *params)["n"]
        sql = f'select * from "{self.one}" where {where} order by position, id limit ? offset ?'
        rows = here().db.q(sql, *params, limit, offset)
        return {"rows": [self._shown(r) for r in rows], "total": total}

    def names(self) -> list[str]:
        "All names, in their order"
        where, params = self._scope()
        sql = f'select name from "{self.one}" where {where} order by position, id'
        return [r["name"] for r in here().db.q(sql, *params)]

    def read_row(self, id: RowId) -> dict:
        "One row"
        return self._get(id)

    def insert_row(self, **row) -> dict:
        "Add a row"
        (where, params), db = self._scope(), here().db
        last = db.one(f'select max(position) as p from "{self.one}" where {where}', *params)["p"] or 0
        owner = {f"{self.per}_id": self.owner()} if self.per else {}
        return self._get(db.insert(self.one, **self._stored(row), **owner, position=last + 1))

    def update_row(self, id: RowId, set) -> dict:
        "Change fields of a row"
        if not set: raise InvalidError(f"{self.one}.update needs a field to set.", fields={"set": "empty"})
        names = ", ".join(f'"{n}"=?' for n in set)
        here().db.do(f'update "{self.one}" set {names} where id=?', *self._stored(set).values(), id)
        return self._get(id)

    def toggle_row(self, id: RowId, field: str = "") -> dict:
        "Switch a row between open and done, or another yes-or-no field"
        name = field or self.bools[0]
        if name not in self.bools:
            raise InvalidError(f"{name!r} cannot be toggled.", fields={"field": f"one of {', '.join(self.bools)}"})
        here().db.do(f'update "{self.one}" set "{name}"=1-"{name}" where id=?', id)
        return self._get(id)

    def delete_row(self, id: RowId) -> dict:
        "Delete a row"
        row = self._get(id)
        if self.selectable and here().db.one(f'select count(*) as n from "{self.one}"')["n"] == 1:
            raise ConflictError(f"This is the last {self.one}.", "Add another one first.")
        here().db.do(f'delete from "{self.one}" where id=?', id)
        return row

    def sort_rows(self, ids: list[RowId] | None = None, id: RowId | None = None, position: int | None = None) -> dict:
        "Move a row to a position (1 is the top, -1 the end), or give `ids` in their order"
        if ids: return self._order(ids)
        if id is None or position is None:
            raise InvalidError(f"{self.one}.sort needs ids, or an id and a position.", fields={"ids": "missing"})
        (where, params), db = self._scope(), here().db
        skip = max(position - 1, 0) if position >= 0 else 1 << 40
        sql = f'select position as p from "{self.one}" where {where} and id != ? order by position, id'
        near = db.q(f"{sql} limit 2 offset ?", *params, id, max(skip - 1, 0))
        last = sql.replace("position, id", "position desc, id desc")
        if skip > 0 and not near: near = db.q(f"{last} limit 1", *params, id)
        before, after = _neighbours([r["p"] for r in near], skip > 0)
        middle = (before + after) / 2
        if before < middle < after: db.do(f'update "{self.one}" set position=? where id=?', middle, id)
        else: self._renumber(id, skip)
        return self._get(id)
    def _order(self, ids: list[int]) -> dict:
        marks = ", ".join("?" * len(ids))
        rows = here().db.q(f'select position as p from "{self.one}" where id in ({marks}) order by position', *ids)
        if len(rows) != len(ids): raise InvalidError("A row is named twice.", fields={"ids": "twice"})
        for id, row in zip(ids, rows): here().db.do(f'update "{self.one}" set position=? where id=?', row["p"], id)
        return {"ids": ids}
    def _renumber(self, id: int, skip: int) -> None:
        where, params = self._scope()
        sql = f'select id from "{self.one}" where {where} and id != ? order by position, id'
        ids = [r["id"] for r in here().db.q(sql, *params, id)]
        ids.insert(min(skip, len(ids)), id)
        for number, each in enumerate(ids, 1):
            here().db.do(f'update "{self.one}" set position=? where id=?', number, each)

    def select_row(self, id: RowId) -> dict:
        "Make a row the current one"
        row = self._get(id)
        chosen[self.one] = id
        return row
    def _stored(self, row: dict) -> dict:
        return {n: to_json(v) if isinstance(v, list) else v.isoformat() if isinstance(v, dt.date) else v
                for n, v in row.items()}

    def actions(self) -> list[Action]:
        "The seven actions by the table's name, and the app's own"
        made = [self._key("list", self.list_rows, "read", self._list_form()), self._key("read", self.read_row, "read"),
                self._key("insert", self.insert_row, form=self._row_form(False)),
                self._key("update", self.update_row, form=self._update_form()),
                self._key("delete", self.delete_row, "destroy"), self._key("sort", self.sort_rows)]
        if self.bools: made.append(self._key("toggle", self.toggle_row))
        if self.selectable: made.append(dataclasses.replace(self._key("select", self.select_row), undo=False))
        return made + super().actions()
    def _key(self, verb: str, fn: Callable, danger: Danger = "write", form: type[BaseModel] | None = None) -> Action:
        name, doc = f"{self.one}.{verb}", (inspect.getdoc(fn) or "").replace("row", self.one)
        return Action(name, fn, form or form_of(fn, name), doc, (), danger, self.name, resolve=self._resolve,
                      about=self._about)
    def _list_form(self) -> type[BaseModel]:
        return create_model(f"{self.one}.list", __base__=Args, search=(str, ""),
                            limit=(Annotated[int, Field(ge=1, le=1000)], ROWS_SHOWN),
                            offset=(Annotated[int, Field(ge=0)], 0))
    def _row_form(self, partial: bool) -> type[BaseModel]:
        name = Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
        blank, kinds = pydantic.BeforeValidator(lambda v: None if v == "" else v), {}
        for n, (kind, default) in self.fields.items():
            if "date" in str(kind) or kind in (int, float): kind = Annotated[kind, blank]
            kinds[n] = name if n == "name" else kind, None if partial else default
        return create_model(f"{self.one}.{'set' if partial else 'insert'}", __base__=Args, **kinds)
    def _update_form(self) -> type[BaseModel]:
        return create_model(f"{self.one}.update", __base__=Args, id=(RowId, ...), set=(self._row_form(True), ...))

    # the page
    def page(self, view: View):
        "A form for a new row, a search box, the rows, pages past 200"
        more = [AppLink(a.title, a.name) for a in here().apps.values() if a.for_tables]
        return PageHead(self.title, inspect.getdoc(self) or ""), *self.panel(view, *more)

    def panel(self, view: View, *more) -> tuple:
        "What a page shows of the table: the form, the tools, the rows"
        form = f"{self.one}-new"
        inputs = [Labelled(form, n, kind, None if default is ... else default, required=default is ...)
                  for n, (kind, default) in self.fields.items() if kind is not bool]
        new = ActionForm(f"{self.one}.insert", *inputs, button="Add", id=form, reset=True)
        hint, part = f"Search {self.title.lower()}", f"#{self.one}-part"
        search = Input(type="search", name="search", value=view.search, placeholder=hint, id=f"{self.one}-search",
                       aria_label=hint, hx_get=f"/app/{self.name}", hx_trigger="input changed delay:200ms, search",
                       hx_target=part, hx_select=part, hx_swap="outerMorph")
        return new, Div(search, *more, cls="list-tools"), self._part(view)
    def _part(self, view: View):
        found = self.list_rows(view.search, ROWS_SHOWN, view.offset)
        rows = Ul(*(self.row(r) for r in found["rows"]), id=f"{self.one}-list", cls="rows", data_sort=self.one,
                  data_offset=str(view.offset))
        hint = f"No {self.title.lower()} yet. Add one above, or ask the assistant to."
        if view.search: hint = f"Nothing matches “{view.search}”."
        return Div(rows, P(hint, cls="empty"), self._pages(view, found["total"]), id=f"{self.one}-part")
    def _pages(self, view: View, total: int):
        words = f"{total} {self.one if total == 1 else self.title.lower()}"
        def go(label, offset):
            address = f"/app/{self.name}?offset={offset}&search={quote(view.search)}"
            return PartButton(label, address, f"{self.one}-part", cls="secondary outline")
        back = go("← Earlier", max(0, view.offset - ROWS_SHOWN)) if view.offset else ""
        on = go("Later →", view.offset + ROWS_SHOWN) if total > view.offset + ROWS_SHOWN else ""
        return Nav(back, Span(words, cls="count"), on, id=f"{self.one}-pages", cls="pages", aria_label="Pages")

    def row(self, row: dict):
        "One row: handle, fields to edit in place, delete"
        id, name = row["id"], row["name"]
        cells = [self._cell(row, n, kind) for n, (kind, _) in self.fields.items()]
        use = ActionButton("Use", f"{self.one}.select", cls="quiet", id=id) if self.selectable else ""
        if self.selectable and id == chosen.get(self.one, 1): use = Span("in use", cls="badge")
        handle = Button("⠿", type="button", cls="handle", aria_label=f"Move {name} (arrow up or down)")
        kill = ActionButton("×", f"{self.one}.delete", cls="delete", title=f"Delete {name}", id=id)
        return Li(handle, *sorted(cells, key=lambda c: c.attrs.get("type") != "checkbox"), use, kill,
                  id=f"{self.one}-{id}", cls="row", data_id=str(id),
                  data_done=str(bool(self.bools and row[self.bools[0]])).lower())
    def _cell(self, row: dict, name: str, kind):
        label = f"{name.replace('_', ' ').capitalize()} of {row['name']}"
        id = f"{self.one}-{row['id']}-{name}"
        common = {"aria_label": label, "hx_swap": "none", "hx_trigger": "change", "id": id}
        if kind is bool:
            vals = to_json({"id": row["id"], "field": name})
            box = Input(type="checkbox", checked=row[name], hx_post=f"/do/{self.one}.toggle", hx_vals=vals, **common)
            box.attrs.pop("name")  # FastHTML names it by its id, and a tick must send nothing but `hx-vals`
            return box
        return FieldInput(f"set.{name}", kind, row[name], cls=f"cell cell-{name}", hx_post=f"/do/{self.one}.update",
                          hx_vals=to_json({"id": row["id"]}), placeholder=name if name != "name" else None, **common)

    def shows(self, event: Event, view: View):
        "Rows come, change, move and go by their id; what touches many rows redraws the page"
        table, _, verb = event.action.partition(".")
        if not event.ok: return None
        if table != self.one:
            mine = event.action == "journal.undo" or self.per and table == self.per
            return REFRESH if mine or isinstance(event.result, dict) and event.result.get("table") == self.one else None
        if verb == "sort": return [swap(self._part(view))]
        if view.search or verb == "select": return REFRESH
        total, id = self.list_rows(limit=1)["total"], event.result["id"]
        pages = swap(self._pages(view, total))
        if verb == "delete": return [Gone(f"#{self.one}-{id}"), pages]
        if verb in ("update", "toggle"): return [swap(self.row(self._get(id)))]
        if view.offset or total > ROWS_SHOWN: return [pages]
        return [Gone(f"#{self.one}-{id}"), self._placed(id), pages]
    def _placed(self, id: int):
        (where, params), row = self._scope(), self.row(self._get(id))
        before = here().db.one(
            f'select id from "{self.one}" where {where} and (position, id) < (select position, id from "{self.one}" '
            "where id=?) order by position desc, id desc", *params, id)
        if not before: return Into(f"#{self.one}-list", row, how="afterbegin")
        return Into(f"#{self.one}-{before['id']}", row, how="afterend")

def _neighbours(near: list[float], has_before: bool) -> tuple[float, float]:
    if not near: return 0.0, 2.0
    if not has_before: return near[0] - 2, near[0]
    return near[0], near[1] if len(near) > 1 else near[0] + 2

def current_profile() -> int:
    "The id of the profile the work is for: the one chosen, else the first there is"
    db, wanted = here().db, chosen.get("profile", 1)
    row = db.one("select id from profile order by id != ?, position, id limit 1", wanted)
    return row["id"] if row else 0

# ----------------------------------------------------------------------------------------------------------------------
# __      _____  ___ _  _____ _    _____      _____                                                               figlet
# \ \    / / _ \| _ \ |/ / __| |  / _ \ \    / / __|
#  \ \/\/ / (_) |   / ' <| _|| |_| (_) \ \/\/ /\__ \
#   \_/\_/ \___/|_|_\_|\_\_| |____\___/ \_/\_/ |___/
# 12 WORKFLOWS: a Python file that reads like the notebook it came from


class Kind(NamedTuple):
    """One kind of result: which values it takes, how they are kept in open formats, and read again.

    `save(value, path)` writes files beside `path` (a name without suffix) and returns a record of JSON: `html` for the
    card, `preview` for the model, `files` to download, `frame` for what may hold script. `load(record, path)` reads it.
    """
    name: str
    fits: Callable[[Any], bool]
    save: Callable[[Any, Path], dict]
    load: Callable[[dict, Path], Any]

KINDS: list[Kind] = []                          # the last that fits is taken; plugins with `helps_workers` add theirs
MAKERS: dict[str, Callable[[Path, Path], None]] = {}    # suffix -> made from the CSV beside it when first downloaded
READERS: dict[str, Callable] = {"Path": lambda path: path, "bytes": Path.read_bytes}  # uploads, by annotation

def save_result(value, folder: Path, name: str) -> dict:
    "Keep what a step returned as files in `folder`; returns its record; raises PianolaError for what no kind takes"
    kind = next((k for k in reversed(KINDS) if k.fits(value)), None)
    if not kind:
        raise PianolaError(f"A step cannot return a {type(value).__name__}.",
                           "Return text, numbers, lists, a file, a table or a figure.")
    folder.mkdir(parents=True, exist_ok=True)
    return kind.save(value, folder / name) | {"kind": kind.name, "name": name}

def load_result(record: dict, folder: Path):
    "What a step returned, with its type"
    return next(k for k in reversed(KINDS) if k.name == record["kind"]).load(record, folder / record["name"])


@dataclass(frozen=True)
class Step:
    "One step of a workflow: its form, the earlier results it needs, what is handed to it"
    name: str
    title: str
    fn: Callable
    say: str
    danger: Danger
    form: type[BaseModel]
    inputs: dict            # parameter -> (annotation, default), what the form shows
    needs: tuple            # names of earlier steps
    given: tuple            # of llm, chat, progress, profile, store
    files: dict             # parameter -> name of its annotation, see READERS
    lists: dict             # parameter -> dataclass: an editable list on the card
    outside: bool

def step(title: str = "", *, say: str = "", danger: Danger = "write", outside: bool = False):
    "Mark a method as a step; `say` is what the assistant says when it is done, `outside` that it fetches foreign text"
    def mark(fn):
        names = sys._getframe(1).f_locals
        if fn.__name__ in names: raise PianolaError(f"Two steps are called {fn.__name__}: {_where(fn)}.", "Rename one.")
        name = title or fn.__name__.replace("_", " ").capitalize()
        fn.step = {"title": name, "say": say, "danger": danger, "outside": outside}
        return fn
    return mark
def _where(fn: Callable) -> str: return f"{Path(fn.__code__.co_filename).name}, line {fn.__code__.co_firstlineno}"

def steps_of(kind: type) -> list[Step]:
    "The steps of a workflow in their order; raises PianolaError for a parameter nobody can fill, naming file and line"
    found: list[Step] = []
    for name, fn in kind.marked.items():
        if name in INJECTED: raise PianolaError(f"A step cannot be called {name}: {_where(fn)}.", "Rename it.")
        found.append(_step_of(name, fn, [s.name for s in found], list(kind.marked)))
    if not found: raise PianolaError(f"{kind.__name__} has no steps.", "Mark a method with @step(\"Title\").")
    return found
def _step_of(name: str, fn: Callable, earlier: list[str], all_steps: list[str]) -> Step:
    fields, needs, files, lists, outside = {}, [], {}, {}, fn.step["outside"]
    parameters = [p for p in inspect.signature(fn, eval_str=True).parameters.values() if p.name != "self"]
    for p in parameters:
        if p.name in earlier: needs.append(p.name)
        elif p.name in INJECTED: continue
        elif p.name in all_steps and p.annotation is p.empty and p.default is p.empty:
            raise PianolaError(f"{name} needs {p.name}, which is not done before it: {_where(fn)}.",
                               "Move it up, or rename the parameter.")
        elif p.name == "run": raise PianolaError(f"A parameter cannot be called run: {_where(fn)}.", "Rename it.")
        elif p.annotation is p.empty and p.default is p.empty:
            raise PianolaError(f"Nobody knows {p.name}, a parameter of {name}: {_where(fn)}.",
                               "Give it a type, a default, or the name of an earlier step.")
        else: fields[p.name] = _field_of(p, files, lists)
    asked = {n: (k | None, None) if n in files or n in lists else (k, d) for n, (k, d) in fields.items()}
    form = create_model(name, __base__=Args, **asked, run=(str | None, None))
    given = tuple(p.name for p in parameters if p.name in INJECTED)
    return Step(name, fn.step["title"], fn, fn.step["say"], fn.step["danger"], form, fields, tuple(needs), given, files,
                lists, outside or bool(files))
def _field_of(p: inspect.Parameter, files: dict, lists: dict) -> tuple:
    kind = p.annotation if p.annotation is not p.empty else type(p.default)
    name = getattr(kind, "__name__", str(kind))
    if name in ("Path", "bytes", "DataFrame") or name in READERS:
        files[p.name], kind = name, Upload
    item = (typing.get_args(kind) or (None,))[0]
    if typing.get_origin(kind) is list and dataclasses.is_dataclass(item):
        lists[p.name] = item
        return list[dict], None
    return kind, ... if p.default is p.empty else p.default


class RunRows(Crud):
    "A `list[SomeDataclass]` parameter: a table whose rows belong to the open run"
    per = "run"
    def __init__(self, flow: "Workflow", kind: type):
        self.flow, self.table, self.name, self.title = flow, kind, flow.name, kind.__name__

    def owner(self) -> int:
        "The open run, made if an action needs one"
        run = self.flow.open_run(make=here().db.writing)
        return run["id"] if run else 0


class Workflow(App):
    """Steps that people walk through as cards: see `step`. Its docstring is the lead, `limit` how many run at once.

    A run is one pass through it. Each step is an action, `{app}.{step}`, so the model can fill in and run it too.
    """
    limit, marked = 2, {}
    prompt = "Fill in and run a step only when the person asks for it."
    cards = staticmethod(lambda flow, view: PageHead(flow.title))  # a plugin puts here what makes the cards
    def __init_subclass__(cls):
        own = {n: fn for n, fn in vars(cls).items() if inspect.isfunction(fn) and hasattr(fn, "step")}
        cls.marked = {**cls.marked, **own}
        for name in own:
            if hasattr(Workflow, name): delattr(cls, name)  # a step may be called as a method of ours

    def set_up(self) -> None:
        "Read the steps"
        self.steps = steps_of(type(self))
        self.tables = [RunRows(self, kind) for s in self.steps for kind in s.lists.values()]

    def actions(self) -> list[Action]:
        "One action a step, those of its lists, and its own"
        keys = []
        for i, s in enumerate(self.steps, 1):
            doc, run = f"{s.title} (step {i} of {self.title})", functools.partial(self._run, s)
            keys.append(Action(f"{self.name}.{s.name}", run, s.form, doc, _phrases(s, i), s.danger, self.name,
                               outside=s.outside, finish=self._finish))
        return keys + [key for table in self.tables for key in table.actions()] + super().actions()

    # runs
    def open_run(self, key: str = "", make: bool = False) -> dict | None:
        "The run called `key`, else the one this tab looks at, else the newest; `make` one if there is none"
        db, sql = here().db, "select * from run where app=? and "
        if key:
            rows = db.q(f"{sql} (key=? or name=?)", self.name, key, key)
            if len(rows) == 1: return rows[0]
            cause = f"{len(rows) or 'No'} runs of {self.title} are called {shorten(key, 60)!r}."
            raise ConflictError(cause, "Give its key.")
        view = here().chat.tabs.get(calling.get().tab).view if calling.get().tab else View()
        run = db.one(f"{sql} key=?", self.name, view.run) if view.app == self.name and view.run else None
        newest = f"{sql} profile_id=? and not archived order by changed desc, id desc"
        run = run or db.one(newest, self.name, current_profile())
        return run or (self.new_run() if make else None)

    def new_run(self, name: str = "") -> dict:
        "Begin a run, in the writer"
        db, key = here().db, secrets.token_urlsafe(6).replace("_", "x").replace("-", "y")
        name = name or f"{self.title}, {dt.datetime.now():%d %B %H:%M}"
        row = {"key": key, "name": name, "app": self.name, "profile_id": current_profile(), "position": time.time()}
        id = db.insert("run", **row, created=now(), changed=now())
        return db.one("select * from run where id=?", id)

    def folder(self, run: dict) -> Path:
        "Where the results of a run lie"
        return here().settings.data.resolve() / "runs" / run["key"]

    def done(self, run: dict | None) -> dict[str, dict]:
        "What is known of each step of a run, by name: state, inputs, record, error"
        rows = here().db.q("select * from run_step where run_id=?", run["id"]) if run else []
        return {r["step"]: r | {"inputs": json.loads(r["inputs"]), "record": json.loads(r["record"] or "{}")}
                for r in rows}

    # running a step
    async def _run(self, one: Step, run: str | None = None, **args) -> dict:
        call, p = calling.get(), here()
        resumed = p.db.one("select * from job where id=?", call.resume) if call.resume else None
        order, opened = await p.db.write(self._order, one, run, args)
        order["checkpoint"] = json.loads(resumed["checkpoint"] or "null") if resumed else None
        if any((j.run, j.step) == (opened["id"], one.name) for j in p.jobs.live.values()):
            raise ConflictError(f"{one.title} is running already in {opened['name']}.", "Wait for it, or cancel it.")
        job = Job(call.journal, self.name, opened["id"], one.name, f"{self.title}: {one.title}", args)
        began = time.monotonic()
        p.redraw(self.name)
        try: record = await p.jobs.run(job, self.limit, order, self.file)
        except (PianolaError, asyncio.CancelledError) as error:
            kept = {"state": "failed", "error": str(error) or "stopped", "trace": job.trace}
            await p.db.write(self._keep, opened, one, order["args"], kept)
            p.redraw(self.name)
            raise
        if one.say and p.models.current:
            await p.chat.ask(f"(The step “{one.title}” is done: {record['preview']}. {one.say})", call.tab)
        elif time.monotonic() - began > 3: p.chat.remark(f"The job “{job.title}” is done: {record['preview']}.")
        came = {"record": to_json(record), "state": "done", "seconds": time.monotonic() - began}
        self._records[call.journal] = opened, one, order["args"], came
        return {"run": opened["key"], "step": one.title, "preview": record["preview"], "files": record.get("files", [])}
    @functools.cached_property
    def _records(self) -> dict: return {}
    def _order(self, one: Step, key: str | None, args: dict) -> tuple[dict, dict]:
        "What the worker is told; raises ConflictError when the step cannot run now"
        run = self.open_run(key or "", make=True)
        if run["finalized"]: raise ConflictError(f"{run['name']} is finalized.", "Unlock it first.")
        done = self.done(run)
        for need in one.needs:
            if done.get(need, {}).get("state") != "done":
                raise ConflictError(f"{one.title} needs the result of {self.find_step(need).title}.", "Run that first.")
        folder, args, before = self.folder(run), dict(args), done.get(one.name, {}).get("inputs", {})
        for name in one.files:
            args[name] = args.get(name) or before.get(name)
            if args[name]: args[name] = str(_kept_upload(args[name], folder / "files"))
            elif one.inputs[name][1] is ...:
                raise InvalidError("A file is missing.", "Choose one.", fields={name: "Choose a file."})
        for name, kind in one.lists.items():
            table = next(t for t in self.tables if t.table is kind)
            if args.get(name) is None: args[name] = [{k: r[k] for k in table.fields} for r in table.all_rows(run["id"])]
        profile = here().db.one("select * from profile where id=?", run["profile_id"])
        again = any(folder.glob(f"{one.name}.*"))  # an undo needs the files of both
        return {"file": str(self.file), "step": one.name, "args": args, "folder": str(folder), "profile": profile,
                "name": f"{one.name}-{calling.get().journal}" if again else one.name,
                "given": {n: done[n]["record"] for n in one.needs}}, run
    def _finish(self, event: Event) -> None:
        if event.ok: self._keep(*self._records.pop(event.journal))
    def _keep(self, run: dict, one: Step, inputs: dict, values: dict) -> None:
        "What came of a step, in the writer; what was done after it is stale, and what was done before it folds"
        db = here().db
        values = {"error": None, "trace": None, "seconds": 0, "folded": 0, "at": now(), **values}
        values["inputs"] = to_json(inputs)
        columns = ", ".join(values)
        new, old = "?, " * len(values) + "?, ?", ", ".join(f"{c}=excluded.{c}" for c in values)
        sql = f"insert into run_step(run_id, step, {columns}) values({new}) on conflict(run_id, step) do update set "
        db.do(sql + old, run["id"], one.name, *values.values())
        if proposed := json.loads(values.get("record") or "{}").get("rows"): self._propose(run, **proposed)
        for later in self.after(one):
            db.do("update run_step set state='stale' where run_id=? and step=? and state='done'", run["id"], later)
        for need in one.needs if values["state"] == "done" else ():
            db.do("update run_step set folded=1 where run_id=? and step=? and state='done'", run["id"], need)
        db.do("update run set changed=? where id=?", now(), run["id"])
    def _propose(self, run: dict, table: str, rows: list[dict]) -> None:
        "A step that returns a list of a list's dataclass fills that list, unless the person has begun it"
        for found in self.tables:
            if found.table.__name__ != table or found.all_rows(run["id"]): continue
            for at, row in enumerate(rows, 1):
                kept = found._stored({k: row[k] for k in found.fields})
                here().db.insert(found.one, **kept, run_id=run["id"], position=at)

    def after(self, one: Step) -> list[str]:
        "The steps that build on the result of one, directly or not"
        found = [one.name]
        for s in self.steps:
            if set(s.needs) & set(found): found.append(s.name)
        return found[1:]

    def find_step(self, name: str) -> Step:
        "The step called `name`: by its name, its title, or its number (`step two`, `first card`)"
        words = set(re.findall(r"\w+", name.lower()))
        for step, *numbers in zip(self.steps, ORDINALS, NUMBERS, map(str, itertools.count(1))):
            if words & set(numbers) and words <= {*numbers, "step", "card", "the"}: return step
        named = [(i, n) for i, s in enumerate(self.steps) for n in {s.name, s.title}]
        return self.steps[pick_by_name(name, named, "step")]

    # the page
    def address(self, view: View) -> str:
        "With the key of the open run"
        run = self.open_run()
        return f"/app/{self.name}" + (f"?run={run['key']}" if run else "")

    def for_model(self, view: View) -> str:
        "The open run in the model's words: steps, what came of them, what is missing"
        run, lines = self.open_run(), []
        done = self.done(run)
        for i, s in enumerate(self.steps, 1):
            known = done.get(s.name, {})
            came = {"done": f"done: {shorten(known.get('record', {}).get('preview', ''), 200)}",
                    "failed": f"failed: {shorten(known.get('error'), 200)}", "stale": "stale: run it again"}
            takes = ", ".join(n for n in s.form.model_fields if n != "run")
            lines.append(f"step {i} {s.name} ({takes}) {s.title}: {came.get(known.get('state'), 'not done')}")
        return (f"The open run is {run['name']}.\n" if run else "No run is open yet.\n") + "\n".join(lines)

    def page(self, view: View):
        "The cards of the open run, as the plugin that knows cards makes them"
        threading.Thread(target=copy_context().run, args=(here().jobs.warm, self.name, self.file), daemon=True).start()
        return self.cards(self, view)

    def left_jobs(self, run: dict | None) -> dict[str, dict]:
        "The jobs of a run that did not come to their end, by step"
        sql = "select * from job where run_id=? and state in ('interrupted', 'cancelled') and id in " \
              "(select max(id) from job where run_id=? group by step)"
        return {row["step"]: row for row in here().db.q(sql, run["id"], run["id"])} if run else {}

    def shows(self, event: Event, view: View):
        "A step that ran, a run that was opened or changed: the cards again; a row of a list: that row"
        for table in self.tables:
            if event.action.startswith(f"{table.one}."): return table.shows(event, view)
        ours = event.action.startswith(("run.", "card.", "job.")) or event.action in ("journal.undo", "profile.select")
        return REFRESH if event.app == self.name or ours else None

ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
NUMBERS = "one two three four five six seven eight nine ten".split()

def _phrases(one: Step, number: int) -> tuple:
    words, nth = one.title.lower(), NUMBERS[min(number, 10) - 1]
    said = f"run {words}", f"do step {number}", f"run step {nth}", f"fill in step {nth} and run it"
    return tuple((phrase, {}) for phrase in said)
def _kept_upload(id: str, folder: Path) -> Path:
    "An upload under the name the person gave it, with the run it was used in"
    before = Path(id).resolve()
    if folder in before.parents and before.is_file(): return before
    path, name = upload_path(id)
    folder = folder / id  # two files of one name are two files
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / (re.sub(r"[^\w. -]", "_", name).strip(". ") or "file")
    if kept.exists(): return kept
    try: os.link(path, kept)  # at once, however large
    except OSError: shutil.copyfile(path, kept)
    return kept

# ----------------------------------------------------------------------------------------------------------------------
#  ___ _   _   _  ___ ___ _  _ ___                                                                                figlet
# | _ \ | | | | |/ __|_ _| \| / __|
# |  _/ |_| |_| | (_ || || .` \__ \
# |_| |____\___/ \___|___|_|\_|___/
# 13 PLUGINS: one app per file

def plugin_files(folder: Path) -> list[Path]:
    "The plugins of a folder in their order"
    return sorted(folder.glob("[0-9]*_*.py"))

def some_plugins(folder: Path) -> list[Path]:
    "The same; raises PianolaError when there are none"
    if files := plugin_files(folder): return files
    raise PianolaError(f"There are no plugins in {folder}.", "Set PIANOLA_PLUGINS to a folder with some.")

def import_plugin(file: Path) -> tuple[types.ModuleType, type[App]]:
    "Run a plugin file; returns its module and the one app it defines; raises what the file raises"
    name = f"pianola_plugins.{file.stem.partition('_')[2]}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    # NOTE: not by the loader, whose cache misses quick saves
    exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    kinds = [o for o in vars(module).values() if isinstance(o, type) and issubclass(o, App) and o.__module__ == name]
    if len(kinds) == 1: return module, kinds[0]
    raise PianolaError(f"{file.name} defines {len(kinds)} apps.", "A plugin file holds one subclass of App or Crud.")


class BrokenApp(App):
    "What stands in the menu for a plugin that could not be loaded"
    def __init__(self, file: Path, error: str, trace: str):
        self.file, self.error, self.trace = file, error, trace

    def page(self, view: View):
        "The error and its traceback; the other apps go on"
        fix = f"Correct {self.file.name}: it is loaded again when you save it. Everything else goes on without it."
        title = f"{self.file.name} could not be loaded"
        return PageHead(self.title), ErrorCard(title, f"{self.error} {fix}", self.trace)


class Plugins:
    "The registry: loads every `NNN_name.py` of the folder in the order of the numbers"
    def __init__(self, folder: Path, keyboard: Keyboard):
        self.folder, self.keyboard = folder, keyboard
        self.apps: dict[str, App] = {}
        self.errors: dict[str, str] = {}
        self.versions: dict[Path, tuple] = {}
        self.loaded = False     # once all have been
        self._listeners: list[tuple[str, Callable, App]] = []

    def load_all(self) -> None:
        "Load what is there"
        for file in some_plugins(self.folder): self.add(file)
        self.loaded = True

    def add(self, file: Path) -> None:
        "Load one; one that fails gets a page with its traceback"
        name = file.stem.partition("_")[2]
        try: app = self._load(file, name)
        except Exception as error:  # a plugin may raise anything; the others go on
            logger.opt(exception=error).error("Plugin {} could not be loaded", file.name)
            self.errors[name] = f"{type(error).__name__}: {error}"
            app = BrokenApp(file, self.errors[name], traceback.format_exc())
            app.name, app.title = name, f"{name} (broken)"
            self.keyboard.remove(name)
        self.apps[name], self.versions[file] = app, version_of(file)

    def drop(self, name: str) -> None:
        "Take an app away: its keys, its listeners, itself"
        if app := self.apps.pop(name, None):
            with contextlib.suppress(Exception): app.stop()  # plugin code
        self.errors.pop(name, None)
        self.keyboard.remove(name)
        self._listeners = [entry for entry in self._listeners if entry[2] is not app]
    def _load(self, file: Path, name: str) -> App:
        module, kind = import_plugin(file)
        app = kind()
        app.name, app.file = name, file.resolve()
        app.title = app.title or (module.__doc__ or name).strip().splitlines()[0].partition(":")[0].rstrip(".")
        app.set_up()
        for table in app.tables: table.make()
        app.start()
        for key in app.actions(): self.keyboard.add(key)
        self._listeners += [(pattern, fn, app) for pattern, fn in app.listeners()]
        return app

    def hear(self, event: Event) -> None:
        "Call the listeners of all apps; what one does wrong stops nobody"
        for pattern, fn, app in self._listeners:
            if fnmatch.fnmatch(event.action, pattern): asyncio.create_task(self._call(app, fn, event))
    async def _call(self, app: App, fn: Callable, event: Event) -> None:
        try:
            if inspect.iscoroutinefunction(fn): await fn(event)
            else: await asyncio.to_thread(fn, event)
        except Exception as error:  # as for loading: a listener is plugin code
            logger.opt(exception=error).error("A listener of {} failed", app.name)
            self.errors[app.name] = f"listener: {type(error).__name__}: {error}"

    def stop(self) -> None:
        "Tell every app that the server stops"
        for app in self.apps.values(): app.stop()

# ----------------------------------------------------------------------------------------------------------------------
#  ___  ___  _   _ _____ ___ ___                                                                                  figlet
# | _ \/ _ \| | | |_   _| __/ __|
# |   / (_) | |_| | | | | _|\__ \
# |_|_\\___/ \___/  |_| |___|___/
# 14 ROUTES: the page is the server's

HEADERS = [(b"content-security-policy", CSP.encode()), (b"x-content-type-options", b"nosniff"),
           (b"referrer-policy", b"same-origin"), (b"cross-origin-opener-policy", b"same-origin"),
           (b"x-frame-options", b"DENY")]


class Gate:
    """In front of everything: no foreign host or origin, a token off loopback, safe headers, one log line.

    Plain ASGI, so that it holds for the socket's handshake as well and never buffers a stream.
    """
    def __init__(self, app, pianola: "Pianola"): self.app, self.pianola = app, pianola
    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan": return await self.app(scope, receive, send)
        current.set(self.pianola)
        heads = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        try: refusal = self._refuse(scope, heads)
        except ValueError: refusal = PlainTextResponse("That is no address.", 403)
        if refusal and scope["type"] == "websocket": return await send({"type": "websocket.close", "code": 4403})
        app, seen = (refusal or self.app), {"status": 0, "at": time.monotonic()}

        async def sending(message):
            if message["type"] == "websocket.accept": seen["status"] = 101
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                given = dict(message["headers"])
                message["headers"] = [*message["headers"], *(h for h in HEADERS if h[0] not in given)]
            await send(message)
        try: await app(scope, receive, sending)
        finally:
            ms = (time.monotonic() - seen["at"]) * 1000
            level = "DEBUG" if scope["path"].startswith(("/static", "/health")) else "INFO"
            told = scope.get("method", "WS"), quote(scope["path"]), seen["status"], ms, actor_of(heads)
            logger.log(level, "{} {} {} {:.0f} ms {}", *told)
    def _refuse(self, scope, heads: dict):
        s = self.pianola.settings
        host, local = heads.get("host", ""), is_loopback(s.host)
        if local and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return PlainTextResponse("This address is not Pianola's. Open http://localhost instead.", 403)
        origin = heads.get("origin")
        crossing = heads.get("sec-fetch-site") == "cross-site" and heads.get("sec-fetch-mode") != "navigate"
        if crossing or origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("A page from another site may not use Pianola.", 403)
        if local or scope["path"].startswith("/static") or scope["path"] == "/token": return None
        if is_token(given_token(heads), s.token): return None
        if "text/html" in heads.get("accept", ""): return RedirectResponse("/token")
        return PlainTextResponse("A token is needed.", 401)

def is_loopback(host: str) -> bool:
    "Whether an address is this machine only"
    try: return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError: return False

def is_token(given: str, token: str) -> bool:
    "Whether `given` is the token, or what its cookie holds"
    return any(hmac.compare_digest(given.encode(), right.encode()) for right in (token, token_cookie(token)) if token)

def token_cookie(token: str) -> str:
    "What the cookie holds: any token may be typed, not any text may stand in a cookie"
    return hashlib.sha256(token.encode()).hexdigest()

def given_token(heads: dict) -> str:
    "The token of a request: an Authorization header, or the cookie the token page sets"
    bearer = heads.get("authorization", "").removeprefix("Bearer ")
    cookies = dict(c.partition("=")[::2] for c in heads.get("cookie", "").split("; "))
    return bearer or cookies.get("pianola_token", "")

def actor_of(heads) -> Actor:
    "Who asks: our own page (the gate has checked its origin), or a program"
    return "user" if heads.get("origin") or heads.get("x-tab") else "client"

async def read_body(req: Request) -> tuple[dict | None, list]:
    "A request's arguments: (JSON object, []) or (None, form items); files become upload ids; raises InvalidError"
    kind = req.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data": return None, await _read_multipart(req)
    body = bytearray()
    async for chunk in req.stream():
        body += chunk
        if len(body) <= BODY_LIMIT: continue
        raise InvalidError("The request is too large.", f"At most {BODY_LIMIT >> 20} MB.", fields={"body": "too large"})
    if kind == "application/x-www-form-urlencoded":
        try: return None, parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=2000)
        except ValueError: raise InvalidError("The form has too many fields.", fields={"body": "too many"}) from None
    if not body.strip(): return {}, []
    try: return json.loads(body), []
    except (ValueError, RecursionError):
        raise InvalidError("The body is not JSON.", fields={"body": "not JSON"}) from None
async def _read_multipart(req: Request) -> list:
    items, limit = [], UPLOAD_LIMIT + BODY_LIMIT
    if int(req.headers.get("content-length") or 0) > limit: raise _too_large()
    parser = MultiPartParser(req.headers, req.stream(), max_files=20, max_fields=2000, max_part_size=BODY_LIMIT)
    try: form = await parser.parse()
    except (MultiPartException, ClientDisconnect, KeyError, ValueError) as error:
        raise InvalidError("The form cannot be read.", shorten(error, 100), fields={"body": "unreadable"}) from None
    try:
        files = [v for _, v in form.multi_items() if not isinstance(v, str)]
        if any((f.size or 0) > UPLOAD_LIMIT for f in files): raise _too_large()
        for name, value in form.multi_items():
            if isinstance(value, str): items.append((name, value))
            elif value.filename: items.append((name, (await keep_upload(value.filename, value))["id"]))
    finally: await form.close()
    return items
def _too_large() -> InvalidError:
    return InvalidError("The file is too large.", f"At most {UPLOAD_LIMIT >> 20} MB.", fields={"file": "too large"})

async def keep_upload(name: str, source) -> dict:
    "Keep a file under a name of our own: written to the side, synced, renamed, then known to the database"
    id, folder = secrets.token_hex(12), here().settings.data / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    side, size = folder / f"{id}.part", 0
    try:
        with side.open("wb") as out:
            while chunk := await source.read(1 << 20):
                size += len(chunk)
                if size > UPLOAD_LIMIT: raise _too_large()
                await asyncio.to_thread(out.write, chunk)
            out.flush()
            await asyncio.to_thread(os.fsync, out.fileno())
        side.rename(folder / id)
    finally: side.unlink(missing_ok=True)
    row = {"id": id, "name": shorten(Path(name.replace("\\", "/")).name, 200), "size": size, "created": now()}
    await here().db.write(functools.partial(here().db.insert, "upload", **row))
    return row

def upload_path(id: str) -> tuple[Path, str]:
    "Where an upload lies and what the person called it; raises UnknownError"
    row = here().db.one("select * from upload where id=?", id)
    path = here().settings.data / "uploads" / (row["id"] if row else "")
    if not row or not path.is_file(): raise UnknownError("There is no such file.", "Upload it again.")
    return path, row["name"]

def error_reply(req: Request, error: PianolaError) -> Response:
    "What a route raised, for whoever asked: JSON for programs, out-of-band notes at their fields for the page"
    if "hx-request" not in req.headers: return JSONResponse({"ok": False, "error": error.as_json()}, error.status)
    form = req.headers.get("hx-source", "").removeprefix("form#") if "form#" in req.headers.get("hx-source", "") else ""
    key = getattr(req.state, "key", None)
    if key and key.finish and error.kind == "failed": return Response(status_code=204)  # its card says it
    known = {n.partition(".")[0] for n in key.form.model_fields} if key else set()
    fields = {n: t for n, t in error.extra.get("fields", {}).items() if form and n.partition(".")[0] in known}
    notes = [swap(FieldError(f"{form}-{name.replace('.', '-')}-error", text), "true") for name, text in fields.items()]
    shown = html(*notes or [Toast(str(error), kind="error")])
    return Response(shown, error.status, media_type="text/html")

async def do_action(req: Request):
    "`POST /do/{action}`: perform, for the page and for programs"
    p, name = here(), req.path_params["name"]
    key = req.state.key = p.keyboard.find(name)
    body, items = await read_body(req)
    args = decode_form(items, key.form) if body is None else body
    call = Call(req.headers.get("x-tab", ""))
    task = asyncio.ensure_future(p.keyboard.perform(actor_of(req.headers), name, args, call))
    task.add_done_callback(lambda t: t.cancelled() or t.exception())
    await asyncio.wait([task], timeout=1 if key.long and req.query_params.get("wait") != "1" else None)
    outcome = task.result() if task.done() else None
    if "hx-request" in req.headers: return Response(status_code=204)
    if not outcome: return JSONResponse({"ok": True, "job": call.journal})
    return Response(to_json(outcome.as_json()), media_type="application/json")

def list_actions(req: Request):
    "`GET /do`: the keyboard as JSON"
    keys = sorted(here().keyboard.actions.values(), key=lambda k: k.name)
    return JSONResponse([{"name": k.name, "doc": k.doc, "schema": k.schema(), "danger": k.danger, "app": k.app}
                         for k in keys])

def show_page(req: Request):
    "`GET /` and `GET /app/{app}`: the page; for htmx only `#grid-left`"
    p, name = here(), req.path_params.get("app") or next(iter(here().plugins.apps), "")
    app = p.plugins.apps.get(name)
    if not app: raise UnknownError(f"There is no app {shorten(name, 40)!r}.", "The menu has all there are.")
    if "hx-request" in req.headers:
        view = p.chat.tabs.get(req.headers.get("x-tab", "")).view
        look_at(view, name, req.query_params)
        return Response(html(p.left(view), swap(p.bar(view))), media_type="text/html")
    tab = p.chat.tabs.get(secrets.token_hex(8), name)
    look_at(tab.view, name, req.query_params)
    return Response(p.page(tab), media_type="text/html", headers={"cache-control": "no-store"})

def look_at(view: View, app: str, query) -> None:
    "Take over what a request wants to see"
    offset = query.get("offset", "0")
    view.app, view.search = app, query.get("search", "")[:200]
    view.offset = int(offset) if offset.isdecimal() and len(offset) < 10 else 0
    view.run = query.get("run", view.run if query.get("sort") else "")[:40]
    view.filters = {k: v[:200] for k, v in query.items() if k not in ("search", "offset")}

def show_messages(req: Request):
    "`GET /messages`: older messages as one scrolls up, or what a search finds"
    before, search = req.query_params.get("before", ""), req.query_params.get("search", "")[:200]
    parts, older = here().chat.messages(int(before) if before.isdecimal() and len(before) < 16 else None, search)
    if before: return Response(html(*([Older(older, search)] if older else []), *parts), media_type="text/html")
    return Response(html(MessageList(parts, older, search)), media_type="text/html")

async def chat_stream(req: Request):
    "`POST /chat`: say something as a person would, get the reply as NDJSON"
    body, items = await read_body(req)
    text = (dict(items) if body is None else body).get("msg") if isinstance(body, dict | None) else None
    if not isinstance(text, str) or not Chat.clean(text):
        raise InvalidError("Say something.", 'Send {"msg": "…"}.', fields={"msg": "missing"})
    queue: asyncio.Queue = asyncio.Queue()
    await here().chat.hear(text, req.headers.get("x-tab", ""), queue)
    return StreamingResponse(_ndjson(queue), media_type="application/x-ndjson")
async def _ndjson(queue: asyncio.Queue):
    while True:
        item = await queue.get()
        yield to_json(item) + "\n"
        if "done" in item: return

def journal_rows(query) -> dict:
    "Journal rows newest first, as `GET /journal` gives them; `query` has actor, app, limit, before"
    wheres, params = ["1"], []
    for name in ("actor", "app"):
        if query.get(name): wheres, params = [*wheres, f"{name}=?"], [*params, query[name]]
    total = here().db.one(f"select count(*) as n from journal where {' and '.join(wheres)}", *params)["n"]
    before, limit = str(query.get("before", "")), str(query.get("limit", "100"))
    if before.isdecimal() and len(before) < 16: wheres, params = [*wheres, "id < ?"], [*params, int(before)]
    limit = min(int(limit), 1000) if limit.isdecimal() and len(limit) < 9 else 100
    sql = f"{JOURNAL} where {' and '.join(wheres)} order by id desc limit ?"
    rows = here().db.q(sql, *params, limit)
    return {"rows": [_journal_row(r) for r in rows], "total": total}
def _journal_row(r: dict) -> dict:
    plain = {n: r[n] for n in ("id", "at", "actor", "app", "action", "state", "error", "undone")}
    return plain | {"args": json.loads(r["args"]), "ok": r["state"] == "done", "result": _parsed(r["result"]),
                    "undoable": bool(r["undoable"]) and not r["undone"]}
def _parsed(text: str | None):
    try: return json.loads(text) if text else None
    except ValueError: return text  # a result too long to keep was cut

def show_journal(req: Request):
    "`GET /journal`: JSON, or the Journal app for a browser"
    if "text/html" in req.headers.get("accept", ""): return RedirectResponse(f"/app/journal?{req.url.query}")
    return Response(to_json(journal_rows(req.query_params)), media_type="application/json")

async def take_upload(req: Request):
    "`POST /upload`: keep a file, answer its id"
    before = {row["id"] for row in here().db.q("select id from upload")}
    new = [id for _, id in await _read_multipart(req) if id not in before
           and here().db.one("select id from upload where id=?", id)]
    if not new: raise InvalidError("No file came.", "Send one as multipart/form-data.", fields={"file": "missing"})
    return JSONResponse({"ok": True, "id": new[0], "ids": new})

def send_file(req: Request):
    "`GET /file/{id}`: an upload or an export, always as an attachment"
    path, name = upload_path(req.path_params["id"])
    return FileResponse(path, media_type="application/octet-stream", filename=name)

async def send_result(req: Request):
    "`GET /file/{run}/{name}`: a file of a run's results, always as an attachment"
    path = await asyncio.to_thread(run_file, req.path_params["run"], req.path_params["name"])
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)

def show_frame(req: Request):
    "`GET /frame/{run}/{name}`: what a step returned as HTML, for a frame that may reach nothing"
    path = run_file(req.path_params["run"], req.path_params["name"])
    if path.suffix != ".html": raise UnknownError("There is no such frame.")
    heads = {"content-security-policy": FRAME_CSP, "x-frame-options": "SAMEORIGIN"}
    return FileResponse(path, media_type="text/html", headers=heads)

def run_file(run: str, name: str) -> Path:
    "A file of a run, made first if it can be; raises UnknownError if there is none, or the name leads elsewhere"
    plain = re.fullmatch(r"\w{4,20}", run) and re.fullmatch(r"[^/\\\0]+", name) and name != ".."
    if not plain: raise UnknownError("There is no such file.")
    path = here().settings.data.resolve() / "runs" / run / name
    maker, table = MAKERS.get(path.suffix), path.with_suffix(".csv")
    old = not path.is_file() or table.is_file() and path.stat().st_mtime < table.stat().st_mtime
    if maker and table.is_file() and old: maker(table, path)
    if not path.is_file(): raise UnknownError("There is no such file.")
    return path

def stream_events(req: Request):
    "`GET /events?tab=`: the progress of all jobs a tab shows, as Server-Sent Events; ends with them"
    p, tab = here(), here().chat.tabs.get(req.query_params.get("tab", "")[:64])
    async def parts():
        tab.streams += 1
        try:
            async for batch in p.jobs.follow(lambda job: job.app == tab.view.app, last_event(req)):
                bars = html(*(swap(JobBar(job)) for job in {e[1].id: e[1] for e in batch}.values() if job.visible))
                yield sse(batch[-1][0], bars)
        finally: tab.streams -= 1
        yield "event: done\ndata: end\n\n"
    return StreamingResponse(parts(), media_type="text/event-stream", headers={"cache-control": "no-store"})

def stream_job(req: Request):
    "`GET /jobs/{id}/events`: the progress of one job as JSON, for scripts; ends with it"
    p, id = here(), int(req.path_params["id"])
    row = p.db.one("select * from job where id=?", id)
    if not row: raise UnknownError(f"There is no job {id}.")
    async def parts():
        async for batch in p.jobs.follow(lambda job: job.id == id, last_event(req)):
            for number, job, what in batch: yield sse(number, to_json({"id": id, "state": job.state, **what}))
        end = p.db.one("select id, state, done, total, note, error from job where id=?", id)
        yield f"event: done\ndata: {to_json(end)}\n\n"
    return StreamingResponse(parts(), media_type="text/event-stream", headers={"cache-control": "no-store"})

def sse(number: int, data: str) -> str:
    "One Server-Sent Event"
    return f"id: {number}\n" + "".join(f"data: {line}\n" for line in data.split("\n")) + "\n"

def last_event(req: Request) -> int:
    "Where a stream that was cut off goes on"
    said = req.headers.get("last-event-id", "")
    return int(said) if said.isdecimal() and len(said) < 16 else 0

def show_context(req: Request):
    "`GET /context`: what the model was last sent, layer by layer, message by message, and what was dropped"
    if "text/html" in req.headers.get("accept", ""): return RedirectResponse("/app/context")
    return JSONResponse(context_report())

def context_report() -> dict:
    "What the model was last sent, as `GET /context` gives it"
    models, last = here().models, here().chat.last_context or Context([], [], 0, False)
    return {"model": models.current, "tokens": last.tokens, "budget": chosen["context"], "parts": last.report,
            "dropped": here().conversation.dropped(), "events_sent": models.hears_events}

def show_health(req: Request):
    "`GET /health`: is it well, with which model and plugins"
    p = here()
    return JSONResponse({"status": "ok", "model": p.models.current_name, "provider": p.models.current_provider,
                         "plugins": list(p.plugins.apps), "errors": p.plugins.errors})

async def token_page(req: Request):
    "`GET /token` asks for the token, `POST /token` keeps it in a cookie of this site"
    given = ""
    if req.method == "POST" and not req.headers.get("content-type", "").startswith("multipart"):
        with contextlib.suppress(PianolaError): given = dict((await read_body(req))[1]).get("token", "")
    if is_token(given, here().settings.token):
        reply = RedirectResponse("/", 303)
        reply.set_cookie("pianola_token", token_cookie(given), httponly=True, samesite="strict")
        return reply
    form = Form(Label("Token", Input(type="password", name="token", required=True)), Button("Enter"), method="post",
                action="/token", enctype="application/x-www-form-urlencoded")
    page = Html(Head(Title("Token"), Link(rel="stylesheet", href="/static/vendor/pico.min.css")),
                Body(Main(H1("Token"), form, cls="container")))
    return Response(html(page), 401 if given else 200, media_type="text/html")

async def serve_socket(socket: WebSocket):
    "`WS /ws?tab=&app=`: lines in, fragments out; whatever else comes in is ignored"
    p = here()
    await socket.accept()
    tab = p.chat.tabs.get(socket.query_params.get("tab", "")[:64] or secrets.token_hex(8))
    app = socket.query_params.get("app", "")
    if app in p.plugins.apps: tab.view.app = app
    tab.view.app = tab.view.app or next(iter(p.plugins.apps), "")
    line = Line()
    for part in p.everything(tab): line.put(html(part))
    tab.lines.add(line)
    pump = asyncio.create_task(line.pump(socket))
    try:
        while (frame := await socket.receive())["type"] == "websocket.receive":
            await _take_frame(p, tab, frame.get("text"))
    finally:
        tab.lines.discard(line)
        pump.cancel()
async def _take_frame(p: "Pianola", tab: Tab, frame: str | None) -> None:
    try: said = json.loads(frame or "")
    except (ValueError, RecursionError): return
    text = said.get("msg") if isinstance(said, dict) else None
    if isinstance(text, str): await p.chat.hear(text, tab.id)

ROUTES = (
    ("/", show_page, "GET"), ("/app/{app}", show_page, "GET"), ("/do", list_actions, "GET"),
    ("/do/{name:path}", do_action, "POST"), ("/messages", show_messages, "GET"), ("/chat", chat_stream, "POST"),
    ("/journal", show_journal, "GET"), ("/upload", take_upload, "POST"), ("/file/{id}", send_file, "GET"),
    ("/file/{run}/{name}", send_result, "GET"), ("/frame/{run}/{name}", show_frame, "GET"),
    ("/events", stream_events, "GET"), ("/jobs/{id:int}/events", stream_job, "GET"),
    ("/context", show_context, "GET"), ("/health", show_health, "GET"), ("/token", token_page, "GET POST"))

def add_routes(app: FastHTML) -> None:
    "Every route there is"
    for path, fn, methods in ROUTES: app.router.routes.append(Route(path, fn, methods=methods.split()))
    app.router.routes.append(WebSocketRoute("/ws", serve_socket))
    app.router.routes.append(Mount("/static", StaticFiles(directory=HERE / "static")))

# ----------------------------------------------------------------------------------------------------------------------
#  ___ ___ _____   _____ ___                                                                                      figlet
# / __| __| _ \ \ / / __| _ \
# \__ \ _||   /\ V /| _||   /
# |___/___|_|_\ \_/ |___|_|_\
# 15 SERVER: put together, started, stopped


class Pianola:
    "One running app: every section's object, and what goes to the open pages after each event"
    def __init__(self, settings: Settings):
        self.settings = settings
        self.db = Database(settings.data)
        self.conversation = Conversation(self.db)
        self.keyboard = Keyboard(self.db, self.conversation, self)
        self.prompt = SystemPrompt(settings.prompt, settings.app_name)
        self.models = Models(settings)
        self.chat = Chat(self.db, self.conversation, self.keyboard, self.models, self.prompt)
        self.plugins, self.jobs = Plugins(settings.plugins, self.keyboard), Jobs(self.db)
        self.apps = self.chat.apps = self.plugins.apps
        self.loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        "Open the data folder, load the plugins, begin to answer"
        current.set(self)
        self._sinks = setup_logging(self.settings)
        if self.settings.verbose: show_figlet("start", "mini")
        await asyncio.to_thread(self.db.open)
        self.loop = asyncio.get_running_loop()
        await self.db.write(lambda: (self.conversation.interrupt(), self.keyboard.interrupt(), self.jobs.interrupt()))
        for core in (CoreApp(), ChatApp(), NavigationApp()):
            for key in core.actions(): self.keyboard.add(key)
        await asyncio.to_thread(self.plugins.load_all)
        self.keyboard.listeners += [self.hear, self.plugins.hear]
        self.models.on_change = lambda: self.chat.tabs.send(*self.chat.status_parts())
        self.jobs.changed = lambda job: self.redraw(job.app)
        self.jobs.remark = lambda job, text: self.chat.remark(text)
        self.jobs.helpers = [str(a.file) for a in self.plugins.apps.values() if a.helps_workers]
        self.jobs.start()
        if self.settings.verbose: self._show_tables()
        self.chat.start()
        self.models.start(self.settings.warm)

    async def close(self) -> None:
        "Stop replies and downloads, tell the plugins, close the data folder; within a second"
        await self.chat.stop()
        self.jobs.close()
        self.keyboard.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5): await self.models.close()
        self.plugins.stop()
        await asyncio.to_thread(self.db.close)
        for sink in self._sinks:
            with contextlib.suppress(ValueError): logger.remove(sink)
    def _show_tables(self) -> None:
        show_table("apps", [{"app": a.name, "title": a.title} for a in self.plugins.apps.values()])
        show_table("routes", [{"method": m, "path": path, "does": (fn.__doc__ or "").partition(":")[2].strip()}
                              for path, fn, m in ROUTES])
        show_table("keyboard",
                   [{"action": k.name, "danger": k.danger, "does": k.doc} for k in self.keyboard.actions.values()])

    async def forget(self, before: str) -> dict:
        "Delete what was recorded before a moment, and leave no trace of it on the disk"
        def delete() -> int:
            count = self.db.one("select count(*) as n from journal where at < ?", before)["n"]
            self.db.do("delete from journal where at < ?", before)
            for table in ("message", "approval"): self.db.do(f"delete from {table} where created < ?", before)
            return count
        count = await self.db.write(delete)
        await self.db.write(self.db.scrub)
        return {"forgotten": count}

    @property
    def tables(self) -> dict[str, Crud]:
        "All tables of all apps by their name"
        return {t.one: t for a in self.plugins.apps.values() for t in a.tables}
    def redraw(self, app: str) -> None:
        "Show an app again wherever it is open, and let its jobs' progress stream there"
        for tab in self.chat.tabs.open.values():
            if tab.view.app == app and tab.live: tab.send(swap(self.left(tab.view)), *self._stream(tab))
    def _stream(self, tab: Tab) -> list:
        if tab.streams or not any(j.app == tab.view.app for j in self.jobs.live.values()): return []
        stream = Div(id="stream", hidden=True, hx_sse_connect=f"/events?tab={tab.id}", hx_sse_close="done")
        return [swap(stream, "outerHTML")]

    # the page
    def page(self, tab: Tab) -> str:
        "The whole page for a new tab"
        app = self.plugins.apps[tab.view.app]
        parts, older = self.chat.messages()
        pieces = {"bar": self.bar(tab.view), "left": self.left(tab.view), "app": app,
                  "messages": MessageList(parts, older), "status": self.chat.status(),
                  "palette": [a.at_end() for a in [*self.plugins.apps.values()]]}
        return Page(self.settings.app_name, tab.id, chosen["theme"], pieces)

    def left(self, view: View):
        "The left column: the open app"
        app = self.plugins.apps[view.app]
        calling.set(Call(view.tab))
        try: inner, url = app.page(view), app.address(view)
        except Exception as error:  # an app's page is plugin code: its error stays on its page
            logger.opt(exception=error).error("The page of {} failed", app.name)
            said, url = f"{type(error).__name__}: {error}", f"/app/{app.name}"
            inner = ErrorCard(f"The page of {app.title} failed", said, traceback.format_exc())
        inner = inner if isinstance(inner, tuple) else (inner,)
        return Section(*inner, id="grid-left", tabindex="-1", aria_label=app.title, data_app=app.name, data_url=url,
                       data_title=app.title)

    def bar(self, view: View):
        "The bar at the top: brand, profile, app, search, model, theme"
        profile, apps, look = current_profile(), self.plugins.apps, chosen["theme"]
        profiles = self.db.q("select id, name from profile order by position, id limit 50")
        here_now = next((p["name"] for p in profiles if p["id"] == profile), "none")
        title = apps[view.app].title if view.app in apps else "Apps"
        return Header(
            AppLink(self.settings.app_name, next(iter(apps), ""), cls="brand"),
            Menu("profile", here_now, "Profile",
                 *(ActionButton(p["name"], "profile.select", id=p["id"]) for p in profiles)),
            Menu("app-menu", title, "App",
                 *(AppLink(a.title, a.name, aria_current="page" if a.name == view.app else None)
                   for a in apps.values() if a.menu or a.name == view.app)),
            Button("Search or do… ", Kbd("Ctrl K"), id="open-palette", type="button", cls="quiet"),
            Span(cls="spacer"),
            Menu("model", self.models.label, "Model", *self.models.menu()),
            Button(LOOKS[look], id="theme", type="button", cls="quiet", aria_label=f"Theme: {look}",
                   title=f"Theme: {look}", data_value=look), id="nav")

    def everything(self, tab: Tab) -> list:
        "What a socket is sent when it opens: all that may have changed while nobody listened"
        parts, older = self.chat.messages()
        return [swap(self.left(tab.view)), swap(self.bar(tab.view)), swap(MessageList(parts, older)),
                *self.chat.status_parts(), *self._stream(tab)]

    # what an event changes on open pages
    def hear(self, event: Event) -> None:
        "Bring every open tab up to date; called once for each event, in commit order"
        if event.action == "app.open" and event.ok: self._open_app(event)
        for tab in self.chat.tabs.open.values():
            if tab.live and tab.view.app in self.plugins.apps: self._update(tab, event)
        if event.action == "approval.asked": self._show_question(event)
        elif event.actor == "model" and event.call.message: self._show_key(event)
        elif (key := self.keyboard.actions.get(event.action)) and key.heard: self.chat.fold(event)
        self._show_elsewhere(event)
    def _update(self, tab: Tab, event: Event) -> None:
        app = self.plugins.apps[tab.view.app]
        try: parts = app.shows(event, tab.view)
        except Exception as error:  # plugin code, as for pages
            logger.opt(exception=error).error("{} could not show {}", app.name, event.action)
            parts = REFRESH
        if parts == REFRESH: tab.send(swap(self.left(tab.view)))
        elif parts: tab.send(*parts)
    def _open_app(self, event: Event) -> None:
        tab = self.chat.tabs.open.get(event.call.tab)
        if not tab: return
        tab.view = View(event.args["app"], tab=tab.id)
        tab.send(swap(self.left(tab.view), "outerHTML"), swap(self.bar(tab.view)), *self._stream(tab))
    def _show_key(self, event: Event) -> None:
        row = self.db.one(f"{JOURNAL} where id=?", event.journal)
        if row: self.chat.tabs.send(Gone(f"#key-{event.journal}"), Into(f"#m{event.call.message}-keys", PlayKey(row)))
    def _show_question(self, event: Event) -> None:
        row = self.db.one("select * from approval where id=?", event.args["id"])
        self.chat.tabs.send(Into(f"#m{event.call.message}-keys", ApprovalCard(row)) if event.call.message
                            else Toast("The assistant asks for permission."))
    def _show_elsewhere(self, event: Event) -> None:
        send, table = self.chat.tabs.send, event.action.partition(".")
        if event.call.approval: send(Gone(f"#approval-{event.call.approval}"))
        if event.action == "approval.deny" and event.ok:
            send(swap(ApprovalCard(self.db.one("select * from approval where id=?", event.result["id"]))))
        if event.action == "journal.undo" and event.ok: self._show_undone(event)
        if event.action == "chat.clear" and event.ok: send(swap(MessageList([]), "outerHTML"))
        if table[0] in ("profile", "settings", "model") or event.action == "journal.undo":
            for tab in self.chat.tabs.open.values(): tab.send(swap(self.bar(tab.view)))
        undo = ActionButton("Undo", "journal.undo", id=event.journal) if event.undoable else ""
        if event.actor == "user" and event.ok and table[2] in ("delete", "clear"):
            name = (event.result or {}).get("name", "the chat")
            self.chat.tabs.get(event.call.tab).send(Toast(f"Deleted “{shorten(name, 60)}”. ", undo))
        if event.call.approval and event.actor == "model": self._tell_of_approval(event)
    def _show_undone(self, event: Event) -> None:
        row = self.db.one(f"{JOURNAL} where id=?", event.result["undone"])
        if row["message"]: self.chat.tabs.send(swap(PlayKey(row)))
        if row["action"] == "chat.clear":
            parts, older = self.chat.messages()
            self.chat.tabs.send(swap(MessageList(parts, older), "outerHTML"))
    def _tell_of_approval(self, event: Event) -> None:
        if event.action == "model.use": self.chat.again(event.call.turn, tab=event.call.tab)
        else: asyncio.create_task(self.chat.ask("(The person allowed it. Say in one short sentence what came of it.)",
                                                event.call.tab))


class NavigationApp(App):
    "Where a tab is"
    name = "app"

    @action("app.open", undo=False, resolve=lambda args: args | {"app": find_app(args["app"])},
            says=(("go to my profiles", {"app": "profiles"}), ("open the journal", {"app": "journal"})))
    def open(self, app: str):
        "Open an app in the left column"
        return {"app": app, "name": here().plugins.apps[app].title}

def find_app(wanted: str) -> str:
    "An app's name from its name or title, in any case; raises ConflictError with candidates"
    names = list(here().plugins.apps)
    named = [(i, n) for i, n in enumerate(names)] + [(i, here().plugins.apps[n].title) for i, n in enumerate(names)]
    exact = {squeeze(n): i for i, n in named}
    return names[exact[squeeze(wanted)] if squeeze(wanted) in exact
                 else pick_by_name(wanted, named[:len(names)], "app")]

def create_app(settings: Settings | None = None) -> FastHTML:
    "Build an app on its own data folder; uvicorn's factory. Nothing is opened before the server starts"
    settings = settings or Settings.from_env()
    if not is_loopback(settings.host) and not settings.token:
        raise PianolaError(f"HOST={settings.host} can be reached from other machines.",
                           "Set PIANOLA_TOKEN, or leave HOST alone.")
    pianola = Pianola(settings)

    async def lifespan(app):
        await pianola.open()
        yield
        await pianola.close()
    app = FastHTML(default_hdrs=False, canonical=False, sess_cls=None, secret_key="unused: there are no sessions",
                   title=pianola.settings.app_name, lifespan=lifespan, middleware=[Middleware(Gate, pianola=pianola)],
                   exception_handlers={PianolaError: error_reply})
    app.state.pianola = pianola
    add_routes(app)
    return app


class _Server(uvicorn.Server):
    "Uvicorn, told to stop replies first, so that Ctrl-C takes effect within a second"

    def handle_exit(self, sig, frame):
        "Stop the running reply, then everything"
        pianola = self.config.app.state.pianola
        hard = threading.Timer(0.9, lambda: (pianola.db.close(), os._exit(0)))  # a model that loads cannot be stopped
        hard.daemon = True
        hard.start()
        if pianola.loop: pianola.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(pianola.chat.stop()))
        super().handle_exit(sig, frame)

def serve(settings: Settings, reload: bool = False) -> int:
    "Check the way is free, say where it listens, serve until stopped; returns the exit code"
    try: _check_way(settings)
    except PianolaError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    show_figlet(settings.app_name, "slant")
    shown = "localhost" if is_loopback(settings.host) else settings.host
    console.print(f"Open http://{shown}:{settings.port} (Ctrl-C stops). Data in {settings.data.resolve()}",
                  markup=False)
    options = {"host": settings.host, "port": settings.port, "log_level": "warning", "timeout_graceful_shutdown": 1,
               "ws_ping_interval": 20, "ws_max_size": BODY_LIMIT}
    if reload:
        uvicorn.run("server:create_app", factory=True, reload=True, reload_includes=["*.py", "*.md"],
                    reload_excludes=["data/*"], **options)
        return 0
    server = _Server(uvicorn.Config(create_app(settings), **options))
    with contextlib.suppress(KeyboardInterrupt): server.run()
    return 0 if server.started else 1
def _check_way(settings: Settings) -> None:
    some_plugins(settings.plugins)
    db = Database(settings.data)
    db.open()
    db.close()
    if port_free(settings): return
    raise PianolaError(f"Port {settings.port} is taken by another program.",
                       f"Stop it, or start with PORT={settings.port + 1}.")

def port_free(settings: Settings) -> bool:
    "Whether we could listen"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try: s.bind((settings.host, settings.port))
        except socket.gaierror:
            cause = f"HOST={settings.host} is no address of this machine."
            raise PianolaError(cause, "Leave it at 127.0.0.1.") from None
        except OSError: return False
    return True

def main(argv: list[str] | None = None) -> int:
    "The command line: serve (default), doctor, new app NAME, and the verbs of plugins; returns the exit code"
    parser = argparse.ArgumentParser(prog="server.py",
                                     description="Pianola: notebook-style apps and a local model that plays them.")
    parser.add_argument("command", nargs="*", default=["serve"],
                        help="serve (default), doctor, new app NAME, models pull NAME, and what plugins add")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell everything")
    parser.add_argument("--reload", action="store_true", help="restart when a file of the framework changes")
    args = parser.parse_args(argv)
    try:
        settings = Settings.from_env()
        settings.verbose = args.verbose
        return _command(settings, args.command, args.reload)
    except PianolaError as error:
        console.print(str(error), style="red", markup=False)
        return 1
def _command(settings: Settings, words: list[str], reload: bool) -> int:
    if words == ["serve"]: return serve(settings, reload)
    verbs = {"serve": None}
    for file in plugin_files(settings.plugins): verbs |= import_plugin(file)[1].commands
    for verb, run in verbs.items():
        size = len(verb.split())
        if run and words[:size] == verb.split(): return run(settings, words[size:]) or 0
    raise PianolaError(f"There is no command {' '.join(words)!r}.", f"There are: {', '.join(verbs)}.")

if __name__ == "__main__":
    import server  # late: so that this file exists once, and plugins' `from server import …` are the same classes
    sys.exit(server.main())
