"""Import, export: tables as CSV files."""
import asyncio
import csv
import io
from pathlib import Path
from typing import Literal

from server import (
    REFRESH, A, ActionButton, ActionForm, App, Article, Crud, DataTable, Labelled, P, PageHead, PianolaError, action,
    here, keep_upload, shorten, upload_path, validate)

SHOWN = 20  # rows and errors shown before importing


class Csv(App):
    "CSV files with a header row, in UTF-8. A file is checked first; nothing is kept before you say so."

    for_tables = True

    def start(self):
        "Remember what the last check found, and the last export"
        self.checked, self.exported = None, None

    def page(self, view):
        "Choose a table, then a file in or out"
        kinds = Literal[tuple(here().tables)]
        load = ActionForm("csv.check", Labelled("csv-check", "table", kinds, label="Table"),
                          Labelled("csv-check", "file", Path, label="CSV file", accept=".csv,text/csv"),
                          button="Check the file", id="csv-check")
        save = ActionForm("csv.export", Labelled("csv-export", "table", kinds, label="Table"), button="Export",
                          id="csv-export")
        done = P("Exported: ", A(self.exported["name"], href=f"/file/{self.exported['id']}",
                                 download=self.exported["name"])) if self.exported else ""
        return PageHead(self.title, self.__doc__), Article(load, self._found(), cls="card"), Article(save, done,
                                                                                                     cls="card")

    def _found(self):
        found = self.checked
        if not found: return ""
        good, bad = found["good"], found["bad"]
        words = P(f"{found['name']}: {len(good)} good rows, {len(bad)} with errors, for {found['table']}.")
        errors = DataTable(("Line", "What is wrong"), [(b["line"], b["error"]) for b in bad[:SHOWN]],
                           "Errors") if bad else ""
        heads = list(good[0]) if good else []
        preview = DataTable(heads, [[shorten(r.get(h, ""), 60) for h in heads] for r in good[:SHOWN]],
                            "Preview") if good else ""
        go = ActionButton(f"Import the {len(good)} good rows", "csv.load", table=found["table"], file=found["file"],
                          partial=True) if good else ""
        return words, errors, preview, go

    @action("csv.check", outside=True, undo=False, heard=False)
    async def check(self, table: str, file: Path):
        "Read a CSV file and say which rows are good"
        path, name = upload_path(file)
        self.checked = {"file": file, "name": name, **await asyncio.to_thread(self._read, table, path)}
        return {"table": table, "good": len(self.checked["good"]), "bad": self.checked["bad"][:100]}

    @action("csv.load", outside=True)
    def load(self, table: str, file: Path, partial: bool = False):
        "Import a CSV file's rows; with errors in it only if `partial`, and then the good ones"
        path, name = upload_path(file)
        found = self._read(table, path)
        if found["bad"] and not partial:
            first = found["bad"][0]
            raise PianolaError(f"{len(found['bad'])} rows have errors, the first in line {first['line']}: {first['error']}.", "Correct them, or import the good ones.",
                               rows=found["bad"][:100])
        for row in found["good"]: here().tables[table].insert_row(**validate(here().keyboard.find(f"{table}.insert"),
                                                                             row))
        self.checked = None
        return {"table": table, "name": name, "imported": len(found["good"]), "left out": len(found["bad"])}

    @action("csv.export", undo=False, heard=False)
    async def export(self, table: str):
        "Write a table to a CSV file; answers the id under which /file gives it"
        self.exported = await keep_upload(f"{table}.csv", await asyncio.to_thread(self._write, table))
        return {"table": table, **self.exported, "url": f"/file/{self.exported['id']}"}

    def _write(self, table: str) -> "Written":
        crud, out, offset = self._table(table), io.StringIO(), 0
        rows = csv.DictWriter(out, list(crud.fields), extrasaction="ignore", lineterminator="\r\n")
        rows.writeheader()
        while page := crud.list_rows(limit=1000, offset=offset)["rows"]:
            rows.writerows({k: _safe(v) for k, v in row.items()} for row in page)
            offset += 1000
        return Written(out.getvalue().encode())

    def _table(self, table: str) -> Crud:
        crud = here().tables.get(table)
        if not crud: raise PianolaError(f"There is no table {shorten(table, 40)!r}.",
                                        f"There are {', '.join(here().tables)}.")
        return crud

    def _read(self, table: str, path: Path) -> dict:
        fields = self._table(table).fields
        try: text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError: raise PianolaError("The file is not UTF-8 text.", "Save it as CSV UTF-8.") from None
        head = text[:4096].split("\n")[0]
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restkey="(more)")
        names = {h: (h or "").strip().lower().replace(" ", "_") for h in reader.fieldnames or ()}
        if "name" not in names.values(): raise PianolaError("The header row has no column `name`.",
                                                            f"Columns can be {', '.join(fields)}.")
        key, good, bad = here().keyboard.find(f"{table}.insert"), [], []
        try:
            for row in reader: self._sort_out(key, {names.get(k, k): v for k, v in row.items() if v not in ("", None)},
                                              reader.line_num, good, bad)
        except csv.Error as error: bad.append({"line": reader.line_num, "error": str(error)})
        return {"table": table, "good": good, "bad": bad}

    def _sort_out(self, key, row: dict, line: int, good: list, bad: list) -> None:
        row.pop("id", None)
        if not row: return
        try: validate(key, row)
        except PianolaError as error: bad.append({"line": line, "error": "; ".join(f"{k}: {v}" for k,
                                                                                   v in error.extra.get("fields",
                                                                                                        {}).items())
                                                                                                        or str(error)})
        else: good.append(row)

    def shows(self, event, view):
        "A file was checked, imported or written"
        return REFRESH if event.action.startswith("csv.") else None


class Written(io.BytesIO):
    "A file of our own, read as one that was sent to us"

    async def read(self, size=-1): return super().read(size)


def _safe(value):
    "A cell that a spreadsheet would take for a formula is written as text"
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


EXAMPLE = [("csv.export", {"table": "task"})]
