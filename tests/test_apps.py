"APPS: the competitive analysis and the CSV studio, as a person and a script use them."
import ast
import io
import json
import re
import time
import zipfile

import openpyxl
import pandas as pd
import pytest
from conftest import ROOT
from playwright.sync_api import expect
from test_plugins import FILES, NAMES, PARSED, assigned, example_of

from browser import browse, ollama, talk  # noqa: F401  (fixtures)
from scripted_ollama import silent

ANSWER = {"position": "The old one.", "strengths": ["known; loved"], "weaknesses": ["slow"],
          "opportunities": ["be quick"]}
SALES = "country,product,unit price\nDE,pen,12.5\nFR,pen,11\nDE,ink,7\nDE,pen,12.5\n"


def give(live, text: str | bytes, name: str = "a.csv") -> str:
    "Upload a file; its id"
    return live.http.post("/upload", files={"file": (name, text)}).json()["id"]


def fetch(live, done: dict, suffix: str = ".csv") -> bytes:
    "A file of what a step returned"
    assert done["ok"], done
    name = next(f for f in done["result"]["files"] if f.endswith(suffix))
    reply = live.http.get(f"/file/{done['result']['run']}/{name}")
    assert reply.status_code == 200
    return reply.content


def table(live, done: dict) -> list[dict]:
    return pd.read_csv(io.BytesIO(fetch(live, done))).to_dict("records")


def error(done: dict) -> str:
    assert not done["ok"]
    return done["error"]["message"]


@pytest.mark.parametrize("name", ["110_competitors", "120_csv_studio"])
def test_the_example_runs_to_its_end_and_every_card_is_done(fresh, name):
    live, tree = fresh(), ast.parse((ROOT / f"plugins/{name}.py").read_text())
    given = {n.targets[0].id: ast.literal_eval(n.value) for n in tree.body
             if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]).startswith("EXAMPLE")}
    def sent(value):
        if not str(value).startswith("file:"): return value
        return give(live, given["EXAMPLE_FILES"][value[5:]], value[5:])
    for action, args in given["EXAMPLE"]:
        assert live.do(action, **{k: sent(v) for k, v in args.items()})["ok"], action
    page = live.http.get(f"/app/{name[4:]}").text
    assert page.count('data-state="done"') >= len(given["EXAMPLE"]) and "error-card" not in page


# ---- Competitive Analysis

def begin(live, *names: str, **args) -> dict:
    live.do("competitors.topic", topic="Notebooks", propose=0)
    return live.do("competitors.shortlist", names=list(names), **args)


def test_lines_a_file_and_the_list_come_together_the_most_important_first(live):
    live.do("run.new", app="competitors")
    live.do("competitor.insert", name="Listed", priority=2, note="by hand")
    file = give(live, "Company;Priority;Comment\nFiled;1;from a file\nlisted;5;twice\nBare;;\n", "rivals.csv")
    rows = table(live, begin(live, "Typed; 4; a note, with a comma", "Pasted\t3", "Noted; only a note", file=file))
    assert [(r["name"], r["priority"]) for r in rows] == [
        ("Filed", 1), ("Listed", 2), ("Pasted", 3), ("Noted", 3), ("Bare", 3), ("Typed", 4)]
    assert [rows[at]["note"] for at in (1, 5, 3)] == ["by hand", "a note, with a comma", "only a note"]


@pytest.mark.parametrize("names, words", [
    ([], "The list is empty"), (["A; high; x", "; 2"], "Not `name; priority; note`: A; high; x, ; 2"),
    (["A; 9", "B; 0", "C; 5"], r"A \(9\), B \(0\)")])
def test_a_bad_list_is_told_whole(live, names, words):
    live.do("run.new", app="competitors")
    assert re.search(words, error(begin(live, *names)))


def test_a_file_without_names_is_told_with_the_columns_it_has(live):
    live.do("run.new", app="competitors")
    assert "no column `name`. Its columns are firm, rank" in error(begin(live, file=give(live, "firm,rank\na,1\n")))


def test_the_model_proposes_and_its_proposals_stand_in_the_list_to_be_edited(talk):
    far, near = {"name": "Far", "priority": 4, "note": "n"}, {"name": "Near", "priority": 1, "note": ""}
    live = talk(json.dumps({"competitors": [far, near]}))
    assert live.do("competitors.topic", topic="Notebooks", propose=2)["ok"]
    assert [r["name"] for r in table(live, live.do("competitors.shortlist"))] == ["Near", "Far"]
    live.do("competitor.delete", id="Far")
    listed = table(live, live.do("competitors.shortlist", names=["Mine"]))
    assert [r["name"] for r in listed] == ["Near", "Mine"]


def test_an_answer_that_does_not_fit_is_marked_and_the_rest_goes_on(talk):
    live = talk(json.dumps(ANSWER), '{"position": ""}', '{"position": "still no lists"}', json.dumps(ANSWER))
    begin(live, "One; 1", "Two; 2", "Three; 3")
    one, two, three = table(live, live.do("competitors.analysis"))
    assert (one["position"], one["strengths"]) == ("The old one.", "known, loved") and three["weaknesses"] == "slow"
    assert "does not fit" in two["problem"] and two["position"] != two["position"]


def test_what_is_marked_can_be_written_or_asked_again(talk):
    live = talk(*['{"position": ""}'] * 4, json.dumps(ANSWER))
    begin(live, "One; 1", "Two; 2")
    live.do("competitors.analysis")
    one, two = table(live, live.do("competitors.checked", own=["two; Mine; fast, cheap; rude"]))
    assert one["position"] == "The old one."
    assert (two["position"], two["strengths"], two["weaknesses"]) == ("Mine", "fast; cheap", "rude")
    assert "Not in the list: three. There are One, Two." in error(live.do("competitors.checked", own=["Three; x"]))


def test_a_cancelled_analysis_goes_on_where_it_was(talk):
    live = talk(json.dumps(ANSWER), silent(20, '{"position"'))
    begin(live, "One; 1", "Two; 2")
    live.http.post("/do/competitors.analysis", json={})
    until = time.monotonic() + 10
    while len(live.ollama.requests) < 2 and time.monotonic() < until: time.sleep(0.02)
    assert live.do("job.cancel")["ok"]
    live.ollama.replies += [json.dumps(ANSWER | {"position": "The second."})]
    job = next(r for r in live.journal() if r["action"] == "competitors.analysis")["id"]
    done = live.do("job.resume", id=job)
    assert done["ok"], done
    rows = table(live, done | {"result": done["result"]["result"]})
    assert [r["position"] for r in rows] == ["The old one.", "The second."] and len(live.ollama.requests) == 3


def test_the_report_comes_as_page_workbook_text_and_all_in_one(talk):
    live = talk(json.dumps(ANSWER | {"position": "=1+1 <b>|"}))
    begin(live, "=cmd|x; 1")
    for name in ("analysis", "checked", "report"): assert live.do(f"competitors.{name}")["ok"]
    page = fetch(live, live.do("competitors.download", kind="HTML page"), ".html").decode()
    assert page.startswith("<!doctype html>") and "<td>=1+1 &lt;b&gt;|</td>" in page and "<li>known, loved</li>" in page
    book = fetch(live, live.do("competitors.download", kind="XLSX workbook"), ".xlsx")
    sheet = openpyxl.load_workbook(io.BytesIO(book)).active
    assert sheet["A1"].value == "priority" and (sheet["B2"].value, sheet["B2"].data_type) == ("=cmd|x", "s")
    text = fetch(live, live.do("competitors.download", kind="Markdown"), ".md").decode()
    assert text.startswith("# Competitive analysis: Notebooks")
    packed = fetch(live, live.do("competitors.download", kind="all three (ZIP)"), ".zip")
    assert zipfile.ZipFile(io.BytesIO(packed)).namelist() == ["notebooks.html", "notebooks.xlsx", "notebooks.md"]


# ---- CSV Studio

def studio(live, text: str | bytes = SALES, name: str = "a.csv", **args) -> dict:
    live.do("run.new", app="csv_studio")
    return live.do("csv_studio.opened", file=give(live, text, name), **args)


def found(live) -> str: return re.sub(r"<[^>]+>", "", live.http.get("/app/csv_studio").text)


def test_a_file_shows_its_types_and_what_is_wrong_with_it(live):
    done = studio(live, "id,name,name,,n,zip,empty,day,yes\n"
                        "1,a,b,c,1,007,,2024-02-01,true\n1,a,b,c,1,007,,2024-02-01,true\n"
                        "2,a,b,c,x,1234,,2024-02-30,false\n,a,b,c,4,1,,2024-02-03,\n")
    assert "id (Int64)" in done["result"]["preview"] and "yes (boolean)" in done["result"]["preview"]
    page = found(live)
    for words in ("Column 3 has the name of another; it is called name 3 here", "Column 4 has no name",
                  "empty: it is empty", "1 rows are there more than once", "id: 1 values are missing",
                  "n: mixed types: 1 of 4 values are no numbers, such as x", "zip: it has leading zeros"):
        assert words in page, words
    assert fetch(live, done).decode().splitlines()[1].split(",")[5].strip('"') == "007"


@pytest.mark.parametrize("text, args", [
    ("a;b\n1,5;x\n2.000,5;ä\n".encode("cp1252"), {"decimal": ","}), ("\ufeffa,b\n1.5,x\n2000.5,ä\n".encode(), {}),
    ("a\tb\r\n1.5\tx\r\n2000.5\tä\r\n".encode(), {})])
def test_separators_encodings_and_decimal_commas_are_read(live, text, args):
    assert table(live, studio(live, text, **args)) == [{"a": 1.5, "b": "x"}, {"a": 2000.5, "b": "ä"}]


def test_lines_that_are_too_long_are_left_out_and_named(live):
    assert len(table(live, studio(live, "a,b\n1,2\n3,4,5\n6,7\n"))) == 2
    assert "1 lines have more values than the header and are left out: line 3." in found(live)


@pytest.mark.parametrize("text", ["", "\n", b"\x00\x01\x02"])
def test_what_is_no_table_is_refused_in_a_sentence(live, text):
    assert "is empty, or no text. Drop a CSV" in error(studio(live, text))


def test_a_workbook_is_read_with_its_types(live):
    out = io.BytesIO()
    days = pd.to_datetime(["2024-01-01", "2024-01-02"])
    pd.DataFrame({"n": [1, 2], "day": days, "zip": ["01", "02"]}).to_excel(out, index=False)
    done = studio(live, out.getvalue(), "a.xlsx")
    assert "n (int64), day (datetime64" in done["result"]["preview"] and "zip (str)" in done["result"]["preview"]
    assert "Worksheet named 'Nope' not found" in error(studio(live, out.getvalue(), "a.xlsx", sheet="Nope"))


def test_columns_are_picked_renamed_and_put_in_order(live):
    studio(live)
    done = live.do("csv_studio.chosen", columns=["price=unit price", "country"])
    assert list(table(live, done)[0]) == ["price", "country"]


@pytest.mark.parametrize("step, args, words", [
    ("chosen", {"columns": ["x = nope", "country", "gone"]},
     "no column `nope`, `gone`. The columns are country, product, unit price"),
    ("chosen", {"columns": ["x = country", "x = product"]}, "More than one column is called so: x, x"),
    ("kept", {"condition": "price > 1 and land == 'DE'"}, "no column `price`, `land`. The columns are"),
    ("joined", {"file": "file", "key": "land"}, "no column `land`. The columns are"),
    ("joined", {"file": "file", "key": "country", "their_key": "nope"},
     "has no column `nope`. The columns are code, name"),
    ("grouped", {"by": ["land", "kind"], "value": "price", "how": "sum"},
     "no column `land`, `kind`, `price`. The columns are"),
    ("grouped", {"by": ["country"], "how": "sum"}, "no column an empty name"),
    ("grouped", {"by": ["country"], "value": "product", "how": "mean"}, "No column of numbers: `product`"),
    ("drawn", {"kind": "line", "x": "when", "y": "what"}, "no column `when`, `what`. The columns are")])
def test_what_is_missing_is_named_with_what_there_is(live, step, args, words):
    studio(live)
    for name in ("chosen", "kept", "joined", "grouped", "drawn"):
        if name == step: break
        assert live.do(f"csv_studio.{name}")["ok"]
    if "file" in args: args = args | {"file": give(live, "code,name\nDE,Germany\n", "b.csv")}
    assert words in error(live.do(f"csv_studio.{step}", **args))


@pytest.mark.parametrize("condition, count", [
    ('`unit price` > 10 and country == "DE"', 2), ('country in ["FR"]', 1), ("not country == 'DE'", 1),
    ("7 <= `unit price` * 2 < 23", 2), ("country == '`unit price`'", 0), ("", 4)])
def test_a_condition_keeps_the_rows_it_holds_for(live, condition, count):
    studio(live)
    live.do("csv_studio.chosen")
    assert f"a table of {count} rows" in live.do("csv_studio.kept", condition=condition)["result"]["preview"]


@pytest.mark.parametrize("condition", [
    "country.str.len() > 1", "@pd.eval('1') > 1", "__import__('os').system('x') == 0", "country[0] == 'D'",
    "(lambda: 1)() == 1", "`unit price`", "1 == 1", "country > 5", "country = 'DE'", "country == [c for c in 'DE']",
    "2 ** 9 ** 9 > `unit price`", "f'{country}' == 'DE'", "(x := 1) == 1"])
def test_a_condition_is_columns_and_values_and_nothing_else(live, condition):
    studio(live)
    live.do("csv_studio.chosen")
    said = error(live.do("csv_studio.kept", condition=condition))
    assert re.search("cannot be read|only compares|does not fit|no column", said)


def test_missing_values_and_duplicates_can_be_left_out(live):
    studio(live, "a,b\n1,x\n1,x\n2,\n")
    live.do("csv_studio.chosen")
    kept = live.do("csv_studio.kept", without_missing=True, without_duplicates=True)
    assert table(live, kept) == [{"a": 1, "b": "x"}]


@pytest.mark.parametrize("how, names", [("left", ["Germany", None, "Germany", "Germany"]), ("inner", ["Germany"] * 3)])
def test_a_second_file_is_joined_by_a_key_of_another_name(live, how, names):
    studio(live)
    for name in ("chosen", "kept"): live.do(f"csv_studio.{name}")
    file = give(live, "code,product,n\nDE,Germany,1\nIT,Italy,2\n,None,3\n", "b.csv")
    rows = table(live, live.do("csv_studio.joined", file=file, key="country", their_key="code", how=how))
    assert [r["product (2)"] if r["product (2)"] == r["product (2)"] else None for r in rows] == names


def test_a_key_of_numbers_meets_one_of_text(live):
    studio(live, "id,a\n1,x\n2,y\n")
    for name in ("chosen", "kept"): live.do(f"csv_studio.{name}")
    file = give(live, "id,b\n1,p\nz,q\n", "b.csv")
    rows = table(live, live.do("csv_studio.joined", file=file, key="id", how="inner"))
    assert rows == [{"id": 1, "a": "x", "b": "p"}]


def test_a_join_that_would_explode_is_refused(live):
    studio(live, "k\n" + "1\n" * 3000)
    for name in ("chosen", "kept"): live.do(f"csv_studio.{name}")
    file = give(live, "k\n" + "1\n" * 3000, "b.csv")
    assert "would make 9,000,000 rows" in error(live.do("csv_studio.joined", file=file, key="k"))


@pytest.mark.parametrize("args, rows", [
    ({}, [("DE", 3), ("FR", 1)]), ({"value": "unit price", "how": "sum"}, [("DE", 32), ("FR", 11)]),
    ({"value": "product", "how": "distinct"}, [("DE", 2), ("FR", 1)]),
    ({"value": "product", "how": "max"}, [("DE", "pen"), ("FR", "pen")])])
def test_rows_are_grouped(live, args, rows):
    studio(live)
    for name in ("chosen", "kept", "joined"): live.do(f"csv_studio.{name}")
    done = live.do("csv_studio.grouped", by=["country"], **args)
    assert [tuple(r.values()) for r in table(live, done)] == rows


def test_an_untouched_table_goes_through_to_either_file(live):
    studio(live, 'a,b\n1,=1+1\n2,"x;y"\n')
    for name in ("chosen", "kept", "joined", "grouped"): assert live.do(f"csv_studio.{name}")["ok"]
    text = fetch(live, live.do("csv_studio.export", kind="CSV", separator=";")).decode("utf-8-sig")
    assert text.splitlines() == ["a;b", "1;=1+1", '2;"x;y"']
    book = fetch(live, live.do("csv_studio.export", kind="XLSX"), ".xlsx")
    sheet = openpyxl.load_workbook(io.BytesIO(book)).active
    assert [[c.value for c in row] for row in sheet] == [["a", "b"], [1, "=1+1"], [2, "x;y"]]
    assert sheet["B2"].data_type == "s"


@pytest.mark.parametrize("args", [
    {"kind": "bar", "x": "country"}, {"kind": "hist", "x": "unit price"},
    {"kind": "line", "x": "country", "y": "unit price"}, {"kind": "scatter", "x": "unit price", "y": "unit price"},
    {"kind": "bar", "x": "country", "y": "unit price"}])
def test_a_plot_is_a_picture_or_says_what_to_install(live, args):
    studio(live)
    for name in ("chosen", "kept", "joined", "grouped"): live.do(f"csv_studio.{name}")
    done = live.do("csv_studio.drawn", **args)
    assert done["ok"], done
    if done["result"]["files"]: assert fetch(live, done, ".png")[:4] == b"\x89PNG"
    else: assert "uv pip install matplotlib" in done["result"]["preview"]


# ---- each workflow, by hand, in a browser

def fill(card, args: dict, files: dict) -> None:
    "Put `args` into a card's form as a person would"
    for name, value in args.items():
        field = card.locator(f'[name="{name}"]')
        if isinstance(value, str) and value.startswith("file:"):
            name = value.removeprefix("file:")
            field.set_input_files({"name": name, "mimeType": "text/csv", "buffer": files[name].encode()})
        elif field.evaluate("e => e.tagName") == "SELECT": field.select_option(value)
        elif isinstance(value, bool): field.set_checked(value)
        else: field.fill("\n".join(value) if isinstance(value, list) else str(value))


@pytest.mark.parametrize("name", ["hello", "stream", "competitors", "csv_studio"])
def test_each_workflow_is_stepped_through_to_its_end_in_the_browser(fresh, browse, name):
    file = next(f for f in FILES if NAMES[f] == name)
    found = assigned(PARSED[file], "EXAMPLE_FILES")
    v = browse(fresh(), f"/app/{name}")
    for action, args in example_of(file):
        card = v.page.locator(f"#step-{name}-{action.partition('.')[2]}")
        fill(card, args, ast.literal_eval(found[0].value) if found else {})
        card.locator(".step-form button[type=submit]").click()
        expect(card).to_have_attribute("data-state", "done", timeout=20_000)
        expect(card.locator(".result")).to_be_visible()
