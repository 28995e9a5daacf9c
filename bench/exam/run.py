"""How well an embedded model plays: asks every request of an exam of a real server, and marks what it played.

    python bench/exam/run.py                          # the default model, bench/exam/requests.jsonl
    python bench/exam/run.py --model smollm2-135m --exam FILE --show
"""
import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent), str(HERE.parent.parent / "tests")]
from check import right  # noqa: E402  (after the path)
from conftest import in_thread  # noqa: E402

WORLD = json.loads((HERE / "world.json").read_text())


def set_world(live) -> dict:
    "Put profiles and tasks as every request expects them; returns the names by id of each table"
    for table in ("task", "profile"):
        rows = live.rows(table)
        for row in rows[1:] if table == "profile" else rows: live.do(f"{table}.delete", id=row["id"])
    live.do("chat.clear")
    first = live.rows("profile")[0]
    live.do("profile.update", id=first["id"], set={"name": WORLD["profiles"][0]})
    for name in WORLD["profiles"][1:]: live.do("profile.insert", name=name)
    for task in WORLD["tasks"]: live.do("task.insert", **task)
    live.do("chat.clear")
    return {table: {r["id"]: r["name"] for r in live.rows(table)} for table in ("task", "profile")}


def ask(live, tab: str, text: str) -> tuple[list[dict], float]:
    "Say `text` in a tab; returns what was played and the seconds until that was clear"
    plays, started, clear = [], time.monotonic(), 0.0
    with live.http.stream("POST", "/chat", json={"msg": text}, headers={"X-Tab": tab}, timeout=300) as reply:
        for line in reply.iter_lines():
            item = json.loads(line)
            if "done" in item: clear = time.monotonic() - started
            if "action" in item: plays.append({"action": item["action"]["name"], "args": item["action"]["args"]})
    return plays, clear


async def no_words(self, turn, model, reply): "Instead of words, which the exam does not mark"


def run(model: str, cases: list[dict], show: bool) -> dict:
    "All `cases` with one model; the counts and times of a row of the table"
    marks, seconds = [], []
    settings = {"models": Path("~/.cache/pianola/models"), "model": f"embedded/{model}", "warm": True}
    with tempfile.TemporaryDirectory() as folder, in_thread(Path(folder) / "data", **settings) as live:
        type(live.pianola.apps["phrases"])._talk = no_words
        warmed = time.monotonic()
        live.say("hello")
        warmed = time.monotonic() - warmed
        for case in cases:
            names = set_world(live)
            tab = re.search('data-tab="?(\\w+)', live.http.get(f"/app/{case.get('app', 'tasks')}").text)[1]
            for line in case.get("before", ()): ask(live, tab, line)
            names = {t: names[t] | {r["id"]: r["name"] for r in live.rows(t)} for t in names}
            plays, took = ask(live, tab, case["say"])
            for table, known in names.items():
                known |= {r["id"]: r["name"] for r in live.rows(table) if r["id"] not in known}
            marks.append(right(case, plays, names))
            seconds.append(took)
            if show and not all(marks[-1][:2]):
                print(f"{case['id']:3} {case['say']!r}\n    wanted {case['plays']}\n    played {plays}", flush=True)
    return {"model": model, "right": sum(a and b for a, b, _ in marks), "action": sum(a for a, _, _ in marks),
            "of": len(marks), "wrong destructive": sum(d for _, _, d in marks),
            "median s": round(statistics.median(seconds), 2),
            "95 % s": round(sorted(seconds)[int(len(seconds) * 0.95)], 2), "first s": round(warmed, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--exam", type=Path, default=HERE / "requests.jsonl")
    parser.add_argument("--show", action="store_true", help="print what went wrong")
    args = parser.parse_args()
    print(run(args.model, [json.loads(line) for line in args.exam.read_text().splitlines() if line], args.show))
