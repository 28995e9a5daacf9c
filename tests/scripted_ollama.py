"""A small HTTP server that speaks Ollama's wire format as recorded from a real one (0.32), and says what a test wants.

    with ScriptedOllama() as ollama:
        ollama.replies += ["Hello.", says("Hello", gate, " you."), dies("The night"), silent(5), fails(500, "it broke")]
        provider = OllamaProvider(ollama.url)

A reply is a text, said in small pieces, or a list of steps: bytes go out as one line, a number waits so many seconds,
an Event until it is set, CUT closes the connection with no end. Where no reply is left it says "All right."; a request
for JSON takes the next reply only if that is JSON, else nothing is to be played. `requests` is what was asked,
`hung_up` is set when a client closed its connection in the middle of a reply.
What a real server refuses by itself is refused here: an unknown model, a foreign Host or Origin, tools or thinking on a
model without, arguments that are no object, a prompt that is too long (with `truncate: false`).
"""
import contextlib
import datetime as dt
import http.server
import json
import select
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate

CUT, NAME = "cut", "smollm2:135m"
NOTHING = '{"action": "none", "args": {}}'


@dataclass
class Model:
    name: str = NAME
    size: int = 270_898_672
    params: str = "134.52M"
    context: int = 8192
    can: tuple = ("completion",)

    @property
    def tag(self):
        "The model as /api/tags lists it"
        return {"name": self.name, "model": self.name, "modified_at": "2026-11-21T03:09:30.1Z", "size": self.size,
                "digest": f"{self.name}{self.size}".encode().hex(),
                "details": {"parameter_size": self.params, "family": "llama"}}

    @property
    def card(self):
        "The model as /api/show tells of it"
        return {"details": {"parameter_size": self.params}, "capabilities": list(self.can),
                "model_info": {"general.architecture": "llama", "llama.context_length": self.context}}


@dataclass
class Reply:
    steps: list = field(default_factory=list)
    status: int = 200
    error: str = ""

    @property
    def opening(self) -> bytes: return next((step for step in self.steps if isinstance(step, bytes)), b"")


def encode(data: dict) -> bytes:
    "JSON as Go writes it: no spaces, and the three signs of HTML escaped"
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029": text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()


def now() -> str:
    "This moment with nanoseconds"
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.time_ns() % 10**9:09}Z"


def part(model: str = NAME, at: str = "", **message) -> bytes:
    message = {"role": "assistant", "content": "", **message}
    return encode({"model": model, "created_at": at or now(), "message": message, "done": False})


def end(model: str = NAME, at: str = "", reason: str = "stop", **counters) -> bytes:
    counts = {"total_duration": 888150827, "load_duration": 790521804, "prompt_eval_count": 13,
              "prompt_eval_duration": 31272000, "eval_count": 12, "eval_duration": 63538000} | counters
    if reason in ("load", "unload"): counts = {}
    return encode({"model": model, "created_at": at or now(), "message": {"role": "assistant", "content": ""},
                   "done": True, "done_reason": reason, **counts})


def told(texts: tuple, *last) -> Reply:
    "A reply of texts, and of what to wait for between them"
    return Reply([part(content=text) if isinstance(text, str) else text for text in texts] + [*last])


def says(*texts: str | float | threading.Event, thinking: str = "", calls: tuple = (), reason: str = "stop",
         **counters) -> Reply:
    "A whole reply; `calls` are (name, arguments) and come in one chunk, as they do"
    steps = [part(thinking=thinking)] if thinking else []
    steps += told(texts).steps
    made = [{"id": f"call_{n:08}", "function": {"index": n, "name": name, "arguments": args}}
            for n, (name, args) in enumerate(calls)]
    return Reply(steps + ([part(tool_calls=made)] if made else []) + [end(reason=reason, **counters)])


def dies(*texts: str, error: str = "an error was encountered while running the model: unexpected EOF") -> Reply:
    "HTTP stays 200; the last line is a bare error"
    return told(texts, encode({"error": error}))


def garbles(*texts: str, line: bytes = b"<html>") -> Reply: return told(texts, line)
def cut(*texts: str) -> Reply: return told(texts, CUT)
def silent(seconds: float, *texts: str) -> Reply: return told(texts, seconds, end())
def endless(text: str = "on and on ") -> Reply: return Reply([part(content=text), 0.01] * 2000)
def fails(status: int, error: str = "") -> Reply: return Reply([], status, error)
def pulls(total: int = 1000, pieces: int = 4) -> Reply:
    "The lines of /api/pull"
    layer = {"status": "pulling 4fde8ac4", "digest": "sha256:4fde8ac4", "total": total}
    states = [{"status": "pulling manifest"}, layer]
    states += [layer | {"completed": total * n // pieces} for n in range(1, pieces + 1)]
    states += [{"status": s} for s in ("verifying sha256 digest", "writing manifest", "success")]
    return Reply([encode(s) for s in states])


class ScriptedOllama:
    def __init__(self, *models: Model):
        self.models = list(models or [Model()])
        self.replies: list[Reply | str] = []
        self.requests: list[dict] = []
        self.hung_up = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"ollama": self}))
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None      # a client that went away
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def model(self, name: str) -> Model | None:
        return next((m for m in self.models if m.name in (name, f"{name}:latest")), None)

    def reply(self, constrained: bool) -> Reply:
        "The next of `replies`; one that is no JSON is left for the words that follow: a schema lets only JSON through"
        first = self.replies[0] if self.replies else ""
        is_json = first.startswith("{") if isinstance(first, str) else b'"content":"{' in first.opening
        if constrained and not is_json: found = NOTHING
        else: found = self.replies.pop(0) if self.replies else "All right."
        return found if isinstance(found, Reply) else says(*(found[at:at + 7] for at in range(0, len(found), 7)))

    def refusal(self, body: dict) -> tuple[int, str] | None:
        "What a real server would not do, as status and error"
        model, messages = self.model(body["model"]), body.get("messages") or []
        if not model: return 404, f"model '{body['model']}' not found"
        if body.get("tools") and "tools" not in model.can:
            return 400, f"registry.ollama.ai/library/{model.name} does not support tools"
        if body.get("think") and "thinking" not in model.can: return 400, f'"{model.name}" does not support thinking'
        if body.get("format") not in (None, "", "json") and not isinstance(body["format"], dict):
            said = json.dumps(json.dumps(body["format"]))
            return 500, f'invalid format: {said}; expected "json" or a valid JSON Schema object'
        if any(not isinstance(c["function"]["arguments"], dict) for m in messages for c in m.get("tool_calls") or ()):
            return 400, "Value looks like object, but can't find closing '}' symbol"
        words = sum(len((m.get("content") or "").split()) for m in messages)
        room = body.get("options", {}).get("num_ctx", 4096)
        if words > room and body.get("truncate") is False: return 400, "the prompt is longer than the context length"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ollama: ScriptedOllama

    def log_message(self, *_): pass

    def do_GET(self):
        if self._foreign(): return
        if self.path == "/api/tags": return self._whole({"models": [m.tag for m in self.ollama.models]})
        if self.path == "/api/ps": return self._whole({"models": [self.ollama.models[0].tag]})
        if self.path == "/api/version": return self._whole({"version": "0.32.15"})
        names = [{"id": m.name, "object": "model", "created": 0, "owned_by": "library"} for m in self.ollama.models]
        if self.path == "/v1/models": return self._whole({"object": "list", "data": names})
        self._whole({"error": "not found"}, 404)

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"] or 0))
        if self._foreign(): return
        try: body = json.loads(raw)
        except ValueError: return self._whole({"error": "unexpected EOF"}, 400)
        if self.path == "/api/show":
            model = self.ollama.model(body["model"])
            if model: return self._whole(model.card)
            return self._whole({"error": f"model '{body['model']}' not found"}, 404)
        headers = {k.lower(): v for k, v in self.headers.items()}
        self.ollama.requests.append({"path": self.path, "headers": headers, **body})
        refused = self.path == "/api/chat" and self.ollama.refusal(body)
        if refused: return self._whole({"error": refused[1]}, refused[0])
        if self.path == "/api/chat" and not body.get("messages"):
            done = "unload" if body.get("keep_alive") == 0 else "load"
            return self._whole(json.loads(end(body["model"], reason=done)))
        reply = self.ollama.reply(bool(body.get("format")))
        sse = self.path.startswith("/v1/")
        wrong = {"error": {"message": reply.error, "type": "api_error"} if sse else reply.error}
        if reply.status != 200: return self._whole(wrong, reply.status)
        with contextlib.suppress(OSError): self._stream(reply, sse, body.get("model", NAME))

    def _foreign(self) -> bool:
        "An empty 403 for somebody else's page or name"
        origin = self.headers["origin"]
        ours = not origin or "//127.0.0.1" in origin or "//localhost" in origin
        if self.headers["host"] == self.ollama.host and ours: return False
        self._head(403, ("Content-Length", "0"))
        return True

    def _head(self, status: int, *headers):
        self.send_response_only(status)
        for name, value in (*headers, ("Date", formatdate(usegmt=True))): self.send_header(name, value)
        self.end_headers()

    def _whole(self, data: dict, status: int = 200):
        body = encode(data)
        self._head(status, ("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body))))
        self.wfile.write(body)

    def _stream(self, reply: Reply, sse: bool, model: str):
        kind = "text/event-stream" if sse else "application/x-ndjson"
        self._head(200, ("Content-Type", kind), ("Transfer-Encoding", "chunked"))
        for step in reply.steps:
            if step == CUT: return self._cut()
            if isinstance(step, bytes):
                line = step.replace(encode({"model": NAME})[1:-1], encode({"model": model})[1:-1], 1)
                self._chunk(as_openai(line) if sse else line + b"\n")
            elif self._gone(step):
                self.ollama.hung_up.set()
                return self._cut()
        if sse: self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _gone(self, step: float | threading.Event) -> bool:
        "Wait; true if the client went away meanwhile (it sends nothing now, so that a byte to read is its end)"
        gate = step if isinstance(step, threading.Event) else threading.Event()
        until = time.monotonic() + (20 if gate is step else step)
        while not gate.is_set() and (left := until - time.monotonic()) > 0:
            if select.select([self.connection], [], [], min(left, 0.02))[0]: return True
        return False

    def _chunk(self, data: bytes):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _cut(self):
        self.close_connection = True
        with contextlib.suppress(OSError): self.connection.shutdown(2)


def as_openai(line: bytes) -> bytes:
    "The same piece as /v1/chat/completions sends it: tool arguments as a string, cut in two; the usage with the end"
    try: data = json.loads(line)
    except ValueError: return b"data: " + line + b"\n\n"
    if "error" in data: return b"data: " + encode({"error": {"message": data["error"], "type": "api_error"}}) + b"\n\n"
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": data["model"]}
    def piece(delta, reason=None): return base | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    if data["done"]:
        usage = {"prompt_tokens": data["prompt_eval_count"], "completion_tokens": data["eval_count"],
                 "total_tokens": 25, "prompt_tokens_details": {"cached_tokens": 7}}
        lines = [piece({}, data["done_reason"]), base | {"choices": [], "usage": usage}]
    else: lines = [piece(delta) for delta in deltas(data["message"])]
    return b"".join(b"data: " + encode(c) + b"\n\n" for c in lines)


def deltas(message: dict) -> list[dict]:
    "What one message of Ollama's is in OpenAI's pieces"
    text = {"role": "assistant", "content": message["content"]}
    if message.get("thinking"): text["reasoning"] = message["thinking"]
    out = []
    for n, call in enumerate(message.get("tool_calls") or ()):
        name, args = call["function"]["name"], json.dumps(call["function"]["arguments"])
        out += [{"tool_calls": [{"index": n, "id": call["id"], "type": "function",
                                 "function": {"name": name, "arguments": args[:5]}}]},
                {"tool_calls": [{"index": n, "function": {"arguments": args[5:]}}]}]
    return out or [text]
