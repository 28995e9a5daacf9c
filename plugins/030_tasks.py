"""Tasks: a to-do list."""
from dataclasses import dataclass
from datetime import date

from server import Crud


@dataclass
class Task:
    name: str
    done: bool = False
    due: date | None = None
    note: str = ""


class Tasks(Crud):
    "A to-do list for the profile in use. Ask the assistant, or do it by hand."
    table, per = Task, "profile"
    samples = (("Sweep the garage", "the garage"), ("Phone Aunt Vera", "phone aunt vera"), ("Order new glasses", "the glasses"),
               ("Hang up the curtains", "the curtains"), ("Return the drill", "the drill"), ("Sign the lease", "the lease"))
