"""Title Check: whether the titles of your pages are short enough, and each one its own."""
import pandas as pd

from server import PianolaError, Workflow, step

EXAMPLE = [("titles.check", {"lines": ["/a Blue pens", "/b Blue pens", "/c Every blue pen there is"], "longest": 20}),
           ("titles.summary", {})]


class Titles(Workflow):
    "Paste addresses and titles, see what is too long, too short or there twice, and let the model shorten them."

    @step("Check")
    def check(self, lines: list[str], shortest: int = 10, longest: int = 60):
        "One page a line: its address, a blank, its title. Lengths are in characters"
        pages = pd.DataFrame([line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2],
                             columns=["address", "title"])
        if pages.empty: raise PianolaError("No line has an address and a title.", "Write `/address The title`.")
        pages["length"] = pages["title"].str.len()
        twice = pages["title"].str.casefold().duplicated(keep=False)
        pages["problem"] = ""
        pages.loc[twice, "problem"] = "there twice"
        pages.loc[pages["length"] < shortest, "problem"] = "too short"
        pages.loc[pages["length"] > longest, "problem"] = "too long"
        return pages

    @step("Summary")
    def summary(self, check):
        "How many of each problem"
        return check["problem"].replace("", "fine").value_counts().rename_axis("problem").reset_index(name="pages")

    @step("Shorten", say="Tell the person in one short sentence that new titles are there to be read over.")
    def shorten(self, check, llm, progress, longest: int = 60):
        "The model writes a title for each that is too long; read them before you use them"
        rows = check[check["problem"] == "too long"].to_dict("records")
        for at, row in enumerate(rows, 1):
            wish = f"A page title of at most {longest} characters, no quotes, for: {row['title']}"
            row["new title"] = llm(wish).strip(' "')
            progress(at, len(rows), row["address"])
        return pd.DataFrame(rows, columns=["address", "title", "new title"])
