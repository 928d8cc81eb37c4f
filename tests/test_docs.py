"""README and docs/: short, no dead link, every data set cited with its terms."""

import csv
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import mptpn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mptpn/MODEL_CARD.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
FIGURES = sorted(path.stem for path in (ROOT / "figures").glob("*.png"))
SETS = (ROOT / "notebooks/support/registry.tsv").read_text().split("\n\n")[0].splitlines()
CITATIONS = {row["set"]: row["citation"] for row in csv.DictReader(SETS, delimiter="\t", quoting=csv.QUOTE_NONE)}
COMMAND = re.compile(r"^    (?:mptpn|\./reproduce/\w+|\./docs/build)\b.*$", re.M)


def links(text: str) -> set[str]:
    """Targets of Markdown links and images that lie in this repository, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return {target.split("#")[0] for target in targets if not urlsplit(target).scheme} - {""}


def table(text: str, *, below: str) -> dict[str, list[str]]:
    """First Markdown table after a text: its rows by their first cell, without emphasis."""
    lines = text[text.index(below) :].splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(r"\|\s*-", line))
    rows = {}
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip().strip("*`") for cell in line.strip("|").split("|"))
        rows[name] = cells
    return rows


def test_readme_is_at_most_1000_words_and_130_lines():
    assert len(README.split()) <= 1000 and len(README.splitlines()) <= 130


def test_first_command_on_ones_own_image_stands_before_line_30():
    assert "mptpn denoise" in "\n".join(README.splitlines()[:29])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page):
    assert [target for target in links(page.read_text()) if not (page.parent / unquote(target)).exists()] == []


def test_a_dead_link_is_found():
    text = "[a](docs/nowhere.md#part) ![b](figures/hero.png) [c](https://example.org/x)"
    assert links(text) == {"docs/nowhere.md", "figures/hero.png"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_public_name_that_a_page_tells_exists(page):
    text = page.read_text()
    files = re.findall(r"`((?:mptpn|notebooks|reproduce|figures|docs|tests)/[\w/.]+)`", text)
    assert [file for file in files if "NN_" not in file and "NAME" not in file and not (ROOT / file).exists()] == []
    assert [name for name in re.findall(r"\bmptpn\.(\w+)\(", text) if name not in mptpn.PUBLIC] == []
    named = re.findall(r"--preset (\w[\w-]*)", text)
    assert [name for name in named if name != "NAME" and not (ROOT / f"reproduce/presets/{name}.yaml").exists()] == []


@pytest.mark.parametrize("command", ["noise", "denoise", "train", "enlarge", "segment", "train-segment"])
def test_commands_of_the_pages_have_their_options(command):
    lines = [line.split("#")[0] for page in PAGES for line in COMMAND.findall(page.read_text())]
    asked = {option for line in lines if f"mptpn {command} " in line for option in re.findall(r"--[a-z-]+", line)}
    call = [sys.executable, "-m", "mptpn", command, "--help"]
    known = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert [option for option in asked if option not in known] == []


def test_modules_that_the_changes_name_as_new_exist():
    cells = [line.split("|")[2] for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("| `")]
    modules = {name for cell in cells for name in re.findall(r"`(mptpn[\w.]+)`", cell)}
    places = {name: ROOT / name.replace(".", "/") for name in modules}
    assert len(modules) > 20
    assert [name for name, place in places.items() if not (place.is_dir() or place.with_suffix(".py").exists())] == []


def test_every_published_figure_is_told_in_the_results():
    told = links((ROOT / "docs/results.md").read_text())
    assert [name for name in FIGURES if f"../figures/{name}.png" not in told] == []


def test_every_data_set_is_cited_with_its_terms_and_named_in_the_readme_if_it_was_used():
    rows = table((ROOT / "docs/data.md").read_text(), below="## Sets of the registry")
    cited = {name: (title, *cells) for title, cells in rows.items() for name in re.findall(r"`(\w+)`", title)}
    assert set(cited) == set(CITATIONS)
    for name, (_, _, citation, terms) in cited.items():
        author = CITATIONS[name].split()[0].strip(",")
        assert author in citation and terms, name
    known = re.compile(r"\b(" + "|".join(CITATIONS) + r")\b")
    drawn = {name for path in (ROOT / "figures").glob("*.json") for name in known.findall(path.read_text())}
    used = {name for name, (_, use, *_) in cited.items() if use != "no figure"}
    assert drawn <= used
    assert [name for name in used if cited[name][0].split(" (")[0] not in README] == []


def test_weights_are_called_research_only_wherever_the_licence_stands():
    for page in ("README.md", "mptpn/MODEL_CARD.md", "docs/data.md", "CITATION.cff"):
        text = (ROOT / page).read_text()
        assert "MIT" in text and re.search(r"research\s+only", text), page


class Targets(HTMLParser):
    """Where a page leads, and the names of its places."""

    def __init__(self, page: Path):
        super().__init__()
        self.leads, self.places = set(), set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value and not urlsplit(value).scheme and not value.startswith("//"):
                self.leads.add(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def dead_links(folder: Path) -> list[str]:
    paths = [page for page in folder.rglob("*.html") if "_static" not in page.parts]  # the theme's own templates
    pages = {page.resolve(): Targets(page) for page in paths}
    dead = []
    for page, targets in pages.items():
        for lead in targets.leads:
            parts = urlsplit(lead)
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = unquote(parts.fragment)
            if not file.exists() or (file in pages and place and place not in pages[file].places):
                dead.append(f"{page.relative_to(folder.resolve())}: {lead}")
    return dead


def test_dead_links_of_a_site_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="b.html#gone">x</a><img src="c.png">')
    (tmp_path / "b.html").write_text('<p id="there"><a href="https://example.org">x</a>')
    assert sorted(dead_links(tmp_path)) == ["a.html: b.html#gone", "a.html: c.png"]


@pytest.mark.slow
def test_site_builds_without_a_warning_and_holds_no_dead_link(tmp_path):
    pytest.importorskip("myst_nb", reason="the extra site is not installed")
    command = [str(ROOT / "docs/build"), str(tmp_path)]
    built = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    html = tmp_path / "html"
    pages = {page.stem for page in html.glob("notebooks/*.html")}
    assert pages == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert dead_links(html) == []
