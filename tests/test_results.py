"RESULTS: what a step returns is kept in open formats, comes back with the same types, and is never live on the page."
import base64
import collections
import csv
import datetime as dt
import enum
import json
import math
import time
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import openpyxl
import pandas as pd
import pytest
from fasthtml.common import Div, NotStr, P
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import server

StepResult = server.import_plugin(Path(server.__file__).parent / "plugins/047_cards.py")[0].StepResult

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(scope="module", autouse=True)
def results():
    "The plugin, with its kinds in place for these tests only"
    kinds, readers = list(server.KINDS), dict(server.READERS)
    yield server.import_plugin(ROOT / "plugins/085_results.py")[0]
    server.KINDS[:] = kinds
    server.READERS.clear()
    server.READERS.update(readers)


def there_and_back(value, folder: Path):
    "The record as the database keeps it, and the value as a later step gets it"
    record = json.loads(server.to_json(server.save_result(value, folder, "x")).encode())
    return record, server.load_result(record, folder)


# values

class Colour(enum.Enum):
    RED = "red"
    BLUE = (0, 0, 255)


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: float
    y: float = 0


@dataclass(frozen=True, slots=True)
class Leaf:
    when: dt.date
    at: Point = Point(1, 2)


@dataclass
class Branch:
    leaf: Leaf
    size: int = field(init=False, default=7)
    names: list = field(default_factory=list)

    class Inner(enum.Flag):
        A = 1
        B = 2


VALUES = [
    None, True, 0, -1, 2 ** 80, 0.1, -0.0, 1e308, [], {}, [[], {}, [None]], {"a": {"b": [1, "x", None, False]}},
    {"": 1}, {"$tuple": [1]}, {"$": 1}, {"$x": 1, "y": 2}, {1: "one", "1": "text", None: 0, (1, 2): 3, 1.5: 4},
    ["\ud800", "\x00", "\u2028", "ä😀"],
    (), (1, (2, "x")), [(1,)], {1, 2}, frozenset({"a"}), {(1, 2)}, b"", b"\x00\xff", [b"x"], Path("a/b"), [Path("a")],
    1 + 2j, dt.date(2026, 2, 28), dt.datetime(1, 1, 1), dt.datetime(2026, 3, 1, 12, 0, 0, 5), dt.time(23, 59, 1),
    dt.timedelta(-1, 5, 7), dt.datetime(2026, 3, 1, tzinfo=dt.UTC),
    dt.datetime(2026, 7, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    dt.datetime(2026, 7, 1, tzinfo=BERLIN), dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN), Decimal("1.10"),
    Decimal("-Infinity"), math.inf, -math.inf, uuid.UUID(int=5), collections.Counter("aab"),
    [Colour.RED, Colour.BLUE, Level.LOW, Word.YES], Word.YES,
    Branch.Inner.A | Branch.Inner.B, Point(1.5), [Point(1, 2)], Leaf(dt.date(2026, 1, 1)),
    {"b": [Branch(Leaf(dt.date(2026, 1, 1)), ["x"])]},
    np.float64(1.5), np.int8(-3), np.bool_(True), [np.str_("x")], np.datetime64("2026-01-01T10:00"),
    np.timedelta64(5, "D"), [np.float32(0.1)],
    pd.Timestamp("2026-01-01 10:00:00.123456789", tz="Europe/Berlin"), pd.Timestamp("2026-01-01"),
    pd.Timedelta(days=1, nanoseconds=5), pd.Interval(0, 1.5, "left"), pd.Period("2026-03", "M"),
]

def same(a, b) -> bool:
    "Equal, of one type, all the way down"
    if type(a) is not type(b): return False
    if isinstance(a, dt.datetime): return a == b and str(a.tzinfo) == str(b.tzinfo) and a.utcoffset() == b.utcoffset()
    if isinstance(a, list | tuple): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict): return same(list(a.items()), list(b.items()))
    return a == b and repr(a) == repr(b)

@pytest.mark.parametrize("value", VALUES, ids=lambda v: repr(v)[:40])
def test_a_value_comes_back_as_it_was(value, tmp_path):
    if isinstance(value, Path): value = [value]
    assert same(there_and_back(value, tmp_path)[1], value)

KEYS = st.text() | st.integers() | st.just("$tuple")
JSON = st.recursive(st.none() | st.booleans() | st.integers(-2 ** 70, 2 ** 70) | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8)

@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON)
def test_every_json_value_comes_back(tmp_path, value):
    assert same(there_and_back(value, tmp_path)[1], value)

@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), Decimal("NaN"), pd.NaT, pd.NA], ids=repr)
def test_what_is_not_equal_to_itself_comes_back_too(value, tmp_path):
    back = there_and_back([value], tmp_path)[1][0]
    assert type(back) is type(value) and repr(back) == repr(value)

@pytest.mark.parametrize("array", [
    np.arange(6).reshape(2, 3), np.array([1.5, np.nan, -np.inf], "float32"), np.zeros((0, 3)), np.array(5),
    np.array([True, False]), np.array(["a", "bcd"]), np.array([b"x"]), np.array(["2026-01-01", "NaT"], "M8[ns]"),
    np.array([1, 2], "timedelta64[h]"), np.array([1 + 2j]), np.array([1], ">i4"), np.array([2 ** 64 - 1], "u8")],
    ids=lambda a: f"{a.dtype}{a.shape}")
def test_an_array_comes_back_with_dtype_and_shape(array, tmp_path):
    back = there_and_back({"a": array}, tmp_path)[1]["a"]
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)

def test_an_array_of_objects_keeps_the_lists_in_it(tmp_path):
    array = np.empty(2, object)
    array[0], array[1] = [1, 2], [3, 4]
    back = there_and_back(array, tmp_path)[1]
    assert back.shape == (2,) and back.tolist() == [[1, 2], [3, 4]]

def test_an_array_is_nested_lists_in_the_file(tmp_path):
    server.save_result(np.eye(2), tmp_path, "x")
    assert json.loads((tmp_path / "x.json").read_text()) == {"$array": ["float64", [2, 2], [[1.0, 0.0], [0.0, 1.0]]]}

@pytest.mark.parametrize("value", [object(), [object()], {"a": pd.DataFrame()}, [Div("x"), 1], lambda: 1,
                                   (n for n in ()), np.ma.array([1])], ids=lambda v: type(v).__name__)
def test_what_cannot_be_kept_is_said(value, tmp_path):
    with pytest.raises(server.PianolaError, match="cannot return a") as told: server.save_result(value, tmp_path, "x")
    assert told.value.fix

def test_a_list_that_holds_itself_is_said(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(server.PianolaError, match="holds itself"): server.save_result(loop, tmp_path, "x")

def test_a_class_made_inside_a_function_is_said(tmp_path):
    @dataclass
    class Hidden: a: int = 1
    with pytest.raises(server.PianolaError, match="inside a function"): server.save_result(Hidden(), tmp_path, "x")

@pytest.mark.parametrize("home", [["os", "system"], ["subprocess", "Popen"], ["gone", "Thing"],
                                  ["test_results", "Gone"]])
def test_only_dataclasses_are_made_again(home, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"$class": [*home, {"command": "true"}]}))
    with pytest.raises(server.PianolaError, match="no longer"): server.load_result({"kind": "value", "name": "x"}, tmp_path)

def test_a_huge_tree_stays_small_on_the_card(tmp_path):
    record, _ = there_and_back([[[n] * 50 for n in range(50)] for _ in range(50)], tmp_path)
    assert len(record["html"]) < 500_000 and "more" in record["html"]

def test_the_preview_is_plain_json(tmp_path):
    value = {"when": dt.date(2026, 1, 2), 3: (np.int64(4), Leaf(dt.date(2026, 1, 1)))}
    preview = server.save_result(value, tmp_path, "x")["preview"]
    assert preview == '{"when": "2026-01-02", "3": [4, {"when": "2026-01-01", "at": {"x": 1, "y": 2}}]}'


# texts, files, tags

@pytest.mark.parametrize("text", ["", "**bold**", "a\r\nb\rc\n", "\ufeffx", "nul\x00", "\ud800", "007", "nan"],
                         ids=repr)
def test_a_text_comes_back_to_the_letter(text, tmp_path):
    record, back = there_and_back(text, tmp_path)
    assert record["kind"] == "text" and back == text

def test_a_text_is_markdown_without_html(tmp_path):
    shown = server.save_result(f"**bold** {HOSTILE}", tmp_path, "x")["html"]
    assert "<strong>" in shown and "<img" not in shown and "<script" not in shown

def test_a_file_is_copied_to_the_run(tmp_path):
    source = tmp_path / "from" / "näme <b>.bin"
    source.parent.mkdir()
    source.write_bytes(b"\x00\xff")
    record, back = there_and_back(source, tmp_path / "run")
    assert back.read_bytes() == b"\x00\xff" and record["files"] == [back.name] and back.parent == tmp_path / "run"
    assert there_and_back(back, tmp_path / "run")[1] == back
    with pytest.raises(server.PianolaError, match="no file"): server.save_result(tmp_path, tmp_path / "run", "x")

@pytest.mark.parametrize("tags", [Div(P("a", id="i"), HOSTILE), NotStr("<p id=i>a</p>"), (P("a", id="i"), P("b")),
                                  [Div(P("a", id="i"))]], ids=repr)
def test_tags_are_shown_as_they_are_and_texts_in_them_escaped(tags, tmp_path):
    record, back = there_and_back(tags, tmp_path)
    assert record["kind"] == "tags" and isinstance(back, NotStr) and str(back) == record["html"]
    assert "<p id=" in record["html"] and "<img" not in record["html"] and there_and_back(back, tmp_path)[0] == record


# tables

TEXTS = ["007", "nan", "NA", "", "None", "1e5", " lead", "a\rb", "a\r\nb", 'q"q', "x,y", "#N/A", "true", "null", "\x00",
         "\ud800", '"x"', "[1]"]
FRAMES = {
    "plain": pd.DataFrame({"i": [1, 2], "f": [0.1 + 0.2, np.nan], "b": [True, False], "t": ["a", None]}),
    "texts": pd.DataFrame({"t": TEXTS}), "texts and none": pd.DataFrame({"t": [*TEXTS, None, "", None]}),
    "texts of dtype string": pd.DataFrame({"t": pd.array([*TEXTS, None], "string")}),
    "texts as objects": pd.DataFrame({"a": pd.Series([*TEXTS, None], dtype=object),
                                      "b": pd.Series([*TEXTS, np.nan], dtype=object)}),
    "only blanks": pd.DataFrame({"t": ["", "", None]}), "only none": pd.DataFrame({"t": [None, None]}),
    "mixed": pd.DataFrame({"o": pd.Series([1, "1", 1.0, True, None, np.nan, pd.NA, "", [1, "x"], {"a": (1, 2)}, b"x",
                                           "text", dt.date(2026, 1, 1), Decimal("1.50"), "-", "t", "nan", {1, 2}],
                                          dtype=object)}),
    "objects of one type": pd.DataFrame({"d": [dt.date(2026, 1, 1), None], "m": [Decimal("1.10"), Decimal("NaN")],
                                         "y": [b"", None], "u": [uuid.UUID(int=1)] * 2, "l": [[1], None],
                                         "n": pd.Series([1, None], dtype=object)}),
    "numbers": pd.DataFrame({k: np.array([0, 1, np.iinfo(k).max], k) for k in ("int8", "int64", "uint8", "uint64")}
                            | {k: np.array([0.1, np.inf, np.nan], k) for k in ("float16", "float32", "float64")}
                            | {"c": [1 + 2j, 0, -1j]}),
    "nullable": pd.DataFrame({"i": pd.array([2 ** 63 - 1, None, -2 ** 63], "Int64"),
                              "u": pd.array([1, None, 2], "UInt8"),
                              "b": pd.array([True, None, False], "boolean"), "f": pd.array([0.1, None, 3], "Float64"),
                              "g": pd.array([0.1, None, 3], "Float32")}),
    "categories": pd.DataFrame({"t": pd.Categorical(["b", "a", None]),
                                "o": pd.Categorical(["lo", "hi", "lo"], ["lo", "mid", "hi"], ordered=True),
                                "i": pd.Categorical([3, 1, 3]), "f": pd.Categorical([1.5, None, 0.1]),
                                "e": pd.Categorical(["", None, "nan"]), "m": pd.Categorical([1, "1", None]),
                                "d": pd.Categorical(pd.to_datetime(["2026-01-02", "2026-01-01", None])),
                                "cut": pd.cut([1, 5, 9], 2), "none": pd.Categorical([None] * 3)}),
    "times": pd.DataFrame({"d": pd.to_datetime(["2026-01-01", None, "2026-01-01 10:00:00.000001"], format="ISO8601"),
                           "z": pd.to_datetime(["2026-03-29", "2026-07-01", None]).tz_localize("Europe/Berlin"),
                           "u": pd.to_datetime(["2026-03-29", "2026-07-01", None]).tz_localize("UTC+02:00"),
                           "old": pd.to_datetime(["1850-01-01", "1969-12-31 23:59:59.5", None],
                                                 format="ISO8601").tz_localize("Europe/Berlin"),
                           "w": pd.to_datetime(["2026-01-01", "2026-07-01", "2026-11-01 05:30:00"], format="ISO8601",
                                               utc=True).tz_convert("America/St_Johns"),
                           "n": pd.Series(["2026-01-01 10:00:00.123456789", None, "1677-09-22"],
                                          dtype="datetime64[ns]"),
                           "s": np.array(["0001-01-01", "9999-12-31", "NaT"], "datetime64[s]"),
                           "t": pd.to_timedelta(["1D", None, "-1us"]),
                           "p": pd.PeriodIndex(["2026-01", None, "2026-03"], freq="M")}),
    "intervals": pd.DataFrame({"i": pd.IntervalIndex.from_breaks([0, 1, 2]), "s": pd.arrays.SparseArray([0, 1])}),
    "columns of one name": pd.DataFrame([[1, "a"], [2, None]], columns=["x", "x"]),
    "numbers as names": pd.DataFrame([[1, 2]], columns=[10, 2]), "a range as names": pd.DataFrame(np.eye(2)),
    "mixed names": pd.DataFrame([[1, 2, 3, 4]],
                                columns=pd.Index([1, "1", None, ("a", 1)], dtype=object, tupleize_cols=False)),
    "dates as names": pd.DataFrame([[1, 2]], columns=pd.to_datetime(["2026-01-01", "2026-02-01"])),
    "categories as names": pd.DataFrame([[1, 2]],
                                        columns=pd.CategoricalIndex(["b", "a"], ["b", "a"], ordered=True, name="k")),
    "levels of names": pd.DataFrame([[1, 2.5]],
                                    columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["p", None])),
    "levels of index": pd.DataFrame({"v": [1, 2]},
                                    index=pd.MultiIndex.from_tuples([("a", 1), (None, 2)], names=["k", None])),
    "named index": pd.DataFrame({"v": [1, 2]}, index=pd.Index(["007", ""], name="zip")),
    "a filtered range": pd.DataFrame({"v": range(9)})[3:9:2],
    "a named range": pd.DataFrame({"v": [1]}, index=pd.RangeIndex(1, name="n")),
    "index of one name": pd.DataFrame({"v": [1, 2]}, index=["a", "a"]),
    "days": pd.DataFrame({"v": range(3)},
                         index=pd.date_range("2026-01-01", periods=3, freq="D", tz="Europe/Berlin", name="day")),
    "index of categories": pd.DataFrame({"v": [1, 2]}, index=pd.CategoricalIndex(["x", "y"], ["y", "x"])),
    "empty": pd.DataFrame(), "only an index": pd.DataFrame(index=["a", "b"]),
    "only a range": pd.DataFrame(index=range(3)),
    "only columns": pd.DataFrame({"a": [], "b": pd.Series([], dtype="str"), "c": pd.Series([], dtype=object),
                                  "d": pd.Categorical([])}),
    "no rows": pd.DataFrame({"d": pd.to_datetime(["2026-01-01"]).tz_localize("UTC"),
                             "i": pd.array([1], "Int64")}).iloc[:0],
    "hostile": pd.DataFrame({HOSTILE: [HOSTILE, "=1+1"]}, index=[HOSTILE, "b"]),
    "pivot": pd.DataFrame({"y": [2025, 2026], "c": ["a", "b"], "v": [1, 2]}).pivot(index="c", columns="y", values="v"),
    "described": pd.DataFrame({"a": [1, 2], "b": [3.5, 4]}).agg(["mean", "max"]),
}

@pytest.mark.parametrize("name", FRAMES)
def test_a_table_comes_back_as_it_was(name, tmp_path):
    frame = FRAMES[name]
    before = frame.copy()
    record, back = there_and_back(frame, tmp_path)
    assert record["kind"] == "table" and record["table"]["total"] == len(frame)
    assert_same_frame(back, frame)
    pd.testing.assert_frame_equal(frame, before)

def assert_same_frame(a, b):
    "As pandas compares, and in columns of objects each cell with its type"
    pd.testing.assert_frame_equal(a, b, check_exact=True, check_column_type="equiv")
    for i in range(len(b.columns)):
        if str(b.dtypes.iloc[i]) == "object": assert list(map(repr, a.iloc[:, i])) == list(map(repr, b.iloc[:, i]))

@pytest.mark.parametrize("series", [
    pd.Series([1, 2], name="n"), pd.Series(["a", None]), pd.Series([], dtype="float64"),
    pd.Series([1.5], index=["k"], name=("a", 1)), pd.Series(["x"], name=0, dtype="category"),
    pd.Series(["b", "a", "b"]).value_counts(),
    pd.Series([1, 2], index=pd.MultiIndex.from_tuples([(1, "a"), (1, "b")]))], ids=repr)
def test_a_series_comes_back_as_it_was(series, tmp_path):
    pd.testing.assert_series_equal(there_and_back(series, tmp_path)[1], series)

@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | st.text() | st.integers() | st.floats() | st.sampled_from(TEXTS), max_size=8))
def test_any_mixture_of_cells_comes_back(tmp_path, cells):
    frame = pd.DataFrame({"o": pd.Series(cells, dtype=object), "i": range(len(cells))})
    assert_same_frame(there_and_back(frame, tmp_path)[1], frame)

def test_a_table_is_a_plain_csv_for_other_programs(tmp_path):
    frame = pd.DataFrame({"zip": ["007", None], "day": [dt.date(2026, 1, 1)] * 2, "n": [1, 2]})
    server.save_result(frame, tmp_path, "x")
    assert (tmp_path / "x.csv").read_bytes() == b"zip,day,n\r\n007,2026-01-01,1\r\n,2026-01-01,2\r\n"

def test_a_cell_that_cannot_be_kept_is_named(tmp_path):
    with pytest.raises(server.PianolaError, match="'odd' holds a object"):
        server.save_result(pd.DataFrame({"odd": [object()]}), tmp_path, "x")

def test_the_card_gets_the_first_rows_and_columns_as_text_or_numbers(tmp_path):
    frame = pd.DataFrame(np.ones((200, 100)), columns=[f"c{n}" for n in range(100)])
    frame["c0"] = [None, pd.Timestamp("2026-01-01"), np.inf, pd.NA, *range(196)]
    table = server.save_result(frame, tmp_path, "x")["table"]
    assert len(table["rows"]) == 50 and table["columns"][-1]["name"] == "… 40 more columns"
    assert [row[0] for row in table["rows"][:4]] == [None, "2026-01-01 00:00:00", "inf", None]

def test_each_level_of_an_index_is_a_column_of_the_card(tmp_path):
    table = server.save_result(FRAMES["levels of index"], tmp_path, "x")["table"]
    assert [c["name"] for c in table["columns"]] == ["k", "", "v"] and table["rows"] == [["a", 1, 1], [None, 2, 2]]

@pytest.mark.parametrize("value", [FRAMES["hostile"], {HOSTILE: [HOSTILE, (HOSTILE,)]}, [HOSTILE], Leaf(HOSTILE),
                                   FRAMES["hostile"][HOSTILE]], ids=lambda v: type(v).__name__)
def test_nothing_hostile_is_live_on_the_card(value, tmp_path):
    record = there_and_back(value, tmp_path)[0]
    shown = server.html(StepResult("run", "app", "x", record, ""))
    assert "onerror=alert(1)&gt;" in shown and "<img" not in shown and "<script" not in shown

def test_a_million_rows_are_kept_in_seconds(tmp_path):
    n = 1_000_000
    texts, moments = ["a", "bb", ""], pd.date_range("2000", periods=n, freq="min", tz="Europe/Berlin")
    frame = pd.DataFrame({"i": np.arange(n), "f": np.arange(n) / 7, "t": np.array(texts, object)[np.arange(n) % 3],
                          "b": np.arange(n) % 2 == 0, "z": moments})
    began = time.process_time()
    server.save_result(frame, tmp_path, "x")
    assert time.process_time() - began < 10  # 3 on a quiet machine
    assert (tmp_path / "x.types.json").stat().st_size < 5_000


# workbooks

def sheet_of(path: Path) -> list[list]:
    return [list(row) for row in openpyxl.load_workbook(path, read_only=True).active.iter_rows(values_only=True)]

def test_a_workbook_has_numbers_as_numbers_and_formulas_as_texts(results, tmp_path):
    cells = ["=1+1", "+1", "-x", "@SUM(A1)", "#N/A", "\t=1", "007", "1.5", "-3", "12345678901234567890", "1e400",
             "ä<b>", "bell\x07", "", "1e3"]
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["=head"], *([c] for c in cells)])
    results.to_xlsx(tmp_path / "x.csv", tmp_path / "x.xlsx")
    read = [row[0] if row else None for row in sheet_of(tmp_path / "x.xlsx")]
    assert read == ["=head", *cells[:7], 1.5, -3, *cells[9:12], "bell", None, 1000]
    book = openpyxl.load_workbook(tmp_path / "x.xlsx")
    assert {c.data_type for row in book.active.iter_rows(max_row=8) for c in row} == {"s"}
    assert not list(tmp_path.glob("*.part"))

def test_a_workbook_of_a_table_keeps_its_texts(results, tmp_path):
    server.save_result(pd.DataFrame({"zip": ["12345", "1"], "n": [5, 6]}), tmp_path, "x")
    results.to_xlsx(tmp_path / "x.csv", tmp_path / "x.xlsx")
    assert sheet_of(tmp_path / "x.xlsx") == [["zip", "n"], ["12345", 5], ["1", 6]]

def test_more_rows_than_a_sheet_holds_are_refused_at_once(results, tmp_path):
    (tmp_path / "x.csv").write_text("n\n" + "1\n" * 1_048_576)
    with pytest.raises(server.PianolaError, match="1,048,576 rows"):
        results.to_xlsx(tmp_path / "x.csv", tmp_path / "x.xlsx")
    assert not (tmp_path / "x.xlsx").exists()


# what Jupyter would show

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
                       "WjR9awAAAABJRU5ErkJggg==")
SVG = "<svg width='9' onload='alert(1)'><script>alert(2)</script></svg>"

def showing(**methods):
    "An object whose display methods give what is told, and whose text is hostile"
    named = {name: lambda self, out=out, **_: out for name, out in methods.items()}
    return type("Shown", (), named | {"__str__": lambda self: HOSTILE})()

@pytest.mark.parametrize("value", [showing(_repr_html_=HOSTILE),
                                   showing(_repr_mimebundle_={"text/html": HOSTILE, "image/png": "x"}),
                                   showing(_repr_mimebundle_=({"text/html": HOSTILE}, {})),
                                   showing(_repr_html_=HOSTILE, _repr_svg_=SVG)])
def test_html_is_only_in_a_frame(value, tmp_path):
    record, back = there_and_back(value, tmp_path)
    assert record["frame"] == "x.html" and not record.get("html") and HOSTILE in back.read_text()

@pytest.mark.parametrize("value, mime", [
    (showing(_repr_svg_=SVG), "svg+xml"), (showing(_repr_mimebundle_={"image/svg+xml": SVG}), "svg+xml"),
    (showing(_repr_png_=PNG), "png"), (showing(_repr_png_=base64.b64encode(PNG).decode()), "png"),
    (showing(_repr_png_=(PNG, {"width": 1})), "png"),
    (showing(_repr_html_=None, _repr_jpeg_=PNG), "jpeg"), (showing(_repr_mimebundle_={}, _repr_png_=PNG), "png")])
def test_a_picture_is_an_image_without_script(value, mime, tmp_path):
    record, back = there_and_back(value, tmp_path)
    assert record["html"].startswith(f'<img src="data:image/{mime};base64,') and record["html"].count("<") == 1
    assert "frame" not in record and back.is_file() and record["files"] == [back.name]
    if mime == "svg+xml": assert back.read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')

@pytest.mark.parametrize("value", [showing(_repr_markdown_=f"**bold** {HOSTILE}"),
                                   showing(_repr_mimebundle_={"text/markdown": f"**bold** {HOSTILE}"})])
def test_markdown_is_shown_as_markdown(value, tmp_path):
    record, back = there_and_back(value, tmp_path)
    assert "<strong>bold</strong>" in record["html"] and "<img" not in record["html"] and HOSTILE in back.read_text()

def test_what_shows_nothing_is_shown_as_its_text(tmp_path):
    record, back = there_and_back(showing(_repr_html_=None), tmp_path)
    assert "onerror" in record["html"] and "<img" not in record["html"] and back is None

@pytest.mark.parametrize("made", [lambda f, ax: f, lambda f, ax: ax, lambda f, ax: (f, ax),
                                  lambda f, ax: ax.bar([1], [2]), lambda f, ax: ax.plot([1, 2]),
                                  lambda f, ax: np.array([[ax]])],
                         ids=["figure", "axes", "both", "bars", "lines", "array"])
def test_a_matplotlib_figure_is_a_picture(made, tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.set_title(HOSTILE)
    record, back = there_and_back(made(figure, ax), tmp_path)
    assert record["html"].startswith('<img src="data:image/png') and record["html"].count("<") == 1
    assert back.read_bytes().startswith(b"\x89PNG") and HOSTILE in record["preview"] and not plt.get_fignums()

def test_an_altair_chart_is_drawn_offline(tmp_path):
    altair = pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    chart = altair.Chart(pd.DataFrame({"x": range(6000), "t": HOSTILE}),
                         title="Six thousand").mark_point().encode(x="x:Q", tooltip="t")
    record, back = there_and_back(chart, tmp_path)
    assert "Six thousand" in record["preview"] and record["frame"] == "x.html" and "html" not in record
    assert 'src="http' not in back.read_text() and "vega" in back.read_text()

def test_altair_without_its_renderer_says_what_to_install(results, tmp_path, monkeypatch):
    monkeypatch.setitem(results.sys.modules, "altair", SimpleNamespace())
    monkeypatch.setattr(results.importlib.util, "find_spec", lambda name: None)
    chart = type("Chart", (), {"__module__": "altair.vegalite", "_repr_mimebundle_": lambda self, **_: {}})()
    with pytest.raises(server.PianolaError, match="vl-convert-python"): server.save_result(chart, tmp_path, "x")

def test_a_plotly_figure_is_drawn_offline(tmp_path):
    graphs = pytest.importorskip("plotly.graph_objects")
    record, back = there_and_back(graphs.Figure(graphs.Bar(y=[1]), {"title": "Bars"}), tmp_path)
    assert record["preview"] == "shown as HTML: Bars" and record["frame"] == "x.html"
    assert 'src="http' not in back.read_text()


# uploads

@pytest.mark.parametrize("name, text", [("a.csv", "a,b\n1,x\n"), ("a.csv", "\ufeffa;b\n1;x\n"),
                                        ("a.tsv", "a\tb\n1\tx\n"), ("a.json", '[{"a": 1, "b": "x"}]')])
def test_an_uploaded_table_is_read_by_its_name(name, text, results, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert results.read_table(tmp_path / name).to_dict("records") == [{"a": 1, "b": "x"}]
