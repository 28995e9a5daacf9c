"""Jobs: long steps, running and past."""
import json
from datetime import datetime

from server import (
    REFRESH, ActionButton, App, Call, Clock, ConflictError, DataTable, JobBar, P, PageHead, action, calling, here)

SHOWN = 200


class JobsPage(App):
    "Every step that ran: how long, and how it ended. One that was interrupted goes on from its last checkpoint."

    def page(self, view):
        "Those at work, then the others, newest first"
        live = list(here().jobs.live.values())
        past = "select * from job where state not in ('queued', 'running') order by id desc limit ?"
        rows = [(Clock(r["started"]), r["title"], r["state"], took(r), r["error"], self._do(r))
                for r in here().db.q(past, SHOWN)]
        heads = ("Began", "Step", "Ended", "Took", "Why", "")
        table = DataTable(heads, rows, "Past jobs") if rows else P("None yet.", cls="empty")
        return PageHead(self.title, self.__doc__), *map(JobBar, live), table

    def _do(self, row):
        again = row["state"] in ("interrupted", "cancelled")
        return ActionButton("Resume", "job.resume", cls="quiet", id=row["id"]) if again else ""

    def shows(self, event, view):
        "A step began or ended"
        of_step = getattr(here().apps.get(event.app), "steps", None)
        return REFRESH if event.action.startswith("job.") or of_step else None

    @action("job.cancel", undo=False, says=(("stop the job", {}), ("cancel it, it takes too long", {})))
    async def cancel(self, id: int | None = None):
        "Stop a job; without an id the one that runs"
        live = here().jobs.live
        if id is None and len(live) != 1:
            raise ConflictError(f"{len(live) or 'No'} jobs are running.", "Say which." if live else "",
                                candidates=[j.as_json() for j in live.values()])
        id = next(iter(live)) if id is None else id
        await here().jobs.cancel(id)
        return {"id": id}

    @action("job.resume", undo=False)
    async def resume(self, id: int):
        "Go on with a job that was interrupted or cancelled, from its last checkpoint"
        row = here().db.one("select job.*, run.key from job join run on run.id=job.run_id where job.id=?", id)
        if not row or row["state"] not in ("interrupted", "cancelled", "failed"):
            raise ConflictError(f"Job {id} cannot be resumed.", "Run its step again.")
        call, args = calling.get(), json.loads(row["args"]) | {"run": row["key"]}
        again = Call(call.tab, call.turn, call.message, resume=id)
        outcome = await here().keyboard.perform(call.actor, f"{row['app']}.{row['step']}", args, again)
        return {"id": outcome.journal, "result": outcome.result}


def took(row) -> str:
    "How long a job was at work"
    if not row["ended"]: return ""
    began, ended = (datetime.fromisoformat(row[k]) for k in ("started", "ended"))
    return f"{(ended - began).total_seconds():,.1f} s"
