"""Results: what a step may return, how it is kept and shown."""
import base64
import dataclasses
import datetime as dt
import decimal
import functools
import inspect
import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

from fasthtml.common import Img

from server import (
    KINDS, READERS, TEXT_LIMIT, App, DataTable, Details, Kind, Li, NotStr, P, PageHead, PianolaError, Span, Strong, Summary, Ul,
    html, markdown, shorten, to_json, write_file)

SHOWN = 50  # rows of a table that the card shows


class Results(App):
    "What a step may return: text (as markdown), numbers, dates, lists, dicts and dataclasses, a file, FastHTML components, a pandas DataFrame or Series, and whatever Jupyter would show."

    menu, helps_workers = False, True

    def page(self, view):
        "The kinds there are"
        rows = [(k.name, (inspect.getdoc(k.save) or "").partition("\n")[0]) for k in reversed(KINDS)]
        return PageHead(self.title, self.__doc__), DataTable(("Kind", "How it is kept"), rows)


def pack(value):
    "Values as JSON that comes back as it was: what JSON has no word for is an object with one key that begins with `$`"
    for name, (kind, out, _) in PACKED.items():
        if type(value) is kind: return {name: out(value)}
    if isinstance(value, float) and not math.isfinite(value): return {"$float": str(value)}
    if value is None or isinstance(value, str | bool | int | float): return value
    if isinstance(value, list): return [pack(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) and k[:1] != "$" for k in value): return {k: pack(v) for k, v in value.items()}
    if isinstance(value, dict): return {"$dict": [[pack(k), pack(v)] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"$class": [kind.__module__, kind.__qualname__, fields]}
    if hasattr(value, "item") and getattr(value, "shape", None) == (): return pack(value.item())  # a numpy number
    raise PianolaError(f"A step cannot return a {type(value).__name__} inside a list or dict.", "Return plain values.")

PACKED = {"$tuple": (tuple, lambda v: [pack(x) for x in v], lambda v: tuple(map(unpack, v))),
          "$set": (set, lambda v: [pack(x) for x in v], lambda v: set(map(unpack, v))),
          "$bytes": (bytes, lambda v: base64.b64encode(v).decode(), base64.b64decode),
          "$date": (dt.date, str, dt.date.fromisoformat), "$time": (dt.datetime, str, dt.datetime.fromisoformat),
          "$decimal": (decimal.Decimal, str, decimal.Decimal)}

def unpack(value):
    "What `pack` packed"
    if isinstance(value, list): return [unpack(v) for v in value]
    if not isinstance(value, dict): return value
    if len(value) != 1 or next(iter(value))[:1] != "$": return {k: unpack(v) for k, v in value.items()}
    (name, inner), = value.items()
    if name in PACKED: return PACKED[name][2](inner)
    if name == "$float": return float(inner)
    if name == "$dict": return {unpack(k): unpack(v) for k, v in inner}
    kind = functools.reduce(getattr, inner[1].split("."), sys.modules[inner[0]])
    return kind(**{k: unpack(v) for k, v in inner[2].items()})

def Tree(value, depth: int = 0):
    "A value as a tree that opens"
    if not isinstance(value, dict | list | tuple | set): return Span(shorten(value, 2000), cls="leaf")
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    rows = [Li(Strong(str(k)), " ", Tree(v, depth + 1)) for k, v in items[:200]]
    more = [Li(f"… {len(items) - 200} more")] if len(items) > 200 else []
    return Details(Summary(f"{type(value).__name__}, {len(items)}"), Ul(*rows, *more), cls="tree", open=depth < 2)

def _packs(value) -> bool:
    try: return pack(value) is not NotImplemented
    except PianolaError: return False

def _save_value(value, path: Path) -> dict:
    "As JSON, with what JSON has no word for marked"
    write_file(path.with_suffix(".json"), json.dumps(pack(value), ensure_ascii=False, indent=1).encode())
    return {"html": "" if value is None else html(Tree(value)), "preview": "" if value is None else shorten(to_json(value), 400),
            "files": [] if value is None else [f"{path.name}.json"]}

def _save_text(value: str, path: Path) -> dict:
    "As a Markdown file"
    write_file(path.with_suffix(".md"), value.encode("utf-8", "replace"))
    return {"html": html(markdown(value[:TEXT_LIMIT])), "preview": shorten(value, 400), "files": []}

def _save_file(value: Path, path: Path) -> dict:
    "As it is"
    if not value.is_file(): raise PianolaError(f"The step returned {value}, which is no file.", "Write it first.")
    kept = path.parent / f"{path.name}-{value.name}"
    if kept != value: shutil.copyfile(value, kept)
    return {"html": "", "preview": f"the file {value.name}", "files": [kept.name]}

def _save_tags(value, path: Path) -> dict:
    "As the HTML it is"
    return {"html": html(value), "preview": shorten(re.sub(r"<[^>]+>|\s+", " ", html(value)), 400)}

# ---- tables

def is_frame(value) -> bool:
    "A pandas DataFrame or Series; pandas is looked at only if somebody has loaded it"
    pandas = sys.modules.get("pandas")
    return bool(pandas) and isinstance(value, (pandas.DataFrame, pandas.Series))

def _save_frame(value, path: Path) -> dict:
    "As CSV, with its types, its index and its kind in a small JSON note beside it"
    series, frame = not hasattr(value, "columns"), value.to_frame() if not hasattr(value, "columns") else value
    plain_index = type(frame.index).__name__ == "RangeIndex" and frame.index.equals(type(frame.index)(len(frame)))
    note = {"series": series, "name": None if not series else pack(value.name), "columns": [pack(c) for c in frame.columns],
            "dtypes": [str(t) for t in frame.dtypes], "index": None if plain_index else [str(frame.index.get_level_values(i).dtype)
                                                                                      for i in range(frame.index.nlevels)],
            "index_names": [pack(n) for n in frame.index.names],
            "categories": {str(i): _category(frame.iloc[:, i]) for i in range(len(frame.columns)) if str(frame.dtypes.iloc[i]) == "category"}}
    side = path.with_suffix(".csv.part")
    out = frame.copy(deep=False)
    out.columns = [str(c) for c in frame.columns]
    for i in range(len(out.columns)):
        if str(frame.dtypes.iloc[i]) == "object": out.isetitem(i, frame.iloc[:, i].map(_cell_out))
    out.to_csv(side, index=not plain_index, lineterminator="\n")
    side.replace(path.with_suffix(".csv"))
    write_file(path.with_suffix(".types.json"), json.dumps(note).encode())
    types = ", ".join(f"{c} ({t})" for c, t in list(zip(frame.columns, frame.dtypes))[:30])
    return {"preview": shorten(f"a table of {len(frame):,} rows and {len(frame.columns)} columns: {types}", 400),
            "table": _head_of(frame), "files": [f"{path.name}.csv", f"{path.name}.xlsx"]}

def _category(column):
    return {"values": [pack(_plain(v)) for v in column.cat.categories], "ordered": bool(column.cat.ordered)}

def _cell_out(value):
    "Objects in a column of objects: as packed JSON unless they are text or missing"
    if isinstance(value, str): return json.dumps(value) if value[:1] in '"{[0123456789-tfnNI' or not value else value
    try: return "" if value is None or value != value else json.dumps(pack(_plain(value)), ensure_ascii=False)
    except (PianolaError, ValueError): return str(value)

def _cell_in(text):
    if not isinstance(text, str): return None
    try: return unpack(json.loads(text)) if text[:1] in '"{[0123456789-tfnNI' else text
    except ValueError: return text

def _plain(value): return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value

def _head_of(frame) -> dict:
    "The first rows as the card shows them"
    head = frame.head(SHOWN)
    index = [] if type(frame.index).__name__ == "RangeIndex" else [frame.index.names[0] or ""]
    columns = [{"name": str(n), "type": "index"} for n in index] + [{"name": str(c), "type": str(t)} for c, t in zip(frame.columns, frame.dtypes)]
    rows = [[*([_shown(i)] if index else []), *map(_shown, row)] for i, row in zip(head.index, head.itertuples(index=False, name=None))]
    return {"columns": columns, "rows": rows, "total": len(frame)}

def _shown(value):
    value = _plain(value)
    if value is None or isinstance(value, float) and value != value: return None
    if isinstance(value, bool | int): return value
    if isinstance(value, float): return value if math.isfinite(value) else str(value)
    return shorten(value, 200)

def load_frame(record: dict, path: Path):
    "A DataFrame or Series as it was: columns, types, categories, index"
    import pandas as pd  # late: a second
    note = json.loads(path.with_suffix(".types.json").read_text())
    levels = len(note["index"] or ())
    frame = pd.read_csv(path.with_suffix(".csv"), dtype=str, keep_default_na=False, na_values=[""])
    types = [*(note["index"] or ()), *note["dtypes"]]
    for i, kind in enumerate(types): frame.isetitem(i, _typed(frame.iloc[:, i], kind, note["categories"].get(str(i - levels)) if i >= levels else None))
    names = list(frame.columns)
    if levels: frame = frame.set_index(names[:levels])
    frame.columns = pd.Index([unpack(c) for c in note["columns"]])
    if levels or note["index_names"] != [None]: frame.index.names = [unpack(n) for n in note["index_names"]]
    if not note["series"]: return frame
    series = frame.iloc[:, 0]
    series.name = unpack(note["name"])
    return series

def _typed(column, kind: str, category: dict | None):
    "A column of text as the type it had"
    import pandas as pd  # late: a second
    if category: return pd.Categorical(_as_category(column, category), categories=[unpack(v) for v in category["values"]], ordered=category["ordered"])
    if kind == "object": return column.map(_cell_in).astype(object).where(column.notna(), None)
    if kind.startswith("datetime64"): return pd.to_datetime(column, format="ISO8601", utc="," in kind).astype(kind)
    if kind.startswith("timedelta64"): return pd.to_timedelta(column).astype(kind)
    if kind == "bool": return column == "True"
    if kind == "boolean": return column.map({"True": True, "False": False}).astype("boolean")
    if kind.lower().startswith(("int", "uint", "float")): return pd.to_numeric(column).astype(kind)
    if kind in ("string", "str"): return column.astype(kind)
    return column.astype(kind)

def _as_category(column, category: dict):
    by_text = {str(unpack(v)): unpack(v) for v in category["values"]}
    return column.map(by_text)

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

RICH = ("_repr_mimebundle_", "_repr_html_", "_repr_svg_", "_repr_png_", "_repr_jpeg_", "_repr_markdown_", "_repr_latex_")

def is_rich(value) -> bool:
    "A figure, or anything that has one of Jupyter's display methods"
    if isinstance(value, type) or module_of(value) in ("builtins", "fasthtml", "fastcore"): return False
    return module_of(value) == "matplotlib" or any(callable(getattr(type(value), m, None)) for m in RICH)

def module_of(value) -> str:
    "The package a value's type comes from"
    return type(value).__module__.partition(".")[0]

def _save_rich(value, path: Path) -> dict:
    "As a notebook shows it: SVG, PNG or Markdown on the card, HTML in a frame of its own"
    if module_of(value) == "matplotlib": return _save_matplotlib(value, path)
    if module_of(value) == "plotly": return _framed(path, value.to_html(include_plotlyjs=True, full_html=True), _title(value))
    if module_of(value) == "altair": return _save_altair(value, path)
    for name in RICH[1:]:
        method = getattr(value, name, None)
        found = method() if callable(method) else None
        if found: return _save_mime(name, found, value, path)
    bundle = value._repr_mimebundle_(include=None, exclude=None) if hasattr(value, "_repr_mimebundle_") else {}
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    for mime, name in (("text/html", "_repr_html_"), ("image/svg+xml", "_repr_svg_"), ("image/png", "_repr_png_"), ("text/markdown", "_repr_markdown_")):
        if mime in data: return _save_mime(name, data[mime], value, path)
    return {"html": html(P(shorten(value, 2000))), "preview": shorten(value)}

def _save_mime(name: str, found, value, path: Path) -> dict:
    found = found[0] if isinstance(found, tuple) else found
    if name == "_repr_html_": return _framed(path, str(found), shorten(value, 300))
    if name in ("_repr_markdown_", "_repr_latex_"): return {"html": html(markdown(str(found))), "preview": shorten(found, 400)}
    kind = {"_repr_svg_": "svg", "_repr_png_": "png", "_repr_jpeg_": "jpeg"}[name]
    data = base64.b64decode(found) if isinstance(found, str) and kind != "svg" else found.encode() if isinstance(found, str) else found
    return _picture(path, data, kind, shorten(value, 300))

def _picture(path: Path, data: bytes, kind: str, title: str) -> dict:
    write_file(path.with_suffix(f".{kind}"), data)
    source = f"data:image/{'svg+xml' if kind == 'svg' else kind};base64,{base64.b64encode(data).decode()}"
    return {"html": html(Img(src=source, alt=title, cls="figure")), "preview": f"a picture: {title}", "files": [f"{path.name}.{kind}"]}

def _framed(path: Path, text: str, title: str) -> dict:
    if "<html" not in text[:500].lower(): text = f"<!doctype html><meta charset=utf-8><style>body{{font:14px system-ui;margin:8px}}</style>{text}"
    write_file(path.with_suffix(".html"), text.encode("utf-8", "replace"))
    return {"frame": f"{path.name}.html", "preview": shorten(f"shown as HTML: {title}", 400), "files": [f"{path.name}.html"]}

def _title(figure) -> str: return str(getattr(getattr(figure.layout, "title", None), "text", "") or "a plotly figure")

def _save_matplotlib(value, path: Path) -> dict:
    figure = value if hasattr(value, "savefig") else getattr(value, "figure", None)
    if figure is None: raise PianolaError(f"A {type(value).__name__} of matplotlib cannot be shown by itself.", "Return the figure or its axes.")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, bbox_inches="tight")
    title = next((a.get_title() for a in figure.axes if a.get_title()), "a matplotlib figure")
    if pyplot := sys.modules.get("matplotlib.pyplot"): pyplot.close(figure)
    return _picture(path, out.getvalue(), "png", title)

def _save_altair(value, path: Path) -> dict:
    try: text = value.to_html(inline=True)
    except (ImportError, ValueError):
        raise PianolaError("Altair needs vl-convert-python to draw without the internet.",
                           "Install it: uv pip install vl-convert-python.") from None
    return _framed(path, text, str(getattr(value, "title", "") or "an Altair chart"))

def _load_rich(record: dict, path: Path):
    "What is left of something shown: its first file, or nothing"
    return path.parent / record["files"][0] if record.get("files") else None

KINDS += [
    Kind("value", lambda v: _packs(v), _save_value, lambda r, path: unpack(json.loads(path.with_suffix(".json").read_text()))),
    Kind("rich", is_rich, _save_rich, _load_rich),
    Kind("table", is_frame, _save_frame, load_frame),
    Kind("file", lambda v: isinstance(v, Path), _save_file, lambda r, path: path.parent / r["files"][0]),
    Kind("tags", lambda v: isinstance(v, NotStr) or module_of(v) in ("fasthtml", "fastcore") and hasattr(v, "tag"), _save_tags,
         lambda r, path: NotStr(r["html"])),
    Kind("text", lambda v: isinstance(v, str) and not isinstance(v, NotStr), _save_text, lambda r, path: path.with_suffix(".md").read_text()),
]
READERS["DataFrame"] = read_table
