"""Competitive Analysis: who else is there, what each is good at, and a report to take along."""
import datetime as dt
import re
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from fasthtml.common import Meta, Style, Title
from pydantic import Field

from server import READERS, PianolaError, Workflow, html, markdown, shorten, step

HEADS = {"name": "name competitor company", "priority": "priority prio rank", "note": "note notes comment"}
PARTS = ("strengths", "weaknesses", "opportunities")
LOOK = ("body{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}table{border-collapse:collapse}"
        "th,td{border:1px solid #bbb;padding:.3rem .6rem;text-align:left;vertical-align:top}")
EXAMPLE_FILES = {"rivals.csv": "company,priority,comment\nStreamlit,2,scripts as apps\nGradio,3,\n"}
EXAMPLE = [("competitors.topic", {"topic": "Apps from notebooks", "propose": 0}),
           ("competitors.shortlist", {"names": ["Jupyter; 1; the notebook itself"], "file": "file:rivals.csv"}),
           ("competitors.analysis", {}), ("competitors.checked", {"own": ["Gradio; Demos; quick; few layouts"]}),
           ("competitors.report", {}), ("competitors.download", {"kind": "all three (ZIP)"})]


@dataclass
class Competitor:
    name: str
    priority: int = 3
    note: str = ""


@dataclass
class Proposals:
    "What the model is to answer when it proposes names"
    competitors: Annotated[list[Competitor], Field(min_length=1, max_length=20)]


@dataclass
class Analysis:
    "What the model is to answer for each competitor"
    position: Annotated[str, Field(min_length=1)]
    strengths: Annotated[list[str], Field(min_length=1, max_length=5)]
    weaknesses: Annotated[list[str], Field(min_length=1, max_length=5)]
    opportunities: Annotated[list[str], Field(min_length=1, max_length=5)]


class Competitors(Workflow):
    "Competitors, most important first (priority 1 to 5), the model's view of each, a report as HTML, XLSX, Markdown."

    @step("Topic")
    def topic(self, llm, topic: str, about_us: str = "", propose: int = 5):
        "What is compared, and with whom you compare it. The model proposes so many names; 0 if you bring your own"
        proposed = []
        if propose > 0:
            found = llm(f"Name {min(propose, 20)} competitors for: {topic}. {about_us}\nFor each: its name, its "
                        "priority from 1 (most important) to 5, and a note of at most ten words.", Proposals)
            proposed = [Competitor(c.name, min(max(c.priority, 1), 5), c.note) for c in found.competitors[:propose]]
        return {"topic": topic, "about us": about_us, "proposals": proposed}

    @step("The list")
    def shortlist(self, topic, names: list[str] = [], file: Path = None, competitors: list[Competitor] = None):
        "The list above (the model's proposals stand in it: edit them), lines `name; priority; note`, a CSV with names"
        given = [*(competitors or ()), *read_lines(names), *(read_file(file) if file else ())]
        unique = {c.name.casefold(): c for c in reversed(given or topic["proposals"])}  # the first wins
        if not unique: raise PianolaError("The list is empty.",
                                          "Type names, drop a CSV file, or let the model propose some in step 1.")
        wrong = [f"{c.name} ({c.priority})" for c in reversed(unique.values()) if not 1 <= c.priority <= 5]
        if wrong: raise PianolaError(f"A priority is 1 to 5; it is not for {', '.join(wrong)}.", "Correct them.")
        return table_of([asdict(c) for c in sorted(reversed(unique.values()), key=lambda c: c.priority)])

    @step("Analyse each")
    def analysis(self, topic, shortlist, llm, progress, also_ask: str = ""):
        "The model looks at each in turn, most important first. What it cannot answer is marked, and the rest goes on"
        items = shortlist.fillna("").to_dict("records")
        rows = [r for r in progress.checkpoint() or [] if r["name"] in {i["name"] for i in items}]
        known = {r["name"] for r in rows}
        for item in items:
            if item["name"] in known: continue
            progress(len(rows), len(items), item["name"])
            rows.append(analyse(item, topic, llm, also_ask))
            progress.checkpoint(rows)
            progress.show(line_of(rows[-1]))
        progress(len(rows), len(items))
        return table_of(rows)

    @step("Fill the gaps")
    def checked(self, topic, analysis, llm, progress, own: list[str] = []):
        "What you write (`name; position; strength, strength; weakness; opportunity`) is taken, the rest asked again"
        rows, mine = analysis.fillna("").to_dict("records"), {}
        for line in own:
            name, *texts = [t.strip() for t in line.split(";")]
            parts = zip(("position", *PARTS), texts)
            mine[name.casefold()] = {p: t.replace(", ", "; ") if p in PARTS else t for p, t in parts}
        unknown = sorted(mine.keys() - {r["name"].casefold() for r in rows})
        if unknown: raise PianolaError(f"Not in the list: {', '.join(unknown)}.",
                                       f"There are {', '.join(r['name'] for r in rows)}.")
        for at, row in enumerate(rows):
            if row["name"].casefold() in mine: rows[at] = row | mine[row["name"].casefold()] | {"problem": ""}
            elif row["problem"]: rows[at] = analyse(row, topic, llm)
            progress(at + 1, len(rows), row["name"])
        return table_of(rows)

    @step("Report")
    def report(self, topic, checked, llm, summary: bool = False):
        "The whole as text, the most important first; with a summary by the model if you like"
        rows = checked.fillna("").to_dict("records")
        text = "\n\n".join(section(r) for r in rows if not r["problem"])
        try: first = llm(f"Summarise in three sentences for a decision:\n\n{text}") if summary else ""
        except PianolaError as error: first = f"*The model wrote no summary: {error}*"
        overview = "| Priority | Competitor | Position |\n|---|---|---|\n" + "\n".join(
            f"| {r['priority']} | {cell(r['name'])} | {cell(r['position'] or 'not answered')} |" for r in rows)
        gaps = "\n".join(f"- **{r['name']}**: {r['problem']}" for r in rows if r["problem"])
        parts = [f"# Competitive analysis: {topic['topic']}", f"*{len(rows)} competitors, {dt.date.today():%d %B %Y}*",
                 first, overview, text, gaps and f"## Not answered\n\n{gaps}"]
        return "\n\n".join(p for p in parts if p) + "\n"

    @step("Take it along")
    def download(self, topic, checked, report,
                 kind: Literal["HTML page", "XLSX workbook", "Markdown", "all three (ZIP)"] = "HTML page"):
        "The report as one file: a web page to read or print, a workbook to sort and filter, text to go on writing"
        folder = Path(tempfile.mkdtemp())
        name = re.sub(r"\W+", "-", topic["topic"].lower()).strip("-")[:60] or "competitors"
        write = {"html": lambda p: p.write_text(web_page(topic["topic"], report), "utf-8"),
                 "xlsx": lambda p: write_xlsx(checked, p), "md": lambda p: p.write_text(report, "utf-8")}
        wanted = {"HTML page": ["html"], "XLSX workbook": ["xlsx"], "Markdown": ["md"]}.get(kind, list(write))
        for suffix in wanted: write[suffix](folder / f"{name}.{suffix}")
        if len(wanted) == 1: return folder / f"{name}.{wanted[0]}"
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as out:
            for suffix in wanted: out.write(folder / f"{name}.{suffix}", f"{name}.{suffix}")
        return folder / f"{name}.zip"


def read_lines(lines: list[str]) -> list[Competitor]:
    "Lines `name; priority; note` (or with tabs, as from a spreadsheet); raises PianolaError naming all that are not so"
    found, wrong = [], []
    for line in lines:
        name, *rest = [part.strip() for part in re.split(r"[;\t]", line, maxsplit=2)]
        if len(rest) == 1 and not re.fullmatch(r"-?\d+", rest[0]): rest = ["", rest[0]]     # a name and a note
        priority, note = [*rest, "", ""][:2]
        if not name or not re.fullmatch(r"-?\d*", priority): wrong.append(line)
        else: found.append(Competitor(name, int(priority or 3), note))
    if wrong: raise PianolaError(f"Not `name; priority; note`: {shorten(', '.join(wrong))}.",
                                 "The priority is a number from 1 to 5.")
    return found

def read_file(file: Path) -> list[Competitor]:
    "A CSV or XLSX file with a column `name`, and if it likes `priority` and `note`"
    table = READERS["DataFrame"](file).dropna(how="all")
    def column(words): return next((c for c in table.columns if str(c).strip().lower() in words.split()), None)
    heads = {h: c for h, words in HEADS.items() if (c := column(words)) is not None}
    if "name" not in heads: raise PianolaError(f"{file.name} has no column `name`.",
                                               f"Its columns are {', '.join(map(str, table.columns))}.")
    rows = table[list(heads.values())].fillna("").astype(str).itertuples(index=False)
    texts = [{h: re.sub(r"\.0$", "", t) if h == "priority" else t for h, t in zip(heads, row)} for row in rows]
    return read_lines([f"{t['name'].replace(';', ',')};{t.get('priority', '')};{t.get('note', '')}" for t in texts])

def analyse(item: dict, topic: dict, llm, also: str = "") -> dict:
    "A row of the table: the model's answer, or in `problem` why there is none"
    row = {"priority": item["priority"], "name": item["name"], **dict.fromkeys(("position", *PARTS), ""),
           "note": item["note"], "problem": ""}
    text = (f"A competitive analysis of: {topic['topic']}. {topic['about us']}\n"
            f"The competitor: {item['name']}. {item['note']}\n"
            f"Its position in one sentence; its strengths; its weaknesses; the opportunities these leave to us. {also}")
    try: answer = llm(text, Analysis)
    except PianolaError as error: return row | {"problem": shorten(error, 300)}
    lists = {p: "; ".join(t.strip().replace(";", ",") for t in getattr(answer, p)) for p in PARTS}
    return row | {"position": answer.position} | lists

def line_of(row: dict) -> str:
    said = f"not answered: {row['problem']}" if row["problem"] else row["position"]
    return f"{row['priority']} · **{row['name']}** {said}"

def table_of(rows: list[dict]):
    import pandas as pd  # late: a second
    return pd.DataFrame(rows)

def section(row: dict) -> str:
    lists = [f"**{p.capitalize()}**\n\n" + "- " + row[p].replace("; ", "\n- ") for p in PARTS if row[p]]
    head, note = f"## {row['name']} (priority {row['priority']})", f"*{row['note']}*" if row["note"] else ""
    return "\n\n".join(p for p in (head, note, row["position"], *lists) if p)

def cell(text: str) -> str: return text.replace("|", "\\|").replace("\n", " ")

def web_page(title: str, text: str) -> str:
    head = Meta(charset="utf-8"), Meta(name="viewport", content="width=device-width"), Title(title), Style(LOOK)
    return "<!doctype html>" + html(*head, markdown(text))

def write_xlsx(frame, path: Path) -> None:
    "The table with a header row; text that begins like a formula stays text"
    import pandas as pd  # late: a second
    with pd.ExcelWriter(path, engine="openpyxl") as out:
        frame.to_excel(out, index=False, sheet_name="Competitors", freeze_panes=(1, 0))
        formulas = [c for row in out.sheets["Competitors"].iter_rows() for c in row if c.data_type == "f"]
        for c in formulas: c.data_type = "s"
