"PLUGINS: every file of plugins/, what a plugin may be, and what happens when one fails."
import ast
import inspect
import re
import shutil
import sys

import pytest
from conftest import ROOT, in_thread

import server

FILES = sorted((ROOT / "plugins").glob("*.py"))
NAMES = {f: f.stem.partition("_")[2] for f in FILES}
PROVIDERS = ("055_ollama.py", "060_models.py", "065_remote.py")  # these speak to other programs, so they may do more
OWN = ("045_runs.py", "046_jobs.py")  # pages over the engine's own tables, so they may ask these
PARSED = {f: ast.parse(f.read_text()) for f in FILES}
BROKEN = {
    "041_raises.py": '"Raises: at once."\nraise RuntimeError("boom <b>at</b> import")\n',
    "042_syntax.py": "def broken(:\n",
    "043_twice.py": "from server import App\nclass One(App): pass\nclass Two(App): pass\n",
    "044_nothing.py": "x = 1\n",
    "045_taken.py": 'from server import App, action\nclass Taken(App):\n'
                    '    @action("task.insert")\n    def go(self): "Go"\n',
    "046_start.py": 'from server import App, action\nclass Start(App):\n'
                    '    def start(self): raise ValueError("no start")\n'
                    '    @action()\n    def go(self): "Go"\n',
    "047_page.py": 'from server import App\nclass Page(App):\n    def page(self, view): raise KeyError("no page")\n',
    "048_quits.py": "import missing_module\n",
}


def each_file(function):
    "Parametrize by plugin file"
    return pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)(function)


def kind_of(file) -> type[server.App]:
    return server.import_plugin(file)[1]


def is_crud(file) -> bool:
    return any("Crud" in ast.unparse(b) for n in PARSED[file].body if isinstance(n, ast.ClassDef) for b in n.bases)


CRUDS = [f for f in FILES if is_crud(f) and f.name not in OWN]


def assigned(tree, name: str) -> list:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and name in [ast.unparse(t) for t in n.targets]]


def example_of(file) -> list:
    "The `EXAMPLE` of a plugin: (action, args) in the order in which they are performed"
    found = assigned(PARSED[file], "EXAMPLE")
    return ast.literal_eval(found[0].value) if found else []


def with_files(live, file, args: dict) -> dict:
    "The arguments with each `file:NAME` uploaded, as an id"
    found = assigned(PARSED[file], "EXAMPLE_FILES")
    files = ast.literal_eval(found[0].value) if found else {}
    def upload(value):
        if not isinstance(value, str) or not value.startswith("file:"): return value
        name = value.removeprefix("file:")
        return live.http.post("/upload", files={"file": (name, files[name].encode())}).json()["id"]
    return {n: upload(v) for n, v in args.items()}


def code_lines(file) -> list[str]:
    "What of a plugin is code: no empty lines, no docstring of the file, no samples, no EXAMPLE"
    left_out = [PARSED[file].body[0], *assigned(PARSED[file], "samples"), *assigned(PARSED[file], "EXAMPLE")]
    out = {n for node in left_out for n in range(node.lineno, node.end_lineno + 1)}
    return [line for n, line in enumerate(file.read_text().splitlines(), 1) if line.strip() and n not in out]


# ---- each file

@pytest.fixture(scope="module")
def keys(live):
    "The keyboard as programs see it, by app"
    found = {}
    for key in live.http.get("/do").json(): found.setdefault(key["app"], []).append(key)
    return found


def test_all_are_in_the_menu_in_the_order_of_their_numbers(live):
    assert live.http.get("/health").json()["plugins"] == list(NAMES.values())
    assert live.http.get("/health").json()["errors"] == {}


@each_file
def test_its_page_is_there(live, file):
    reply = live.http.get(f"/app/{NAMES[file]}")
    left = reply.text[reply.text.index('id="grid-left"'):]
    assert reply.status_code == 200 and len(re.findall("<h1>[^<]+</h1>", left)) == 1
    assert "error-card" not in reply.text and "Traceback" not in reply.text


@each_file
def test_htmx_gets_its_page_alone(live, file):
    part = live.http.get(f"/app/{NAMES[file]}", headers={"HX-Request": "true", "X-Tab": "a"}).text
    assert part.startswith("<section") and 'id="grid-left"' in part and "<html" not in part


@each_file
def test_its_actions_have_one_line_and_a_schema(keys, file):
    for key in keys.get(NAMES[file], []):
        assert key["doc"] != key["name"] and "\n" not in key["doc"] and 3 < len(key["doc"]) <= 120, key["name"]
        assert key["schema"]["type"] == "object" and key["schema"]["additionalProperties"] is False, key["name"]
        assert key["danger"] in ("read", "write", "destroy", "spend", "person"), key["name"]


@each_file
def test_its_example_succeeds(fresh, file):
    live = fresh()
    for action, args in example_of(file):
        done = live.do(action, **with_files(live, file, args))
        assert done["ok"], (action, args, done)
        assert "error-card" not in live.http.get(f"/app/{NAMES[file]}").text, action


@each_file
def test_its_title_is_the_first_line_of_its_docstring(live, file):
    line = ast.get_docstring(PARSED[file]).splitlines()[0]
    title = line.partition(":")[0].rstrip(".")
    assert f"<h1>{title}</h1>" in live.http.get(f"/app/{NAMES[file]}").text or NAMES[file] == "introduction"
    assert line.endswith(".") and inspect.getdoc(kind_of(file))


@pytest.mark.parametrize("file", [f for f in FILES if f.name not in PROVIDERS + OWN], ids=lambda f: f.name)
@pytest.mark.parametrize("word", [r"\bhx_", r"hx-", r"\bselect .* from\b",
    r"\b(insert into|delete from|update \w+ set)\b",
                                  r"\.db\.(q|one|do|write|write_now|insert|conn)\b", r"\bRoute\(|@rt\b|\.route\("])
def test_it_shows_what_and_the_engine_holds_how(file, word):
    assert not re.findall(word, file.read_text(), re.I)


@each_file
def test_it_is_called_by_its_number_and_name(file):
    assert re.fullmatch(r"\d{3}_[a-z][a-z0-9_]*\.py", file.name)
    assert len({f.name[:3] for f in FILES}) == len(FILES)


@pytest.mark.parametrize("file", CRUDS, ids=lambda f: f.name)
def test_a_table_is_at_most_fifteen_lines(file):
    assert len(code_lines(file)) <= 15


@pytest.mark.parametrize("file", CRUDS, ids=lambda f: f.name)
def test_a_table_has_its_actions_and_an_example_of_them(keys, file):
    verbs = {k["name"].partition(".")[2] for k in keys[NAMES[file]]}
    assert {"list", "read", "insert", "update", "delete", "sort"} <= verbs
    assert [action for action, _ in example_of(file)][:1] == [f"{kind_of(file)().one}.insert"]


# ---- files that fail

@pytest.fixture(scope="module")
def hurt(tmp_path_factory):
    "A server whose folder has two good plugins among many that fail, each in its own way"
    folder = tmp_path_factory.mktemp("plugins")
    for name in ("020_profiles.py", "030_tasks.py"): shutil.copy(ROOT / "plugins" / name, folder)
    for name, text in BROKEN.items(): (folder / name).write_text(text)
    (folder / "notes.txt").write_text("not a plugin")
    (folder / "helper.py").write_text("raise SystemExit('a file without a number is no plugin')")
    with in_thread(tmp_path_factory.mktemp("data"), plugins=folder) as live: yield live


@pytest.mark.parametrize("name, words", [("raises", "RuntimeError: boom"), ("syntax", "SyntaxError"), ("twice",
    "defines 2 apps"),
                                         ("nothing", "defines 0 apps"), ("taken", "Two actions are called task.insert"),
                                         ("start", "ValueError: no start"), ("quits", "missing_module")])
def test_a_plugin_that_fails_says_so_on_its_page_and_in_health(hurt, name, words):
    assert words in hurt.http.get("/health").json()["errors"][name]
    text = hurt.http.get(f"/app/{name}").text
    assert "could not be loaded" in text and words in text and "Traceback" in text and f"_{name}.py" in text


def test_the_others_go_on(hurt):
    assert hurt.do("task.insert", name="Buy milk")["ok"]
    assert "Buy milk" in hurt.http.get("/app/tasks").text
    assert set(hurt.http.get("/health").json()["errors"]) == {n[4:-3] for n in BROKEN} - {"page"}


def test_a_message_of_a_plugin_is_text(hurt):
    assert "boom &lt;b&gt;at&lt;/b&gt;" in hurt.http.get("/app/raises").text


def test_a_plugin_that_fails_leaves_no_keys(hurt):
    names = {k["name"] for k in hurt.http.get("/do").json()}
    assert "start.go" not in names and "task.insert" in names
    assert hurt.do("start.go")["status"] == 404


def test_a_page_that_fails_is_told_on_that_page_only(hurt):
    text = hurt.http.get("/app/page").text
    assert "error-card" in text and "no page" in text and "Traceback" in text
    assert "error-card" not in hurt.http.get("/app/tasks").text


def test_two_apps_in_a_file_are_an_error(tmp_path):
    file = tmp_path / "010_two.py"
    file.write_text(BROKEN["043_twice.py"])
    with pytest.raises(server.PianolaError, match="defines 2 apps. A plugin file holds one subclass"):
        server.import_plugin(file)


def test_a_class_that_was_imported_is_not_its_app(tmp_path):
    file = tmp_path / "010_one.py"
    file.write_text("from server import App, Crud\nclass One(App): 'One'\n")
    assert server.import_plugin(file)[1].__name__ == "One"


def test_a_folder_without_plugins_is_told_in_a_sentence(tmp_path):
    with pytest.raises(server.PianolaError, match="There are no plugins in .* Set PIANOLA_PLUGINS"):
        server.Plugins(tmp_path, None).load_all()


# ---- files that are not there, files that are new

@each_file
def test_the_rest_works_without_it(tmp_path, file):
    folder = tmp_path / "plugins"
    shutil.copytree(ROOT / "plugins", folder, ignore=shutil.ignore_patterns("__pycache__", file.name))
    with in_thread(tmp_path / "data", plugins=folder) as live:
        health = live.http.get("/health").json()
        assert health["errors"] == {} and NAMES[file] not in health["plugins"]
        for name in ("", *(f"app/{n}" for n in health["plugins"])):
            reply = live.http.get(f"/{name}")
            assert reply.status_code == 200 and "error-card" not in reply.text, name
        assert live.http.get(f"/app/{NAMES[file]}").status_code == 404
        assert live.say("hello")[-1]["done"]["state"] in ("done", "failed")


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    "`workshop(\"new\", \"app\", …)` runs the command line on a folder of its own; gives its code and the folder"
    folder = tmp_path / "plugins"
    shutil.copytree(ROOT / "plugins", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIANOLA_PLUGINS", str(folder))
    return lambda *words: (server.main(list(words)), folder)


@pytest.mark.parametrize("name, row, title", [("recipes", "recipe", "Recipes"), ("gear", "gearrow", "Gear"),
    ("to_read", "toreadrow", "ToRead")])
def test_new_app_writes_a_plugin_that_works(workshop, tmp_path, name, row, title):
    code, folder = workshop("new", "app", name)
    with in_thread(tmp_path / "data", plugins=folder) as live:
        assert code == 0 and live.http.get("/health").json()["errors"] == {}
        assert live.do(f"{row}.insert", name="First")["ok"] and live.do(f"{row}.toggle", id="First")["ok"]
        assert live.rows(row) == [{"id": 1, "name": "First", "note": "", "done": True}]
        assert live.do("journal.undo")["ok"] and not live.rows(row)[0]["done"]
        page = live.http.get(f"/app/{name}").text
        assert f"<h1>{title}</h1>" in page and f'id="{row}-1"' in page and "error-card" not in page
        assert "error-card" not in live.http.get("/app/phrases").text


def test_new_app_writes_what_the_readme_shows(workshop):
    _, folder = workshop("new", "app", "recipes")
    (file,) = folder.glob("*_recipes.py")
    shown = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    def plain(text): return ast.dump(ast.parse(re.sub(r"^(    samples|EXAMPLE).*\n", "", text, flags=re.M)))
    assert plain(file.read_text()) == plain(shown)
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 17


def test_new_app_takes_the_next_number_and_never_writes_over_another(workshop):
    last = max(int(f.name[:3]) for f in FILES)
    _, folder = workshop("new", "app", "recipes")
    assert (folder / f"{last + 10:03}_recipes.py").is_file()
    before = sorted(folder.iterdir())
    assert workshop("new", "app", "recipes")[0] == 1 and workshop("new", "app", "tasks")[0] == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("words", [["Recipes"], ["2nd"], ["../evil"], ["a b"], ["x"], [""], ["a" * 25], []])
def test_a_bad_name_for_an_app_is_refused(workshop, words):
    code, folder = workshop("new", "app", *words)
    assert code == 1 and sorted(f.name for f in folder.glob("*.py")) == [f.name for f in FILES]


@pytest.mark.parametrize("name", ["class", "app", "setting", "messages", "cruds"])
def test_a_name_that_python_or_the_framework_uses_breaks_nothing(workshop, tmp_path, name):
    code, folder = workshop("new", "app", name)
    with in_thread(tmp_path / "data", plugins=folder) as live:
        assert live.http.get("/health").json()["errors"] == {}
        assert live.http.get(f"/app/{name}").status_code == (200 if code == 0 else 404)
        assert live.do("task.insert", name="a")["ok"] and live.do("journal.undo")["ok"]


def test_a_plugin_is_found_under_its_own_module_name():
    kind = kind_of(FILES[0])
    assert kind.__module__ == f"pianola_plugins.{NAMES[FILES[0]]}" and kind.__module__ in sys.modules
