"""Profiles: whom the work is for."""
from dataclasses import dataclass

from server import Crud


@dataclass
class Profile:
    name: str
    note: str = ""


class Profiles(Crud):
    "Whom the work is for. The one in use owns what other apps keep."
    table, selectable = Profile, True
    samples = (("Studio", "studio"), ("Night School", "night school"), ("Harbour Cafe", "the cafe"))

EXAMPLE = [("profile.insert", {"name": "Garden"}), ("profile.select", {"id": "Garden"})]
