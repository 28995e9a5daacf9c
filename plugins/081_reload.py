"""Reload: a plugin that is saved is loaded again at once."""
import asyncio

from loguru import logger

from server import App, DataTable, PageHead, View, here, plugin_files, swap, version_of


class Reload(App):
    "Save a file of the folder of plugins, and every open page shows it; a new file is a new app, one deleted is gone."

    menu = False

    def start(self):
        "Watch the folder from here on"
        home = here()
        self.watching = asyncio.run_coroutine_threadsafe(self.watch(), home.loop)

    def stop(self):
        "No longer"
        self.watching.cancel()

    def page(self, view):
        "The files there are"
        rows = [(file.name, here().apps[app_of(file)].title) for file in plugin_files(here().settings.plugins)
                if app_of(file) in here().apps]
        return PageHead(self.title, self.__doc__), DataTable(("File", "App"), rows, "Plugins")

    async def watch(self) -> None:
        "Load plugins again when they are saved, and show the new version wherever one is open"
        while True:
            await asyncio.sleep(0.2)
            if here().plugins.loaded:
                for name in await asyncio.to_thread(load_changed): show_again(name)


def app_of(file) -> str:
    "The name of the app in a plugin file"
    return file.stem.partition("_")[2]

def load_changed() -> list[str]:
    "Load again what was saved since, load what is new, drop what is gone; returns the names of the apps"
    plugins = here().plugins
    files, apps = plugin_files(plugins.folder), plugins.apps
    touched = [f for f in {*files, *plugins.versions} if version_of(f) != plugins.versions.get(f)]
    for file in touched:
        plugins.drop(app_of(file))
        if file in files: plugins.add(file)
        else: del plugins.versions[file]
    order = [app_of(f) for f in files]
    for name in sorted(apps, key=order.index) if touched else (): apps[name] = apps.pop(name)
    return [app_of(f) for f in touched]

def show_again(name: str) -> None:
    "Every open page gets the new menu, and the app if it shows it"
    p = here()
    p.jobs.retire(name)
    logger.info("Plugin {} was loaded again", name)
    for tab in p.chat.tabs.open.values():
        if tab.view.app not in p.apps: tab.view = View(next(iter(p.apps)), tab=tab.id)
        tab.send(swap(p.left(tab.view)), swap(p.bar(tab.view)))
