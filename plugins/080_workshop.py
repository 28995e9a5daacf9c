"""Workshop: what works on this machine, and new apps."""
import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path

from rich.console import Console

from server import (
    OWN_TABLES, ActionForm, App, Article, ConflictError, DataTable, InvalidError, Labelled, ModelError, PageHead,
    Provider, Settings, action, here, plugin_files, port_free, show_table)

TEMPLATE = '''"""{title}."""
from dataclasses import dataclass

from server import Crud


@dataclass
class {row}:
    name: str
    note: str = ""
    done: bool = False


class {title}(Crud):
    "Rows of your own: add fields to the dataclass above, and they are columns, inputs and arguments."
    table, per = {row}, "profile"
    samples = ("First thing", "Second thing")
'''


class Workshop(App):
    "What works here, each with a next step where it does not; and a new app of your own, from one file."

    menu = False
    commands = {"doctor": lambda settings, words: print_examination(settings),
                "new app": lambda settings,
                words: print(f"Wrote {new_app(settings, ' '.join(words))}. Start the server and open it from the menu.")}

    def page(self, view):
        "The examination as a table, and the form for a new app"
        settings, models = here().settings, here().models
        found = [i.name for i in models.found if i.provider == "ollama"]
        rows = [check_python(), check_ollama(found), *check_files(settings), check_folder(settings)]
        form = ActionForm("workshop.new", Labelled("workshop-new", "name", str, label="Name of a new app",
                                                   required=True), button="Write it", id="workshop-new")
        return PageHead(self.title, self.__doc__), DataTable(("What", "OK", "Found", "Next step"),
                                                             [r.values() for r in rows],
                                                             "What works"), Article(form, cls="card")

    @action("workshop.new", danger="person", undo=False)
    def new(self, name: str):
        "Write a plugin that works; it is in the menu at once"
        return {"file": str(new_app(here().settings, name))}


def print_examination(settings: Settings) -> None:
    "The examination on the standard output, so that it can be piped"
    show_table("doctor", asyncio.run(examine(settings)), to=Console())


def report(what: str, ok: bool, found: str, step: str = "") -> dict:
    "One line of the examination"
    return {"what": what, "ok": "yes" if ok else "no", "found": found, "next step": "" if ok else step}


async def examine(settings: Settings) -> list[dict]:
    "What works here, each with a next step where it does not"
    found = []
    for kind in Provider.__subclasses__():
        if kind.name != "ollama": continue
        ollama = kind(settings.ollama_host)
        with contextlib.suppress(ModelError): found = [i.name for i in await ollama.models()]
        await ollama.close()
    port = report("port", port_free(settings), f"{settings.host}:{settings.port}",
                  f"Start with PORT={settings.port + 1}.")
    return [check_python(), check_ollama(found), *check_files(settings), check_folder(settings), port]


def check_python() -> dict:
    "Python is new enough"
    return report("Python", sys.version_info >= (3, 11), sys.version.split()[0], "Install Python 3.11 or newer.")


def check_ollama(found: list[str]) -> dict:
    "Ollama answers and has models"
    return report("Ollama", bool(found), f"{len(found)} models",
                  "Optional: start it and run `ollama pull llama3.2`; the embedded model works without.")


def check_files(settings: Settings) -> list[dict]:
    "The embedded models are here and fit; nothing to say where that plugin is missing"
    models = sys.modules.get("pianola_plugins.models")
    here_now = {name: (settings.models / spec.file).exists() for name, spec in models.MODELS.items()} if models else {}
    return [report(f"embedded {name}", have, models.fits(models.MODELS[name]) if have else "not fetched",
                   f"Run: python server.py models pull {name}") for name, have in here_now.items()]


def check_folder(settings: Settings) -> dict:
    "The data folder can be written"
    folder = settings.data if settings.data.exists() else settings.data.absolute().parent
    return report("data folder", os.access(folder, os.W_OK), str(settings.data.resolve()),
                  "Set PIANOLA_DATA to a folder you may write to.")


def new_app(settings: Settings, name: str) -> Path:
    "Write a plugin that works; returns its file"
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,23}", name):
        raise InvalidError(f"{name!r} cannot be an app's name.",
                           "Use small letters, digits and _, at most 24, a letter first.",
                           fields={"name": "a-z, 0-9 and _"})
    files = plugin_files(settings.plugins)
    if taken := next((f for f in files if f.stem.partition("_")[2] == name), None):
        raise ConflictError(f"There is an app {name!r} already: {taken.name}.", "Choose another name.")
    number = max((int(f.stem.partition("_")[0]) for f in files), default=0) + 10
    title = "".join(w.capitalize() for w in name.split("_"))
    row = title.removesuffix("s")
    if row == title or hasattr(sys.modules["server"], row) or row.lower() in (*OWN_TABLES, "profile"): row = f"{title}Row"
    file = settings.plugins / f"{number:03}_{name}.py"
    file.write_text(TEMPLATE.format(title=title, row=row))
    return file
