"""Remote models: any server that speaks OpenAI's language."""
import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from pydantic import SecretStr

from server import (
    App, DataTable, ModelError, ModelInfo, Options, P, PageHead, Provider, chosen, here, is_local_address, one_line,
    paced, silent, too_long)

PLAIN = Options()
wire = sys.modules.get("pianola_plugins.models")  # NOTE: OpenAI's language is spoken there, to llama.cpp


class Remote(App):
    "vLLM, LM Studio, a llama.cpp server, a cloud: set OPENAI_BASE_URL and OPENAI_API_KEY. Without this file nothing can leave the machine."

    menu = False

    def start(self):
        "Offer the provider when the environment names one"
        settings = here().settings
        if wire and (settings.openai_base_url or settings.openai_api_key):
            here().models.providers["openai"] = OpenAIProvider(settings.openai_base_url, settings.openai_api_key)

    def page(self, view):
        "Where it is, whether that is this machine, and what it would hear"
        provider = here().models.providers.get("openai")
        if not provider:
            return PageHead(self.title, self.__doc__), P("None is set: nothing leaves this machine.", cls="empty")
        rows = [("Address", provider.host), ("On this machine", "yes" if provider.local
                                             else "no: each conversation asks you once before anything is sent"),
                ("Hears what you do", "yes" if provider.local or chosen["remote_events"] else "no (see Settings)")]
        return PageHead(self.title, self.__doc__), DataTable(("What", "How it is"), rows, "Remote models")


class OpenAIProvider(Provider):
    "Any server that speaks OpenAI's language, through the official client. The key is shown nowhere"
    name = "openai"

    def __init__(self, base_url: str | None = None, api_key: str | None = None):
        self.base_url = base_url or os.getenv("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self.local = is_local_address(self.base_url)
        self._key = SecretStr(api_key or os.getenv("OPENAI_API_KEY") or "none")
        self._made = None

    @property
    def client(self):
        if self._made is None:
            import openai       # late: half a second
            # NOTE: no retries: nothing is sent twice unasked
            self._made = openai.AsyncOpenAI(
                base_url=self.base_url, api_key=self._key.get_secret_value(), max_retries=0, timeout=None,
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not self.local, follow_redirects=False))
        return self._made

    async def models(self) -> list[ModelInfo]:
        with self._errors("a model"):
            async with asyncio.timeout(10):
                found = (await self.client.models.list()).data
        able = frozenset({"completion", "tools", "schema"})
        return [ModelInfo(m.id, self.name, 0, 0, (m.model_extra or {}).get("max_model_len") or 0, able, self.local)
                for m in found]

    async def stream(self, model, messages, *, tools=None, schema=None, options=PLAIN):
        started = time.monotonic()
        body = wire.openai_body(model, messages, tools, schema, options)
        if "api.openai.com" in self.base_url and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")      # its newer models refuse the old name
        with self._errors(model):
            async with contextlib.aclosing(paced(self._parts(body), self.first, self.between)) as parts:
                async for chunk in wire.openai_chunks(parts, started):
                    yield chunk

    async def _parts(self, body: dict) -> AsyncIterator[dict]:
        async with await self.client.chat.completions.create(**body) as parts:
            async for part in parts:
                yield part.model_dump(exclude_unset=True)

    async def close(self):
        if self._made: await self._made.close()

    @contextlib.contextmanager
    def _errors(self, model: str):
        import openai       # late: half a second
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError):      # their text may hold half the key
            raise ModelError(f"The server at {self.host} refused the key.", "Check OPENAI_API_KEY.") from None
        except openai.NotFoundError:
            raise ModelError(f"The server at {self.host} has no model {model}.", "Choose another model.") from None
        except openai.APIStatusError as e:
            raise self._status_error(e, model) from None
        except TimeoutError as e:
            raise silent(model, e) from None
        except openai.APIConnectionError:
            raise ModelError(f"No answer, or half of one, from {self.host}.",
                             "Check OPENAI_BASE_URL and that the server runs.") from None
        except (openai.OpenAIError, ValueError) as e:
            raise ModelError(f"The server at {self.host} broke off: {self._clean(e)}", "Ask again.") from None

    def _status_error(self, e, model: str) -> ModelError:
        said = self._clean(e)
        if e.status_code == 400 and re.search(r"context.{0,20}(length|size|window)|too long", said):
            return too_long(model)
        return ModelError(f"The server at {self.host} says ({e.status_code}): {said}", "Ask again, or choose another.")

    def _clean(self, e) -> str:
        body = getattr(e, "body", None)
        said = body.get("message") if isinstance(body, dict) else body
        return one_line(said or getattr(e, "message", "") or e).replace(self._key.get_secret_value(), "***")

    @property
    def host(self) -> str:
        "The address without a name or password in it"
        return urlsplit(self.base_url).netloc.rpartition("@")[2]
