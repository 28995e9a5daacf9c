"LOGGING: one line a request, tables for people, no secrets."
import re
import signal

import pytest
from test_keyboard import wait_for
from browser import ollama  # noqa: F401  (a fixture)

SECRETS = {"OPENAI_API_KEY": "sk-Quietschebaum-key", "PIANOLA_TOKEN": "Quietschebaum-token"}


def log(live): return (live.data / "logs" / "pianola.log").read_text()


def test_each_request_is_one_line_with_method_path_status_time_and_actor(fresh):
    live = fresh(models="none")
    live.http.get("/journal?actor=secret")
    live.http.post("/do/task.insert", json={"name": "x"}, headers={"x-tab": "t"})
    live.do("nope")
    wanted = (r"GET /journal 200 \d+ ms client", r"POST /do/task.insert 200 \d+ ms user", r"POST /do/nope 404 \d+ ms client")
    wait_for(lambda: [sum(bool(re.search(p, r)) for r in log(live).splitlines()) for p in wanted] == [1, 1, 1])
    assert "secret" not in log(live)


@pytest.mark.parametrize("path", ["/%0A2026-01-01 00:00:00.000 ERROR   all is lost", "/%1b[2J%1b]0;title%07", "/%0d%0aforged", "/[red]x[/red]{}{0}"])
def test_a_path_cannot_forge_a_line_or_steer_the_terminal(fresh, path):
    live = fresh(models="none")
    assert live.http.get(path).status_code == 404
    wait_for(lambda: " 404 " in log(live))
    after = log(live)
    assert len(after.splitlines()) == 1 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", after)


def test_a_failure_keeps_its_traceback_in_the_log_and_not_in_the_answer(fresh, monkeypatch):
    live = fresh(models="none")
    monkeypatch.setattr(live.pianola.plugins.apps["tasks"], "_stored", lambda row: 1 / 0)
    found = live.do("task.insert", name="x")
    assert found["status"] == 422 and "Traceback" not in found["error"]["message"] and "Traceback" in log(live) and "_stored" in log(live)


def everything_about(live):
    "All a stranger could read: every file of the data folder, the journal, the context, each page"
    files = b"".join(p.read_bytes() for p in live.data.rglob("*") if p.is_file()).decode("utf-8", "replace")
    paths = ["/journal?limit=1000", "/context", "/health", "/do", *(f"/app/{a}" for a in live.http.get("/health").json()["plugins"])]
    return files + "".join(live.http.get(p).text for p in paths)


def test_no_secret_is_in_any_file_or_answer(process, ollama, tmp_path):  # noqa: F811
    live, popen = process("-v", **SECRETS, OPENAI_BASE_URL=f"{ollama.url}/v1", OLLAMA_HOST=ollama.url, PIANOLA_MODELS=str(tmp_path / "none"), PIANOLA_MODEL="openai/quiet")
    live.do("task.insert", name="x")
    live.say("Hi")
    live.http.get("/journal", headers={"authorization": f"Bearer {SECRETS['PIANOLA_TOKEN']}x"})
    live.http.post("/token", data={"token": "wrong" + SECRETS["PIANOLA_TOKEN"][5:]})
    found = everything_about(live)
    popen.send_signal(signal.SIGINT)
    said = popen.communicate(timeout=10)[0].decode("utf-8", "replace")
    assert "Quietschebaum" not in found and "Quietschebaum" not in said and len(said) > 500


def test_the_console_is_quiet_and_v_tells_all(process, tmp_path):
    def said(*words):
        live, popen = process(*words, PIANOLA_MODELS=str(tmp_path / "none"), COLUMNS="200")
        live.do("task.insert", name="x")
        popen.send_signal(signal.SIGINT)
        return popen.communicate(timeout=10)[0].decode()
    quiet, loud = said(), said("-v")
    assert "Traceback" not in quiet + loud and len(quiet.splitlines()) < 15 and "Open http://localhost" in quiet
    assert "keyboard" in loud and "task.insert" in loud and len(loud.splitlines()) > 40
