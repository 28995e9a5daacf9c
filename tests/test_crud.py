"CRUD: a dataclass is a table, a form and seven actions."
import random

import pytest
from conftest import ROOT, in_thread

LIBRARY = '''"""Books: what is on the shelf."""
from dataclasses import dataclass, field
from datetime import date
from typing import Literal
from server import Crud

@dataclass
class Book:
    name: str
    pages: int = 0
    price: float | None = None
    bought: date | None = None
    shelf: Literal["left", "right"] = "left"
    tags: list[str] = field(default_factory=list)
    read: bool = False
    lent: bool = False
    {more}

class Books(Crud):
    "The shelf."
    table = Book
'''


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    "A folder of plugins with the profiles, and a table of every kind of field"
    folder = tmp_path_factory.mktemp("plugins")
    for name in ("020_profiles.py", "030_tasks.py"): (folder / name).write_text((ROOT / "plugins" / name).read_text())
    (folder / "100_books.py").write_text(LIBRARY.format(more=""))
    return folder


@pytest.fixture(scope="module")
def live(tmp_path_factory, shelf):
    "One server for this module, with books"
    with in_thread(tmp_path_factory.mktemp("data"), plugins=shelf, models=tmp_path_factory.mktemp("none")) as found: yield found


@pytest.fixture
def tasks(live):
    "A profile of its own, in use: `tasks(*names)` adds rows and gives their ids"
    profile = live.do("profile.insert", name="p")["result"]["id"]
    live.do("profile.select", id=profile)
    yield lambda *names: [live.do("task.insert", name=n)["result"]["id"] for n in names]
    live.do("profile.delete", id=profile)


def order(live, **query): return [r["name"] for r in live.rows(**query)]


# the seven

def test_a_row_has_an_id_and_the_fields_of_its_dataclass(live, tasks):
    found = live.do("task.insert", name="  Water the roses ", due="2026-12-24")["result"]
    assert found == {"id": found["id"], "name": "Water the roses", "done": False, "due": "2026-12-24", "note": ""}
    assert live.do("task.read", id=found["id"])["result"] == found == live.rows()[0]


def test_every_kind_of_field_comes_back_as_it_was_given(live):
    given = {"name": "Ünï <b>&amp;</b> ✓", "pages": 12, "price": 9.5, "bought": "2026-01-31", "shelf": "right", "tags": ["a", "b c"], "read": True, "lent": False}
    made = live.do("book.insert", **given)["result"]
    assert {k: made[k] for k in given} == given


@pytest.mark.parametrize("wrong", [{"pages": "many"}, {"price": "free"}, {"bought": "2026-02-30"}, {"shelf": "middle"}, {"tags": 5}, {"read": "perhaps"}, {"name": ""}, {"name": "   "},
                                   {"name": None}, {"name": "x" * 1001}, {"id": 5}, {"position": 1}, {"colour": "red"}, {"name": "a\0b"}, {"pages": 1 << 63}])
def test_what_does_not_fit_a_field_is_refused_by_its_name(live, wrong):
    found = live.do("book.insert", **({"name": "x"} | wrong))
    assert found["status"] == 422 and found["error"]["kind"] == "invalid" and found["error"]["fields"]


def test_an_update_changes_only_what_it_sets(live, tasks):
    id = live.do("task.insert", name="A", note="n", due="2026-01-01")["result"]["id"]
    assert live.do("task.update", id=id, set={"due": None})["result"] == {"id": id, "name": "A", "done": False, "due": None, "note": "n"}
    for wrong in ({}, {"id": 9}, {"name": ""}, {"name": None}, {"done": None}, {"profile_id": 1}, {"position": 0}):
        assert live.do("task.update", id=id, set=wrong)["status"] == 422, wrong


def test_toggle_switches_the_first_yes_or_no_field_or_the_one_named(live):
    id = live.do("book.insert", name="toggled")["result"]["id"]
    assert live.do("book.toggle", id=id)["result"]["read"] is True
    found = live.do("book.toggle", id=id, field="lent")["result"]
    assert found["read"] is True and found["lent"] is True and live.do("book.toggle", id=id, field="name")["status"] == 422


def test_a_deleted_row_is_gone_and_its_answer_says_what_it_was(live, tasks):
    id, = tasks("A")
    assert live.do("task.delete", id=id)["result"]["name"] == "A" and order(live) == []
    assert live.do("task.read", id=id)["status"] == 409


# which row

@pytest.mark.parametrize("wanted, found", [(1, 0), ("1", 0), ("Buy milk", 1), ("buy  MILK", 1), ("BUYMILK", 1), ("Straße", 2), ("STRASSE", 2), ("ﬁle", 3), ("a%b", 4), (" a%b ", 4)])
def test_a_row_is_meant_by_its_id_or_its_name(live, tasks, wanted, found):
    ids = tasks("first", "Buy milk", "Straße", "File", "a%b", "a_b")
    wanted = ids[0] if wanted == 1 else str(ids[0]) if wanted == "1" else wanted
    assert live.do("task.read", id=wanted)["result"]["id"] == ids[found]


def test_an_id_comes_before_a_name_and_an_exact_name_before_a_like_one(live, tasks):
    first, = tasks("one")
    named, small, big = tasks(str(first), "milk", "Milk")
    assert live.do("task.read", id=first)["result"]["id"] == live.do("task.read", id=str(first))["result"]["id"] == first
    assert [live.do("task.read", id=n)["result"]["id"] for n in ("milk", "Milk")] == [small, big]


@pytest.mark.parametrize("wanted", ["mILK", "same"])
def test_an_ambiguous_name_asks_back_with_its_candidates(live, tasks, wanted):
    ids = tasks("milk", "Milk", "same", "same", "other")
    error = live.do("task.delete", id=wanted)["error"]
    meant = ids[:2] if wanted == "mILK" else ids[2:4]
    assert error["kind"] == "conflict" and [c["id"] for c in error["candidates"]] == meant and set(error["candidates"][0]) == {"id", "name"}
    assert len(order(live)) == 5


def test_an_unknown_name_offers_the_nearest(live, tasks):
    tasks("Call the plumber", "Water the roses")
    found = live.do("task.toggle", id="call a plumber")
    assert found["status"] == 409 and found["error"]["candidates"][0]["name"] == "Call the plumber"


@pytest.mark.parametrize("wanted", ["²", "١٢٣٤", "-1", "1.5", "99999999999999999999", "", " ", "%", "_", "' or 1=1 --"])
def test_an_odd_name_is_just_not_found(live, tasks, wanted):
    tasks("A", "B")
    found = live.do("task.delete", id=wanted)
    assert found["status"] == 409 and found["error"]["kind"] == "conflict" and order(live) == ["A", "B"]


def test_a_row_named_with_leading_zeros_is_not_the_row_with_that_number(live, tasks):
    first, bond = tasks("first", "007")
    live.do("task.update", id=bond, set={"name": f"00{first}"})
    assert live.do("task.read", id=f"00{first}")["result"]["id"] == bond


def test_a_number_is_never_used_for_another_row_again(live, tasks):
    first, second = tasks("A", "B")
    live.do("task.delete", id=second)
    assert tasks("C")[0] > second


# listing

def test_search_takes_percent_and_underscore_as_they_are(live, tasks):
    tasks("100% wool", "100 sheep", "a_b", "axb", "wow!", "back\\slash")
    assert [order(live, search=s) for s in ("0%", "a_b", "!", "\\", "WOOL", "zzz", "'")] == [["100% wool"], ["a_b"], ["wow!"], ["back\\slash"], ["100% wool"], [], []]


def test_search_looks_in_every_text_and_ignores_the_case_of_any_letter(live, tasks):
    live.do("task.insert", name="A", note="Über den Wolken")
    assert order(live, search="wolken") == ["A"] == order(live, search="über")


def test_pages_past_200_rows_join_without_gap_or_repeat(live, tasks):
    tasks(*(f"row {i}" for i in range(205)))
    first, rest = live.do("task.list")["result"], live.do("task.list", offset=200)["result"]
    assert len(first["rows"]) == 200 and len(rest["rows"]) == 5 and first["total"] == rest["total"] == 205
    assert [r["name"] for r in first["rows"] + rest["rows"]] == [f"row {i}" for i in range(205)]
    page = live.http.get("/app/tasks", params={"offset": 200}, headers={"hx-request": "true", "x-tab": "pages"}).text
    assert "row 204" in page and "row 199<" not in page and "205 tasks" in page


@pytest.mark.parametrize("query, status", [({"limit": 0}, 422), ({"limit": 1001}, 422), ({"limit": -1}, 422), ({"offset": -1}, 422), ({"offset": 10 ** 15}, 200), ({"limit": 1000}, 200)])
def test_a_list_has_limits(live, query, status):
    assert live.do("task.list", **query)["status"] == status


def test_a_page_of_an_odd_offset_is_the_first(live):
    for offset in ("²", "-1", "x", "9" * 30, "", "٣"): assert live.http.get("/app/tasks", params={"offset": offset}).status_code == 200


# sorting

def test_rows_are_put_in_the_order_of_their_ids_or_names(live, tasks):
    a, b, c, d = tasks(*"ABCD")
    assert live.do("task.sort", ids=[d, "B", str(a), c])["ok"] and order(live) == [*"DBAC"]
    assert live.do("task.sort", ids=[c, a])["ok"] and order(live) == [*"DBCA"], "the others stay where they are"


@pytest.mark.parametrize("position, found", [(1, "CABD"), (2, "ACBD"), (3, "ABCD"), (4, "ABDC"), (99, "ABDC"), (-1, "ABDC"), (0, "CABD")])
def test_a_row_moves_to_a_position(live, tasks, position, found):
    tasks(*"ABCD")
    assert live.do("task.sort", id="C", position=position)["ok"] and order(live) == [*found]


@pytest.mark.parametrize("wrong", [{}, {"ids": []}, {"id": "A"}, {"position": 1}, {"ids": ["A", "A"]}, {"ids": ["A", "a"]}, {"ids": "A"}, {"id": "A", "position": "x"}])
def test_a_sort_that_says_too_little_or_too_much_is_refused(live, tasks, wrong):
    tasks(*"AB")
    assert live.do("task.sort", **wrong)["status"] == 422 and order(live) == [*"AB"]


def test_200_moves_back_and_forth_keep_the_order_right(live, tasks):
    tasks(*"ABCDEF")
    for _ in range(50):
        live.do("task.sort", id="B", position=5)
        live.do("task.sort", id="E", position=2)
        live.do("task.sort", id="E", position=4)
        live.do("task.sort", id="B", position=2)
    assert order(live) == [*"ABCDEF"]


def test_any_moves_agree_with_a_list(live, tasks):
    luck, model = random.Random(7), [*"ABCDEFGH"]
    tasks(*model)
    for _ in range(100):
        name, to = luck.choice(model), luck.randint(1, 8)
        model.remove(name)
        model.insert(to - 1, name)
        assert live.do("task.sort", id=name, position=to)["ok"]
    assert order(live) == model


def test_squeezing_between_two_rows_for_ever_renumbers_in_time(live, tasks):
    tasks(*"ABCD")
    for i in range(120): live.do("task.sort", id="CD"[i % 2], position=2)
    assert order(live) == [*"ADCB"]
    positions = [r["position"] for r in live.pianola.db.q("select position from task where profile_id=(select max(id) from profile) order by position")]
    assert len(set(positions)) == 4


# profiles

def test_rows_belong_to_the_profile_in_use(live, tasks):
    tasks("mine")
    other = live.do("profile.insert", name="other")["result"]["id"]
    live.do("profile.select", id=other)
    mine = live.pianola.db.one("select id from task where name='mine' order by id desc")["id"]
    assert order(live) == [] and live.do("task.delete", id=mine)["status"] == 409 and live.do("task.delete", id="mine")["status"] == 409
    live.do("profile.delete", id=other)


def test_a_deleted_profile_takes_its_rows_and_the_next_is_used(fresh):
    live = fresh(models="none")
    live.do("profile.insert", name="Acme")
    live.do("profile.select", id="Acme")
    live.do("task.insert", name="A")
    live.do("profile.delete", id="Acme")
    assert live.pianola.db.one("select count(*) as n from task")["n"] == 0 and live.do("task.insert", name="B")["ok"]


def test_the_last_profile_stays(fresh):
    found = fresh(models="none").do("profile.delete", id="Default")
    assert found["status"] == 409 and "last" in found["error"]["message"]


def test_two_profiles_may_have_one_name_and_are_then_chosen_by_id(fresh):
    live = fresh(models="none")
    ids = [live.do("profile.insert", name="Twin")["result"]["id"] for _ in range(2)]
    assert live.do("profile.select", id="twin")["status"] == 409 and live.do("profile.select", id=ids[1])["ok"]


# the page, and a table that grows

def test_what_a_person_types_is_never_live_on_the_page(live, tasks):
    evil = '<img src=x onerror=alert(1)><script>alert(2)</script>"\'>'
    tasks(evil)
    page = live.http.get("/app/tasks").text
    assert "<img src=x" not in page and "<script>alert" not in page and "&lt;img" in page


def test_a_field_added_to_the_dataclass_is_a_new_column_for_old_rows_too(tmp_path, shelf):
    with in_thread(tmp_path / "data", plugins=shelf, models=tmp_path) as live: live.do("book.insert", name="old")
    later = tmp_path / "plugins"
    later.mkdir()
    (later / "020_profiles.py").write_text((shelf / "020_profiles.py").read_text())
    (later / "100_books.py").write_text(LIBRARY.format(more='author: str = "un known"\n    stars: int = 3\n    kind: Literal["a b", "c"] = "a b"'))
    with in_thread(tmp_path / "data", plugins=later, models=tmp_path) as live:
        old = live.rows("book")[0]
        assert (old["author"], old["stars"], old["kind"]) == ("un known", 3, "a b") and live.do("book.update", id="old", set={"stars": 5})["result"]["stars"] == 5


def test_a_form_says_the_same_as_json(live, tasks):
    reply = live.http.post("/do/book.insert", data={"name": "form", "pages": "", "price": "2.5", "tags": "a\nb\n\n", "bought": "", "read": "on"}, headers={"accept": "application/json"})
    row = reply.json()["result"]
    assert (row["pages"], row["price"], row["tags"], row["bought"], row["read"], row["lent"]) == (0, 2.5, ["a", "b"], None, True, False)
    a, b = tasks("A", "B")
    for body in (f"ids={b}&ids={a}", f"ids={a}%0A{b}"):
        reply = live.http.post("/do/task.sort", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert reply.status_code == 200 and order(live) == (["B", "A"] if "&" in body else ["A", "B"])
