"""Introduction: what this is, and three things to try."""
from server import REFRESH, ActionButton, ActionForm, App, Article, Div, Labelled, Li, P, PageHead, Strong, Ul, action, here, store

SAY = ("Add ‘Buy milk’ to my tasks", "Open my tasks", "Remember that my favourite colour is green")


class Introduction(App):
    "Apps on the left, an assistant on the right that hears what you do and can do it too."

    def page(self, view):
        "Five lines, the model in use, three things to try"
        points = Ul(Li("Every button here is an action; the assistant hears it and can play the same."),
                    Li("Whatever changes your data is in the Journal, with Undo."),
                    Li("Notebook-like apps live in the folder plugins/, one file each."),
                    Li("Nothing leaves this machine unless you say so."),
                    Li("Type / in the chat to play an action by hand; Ctrl-K finds everything."))
        model = P("The model in use is ", Strong(here().models.label), ".", id="intro-model")
        return PageHead("Welcome to Pianola", self.__doc__), points, model, self._try(), self._about_you()

    def _try(self):
        buttons = [ActionButton(f"“{text}”", "introduction.ask", cls="outline", pane="right", text=text)
                   for text in SAY]
        greet = ActionButton("Chat with the assistant", "introduction.greet", cls="primary", pane="right")
        return Article(P(Strong("Three things to try"), " (the assistant does them while you watch)"),
                       Div(*buttons, cls="try"), greet, cls="card")

    def _about_you(self):
        form = "about-you"
        fields = [Labelled(form, n, str, store.get(k, ""), label) for n, k, label in
                  (("name", "name", "What should I call you?"),
                   ("colour", "favourite colour", "Your favourite colour"))]
        return ActionForm("introduction.remember", *fields, button="Remember", id=form)

    @action(undo=False, danger="person", heard=False)
    async def greet(self):
        "Let the assistant greet the person"
        name = store.get("name", "")
        await here().chat.ask(f"(Greet the person{f', {name},' if name else ''} in one or two friendly sentences, and say what you can do for them.)")

    @action(undo=False, danger="person", heard=False)
    async def ask(self, text: str):
        "Say something to the assistant for the person"
        await here().chat.hear(text)

    @action()
    def remember(self, name: str = "", colour: str = ""):
        "Remember the person's name and favourite colour"
        for key, value in (("name", name), ("favourite colour", colour)):
            if value: store[key] = value
        return {"name": name}

    def shows(self, event, view):
        "The model in use changes under our eyes"
        return REFRESH if event.action in ("model.select", "store.set", "journal.undo",
                                           "introduction.remember") else None


EXAMPLE = [("introduction.remember", {"name": "Ada", "colour": "green"})]
