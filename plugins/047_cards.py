"""Cards: how a workflow is shown, step by step."""
import inspect
import json
from dataclasses import dataclass
from urllib.parse import quote

from fasthtml.common import Iframe

from server import (
    H2, A, ActionButton, App, Article, Button, Div, ErrorCard, Footer, Header, JobBar, NotStr, P, markdown,
    PageHead, PartButton, Small, Span, StepForm, Strong, Table, Tbody, Td, Th, Thead, Tr, View, Workflow, here)


class Cards(App):
    "Each step of a workflow is a card: its form, how it went, what it returned. You or the assistant may fold it."

    menu = False

    def start(self):
        "Show workflows from here on"
        Workflow.cards = staticmethod(show_cards)


@dataclass
class Shown:
    "What the cards of a page are made from: the open run, what is known of its steps, its jobs at work and left"
    flow: Workflow
    view: View
    run: dict | None
    done: dict
    jobs: dict
    left: dict


def show_cards(flow: Workflow, view):
    "The cards of the open run, top to bottom"
    run = flow.open_run()
    jobs = {j.step: j for j in here().jobs.live.values() if run and j.run == run["id"]}
    shown = Shown(flow, view, run, flow.done(run), jobs, flow.left_jobs(run))
    cards = [one_card(shown, number, step) for number, step in enumerate(flow.steps, 1)]
    following = next((c for c in cards if c.attrs["data-state"] == "open"), None)
    if following: following.attrs["data-next"] = "true"
    return PageHead(flow.title, inspect.getdoc(flow) or "", RunBar(flow.name, run)), *cards

def one_card(at: Shown, number: int, step):
    "A step: its lists and its form, how its job goes, why it failed, what it returned"
    flow, known, job, left = at.flow, at.done.get(step.name, {}), at.jobs.get(step.name), at.left.get(step.name)
    missing = [flow.find_step(n).title for n in step.needs if at.done.get(n, {}).get("state") != "done"]
    state = "running" if job else known.get("state") or ("waiting" if missing else "open")
    parts = [t.panel(at.view) for t in flow.tables if t.table in step.lists.values()]
    if missing: parts.append(P(f"After: {', '.join(missing)}.", cls="muted"))
    else:
        locked = "busy" if job else bool(at.run and at.run["finalized"])
        inputs = job.args if job else json.loads(left["args"]) if left and not known else known.get("inputs")
        button = "Run again" if known.get("record") else "Run"
        parts.append(StepForm(f"{flow.name}.{step.name}", step, inputs or {}, locked, button))
    if job and job.visible: parts.append(JobBar(job))
    elif left: parts.append(LeftJob(left))
    if known.get("error"): parts.append(StepError(f"{flow.name}.{step.name}", known))
    if known.get("record"):
        sort = at.view.filters.get("sort", "")
        parts.append(StepResult(at.run["key"], flow.name, step.name, known["record"], sort))
    return StepCard(flow.name, number, step, parts, state, known)

def StepCard(app: str, number: int, one, parts: list, state: str, known: dict):
    "One step: number, title, state; what it holds unless folded"
    card, folded = f"{app}.{one.name}", bool(known.get("folded"))
    took = Small(f"{known['seconds']:.1f} s", cls="muted") if known.get("seconds", 0) >= 0.1 else ""
    sign, verb, title = ("▸", "card.expand", "Unfold") if folded else ("▾", "card.minimize", "Fold")
    fold = ActionButton(sign, verb, cls="quiet fold", card=card, title=f"{title} {one.title}")
    fold.attrs["aria-expanded"] = str(not folded).lower()
    doc = (inspect.getdoc(one.fn) or "").partition("\n\n")[0]
    foot = Footer(ActionButton("Explain", "card.explain", cls="quiet", pane="right", card=card),
                  ActionButton("Restart from here", "run.restart", cls="quiet", step=card) if known else "", took)
    head = Header(Span(str(number), cls="number"), H2(one.title), Small(state, cls="state"), fold)
    return Article(head, *([] if folded else [Div(markdown(doc), cls="muted doc") if doc else "", *parts, foot]), cls="card step",
                   id=f"step-{app}-{one.name}", data_state=state, tabindex="-1")

def StepError(card: str, known: dict):
    "Why a step failed, with its traceback folded, and a way out"
    ask = ActionButton("Ask the assistant", "card.ask", pane="right", card=card)
    return Div(ErrorCard("This step failed", known["error"], known["trace"] or ""), ask, cls="step-error")

def StepResult(run: str, app: str, step: str, record: dict, sort: str):
    "What a step returned: as HTML of ours, in a frame of its own, as a sortable table; and its files"
    parts = [NotStr(record.get("html", ""))]
    if "table" in record:
        parts.append(SortTable(f"/app/{app}?run={run}", f"step-{app}-{step}", step, record["table"], sort))
    if "frame" in record:
        parts.append(Iframe(src=f"/frame/{run}/{record['frame']}", sandbox="allow-scripts", title=f"Result of {step}",
                            loading="lazy"))
    files = [A(f"⤓ {name}", href=f"/file/{run}/{quote(name)}", download=name) for name in record.get("files", ())]
    return Div(*parts, Div(*files, cls="files") if files else "", cls="result", id=f"result-{app}-{step}")

def SortTable(url: str, target: str, step: str, table: dict, sort: str):
    "The first rows of a table; a press on a heading sorts them; `sort` is `step.column`, with a minus for downwards"
    down, names, rows = sort.startswith("-"), [c["name"] for c in table["columns"]], table["rows"]
    by, _, column = sort.lstrip("-").partition(".")
    if by == step and column in names:
        at = names.index(column)
        rows = sorted(rows, reverse=down,
                      key=lambda r: (r[at] is None, isinstance(r[at], str), 0 if r[at] is None else r[at]))
    def head(c):
        ours = sort.lstrip("-") == f"{step}.{c['name']}"
        to = f"{'-' if ours and not down else ''}{step}.{c['name']}"
        press = PartButton((c["name"], Small(f" {c['type']}")), f"{url}&sort={quote(to)}", target, cls="quiet")
        return Th(press, scope="col", aria_sort=("descending" if down else "ascending") if ours else None)
    body = Tbody(*(Tr(*(Td("" if v is None else str(v)) for v in row)) for row in rows))
    size = f"{table['total']:,} rows, {len(names)} columns"
    if table["total"] > len(rows): size += f"; the first {len(rows)} are shown"
    shown = Table(Thead(Tr(*map(head, table["columns"]))), body, cls="data")
    scroll = Div(shown, cls="scroll", tabindex="0", role="region", aria_label=f"Table of {step}")
    return Div(scroll, P(size, cls="muted"))

def LeftJob(row: dict):
    "A job that did not come to its end: go on from its checkpoint, or not"
    how = "was cancelled" if row["state"] == "cancelled" else "was interrupted when the server stopped"
    far = f" at {100 * row['done'] / row['total']:.0f} %" if row["total"] else ""
    return Div(P(f"This job {how}{far}."), ActionButton("Resume", "job.resume", id=row["id"]), id=f"job-{row['id']}",
               cls="job left", data_state=row["state"])

def RunBar(app: str, run: dict | None):
    "Which run is open: its name and key; another, all of them, finalize or unlock"
    more = PartButton("All runs", f"/app/runs?app={app}", "grid-left", cls="quiet")
    if not run:
        hint = Span("No run yet: the first step you run begins one.", cls="muted")
        return Div(hint, more, cls="run-bar", id="run-bar")
    word = "Unlock" if run["finalized"] else "Finalize"
    copy = Button("Copy", type="button", cls="copy", data_copy="run-key", aria_label="Copy the key")
    return Div(Strong(run["name"]), Span(run["key"], copy, id="run-key", cls="key"),
               Small("finalized") if run["finalized"] else "",
               ActionButton("New run", "run.new", cls="quiet", app=app),
               ActionButton(word, f"run.{word.lower()}", cls="quiet", id=run["key"]), more, cls="run-bar", id="run-bar")
