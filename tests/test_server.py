"SERVER: whole processes, started as a person starts them."
import asyncio
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import NO_OLLAMA, ROOT, as_process, free_port, in_thread

import server

OURS = ("PIANOLA_", "OPENAI_", "OLLAMA_", "HOST", "PORT", "APP_NAME")
BARE = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}


@pytest.fixture
def run(tmp_path):
    "`run(\"doctor\", PORT=…)`: the command line in an empty folder, to its end; gives code and output"
    def go(*words, **env):
        given = {**BARE, "PIANOLA_DATA": str(tmp_path / "data"), "PIANOLA_MODELS": str(tmp_path / "models"),
            "OLLAMA_HOST": NO_OLLAMA,
                 "PIANOLA_OFFLINE": "1", "COLUMNS": "160", "PORT": str(free_port()), **env}
        given = {k: v for k, v in given.items() if v is not None}
        done = subprocess.run([sys.executable, str(ROOT / "server.py"), *words], env=given, cwd=tmp_path, text=True,
            timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout
    return go


def ended(process) -> str:
    "Stop a server as Ctrl-C does; all it said"
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=15)[0].decode()


def health(live) -> dict: return live.http.get("/health").json()


# ---- commands

def test_doctor_shows_a_table_with_a_next_step_for_what_is_missing(run, tmp_path):
    code, out = run("doctor")
    assert code == 0
    for word in ("Python", "Ollama", "data folder", "port", "next step", "models pull qwen2.5-coder-0.5b",
        "Optional: start it"):
        assert word in out, word
    assert "Traceback" not in out and list(tmp_path.iterdir()) == []


def test_doctor_says_yes_to_what_works_and_finds_a_taken_port(run, live):
    _, out = run("doctor", PORT=str(live.http.base_url.port))
    rows = [[c.strip() for c in re.split("[│┃|]", line)[1:-1]] for line in out.splitlines() if "│" in line]
    told = {row[0]: row[1:] for row in rows}
    assert told["Python"][0] == told["data folder"][0] == "yes" and told["Python"][-1] == ""
    assert told["port"][0] == "no" and f"PORT={live.http.base_url.port + 1}" in told["port"][-1]


def test_help_tells_of_the_commands(run):
    code, out = run("--help")
    assert code == 0 and "Traceback" not in out
    for word in ("serve", "doctor", "new app NAME", "--verbose", "--reload"): assert word in out, word


@pytest.mark.parametrize("words", [("nonsense",), ("models", "push")])
def test_an_unknown_command_is_told_with_those_there_are(run, words):
    code, out = run(*words)
    assert code == 1 and f"There is no command {' '.join(words)!r}." in out.replace("\n", " ")
    assert "doctor" in out and "new app" in out and "Traceback" not in out



def test_new_app_says_what_it_wrote_and_what_to_do_next(run, tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "080_workshop.py").write_text((ROOT / "plugins/080_workshop.py").read_text())
    code, out = run("new", "app", "recipes", PIANOLA_PLUGINS=str(folder))
    assert code == 0 and "090_recipes.py" in out.replace("\n", "") and "Start the server" in out.replace("\n", " ")
    assert (folder / "090_recipes.py").is_file()
    code, out = run("new", "app", "Bad Name!", PIANOLA_PLUGINS=str(folder))
    assert code == 1 and "cannot be an app's name" in out and "Traceback" not in out



def test_an_open_address_without_a_token_is_refused(run):
    code, out = run(HOST="0.0.0.0")
    assert code == 1 and "PIANOLA_TOKEN" in out and "Traceback" not in out


# ---- settings

def test_a_line_of_env_counts_at_the_start(run, tmp_path):
    (tmp_path / ".env").write_text("PORT=70000\n")
    code, out = run("doctor", PORT=None)
    assert code == 1 and "PORT='70000' is not a port number. Use a number from 1 to 65535." in out


def test_what_the_environment_says_counts_before_a_line_of_env(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text('APP_NAME="My piano"  # mine\nPIANOLA_MODEL=ollama/llama3.2\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("APP_NAME", raising=False)
    monkeypatch.setenv("PIANOLA_MODEL", "ollama/other")
    found = server.Settings.from_env()
    assert (found.app_name, found.model) == ("My piano", "ollama/other")


@pytest.mark.parametrize("model", ["ollama/llama3.2", "embedded//path/to.gguf"])
def test_the_model_of_the_environment_is_used(tmp_path, model):
    with as_process(tmp_path / "data", PIANOLA_MODEL=model, PIANOLA_MODELS=str(tmp_path)) as (live, _):
        deadline = time.monotonic() + 10
        while not health(live)["model"] and time.monotonic() < deadline: time.sleep(0.02)
        assert "/".join([health(live)["provider"], health(live)["model"]]) == model
        done = live.say("hello")[-1]["done"]
        assert done["state"] == "failed"
        assert "Traceback" not in live.http.get("/").text


# ---- start, chat and stop without any model

@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    "A whole process without any model, and all about its start: (Live, Popen, seconds of work until it answered)"
    folder = tmp_path_factory.mktemp("bare")
    with as_process(folder / "data", PIANOLA_MODELS=str(folder / "none"), APP_NAME="Piano", COLUMNS="160") as (live,
    process):
        times = psutil.Process(process.pid).cpu_times()
        yield live, process, times.user + times.system


def test_it_opens_within_three_seconds_of_work(bare):
    live, _, worked = bare
    assert live.http.get("/").status_code == 200
    assert worked < 3  # of the processor, so that a busy machine fails no test


def test_the_page_says_that_there_is_no_model(bare):
    live, _, _ = bare
    assert health(live) == {"status": "ok", "model": "", "provider": "", "plugins": health(live)["plugins"],
        "errors": {}}
    assert "no model" in live.http.get("/").text.lower()


def test_the_chat_says_what_to_do_without_a_model(bare):
    live, _, _ = bare
    assert live.say("hello")[-1]["done"]["state"] == "failed"
    text = re.sub("<[^>]+>", " ", live.http.get("/messages").text)
    assert "There is no language model yet." in text and "Start Ollama" in text and "Models page" in text
    assert "Traceback" not in text and "Look at the models" in text


def test_the_apps_work_without_a_model(bare):
    live, _, _ = bare
    assert live.do("task.insert", name="Buy milk")["ok"] and live.rows()[0]["name"] == "Buy milk"
    assert live.say("/task.insert Buy tea")[-1]["done"]["state"] == "done" and live.rows()[1]["name"] == "Buy tea"


def test_a_second_start_on_the_same_folder_says_so_and_harms_nothing(bare, run):
    live, _, _ = bare
    code, out = run(PIANOLA_DATA=str(live.data))
    assert code == 1 and "Another Pianola is using" in out and "PIANOLA_DATA" in out and "Traceback" not in out
    assert health(live)["status"] == "ok"



def test_the_start_says_its_name_in_big_letters_and_its_address(bare):
    live, process, _ = bare  # the last test of `bare`: it stops it
    said = ended(process)
    address = f"http://localhost:{live.http.base_url.port}"
    assert f"Open {address}" in said and "Ctrl-C" in said and str(live.data) in said.replace("\n", "")
    assert re.search(r"^ *____", said[:said.index(address)], re.M) and "Traceback" not in said
    assert process.returncode == 0


def test_it_starts_again_on_the_folder_it_left_and_tells_everything_under_v(process, tmp_path):
    quiet = {"PIANOLA_MODELS": str(tmp_path / "none"), "COLUMNS": "160"}
    live, first = process(**quiet)
    assert live.do("task.insert", name="Buy milk")["ok"] and live.do("task.insert", name="Buy tea")["ok"]
    assert "Traceback" not in ended(first) and first.returncode == 0
    live, second = process("-v", "serve", **quiet)
    heard = [c.laddr.ip for c in psutil.Process(second.pid).net_connections("inet") if c.status == "LISTEN"]
    assert [r["name"] for r in live.rows()] == ["Buy milk", "Buy tea"] and heard == ["127.0.0.1"]
    said = ended(second)
    assert "keyboard" in said and "task.insert" in said and "Traceback" not in said


class Endless(server.Provider):
    "Begins to speak and never ends"
    name = "endless"

    async def models(self): return []

    async def stream(self, model, messages, **more):
        yield server.Chunk("Once upon a time")
        await asyncio.Event().wait()


def test_a_running_reply_does_not_keep_it_from_stopping(tmp_path):
    with in_thread(tmp_path / "data") as live:
        live.pianola.models.providers["endless"], live.pianola.models.current = Endless(), "endless/story"
        with live.http.stream("POST", "/chat", json={"msg": "Tell me a story"}) as reply: next(reply.iter_lines())
    db = server.Database(tmp_path / "data")
    db.open()  # the folder is free: the server has closed it
    assert db.q("select state from message where role='assistant'") == [{"state": "stopped"}]
    db.close()
