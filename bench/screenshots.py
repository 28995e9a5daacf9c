"""The README's pictures, from the app with the embedded model: docs/tasks.png, docs/strip.png, one of each workflow."""
import base64
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from browser import FLAGS  # noqa: E402  (after the path)
from conftest import in_thread  # noqa: E402
from test_plugins import FILES, NAMES, example_of, with_files  # noqa: E402

TASKS = ("Book flights to Lisbon", "Call the dentist", "Pay the rent", "Water the plants", "Write the quarterly report")
DEBIAN, SIZE = Path("/usr/bin/chromium"), {"width": 1280, "height": 760}


def say(page, text: str) -> None:
    "Say something in the chat and wait until the reply has ended"
    page.fill("#msg", text)
    page.keyboard.press("Enter")
    expect(page.locator(".msg[data-role=user]").last).to_contain_text(text)
    expect(page.locator("#stop")).to_be_visible(timeout=60_000)
    expect(page.locator("#stop")).to_be_hidden(timeout=180_000)


def strip(browser, pictures: list[bytes], words: list[str], file: Path) -> None:
    "Pictures side by side with a line under each, as one picture"
    data = [base64.b64encode(p).decode() for p in pictures]
    cells = "".join(f"<figure><img src='data:image/png;base64,{d}'><figcaption>{w}</figcaption></figure>"
                    for d, w in zip(data, words))
    style = ("body{margin:0;display:flex;gap:12px;padding:12px;background:#f4f4f0;font:15px system-ui}"
             "figure{margin:0;flex:1}"
             "img{width:100%;border:1px solid #ccc;border-radius:6px}figcaption{padding:6px 2px}")
    page = browser.new_page(viewport={"width": 1500, "height": 360})
    page.set_content(f"<style>{style}</style>{cells}")
    page.screenshot(path=file, full_page=True)


def gallery(live, page) -> None:
    "Each workflow after its EXAMPLE, and a job at work"
    page.set_viewport_size({"width": 1280, "height": 1000})
    for file in FILES:
        if NAMES[file] not in ("hello", "competitors", "csv_studio"): continue
        live.do("chat.clear")
        for action, args in example_of(file): assert live.do(action, **with_files(live, file, args))["ok"], action
        page.goto(f"{live.url}/app/{NAMES[file]}")
        page.wait_for_timeout(800)
        page.screenshot(path=ROOT / "docs" / f"{NAMES[file]}.png")
    page.goto(f"{live.url}/app/stream")
    for step in ("first", "second"): page.locator(f"#step-stream-{step} button[type=submit]").click()
    page.wait_for_timeout(4000)
    page.screenshot(path=ROOT / "docs" / "stream.png")


def main() -> None:
    "Take them all"
    models = Path("~/.cache/pianola/models").expanduser()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=DEBIAN if DEBIAN.exists() else None, args=FLAGS)
        with in_thread(Path(folder) / "data", models=models, model="embedded/qwen2.5-coder-0.5b", warm=True) as live:
            for name in TASKS: live.do("task.insert", name=name)
            live.do("chat.clear")
            page = browser.new_page(viewport=SIZE)
            page.goto(f"{live.url}/app/tasks")
            page.fill("#task-new-name", "Renew the passport")
            page.keyboard.press("Enter")
            page.fill("#msg", "tick off the dentist one")
            pictures = [page.screenshot()]
            page.fill("#msg", "")
            say(page, "tick off the dentist one")
            pictures.append(page.screenshot())
            say(page, "delete the rent")
            page.screenshot(path=ROOT / "docs" / "tasks.png")
            pictures.append(page.screenshot())
            gallery(live, page)
            words = ["You ask.", "It plays, with Undo beside it.", "Before deleting it asks."]
            strip(browser, pictures, words, ROOT / "docs" / "strip.png")
        browser.close()


if __name__ == "__main__": main()
