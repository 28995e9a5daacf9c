"""Journal: what happened, by whom, with undo."""
import datetime as dt

from server import (
    REFRESH, ActionButton, ActionForm, App, Clock, DataTable, Details, Div, FilterForm, Label, Labelled, Option, P,
    PageHead, Select, Small,
    Summary, action, here, journal_rows, play_label, to_json)

WHO = {"user": "you", "model": "the assistant", "client": "a program", "app": "an app", "roll": "a roll"}


class Journal(App):
    "Every action, newest first: who did it, with what, how it went. Undo any of them, or really forget."

    def page(self, view):
        "Filters, the rows, older ones, forgetting"
        found = journal_rows({"limit": 100, **view.filters})
        rows = [self._row(r) for r in found["rows"]]
        empty = P("Nothing has happened yet. Press any button, and it will be here.", cls="empty") if not rows else ""
        table = DataTable(("When", "Who", "What", "How it went", ""), rows, "What happened") if rows else ""
        older = [ActionButton("Older", "journal.older", before=found["rows"][-1]["id"])] if len(rows) == 100 else []
        return PageHead(self.title,
                        self.__doc__), self._filters(view), P(f"{found['total']} actions"), empty, table, Div(*older), self._forget()

    def _filters(self, view):
        def select(name, options):
            now = view.filters.get(name, "")
            return Label(name.capitalize(), Select(Option("all", value=""),
                                                   *(Option(WHO.get(o, o), value=o, selected=o == now)
                                                     for o in options), name=name))
        return FilterForm(self.name, select("actor", WHO),
                          select("app", sorted({k.app for k in here().keyboard.actions.values()})))

    def _row(self, r):
        what = Details(Summary(play_label(r["action"], r["args"], r["result"])), Div(to_json(r["args"]), cls="text"))
        label = "Redo" if r["action"] == "journal.undo" else "Undo"
        undo = ActionButton(label, "journal.undo", cls="quiet", title=f"{label} row {r['id']}",
                            id=r["id"]) if r["undoable"] else ""
        how = Small(f"undone by {r['undone']}") if r["undone"] else r["error"] or r["state"]
        return Clock(r["at"]), WHO.get(r["actor"], r["actor"]), what, how, undo

    def _forget(self):
        field = Labelled("journal-forget", "before", dt.date, label="Forget everything before", required=True)
        return Details(Summary("Really forget"),
                       P("Deletes journal rows and messages before that day for good, with what undo would need."),
                       ActionForm("journal.forget", field, button="Forget for good", id="journal-forget"))

    def shows(self, event, view):
        "Any action is a new row"
        return REFRESH

    @action("journal.older", danger="person", undo=False, heard=False)
    def older(self, before: int):
        "Show older rows in the open tab"
        for tab in here().chat.tabs.open.values():
            if tab.view.app == self.name: tab.view.filters["before"] = str(before)

    @action("journal.forget", danger="person", undo=False, heard=False)
    async def forget(self, before: dt.date):
        "Delete journal and conversation before a day, for good"
        return await here().forget(dt.datetime.combine(before, dt.time()).astimezone(dt.UTC).isoformat())
