"SYSTEM PROMPT: who the assistant is, in layers, read again when its file changes."
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from server import SystemPrompt


class Ollama(BaseHTTPRequestHandler):
    "As little of Ollama as a reply needs; `go` lets it speak, `asked` keeps what it was sent"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def _answer(self, value, kind="application/json"):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        "The models there are"
        details = {"parameter_size": "7B", "family": "llama"}
        self._answer({"models": [{"name": "quiet:latest", "model": "quiet:latest", "size": 5_000_000_000, "details": details}], "version": "0.32.15"})

    def do_POST(self):
        "What a model can, or a reply in two lines"
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/show": return self._answer({"capabilities": ["completion"], "details": {"parameter_size": "7B"}, "model_info": {}})
        self.server.asked.append(asked)
        self.server.go.wait(20)
        said = {"model": "quiet", "message": {"role": "assistant", "content": self.server.says}, "done": False}
        end = {**said, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 5, "eval_count": 2}
        self._answer(b"".join(json.dumps(x).encode() + b"\n" for x in (said, end)), "application/x-ndjson")


@pytest.fixture
def ollama():
    "A model server that answers `says` once `go` is set; its address is `url`"
    here = ThreadingHTTPServer(("127.0.0.1", 0), Ollama)
    here.daemon_threads, here.asked, here.go, here.says = True, [], threading.Event(), "Hello."
    here.go.set()
    here.url = f"http://127.0.0.1:{here.server_port}"
    threading.Thread(target=here.serve_forever, daemon=True).start()
    yield here
    here.go.set()
    here.shutdown()
    here.server_close()


@pytest.fixture
def talking(fresh, ollama, tmp_path):
    "A server with that model, playing in the json way"
    live = fresh(ollama_host=ollama.url, models=tmp_path / "none", prompt=tmp_path / "prompt.md", app_name="Orchestrion", model="ollama/quiet:latest")
    live.do("settings.set", key="way", value="json")
    return live


def front(ollama):
    "The system message of the last request"
    return ollama.asked[-1]["messages"][0]["content"]


def test_without_a_file_the_assistant_is_called_as_the_app_is(talking, ollama):
    assert talking.say("Hi")[-1]["done"]["state"] == "done" and front(ollama).startswith("Your name is Orchestrion.")


def test_the_file_is_read_again_at_the_next_turn_when_it_changed(talking, ollama, tmp_path):
    for text in ("You are Ada.", "You are Bob, a\u0301.", ""):
        (tmp_path / "prompt.md").write_text(text, encoding="utf-8")
        talking.say("Hi")
        assert front(ollama).startswith(text or "Your name is Orchestrion.")
    (tmp_path / "prompt.md").unlink()
    talking.say("Hi")
    assert front(ollama).startswith("Your name is Orchestrion.")


def test_a_file_that_is_not_text_does_not_silence_the_assistant(talking, tmp_path):
    (tmp_path / "prompt.md").write_bytes(b"You are \xff\xfe\x00 odd.")
    assert talking.say("Hi")[-1]["done"]["state"] == "done"


def test_the_layers_stand_in_their_order_and_manners_can_be_left_out(tmp_path):
    prompt, expert = SystemPrompt(tmp_path / "none.md", "P"), tmp_path / "expert.md"
    expert.write_text("Tides turn twice a day.")
    assert [layer.name for layer in prompt.layers("json", True, str(expert))] == ["who", "manners", "how to play", "expert"]
    assert [layer.name for layer in prompt.layers("json", manners=False)] == ["who", "how to play"]


@pytest.mark.parametrize("path", ["~nobody-here/x", "x" * 5000, "/", "/nowhere/x.md", "/proc/self/mem", "."])
def test_an_expert_file_that_cannot_be_read_does_not_silence_the_assistant(talking, path):
    assert talking.do("settings.set", key="expert", value=path)["status"] in (200, 422)
    assert talking.say("Hi")[-1]["done"]["state"] == "done"


def test_the_expert_is_in_the_front_and_the_page_shows_each_layer_as_sent(talking, ollama, tmp_path):
    (tmp_path / "expert.md").write_text("Tides turn twice a day.")
    talking.do("settings.set", key="expert", value=str(tmp_path / "expert.md"))
    talking.say("Hi")
    parts = talking.http.get("/context").json()["parts"]
    assert [p["part"] for p in parts[:4]] == ["who", "manners", "how to play", "expert"] and all(p["text"] in front(ollama) for p in parts[:4])


def test_the_front_stays_the_same_from_turn_to_turn(talking, ollama):
    for line in ("One", "Two", "Three"):
        talking.do("task.insert", name=line)
        talking.say(line)
    assert len({a["messages"][0]["content"] for a in ollama.asked}) == 1
    short, long = ollama.asked[-2]["messages"], ollama.asked[-1]["messages"]
    assert long[:len(short)] == short
