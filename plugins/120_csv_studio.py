"""CSV Studio: look a table over, choose, filter, join, group, draw, export."""
import ast
import csv
import re
import tempfile
import warnings
from pathlib import Path
from typing import Literal

from server import PianolaError, Workflow, shorten, step

CHUNK, MOST, BARS = 50_000, 5_000_000, 60    # rows read at once, rows a join may make, bars a plot shows
AS_TEXT = {"dtype": str, "keep_default_na": False, "na_values": "NULL null NaN nan N/A n/a #N/A".split() + [""]}
DATE = r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?"
ALLOWED = tuple(getattr(ast, name) for name in """Expression BoolOp And Or UnaryOp Not USub Compare Eq NotEq Lt LtE Gt
    GtE In NotIn BinOp Add Sub Mult Div Mod Name Load Constant List Tuple""".split())
EXAMPLE_FILES = {"ink.csv": "country,eur\nDE,12.5\nFR,11\nDE,7\nDE,14\n", "names.csv": "code,name\nDE,Germany\nFR,France\n"}
EXAMPLE = [("csv_studio.opened", {"file": "file:ink.csv"}), ("csv_studio.chosen", {"columns": ["land=country", "eur"]}),
           ("csv_studio.kept", {"condition": 'eur > 10 and land in ["DE", "FR"]'}),
           ("csv_studio.joined", {"file": "file:names.csv", "key": "land", "their_key": "code"}),
           ("csv_studio.grouped", {"by": ["name"], "value": "eur", "how": "mean"}),
           ("csv_studio.drawn", {"x": "name", "y": "mean of eur"}), ("csv_studio.export", {"kind": "XLSX"})]


class CsvStudio(Workflow):
    "From a file to a table, a picture or another file. Leave a step's fields empty and run it to pass the table on."

    @step("Open a file")
    def opened(self, progress, file: Path, decimal: Literal[".", ","] = ".", sheet: str = ""):
        "CSV (separator and encoding are found out) or XLSX (the first sheet, or the one you name), with a header row"
        frame, notes = read(file, progress, sheet, decimal)
        if twice := int(frame.duplicated().sum()): notes.append(f"{twice:,} rows are there more than once.")
        return noted(frame, "**Found:**\n\n" + "\n".join(f"- {n}" for n in notes) if notes else "No problems found.")

    @step("Choose columns")
    def chosen(self, opened, columns: list[str] = []):
        "One per line in the order you want, `name` or `new = old`; all if empty"
        halves = [(c, "", "") if c in opened else c.partition("=") for c in columns]
        news, olds = [new.strip() for new, *_ in halves], [old.strip() or new.strip() for new, _, old in halves]
        need(opened, olds)
        if len(set(news)) < len(news): raise PianolaError(f"More than one column is called so: {', '.join(news)}.", "Give each a name of its own.")
        return opened[olds].set_axis(news, axis=1) if news else opened

    @step("Filter rows")
    def kept(self, chosen, condition: str = "", without_missing: bool = False, without_duplicates: bool = False):
        'Such as `price > 10 and country == "DE"`; a name with spaces goes into backticks: `` `unit price` < 5 ``'
        frame = chosen[matching(chosen, condition)] if condition.strip() else chosen
        if without_missing: frame = frame.dropna()
        if without_duplicates: frame = frame.drop_duplicates()
        return noted(frame.reset_index(drop=True), f"{len(frame):,} of {len(chosen):,} rows are kept.")

    @step("Join a second file")
    def joined(self, kept, progress, file: Path = None, key: str = "", their_key: str = "", how: Literal["left", "inner", "outer"] = "left"):
        "Adds a second file's columns where the keys are equal; `their key` if it differs there. `left` keeps all rows"
        if not file: return kept
        need(kept, [key])
        other, _ = read(file, progress)
        need(other, [their_key or key], whose=f"{file.name} has")
        other = other.dropna(subset=[their_key or key]).astype({c: "Int64" for c in other.select_dtypes("int64")})
        if their_key not in ("", key): other = other.rename(columns={key: f"{key} (2)", their_key: key})
        if is_number(kept[key]) != is_number(other[key]): kept, other = (t.astype({key: "string"}) for t in (kept, other))
        size = kept[key].map(other[key].value_counts()).fillna(1).sum()
        if size > MOST: raise PianolaError(f"The join would make {int(size):,} rows: both files repeat the key.", "Choose another, or group first.")
        found, twice = int(kept[key].isin(other[key]).sum()), int(other[key].duplicated().sum())
        return noted(kept.merge(other, on=key, how=how, suffixes=("", " (2)")),
                     f"{found:,} of {len(kept):,} rows found a partner; {twice:,} rows of the other file repeat a key.")

    @step("Group")
    def grouped(self, joined, by: list[str] = [], value: str = "", how: Literal["count", "sum", "mean", "median", "min", "max", "distinct"] = "count"):
        "One row for each value of the columns `by`, one column per line; `count` needs no value"
        if not by: return joined
        need(joined, [*by, *([value] if value or how != "count" else [])], [value] if how in ("sum", "mean", "median") else [])
        groups, name = joined.groupby(list(by), dropna=False), f"{how} of {value}" if value else how
        return (groups[value].agg("nunique" if how == "distinct" else how) if value else groups.size()).reset_index(name=name)

    @step("Draw")
    def drawn(self, grouped, kind: Literal["bar", "line", "scatter", "hist"] = "bar", x: str = "", y: str = ""):
        "A picture, if you like one: `y` over `x`; a histogram, or bars that count, need only `x`"
        if kind in ("line", "scatter"): need(grouped, [x, y], [y, *([x] if kind == "scatter" else [])])
        else: need(grouped, [x, *([y] if y else [])], [x] if kind == "hist" else [y] if y else [])
        try: from matplotlib.figure import Figure  # late: it may be missing
        except ImportError: return "Plots need **matplotlib**. Install it with `uv pip install matplotlib`, then run this step again."
        axes, title = Figure(figsize=(8, 4.5), layout="tight").subplots(), f"{y} by {x}" if y and kind != "hist" else f"{x}: how often"
        if kind == "bar":
            bars = grouped.set_index(x)[y] if y else grouped[x].value_counts()
            if len(bars) > BARS: title += f" (the first {BARS} of {len(bars):,})"
            bars[:BARS].astype(float).plot.bar(ax=axes)
        elif kind == "hist": grouped[x].astype(float).plot.hist(ax=axes, bins=30)
        else: grouped.astype({y: float}).sort_values(x).plot(kind=kind, x=x, y=y, ax=axes)
        axes.set(xlabel=x, ylabel=y if y and kind != "hist" else "rows", title=title)
        return axes

    @step("Export")
    def export(self, grouped, kind: Literal["CSV", "XLSX"] = "CSV", separator: Literal[",", ";", "tab"] = ","):
        "The table as one file with a header row; in XLSX, text that begins like a formula stays text"
        import pandas as pd  # late: a second
        path = Path(tempfile.mkdtemp()) / f"table.{kind.lower()}"
        if kind == "CSV": grouped.to_csv(path, index=False, sep=separator.replace("tab", "\t"), encoding="utf-8-sig")
        else:
            with pd.ExcelWriter(path, engine="openpyxl") as out:
                grouped.to_excel(out, index=False, freeze_panes=(1, 0))
                for c in (c for row in out.sheets["Sheet1"].iter_rows() for c in row if c.data_type == "f"): c.data_type = "s"
        return path

def is_number(column) -> bool: return str(column.dtype).lower().startswith(("int", "uint", "float"))
def need(frame, names: list[str], numbers: list[str] = (), whose: str = "There is") -> None:
    "Raises PianolaError naming all of `names` that are no columns, and all of `numbers` that are no columns of numbers"
    gone = [f"`{n}`" if n else "an empty name" for n in dict.fromkeys(names) if n not in frame.columns]
    if gone: raise PianolaError(f"{whose} no column {', '.join(gone)}.", f"The columns are {shorten(', '.join(map(str, frame.columns)), 1000)}.")
    words = [f"`{n}` ({frame[n].dtype})" for n in numbers if not is_number(frame[n])]
    if words: raise PianolaError(f"No column of numbers: {', '.join(words)}.", "Choose others, or only count.")
def noted(frame, text: str):
    frame.attrs["note"] = text
    return frame

def read(file: Path, progress, sheet: str = "", decimal: str = "."):
    "A file as a table with types, and what is wrong with it; raises PianolaError for what is no table"
    if file.suffix.lower() in (".xlsx", ".xlsm"): frame, notes = read_workbook(file, sheet)
    else:
        try: frame, notes = read_csv(file, progress, "utf-8-sig")
        except UnicodeDecodeError: frame, notes = read_csv(file, progress, "cp1252")
    for name in list(frame.columns):
        frame[name], found = typed(frame[name], decimal)
        notes += [f"`{name}`: {note}" for note in found]
    return frame, notes

def read_csv(file: Path, progress, encoding: str):
    "A CSV file in chunks; lines that are too long are left out and named"
    import pandas as pd  # late: a second
    errors = "replace" if encoding == "cp1252" else "strict"
    with file.open(newline="", encoding=encoding, errors=errors) as text: start = text.read(1 << 16).lstrip("\r\n")
    if not start.strip() or "\0" in start: raise PianolaError(f"{file.name} is empty, or no text.", "Drop a CSV in UTF-8 or an XLSX file.")
    separator = max(",;\t|", key=start.splitlines()[0].count)
    names, notes = heads(next(csv.reader(start.splitlines(True), delimiter=separator)))
    if encoding == "cp1252": notes.append("The file is not UTF-8; it was read as Windows text (cp1252).")
    parts, size = [pd.DataFrame(columns=names, dtype=str)], file.stat().st_size
    with file.open("rb") as raw, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for part in pd.read_csv(raw, sep=separator, header=0, names=names, index_col=False, encoding=encoding,
                                encoding_errors=errors, chunksize=CHUNK, on_bad_lines="warn", **AS_TEXT):
            parts.append(part)
            progress(raw.tell(), size, f"{sum(map(len, parts)):,} rows")
    longer = re.findall(r"line (\d+)", " ".join(str(w.message) for w in warned))
    if longer: notes.append(f"{len(longer):,} lines have more values than the header and are left out: line {', '.join(longer[:10])}.")
    return pd.concat(parts, ignore_index=True), notes

def read_workbook(file: Path, sheet: str):
    "A sheet of a workbook as a table of text"
    import pandas as pd  # late: a second
    cells = pd.read_excel(file, sheet_name=sheet or 0, header=None, **AS_TEXT)
    names, notes = heads(cells.iloc[0].fillna("").tolist() if len(cells) else [])
    return cells.iloc[1:].dropna(how="all").set_axis(names, axis=1).reset_index(drop=True), notes

def heads(given: list[str]) -> tuple[list[str], list[str]]:
    "A header row as names that differ, and what was wrong with it"
    names, notes = [], []
    for at, name in enumerate((g.strip() for g in given), 1):
        names.append(name if name and name not in names else f"{name or 'column'} {at}")
        wrong = "the name of another" if name else "no name"
        if names[-1] != name: notes.append(f"Column {at} has {wrong}; it is called `{names[-1]}` here.")
    if any(re.fullmatch(r"[-+]?[\d.,]+", n) for n in names): notes.append("The header has numbers in it: perhaps the file has no header row.")
    return names, notes

def typed(column, decimal: str = "."):
    "A column of text as numbers, dates or yes and no where all its values are, and what is wrong with it"
    import pandas as pd  # late: a second
    texts = column.dropna().str.strip()
    if texts.empty: return column, ["it is empty"]
    values, notes = column, [f"{len(column) - len(texts):,} values are missing"] if len(texts) < len(column) else []
    numbers = pd.to_numeric(texts.str.replace(".", "").str.replace(",", ".") if decimal == "," else texts, errors="coerce")
    if texts.str.fullmatch(r"[+-]?0\d+|[+-]?\d{19,}").any():       # 007 and very long numbers are names of things
        notes.append("it has leading zeros or very long numbers, so it is kept as text")
    elif numbers.notna().all(): values = numbers.astype("Int64") if notes and numbers.dtype.kind == "i" else numbers
    elif texts.str.lower().isin(["true", "false"]).all(): values = (texts.str.lower() == "true").astype("boolean")
    elif texts.str.fullmatch(DATE).all() and (days := pd.to_datetime(texts, format="ISO8601", errors="coerce")).notna().all(): values = days
    wrong = texts[numbers.isna()]
    if values is column and 0 < len(wrong) <= len(texts) / 2:
        notes.append(f"mixed types: {len(wrong):,} of {len(texts):,} values are no numbers, such as `{shorten(wrong.iloc[0], 40)}`")
    return values.reindex(column.index), notes

def matching(frame, condition: str):
    "Which rows a condition holds for. It is read as a tree of columns and values and nothing else; that tree is run"
    quoted, token = {}, r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`([^`]*)`'
    def stand_in(found): return found[0] if found[1] is None else quoted.setdefault(found[1], f"quoted_{len(quoted)}")
    try: tree = ast.parse(re.sub(token, stand_in, condition.strip()), mode="eval")
    except (SyntaxError, ValueError):
        raise PianolaError(f"`{shorten(condition)}` cannot be read.", "Compare with ==; texts go in quotes, names with spaces in backticks.") from None
    bad = [type(n).__name__ for n in ast.walk(tree) if not isinstance(n, ALLOWED)]
    if bad: raise PianolaError(f"A condition only compares columns and values; it has: {', '.join(bad)}.", "Leave these out.")
    meant, columns = {v: k for k, v in quoted.items()}, list(frame.columns)
    used = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    need(frame, [meant.get(n.id, n.id) for n in used])
    for n in used: n.id = f"c{columns.index(meant.get(n.id, n.id))}"
    plain, wrong = frame.set_axis([f"c{at}" for at in range(len(columns))], axis=1), ""
    try: rows = plain.eval(ast.unparse(tree), engine="python")
    except (TypeError, ValueError, NotImplementedError) as error: wrong = shorten(error)
    if wrong or not used or str(getattr(rows, "dtype", "")) not in ("bool", "boolean"):
        raise PianolaError(f"The condition does not fit the columns' types. {wrong}", "Compare; texts go into quotes, numbers do not.")
    return rows.fillna(False).astype(bool)
