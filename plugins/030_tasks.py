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
    samples = (("Sweep the garage", "the garage", "swept the garage"),
               ("Phone Aunt Vera", "phone aunt vera", "phoned aunt vera"),
               ("Order new glasses", "the glasses", "ordered the glasses"),
               ("Return the drill", "returning the drill", "returned the drill"),
               ("Hang up the curtains", "the curtains", "hung up the curtains"),
               ("Sign the lease", "the lease", "signed the lease"),
               ("Bake a cake for Sam", "sam's cake", "baked sam's cake"))

EXAMPLE = [("task.insert", {"name": "Try Pianola"}), ("task.toggle", {"id": "Try Pianola"})]
