"""Phrases: what you can say, and how small models are guided."""
import asyncio
import contextlib
import datetime as dt
import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from server import (
    ANSWERED, ActionButton, App, Article, Div, P, PageHead, Strong, Workflow, action, calling, here, play_label, to_json)

PASSES, LIKELY, NEAREST, ROWS_SHOWN = 5, 12, 3, 4
ENGINE = ("run.", "card.", "job.")  # actions on what every workflow has
SURE = 0.5  # nearness at which a phrase is known
POSSIBLE = 0.5  # share of the best one's nearness at which another action is possible
LONG_AGO = dt.date(2031, 1, 1)  # the examples' today, so that they stay the same
UNKNOWN = "?"  # stands for a row, a place, an app the request does not name: asked about, never guessed
NONE = {"action": "none", "args": {}}

# What people say, written once per verb.
# Slots: {row} an existing row, {new} words of the request, {date}, {note}, {place}.
SAYS = {
    "insert": [
        "add {thing}", "add {new}", "add {new} to my {noun}s", "new {noun}: {new}", "put {new} on the list",
        "remind me to {new}", "i need to {new}, write that down", "create a {noun} called {new}",
        "could you add {new} please", "make a {noun} for {doing}", "put {doing} on there", "i have to {new} {date}",
        "add {new}, due {date}", "remind me to {new} {date}", "don't let me forget to {new}", "{noun}: {new} {date}",
        "note down {new} with the note {note}", "we have run out of {thing}, list it",
        "no {thing} left, i need some more", "we need {thing}", "add a {noun} to {new}",
        "can you make a {noun} named {new}, note: {note}", "jot down {new} for me", "and {thing} too",
        "set up a {noun} {new}", "also {thing}", "let's add {thing} to that", "i must {new}", "to-do: {new}",
        "todo: {new}", "note to self: {new}", "make a note to {new}", "remember to {new}", "i mustn't forget to {new}",
        "stick {thing} on there too", "{thing} goes on the list", "a new one: {new}", "add one called {new}",
        "i ought to {new}, put it on my list", "{thing}, add that", "would you add something about {doing}",
        "i want to {new} some day, save that", "get {thing} on the list"],
    "toggle": [
        "tick off {row}", "i finished {row}", "{row} is done", "mark {row} as done", "check off {row}",
        "done with {row}", "{row} has been dealt with", "i {past} this morning", "we've {past}", "untick {row}",
        "{row} isn't finished after all", "i've already done {row}", "cross {row} off", "reopen {row}",
        "complete {row}", "mark {row} as not done", "finally {past}", "just got {row} sorted", "{row}, all done now",
        "tick it off", "ok that one's finished", "set {row} to done", "{row}: done", "i have {past}",
        "{row} is taken care of", "{row} isn't done yet, uncheck it", "got {row} out of the way",
        "{past} yesterday, so tick it", "yes i {past}", "my sister {past} already", "{row} is {did}",
        "{row} has been {did}", "got {row} {did}", "{row}? {did}", "tick {row}"],
    "delete": [
        "delete {row}", "remove {row}", "get rid of {row}", "delete the {bare} {noun}",
        "drop {row}, it's not needed any more", "scratch {row}", "please delete {row}", "throw {row} out",
        "i don't want {row} in there any longer, remove it", "take {row} off the list", "forget about {row}, delete it",
        "erase {row}", "bin {row}", "delete it", "can you delete {row}?", "{row} can go, scrap it",
        "we don't need {row} now, drop it", "kill the {bare} {noun}", "remove it", "wipe {row} from the list"],
    "rename": [
        "rename {row} to {new}", "change {row} to {new}", "call {row} {new} instead", "{row} should say {new}",
        "make {row} read {new}", "edit {row}: it's {new}", "rename the {bare} {noun} to {new}",
        "{row} should be called {new}", "change the name of {row} to {new}", "actually make it {new}",
        "rename it to {new}", "{row} is wrong, it should be {new}, change it"],
    "redate": [
        "move {row} to {date}", "{row} is due {date}", "set the due date of {row} to {date}",
        "change the date of {row} to {date}", "postpone {row} until {date}", "{row} has to be done {date}",
        "the deadline of {row} is {date}", "make {row} due {date}", "push {row} back to {date}"],
    "renote": [
        "add a note to {row}: {note}", "note on {row}: {note}", "put the note {note} on {row}",
        "write {note} in the notes of {row}", "change the note of {row} to {note}", "{row} needs a note saying {note}",
        "{row}, put note: {note}", "note for {row}: {note}"],
    "sort": [
        "move {row} {to}", "put {row} {th}", "{row} should be {th}", "{row} goes {to}", "make {row} {th}",
        "push {row} {to}", "{row} {th} please", "bring {row} {to}", "move it {to}", "make {row} {th} in the list"],
    "list": [
        "search for {find}", "find {noun}s about {find}", "show me the {noun}s with {find}",
        "look for {find} in my {noun}s", "filter by {find}", "find everything about {find}",
        "search my {noun}s for {find}"],
    "select": [
        "switch to {row}", "use the {bare} {noun}", "change to {row}", "i want to work as {row}", "select {row}",
        "go over to {row}", "change the {noun} to {row}", "go back to the {bare} {noun}",
        "i'm doing {row} now, switch {noun}", "make {row} the current {noun}"],
    "none": [
        "how do i delete a {noun}?", "how can i rename {row}?", "what can you do?", "hello", "good evening",
        "thanks a lot", "what does ticking off do?", "can i undo a delete?", "don't delete {row}",
        "no, leave {row} alone", "what's on my list?", "is {row} done?", "do i still have {row} on the list?",
        "how many {noun}s are left?", "when is {row} due?", "i wonder if i should do {row}",
        "maybe i'll do {row} later", "my boss told me to drop {row}", "what happens if i delete {row}?",
        "if i removed {row}, could i get it back?", "tell me a joke", "who are you?", "what is the tallest mountain?",
        "clear the chat", "change the model", "use a dark theme", "download another model", "yes, allow it",
        "email {row} to anna", "call my brother now", "what's the weather tomorrow?", "i love this list",
        "{row} is so boring", "that's funny", "never mind", "why is {row} still there?", "explain what {noun}s are for",
        "should i do {row} first?", "write me a poem", "is it possible to move {noun}s?", "what did i do yesterday?",
        "translate hello to french", "i forgot {row} again", "{row} was hard work last year",
        "which {noun} is the most important?", "play some music", "good idea", "wow, so much to do",
        "deny that request", "not now", "make the letters bigger", "set the volume to low", "switch off the heating",
        "send {row} to paul", "use a faster model", "delete all our messages", "forget the history before june",
        "erase everything older than march from the journal", "delete the whole history", "reset the app",
        "reject that", "allow it", "ok", "write a song about {row}", "could you explain {row} to me?",
        "he asked her to remove {row} from his list", "i don't feel like {row}", "great work", "haha", "that's wrong",
        "yes", "hmm, not sure about {row}", "i'm hungry", "my brother is ill", "it's been a long day",
        "perhaps i should drop {row}", "don't touch {row}", "don't tick off {row}", "please don't move {row}",
        "do not rename {row}", "don't add {thing}", "she wants me to tick off {row}", "i wish {row} was done",
        "i'd rather not do {row}", "confirm it", "print {row}", "let me think about {row}"],
}
GENERAL = {  # and what they say for the actions of no table, beside what each action says itself
    "app.open": [
        ("go to my profiles", {"app": "profiles"}), ("open the journal", {"app": "journal"}),
        ("can we look at the settings?", {"app": "settings"}), ("where is the journal? open it", {"app": "journal"}),
        ("switch to the journal app", {"app": "journal"}), ("i'd like to see the csv page", {"app": "csv"}),
        ("bring me back to my tasks", {"app": "tasks"}), ("show me the settings", {"app": "settings"}),
        ("back to the tasks", {"app": "tasks"}), ("take me to the models page", {"app": "models"}),
        ("i want to import a csv file", {"app": "csv"}), ("bring up the start page", {"app": "introduction"}),
        ("let me see the history of what was done", {"app": "journal"})],
    "store.set": [
        ("remember that my favourite colour is teal", {"key": "favourite_colour", "value": "teal"}),
        ("my name is Ines", {"key": "name", "value": "Ines"}),
        ("note that i live in Ghent", {"key": "home", "value": "Ghent"}),
        ("i'm a vegetarian, keep that in mind", {"key": "diet", "value": "vegetarian"}),
        ("my birthday is the 3rd of june, remember that", {"key": "birthday", "value": "3rd of june"}),
        ("i hate olives, please remember", {"key": "dislikes", "value": "olives"}),
        ("call me Jo from now on", {"key": "name", "value": "Jo"})],
    "store.delete": [
        ("forget my favourite colour", {"key": "favourite_colour"}),
        ("forget what i told you about my birthday", {"key": "birthday"})],
    "journal.undo": [
        ("undo that", {}), ("oh no, take that back", {}), ("revert the last change", {}),
        ("that was a mistake, put it back", {}), ("undo", {})],
}
# a field of the schema that each slot fills, by verb; `rename`, `redate` and `renote` are one action, update
VERBS = {"rename": "update", "redate": "update", "renote": "update"}
SAMPLES = {
    "task": [
        ("Sweep the garage", "the garage", "swept the garage"),
        ("Phone Aunt Vera", "phone aunt vera", "phoned aunt vera"),
        ("Order new glasses", "the glasses", "ordered the glasses"),
        ("Hang up the curtains", "the curtains", "hung up the curtains"),
        ("Return the drill", "returning the drill", "returned the drill"),
        ("Sign the lease", "the lease", "signed the lease"), ("Bake a cake for Sam", "sam's cake", "baked sam's cake")],
    "profile": [("Studio", "studio", ""), ("Night School", "night school", ""), ("Harbour Cafe", "the cafe", "")]}
FILL = {
    "new": ["mow the lawn", "post the letters", "check the brakes", "ask Omar about the keys", "tidy the cellar"],
    "thing": ["candles", "soy sauce", "shoe polish"], "doing": ["cutting the hedge", "painting the fence"],
    "date": ["tomorrow", "on friday", "2031-04-09", "next monday"],
    "note": ["ring twice", "use the blue one", "ask for a receipt"],
    "to": ["to the top", "to the bottom", "to position 4", "up one", "down two"], "th": ["first", "second", "last"],
    "find": ["garden", "paint", "school"]}
TODO = set("""
    call phone ring email mail write send buy get order book pay renew plan prepare make do take pick bring return fix
    repair clean wash tidy water cut cook bake read check finish start sign print find ask tell meet visit go see talk
    cancel change update review post put set sort move walk feed collect arrange schedule test draft""".split())

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_QUOTED = re.compile(r"[\"“«]([^\"”»]{1,200})[\"”»]|(?<!\w)['‘](.{1,200}?)['’](?!\w)")
STOP = set("""
    a an the my our your his her its their of to for on in at by with from and or is it as that this these those one
    ones thing task tasks item please me i you we be so up off out over do does did not all new now list has have had
    was are will would can could should if but then too also just still any more longer there here now anymore about
    into over under after before when while because very much some every each them they he she him who what which
    really actually finally already today yet again back down only even one's thing's""".split())
IRREGULAR = dict(w.split(":") for w in """
    paid:pay sent:send bought:buy wrote:write written:write took:take taken:take made:make done:do did:do got:get
    found:find told:tell went:go gone:go ran:run met:meet spoke:speak spoken:speak rang:ring rung:ring mother:mum
    mom:mum mummy:mum father:dad sold:sell brought:bring booked:book cleaned:clean fed:feed swept:sweep""".split())

def stem(word: str) -> str:
    "A word without its English ending, roughly: fixed → fix, bills → bill."
    w = re.sub(r"['’](s|re|ve|ll|d|m|t)?$", "", word.lower())
    w = IRREGULAR.get(w, w)
    for ending in ("ing", "ied", "ies", "ed", "es", "s", "e"):
        if w.endswith(ending) and len(w) - len(ending) >= 3 and not w.endswith("ss"):
            w = w[:-len(ending)] + ("y" if ending in ("ied", "ies") else "")
            break
    return w[:-1] if len(w) > 3 and w[-1] == w[-2] and w[-1] not in "aeious" else w


TODO_STEMS, STOP = set(map(stem, TODO)), STOP | set(map(stem, STOP))

def words_of(text: str) -> list[tuple[int, int, str]]:
    "Start, end and stem of each word of `text`."
    return [(m.start(), m.end(), stem(m[0])) for m in _WORD.finditer(text)]


# ---------------------------------------------------------------- what the request names

DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
MONTHS = "january february march april may june july august september october november december".split()
_DAY, _MON = "|".join(f"{d}|{d[:3]}" for d in DAYS), "|".join(f"{m}|{m[:3]}" for m in MONTHS)
_DATE = re.compile(rf"""\b(?:(?:due|by|on|for|until|till|from|before|to|is|due\son|due\sby|this|next|the)\s+)*(?:
    (?P<iso>\d{{4}}-\d\d?-\d\d?) | (?P<near>today|tonight|tomorrow|day\safter\stomorrow)
    | in\s(?P<n>\d+|an?|one|two|three|four|five|six|ten)\s(?P<unit>day|week|month)s?
    | (?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?(?P<m>{_MON})\b(?:,?\s(?P<y>\d{{4}}))?
    | (?P<m2>{_MON})\s(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s(?P<y2>\d{{4}}))?
    | (?P<day>{_DAY})\b | next\s(?P<next>week|month) | (?P<end>end\sof\s(?:the\s)?(?:week|month)) )\b""", re.I | re.X)
NUMBERS = {w: i for i, w in enumerate("zero one two three four five six seven eight nine ten".split())}
NUMBERS |= {"a": 1, "an": 1}

def _number(said): return int(said) if said.isdigit() else NUMBERS[said.lower()]

def find_dates(text: str, today: dt.date | None = None) -> list[tuple[int, int, str]]:
    "Dates said in `text`: start, end, ISO date. Days of the week are the next such day."
    found = []
    for m in _DATE.finditer(text):
        bare_day = m["day"] and m.start("day") == m.start() and m.end() < len(text.rstrip(" .!?,"))
        if bare_day and not re.match(r"\s*(,|$|and\b|please)", text[m.end():]): continue
        day = _day(m, today or dt.date.today())
        if day: found.append((m.start(), m.end(), day.isoformat()))
    return found

def _day(m, today):
    g = {k: v.lower() for k, v in m.groupdict().items() if v}
    try:
        if "iso" in g: return dt.date(*map(int, g["iso"].split("-")))
        if "near" in g: return today + dt.timedelta({"tomorrow": 1}.get(g["near"], 2 if " " in g["near"] else 0))
        if "n" in g: return today + dt.timedelta(_number(g["n"]) * {"day": 1, "week": 7, "month": 30}[g["unit"]])
        if "day" in g:
            ahead = ([d[:3] for d in DAYS].index(g["day"][:3]) - today.weekday()) % 7
            return today + dt.timedelta(ahead or 7)
        if g.get("next") == "week": return today + dt.timedelta(7 - today.weekday())
        if "next" in g: return _month_after(today)
        if "end" in g and g["end"].endswith("week"): return today + dt.timedelta(6 - today.weekday())
        if "end" in g: return _month_after(today) - dt.timedelta(1)
        month = [m[:3] for m in MONTHS].index((g.get("m") or g["m2"])[:3]) + 1
        day, year = int(g.get("d") or g["d2"]), g.get("y") or g.get("y2")
        date = dt.date(int(year or today.year), month, day)
        return date if year or date >= today else date.replace(year=today.year + 1)
    except (ValueError, OverflowError): return None

def _month_after(day): return (day.replace(day=1) + dt.timedelta(32)).replace(day=1)


_TH = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_PLACE = re.compile(rf"""\b(?P<ref>above|before|below|after|under|underneath|ahead\sof|behind)\s+(?P<what>.+)$
    | \b(?P<top>(?:to\s|at\s|on\s)?(?:the\s)?(?:very\s)?
        (?:top|front|start|beginning|head)\b(?:\sof\s(?:the|my)\s\w+)?)
    | \b(?P<bottom>(?:to\s|at\s)?(?:the\s)?(?:very\s)?(?:bottom|end)\b(?:\sof\s(?:the|my)\s\w+)?
        |\blast\b(?=\W*$|\Wplease|\Win\b))
    | \b(?:(?:to|into|in|at)\s)?(?:the\s)?(?:position|pos|place|number|slot|spot|no\.?|\#)\s?
        (?P<n>\d+|one|two|three|four|five|six|seven|eight|nine|ten)\b
    | \b(?:to\s|in\s|the\s|into\s|at\s)*(?P<th>{"|".join(_TH)}|\d+(?:st|nd|rd|th))(?:\s(?:place|position|spot))?\b
    | (?<=\w)\s(?P<rel>
        (?:(?:one|a|two|three)\s(?:places?|spots?|steps?|rows?|notch)?\s?(?:further\s)?(?:up|down|higher|lower)
        |(?:further\s)?(?:up|down)(?:\s(?:one|two|three|a))?(?:\s(?:places?|spots?|steps?|rows?|notch))?(?=\W*$)))
    \b""", re.I | re.X)

def find_place(text: str):
    "The place in a list said in `text`, as (start, end, value): a number, `top`, `bottom`, `up 1`, `below …`; or None."
    for m in _PLACE.finditer(text):
        if m["ref"]: value = ("above " if m["ref"].lower() in ("above", "before", "ahead of") else "below ") + m["what"]
        elif m["top"] or m["bottom"]: value = "top" if m["top"] else "bottom"
        elif m["n"]: value = _number(m["n"])
        elif m["th"]: value = _TH.index(m["th"].lower()) + 1 if m["th"].lower() in _TH else int(m["th"][:-2])
        else:
            by = next((NUMBERS[w] for w in m["rel"].lower().split() if w in NUMBERS), 1)
            value = f"{'up' if re.search('up|higher', m['rel'], re.I) else 'down'} {by}"
        return m.start(), m.end(), value
    return None

def _apps(text, names):
    "The apps a text names, by name or title: where one stands inside another, the longer"
    found = [(m.span(), n) for n in names for m in re.finditer(rf"\b{re.escape(n)}\b", text, re.I)]
    whole = [(s, n) for s, n in found if not any(o != s and o[0] <= s[0] and s[1] <= o[1] for o, _ in found)]
    once = {s: n for s, n in reversed(whole)}  # a name and a title may be the same word
    return Linked(list(once.values()), False, list(once), float(len(once)))


@dataclass
class Linked:
    "The rows of one table that a text names: the likely ones, best first; `unsure` when several fit equally."
    names: list = field(default_factory=list)
    unsure: bool = False
    spans: list = field(default_factory=list)  # where the best row's words stand
    weight: float = 0.0

def link(text: str, names: list[str], extra_stop=()) -> Linked:
    "Finds the rows of `names` that `text` names, by rare words, endings and small typos forgiven."
    said = [(a, b, w) for a, b, w in words_of(text) if w]
    own = [[w for _, _, w in words_of(n)] for n in names]
    df = Counter(w for row in own for w in set(row))
    plain = STOP | TODO_STEMS | set(extra_stop)
    rare = {w: 0.3 + math.log((len(names) + 1) / n) for w, n in df.items()}
    def weight(w): return rare[w] * (0.1 if w in STOP or w in extra_stop else 0.4 if w in TODO_STEMS else 1.0)
    def meant(a, b): return re.search(r"\bthe $", text[:a], re.I) and re.match(r" (one|thing)\b", text[b:], re.I)
    hits = []
    for i, row in enumerate(own):
        matched = {w: (a, b) for a, b, s in said for w in row if s == w or _typo(s, w)}
        whole = row and set(row) - STOP <= set(matched)
        solid = whole or any(w not in plain or meant(*at) for w, at in matched.items())
        score = sum(map(weight, matched)) if solid else 0
        if names[i] and names[i].lower() in text.lower() and len(names[i]) > 2: score += 3
        if score: hits.append((score, sum(map(weight, matched)) / (sum(map(weight, set(row))) or 1), i, matched))
    hits.sort(key=lambda h: (-h[0], -h[1], h[2]))
    if not hits: return Linked()
    best = hits[0]
    def same_words(h): return set(h[3].values()) & set(best[3].values())
    rivals = [h for h in hits[1:] if h[0] >= 0.85 * best[0] and h[1] >= best[1] - 0.34 and same_words(h)]
    spans = sorted(span for w, span in best[3].items() if w not in STOP)
    likely = [names[h[2]] for h in [best, *rivals][:ROWS_SHOWN]]
    return Linked(likely, bool(rivals), spans or sorted(best[3].values()), best[0])

def _typo(a, b):
    "One letter wrong, missing, doubled or two swapped, in words of five letters or more."
    if min(len(a), len(b)) < 5 or abs(len(a) - len(b)) > 1 or a[0] != b[0]: return False
    i = next((k for k, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    swapped = a[i:i + 2] == b[i:i + 2][::-1] and a[i + 2:] == b[i + 2:]
    return swapped or a[i + 1:] == b[i + 1:] or a[i:] == b[i + 1:] or a[i + 1:] == b[i:]


# ---------------------------------------------------------------- one request, as code hears it

@dataclass
class Heard:
    "What a request names: rows by table, dates, a place; the page it was said on."
    request: str
    page: str = ""
    rows: dict = field(default_factory=dict)   # table: all its names, in order
    linked: dict = field(default_factory=dict)  # table: Linked
    dates: list = field(default_factory=list)
    place: object = None
    pronoun: bool = False

    def notes(self) -> str:
        "What was found, as one line of JSON for the model (names are data, never lines of their own)."
        found = {"page": self.page} | {t: l.names for t, l in self.linked.items() if l.names}
        if self.dates: found["date"] = self.dates[0][2]
        if self.place: found["place"] = self.place[2]
        return json.dumps(found, ensure_ascii=False)

    def shape(self) -> str:
        "The request with what it names masked, to be compared with the phrases people use."
        spans = [(a, b, "DATE") for a, b, _ in self.dates] + ([(*self.place[:2], "PLACE")] if self.place else [])
        table, best = max(self.linked.items(), key=lambda l: (l[1].weight, l[0] != "app"), default=("", Linked()))
        mask = "APP" if table == "app" else "ROW"
        if mask == "ROW" or best.names and stem(best.names[0]) not in self.rows:
            first = {stem(n.split()[0]) for n in best.names[:1]}
            for a, b in best.spans:
                word = self.request[a:b].lower()
                did = mask == "ROW" and stem(word) in first and (word in IRREGULAR or word.endswith("ed"))
                if not any(x <= a < y for x, y, _ in spans): spans.append((a, b, "DID" if did else mask))
        text, end = "", 0
        for a, b, mask in sorted(spans):
            if a >= end: text, end = f"{text}{self.request[end:a]} {mask} ", b
        text += self.request[end:]
        return re.sub(r"(ROW|DID)(\s+(?:(?:the|a|an|my|for|of|to|in|on|at|out|up)\s+)*ROW)+", r"\1", text)


_PRONOUN = re.compile(r"\b(it|that|this|them|those|that one|this one|the same)\b", re.I)

def hear(request: str, rows: dict, page: str = "", last: dict | None = None, today=None) -> Heard:
    "Finds what `request` names among `rows` ({table: names}); a bare `it` is the row of `last` ({table: name})."
    heard = Heard(request, page, rows, dates=find_dates(request, today), place=find_place(request))
    if heard.place and str(heard.place[2]).startswith(("above", "below")):
        if not any(link(heard.place[2][6:], n).names for n in rows.values()): heard.place = None
    if heard.place: heard.dates = [d for d in heard.dates if d[1] <= heard.place[0] or d[0] >= heard.place[1]]
    text = request
    if heard.place: text = text[:heard.place[0]] + " " * (heard.place[1] - heard.place[0]) + text[heard.place[1]:]
    for table, names in rows.items():
        heard.linked[table] = link(text, names, (stem(table),)) if table != "app" else _apps(text, names)
    heard.pronoun = bool(_PRONOUN.search(request))
    for table, name in (last or {}).items():
        if heard.pronoun and name in rows.get(table, ()) and not any(l.names for l in heard.linked.values()):
            heard.linked[table] = Linked([name], False, [_PRONOUN.search(request).span()], 1.0)
    return heard


# ---------------------------------------------------------------- the examples

@dataclass
class Example:
    "Something people say, the right play, its masked shape, and the chat turn it makes."
    said: str
    play: dict
    shape: str
    turn: str

def fill(phrase: str, verb: str, table: str, n: int, samples: list) -> tuple[str, dict]:
    "The `n`th filling of a phrase's slots: what is said, and the args it means."
    name, said, past = samples[n % len(samples)]
    value = {k: v[n % len(v)] for k, v in FILL.items()}
    value |= {"row": said, "noun": table, "past": past, "did": past.split(" ")[0], "bare": said.removeprefix("the ")}
    text, args = phrase.format(**value), {}
    date, place = find_dates(value["date"], LONG_AGO), find_place(text)
    rowed = any(s in phrase for s in ("{row}", "{past}", "{bare}", "{did}")) or re.search(r"\b(it|that one)\b", phrase)
    if rowed and verb not in ("insert", "list", "none"): args["id"] = name
    slot = next((s for s in ("new", "thing", "doing") if "{%s}" % s in phrase), "")
    new = {"name": value[slot]} if slot else {}
    if "{date}" in phrase: new["due"] = date[0][2]
    if "{note}" in phrase: new["note"] = value["note"]
    if verb == "insert": args = new
    elif verb in VERBS: args["set"] = new
    if verb == "sort": args["position"] = place[2]
    if "{find}" in phrase: args["search"] = value["find"]
    return text, args

def examples(actions, samples=SAMPLES, pages=None) -> list[Example]:
    "All phrases of the offered `actions`, filled with sample rows, as examples; `pages`: the page of each table."
    names, out = {a.name: a for a in actions}, []
    rows = {t: [r[0] for r in s] for t, s in samples.items()}
    rows["app"] = sorted({args["app"] for a in actions for _, args in a.says or () if args and "app" in args})
    for table in samples:
        for verb, phrases in SAYS.items():
            action = names.get(f"{table}.{VERBS.get(verb, verb)}")
            if not action and (verb != "none" or table != next(iter(samples))): continue
            for n, phrase in ((n, p) for n, p in enumerate(phrases) if _fits(p, action)):
                said, args = fill(phrase, verb, table, n, samples[table])
                play = {"action": action.name, "args": args} if action else NONE
                heard = hear(said, rows, (pages or {}).get(table, table), {table: args.get("id")}, LONG_AGO)
                out.append(Example(said, play, _shape(phrase, table), turn(heard)))
    for action in actions:
        for said, args in [*GENERAL.get(action.name, ()), *action.says]:
            play = {"action": action.name, "args": args} if args is not None else NONE
            heard = hear(said, rows, (pages or {}).get("task", ""), today=LONG_AGO)
            out.append(Example(said, play, heard.shape(), turn(heard)))
    return out

def _fits(phrase, action):
    if not action or is_question(phrase): return not is_question(phrase)
    text = json.dumps(schema_of(action))
    needs = (("{date}", '"date"'), ("{note}", '"note"'), ("untick", "field"))
    if any(words in phrase and part not in text for words, part in needs): return False
    return action.name.startswith("task.") or "{past}" not in phrase and "{did}" not in phrase


MASKS = {"row": "ROW", "past": "DID", "did": "DID", "bare": "ROW", "date": "DATE", "to": "PLACE", "th": "PLACE"}

def _shape(phrase, noun):
    return re.sub(r"\{(\w+)\}", lambda m: MASKS.get(m[1], noun if m[1] == "noun" else ""), phrase)

def turn(heard: Heard) -> str:
    "A request as the model sees it."
    return heard.request + "\n" + heard.notes()

def _grams(text):
    words = [w if w.isupper() else stem(w) for w in _WORD.findall(text)]
    pairs = [f"{a} {b}" for a, b in zip(["^", *words], [*words, "$"])]
    tight = f" {' '.join(words)} "
    return Counter(words) + Counter(words) + Counter(pairs) + Counter(tight[i:i + 3] for i in range(len(tight) - 2))


class Nearness:
    "Finds the examples nearest to a request: words, pairs and character trigrams, tf-idf, cosine."

    def __init__(self, pool: list[Example]):
        self.pool, df, self.posts = pool, Counter(), defaultdict(list)
        grams = [_grams(e.shape) for e in pool]
        for g in grams: df.update(g.keys())
        self.idf = {w: math.log(1 + len(pool) / n) for w, n in df.items()}
        for i, g in enumerate(grams):
            norm = math.sqrt(sum((c * self.idf[w]) ** 2 for w, c in g.items())) or 1
            for w, c in g.items(): self.posts[w].append((i, c * self.idf[w] ** 2 / norm))

    def scores(self, text: str) -> list[float]:
        "How near `text` is to each example, 0 to 1."
        out, grams = [0.0] * len(self.pool), _grams(text)
        norm = math.sqrt(sum((c * self.idf.get(w, 5.0)) ** 2 for w, c in grams.items())) or 1
        for w, c in grams.items():
            for i, x in self.posts.get(w, ()): out[i] += x * c / norm
        return out

def nearest(heard: Heard, near: Nearness, offered, k: int = NEAREST) -> list[Example]:
    "The `k` examples of what is `offered` nearest to a request, the nearest last."
    return [e for _, e in ranked(heard, near, offered)[:k]][::-1]

def ranked(heard: Heard, near: Nearness, offered) -> list[tuple[float, Example]]:
    "The examples of what is `offered` with their nearness to a request, masked or as it is, the nearest first."
    names, shape = {a.name for a in offered} | {"none"}, heard.shape()
    masked, plain = near.scores(shape), near.scores(heard.request)
    def fits(e): return e.play["action"] in names and all((m in e.shape) <= (m in shape) for m in ("DATE", "PLACE"))
    fitting = [i for i, e in enumerate(near.pool) if fits(e)]
    return [(max(masked[i], plain[i]), near.pool[i]) for i in sorted(fitting, key=lambda i: -max(masked[i], plain[i]))]

def relevant(actions, heard: Heard) -> list:
    "Of the offered `actions`, those of the open page, the general ones, and of other tables what the request names."
    said = {w for _, _, w in words_of(heard.request)}
    unnamed = {t for t, l in heard.linked.items() if t != "app" and not l.names and stem(t) not in said}
    own = {a.name.split(".")[0] for a in actions if a.name.endswith(".delete")}
    if not heard.page: own = own & (heard.linked.keys() - unnamed) or own  # no page is open: a named table is
    return [a for a in actions if (table := a.name.split(".")[0]) in own or table not in unnamed]


# ---------------------------------------------------------------- schema and messages

_FUNCTION = set("""
    me to a an the my our your that for on of it i we you please and also is are there have has need must should can
    could would in at by with from as""".split())

def spans_of(text: str, openings: frozenset = frozenset(), most: int = 14) -> str:
    """A regular expression for every run of at most `most` words of `text` that neither begins nor ends with a function
    word, nor begins with the verb that opens the request; what stands in quotes, if anything, goes before all that."""
    quoted = [m[1] or m[2] for m in _QUOTED.finditer(text)]
    if quoted: return "^(" + "|".join(map(_escape, dict.fromkeys(quoted))) + ")$"
    words = [(m.start(), m.end()) for m in re.finditer(r"[\w#€$£@%&+*][^\s]*", text)][:60]
    def core(a, b): return text[a:b].rstrip(".,!?;:)\"'”’»") or text[a:b]
    def empty(k): return core(*words[k]).lower() in _FUNCTION
    lead = next((k for k in range(len(words)) if not empty(k)), 0)
    skip = lead if words and stem(core(*words[lead])) in openings and len(words) > lead + 1 else -1
    starts = []
    for i in range(len(words)):
        if i == skip or empty(i): continue
        pattern = ""
        for j in range(min(i + most, len(words)) - 1, i - 1, -1):
            if not pattern and empty(j): continue
            a, b = words[j]
            rest = text[a + len(core(a, b)):words[j + 1][0]] if pattern else ""
            tail = f"{_escape(rest)}{pattern}" if pattern else ""
            pattern = _escape(core(a, b)) + (tail if empty(j) else f"({tail})?" if tail else "")
        if pattern: starts.append(pattern)
    return "^(" + "|".join(dict.fromkeys(starts or [_escape(text.strip()) or "none"])) + ")$"

def _escape(text):
    text = "".join(" " if c.isspace() else c for c in text)
    return re.sub(r"([\\.^$|?*+()\[\]{}/\"-])", r"\\\1", text)


ALWAYS = ("id", "position", "app", "set")

def schema_of(action) -> dict:
    "The JSON schema of an action's args, references followed and optional types made plain."
    schema = action.schema() if callable(action.schema) else action.schema
    return _plain(schema, schema.get("$defs", {}))

def _plain(schema, defs):
    while "$ref" in schema or "anyOf" in schema or "allOf" in schema:
        choices = schema.get("anyOf") or schema.get("allOf") or [defs[schema["$ref"].rsplit("/", 1)[-1]]]
        schema = next((c for c in choices if c.get("type") != "null"), {})
    properties = {p: _plain(s, defs) for p, s in schema.get("properties", {}).items()}
    return schema | {"properties": properties, "required": schema.get("required", [])}

def play_schema(actions, heard: Heard, openings=frozenset()) -> dict:
    "The JSON schema of one play: an offered action, its args made of what the request names; or none."
    said = heard.request
    named = any(l.names for t, l in heard.linked.items() if t != "app")
    if heard.place and named: said = said[:heard.place[0]] + " " + said[heard.place[1]:]
    text = {"type": "string", "pattern": spans_of(said, openings)}
    defs = {t: {"enum": l.names or [UNKNOWN]} for t, l in heard.linked.items()}
    options = [_object({"action": {"const": "none"}, "args": _object({})})]
    for a in actions:
        schema = schema_of(a)
        args = {p: s for p, s in ((p, _field(p, s, a, heard, text)) for p, s in schema["properties"].items()) if s}
        if "set" in schema["properties"] and "set" not in args: continue
        required = [p for p in args if p in schema["required"] or p in ALWAYS or "enum" in args[p] or len(args) == 1]
        options.append(_object({"action": {"const": a.name}, "args": _object(args, required)}))
    return {"$defs": defs, "anyOf": options}

def said_numbers(text: str, kind: str) -> dict | None:
    "The numbers a request says, but for the step's own (`step two`), as a schema; None without any"
    rest = re.sub(r"\bstep\s+\w+", " ", text, flags=re.I)
    digits = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)", rest)
    found = [float(n) for n in digits] if kind == "number" else [int(n) for n in digits if "." not in n]
    found += [NUMBERS[w] for w in rest.lower().split() if w in NUMBERS and w not in ("a", "an")]
    return {"enum": list(dict.fromkeys(found))} if found else None

def says(name: str, text: str) -> bool:
    "Does `text` speak of the field `name`?"
    return bool(re.search(rf"\b{re.escape(name.replace('_', ' '))}s?\b", text, re.I))

def only_answer(schema: dict) -> str:
    "The one text a schema allows, if there is but one: then no model need be asked."
    def only(part):
        "The one value of a part; a KeyError or TypeError where there is a choice"
        if "$ref" in part: part = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
        if "const" in part: return part["const"]
        if len(part.get("enum", ())) == 1: return part["enum"][0]
        if "anyOf" in part: return only(*part["anyOf"])
        if set(part.get("required", ())) != set(part["properties"]): raise KeyError
        return {name: only(p) for name, p in part["properties"].items()}
    try: return json.dumps(only(schema), ensure_ascii=False)
    except (KeyError, TypeError): return ""

def _object(properties, required=None):
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

def _field(name, schema, action, heard, text):
    "The schema of one argument, made of what was heard; None where the request does not speak of it."
    table, required = action.name.split(".")[0], name in schema_of(action)["required"]
    if name == "id": return {"$ref": f"#/$defs/{table}"} if table in heard.linked else None
    if name == "set":
        text = edited(heard, table) or text
        fields = {p: _field(p, s, action, heard, text) for p, s in schema["properties"].items()
                  if s.get("type") != "boolean" and not (heard.place and p == "name")}
        named = [p for p in fields if p != "name" and says(p, heard.request) and fields[p]]
        fields = {p: fields[p] for p in named or fields}
        return {"anyOf": [_object({p: s}) for p, s in fields.items() if s]} if any(fields.values()) else None
    if name == "position": return {"enum": [heard.place[2] if heard.place else UNKNOWN]}
    if schema.get("format") == "date": return {"enum": [d[2] for d in heard.dates]} if heard.dates else None
    if name == "app" and "app" in heard.rows: return {"enum": heard.linked["app"].names or heard.rows["app"]}
    if "enum" in schema: return {"enum": schema["enum"]}
    if schema.get("type") in ("integer", "number"): return said_numbers(heard.request, schema["type"])
    if name in ("card", "step"): return text
    if name == "run" and table != "run": return None  # the open one
    if name == "key": return {"type": "string", "pattern": "^[a-z][a-z_]{1,24}$"}
    if len(quoted := list(_QUOTED.finditer(heard.request))) == 1 and not required and name != "name":
        rest = heard.request[:quoted[0].start()] + heard.request[quoted[0].end():]
        if says(name, rest): text = {"type": "string", "pattern": spans_of(rest)}
    main = required or name in ("name", "search") or says(name, heard.request)
    return text if schema.get("type") == "string" and main else None


_NOT = [re.compile(p, re.I) for p in (
    r"(?P<new>[\w'’-]+),?\s(?:and\s)?(?:not|instead\sof|rather\sthan)\s(?:\w+\s){0,2}?(?P<old>[\w'’-]+)",
    r"\bnot\s(?:\w+\s){0,2}?(?P<old>[\w'’-]+),?\sbut\s(?:(?:to|in|for|the|on|at)\s)*(?P<new>[\w'’-]+)",
    r"(?P<old>[\w'’-]+)\s(?:should\sbe|must\sbe|becomes)\s(?P<new>[\w'’-]+)",
    r"\b(?:change|replace|swap)\s(?P<old>[\w'’-]+)\s(?:to|with|by|for|into)\s(?P<new>[\w'’-]+)")]

def edited(heard: Heard, table: str) -> dict | None:
    "The new name where the request corrects one word of a row's (`Porto, not Lisbon`), as a schema."
    for name in heard.linked.get(table, Linked()).names[:1]:
        for m in (m for p in _NOT for m in p.finditer(heard.request)):
            old = next((w for w in _WORD.findall(name) if stem(w) == stem(m["old"])), None)
            if old and len(name.split()) > 2: return {"enum": [name.replace(old, m["new"])]}
    return None

def front(actions, pool) -> list[dict]:
    "The part of the conversation that stays: the manual and all examples, as chat turns."
    manual = ("You work an app for one person. "
              "You are given what they said, and below it what the app found in it: the page, rows, date, place.\n"
              "Answer with the one action they ask you to do now, as JSON. "
              "Questions, talk, wishes, negations, reports of others, and what no action can do: none.\nActions:\n")
    manual += "\n".join(f"{a.name}: {a.doc}" for a in actions)
    return [{"role": "system", "content": manual}] + [m for e in some(pool) for m in pair(e.turn, e.play)]


FRONT_EACH, FRONT_NONE = 1, 10

def some(pool):
    "A few examples of each action and of none, mixed, for the front."
    groups = defaultdict(list)
    for e in pool: groups[e.play["action"] + str(sorted(e.play["args"].get("set", ())))].append(e)
    picked = []
    for name, group in groups.items():
        n = FRONT_NONE if name.startswith("none") else FRONT_EACH
        picked += [(i / n, e) for i, e in enumerate(group[:: max(1, len(group) // n)][:n])]
    return [e for _, e in sorted(picked, key=lambda x: x[0])]

def pair(said, play):
    "One example as two chat turns."
    return [{"role": "user", "content": said}, {"role": "assistant", "content": json.dumps(play, ensure_ascii=False)}]

def play_messages(front_turns, nearest_examples, heard: Heard, before: list = ()) -> list[dict]:
    "The messages of one pass: the front, the nearest examples again, the plays of the line before, the request."
    again = [m for e in nearest_examples for m in pair(e.turn, e.play)]
    return [*front_turns, *again, *before, {"role": "user", "content": turn(heard)}]


# ---------------------------------------------------------------- before and after the model

_NEVER = re.compile(
    r"\b(don['’]?t|do not|never|not|no|leave|keep|without|shouldn['’]?t|mustn['’]?t|won['’]?t|if|whether|would|should"
    r"|told|said|says|asked|maybe|perhaps|might|wonder)\b", re.I)
_NEEDLESS = re.compile(r"\b(don['’]?t|no|not)\b.{0,12}\b(need|want|longer|any|care)", re.I)
_DOUBT = re.compile(
    r"\b(don['’]?t (?!forget|let)|do not (?!forget|let)|never|if|whether|told|said|says|asked|wants|maybe|perhaps|might"
    r"|wonder|wish|hope|almost|nearly)\b", re.I)
_REPORTED = re.compile(r"\b(?:he|she|they|my \w+|[A-Z]\w+) (?:says|said|told|asked|wants|thinks)\b")
_QUESTION = re.compile(
    r"^\W*(?:(?:and|but|so|ok|okay|hey|hi|um|also|well)\W+)*(how|what|why|who|whose|when|where|which"
    r"|is|are|was|were|am|does|did|has|have i|should|may|might|if|do (?:i|you|we|they)|can i|could i)\b"
    r"|^\W*(?:whats|hows|whos|wheres|whens)\b|^\W*(?:i )?(?:wish|wonder|hope)\b", re.I)

def is_question(request: str) -> bool:
    "Is it asked rather than told to do? (`Can you …` asks for a deed, `How do I …` does not.)"
    last = re.split(r"(?<=[.?!;])\s+(?=\w)", request.strip())[-1]
    late = r",\s*(how|what|who|when|where|which|why|is|are|does|did)\b|\b(in general|generally|ever)\b"
    return bool(_QUESTION.match(last)) or last.endswith("?") and bool(re.search(late, last, re.I))

def destroying(pool: list[Example], actions) -> set:
    "Stems said only where something is to be destroyed: what a deletion needs to be believed."
    dangerous = {a.name for a in actions if a.danger == "destroy"}
    said, other = set(), set(STOP)
    for e in pool:
        stems = {w for _, _, w in words_of(re.sub(r"[A-Z]{3,}", " ", e.shape))}
        if e.play["action"] in dangerous: said |= stems
        elif e.play["action"] != "none": other |= stems
    return said - other

def guard(play: dict, heard: Heard, action, destroy_words: set | None = None) -> tuple[str, str]:
    "`ok`; `ask` with the question to put; or `none`: what the request does not bear out is not played."
    args, table = play["args"], play["action"].split(".")[0]
    linked = heard.linked.get(table, Linked())
    which = f"Which one: {' or '.join(linked.names)}?"
    if args.get("id") == UNKNOWN: return "ask", f"Which {table} do you mean?"
    if UNKNOWN in args.values(): return "ask", "Where to?"
    if linked.unsure and args.get("id") in linked.names: return "ask", which
    reported = _REPORTED.search(heard.request)
    if reported and not action.name.endswith((".insert", ".set", ".toggle")): return "none", ""
    if action.danger == "destroy":
        stems = {w for _, _, w in words_of(heard.request)}
        kept = _NEVER.search(heard.request) and not _NEEDLESS.search(heard.request)
        if kept or is_question(heard.request): return "none", ""
        if destroy_words is not None and not stems & destroy_words: return "ask", f"Shall I delete {args.get('id')}?"
        if "id" in args and linked.names and args["id"] != linked.names[0]: return "ask", which
    return "ok", ""

def action_makes(play): return play["action"].endswith((".insert", ".update"))

def tidy(play: dict, heard: Heard, openings=frozenset()) -> dict | None:
    "The play with its texts in the person's own words: dates cut off, first letter large, places as numbers."
    args = dict(play["args"])
    new = args.get("set", args)
    for p, value in list(new.items()):
        if not isinstance(value, str) or p in ("id", "app", "key"): continue
        if p == "name" and action_makes(play): value = _named(value, heard, "due" in new, openings)
        new[p] = _THANKS.sub("", value).strip(" ,;:") or value
    if "position" in args: args["position"] = _position(args, heard, play["action"].split(".")[0])
    if args.get("set") == {"name": args.get("id")}: return None
    return {"action": play["action"], "args": args}


_BEFORE = re.compile(r"""^(?:(?:and|also|then|plus|n|ok|okay|oh|please|pls|called|named|gotta|must
    |(?:i|we)\s(?:really\s)?(?:must|gotta)|(?:(?:i|we)\s)?(?:really\s)?(?:need|have|want|ought)\sto)\s+)+(?=\w)
    """, re.I | re.X)
_THANKS = re.compile(r"[\s,]+(?:by the way|btw|please|thanks|thank you)\W*$", re.I)
_AFTER = re.compile(r"\s*[,;.-]\s*(?:\w+\s)?\w+\s(?:it|that|them)\s(?:on|onto|in|down|to|there)\b.*$", re.I)

def _named(value, heard, dated, openings):
    for a, b, _ in heard.dates if dated else ():
        said = heard.request[a:b]
        last = said.split()[-1]
        at = value.find(last)
        if said in value: value = value.replace(said, "")
        elif at > 0 and value.endswith(last): value = re.sub(r"\s+(due|by|on|for|until)?\s*$", "", value[:at])
    at = heard.request.find(value)
    verb = re.search(r"([\w’']+)\s+(?:(?:the|a|an|my|some)\s+)?$", heard.request[:at]) if at > 0 else None
    own = verb and stem(verb[1]) in TODO_STEMS - openings and verb[1].lower() not in _FUNCTION
    if own: value = heard.request[verb.start():at] + value
    value = _BEFORE.sub("", _AFTER.sub("", value))
    value = re.sub(r"[\s,;:.!?]+$|^[\s,;:]+|[,\s]+please\W*$|\s+(due|by|on|as well|too|2)$", "", value).strip() or value
    return value[:1].upper() + value[1:]

def _position(args, heard, table):
    names, place = [n for n in heard.rows.get(table, ()) if n != args.get("id")], args["position"]
    at = heard.rows[table].index(args["id"]) + 1 if args.get("id") in heard.rows.get(table, ()) else 1
    word, _, rest = str(place).partition(" ")
    if word == "top": return 1
    if word == "bottom": return len(names) + 1
    if word in ("up", "down"): return max(1, at + int(rest) * (1 if word == "down" else -1))
    if word in ("above", "below"):
        other = link(rest, names).names
        return names.index(other[0]) + 1 + (word == "below") if other else UNKNOWN
    return place


_JOINS = re.compile(
    r"\s*(?:[,;]|\.(?=\s))?\s*\b(?:and then|and also|and|then|after that|plus|n)\b\s*|\s*[;.]\s+|,\s+|\s+&\s+", re.I)

def openings(pool: list[Example]) -> set:
    "How requests to do something begin, one word or two: where a second request may start."
    out = set()
    for e in pool:
        words = [w for _, _, w in words_of(re.sub("ROW|PLACE|DATE", "the", e.shape))] + ["the"]
        if e.play["action"] == "none" or words[0] in STOP | {"cal", "mak", "actual", "don", "let", "oh", "ok"}: continue
        out.add(words[0] if words[1] in STOP else f"{words[0]} {words[1]}")
    return out

def splits(request: str, starts: set, rows: dict | None = None, leans=lambda first, rest: False) -> list[str]:
    """The requests that one line joins, in order: cut before words that begin a request, with something of its own to
    do it to, or, where it `leans`, with a pronoun for what the one before was about."""
    nouns = {stem(t) for t in rows or ()} | {"list"}
    quoted = [m.span() for m in _QUOTED.finditer(request)]
    parts, at = [], 0
    for m in _JOINS.finditer(request):
        if any(a < m.start() < b for a, b in quoted) or not request[at:m.start()].strip(): continue
        rest = re.sub(r"^(?:(?:also|please|then|can you|could you|now|just)\s+)+", "", request[m.end():], flags=re.I)
        words = [w for _, _, w in words_of(rest)]
        own = [w for w in words[1:] if w not in STOP | nouns]
        begins = words and (words[0] in starts or " ".join(words[:2]) in starts)
        if begins and len(words_of(request[at:m.start()])) > 1 and (own or leans(request[at:m.start()], rest)):
            parts.append(request[at:m.start()])
            at = m.end()
    parts = [p.strip() for p in [*parts, request[at:]] if p.strip()]
    return [q for p in parts for q in _shared(p, rows or {})][:PASSES]

def _shared(part, rows):
    "`tick off the rent and the dentist` is two: the second shares the first one's verb."
    left, joined, right = part.rpartition(" and ")
    for table, names in rows.items() if joined else ():
        if table == "app": continue
        one, two = link(left, names, (stem(table),)), link(right, names, (stem(table),))
        if not one.names or not two.names or one.names[0] == two.names[0]: continue
        if all(w in STOP or any(a <= x < b for a, b in two.spans) for x, _, w in words_of(right)):
            verb = re.sub(r"(?:\b(?:the|my|a|an)\s+)?$", "", left[:one.spans[0][0]], flags=re.I)
            if verb.strip(): return [*_shared(left, rows), verb + right]
    return [part]


@dataclass
class Memory:
    "What the next line may refer to: the row last spoken of ({table: name}) and the last pass as chat turns."
    row: dict = field(default_factory=dict)
    turns: list = field(default_factory=list)


class Player:
    "What stays while the keyboard stays: the examples, their index, the front; and the passes of a turn."

    def __init__(self, actions: list, samples: dict = SAMPLES, pages: dict | None = None, standing: list | None = None):
        self.actions, self.pool = actions, examples(actions, samples, pages)
        told = actions if standing is None else standing  # what the front tells of; the others come with their page
        names = {a.name for a in told} | {"none"}
        self.near, self.front = Nearness(self.pool), front(told, [e for e in self.pool if e.play["action"] in names])
        self.starts, self.destroy = openings(self.pool), destroying(self.pool, actions)

    async def plays(self, complete, request: str, look, memory: Memory):
        """Yields the plays of one line in order, then, if need be, one question to the person (a string).

        `complete(messages, schema)` is awaited for the model's words; `look()` answers (page, offered actions, rows
        {table: names in order}), anew for each pass, so that each sees what the one before did.
        """
        questions = []
        for part in splits(request, self.starts, look()[2], self.leans):
            page, offered, rows = look()
            heard = hear(part, rows, page, memory.row)
            play = await self.one(complete, heard, offered, memory.turns if refers(part) else ())
            if isinstance(play, str): questions.append(play)
            elif play: yield play
            self.remember(memory, heard, play if isinstance(play, dict) else None)
        if questions: yield " ".join(dict.fromkeys(questions))

    def leans(self, first: str, rest: str) -> bool:
        "Does `rest` tell what else to do with what `first`, a request of its own, was about (`switch to it`)?"
        words = words_of(first)
        if not _PRONOUN.search(rest) or not words or words[0][2] not in self.starts | {"new"}: return False
        (near, one), (close, two) = self.best(first), self.best(rest)
        return min(near, close) >= SURE and one["action"] not in ("none", two["action"]) and "id" in two["args"]

    def best(self, said: str) -> tuple[float, dict]:
        "The example nearest to what is said, as (nearness, play)"
        scores = self.near.scores(said)
        at = max(range(len(scores)), key=scores.__getitem__)
        return scores[at], self.near.pool[at].play

    async def one(self, complete, heard: Heard, offered, before=()):
        "One pass: a play, a question to put to the person (a string), or None."
        if is_question(heard.request): return None
        options, close, sole = self.likely(heard, offered)
        if not options: return None
        schema = play_schema(options, heard, self.starts)
        if sole: del schema["anyOf"][0]
        reply = only_answer(schema) or await complete(
            play_messages(self.front, close[:1] if sole else close[:NEAREST][::-1], heard, before), schema)
        try: play = json.loads(reply)
        except ValueError: return None
        self.raw = play
        action = next((a for a in options if a.name == play.get("action")), None)
        if not action or not isinstance(play.get("args"), dict): return None
        sure = sum(e.play["action"] == action.name for e in close[:3]) >= 2
        verdict, question = guard(play, heard, action, None if sure else self.destroy)
        return tidy(play, heard, self.starts) if verdict == "ok" else question or None

    def likely(self, heard: Heard, offered):
        "The actions that come into question, the nearest examples, and whether the phrase is known well enough."
        close = ranked(heard, self.near, relevant(offered, heard))
        best = {}
        for score, e in close: best.setdefault(e.play["action"], score)
        top = max(best, key=best.get, default="none")
        sole = top != "none" and best[top] >= SURE and not _DOUBT.search(heard.request)
        options = [a for a in offered if (a.name == top if sole else best.get(a.name, 0) >= POSSIBLE * best[top])]
        return options, [e for _, e in close[:LIKELY]], sole

    def remember(self, memory: Memory, heard: Heard, play: dict | None):
        "Keeps what the next line may call `it`."
        named = next((t for t, l in heard.linked.items() if l.names and t != "app"), "")
        table, args = (play["action"].split(".")[0], play["args"]) if play else (named, {})
        likely = next(iter(heard.linked.get(table, Linked()).names), "")
        name = args.get("set", args).get("name") or args.get("id") or likely
        if table in heard.rows and name: memory.row = {table: name}
        memory.turns = pair(turn(heard), play or NONE)

def refers(request: str) -> bool:
    "Does a short line lean on the one before (`and bread too`, `move it up`)?"
    if re.match(r"^\W*(and|also|actually|then|no)\b", request, re.I): return True
    return bool(_PRONOUN.search(request)) and len(request.split()) < 9


def in_words(row: dict) -> dict:
    "A message as words, for models so small that they would echo JSON"
    meta = json.loads(row["meta"])
    if row["kind"] != "event": return row | {"content": meta.get("shown", row["content"]), "meta": "{}"}
    event = json.loads(row["content"])
    who = {"model": "you", "user": "the person"}.get(event["by"], f"another program ({event['by']})")
    came = f"waits {event['waiting']}" if "waiting" in event else f"failed: {event.get('error', '')}"
    if event["ok"]: came = "done"
    found = event["result"].get("rows") if isinstance(event.get("result"), dict) else None
    if found is not None: came = f"{len(found)} found: {', '.join(map(str, found)) or 'none'}"
    return row | {"content": f"- {who}: {play_label(event['action'], event['args'], event.get('result'))}: {came}"}


class Phrases(App):
    "What you can say to the assistant, by app. Small models learn the actions from these phrases; press one to try it."

    menu = False

    def start(self):
        "Guide small models from here on"
        self.player, self.known, self.memory = None, (), Memory()
        here().chat.ways["guided"], here().models.read_front = self.play_guided, self.warm

    def ready(self) -> Player:
        "The player for the keyboard as it is now"
        keys = self.offered("")
        known = tuple(k.name for k in keys)
        if known != self.known:
            tables = here().tables
            samples = {t: [_sample(s) for s in a.samples] for t, a in tables.items() if a.samples}
            pages, standing = {t: a.name for t, a in tables.items()}, [k for k in keys if not self.of_workflow(k)]
            self.player, self.known = Player(keys, samples, pages, standing), known
        return self.player

    async def warm(self, model) -> None:
        "Read the front once, so that the first request of a guided model is quick"
        if model.way != "guided": return
        player = await asyncio.to_thread(self.ready)
        await model.complete([*player.front, {"role": "user", "content": "hello\n{}"}], {"type": "object"})

    async def play_guided(self, turn, model) -> None:
        "First a constrained pass that chooses an action or none, then words"
        chat = here().chat
        reply = await chat.begin_reply(turn)
        if turn.kind == "line":
            if not await self._choose(turn, model, reply): return
            if turn.played:
                await chat.end_reply()
                reply = await chat.begin_reply(turn)
            if any("approval" in p for p in turn.played):
                return reply.write("I may not do that by myself: press Allow or Deny.")
        await self._talk(turn, model, reply)

    async def _choose(self, turn, model, reply) -> bool:
        "Play what the line asks for; False when the person was asked a question instead"
        chat = here().chat
        context = await chat.context(turn, model, in_words)
        app = chat.tabs.get(turn.tab).view.app if turn.tab else ""
        async with contextlib.aclosing(self.plays(model, turn, app)) as plays:
            async for play in plays:
                if isinstance(play, str):
                    reply.write(play)
                    return False
                reply.meant(to_json(play) + "\n")
                await chat.play(turn, reply, play["action"], play["args"], context.outside)
        return True

    async def _talk(self, turn, model, reply) -> None:
        "Words only"
        messages = (await here().chat.context(turn, model, in_words)).messages
        if turn.played:  # so small a model speaks of nothing else when it is told nothing else
            came = "\n".join(f"- {play_label(p['name'], p['args'], p.get('result'))}: "
                             + ("done" if p["ok"] else f"failed: {p['error']}") for p in turn.played)
            messages = [messages[0], {"role": "user", "content": f"I said: {turn.text}\n\n{ANSWERED}{came}"}]
        async with contextlib.aclosing(model.stream(messages, options=model.talk)) as chunks:
            async for chunk in chunks:
                reply.write(chunk.text)
                await here().chat.took(reply, chunk)

    async def plays(self, model, turn, app: str):
        "The actions a line asks for, one after another, as they are decided; a text is a question to put to the person"
        player = await asyncio.to_thread(self.ready)
        rows = await asyncio.to_thread(self.names)
        def look(): return app, self.offered(app), self.names() or rows
        async for play in player.plays(model.complete, turn.text, look, self.memory): yield play

    def names(self) -> dict[str, list[str]]:
        "The names of all rows in their order, and of the apps"
        apps = [*here().apps, *(a.title for a in here().apps.values())]  # either may be said
        return {t: a.names() for t, a in here().tables.items()} | {"app": apps}

    def offered(self, app: str) -> list:
        "The open app's actions (without one, all tables'), the general ones, and what makes or chooses rows elsewhere"
        keys = [k for k in here().chat.piano.offered(app) if not k.name.endswith((".read", ".get"))]
        open_apps = (app, "app", "pianola") if app else ("app", "pianola", *(a.name for a in here().tables.values()))
        keys = [k for k in keys if k.app in open_apps or k.name.endswith((".insert", ".select")) or k.says]
        if not app: return keys
        flow = isinstance(here().apps.get(app), Workflow)
        return [k for k in keys if not self.of_workflow(k) or k.app == app or flow and k.name.startswith(ENGINE)]

    def of_workflow(self, key) -> bool:
        "Is it a step, a list on a card, or an action on runs, cards and jobs: only where a workflow is open?"
        return key.name.startswith(ENGINE) or isinstance(here().apps.get(key.app), Workflow)

    def page(self, view):
        "Phrases by what they do, each a button"
        groups, docs = {}, {k.name: k.doc for k in here().keyboard.actions.values()}
        general = [k.name for k in here().keyboard.actions.values() if k.app in ("app", "pianola")]
        for e in self.ready().pool:
            if e.play["action"] in general: groups.setdefault(e.play["action"], []).append(e.said)
        cards = [self._card(docs[name], phrases[:5]) for name, phrases in groups.items()]
        for table, crud in here().tables.items():
            names = crud.names()
            if names: cards.insert(0, self._card(f"{crud.title} you have", self._about(table, names[0])))
        return PageHead(self.title, self.__doc__), *cards

    def _about(self, table: str, name: str) -> list[str]:
        verbs = {k.name.partition(".")[2] for k in here().keyboard.actions.values() if k.name.startswith(f"{table}.")}
        said = {"toggle": f"tick off {name}", "sort": f"move {name} to the bottom", "select": f"switch to {name}",
                "list": f"search for {name}"}
        return [text for verb, text in said.items() if verb in verbs]

    def _card(self, title: str, phrases: list[str]):
        return Article(P(Strong(title)), Div(*map(self._try, phrases), cls="try"), cls="card")

    def _try(self, said: str):
        return ActionButton(f"“{said}”", "phrases.say", cls="outline", pane="right", text=said)

    @action(undo=False, danger="person", heard=False)
    async def say(self, text: str):
        "Say a phrase to the assistant"
        await here().chat.hear(text, calling.get().tab)

def _sample(sample) -> tuple[str, str, str]:
    "A row's name, how people speak of it, and how they say that it is done"
    return (sample, sample.lower(), sample.lower()) if isinstance(sample, str) else (*sample, sample[-1])[:3]
