"""Marks one answer of the exam: right actions, right arguments, nothing wrongly destroyed?

A case is a line of `requests.jsonl`: `plays` is the right answer, each of `accept` another one. `"*"` in them matches
anything or nothing, `accept_any_key` any `store` key; text is compared without case, outer punctuation, double spaces.
"""

import string

EDGE = "".join(set(string.punctuation) - set("*-")) + string.whitespace + "…–—“”‘’«»"  # `*` is any, `-1` a place
UNSAID = {"task.insert": {"done": "false"}, "profile.insert": {"done": "false"}, "task.toggle": {"field": "done"}}
PAGING = ("limit", "offset")


def right(case: dict, plays: list[dict], names: dict[str, dict] | None = None) -> tuple[bool, bool, bool]:
    """`(action_right, args_right, wrong_destructive)`; `names` (`{"task": {1: "Buy milk"}}`) is for ids as numbers."""
    answers = [case["plays"], *case.get("accept", [])]
    anykey = case.get("accept_any_key", False)

    def same(want, got):
        return want["action"] == got["action"] and _same_args(want, got, names or {}, anykey)

    action_right = any([w["action"] for w in a] == [p["action"] for p in plays] for a in answers)
    args_right = any(len(a) == len(plays) and all(map(same, a, plays)) for a in answers)
    asked = [w for a in answers for w in a]
    wrong = any(_is_destructive(p["action"]) and not any(same(w, p) for w in asked) for p in plays)
    return action_right, args_right, wrong


def _is_destructive(action):
    return action.endswith(".delete") or action in ("journal.forget", "chat.clear")


def _same_args(want, got, names, anykey):
    a, b = (_plain(play, names) for play in (want, got))
    if "ids" in b and "position" in a:  # a whole new order is as good as one row's new place
        place = int(a["position"])
        b = {"position": a["position"], "id": dict(enumerate(b["ids"], 1)).get(place)}
    if anykey and want["action"].startswith("store."):
        a["key"] = "*"
    return all(a.get(k) == "*" or a.get(k) == b.get(k) for k in a | b)


def _plain(play, names):
    """One flat dict of plain text: ids as names, `set` spread out, what goes without saying left out."""
    action, args = play["action"], dict(play.get("args") or {})
    rows = {str(k): v for k, v in names.get(action.split(".")[0], {}).items()}
    if isinstance(args.get("set"), dict):
        args |= {f"set.{k}": v for k, v in args.pop("set").items()}
    out = {k: _text(v) for k, v in args.items() if v not in (None, "") and k not in PAGING and k != "ids"}
    if "id" in args:
        out["id"] = _text(rows.get(str(args["id"]), args["id"]))
    if isinstance(args.get("ids"), list):
        out["ids"] = [_text(rows.get(str(i), i)) for i in args["ids"]]
    if out.get("set.name") == out.get("id"):
        out.pop("set.name", None)  # renaming to the same name changes nothing
    return {k: v for k, v in out.items() if UNSAID.get(action, {}).get(k) != v}


def _text(value):
    return " ".join(str(value).casefold().replace("’", "'").strip(EDGE).split())
