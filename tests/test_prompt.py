"SYSTEM PROMPT: who the assistant is, in layers, read again when its file changes."
import pytest
from browser import ollama, talk  # noqa: F401  (fixtures)
from server import SystemPrompt


@pytest.fixture
def talking(talk, tmp_path):  # noqa: F811
    "A server with a model that plays in the json way, its prompt in a file"
    return talk(prompt=tmp_path / "prompt.md", app_name="Orchestrion")


def front(ollama):
    "The system message of the last request"
    return ollama.requests[-1]["messages"][0]["content"]


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
    assert len({a["messages"][0]["content"] for a in ollama.requests}) == 1
    short, long = ollama.requests[-2]["messages"], ollama.requests[-1]["messages"]
    assert long[:len(short)] == short
