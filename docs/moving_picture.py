"""Draws docs/explorer.gif from the explorer in a real browser: docs/moving_picture.py IMAGE.

The committed one shows the image 07fb37aafa66... of DSB 2018 (CC0), to which noise was drawn."""

import io
import sys
import tempfile
import time
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "reproduce"))

import numpy as np  # noqa: E402
import tifffile  # noqa: E402
from PIL import Image  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

import lab  # noqa: E402
from mptpn.io import read_image  # noqa: E402
from mptpn.noise import PoissonGaussian  # noqa: E402
from mptpn.random import generator  # noqa: E402

CODE = 'import mptpn\nexplorer = mptpn.explore("cells.tif")\nexplorer'
SIDE = 512  # px of the image
WIDTH, GRAYS, COLOURS = 860, 44, 20  # px of the picture; its palette
LARGEST = 1_500_000  # bytes


class Film:
    """Frames of the widget, each with the time it stays, ms."""

    def __init__(self, page):
        self.page, self.frames, self.times = page, [], []

    def take(self, stays: int) -> None:
        """One more frame."""
        time.sleep(0.6)  # until it is drawn
        root = self.page.find_element(By.CSS_SELECTOR, ".jp-OutputArea-output .widget-vbox")
        frame = Image.open(io.BytesIO(root.screenshot_as_png)).convert("RGB")
        self.frames.append(frame.resize((WIDTH, round(frame.height * WIDTH / frame.width)), Image.Resampling.LANCZOS))
        self.times.append(stays)

    def write(self, path: Path) -> None:
        """All frames in one size and palette."""
        height = max(frame.height for frame in self.frames)
        sheets = [Image.new("RGB", (WIDTH, height), "white") for _ in self.frames]
        for sheet, frame in zip(sheets, self.frames, strict=True):
            sheet.paste(frame)
        strip = np.concatenate([np.asarray(sheet) for sheet in sheets]).reshape(-1, 3)
        colourful = strip[np.ptp(strip.astype(int), axis=1) > 24][None, ::7]
        colours = Image.fromarray(colourful).quantize(COLOURS).getpalette()[: 3 * COLOURS]
        grays = [level for gray in np.linspace(0, 255, GRAYS).round().astype(int).tolist() for level in [gray] * 3]
        palette = Image.new("P", (1, 1))
        palette.putpalette((grays + colours)[: 3 * (GRAYS + COLOURS)])
        drawn = [sheet.quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets]
        drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=self.times, loop=0, optimize=True)


def play(page, film: Film) -> None:
    """What a user does."""
    page.execute_script(
        "document.head.append(Object.assign(document.createElement('style'), "
        "{textContent: '.Toastify { display: none }'}))"
    )  # JupyterLab's own news
    lab.waited(page, 60, lambda: len(lab.boards(page)) == 1, "no first view")
    film.take(1500)
    lab.waited(page, 240, lambda: len(lab.boards(page)) == 4, "no result")
    film.take(2500)
    handle = lab.control(page, "strength", ".noUi-handle")
    handle.send_keys(Keys.HOME)
    film.take(1200)
    handle.send_keys(Keys.END)
    film.take(1000)
    board = page.find_element(By.CSS_SELECTOR, ".mptpn-canvas canvas")
    ActionChains(page).scroll_from_origin(ScrollOrigin.from_element(board), 0, -280).perform()
    film.take(1200)
    lab.button(page, "swipe").click()
    film.take(1200)
    board = page.find_element(By.CSS_SELECTOR, ".mptpn-canvas canvas")
    for across in (-0.3, 0.25):
        start = ActionChains(page).move_to_element_with_offset(board, round(_line(page, board)), 0)
        start.click_and_hold().move_by_offset(round(across * board.size["width"]), 0).release().perform()
        film.take(1200)
    lab.button(page, "side by side").click()
    page.find_element(By.CSS_SELECTOR, ".mptpn-canvas canvas")
    ActionChains(page).double_click(page.find_element(By.CSS_SELECTOR, ".mptpn-canvas canvas")).perform()
    lab.control(page, "find", "input").send_keys("nuclei" + Keys.TAB)
    for picture in ("noisy", "denoised"):
        page.find_element(By.XPATH, f"//button[normalize-space(.)='{picture}']").click()
        lab.button(page, "Find").click()
        lab.waited(page, 60, lambda: _answered(page), "no answer")
        film.take(2500)


def _answered(page) -> bool:
    """Whether the prompt is answered, which the Stop button tells, for it is off then."""
    time.sleep(1)
    return not lab.button(page, "Stop").is_enabled() and any("nuclei" in name for name in lab.boards(page))


def noisy_copy(image: str, target: Path) -> None:
    """The middle of an image in gray with drawn noise, as a fluorescence microscope at low light makes it."""
    gray = read_image(image).pixels.mean(1, keepdim=True)
    top, left = ((side - min(side, SIDE)) // 2 for side in gray.shape[2:])
    gray = gray[..., top : top + SIDE, left : left + SIDE] / gray.max()
    drawn = PoissonGaussian(0.03, gain=0.02).sample(gray, generator=generator(0, "moving picture"))[0, 0].numpy()
    tifffile.imwrite(target, np.clip(np.rint(1000 + 10000 * drawn), 0, 65535).astype(np.uint16))


def _line(page, board) -> float:
    """Where the line of the swipe is, px from the middle of the board."""
    found = page.execute_script(
        "const c = arguments[0], d = c.getContext('2d').getImageData(0, 2, c.width, 1).data;"
        "for (let i = 0; i < c.width; i++) if (d[4 * i] > 240 && d[4 * i + 2] < 60) return i / c.width; return 0.5;",
        board,
    )
    return (found - 0.5) * board.size["width"]


def main(image: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with lab.lab(folder, code=[CODE]) as address, lab.browser(folder, size=(1280, 1900)) as page:
            noisy_copy(image, folder / "root/cells.tif")
            film = Film(page)
            lab.run_all(page, address.replace("/lab/tree/", "/doc/tree/"))
            play(page, film)
            film.write(DOCS / "explorer.gif")
    size = (DOCS / "explorer.gif").stat().st_size
    print(f"explorer.gif: {len(film.frames)} frames, {size / 1e6:.2f} MB")
    if size > LARGEST:
        sys.exit(f"explorer.gif: {size} bytes are more than {LARGEST}; take fewer frames or colours.")


if __name__ == "__main__":
    main(sys.argv[1])
