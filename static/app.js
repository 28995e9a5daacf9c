// Only what HTML over the wire cannot do by itself. In <head>, without defer: the split stands before the first paint.
(() => {"use strict";
const root = document.documentElement;
let shown, step, away, telling, grip, mark = "", recalled = 0, running = 0, following = true, top = 0, fromEnd = 0, changes = [];
const $ = (id) => document.getElementById(id), all = (selector) => [...document.querySelectorAll(selector)];
const on = (type, fn, capture) => document.addEventListener(type, fn, capture);
const when = (type, selector, fn) => on(type, (e) => { const at = e.target.closest?.(selector); if (at) fn(at, e); });
function act(name, values = {}, source = document.body) {
    source.setAttribute("hx-sync", "queue last");   // of several quick presses the last one counts
    return htmx.ajax("POST", `/do/${name}`, {values, source, swap: "none"});
}
// ---- The split: dragged, moved by arrow keys, reset by Enter or a double click, remembered.
function setSplit(px) {
    if (px !== undefined) localStorage.setItem("pianola-split", px && Math.round(px));
    root.style.setProperty("--split", `${localStorage.getItem("pianola-split") || 420}px`);
    if ($("split")) $("split").ariaValueNow = Math.round(100 * $("grid-right").offsetWidth / innerWidth);
}
setSplit();
when("pointerdown", "#split", (split, e) => split.setPointerCapture(e.pointerId));
when("pointermove", "#split", (split, e) => split.hasPointerCapture(e.pointerId) && setSplit(innerWidth - e.clientX));
when("dblclick", "#split", () => setSplit(""));
const splitKeys = {ArrowLeft: (px) => px + 24, ArrowRight: (px) => px - 24, Enter: () => ""};
when("keydown", "#split", (split, {key}) => setSplit(splitKeys[key]?.($("grid-right").offsetWidth)));
// ---- The look: auto, light, dark, matrix. The server says in #theme's data-value what was chosen, here or elsewhere.
const look = () => root.dataset.look || root.dataset.theme || "auto";
function setLook(name) {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name === "light" ? "light" : "dark";
    if (name === "matrix") root.dataset.look = name; else delete root.dataset.look;
    const textContent = {auto: "◐", light: "☀\uFE0E", dark: "☾", matrix: "▦"}[name], title = `Theme: ${name}`;
    Object.assign($("theme"), {textContent, title, ariaLabel: title});
}
when("click", "#theme", (button) => {
    setLook({auto: "light", light: "dark", dark: "matrix", matrix: "auto"}[look()]);
    act("settings.set", {key: "theme", value: look()}, button);
});
// ---- One column: which pane is seen. Whatever has data-pane="left" or "right" shows that pane when pressed.
function showPane(name) {
    root.dataset.pane = name;
    all("#panes button").forEach((b) => { b.ariaPressed = b.dataset.pane === name; delete b.dataset.news; });
}
when("click", "body [data-pane]", (at) => showPane(at.dataset.pane));
// ---- Where we are: #grid-left names its app, address and title; a mark says that something ended in a hidden tab.
function showTitle() { document.title = `${mark}${$("grid-left").dataset.title} · ${all(".brand")[0].textContent}`; }
function arrive() {
    const left = $("grid-left"), {url, app} = left.dataset, moved = shown && url !== shown;
    if (!shown) history.replaceState({app, url}, "");
    if (moved) { history.pushState({app, url}, "", url); left.scrollTop = 0; }
    if (moved && document.activeElement === document.body) left.focus({preventScroll: true});
    const next = all(".step[data-next]")[0]?.id || "", free = !$("grid-right").contains(document.activeElement);
    const fresh = next && step !== undefined && !moved && next !== step && $(next);
    if (fresh) { fresh.scrollIntoView({block: "nearest"}); if (free) fresh.focus({preventScroll: true}); }
    const busy = all(".step[data-state=running]").length;
    if (document.hidden && busy < running) mark = "● ";   // a job has ended
    shown = url; step = next; running = busy; showTitle();
}
addEventListener("popstate", ({state}) => { if (state) { shown = state.url; act("app.open", {app: state.app}); } });
addEventListener("pageshow", (e) => e.persisted && location.reload()); on("visibilitychange", () => { mark = ""; showTitle(); });
// ---- Requests: each says which tab it is; `act`, plain buttons and ticks send their own values alone.
on("htmx-config-request", ({detail: {ctx}}) => {
    ctx.request.headers["X-Tab"] = document.body.dataset.tab;
    if (ctx.request.action.endsWith("/do/app.open")) showPane("left");
    if (!ctx.values && !ctx.sourceElement.matches("form button[type=button], .row [type=checkbox]")) return;
    ctx.request.body = new FormData();
    for (const [key, value] of Object.entries({...ctx.vals, ...ctx.values})) ctx.request.body.set(key, value);
});
on("htmx-after-request", ({detail: {ctx: {response, sourceElement: elt}}}) => {
    if (response.status >= 400 && elt.matches("input.cell")) elt.value = elt.defaultValue;
    if (response.status >= 400) return refused(elt);
    if (elt.matches("form")) elt.querySelectorAll(".error").forEach((small) => { small.textContent = ""; });
    if (elt.matches("[data-reset]")) { elt.reset(); elt.querySelector("input, select, textarea")?.focus(); }
});
function refused(elt) {   // the page shows what the server holds again
    if (elt.matches?.("[type=checkbox]")) elt.checked = elt.defaultChecked;
    if (elt.matches?.(".handle")) act("app.open", {app: $("grid-left").dataset.app});
}
on("htmx-error", ({target}) => refused(target));
// ---- Swaps: a morph keeps what a person holds (open menus, half-typed text, styles set here); ticks follow the server
htmx.config.defaultSettleDelay = 0;   // settling copies style attributes over, which our policy forbids
htmx.registerExtension("pianola", {
    htmx_before_morph_attr: (elt, {attrName: a}) => a !== "style" && !(a === "open" && elt.matches(".menu, .events")),
    htmx_before_morph_node(old, {newNode}) {
        if (old.matches("[type=checkbox], [type=radio]")) old.checked = newNode.checked;
        else if (old.matches("option")) old.selected = newNode.selected;
        else if (untouched(old)) old.value = newNode.value;
    },
});
on("htmx-after-settle", ({target}) => {
    if (target.id === "grid-left") arrive();
    if (/^(nav|theme)$/.test(target.id) && $("theme").dataset.value) setLook($("theme").dataset.value);
    if (grip && document.activeElement === document.body) $(grip)?.querySelector(".handle")?.focus();
    const ends = target.matches?.(":is([data-role=assistant], [id^=job-]):not([data-state=running])");
    if (document.hidden && ends) { mark = "● "; showTitle(); }
});
on("htmx-after-process", sortables); when("animationend", ".toast", (toast) => toast.remove());
// ---- The socket: it says which app is open, shows when it is away, and takes the composer's line as {"msg": text}.
on("htmx-ws-before-connection", ({detail: {connection}}) => {
    connection.url = connection.url.replace(/(&app=[^&]*)?$/, `&app=${$("grid-left").dataset.app}`);
});
on("htmx-ws-after-connection", () => { clearTimeout(away); $("offline").hidden = true; });
on("htmx-ws-close", () => { clearTimeout(away); away = setTimeout(() => { $("offline").hidden = false; }, 700); });
on("htmx-ws-before-message-outgoing", (e) => {
    const {connection: {socket}, message} = e.detail;
    if (!message.values.msg?.trim() || socket?.readyState !== WebSocket.OPEN) e.preventDefault();
    message.data = JSON.stringify({msg: message.values.msg});
});
on("htmx-ws-after-message-outgoing", ({detail: {message}}) => {
    following = true;
    if ($("msg").value === message.values.msg) write("");
    const lines = [...sent(), message.values.msg.trim()].filter((line) => line.length < 5000).slice(-50);
    sessionStorage.setItem("pianola-sent", JSON.stringify(lines));
});
// ---- The composer: grows with its text, keeps the draft until it is sent, recalls earlier lines.
function write(text) {
    const msg = $("msg");
    msg.value = text;
    sessionStorage.setItem("pianola-draft", text);
    if (!CSS.supports("field-sizing", "content")) { msg.style.height = 0; msg.style.height = `${msg.scrollHeight}px`; }
    complete(text);
}
const sent = () => JSON.parse(sessionStorage.getItem("pianola-sent") || "[]");   // a mistyped action too
function recall(step) {
    const said = all("#msg-list .msg[data-role=user] .body").map((body) => body.innerText.trim());
    const lines = ["", ...new Set([...said, ...sent()].reverse())], line = lines[recalled + step];
    const fresh = $("msg").value === lines[recalled] && line !== undefined;
    if (fresh) { recalled += step; write(line); }
    return fresh;
}
when("input", "#msg", (msg) => { recalled = 0; write(msg.value); });
when("keydown", "#msg", (msg, e) => {
    if (e.isComposing || e.keyCode === 229 || completeKey(e)) return;
    if (!e.shiftKey && recall({ArrowUp: 1, ArrowDown: -1}[e.key])) e.preventDefault();
    if (e.key === "Escape" && !$("stop").hidden) $("stop").click();
    if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); recalled = 0; msg.form.requestSubmit(); }
});
// ---- Listboxes: completion and palette are walked by arrow keys while the focus stays in their input.
const chosen = (list) => list.querySelector("[aria-selected=true]");
function choose(list, input, step = 0) {
    const items = [...list.children].filter((li) => !li.hidden), at = step && items.indexOf(chosen(list)) + step;
    const item = items.at(at % items.length);
    for (const li of list.children) { li.ariaSelected = li === item; li.removeAttribute("id"); }
    if (item) { item.id = `${list.id}-at`; item.scrollIntoView({block: "nearest"}); }
    input.setAttribute("aria-activedescendant", item ? item.id : "");
}
function listKey(e, list, leave) {
    const job = {ArrowDown: () => choose(list, e.target, 1), ArrowUp: () => choose(list, e.target, -1),
                 Enter: () => play(chosen(list)), Tab: () => play(chosen(list)), Escape: leave}[e.key];
    if (!job || e.shiftKey) return false;
    e.preventDefault(); return job() || true;
}
function play(option) {
    $("palette").close();
    if (!option || option.dataset.app) return option && act("app.open", {app: option.dataset.app});
    showPane("right"); write(`/${option.dataset.action} `); $("msg").focus();
}
when("click", "[role=option]", play);
// ---- Completion of "/": the palette's actions that fit what is typed; after a whole name its arguments stay in sight.
function complete(text) {
    const [, word, rest] = text.match(/^\/(\S*)(\s?)/) || [], list = $("complete"), name = (li) => li.dataset.action;
    const fits = all("#palette-list [data-action]").filter((li) => rest ? name(li) === word : name(li).includes(word));
    fits.sort((a, b) => name(b).startsWith(word) - name(a).startsWith(word));
    list.replaceChildren(...fits.slice(0, 8).map((li) => Object.assign(li.cloneNode(true), {hidden: false})));
    list.hidden = !list.children.length; choose(list, $("msg"));
    if (rest && !list.hidden) list.firstElementChild.ariaSelected = "false";
}
function completeKey(e) {
    const list = $("complete"), item = !list.hidden && chosen(list);
    if (!item || e.key === "Enter" && $("msg").value === `/${item.dataset.action}`) return false;
    return listKey(e, list, () => { list.hidden = true; });
}
// ---- The palette: apps and actions by a few letters.
function openPalette() { if ($("palette")) { $("palette").showModal(); $("palette-input").value = ""; filterPalette(); } }
function filterPalette() {
    const words = $("palette-input").value.toLowerCase().split(/\s+/);
    const text = (li) => `${li.textContent} ${li.dataset.words}`.toLowerCase();
    for (const li of $("palette-list").children) li.hidden = !words.every((word) => text(li).includes(word));
    choose($("palette-list"), $("palette-input"));
}
when("input", "#palette-input", filterPalette); when("click", "#open-palette", openPalette);
when("keydown", "#palette-input", (input, e) => listKey(e, $("palette-list"), () => $("palette").close()));
when("click", "#palette", (palette, e) => e.target === palette && palette.close());
// ---- Following: the list stays at its end while words come, unless one has scrolled up; older ones load in place.
function follow() {   // once a frame, however many words came
    const list = $("msg-list"), inside = changes.filter((r) => list.contains(r.target));
    const above = inside.some((r) => r.target === list && r.nextSibling && r.addedNodes.length);
    if (following || above) list.scrollTop = list.scrollHeight - (following ? 0 : fromEnd);
    else if (inside.length) $("newer").hidden = false;
    if (inside.length && root.dataset.pane === "left") all("#panes :last-child").forEach((b) => b.dataset.news = "");
    changes = [];
}
on("scroll", ({target: list}) => {
    if (list.id !== "msg-list") return;
    fromEnd = list.scrollHeight - list.scrollTop;
    following = fromEnd - list.clientHeight < 40 || following && list.scrollTop >= top;   // only going up ends it
    top = list.scrollTop;
    if (following) $("newer").hidden = true;
}, true);
when("click", "#newer", () => { following = true; follow(); });
// ---- Copying a message or a block of code, also where the page is no secure context.
when("click", "[data-copy], [data-copy-code]", async (button) => {
    const from = $(button.dataset.copy)?.querySelector(".body") || button.parentElement.querySelector("code");
    const text = from.innerText.trim(), byHand = () => document.execCommand("copy");
    getSelection().selectAllChildren(from); await (navigator.clipboard?.writeText(text).catch(byHand) ?? byHand());
    getSelection().removeAllRanges(); button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
// ---- Sorting: rows are dragged by their handle or moved by its arrow keys; the server hears the new place, from 1.
function sortables() {
    const animation = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 150;
    const onEnd = ({item, oldIndex, newIndex}) => oldIndex !== newIndex && tellPlace(item);
    for (const list of all("[data-sort]"))
        if (!Sortable.get(list)) Sortable.create(list, {handle: ".handle", draggable: ".row", animation, onEnd});
}
function tellPlace(row) {
    const {dataset: {sort, offset = 0}, children} = row.parentElement, place = 1 + [...children].indexOf(row);
    act(`${sort}.sort`, {id: row.dataset.id, position: place + Number(offset)}, row.querySelector(".handle"));
}
when("keydown", ".handle", (handle, e) => {
    const row = handle.closest(".row"), {previousElementSibling: above, nextElementSibling: below} = row;
    if (e.key === "ArrowUp") above?.before(row); else if (e.key === "ArrowDown") below?.after(row); else return;
    e.preventDefault(); handle.focus();
    clearTimeout(telling); telling = setTimeout(() => row.isConnected && tellPlace(row), 250);   // at a pause
});
for (const type of ["focusin", "pointerdown"])   // a row that comes back after its move gets its handle focused again
    on(type, ({target}) => { grip = target.matches?.(".handle") ? target.parentElement.id : ""; });
// ---- Cells: Enter commits, Escape takes back what was typed, and nothing is sent when nothing changed.
when("keydown", ".cell", (cell, e) => {
    if (e.key === "Escape") cell.value = cell.defaultValue;
    if (e.key === "Enter" && cell.matches("input") && !e.isComposing) cell.blur();
});
const untouched = (elt) => elt.matches("input:not([type=file])") && elt.value === elt.defaultValue;
on("change", (e) => e.target.matches(".cell") && untouched(e.target) && e.stopPropagation(), true);
// ---- Menus close on a choice, a click elsewhere and Escape. Keys for the whole page.
on("click", ({target}) => {
    for (const menu of all(".menu[open]")) menu.open = menu.contains(target) && !target.closest("a, button");
    if (target.closest("button, a")) target.closest(".toast")?.remove();
});
when("keydown", ".menu[open]", (m, e) => { if (e.key === "Escape") { m.open = false; m.firstElementChild.focus(); } });
on("keydown", (e) => {
    if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") { e.preventDefault(); openPalette(); }
    if (e.altKey && e.code === "KeyM") { e.preventDefault(); act("model.cycle"); }
});
on("DOMContentLoaded", () => {
    arrive(); setSplit(); setLook($("theme").dataset.value || look()); showPane("left"); sortables(); follow();
    write(sessionStorage.getItem("pianola-draft") || "");
    const notice = (records) => { if (!changes.length) requestAnimationFrame(follow); changes.push(...records); };
    new MutationObserver(notice).observe($("grid-right"), {childList: true, subtree: true, characterData: true});
    new ResizeObserver(follow).observe($("msg-list"));
});
})();
