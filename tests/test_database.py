"DATABASE: one writer, many readers, migrations, and nothing answered is ever lost."
import datetime as dt
import json
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import NO_OLLAMA, ROOT, free_port, in_thread
from test_keyboard import assert_journal_and_table_agree, wait_for

import server


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    "One server for this module, without any model"
    with in_thread(tmp_path_factory.mktemp("data"), models=tmp_path_factory.mktemp("none")) as found: yield found


@pytest.fixture
def start(tmp_path):
    "Run server.py to its end, as a user would; (exit code, what it said)"
    def run(*words, seconds=20, **env):
        given = {"PATH": "/usr/bin", "HOME": str(tmp_path), "COLUMNS": "300", "PIANOLA_DATA": str(tmp_path / "data"), "PORT": str(free_port()),
                 "OLLAMA_HOST": NO_OLLAMA, "PIANOLA_OFFLINE": "1", **env}
        done = subprocess.run([sys.executable, str(ROOT / "server.py"), *words], env=given, cwd=tmp_path, capture_output=True, text=True, timeout=seconds)
        return done.returncode, done.stdout + done.stderr
    return run


# what lasts

def insert_until_refused(url, names, answered):
    "Insert `names`, noting those answered, until the server is gone"
    with httpx.Client(base_url=url, timeout=10) as http:
        for name in names:
            try: reply = http.post("/do/task.insert", json={"name": name})
            except httpx.HTTPError: return
            if reply.status_code == 200: answered.append(name)


def test_kill_9_in_the_middle_of_500_inserts_loses_none_that_was_answered(process, tmp_path):
    live, popen = process(PIANOLA_MODELS=str(tmp_path / "none"))
    answered: list = []
    with ThreadPoolExecutor(4) as pool:
        for part in range(4): pool.submit(insert_until_refused, live.url, [f"{part} {i}" for i in range(125)], answered)
        wait_for(lambda: len(answered) > 200, 30)
        popen.kill()
    assert 200 < len(answered) < 500
    with in_thread(tmp_path / "data", models=tmp_path / "none") as again:
        kept = again.pianola.db.one("select count(*) as n from task")["n"]
        assert set(answered) <= {r["name"] for r in again.rows(limit=1000)} and kept - len(answered) <= 4
        assert_journal_and_table_agree(again, kept, 0)
        assert again.pianola.db.one("pragma integrity_check")["integrity_check"] == "ok"


def test_an_answer_means_the_row_is_on_the_disk(live):
    mode = live.pianola.db.write_now(lambda: live.pianola.db.conn.pragma("synchronous"))
    assert mode == 2 and live.pianola.db.one("pragma journal_mode")["journal_mode"] == "wal"


# readers and the writer

def test_a_reader_cannot_write(live):
    with pytest.raises(server.apsw.ReadOnlyError): live.pianola.db.do("delete from profile")


def test_what_raises_in_the_writer_leaves_nothing_behind(live):
    def half():
        server.current.set(live.pianola)
        server.store["half"] = 1
        raise KeyError("half way")
    with pytest.raises(KeyError): live.pianola.db.write_now(half)
    assert live.do("store.get", key="half")["result"] is None


def test_a_new_reader_never_gets_in_the_writers_way(fresh):
    db = fresh(models="none").pianola.db
    def work():
        before = db.one("select count(*) as n from task")["n"]
        reader = threading.Thread(target=db.one, args=("select count(*) as n from task",))
        reader.start()
        reader.join()
        return db.insert("task", name="x", position=before, profile_id=1)
    db.write_now(lambda: [db.insert("task", name=str(i), position=i, profile_id=1) for i in range(500)])
    assert db.write_now(work) == 501


def test_readers_of_threads_that_ended_are_closed(fresh):
    live = fresh(models="none")
    def read_in_a_thread():
        reader = threading.Thread(target=live.pianola.db.one, args=("select 1",))
        reader.start()
        reader.join()
    for _ in range(200): read_in_a_thread()
    assert len(live.pianola.db._readers) < 100, "connections pile up, one a thread"


# one server a folder

def test_a_second_server_on_the_same_folder_says_so_and_exits_with_1(live, start):
    code, said = start(PIANOLA_DATA=str(live.data))
    assert code == 1 and "Another Pianola is using" in said and "PIANOLA_DATA" in said and "Traceback" not in said


def test_a_stopped_servers_folder_is_free_again(tmp_path):
    for _ in range(2):
        with in_thread(tmp_path, models=tmp_path) as live: assert live.do("task.insert", name="x")["ok"]


@pytest.mark.parametrize("harm", ["garbage", "newer", "a file"])
def test_a_data_folder_that_cannot_be_used_is_told_in_a_sentence(start, tmp_path, harm):
    data = tmp_path / "data"
    if harm == "a file": data.write_text("not a folder")
    else: data.mkdir()
    if harm == "garbage": (data / "app.db").write_bytes(b"garbage " * 1000)
    if harm == "newer": sqlite3.connect(data / "app.db").execute("pragma user_version=99")
    code, said = start(seconds=10)
    assert code == 1 and "Traceback" not in said and str(data) in said, said


# migrations

def test_an_empty_folder_gets_the_whole_schema(live):
    db = live.pianola.db
    assert db.one("pragma user_version")["user_version"] == len(server.MIGRATIONS) and live.rows("profile")[0]["name"] == "Default"
    assert db.q("pragma foreign_key_check") == []


def test_an_old_folder_is_brought_up_to_date_and_keeps_its_rows(tmp_path, monkeypatch):
    with in_thread(tmp_path, models=tmp_path) as live: live.do("task.insert", name="old")
    monkeypatch.setattr(server, "MIGRATIONS", (*server.MIGRATIONS, "create table later(id integer primary key); insert into later values(7)"))
    with in_thread(tmp_path, models=tmp_path) as live:
        assert live.pianola.db.q("select id from later") == [{"id": 7}] and live.rows()[0]["name"] == "old"
        assert live.pianola.db.one("pragma user_version")["user_version"] == len(server.MIGRATIONS)


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "MIGRATIONS", (*server.MIGRATIONS, "create table half(id integer primary key); insert into nowhere values(1)"))
    db = server.Database(tmp_path / "again")
    with pytest.raises(Exception): db.open()  # noqa: B017, PT011  (whatever says so)
    found = sqlite3.connect(tmp_path / "again" / "app.db")
    assert found.execute("select count(*) from sqlite_master where name='half'").fetchone() == (0,)
    assert found.execute("pragma user_version").fetchone()[0] in (0, len(server.MIGRATIONS) - 1)


def test_a_folder_whose_opening_failed_is_not_left_locked(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(server, "MIGRATIONS", ("not sql",))
        with pytest.raises(Exception): server.Database(tmp_path).open()  # noqa: B017, PT011
    db = server.Database(tmp_path)
    db.open()
    db.close()


# small values

def test_the_store_is_a_dict_that_lasts(live):
    for key, value in (("name", "Ada"), ("n", 3), ("list", [1, {"a": None}]), ("ünï", "✓"), ("none", None)):
        assert live.do("store.set", key=key, value=value)["ok"] and live.do("store.get", key=key)["result"] == value
    assert live.do("store.delete", key="n")["ok"] and live.do("store.get", key="n")["result"] is None


def test_what_is_not_in_the_store_cannot_be_deleted(live):
    assert live.do("store.delete", key="nothing")["status"] == 409


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")], {"a": float("nan")}])
def test_what_is_not_json_is_not_kept(live, value):
    reply = live.http.post("/do/store.set", content=json.dumps({"key": "odd", "value": value}))
    assert reply.status_code == 422 and "NaN" not in live.http.get("/journal").text and "Infinity" not in live.http.get("/journal").text


@pytest.mark.parametrize("value", ["x" * 200_000, ["x" * 200_000], {"a": {"b": "x" * 200_000}}])
def test_a_fact_has_the_limits_of_any_text(live, value):
    assert live.do("store.set", key="long", value=value)["status"] == 422


# forgetting

UNIQUE = "Zanzibarquietschebaum"


def holds(folder, word):
    "The files under `folder` that hold `word`"
    return [p.name for p in folder.rglob("*") if p.is_file() and word.encode() in p.read_bytes()]


def test_forgetting_removes_the_bytes(fresh):
    live = fresh(models="none")
    live.do("task.insert", name=UNIQUE)
    live.do("task.update", id=UNIQUE, set={"name": "plain"})
    live.do("store.set", key="k", value=UNIQUE)
    live.do("store.delete", key="k")
    live.pianola.db.write_now(lambda: live.pianola.conversation.add("user", f"I said {UNIQUE}"))
    assert "app.db-wal" in holds(live.data, UNIQUE) or "app.db" in holds(live.data, UNIQUE)
    assert live.do("journal.forget", before=str(dt.date.today() + dt.timedelta(2)))["ok"]
    wait_for(lambda: not holds(live.data, UNIQUE))
    assert live.journal() == [] or all(r["action"] == "journal.forget" for r in live.journal())


def test_forgetting_while_others_read_and_write_harms_nobody(fresh):
    live = fresh(models="none")
    with ThreadPoolExecutor(5) as pool:
        made = [pool.submit(live.do, "task.insert", name=f"{UNIQUE} {i}") for i in range(60)]
        gone = [pool.submit(live.do, "journal.forget", before="2999-01-01") for _ in range(5)]
        read = [pool.submit(live.do, "task.list") for _ in range(60)]
    assert {f.result()["status"] for f in [*made, *gone, *read]} == {200} and live.do("task.list")["result"]["total"] == 60


def test_forgetting_keeps_what_is_newer(fresh):
    live = fresh(models="none")
    live.do("task.insert", name="today")
    assert live.do("journal.forget", before=str(dt.date.today() - dt.timedelta(1)))["result"] == {"forgotten": 0}
    assert "task.insert" in [r["action"] for r in live.journal()]


def test_undo_does_not_bring_back_what_was_forgotten(fresh):
    live = fresh(models="none")
    live.do("task.insert", name=UNIQUE)
    live.do("task.delete", id=UNIQUE)
    live.do("journal.forget", before="2999-01-01")
    assert live.do("journal.undo")["status"] == 409 and live.rows() == []
