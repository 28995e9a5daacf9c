"""Ollama: the models of an Ollama server."""
import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable

import httpx

from server import (
    App, Chunk, DataTable, ModelError, ModelInfo, Options, P, PageHead, Provider, Usage, here, is_local_address, one_line, paced,
    shorten, silent, too_long)


class Ollama(App):
    "What an Ollama server has: its address is OLLAMA_HOST. Choose among them in the model menu."

    menu = False

    def start(self):
        "Be the first provider: without another choice its first model is used"
        here().models.providers["ollama"] = OllamaProvider(here().settings.ollama_host)

    def page(self, view):
        "Its models"
        provider = here().models.providers["ollama"]
        rows = [(i.name, f"{i.size / 1e6:,.0f} MB", ", ".join(sorted(i.capabilities))) for i in here().models.found
                if i.provider == "ollama"]
        where = P(f"At {provider.host}" + ("." if provider.local else ", on another machine."))
        none = P("It does not answer, or has no models: `ollama serve`, then `ollama pull NAME`.", cls="empty")
        return PageHead(self.title, self.__doc__), where, DataTable(("Model", "Size", "Can"), rows) if rows else none


class OllamaProvider(Provider):
    "Models of an Ollama server, through its official client; see OLLAMA.md for how it speaks"
    name = "ollama"

    def __init__(self, host: str | None = None):
        self.host = host or os.getenv("OLLAMA_HOST") or "127.0.0.1:11434"
        self.local = is_local_address(self.host)
        self._cards: dict[str, ModelInfo] = {}      # by digest: what /api/show said
        self._made = None

    @property
    def client(self):
        if self._made is None:
            self._made = _ollama_client()(self.host, timeout=httpx.Timeout(None, connect=5), follow_redirects=False,
                                          trust_env=not self.local)
        return self._made

    async def models(self) -> list[ModelInfo]:
        with self._errors():
            async with asyncio.timeout(10):
                found = (await self.client.list()).models
                return [await self._card(m) for m in found if m.model]

    async def _card(self, m) -> ModelInfo:
        "What a model can do, asked once. A model of a few hundred bytes is a stub: it runs in Ollama's cloud"
        from ollama import ResponseError        # late: half a second
        if m.digest and m.digest in self._cards: return self._cards[m.digest]
        try: show = await self.client.show(m.model)
        except ResponseError: return ModelInfo(m.model, self.name, int(m.size or 0), local=False)  # a broken one
        facts, size = show.modelinfo or {}, int(m.size or 0)
        context = next((v for k, v in facts.items() if k.endswith(".context_length") and isinstance(v, int)), 0)
        info = ModelInfo(m.model, self.name, size, _billions(m.details and m.details.parameter_size), context,
                         frozenset(show.capabilities or ()) | {"schema"},
                         self.local and size > 1_000_000 and not re.search(r"[:-]cloud$", m.model))
        if m.digest: self._cards[m.digest] = info
        return info

    async def stream(self, model, messages, *, tools=None, schema=None, options=Options()):
        started, finished = time.monotonic(), False
        think = False if schema else options.think
        wanted = {"num_ctx": options.context, "temperature": options.temperature, "num_predict": options.max_tokens}
        with self._errors(model):
            parts = await self.client.chat(model, _ollama_messages(messages), tools=tools, format=schema, stream=True,
                                           think=think, options={k: v for k, v in wanted.items() if v is not None})
            async with contextlib.aclosing(paced(parts, self.first, self.between)) as parts:
                async for part in parts:
                    finished = part.done or finished
                    yield _ollama_chunk(part, started)
        if not finished:
            raise ModelError(f"Ollama's connection ended in the middle of {model}'s reply.", "Ask again.")

    async def pull(self, name: str, report: Callable[[int, int, float], None]) -> None:
        "Have Ollama fetch a model; `report(bytes done, bytes in all, bytes a second)` is told how far it is"
        layers, status, began, at_first = {}, "", time.monotonic(), None
        with self._errors(name):
            parts = await self.client.pull(name, stream=True)
            async with contextlib.aclosing(paced(parts, self.first, self.between)) as parts:
                async for part in parts:
                    status = part.status or status
                    if not part.digest or not part.total: continue
                    layers[part.digest] = (part.completed or 0, part.total)
                    done, total = (sum(column) for column in zip(*layers.values()))
                    at_first = done if at_first is None else at_first
                    report(done, total, (done - at_first) / max(time.monotonic() - began, 0.001))
        if status != "success":
            raise ModelError(f"Ollama stopped fetching {name} at: {shorten(status) or 'nothing'}.", "Try again.")

    async def close(self):
        if self._made: await self._made.close()

    @contextlib.contextmanager
    def _errors(self, model: str = "a model"):
        "Whatever goes wrong at Ollama, as one sentence of cause and one of what to do"
        from ollama import ResponseError        # late: half a second
        try:
            yield
        except ResponseError as e:
            raise _ollama_error(e, model) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError):
            raise ModelError(f"Ollama does not answer at {self.host}.",
                             "Start it with `ollama serve`, or choose the embedded model.") from None
        except TimeoutError as e:
            raise silent(model, e) from None
        except httpx.HTTPError:
            raise ModelError(f"Ollama's connection broke in the middle of {model}'s reply.", "Ask again.") from None
        except (ValueError, AttributeError):        # a line that is no JSON, or no object
            raise ModelError(f"Ollama sent something unreadable in the middle of {model}'s reply.",
                             "Ask again; if it stays so, update Ollama.") from None

def _ollama_client():
    from ollama import AsyncClient      # late: half a second

    class Client(AsyncClient):
        "The official client, which has no `truncate`: without it Ollama cuts a long prompt silently"
        async def _request(self, cls, *args, **kw):
            if args[-1] == "/api/chat": kw["json"]["truncate"] = False
            return await super()._request(cls, *args, **kw)
    return Client

def _ollama_messages(messages: list[dict]) -> list[dict]:
    "Our messages in Ollama's words: arguments are an object, a result names its tool"
    def one(m):
        out = {"role": m["role"], "content": m.get("content") or ""}
        if m.get("calls"):
            out["tool_calls"] = [{"function": {"name": c["name"], "arguments": c["args"]}} for c in m["calls"]]
        return out | ({"tool_name": m["name"]} if m["role"] == "tool" and m.get("name") else {})
    return [one(m) for m in messages]

def _ollama_chunk(part, started: float) -> Chunk:
    message = part.message
    calls = [{"id": "call_" + secrets.token_hex(4), "name": c.function.name, "args": dict(c.function.arguments)}
             for c in message.tool_calls or ()]
    chunk = Chunk(message.content or "", message.thinking or "", calls)
    if part.done:
        out, spent = part.eval_count or 0, (part.eval_duration or 0) / 1e9
        chunk.usage = Usage(part.done_reason or "stop", part.prompt_eval_count or 0, 0, out,
                            time.monotonic() - started, rate=out / spent if spent else 0.0)
    return chunk

def _ollama_error(e, model: str) -> ModelError:
    said = one_line(e.error)
    if e.status_code == 404:
        return ModelError(f"Ollama has no model {model}.", "Pull it, or choose another in the model menu.")
    if e.status_code == 403:
        return ModelError("Ollama refused this program's address.",
                          "Set OLLAMA_HOST to the address Ollama itself listens on, usually 127.0.0.1:11434.")
    if e.status_code == -1:     # a bare error line in a stream that began well; its text may be about something else
        return ModelError(f"Ollama broke off in the middle of {model}'s reply: {said}",
                          "Ask again: it reloads the model by itself.")
    if "does not support" in said:
        return ModelError(f"Ollama says: {said}", "Choose another way to play, or another model, in the model menu.")
    if re.search(r"context|too long|exceed", said): return too_long(model)
    return ModelError(f"Ollama says ({e.status_code}): {said}", "Ask again, or choose another model.")

def _billions(text: str | None) -> float:
    "`134.52M` → 0.13452"
    found = re.match(r"([\d.]+)\s*([KMBT])", text or "")
    return float(found[1]) * {"K": 1e-6, "M": 1e-3, "B": 1, "T": 1e3}[found[2]] if found else 0.0
