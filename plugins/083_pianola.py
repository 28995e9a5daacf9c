"""Remembered: the facts you told the assistant."""
from typing import Annotated

from pydantic import Field

from server import REFRESH, ActionButton, App, ConflictError, DataTable, P, PageHead, action, shorten, store


class Remembered(App):
    "What you asked to be remembered, for every app and for the assistant. It stays on this machine."

    menu = False

    def page(self, view):
        "The facts, each with a way to forget it"
        rows = [(key, shorten(value), ActionButton("Forget", "store.delete", cls="quiet", key=key))
                for key, value in store.items()]
        facts = DataTable(("What", "Value", ""), rows, "Facts") if rows else P("Nothing yet.", cls="empty")
        return PageHead(self.title, self.__doc__), facts

    def shows(self, event, view):
        "A fact came or went"
        return REFRESH if event.action.startswith("store.") or event.action == "journal.undo" else None

    @action("store.set", says=(
        ("remember that my favourite colour is green", {"key": "favourite colour", "value": "green"}),
        ("my name is Ada", {"key": "name", "value": "Ada"})))
    def set(self, key: Annotated[str, Field(min_length=1, max_length=200)],
            value: str | int | float | bool | list | dict | None):
        "Remember a fact about the person"
        store[key] = value
        return {"key": key, "value": value}

    @action("store.get", danger="read")
    def get(self, key: str):
        "A remembered fact"
        return store.get(key)

    @action("store.delete", says=(("forget my favourite colour", {"key": "favourite colour"}),))
    def delete(self, key: str):
        "Forget a fact"
        if key not in store:
            raise ConflictError(f"Nothing is remembered as {shorten(key, 60)!r}.", candidates=list(store)[:10])
        del store[key]
        return {"key": key}


EXAMPLE = [("store.set", {"key": "favourite colour", "value": "green"}), ("store.delete", {"key": "favourite colour"})]
