"DOCS: what the README, the docstrings and the table of files say is so."
import ast
import dataclasses
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pyfiglet
import pytest
from conftest import ROOT, in_thread

import server

README = (ROOT / "README.md").read_text()
SOURCE = (ROOT / "server.py").read_text()
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))
HELD = [server.MANNERS, server.DESCRIBED, server.PLAY_GUIDED, server.PLAY_TOOLS, server.PLAY_JSON]
BANNER = re.compile(r"# (\d\d ([A-Z ]+): .+)")
ENVIRONMENT = {  # DESIGN §4, each with a value that is not its default
    "HOST": "::1", "PORT": "5002", "PIANOLA_DATA": "there", "PIANOLA_PLUGINS": "there", "PIANOLA_PROMPT": "there",
    "PIANOLA_MODELS": "there", "PIANOLA_OFFLINE": "1", "OLLAMA_HOST": "h:1", "PIANOLA_MODEL": "ollama/x",
    "OPENAI_BASE_URL": "http://h/v1", "OPENAI_API_KEY": "k", "PIANOLA_TOKEN": "t", "APP_NAME": "n"}
WORDS = ("action", "keyboard", "perform", "journal", "actor", "app", "message", "event", "conversation", "turn",
         "context", "model", "provider", "profile")
SYNONYMS = ("pipeline", "agent", "task runner", "chatbot", "bot", "LLM", "endpoint", "widget", "workspace", "tenant",
            "add-on", "addon", "extension", "hotkey", "shortcut", "macro", "audit", "wizard", "controller", "bubble",
            "utterance", "dialogue", "backend", "frontend", "account")


def section(title: str) -> str:
    "The text of one section of the README"
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)[1]


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def docstrings(file: Path) -> str:
    "Every docstring of a file, as one text"
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return "\n".join(ast.get_docstring(n) or "" for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, kinds))


def documents() -> dict[str, str]:
    "What a person reads, by file: pages, the help of make, docstrings"
    names = ("README.md", "CHANGELOG.md", "LOG.md", "system_prompt.md", "Makefile")
    return {n: (ROOT / n).read_text() for n in names} | {f.name: docstrings(f) for f in [ROOT / "server.py", *PLUGINS]}


def says(word: str, text: str) -> list[str]:
    return re.findall(rf"(?<![\w/.-]){re.escape(word)}s?(?![\w/-])", text, re.I)


# ---- server.py: its map and its banners

def banners() -> list[tuple[int, str, str]]:
    "Line, map line and name of each banner"
    found = ((n, BANNER.fullmatch(line)) for n, line in enumerate(SOURCE.splitlines()))
    return [(n, m[1], m[2]) for n, m in found if m]


def test_the_map_is_the_banners_word_for_word_and_in_order():
    told = re.findall(r"^    (\d\d [A-Z ]+: .+)$", ast.get_docstring(ast.parse(SOURCE)), re.M)
    assert told == [line for _, line, _ in banners()]
    assert [line[:2] for line in told] == [f"{n:02}" for n in range(1, len(told) + 1)]


@pytest.mark.parametrize("at, name", [(n, name) for n, _, name in banners()])
def test_a_banner_is_dashes_big_letters_with_the_word_figlet_and_its_line(at, name):
    art = pyfiglet.figlet_format(name, "small", width=200).rstrip().splitlines()
    above = SOURCE.splitlines()[at - len(art) - 1:at]
    assert set(above[0]) == {"#", " ", "-"} and len(above[0]) == len(above[1]) and above[1].endswith(" figlet")
    assert [a.removesuffix("figlet")[2:].rstrip() for a in above[1:]] == [a.rstrip() for a in art]


def test_there_is_a_figlet_for_each_banner_and_no_section_for_the_rest():
    assert len(re.findall(r"^#.* figlet$", SOURCE, re.M)) == len(banners())
    assert not {"MISC", "UTILS", "HELPERS", "OTHER"} & {name for _, _, name in banners()}


def test_server_is_a_file_one_can_read():
    assert len(SOURCE.splitlines()) < 4000
    assert len(ast.get_docstring(ast.parse(SOURCE)).splitlines()) <= 45


def test_each_public_function_of_more_than_five_lines_says_what_it_does():
    def silent(node):
        return not node.name.startswith("_") and node.end_lineno - node.lineno >= 5 and not ast.get_docstring(node)
    tops = [ast.parse(SOURCE), *(n for n in ast.parse(SOURCE).body if isinstance(n, ast.ClassDef))]
    functions = [n for top in tops for n in top.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [n.name for n in functions if silent(n) and n.name not in ("stream", "handle_exit")]


# ---- importing server

def test_server_imports_no_plugin_by_name():
    imported = {name for n in ast.walk(ast.parse(SOURCE)) if isinstance(n, (ast.Import, ast.ImportFrom))
                for name in [getattr(n, "module", None) or n.names[0].name]}
    assert not [n for n in imported if n.startswith(("pianola_plugins", "plugins"))]
    assert not [f.name for f in PLUGINS if f.stem in SOURCE or f"pianola_plugins.{f.stem[4:]}" in SOURCE]


def test_importing_server_prints_nothing_and_makes_nothing(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True; import server"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("heavy", ["openai", "ollama", "xllamacpp", "openpyxl"])
def test_importing_server_leaves_heavy_modules_for_later(heavy, loaded):
    assert heavy not in loaded


@pytest.fixture(scope="module")
def loaded():
    "The names of the modules that `import server` loads"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import server; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.split()


# ---- README: routes, settings, commands

def places(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path.partition("?")[0])


def test_the_routes_of_the_readme_are_those_of_the_app(tmp_path):
    rows = re.findall(r"^\| (.+?) \|", section("Routes"), re.M)
    told = {(way, places(path)) for row in rows for way, path in
            (code.split(" ", 1) for code in in_code(row.replace("\\|", "|")))}
    app = server.create_app(server.Settings(data=tmp_path))
    routes = [r for r in app.router.routes if not r.path.startswith("/static")]
    there = {(way, places(r.path)) for r in routes for way in (getattr(r, "methods", None) or {"WS"}) - {"HEAD"}}
    assert told == there


@pytest.mark.parametrize("name, value", ENVIRONMENT.items())
def test_each_variable_is_in_the_readme_and_read(name, value):
    assert name in in_code(section("Settings"))
    assert server.Settings.from_env({name: value}) != server.Settings()


def test_the_readme_tells_of_no_variable_that_is_not_read():
    told = {n for row in re.findall(r"^\| (`.+?) \|", section("Settings"), re.M) for n in in_code(row)}
    assert told == set(ENVIRONMENT)


@pytest.mark.parametrize("name, field", [("HOST", "host"), ("PORT", "port"), ("APP_NAME", "app_name")])
def test_a_default_of_the_readme_is_the_default(name, field):
    assert f"| `{name}` | {getattr(server.Settings(), field)} |" in section("Settings")


def test_every_setting_but_the_command_lines_own_is_a_variable():
    assert len(dataclasses.fields(server.Settings)) - len({"verbose", "warm"}) == len(ENVIRONMENT)


def targets() -> set[str]:
    return set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split())


def test_the_readmes_make_commands_exist():
    told = set(re.findall(r"(?:^    |`)make (\w+)", README, re.M))
    assert {"run", "test"} <= told <= targets()


def test_make_help_lists_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30).stdout
    assert set(re.findall(r"^  make (\w+) +\S", shown, re.M)) == targets()


def test_the_readmes_python_commands_exist():
    told = set(re.findall(r"python server\.py (\w[\w ]*)", README + ast.get_docstring(ast.parse(SOURCE))))
    verbs = {"serve"} | {v for f in PLUGINS for v in server.import_plugin(f)[1].commands}
    assert told and not [t for t in told if not any(t.startswith(v) for v in verbs)]


def test_the_command_and_the_picture_are_near_the_top():
    top = "\n".join(README.splitlines()[:25])
    assert "make run" in top and "](docs/" in top


def test_every_file_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert not [p for p in links if not p.startswith("http") and not (ROOT / p).exists()]
    assert not [p for p in re.findall(r"`(plugins/\w+\.py)`", README) if not (ROOT / p).exists()]


def test_nothing_in_the_readme_is_left_to_fill_in():
    assert not re.findall(r"^[A-Z_]{6,}$|TODO|FIXME|XXX", README, re.M)


# ---- README: an app in 15 lines

@pytest.fixture(scope="module")
def written():
    "The plugin of the README"
    return re.search(r"```python\n(.*?)```", section("An app in 15 lines"), re.S)[1]


def test_the_readmes_app_is_fifteen_lines(written):
    assert len([line for line in written.splitlines() if line.strip()]) <= 15


def test_the_readmes_app_works(written, tmp_path):
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "010_recipes.py").write_text(written)
    with in_thread(tmp_path / "data", plugins=folder) as live:
        live.do("recipe.insert", name="Soup", note="hot")
        assert live.rows("recipe") == [{"id": 1, "name": "Soup", "note": "hot", "done": False}]
        page = live.http.get("/app/recipes").text
        assert "<h1>Recipes</h1>" in page and 'id="recipe-1"' in page and "error-card" not in page


# ---- words

def test_the_words_of_the_design_are_used():
    text = "\n".join(documents().values())
    assert not [w for w in WORDS if not says(w, text)]


@pytest.mark.parametrize("word", SYNONYMS)
def test_one_idea_has_one_word(word):
    found = {name: says(word, re.sub("`[^`]*`", "", text)) for name, text in [*documents().items(), ("prompt", "\n".join(HELD))]}
    assert not {name: hits for name, hits in found.items() if hits}


# ---- the other files

def test_what_is_vendored_is_what_the_table_says():
    rows = re.findall(r"^\| `([\w.-]+)` .*`([0-9a-f]{64})` \|$", (ROOT / "static/VENDOR.md").read_text(), re.M)
    files = {f.name for f in (ROOT / "static/vendor").iterdir() if f.suffix in (".js", ".css")}
    assert {name for name, _ in rows} == files
    for name, sha256 in rows:
        assert hashlib.sha256((ROOT / "static/vendor" / name).read_bytes()).hexdigest() == sha256, name


def test_what_is_vendored_has_its_licence():
    links = re.findall(r"\]\((vendor/[\w.-]+)\)", (ROOT / "static/VENDOR.md").read_text())
    assert len(links) >= 3 and all((ROOT / "static" / link).is_file() for link in links)


def test_there_are_at_most_sixteen_visible_entries():
    made = {"data", "__pycache__"}
    assert len([p for p in ROOT.iterdir() if not p.name.startswith(".") and p.name not in made]) <= 16


def test_the_changelog_has_an_entry_for_this_version_and_pyproject_agrees():
    assert f"\n## {server.VERSION}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'\nversion = "{server.VERSION}"' in (ROOT / "pyproject.toml").read_text()


def test_continuous_integration_does_what_a_person_does():
    assert "exec make test" in (ROOT / ".ci/run").read_text()
