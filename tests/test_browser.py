"""The explorer in a real JupyterLab and browser: a slider changes the picture and restores it, Save writes a file."""

import base64
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
import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[dev]")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

ROOT = Path(__file__).parents[1]
PANELS = 6
RUN_ALL = """
const done = arguments[0], app = window.jupyterapp, panel = app.shell.currentWidget;
panel.sessionContext.ready.then(() => app.commands.execute('notebook:run-all-cells'))
  .then(() => done('ok'), error => done(String(error)));
"""
ERRORS = """
const places = '.jp-Cell .jp-RenderedText[data-mime-type*="error"], .jp-OutputArea-output pre';
return Array.from(document.querySelectorAll(places)).map(e => e.innerText)
"""
BYTES = """
const done = arguments[1];
fetch(arguments[0].src).then(r => r.blob()).then(
  b => { const f = new FileReader(); f.onload = () => done(f.result); f.readAsDataURL(b); }, e => done(String(e)));
"""
pytestmark = pytest.mark.slow


def program(*names: str) -> str | None:
    places = f"{os.environ['PATH']}:/usr/bin:/usr/lib/chromium"
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


@pytest.fixture(scope="module")
def chromium() -> tuple[str, str]:
    """Paths of browser and driver; Debian's are installed where that is possible, else the test is skipped."""
    why = "not root, so they cannot be installed"
    if not (program("chromium") and program("chromedriver")) and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        why = ""
        for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "chromium-driver"]):
            try:
                asked = subprocess.run(
                    ["apt-get", "-q", *step], env=environment, capture_output=True, text=True, timeout=300
                )
                why = "" if asked.returncode == 0 else f"apt-get {step[0]}: {asked.stderr.strip().splitlines()[-1:]}"
            except subprocess.TimeoutExpired:
                why = f"apt-get {step[0]} took more than five minutes"
    browser, driver = program("chromium", "chromium-browser", "google-chrome"), program("chromedriver")
    if not browser or not driver:
        pytest.skip(f"chromium is {browser}, chromedriver is {driver}: {why or 'apt-get has none'}")
    return browser, driver


@pytest.fixture
def lab(chromium, tmp_path) -> Iterator[str]:
    """Address of a JupyterLab in tmp_path/root, with the notebook; the user's settings are neither read nor written."""
    notebooks = tmp_path / "root/notebooks"
    notebooks.mkdir(parents=True)
    book = nbformat.read(ROOT / "notebooks/00_explore.ipynb", as_version=4)
    parameters = next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = parameters.source.replace("minutes: float = 0.1", "minutes: float = 0.03")
    nbformat.write(book, notebooks / "00_explore.ipynb")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
    own |= {"IPYTHONDIR": str(tmp_path / "ipython")}
    options = f"--no-browser --allow-root --ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0"
    options += f" --IdentityProvider.token=explore --ServerApp.root_dir={tmp_path / 'root'} --expose-app-in-browser"
    options += " --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.extension_manager=readonly"
    environment = os.environ | own | {"PYTHONPATH": f"{ROOT}:{ROOT / 'notebooks'}", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options.split()],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        end = time.time() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=explore", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None and time.time() < end, (tmp_path / "lab.log").read_text()[-2000:]
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/00_explore.ipynb?token=explore&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it ends its kernels first
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.fixture
def browser(chromium, tmp_path) -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    arguments = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking"
    arguments += " --disable-sync --no-first-run --disable-component-update --window-size=1500,1400"
    for argument in [*arguments.split(), f"--user-data-dir={tmp_path / 'chromium'}"]:
        options.add_argument(argument)
    # with a path, selenium fetches none
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromium[1]))
    driver.set_script_timeout(280)
    driver.command_executor.client_config.timeout = 300  # a loaded machine runs the notebook slowly
    try:
        yield driver
    finally:
        driver.quit()


def panels(browser) -> list[bytes]:
    """The bytes of the PNGs that the browser shows."""
    shown = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea img.widget-image")
    uris = [browser.execute_async_script(BYTES, image) for image in shown]
    return [base64.b64decode(uri.partition(",")[2]) for uri in uris]


def control(browser, name: str, css: str):
    """The element of a control that carries this description."""
    return browser.find_element(
        By.XPATH, f"//div[contains(@class, 'jupyter-widgets')][label[text()='{name}']]"
    ).find_element(By.CSS_SELECTOR, css)


def waited(browser, seconds: float, condition, what: str):
    return WebDriverWait(browser, seconds, ignored_exceptions=(Exception,)).until(
        lambda _: condition(), f"{what}; {browser.execute_script(ERRORS)}"
    )


def test_slider_changes_the_picture_and_save_writes_the_file(lab, browser, tmp_path):
    browser.get(lab)
    waited(
        browser,
        60,
        lambda: browser.execute_script(
            "return !!(window.jupyterapp && document.querySelector('.jp-NotebookPanel .jp-Cell'))"
        ),
        "no notebook",
    )
    assert browser.execute_async_script(RUN_ALL) == "ok"
    waited(
        browser,
        60,
        lambda: len(panels(browser)) == PANELS and all(one.startswith(b"\x89PNG") for one in panels(browser)),
        "no pictures",
    )
    before = panels(browser)
    handle = control(browser, "strength", ".noUi-handle")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    for _ in range(3):
        handle.send_keys(Keys.ARROW_LEFT)
    readout = control(browser, "strength", ".widget-readout")
    waited(
        browser,
        30,
        lambda: float(readout.text) < 1 and panels(browser)[1] != before[1] and settled(browser),
        "strength changed no picture",
    )
    weaker = panels(browser)
    # the noisy image stays; residual and uncertainty follow
    assert weaker[0] == before[0] and weaker[2] != before[2] and weaker[3] != before[3]
    browser.save_screenshot(str(tmp_path / "weaker.png"))
    for _ in range(3):
        handle.send_keys(Keys.ARROW_RIGHT)
    waited(browser, 30, lambda: panels(browser) == before, "moving back did not restore the pictures")
    saved = tmp_path / "root/runs/notebooks/00_explore/denoised/head_mr.tif"
    assert not saved.exists()
    browser.find_element(By.XPATH, "//button[contains(., 'Save')][contains(@class, 'widget-button')]").click()
    waited(browser, 30, saved.exists, "Save wrote no file")
    said = "//div[contains(@class, 'widget-html-content')][starts-with(normalize-space(.), 'saved ')]"
    waited(
        browser, 10, lambda: "head_mr.tif" in browser.find_element(By.XPATH, said).text, "the status does not say where"
    )
    browser.save_screenshot(str(tmp_path / "saved.png"))


def settled(browser) -> bool:
    """Whether the pictures stay as they are for a second and a half: each key press draws again."""
    first = panels(browser)
    time.sleep(1.5)
    return panels(browser) == first
