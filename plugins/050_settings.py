"""Settings: what you can choose, explained."""
from typing import Any

from pydantic import TypeAdapter, ValidationError

from server import CHOICES, REFRESH, ActionForm, App, Article, DataTable, InvalidError, Labelled, P, PageHead, action, chosen, here


class SettingsPage(App):
    "Each takes effect at once. What is set by the environment is listed below."

    def page(self, view):
        "One small form a setting; the environment as a table"
        forms = [Article(ActionForm("settings.set", Labelled(f"set-{key}", "value", c.kind, chosen[key], c.label),
                                    P(c.doc), id=f"set-{key}", now=True, key=key), cls="card") for key,
                                    c in CHOICES.items()]
        s = here().settings
        rows = [("HOST", s.host), ("PORT", s.port), ("PIANOLA_DATA", s.data.resolve()), ("PIANOLA_PLUGINS", s.plugins),
                ("PIANOLA_PROMPT", s.prompt),
                ("PIANOLA_MODELS", s.models), ("PIANOLA_OFFLINE", s.offline),
                ("PIANOLA_MODEL", s.model or "(chosen in the menu)"),
                ("OPENAI_BASE_URL", s.openai_base_url or "(not set)"),
                ("OPENAI_API_KEY", "set" if s.openai_api_key else "(not set)")]
        return PageHead(self.title, self.__doc__), *forms, DataTable(("Environment", "Value"),
                                                                     [(k, str(v)) for k, v in rows], "Environment")

    def shows(self, event, view):
        "A setting changed elsewhere"
        return REFRESH if event.action == "settings.set" else None

    @action("settings.set", danger="person", undo=False, heard=False)
    def set(self, key: str, value: Any = False):
        "Change a setting"
        choice = CHOICES.get(key)
        if not choice: raise InvalidError(f"There is no setting {key[:40]!r}.", f"There are {', '.join(CHOICES)}.",
                                          fields={"key": "unknown"})
        if key == "context" and str(value).isdecimal(): value = int(value)
        try: chosen[key] = TypeAdapter(choice.kind).validate_python(value)
        except ValidationError as error: raise InvalidError(f"{key} cannot be that.",
                                                            fields={"value": error.errors()[0]["msg"]}) from None
        return {"key": key, "value": chosen[key]}


EXAMPLE = [("settings.set", {"key": "theme", "value": "dark"})]
