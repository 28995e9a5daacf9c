"Workflows for the tests: plugins written into a server's folder"
import time

LAB = '''"""Lab: every kind of input, and steps that do odd things."""
import datetime as dt
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from server import Workflow, action, on, step, store


@dataclass
class Thing:
    name: str
    amount: int = 1


class Lab(Workflow):
    "Tries what a step can take and do."

    limit = 3
    heard = []

    @step("All fields")
    def fields(self, text: str, count: int = 3, ratio: float = 0.5, sure: bool = False,
               day: dt.date = dt.date(2031, 1, 2), kind: Literal["a", "b"] = "a", lines: list[str] = ["x"], plain=7,
               maybe: int | None = None):
        "One of each"
        return {k: [type(v).__name__, v] for k, v in locals().items() if k != "self"}

    @step("Files")
    def files(self, path: Path, data: bytes, table: pd.DataFrame = None):
        rows = None if table is None else len(table)
        return {"name": path.name, "text": path.read_text(), "bytes": len(data), "rows": rows}

    @step("List")
    def things(self, items: list[Thing]):
        return {"total": sum(i.amount for i in items), "names": [i.name for i in items],
                "kind": [type(i).__name__ for i in items]}

    @step("Propose")
    def propose(self, names: list[str] = ["p", "q"]):
        return [Thing(name, at) for at, name in enumerate(names)]

    @step("Sum")
    def total(self, things, extra: int = 0):
        return things["total"] + extra

    @step("Count")
    def count(self, progress, n: int = 10, gap: float = 0.02, fail: int = 0):
        at = progress.checkpoint() or 0
        for i in range(at, n):
            time.sleep(gap)
            progress(i + 1, n, f"chunk {i + 1}")
            if i + 1 == fail: raise ValueError("boom")
            progress.checkpoint(i + 1)
        return {"n": n, "from": at}

    @step("Burn")
    def burn(self, seconds: float = 1.0):
        end = time.time() + seconds
        while time.time() < end: pass
        return "burnt"

    @step("Yield")
    def parts(self):
        for i in range(3):
            yield i / 3
            yield f"line {i}"
        return "all parts"

    @step("Async")
    async def later(self):
        import asyncio
        await asyncio.sleep(0.01)
        return "later"

    @step("Odd ends")
    def odd(self, how: Literal["exit", "die", "print", "object"] = "exit"):
        if how == "exit": raise SystemExit(3)
        if how == "die": os._exit(4)
        if how == "object": return object()
        for i in range(200_000): print("line", i)
        return "printed"

    @step("Knows")
    def knows(self, profile, store, chat, progress):
        store["seen"] = store.get("seen", 0) + 1
        chat("Said by a step.")
        progress.log("a line")
        progress.show("a **part**")
        return {"profile": profile["name"], "seen": store["seen"]}

    @on("lab.total")
    def hear(self, event): self.heard.append(event.result)
'''


def add_plugin(live, text: str, file: str = "300_lab.py") -> float:
    "Write a plugin beside a running server's and wait until it is loaded; the seconds that took"
    name, began = file.removesuffix(".py").partition("_")[2], time.monotonic()
    seen = live.pianola.plugins.versions.get(live.pianola.settings.plugins / file)
    (live.pianola.settings.plugins / file).write_text(text)
    while live.pianola.plugins.versions.get(live.pianola.settings.plugins / file) in (None, seen):
        assert time.monotonic() - began < 10, f"{name} was not loaded"
        time.sleep(0.01)
    return time.monotonic() - began


def state(live, step: str, app: str = "lab") -> dict:
    "What is kept of a step in the newest run"
    run = live.pianola.db.one("select id from run where app=? order by changed desc, id desc", app) or {"id": 0}
    return live.pianola.db.one("select * from run_step where step=? and run_id=?", step, run["id"]) or {"state": "open"}


def sse(lines) -> list[tuple[int, str, str]]:
    "Server-Sent Events as (id, event, data)"
    found, id, event, data = [], 0, "", []
    for line in lines:
        if not line and (data or event):
            found.append((id, event, "\n".join(data)))
            event, data = "", []
        name, _, value = line.partition(": ")
        if name == "id": id = int(value)
        elif name == "event": event = value
        elif name == "data": data.append(value)
    return found
