"""How close the chat's stream is to a bare socket: 2,000 words from a model that speaks at once, and one word alone.

    python bench/streaming.py

Prints milliseconds and the ratio of Pianola (keyboard, conversation, database, page fragments) to a Starlette socket
that sends the same words, one frame each; both in this process, read by the same client.
"""
import asyncio
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from conftest import free_port, in_thread, server  # noqa: E402  (after the path)

WORDS, ROUNDS, GAP = 2_000, 5, 0.02


class Speaker(server.Provider):
    "A model that says `WORDS` words at once, or one after a pause"
    name = "speaker"

    async def models(self): return [server.ModelInfo("quick", self.name, 1, 8, 8192)]

    async def stream(self, model, messages, *, tools=None, schema=None, options=None):
        if messages[-1]["content"].endswith("one"):
            await asyncio.sleep(GAP)
            yield server.Chunk(f"@{time.perf_counter()}@ ")
        else:
            for n in range(WORDS): yield server.Chunk(f"word{n} ")
        yield server.Chunk(usage=server.Usage())


async def bare(socket) -> None:
    "The same words without anything around them"
    await socket.accept()
    async for text in socket.iter_text():
        if text == "one":
            await asyncio.sleep(GAP)
            await socket.send_text(f"@{time.perf_counter()}@ ")
        else:
            for n in range(WORDS): await socket.send_text(f"word{n} ")


async def measure(url: str, say, drain: float) -> tuple[float, float]:
    "Milliseconds until all words are there, and from the model's word to the client; medians"
    wholes, firsts = [], []
    async with websockets.connect(url, max_size=None) as ws:
        await asyncio.sleep(drain)
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await ws.send(say("all"))
            while f"word{WORDS - 1} " not in await ws.recv(): pass
            wholes.append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(drain)
            await ws.send(say("one"))
            while "@" not in (text := await ws.recv()): pass
            firsts.append(1000 * (time.perf_counter() - float(text.split("@")[1])))
            await asyncio.sleep(drain)
    return statistics.median(wholes), statistics.median(firsts)


def main() -> None:
    "Measure both and print the table"
    port = free_port()
    runner = uvicorn.Server(uvicorn.Config(Starlette(routes=[WebSocketRoute("/ws", bare)]), port=port, log_level="error"))
    threading.Thread(target=runner.run, daemon=True).start()
    time.sleep(1)
    plain = asyncio.run(measure(f"ws://127.0.0.1:{port}/ws", lambda text: text, 0.1))
    with tempfile.TemporaryDirectory() as folder, in_thread(Path(folder) / "data") as live:
        models = live.pianola.models
        models.providers["speaker"], models.current = Speaker(), "speaker/quick"
        models.found = asyncio.run(Speaker().models())
        ours = asyncio.run(measure(f"{live.url.replace('http', 'ws')}/ws?tab=a", lambda text: f'{{"msg": "{text}"}}', 1.0))
    for what, a, b in (("all 2,000 words", plain[0], ours[0]), ("one word, from the model to the client", plain[1], ours[1])):
        print(f"{what:40} bare {a:8.2f} ms   Pianola {b:8.2f} ms   ratio {b / a:.1f}")


if __name__ == "__main__": main()
