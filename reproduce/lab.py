"""A JupyterLab and a browser of their own, for the test of the explorer and for its moving picture."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[1]
TOKEN = "explore"
ARGUMENTS = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking"
ARGUMENTS += " --disable-sync --no-first-run --disable-component-update"
RUN_ALL = """
const done = arguments[0], app = window.jupyterapp, panel = app.shell.currentWidget;
panel.sessionContext.ready.then(() => app.commands.execute('notebook:run-all-cells'))
  .then(() => done('ok'), error => done(String(error)));
"""
ERRORS = """
const places = '.jp-Cell .jp-RenderedText[data-mime-type*="error"], .jp-OutputArea-output pre';
return Array.from(document.querySelectorAll(places)).map(e => e.innerText)
"""
READY = "return !!(window.jupyterapp && document.querySelector('.jp-NotebookPanel .jp-Cell'))"


def program(*names: str) -> str | None:
    """Path of the first of these programs that is there."""
    places = f"{os.environ['PATH']}:/usr/bin:/usr/lib/chromium"
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


@contextlib.contextmanager
def lab(folder: Path, *, code: list[str]) -> Iterator[str]:
    """Address of a notebook with these cells in a JupyterLab whose root is folder/root.

    The user's settings are neither read nor written.
    """
    notebooks = folder / "root"
    notebooks.mkdir(parents=True)
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    about = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }  # else it is asked for
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), notebooks / "explorer.ipynb")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *_options(port, notebooks)],
            stdout=log,
            stderr=log,
            env=_environment(folder),
            start_new_session=True,
        )
    try:
        end = time.time() + 120
        while not _answers(port):
            assert server.poll() is None and time.time() < end, (folder / "lab.log").read_text()[-2000:]
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/lab/tree/explorer.ipynb?token={TOKEN}&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it ends its kernels first
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _options(port: int, root: Path) -> list[str]:
    options = f"--no-browser --allow-root --ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0"
    options += f" --IdentityProvider.token={TOKEN} --ServerApp.root_dir={root} --expose-app-in-browser"
    options += " --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.extension_manager=readonly"
    return options.split()


def _environment(folder: Path) -> dict[str, str]:
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{kind}_DIR": str(folder / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": f"{ROOT}:{ROOT / 'notebooks'}"}
    return os.environ | own | {"OMP_NUM_THREADS": "1"}


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def browser(folder: Path, *, size: tuple[int, int] = (1500, 1600)) -> Iterator[webdriver.Chrome]:
    """A Chromium without a window; RuntimeError: there is none."""
    binary, driver = program("chromium", "chromium-browser", "google-chrome"), program("chromedriver")
    if not binary or not driver:
        raise RuntimeError(f"chromium is {binary}, chromedriver is {driver}; install both, such as Debian's packages.")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    window = f"--window-size={size[0]},{size[1]}"
    for argument in [*ARGUMENTS.split(), window, f"--user-data-dir={folder / 'chromium'}"]:
        options.add_argument(argument)
    # with a path, selenium fetches none
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    page.set_script_timeout(140)
    page.command_executor.client_config.timeout = 300  # a loaded machine runs the notebook slowly
    try:
        yield page
    finally:
        page.quit()


def run_all(page: webdriver.Chrome, address: str) -> None:
    """Open the notebook and run its cells."""
    page.get(address)
    waited(page, 120, lambda: page.execute_script(READY), "no notebook")
    assert page.execute_async_script(RUN_ALL) == "ok"


def waited(page: webdriver.Chrome, seconds: float, condition, what: str):
    """What a condition gives as soon as it is true; TimeoutException: with what is missing, and the page's errors."""
    return WebDriverWait(page, seconds, ignored_exceptions=(Exception,)).until(
        lambda _: condition(), f"{what}; {page.execute_script(ERRORS)}"
    )


def control(page: webdriver.Chrome, name: str, css: str):
    """The element of a control that carries this description."""
    row = f"//div[contains(@class, 'jupyter-widgets')][label[text()='{name}']]"
    return page.find_element(By.XPATH, row).find_element(By.CSS_SELECTOR, css)


def button(page: webdriver.Chrome, name: str):
    """A button by its text."""
    return page.find_element(By.XPATH, f"//button[contains(., '{name}')][contains(@class, 'jupyter-button')]")


def boards(page: webdriver.Chrome) -> dict[str, str]:
    """What the explorer's canvases show: name -> the drawn pixels as an address."""
    found = page.execute_script(
        "return [...document.querySelectorAll('.mptpn-canvas canvas')].map(c => [c.dataset.name, c.toDataURL()])"
    )
    return dict(found)
