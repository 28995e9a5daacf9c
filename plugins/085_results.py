"""Results: what a step may return, how it is kept and shown."""
import base64
import collections
import csv
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import importlib.util
import inspect
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import tempfile
import uuid
import zoneinfo
from pathlib import Path

from fasthtml.common import FT, Img

from server import (
    KINDS, MAKERS, READERS, TEXT_LIMIT, App, DataTable, Details, Kind, Li, NotStr, P, PageHead, PianolaError, Span, Strong,
    Summary, Ul, html, markdown, shorten, to_json)

SHOWN, SHOWN_COLUMNS, SHOWN_LEAVES = 50, 60, 2000  # of a table that the card shows, of a tree
CHUNK = 50_000                                     # rows of a table that are written at once
os.environ.setdefault("MPLBACKEND", "Agg")         # NOTE: workers take it over: matplotlib opens no window there


class Results(App):
    """What a step may return: text (as markdown), numbers, dates, lists, dicts and dataclasses, a file, FastHTML
    components, a numpy array, a pandas DataFrame or Series, and whatever Jupyter would show."""

    menu, helps_workers = False, True

    def page(self, view):
        "The kinds there are"
        rows = [(k.name, (inspect.getdoc(k.save) or "").partition("\n")[0]) for k in reversed(KINDS)]
        return PageHead(self.title, inspect.cleandoc(self.__doc__)), DataTable(("Kind", "How it is kept"), rows)


def write_file(path: Path, data: bytes) -> None:
    "Write to the side, sync, rename: a file is there whole or not at all"
    side = path.with_name(path.name + ".part")
    with side.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    side.replace(path)

def pack(value):
    "Values as JSON that comes back as it was: what JSON has no word for is an object with one key that begins with `$`"
    kind = type(value)
    if kind in (str, int, bool, type(None)): return value
    if kind is float: return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list: return [pack(v) for v in value]
    if kind is dict and all(type(k) is str and k[:1] != "$" for k in value):
        return {k: pack(v) for k, v in value.items()}
    if kind is dict: return {"$dict": [[pack(k), pack(v)] for k, v in value.items()]}
    if kind in MARKS: return {MARKS[kind]: PACKED[MARKS[kind]][1](value)}
    if isinstance(value, enum.Enum): return {"$enum": [*_home(kind), pack(value.value)]}
    if (fields := fields_of(value)) is not None:
        return {"$class": [*_home(kind), {k: pack(v) for k, v in fields.items()}]}
    if module_of(value) == "numpy": return _pack_numpy(value)
    if module_of(value) == "pandas": return {"$pandas": _pack_pandas(value)}
    for plain in (str, int, float, list, dict):
        if isinstance(value, plain): return pack(plain(value))
    raise _unkept(value)

def unpack(value):
    "What `pack` packed"
    if isinstance(value, list): return [unpack(v) for v in value]
    if not isinstance(value, dict): return value
    if len(value) != 1 or next(iter(value))[:1] != "$": return {k: unpack(v) for k, v in value.items()}
    (name, inner), = value.items()
    return PACKED[name][2](inner) if name in PACKED else UNPACK[name](inner)

def module_of(value) -> str:
    "The package a value's type comes from"
    return type(value).__module__.partition(".")[0]

def fields_of(value) -> dict | None:
    "The fields of a dataclass or a named tuple; None for anything else"
    if isinstance(value, type): return None
    if dataclasses.is_dataclass(value): return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return value._asdict() if isinstance(value, tuple) and hasattr(type(value), "_fields") else None

def _unkept(value) -> PianolaError:
    return PianolaError(f"A step cannot return a {type(value).__name__}, alone or inside a list or dict.",
                        "Return text, numbers, dates, lists, a dataclass; a file, a table or a figure by itself.")

def _home(kind: type) -> list[str]:
    if "<locals>" not in kind.__qualname__: return [kind.__module__, kind.__qualname__]
    raise PianolaError(f"{kind.__name__} is defined inside a function, so a later step cannot find it.",
                       "Define it at the top of its file.")

def _at_home(module: str, name: str) -> type:
    "A dataclass, named tuple or enum by name: of no other kind is anything made"
    try: kind = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError): kind = None
    known = isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, tuple | enum.Enum))
    if known: return kind
    raise PianolaError(f"{name} is no longer in {module}, so an earlier result cannot be read.",
                       "Put it back, or run that step again.")

def _as_object(inner: list):
    "Without `__init__`: it may take other arguments or do something"
    kind, fields = _at_home(*inner[:2]), {k: unpack(v) for k, v in inner[2].items()}
    if issubclass(kind, tuple): return kind._make(fields.values())
    made = object.__new__(kind)
    for name, value in fields.items(): object.__setattr__(made, name, value)
    return made

def _time_out(value: dt.datetime) -> str:
    return value.isoformat() + (f"[{zone}]" if (zone := getattr(value.tzinfo, "key", "")) else "")

def _time_in(text: str) -> dt.datetime:
    iso, _, zone = text.rstrip("]").partition("[")
    when = dt.datetime.fromisoformat(iso)
    return when.astimezone(zoneinfo.ZoneInfo(zone)) if zone else when

def _pack_numpy(value) -> dict:
    "A numpy array as nested lists, a numpy number alike, with dtype and shape"
    import numpy as np  # late: only when somebody uses it
    array = np.asarray(value)
    if type(value) is not np.ndarray and not isinstance(value, np.generic) or array.dtype.kind not in "biufcmMUSO" \
            or array.dtype.char in "gG": raise _unkept(value)
    items = {"O": lambda: list(array.flat), "M": lambda: array.astype(str).tolist(),
             "m": lambda: array.astype("int64").tolist()}.get(array.dtype.kind, array.tolist)()
    return {"$array" if type(value) is np.ndarray else "$number": [str(array.dtype), list(array.shape), pack(items)]}

def _as_array(inner: list):
    import numpy as np  # late: as above
    kind, shape, items = inner[0], inner[1], unpack(inner[2])
    return (np.fromiter(items, object, len(items)) if kind == "object" else np.array(items, kind)).reshape(shape)

def _pack_pandas(value) -> list:
    kind = type(value).__name__
    if kind in ("NAType", "NaTType"): return [kind]
    if kind == "Timestamp": return [kind, value.isoformat(), value.unit, str(value.tz) if value.tz else None]
    if kind == "Timedelta": return [kind, value.isoformat(), value.unit]
    if kind == "Interval": return [kind, pack(value.left), pack(value.right), value.closed]
    if kind == "Period": return [kind, str(value), value.freqstr]
    raise _unkept(value)

def _as_pandas(inner: list):
    import pandas as pd  # late: as above
    kind, *parts = inner
    if kind == "Timestamp": return pd.Timestamp(parts[0]).tz_convert(parts[2]).as_unit(parts[1]) if parts[2] \
        else pd.Timestamp(parts[0]).as_unit(parts[1])
    if kind == "Timedelta": return pd.Timedelta(parts[0]).as_unit(parts[1])
    if kind == "Interval": return pd.Interval(unpack(parts[0]), unpack(parts[1]), parts[2])
    return pd.Period(*parts) if kind == "Period" else pd.NaT if kind == "NaTType" else pd.NA

def _items_out(value) -> list: return [pack(v) for v in value]

PACKED = {"$tuple": (tuple, _items_out, lambda v: tuple(map(unpack, v))),
          "$set": (set, _items_out, lambda v: set(map(unpack, v))),
          "$frozenset": (frozenset, _items_out, lambda v: frozenset(map(unpack, v))),
          "$counter": (collections.Counter, lambda v: pack(dict(v)), lambda v: collections.Counter(unpack(v))),
          "$bytes": (bytes, lambda v: base64.b64encode(v).decode(), base64.b64decode),
          "$date": (dt.date, str, dt.date.fromisoformat), "$time": (dt.datetime, _time_out, _time_in),
          "$clock": (dt.time, str, dt.time.fromisoformat), "$decimal": (decimal.Decimal, str, decimal.Decimal),
          "$span": (dt.timedelta, lambda v: [v.days, v.seconds, v.microseconds], lambda v: dt.timedelta(*v)),
          "$uuid": (uuid.UUID, str, uuid.UUID), "$path": (type(Path()), str, Path),
          "$complex": (complex, lambda v: [pack(v.real), pack(v.imag)], lambda v: complex(*map(unpack, v)))}
MARKS = {kind: name for name, (kind, _, _) in PACKED.items()}
TEXTUAL = {"$bytes", "$date", "$time", "$clock", "$decimal", "$uuid", "$path"}  # packed, they are one text
UNPACK = {"$float": float, "$dict": lambda v: {unpack(k): unpack(x) for k, x in v}, "$class": _as_object,
          "$enum": lambda v: _at_home(*v[:2])(unpack(v[2])), "$pandas": _as_pandas,
          "$array": _as_array, "$number": lambda v: _as_array(v)[()]}

def parts_of(value) -> list | None:
    "What a value holds, as pairs of key and value; None for a leaf"
    if isinstance(value, dict): return list(value.items())
    if isinstance(value, list | set | frozenset) or type(value) is tuple: return list(enumerate(value))
    return None if (fields := fields_of(value)) is None else list(fields.items())

def Tree(value, depth: int = 0, count=None):
    "A value as a tree that opens"
    items, count = parts_of(value), count or itertools.count()
    if items is None: return Span(shorten(value, 2000), cls="leaf")
    few = [(k, v) for k, v in items[:200] if next(count) < SHOWN_LEAVES]
    rows = [Li(Strong(shorten(k)), " ", Tree(v, depth + 1, count)) for k, v in few]
    more = [Li(f"… {len(items) - len(rows):,} more")] if len(items) > len(rows) else []
    return Details(Summary(f"{type(value).__name__}, {len(items)}"), Ul(*rows, *more), cls="tree", open=depth < 2)

def plain(value):
    "A value as JSON for the model, without marks; no more of it than a preview can hold"
    items = parts_of(value)
    if items is None: return value.item() if module_of(value) == "numpy" and value.shape == () else value
    return {str(k): plain(v) for k, v in items[:100]} if isinstance(value, dict) or fields_of(value) else \
        [plain(v) for _, v in items[:100]]

def _dumped(value, **style) -> bytes:
    return json.dumps(value, ensure_ascii=False, **style).encode(errors="backslashreplace")  # NOTE: as JSON escapes it

def _save_value(value, path: Path) -> dict:
    "As JSON, with what JSON has no word for marked"
    try:
        write_file(path.with_suffix(".json"), _dumped(pack(value), indent=1))
        if value is None: return {"html": "", "preview": "", "files": []}
        preview = shorten(to_json(plain(value)), 400)
        return {"html": html(Tree(value)), "preview": preview, "files": [f"{path.name}.json"]}
    except RecursionError:
        raise PianolaError("The result holds itself or goes too deep.", "Return a flatter one.") from None

def _load_value(record: dict, path: Path):
    return unpack(json.loads(path.with_suffix(".json").read_bytes()))

def _save_text(value: str, path: Path) -> dict:
    "As a Markdown file"
    write_file(path.with_suffix(".md"), value.encode(errors="surrogatepass"))
    return {"html": html(markdown(value[:TEXT_LIMIT])), "preview": shorten(value, 400), "files": []}

def _load_text(record: dict, path: Path) -> str:
    return path.with_suffix(".md").read_bytes().decode(errors="surrogatepass")

def _save_file(value: Path, path: Path) -> dict:
    "As it is"
    if not value.is_file(): raise PianolaError(f"The step returned {value}, which is no file.", "Write it first.")
    kept = path.parent / (value.name if value.name.startswith(f"{path.name}-") else f"{path.name}-{value.name}")
    made_for_us = Path(tempfile.gettempdir()) in value.resolve().parents
    if kept.resolve() != value.resolve(): (shutil.move if made_for_us else shutil.copyfile)(value, kept)
    return {"html": "", "preview": f"the file {value.name}", "files": [kept.name]}

def _load_file(record: dict, path: Path) -> Path | None:
    return path.parent / record["files"][0] if record.get("files") else None

def is_tags(value) -> bool:
    "A FastHTML component, or several of them"
    return isinstance(value, FT | NotStr) or type(value) in (list, tuple) and bool(value) and \
        all(isinstance(v, FT | NotStr) for v in value)

def _save_tags(value, path: Path) -> dict:
    "As the HTML it is"
    text = html(*value) if isinstance(value, list | tuple) else html(value)
    return {"html": text, "preview": shorten(re.sub(r"<[^>]+>|\s+", " ", text).strip(), 400)}

# ---- tables

PLAIN = re.compile(r"u?int\d+$|float(32|64)$|bool$|boolean$|datetime64|timedelta64", re.I)  # dtypes that CSV can hold

def is_frame(value) -> bool:
    "A pandas DataFrame or Series; pandas is looked at only if somebody has loaded it"
    pandas = sys.modules.get("pandas")
    return bool(pandas) and isinstance(value, (pandas.DataFrame, pandas.Series))

def _save_frame(value, path: Path) -> dict:
    "As CSV, with its types, its index and its kind in a small JSON note beside it"
    import pandas as pd  # late: a second
    frame = value.to_frame() if value.ndim == 1 else value
    ranged = isinstance(frame.index, pd.RangeIndex) and len(frame.columns) > 0
    levels = [] if ranged else [pd.Series(frame.index.get_level_values(i)) for i in range(frame.index.nlevels)]
    fields = levels + [frame.iloc[:, i].reset_index(drop=True) for i in range(len(frame.columns))]
    heads = [n or "" for n in frame.index.names][:len(levels)] + [_head(c) for c in frame.columns]
    index = {"levels": len(levels), "names": _items_out(frame.index.names), "multi": frame.index.nlevels > 1,
             "range": [frame.index.start, frame.index.stop, frame.index.step] if ranged else None,
             "freq": frame.index.freqstr if isinstance(frame.index, pd.DatetimeIndex | pd.TimedeltaIndex) else None}
    note = {"rows": len(frame), "series": value.ndim == 1, "name": pack(value.name) if value.ndim == 1 else None,
            "fields": [_field_note(f, h) for f, h in zip(fields, heads)],
            "index": index, "columns": _axis_out(frame.columns)}
    _write_csv(fields, heads, note["fields"], path.with_suffix(".csv"))
    write_file(path.with_suffix(".types.json"), _dumped(note))
    types = ", ".join(f"{_head(c)} ({t})" for c, t in list(zip(frame.columns, frame.dtypes))[:30])
    note = str(value.attrs.get("note", ""))
    return {"preview": shorten(f"a table of {len(frame):,} rows and {len(frame.columns)} columns: {types}", 400),
            "html": html(markdown(note)) if note else "", "table": _first_rows(frame, levels), "files": [f"{path.name}.csv", f"{path.name}.xlsx"]}

def _head(name) -> str: return " / ".join(map(str, name)) if isinstance(name, tuple) else str(name)

def _write_csv(fields: list, heads: list, notes: list[dict], path: Path) -> None:
    "Chunk by chunk, to the side; lines end as RFC 4180 has them, so that a lone carriage return in a cell is quoted"
    import pandas as pd  # late: as above
    side = path.with_name(path.name + ".part")
    with side.open("w", encoding="utf-8", newline="", errors="surrogatepass") as out:
        csv.writer(out).writerow(heads)
        for at in range(0, len(fields[0]), CHUNK):
            part = {i: _cells_out(f.iloc[at:at + CHUNK], n, h) for i, (f, n, h) in enumerate(zip(fields, notes, heads))}
            pd.DataFrame(part).to_csv(out, header=False, index=False, lineterminator="\r\n")
    side.replace(path)

def _axis_out(index) -> dict:
    "Column names, or the categories of a column: they are in the note, not in the CSV"
    note = {"names": _items_out(index.names), "multi": index.nlevels > 1, "dtype": str(index.dtype),
            "values": _items_out(index.tolist())}
    return note | ({"of": _field_note(index.to_series(), "")} if note["dtype"] == "category" else {})

def _axis_in(note: dict):
    import pandas as pd  # late: as above
    values, names = unpack(note["values"]), unpack(note["names"])
    if note["multi"] and not values: return pd.MultiIndex.from_arrays([[]] * len(names), names=names)
    if note["multi"]: return pd.MultiIndex.from_tuples(values, names=names)
    kind = _category(note["of"]) if "of" in note else note["dtype"]
    return pd.Index(values, dtype=kind, name=names[0], tupleize_cols=False)

def _category(note: dict):
    import pandas as pd  # late: as above
    return pd.CategoricalDtype(_axis_in(note["categories"]), note["ordered"])

def _field_note(column, head) -> dict:
    "How a column is written: `plain` as pandas does, `category`, `text`, a name in PACKED, `json` for a mixture"
    kind = str(column.dtype)
    if kind == "category":
        texts = list(map(str, column.cat.categories))
        if len(set(texts)) < len(texts) or "" in texts: texts = [_cell_out(v, head) for v in column.cat.categories]
        return {"dtype": kind, "how": "category", "texts": texts, "ordered": bool(column.cat.ordered),
                "categories": _axis_out(column.cat.categories)}
    if kind not in ("object", "str", "string"):
        return {"dtype": kind, "how": "plain" if PLAIN.match(kind) else "json"}
    values, gone = column.to_numpy(object), column.isna().to_numpy()
    kinds, missing = set(map(type, values[~gone])), set(map(type, values[gone]))
    how = "text" if kinds <= {str} else MARKS.get(next(iter(kinds)), "json")
    if len(kinds) > 1 or len(missing) > 1 or how not in TEXTUAL | {"text"}: return {"dtype": kind, "how": "json"}
    blank = any(type(v) in (str, bytes) and not v for v in values)
    rows = gone.nonzero()[0].tolist() if blank and missing else not blank  # which blank cells are missing values
    return {"dtype": kind, "how": how, "missing": rows, "na": pack(values[gone][0] if missing else None)}

def _cells_out(column, note: dict, head):
    "A part of a column as its cells"
    import pandas as pd  # late: as above
    how = note["how"]
    if how in ("plain", "text"): return _zoned_out(column) if isinstance(column.dtype, pd.DatetimeTZDtype) else column
    if how == "category": cells = [*note["texts"], ""]
    if how == "category": return pd.Series([cells[code] for code in column.cat.codes], column.index, "str")
    out = PACKED[how][1] if how in PACKED else lambda v: _cell_out(v, head)
    gone = column.isna() if how in PACKED else [False] * len(column)
    return pd.Series(["" if g else out(v) for v, g in zip(column.astype(object), gone)], column.index, "str")

def _zoned_out(column):
    "Moments of a time zone as local time with offset, 20 times as quick as pandas; in UTC where an offset has seconds"
    import pandas as pd  # late: as above
    local = column.dt.tz_localize(None)
    codes, offsets = pd.factorize(local - column.dt.tz_convert("UTC").dt.tz_localize(None))
    if any(o.seconds % 60 for o in offsets): return _zoned_out(column.dt.tz_convert("UTC"))
    minutes = [int(o.total_seconds()) // 60 for o in offsets]
    ends = [f"{'-' if m < 0 else '+'}{abs(m) // 60:02}:{abs(m) % 60:02}" for m in minutes] + [""]
    cells = local.astype("str")
    if cells.str.len().max() == 10: cells += " 00:00:00"  # pandas leaves out a time that is midnight everywhere
    return cells + pd.Series([ends[code] for code in codes], column.index, "str")

LIKE_JSON = tuple('"{[0123456789-tfn')  # how a cell begins that is JSON; a text that begins so is quoted as JSON

def _cell_out(value, head) -> str:
    "One cell of a mixed column: packed JSON, or a text that cannot be taken for it"
    if type(value) is str: return json.dumps(value) if not value or value.startswith(LIKE_JSON) else value
    try: return json.dumps(pack(value.item() if _is_number(value) else value), ensure_ascii=False)
    except PianolaError as error:
        raise PianolaError(f"Column {shorten(head, 60)!r} holds a {type(value).__name__}, which cannot be kept.",
                           "Turn it into text or numbers first.") from error

def _is_number(value) -> bool: return module_of(value) == "numpy" and value.shape == () and value.dtype.kind in "biuf"

def _cell_in(text: str): return unpack(json.loads(text)) if text.startswith(LIKE_JSON) else text

def _first_rows(frame, levels: list) -> dict:
    "The first rows and columns as the card shows them"
    few = frame.iloc[:SHOWN, :SHOWN_COLUMNS]
    shown = [*(level.iloc[:SHOWN] for level in levels), *(few.iloc[:, i] for i in range(few.shape[1]))]
    columns = [{"name": _head("" if n is None else n), "type": "index"} for n in frame.index.names[:len(levels)]]
    columns += [{"name": _head(c), "type": str(t)} for c, t in zip(few.columns, few.dtypes)]
    rows = [list(map(_shown, row)) for row in zip(*shown)]
    if more := frame.shape[1] - few.shape[1]:
        columns.append({"name": f"… {more:,} more columns", "type": ""})
        rows = [[*row, None] for row in rows]
    return {"columns": columns, "rows": rows, "total": len(frame)}

def _shown(value):
    if _is_number(value): value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType"): return None
    if isinstance(value, float): return value if math.isfinite(value) else None if value != value else str(value)
    if isinstance(value, bool | int): return value
    return shorten(value, 200)

def load_frame(record: dict, path: Path):
    "A DataFrame or Series as it was: columns, types, categories, index"
    import pandas as pd  # late: as above
    note = json.loads(path.with_suffix(".types.json").read_bytes())
    fields, index = _read_csv(path.with_suffix(".csv"), note["fields"]), note["index"]
    levels, names = fields[:index["levels"]], unpack(index["names"])
    frame = pd.DataFrame(dict(enumerate(fields[len(levels):])), index=pd.RangeIndex(note["rows"]))
    frame.columns = _axis_in(note["columns"])
    frame.index = pd.RangeIndex(*index["range"]) if index["range"] else \
        pd.MultiIndex.from_arrays(levels) if index["multi"] else pd.Index(levels[0], tupleize_cols=False)
    frame.index.names = names
    if index["freq"]: frame.index.freq = index["freq"]
    return frame.iloc[:, 0].rename(unpack(note["name"])) if note["series"] else frame

def _read_csv(path: Path, notes: list[dict]) -> list:
    import pandas as pd  # late: as above
    names = range(len(notes))
    numbers = {i: notes[i]["dtype"] for i in names
               if notes[i]["how"] == "plain" and not notes[i]["dtype"].startswith(("datetime", "timedelta"))}
    cells = pd.read_csv(path, header=0, names=names, dtype=dict.fromkeys(names, str) | numbers, index_col=False,
                        keep_default_na=False, na_values={i: [""] for i in numbers}, skip_blank_lines=False,
                        encoding="utf-8", encoding_errors="surrogatepass")
    return [cells[i] if i in numbers else _cells_in(cells[i], n) for i, n in enumerate(notes)]

def _cells_in(column, note: dict):
    "A column of cells as the type it had"
    import pandas as pd  # late: as above
    kind, how = note["dtype"], note["how"]
    if how == "category":
        codes = column.map({text: i for i, text in enumerate(note["texts"])}).fillna(-1).astype("int64")
        return pd.Series(pd.Categorical.from_codes(codes, dtype=_category(note)))
    if how == "json": return pd.Series([_cell_in(v) for v in column], dtype=object).astype(kind)
    if kind.startswith("datetime64"): return pd.to_datetime(column, format="ISO8601", utc="," in kind).astype(kind)
    if kind.startswith("timedelta64"): return pd.to_timedelta(column).astype(kind)
    values, missing = column.to_numpy(object, copy=True), note["missing"]
    gone = (column == "").to_numpy(bool) if missing is True else column.index.isin(missing or [])
    if how != "text": values[~gone] = [PACKED[how][2](v) for v in values[~gone]]
    values[gone] = unpack(note["na"])
    return pd.Series(values, dtype=kind)

def to_xlsx(csv_path: Path, xlsx_path: Path) -> None:
    "A CSV as a workbook of one sheet, row by row; raises PianolaError for more than a sheet can hold"
    import openpyxl  # late: as above
    csv.field_size_limit(2 ** 31 - 1)
    with csv_path.open(encoding="utf-8", errors="replace", newline="") as lines:
        size = sum(1 for _ in csv.reader(lines))
        lines.seek(0)
        rows = csv.reader(lines)
        heads = next(rows, [])
        if size > 1_048_576 or len(heads) > 16_384:
            raise PianolaError(f"A sheet holds 1,048,576 rows and 16,384 columns, not {size:,} and {len(heads):,}.",
                               "Take the CSV, or return fewer rows.")
        book, texts = openpyxl.Workbook(write_only=True), _text_columns(csv_path, len(heads))
        sheet = book.create_sheet("Table")
        sheet.freeze_panes = "A2"
        sheet.append([_xlsx_cell(sheet, h, True) for h in heads])
        for row in rows: sheet.append([_xlsx_cell(sheet, v, t) for v, t in zip(row, texts)])
        side = xlsx_path.with_name(xlsx_path.name + ".part")
        book.save(side)
    side.replace(xlsx_path)

def _text_columns(csv_path: Path, count: int) -> list[bool]:
    "Which columns are text even where it looks like a number; known if the table has a note beside it"
    note = csv_path.with_suffix(".types.json")
    if not note.is_file(): return [False] * count
    return [f["how"] == "text" for f in json.loads(note.read_bytes())["fields"]]

NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d{1,3})?")
NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

def _xlsx_cell(sheet, text: str, as_text: bool):
    "A number if it is one that a sheet keeps whole; a text that looks like a formula or an error stays a text"
    if not text: return None
    if not as_text and NUMBER.fullmatch(text):
        number = float(text) if re.search("[.eE]", text) else int(text)
        if abs(number) < 1e15 or isinstance(number, float) and math.isfinite(number): return number
    text = NOT_IN_XML.sub("", text)[:32_767]
    if text[:1] not in tuple("=+-@#\t\r"): return text
    from openpyxl.cell import WriteOnlyCell  # late: as above
    cell = WriteOnlyCell(sheet, text)
    cell.data_type, cell.quotePrefix = "s", True
    return cell

def read_table(path: Path):
    "An uploaded table: CSV (its separator found out), TSV, XLSX, JSON or Parquet, by its name"
    import pandas as pd  # late: a second
    kind = path.suffix.lower()
    if kind in (".xlsx", ".xlsm"): return pd.read_excel(path)
    if kind == ".parquet": return pd.read_parquet(path)
    if kind == ".json": return pd.read_json(path)
    with path.open(encoding="utf-8-sig", errors="replace") as f: first = f.readline()
    separator = "\t" if kind == ".tsv" else max(",;\t|", key=first.count)
    try: return pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    except UnicodeDecodeError: return pd.read_csv(path, sep=separator, encoding="latin-1")

# ---- what Jupyter would show

# what is shown is the first that a value has
RICH = {"_repr_html_": "text/html", "_repr_svg_": "image/svg+xml", "_repr_png_": "image/png",
        "_repr_jpeg_": "image/jpeg", "_repr_markdown_": "text/markdown", "_repr_latex_": "text/latex"}

def is_rich(value) -> bool:
    "A figure, or anything that has one of Jupyter's display methods"
    if artist_of(value) is not None: return True
    if isinstance(value, type) or module_of(value) in ("builtins", "fasthtml", "fastcore"): return False
    return any(callable(getattr(type(value), m, None)) for m in (*RICH, "_repr_mimebundle_"))

def artist_of(value):
    "What matplotlib (or seaborn) made: a figure, axes, or the first of several; else None"
    for _ in range(2):  # a list, or an array of two dimensions
        if isinstance(value, list | tuple) and value: value = value[0]
        elif type(value).__name__ == "ndarray" and value.ndim and value.size: value = value[0]
    return value if module_of(value) in ("matplotlib", "mpl_toolkits", "seaborn") and hasattr(value, "figure") else None

def _save_rich(value, path: Path) -> dict:
    "As a notebook shows it: SVG, PNG or Markdown on the card, HTML in a frame of its own"
    if (artist := artist_of(value)) is not None: return _save_artist(artist, path)
    if module_of(value) == "altair": return _save_altair(value, path)
    if module_of(value) == "plotly":
        title = shorten(value.layout.title.text or "a plotly figure")
        return _framed(path, value.to_html(include_plotlyjs=True), title)
    found = _shown_by(value, "_repr_mimebundle_", include=None, exclude=None) or {}
    for method, mime in RICH.items():
        data = found.get(mime) or _shown_by(value, method)
        if data: return _save_mime(mime, data, value, path)
    return {"html": html(P(shorten(found.get("text/plain") or value, 2000))), "preview": shorten(value)}

def _shown_by(value, name: str, **args):
    "What a display method gives, without the metadata it may add"
    found = getattr(value, name)(**args) if callable(getattr(type(value), name, None)) else None
    return found[0] if isinstance(found, tuple) else found

def _save_mime(mime: str, data, value, path: Path) -> dict:
    if mime == "text/html": return _framed(path, str(data), shorten(value, 300))
    if mime.startswith("text/"):
        write_file(path.with_suffix(".md"), str(data).encode(errors="replace"))
        shown = html(markdown(str(data)[:TEXT_LIMIT]))
        return {"html": shown, "preview": shorten(data, 400), "files": [f"{path.name}.md"]}
    if isinstance(data, str): data = data.encode(errors="replace") if "svg" in mime else base64.b64decode(data)
    return _picture(path, data, mime, shorten(value, 300))

def _picture(path: Path, data: bytes, mime: str, title: str) -> dict:
    "As an image: what an SVG holds of script is dead in it"
    named = b'<svg xmlns="http://www.w3.org/2000/svg"'  # an image is not drawn without
    if "svg" in mime: data = re.sub(rb"<svg\b(?![^>]*\bxmlns=)", named, data, count=1)
    name = f"{path.name}.{mime[6:].partition('+')[0]}"
    write_file(path.with_name(name), data)
    source = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    return {"html": html(Img(src=source, alt=title, cls="figure")), "preview": f"a picture: {title}", "files": [name]}

def _framed(path: Path, text: str, title: str) -> dict:
    style = "<!doctype html><meta charset=utf-8><style>body{font:14px system-ui;margin:8px}</style>"
    whole = text if re.match(r"\s*(<!doctype|<html)", text, re.I) else style + text
    write_file(path.with_suffix(".html"), whole.encode(errors="replace"))
    return {"frame": f"{path.name}.html", "preview": f"shown as HTML: {title}", "files": [f"{path.name}.html"]}

def _save_artist(value, path: Path) -> dict:
    figure, out = value.figure, io.BytesIO()
    if figure is None: raise PianolaError(f"This {type(value).__name__} is in no figure.", "Return the figure itself.")
    figure.savefig(out, format="png", dpi=120, bbox_inches="tight")
    titles = [figure.get_suptitle(), *(a.get_title() for a in figure.axes)]
    if pyplot := sys.modules.get("matplotlib.pyplot"): pyplot.close(figure)
    return _picture(path, out.getvalue(), "image/png", shorten(next(filter(None, titles), "a matplotlib figure")))

def _save_altair(value, path: Path) -> dict:
    altair = sys.modules["altair"]
    if not importlib.util.find_spec("vl_convert"):
        raise PianolaError("Altair needs vl-convert-python to draw without the internet.",
                           "Install it: uv pip install vl-convert-python.")
    with altair.data_transformers.enable("default", max_rows=None): text = value.to_html(inline=True)
    title = getattr(value, "title", None)
    return _framed(path, text, shorten(title) if isinstance(title, str) else "an Altair chart")

def _kind(name: str, fits, save, load) -> Kind:
    "A kind whose records can be kept: half characters, which no database takes, become question marks"
    @functools.wraps(save)
    def kept(value, path: Path) -> dict:
        return json.loads(json.dumps(save(value, path), ensure_ascii=False).encode(errors="replace"))
    return Kind(name, fits, kept, load)

KINDS += [
    _kind("value", lambda v: True, _save_value, _load_value),
    _kind("rich", is_rich, _save_rich, _load_file),
    _kind("table", is_frame, _save_frame, load_frame),
    _kind("file", lambda v: isinstance(v, Path), _save_file, _load_file),
    _kind("tags", is_tags, _save_tags, lambda record, path: NotStr(record["html"])),
    _kind("text", lambda v: isinstance(v, str) and not isinstance(v, enum.Enum), _save_text, _load_text),
]
READERS["DataFrame"], MAKERS[".xlsx"] = read_table, to_xlsx
