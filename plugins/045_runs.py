"""Runs: every pass through a workflow, and its cards."""
import inspect
import json
from dataclasses import dataclass

from server import (
    ActionButton, Call, ConflictError, Crud, Small, Workflow, action, calling, current_profile, here, now,
    shorten, shutil)


@dataclass
class Run:
    name: str
    archived: bool = False


class Runs(Crud):
    "Every run of every workflow for the current profile. Rename one in place, tick it to archive it, open it to go on."

    table, per = Run, "profile"

    def make(self):
        "The table is Pianola's own"

    def actions(self):
        "Those of a table, without adding and sorting: a run begins in its app"
        return [k for k in super().actions() if k.name not in ("run.insert", "run.sort")]

    def panel(self, view, *more):
        "Without the form for a new row"
        return super().panel(view, *more)[1:]

    def _scope(self):
        "The profile's runs; of one app only where its page has led here"
        (where, params), tab = super()._scope(), calling.get().tab
        view = here().chat.tabs.get(tab).view if tab else None
        only = view.filters.get("app") if view and view.app == self.name else ""
        return (f"{where} and app=?", (*params, only)) if only else (where, params)

    def _shown(self, row):
        return super()._shown(row) | {"app": row["app"], "key": row["key"]}

    def row(self, row):
        "A run: which app, open, duplicate"
        line, app = super().row(row), here().apps.get(row["app"])
        line.children = (Small(app.title if app else row["app"], cls="badge"), *line.children[1:-1],
                         ActionButton("Open", "run.open", cls="quiet", run=row["key"], pane="left") if app else "",
                         ActionButton("Duplicate", "run.duplicate", cls="quiet", run=row["key"]), line.children[-1])
        return line

    def shows(self, event, view):
        "A run that came or changed"
        if event.action in ("run.update", "run.toggle", "run.delete"): return super().shows(event, view)
        of_step = "." in event.action and isinstance(here().apps.get(event.app), Workflow)
        return "refresh" if event.action.startswith("run.") or of_step else None

    def flow(self, run: str) -> tuple[Workflow, dict]:
        "The workflow and the row of a run, by key, id or name; without either the one that is open"
        if not run:
            tab = here().chat.tabs.get(calling.get().tab).view.app if calling.get().tab else ""
            newest = "select app from run where profile_id=? order by changed desc, id desc"
            last = here().db.one(newest, current_profile()) or {"app": ""}
            flow = here().apps.get(tab) if isinstance(here().apps.get(tab), Workflow) else here().apps.get(last["app"])
            found = flow.open_run() if isinstance(flow, Workflow) else None
            if not found: raise ConflictError("No run is open.", "Open one, or name it.")
            return flow, found
        row = here().db.one("select * from run where key=?", run)
        row = row or here().db.one("select * from run where id=?", self.find(run))
        flow = here().apps.get(row["app"])
        if not isinstance(flow, Workflow):
            raise ConflictError(f"The app {row['app']} of this run is not there.", "Put its plugin back.")
        return flow, row

    def look(self, flow: Workflow, key: str) -> None:
        "Show a run in the tab that asked"
        if not calling.get().tab: return
        tab = here().chat.tabs.get(calling.get().tab)
        tab.view.app, tab.view.run = flow.name, key

    @action("run.new", undo=False, says=(("start a new run", {}), ("begin again from scratch in a fresh run", {})))
    def new(self, app: str = "", name: str = ""):
        "Begin a new run of a workflow"
        view = here().chat.tabs.get(calling.get().tab).view.app if calling.get().tab else ""
        flow = here().apps.get(app or view)
        if not isinstance(flow, Workflow): raise ConflictError(f"{app or 'The open app'} is no workflow.", "Name one.")
        run = flow.new_run(name)
        self.look(flow, run["key"])
        return {"run": run["key"], "name": run["name"], "app": flow.name}

    @action("run.open", undo=False)
    def open(self, run: str):
        "Open a run where it was left"
        flow, row = self.flow(run)
        here().db.do("update run set changed=? where id=?", now(), row["id"])
        self.look(flow, row["key"])
        return {"run": row["key"], "name": row["name"], "app": row["app"]}

    @action("run.duplicate")
    def duplicate(self, run: str):
        "A new run with the same inputs and results"
        flow, old = self.flow(run)
        new, db = flow.new_run(f"{old['name']} (copy)"), here().db
        for row in db.q("select * from run_step where run_id=?", old["id"]):
            db.insert("run_step", **{k: v for k, v in row.items() if k not in ("id", "run_id")}, run_id=new["id"])
        for table in flow.tables:
            for row in db.q(f'select * from "{table.one}" where run_id=?', old["id"]):
                db.insert(table.one, **{k: v for k, v in row.items() if k not in ("id", "run_id")}, run_id=new["id"])
        if flow.folder(old).is_dir(): shutil.copytree(flow.folder(old), flow.folder(new))
        return {"run": new["key"], "name": new["name"], "app": flow.name}

    @action("run.finalize", says=(("finalize this run", {}), ("lock the run, i'm done with it", {})))
    def finalize(self, id: str = ""):
        "Lock a run: its steps can be looked at, not run"
        return self._seal(id, 1)

    @action("run.unlock", says=(("unlock this run", {}),))
    def unlock(self, id: str = ""):
        "Unlock a finalized run"
        return self._seal(id, 0)

    def _seal(self, run: str, value: int) -> dict:
        _, row = self.flow(run)
        here().db.do("update run set finalized=?, changed=? where id=?", value, now(), row["id"])
        return {"run": row["key"], "name": row["name"]}

    @action("run.restart", says=(("restart from step two", {}),))
    def restart(self, step: str, run: str = ""):
        "Forget the results of a step and of all after it; their inputs stay"
        flow, row = self.flow(run)
        if row["finalized"]: raise ConflictError(f"{row['name']} is finalized.", "Unlock it first.")
        one = flow.find_step(step.rpartition(".")[2])
        for name in (one.name, *flow.after(one)):
            here().db.do("update run_step set state='open', record=null, error=null, trace=null, folded=0 "
                         "where run_id=? and step=?", row["id"], name)
        return {"run": row["key"], "name": row["name"], "step": step}

    # cards

    def card(self, card: str) -> tuple[Workflow, dict, object]:
        "Workflow, run and step of a card: `hello.name`, `step-hello-name`, or a step's name in the open app"
        words = card.removeprefix("step-").replace("-", ".").split(".")
        app = words[0] if len(words) > 1 else here().chat.tabs.get(calling.get().tab).view.app
        flow = here().apps.get(app)
        if not isinstance(flow, Workflow):
            raise ConflictError(f"There is no card {shorten(card, 60)!r}.", "Name it as app.step.")
        return flow, flow.open_run(), flow.find_step(words[-1])

    @action("card.minimize", undo=False, says=(
        ("fold the first card", {"card": "first card"}), ("close step two", {"card": "step two"})))
    def minimize(self, card: str):
        "Fold a card"
        return self._fold(card, 1)

    @action("card.expand", undo=False, says=(
        ("unfold the second card", {"card": "second card"}), ("open step 1 again", {"card": "step 1"})))
    def expand(self, card: str):
        "Unfold a card"
        return self._fold(card, 0)

    def _fold(self, card: str, folded: int) -> dict:
        flow, run, step = self.card(card)
        run = run or flow.new_run()
        here().db.do("insert into run_step(run_id, step, state, at, folded) values(?, ?, 'open', ?, ?) "
                     "on conflict(run_id, step) do update set folded=excluded.folded",
                     run["id"], step.name, now(), folded)
        return {"card": f"{flow.name}.{step.name}", "name": step.title}

    @action("card.explain", undo=False, heard=False)
    async def explain(self, card: str):
        "Let the assistant explain a step from its source"
        flow, run, step = self.card(card)
        await here().chat.ask(
            f"(Explain in plain words what this step of {flow.title}, “{step.title}”, does and what it needs. "
            f"Its source:\n{source_of(step)})", calling.get().tab)

    @action("card.ask", undo=False, heard=False)
    async def ask(self, card: str):
        "Give the assistant a failed step's source, inputs and error; it may propose other inputs, to run at one press"
        flow, run, step = self.card(card)
        known, chat, tab = flow.done(run).get(step.name, {}), here().chat, calling.get().tab
        facts = (f"The step “{step.title}”:\n{source_of(step)}\nIts inputs: {json.dumps(known.get('inputs'))}\n"
                 f"Its error: {known.get('error')}")
        await chat.ask(f"({facts}\nSay in two sentences what went wrong and what to enter instead.)", tab)
        form = step.form.model_json_schema()
        async with here().models.using() as model:
            if model.way != "guided": return
            fields = {k: v for k, v in form["properties"].items() if k not in ("run", *step.files, *step.lists)}
            wanted = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False,
                      "$defs": form.get("$defs", {})}
            if not fields: return
            request = f"{facts}\nAnswer with inputs that will work, as JSON."
            said = await model.complete([{"role": "user", "content": request}], wanted)
        try: args = json.loads(said)
        except ValueError: return
        if args == {k: v for k, v in (known.get("inputs") or {}).items() if k in args}: return
        message = await chat.broadcast("I would try it with these inputs:")
        call = Call(tab, message, message, outside=True)
        await here().keyboard.perform("model", f"{flow.name}.{step.name}", args, call)


def source_of(step) -> str:
    "The source of a step"
    try: return inspect.getsource(step.fn)
    except OSError: return "(no source)"
