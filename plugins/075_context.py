"""Context: what the model was last sent."""
from server import App, DataTable, Div, PageHead, context_report


class ContextPage(App):
    "Layer by layer and message by message, with about how many tokens each takes."

    menu = False

    def page(self, view):
        "The parts, and what was dropped"
        found = context_report()
        rows = [(r["part"], r.get("role", "system"), r["tokens"], Div(r["text"], cls="text")) for r in found["parts"]]
        said = (f"{found['tokens']} of {found['budget']} tokens (estimated), {found['dropped']} messages dropped, "
                f"sent to {found['model'] or 'no model yet'}.")
        table = DataTable(("Part", "Role", "Tokens", "Text"), rows, "Context")
        return PageHead(self.title, f"{self.__doc__} {said}"), table
