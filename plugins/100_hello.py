"""Hello Workflow: three steps, to copy."""
from server import Workflow, step

EXAMPLE = [("hello.name", {"name": "Ada"}), ("hello.shout", {"times": 2}), ("hello.card", {"emoji": "👋"})]


class Hello(Workflow):
    "Says hello in three steps. Copy this file, and put the cells of your notebook in."

    @step("Your name")
    def name(self, name: str = "Ada"):
        "Whom to greet"
        return f"Hello **{name}**."

    @step("Shout it")
    def shout(self, name, times: int = 3):
        "Louder: `name` is the result of the first step"
        return [name.replace("*", "").upper()] * times

    @step("Make a card", say="Congratulate the person on their first workflow in one short sentence.")
    def card(self, shout, emoji: str = "🎉"):
        "The end: a small table of what was shouted"
        return {"greeting": shout[0], "times": len(shout), "emoji": emoji}
