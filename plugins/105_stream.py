"""Stream Simulator: a long task, to watch progress and the assistant beside it."""
import random
import time

from server import Workflow, step

EXAMPLE = [("stream.first", {"chunks": 5, "shortest": 0.01, "longest": 0.02}), ("stream.second", {"chunks": 3, "shortest": 0.01, "longest": 0.02})]


def stream(progress, chunks: int, shortest: float, longest: float, fail_at: int) -> dict:
    "Wait for `chunks` chunks, each between `shortest` and `longest` seconds; goes on from its checkpoint"
    began = time.monotonic()
    for chunk in range(progress.checkpoint() or 0, chunks):
        if progress.cancelled: break
        time.sleep(random.uniform(shortest, max(shortest, longest)))
        if chunk + 1 == fail_at: raise RuntimeError(f"Chunk {fail_at} failed, as you wished.")
        progress.checkpoint(chunk + 1)
        progress(chunk + 1, chunks, f"chunk {chunk + 1} of {chunks}")
    return {"chunks": chunks, "seconds": round(time.monotonic() - began, 1)}


class Stream(Workflow):
    "Two long tasks that do not disturb each other. One press starts the job, locks the button and tells the assistant, who comments."

    limit = 2

    @step("First simulator", say="Congratulate the person on it in one short sentence.")
    def first(self, progress, chunks: int = 40, shortest: float = 0.05, longest: float = 0.4, fail_at: int = 0):
        "A chunk takes between the shortest and the longest delay, in seconds; with `fail at` the job fails there"
        return stream(progress, chunks, shortest, longest, fail_at)

    @step("Second simulator", say="Congratulate the person on it in one short sentence.")
    def second(self, progress, chunks: int = 40, shortest: float = 0.05, longest: float = 0.4, fail_at: int = 0):
        "The same beside it"
        return stream(progress, chunks, shortest, longest, fail_at)
