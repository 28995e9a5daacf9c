"Jobs: progress, streams, cancel, resume, and nobody disturbed"
import asyncio
import json
import threading
import time

import httpx
import pytest
from flows import LAB, add_plugin, sse, state
from playwright.sync_api import expect

from browser import browse, ollama, talk  # noqa: F401  (fixtures)
from scripted_ollama import says
from conftest import ROOT, in_thread


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A server with the lab workflow, its worker warm"
    with in_thread(tmp_path_factory.mktemp("lab") / "data") as live:
        add_plugin(live, LAB)
        live.do("lab.later")
        yield live


def begin(live, step: str = "count", **args) -> int:
    "Start a long step; its job's number"
    reply = live.http.post(f"/do/lab.{step}", json=args).json()
    return reply["job"]


def wait(live, id: int, *states: str, seconds: float = 10) -> dict:
    "The job's row once it is in one of `states`"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        row = live.pianola.db.one("select * from job where id=?", id)
        if row and row["state"] in states: return row
        time.sleep(0.02)
    raise AssertionError(f"job {id} is {row and row['state']}, not {states}")


def follow(live, path: str, until: int = 10**9, after: int = 0) -> list:
    "Events of a stream, at most `until` of them, then the connection is dropped"
    lines, count = [], 0
    with live.http.stream("GET", path, headers={"Last-Event-ID": str(after)} if after else {}) as reply:
        for line in reply.iter_lines():
            lines.append(line)
            count += not line
            if count >= until: break
    return sse(lines)


def test_a_long_step_answers_its_job_after_a_second_and_goes_on(lab):
    began = time.monotonic()
    id = begin(lab, n=60)
    assert 0.9 < time.monotonic() - began < 1.6
    row = wait(lab, id, "done")
    assert (row["done"], row["total"], row["note"]) == (60, 60, "chunk 60")


def test_its_progress_streams_to_scripts_until_its_end(lab):
    events = follow(lab, f"/jobs/{begin(lab, n=70)}/events")
    steps = [json.loads(data)["progress"][0] for _, _, data in events if "progress" in json.loads(data)]
    assert steps == sorted(steps) and steps[-1] == 70 and len(steps) > 20
    assert events[-1][1] == "done" and json.loads(events[-1][2])["state"] == "done"


def test_a_dropped_stream_goes_on_with_nothing_missed_or_doubled(lab):
    id = begin(lab, n=80)
    path = f"/jobs/{id}/events"
    events, whole = follow(lab, path, 10), []
    while not events[-1][1]:
        whole += events
        events = follow(lab, path, 10, after=whole[-1][0])
    whole += [e for e in events if not e[1]]
    numbers = [n for n, _, _ in whole]
    assert numbers == sorted(set(numbers))
    assert [json.loads(d)["checkpoint"] for _, _, d in follow(lab, path) if "checkpoint" in json.loads(d)] == []
    steps = [json.loads(d)["progress"][0] for _, _, d in whole if "progress" in json.loads(d)]
    assert steps == [json.loads(d)["progress"][0] for _, _, d in follow(lab, path) if "progress" in json.loads(d)]


def test_cancel_takes_less_than_200_ms_even_of_a_step_that_computes(lab):
    id = begin(lab, "burn", seconds=30)
    began = time.monotonic()
    assert lab.do("job.cancel", id=id)["ok"]
    row = wait(lab, id, "cancelled", seconds=1)
    assert time.monotonic() - began < 0.2 and row["ended"]
    assert lab.do("lab.later")["ok"]


def test_a_cancelled_job_goes_on_from_its_checkpoint(lab):
    id = begin(lab, n=100)
    lab.do("job.cancel", id=id)
    at = json.loads(wait(lab, id, "cancelled")["checkpoint"])
    assert 10 < at < 100
    again = lab.do("job.resume", id=id)
    assert again["ok"], again
    wait(lab, again["result"]["id"], "done")
    assert 10 < json.loads(again["result"]["result"]["preview"])["from"] <= at + 2


def test_a_job_that_is_not_there_cannot_be_cancelled_or_resumed(lab):
    assert lab.do("job.cancel", id=10**6)["status"] == 409
    assert lab.do("job.resume", id=10**6)["status"] == 409
    assert lab.http.get("/jobs/1000000/events").status_code == 404


def test_two_run_side_by_side_and_the_limit_queues_the_rest(lab):
    runs = [lab.do("run.new", app="lab")["result"]["run"] for _ in range(5)]
    ids = [begin(lab, n=200, gap=0.02, run=run) for run in runs[:2]]
    assert lab.do("lab.count", run=runs[0])["status"] == 409, "one step of one run at a time"
    with httpx.Client(base_url=lab.url, timeout=30) as http:
        threads = [threading.Thread(target=http.post, args=("/do/lab.count",), kwargs={"json": {"n": 60, "run": run}})
                   for run in runs[2:]]
        for t in threads: t.start()
        time.sleep(0.3)
        states = [j.state for j in list(lab.pianola.jobs.live.values())]
        assert states.count("running") == 3 and states.count("queued") >= 1, states
        for t in threads: t.join()
    for id in ids: wait(lab, id, "done", seconds=20)
    assert lab.do("run.new", app="lab")["ok"]


def test_progress_is_written_at_most_twice_a_second(lab):
    writes, real = [], lab.pianola.jobs._save
    async def counted(jobs, ended=None):
        writes.extend(jobs)
        await real(jobs, ended)
    lab.pianola.jobs._save = counted
    try: wait(lab, begin(lab, n=150), "done")
    finally: lab.pianola.jobs._save = real
    assert 4 <= len(writes) <= 9, "three seconds and the end"


def test_a_reply_of_500_words_streams_in_a_second_while_a_step_computes(talk):
    live = talk(says(*["word "] * 500))
    add_plugin(live, LAB)
    live.do("lab.later")
    begin(live, "burn", seconds=6)
    began = time.monotonic()
    items = live.say("go on")
    assert time.monotonic() - began < 1.5 and sum("delta" in i for i in items) >= 400
    assert live.pianola.jobs.live, "the step computes still"


def test_the_server_answers_at_full_speed_while_a_step_computes(lab):
    begin(lab, "burn", seconds=4)
    gaps = []
    for _ in range(60):
        began = time.monotonic()
        lab.http.get("/health")
        gaps.append(time.monotonic() - began)
    assert sorted(gaps)[30] < 0.02, sorted(gaps)[30]
    for job in list(lab.pianola.jobs.live): lab.do("job.cancel", id=job)


def test_200_streams_of_one_job_all_hear_its_end(lab):
    id = begin(lab, n=120)
    async def one(http):
        async with http.stream("GET", f"/jobs/{id}/events") as reply:
            return [line async for line in reply.aiter_lines()]
    async def all_of_them():
        async with httpx.AsyncClient(base_url=lab.url, timeout=60, limits=httpx.Limits(max_connections=300)) as http:
            return await asyncio.gather(*(one(http) for _ in range(200)))
    ends = [sse(lines)[-1] for lines in asyncio.run(all_of_them())]
    assert len(ends) == 200 and {json.loads(e[2])["state"] for e in ends} == {"done"}


def test_200_jobs_at_once_all_end_and_each_has_its_own_progress(lab):
    runs = [lab.do("run.new", app="lab")["result"]["run"] for _ in range(200)]
    async def one(http, i):
        reply = await http.post("/do/lab.count?wait=1", json={"n": 2 + i % 3, "gap": 0.001, "run": runs[i]})
        return reply.json()
    async def all_of_them():
        async with httpx.AsyncClient(base_url=lab.url, timeout=120, limits=httpx.Limits(max_connections=300)) as http:
            return await asyncio.gather(*(one(http, i) for i in range(200)))
    answers = asyncio.run(all_of_them())
    assert all(a["ok"] for a in answers), [a for a in answers if not a["ok"]][:2]
    assert [json.loads(a["result"]["preview"])["n"] for a in answers] == [2 + i % 3 for i in range(200)]


def test_kill_9_during_a_job_and_it_goes_on_from_its_checkpoint(process, tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    for file in (ROOT / "plugins").glob("0[0-8]*_*.py"): (plugins / file.name).write_text(file.read_text())
    (plugins / "300_lab.py").write_text(LAB)
    live, server = process(PIANOLA_PLUGINS=str(plugins))
    id = live.http.post("/do/lab.count", json={"n": 250, "gap": 0.02}).json()["job"]
    time.sleep(1.5)
    server.kill()
    server.wait()
    live, _ = process(PIANOLA_PLUGINS=str(plugins))
    page = live.http.get("/app/lab").text
    assert "was interrupted when the server stopped" in page and "job.resume" in page
    assert [r["state"] for r in live.journal() if r["action"] == "lab.count"] == ["interrupted"]
    again = live.do("job.resume", id=id)
    assert again["ok"] and json.loads(again["result"]["result"]["preview"])["from"] > 10


# ---- on the page

def test_a_job_shows_its_bar_locks_its_button_and_ends(lab, browse):
    v = browse(lab, "/app/lab")
    lab.do("run.new", app="lab")
    v.page.goto(lab.url + "/app/lab")
    card = v.page.locator("#step-lab-count")
    card.locator("[name=n]").fill("120")
    card.locator("[name=gap]").fill("0.02")
    card.get_by_role("button", name="Run").click()
    expect(card.locator("button[type=submit]")).to_have_attribute("aria-busy", "true")
    expect(card.locator("progress")).to_be_visible(timeout=3000)
    expect(card.locator(".bar")).to_contain_text("s left", timeout=4000)
    expect(card).to_have_attribute("data-state", "done", timeout=8000)
    expect(card.locator(".result")).to_contain_text("120")
    expect(card.locator("progress")).to_have_count(0)


def test_a_reload_of_the_page_finds_the_job_again_and_cancel_offers_resume(lab, browse):
    v = browse(lab, "/app/lab")
    v.page.locator("#step-lab-count [name=n]").fill("200")
    v.page.locator("#step-lab-count [name=gap]").fill("0.02")
    v.page.locator("#step-lab-count button[type=submit]").click()
    expect(v.page.locator("#step-lab-count progress")).to_be_visible(timeout=3000)
    v.page.reload()
    card = v.page.locator("#step-lab-count")
    before = card.locator("progress").get_attribute("value")
    expect(card.locator("progress")).not_to_have_attribute("value", before, timeout=3000)
    card.get_by_role("button", name="Cancel").click()
    expect(card.get_by_role("button", name="Resume")).to_be_visible(timeout=3000)
    card.get_by_role("button", name="Resume").click()
    expect(card).to_have_attribute("data-state", "done", timeout=12000)
    assert state(lab, "count")["state"] == "done"


def test_the_assistant_hears_of_a_job_comments_at_the_quarters_and_congratulates(talk):
    live = talk(*["Well."] * 8)
    assert live.do("stream.first", chunks=40, shortest=0.14, longest=0.14)["ok"]
    time.sleep(1)
    asked = [r["content"] for r in live.pianola.db.q("select content from message where kind='prompt' and app is null order by id")]
    assert [next((q for q in ("25 %", "50 %", "75 %", "Congratulate") if q in text), text) for text in asked] == ["25 %", "50 %", "75 %", "Congratulate"]
    said = [r["content"] for r in live.pianola.conversation.page() if r["role"] == "assistant"]
    assert said == ["Well."] * 4


def test_two_simulators_at_once_do_not_mix(browse, fresh):
    v = browse(fresh(), "/app/stream")
    first, second = v.page.locator("#step-stream-first"), v.page.locator("#step-stream-second")
    for card, chunks in ((first, "41"), (second, "23")):
        card.locator("[name=chunks]").fill(chunks)
        card.locator("[name=longest]").fill("0.2")
        card.get_by_role("button", name="Run").click()
    expect(first.locator(".bar")).to_contain_text("of 41", timeout=4000)
    expect(second.locator(".bar")).to_contain_text("of 23", timeout=4000)
    expect(second).to_have_attribute("data-state", "done", timeout=10_000)
    expect(first).to_have_attribute("data-state", "running")
    expect(first).to_have_attribute("data-state", "done", timeout=15_000)
    expect(first.locator(".result")).to_contain_text("41")
    expect(second.locator(".result")).to_contain_text("23")


def test_a_job_that_ends_in_a_hidden_tab_says_so_in_the_title(browse, fresh):
    v = browse(fresh(), "/app/stream")
    v.page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    card = v.page.locator("#step-stream-second")
    card.locator("[name=chunks]").fill("12")
    card.get_by_role("button", name="Run").click()
    expect(card).to_have_attribute("data-state", "running")
    assert not v.page.title().startswith("●")
    expect(card).to_have_attribute("data-state", "done", timeout=10_000)
    expect(v.page).to_have_title("● Stream Simulator · Pianola")
