"""Settings: what you can choose, explained."""
from typing import Any

from pydantic import TypeAdapter, ValidationError

from server import (
    CHOICES, REFRESH, ActionForm, App, Article, DataTable, InvalidError, Labelled, P, PageHead, action, chosen, here)

WORDS = {  # each setting's name and what it means
    "theme": ("Colours", "Auto follows the system."),
    "model_mode": ("The assistant may",
                   "Ask before deleting, watch only and ask before every change, or play freely. All has an Undo."),
    "way": ("How the model plays", "Auto chooses by its size and abilities."),
    "manners": ("Manners", "Ask the assistant for short, plain answers."),
    "expert": ("Expert file", "A text file with knowledge the assistant always has at hand."),
    "context": ("Context length", "In tokens, set on every request. More needs more memory."),
    "remote_events": ("Remote models hear events", "Let a model on another machine hear what you do."),
}


class SettingsPage(App):
    "Each takes effect at once. What is set by the environment is listed below."

    def page(self, view):
        "One small form a setting; the environment as a table"
        forms = [Article(self._form(key, kind), cls="card") for key, (_, kind) in CHOICES.items()]
        s = here().settings
        rows = [("HOST", s.host), ("PORT", s.port), ("PIANOLA_DATA", s.data.resolve()), ("PIANOLA_PLUGINS", s.plugins),
                ("PIANOLA_PROMPT", s.prompt),
                ("PIANOLA_MODELS", s.models), ("PIANOLA_OFFLINE", s.offline),
                ("PIANOLA_MODEL", s.model or "(chosen in the menu)"),
                ("OPENAI_BASE_URL", s.openai_base_url or "(not set)"),
                ("OPENAI_API_KEY", "set" if s.openai_api_key else "(not set)")]
        table = DataTable(("Environment", "Value"), [(k, str(v)) for k, v in rows], "Environment")
        return PageHead(self.title, self.__doc__), *forms, table

    def _form(self, key: str, kind):
        label, doc = WORDS[key]
        field = Labelled(f"set-{key}", "value", kind, chosen[key], label)
        return ActionForm("settings.set", field, P(doc), id=f"set-{key}", now=True, key=key)

    def shows(self, event, view):
        "A setting changed elsewhere"
        return REFRESH if event.action == "settings.set" else None

    @action("settings.set", danger="person", undo=False, heard=False)
    def set(self, key: str, value: Any = False):
        "Change a setting"
        if key not in CHOICES:
            raise InvalidError(f"There is no setting {key[:40]!r}.", f"There are {', '.join(CHOICES)}.",
                               fields={"key": "unknown"})
        if key == "context" and str(value).isdecimal(): value = int(value)
        try: chosen[key] = TypeAdapter(CHOICES[key][1]).validate_python(value)
        except ValidationError as error:
            raise InvalidError(f"{key} cannot be that.", fields={"value": error.errors()[0]["msg"]}) from None
        return {"key": key, "value": chosen[key]}


EXAMPLE = [("settings.set", {"key": "theme", "value": "dark"})]
