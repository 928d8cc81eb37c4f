"""Reads the numbers in README.md and docs/, and computes each again from the tables of figures/ and the weights.

claims.yaml says which numbers, once each; the text that stands in the page is what is compared.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from measures import MEASURES, ROOT, figure_table

NUMBER = r"([+\-−]? ?\d+(?:\.\d+)?)"
HOLE = re.compile(r"\{([^{}]+)\}")  # an expression in the text of a claim, where the page has a number
DECIMAL = re.compile(r"\d+\.\d+(?!\d| or later)")  # in README.md each belongs to a claim; a version does not


@dataclass(frozen=True)
class Compared:
    """One number of a page.

    Attributes:
        page, line: where it stands. stands: as it is written there.
        found: computed again; None: it costs too much.
        tolerance: half of a unit of its last digit, or what the claim states.
        source: file, "weights" or the command that makes it.
    """

    page: str
    line: int
    stands: str
    found: float | None
    tolerance: float
    source: str

    @property
    def agrees(self) -> bool:
        return self.found is not None and abs(number(self.stands) - self.found) <= self.tolerance


@dataclass(frozen=True)
class Piece:
    """A part of a page that a claim speaks of: where, what, of which form, and what {row} and {column} are there."""

    span: tuple[int, int]
    text: str
    template: str
    names: dict[str, object]


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(" ", ""))


def half_a_digit(text: str) -> float:
    """Half of a unit of the last digit, and a millionth of it for the rounding of the tables themselves."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2]) * (1 + 1e-6)


def claims() -> list[dict]:
    return yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))


def rows_of(frame: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for name, value in equal.items():
        frame = frame[frame[name] == value]
    if frame.empty:
        raise LookupError(f"there is no row with {equal} in the file of the claim")
    return frame


def form(template: str) -> re.Pattern:
    """What a template matches: its words, blanks and line breaks alike, and any number in place of an expression."""
    literal = (r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in HOLE.sub("\0", template).split("\0"))
    return re.compile(NUMBER.join(literal))


def pieces(claim: dict, page: str) -> Iterator[Piece]:
    """The parts of a page that a claim speaks of; LookupError where the page does not hold them."""
    if "text" in claim:
        found = form(claim["text"]).search(page)
        if not found:
            raise LookupError(f"the text {claim['text']!r} is not there")
        yield Piece(found.span(), found.group(), claim["text"], {})
        return
    start = ("\n" + page).find("\n" + claim["table"])
    if start < 0:
        raise LookupError(f"no table begins with {claim['table']!r}")
    stop = page.find("\n\n", start)
    lines = {}
    for line in re.finditer(r"^\|.*\|$", page[start : stop if stop > 0 else None], re.MULTILINE):
        cells = list(re.finditer(r"(?<=\|)[^|]*", line.group()))[:-1]
        lines[plain(cells[0].group())] = start + line.start(), cells[1:]
    for label, row in claim["rows"].items():
        if label not in lines:
            raise LookupError(f"the table {claim['table']!r} has no row {label!r}")
        at, cells = lines[label]
        for place, column in enumerate(claim["columns"]):
            template = claim["cells"][place] if isinstance(claim["cells"], list) else claim["cells"]
            cell, span = plain(cells[place].group()), (at + cells[place].start(), at + cells[place].end())
            if template and column and cell:
                yield Piece(span, cell, template, {"row": row, "column": column})


def plain(cell: str) -> str:
    return cell.replace("**", "").replace("`", "").strip()


def computed(expression: str, claim: dict, names: dict[str, object]) -> float:
    """An expression of claims.yaml: over a table of figures/ (`of`, `table`), or from the weights (MEASURES)."""
    known = MEASURES | names
    if "file" in claim:
        frame = figure_table(claim["file"].format(**names))
        known = known | {"table": frame, "of": partial(rows_of, frame)}
    return float(eval(expression, known))  # an expression of this repository, never of a user


def compared(claim: dict, page: str, *, quick: bool = False) -> Iterator[Compared]:
    """Every number of a claim as it stands in its page, beside its value computed again.

    Args:
        quick: only what needs no network.
    Raises:
        LookupError: the page does not hold what the claim says, or the file does not.
    """
    for piece in pieces(claim, page):
        line = page.count("\n", 0, piece.span[0]) + 1
        found = form(piece.template).fullmatch(piece.text)
        if not found:
            raise LookupError(f"line {line}: {piece.text!r} has not the form {piece.template!r}")
        source = claim.get("costs") or claim.get("command", "the weights")
        source = f"figures/{claim['file']}.csv".format(**piece.names) if "file" in claim else source
        for expression, stands in zip(HOLE.findall(piece.template), found.groups(), strict=True):
            value, given = None, source
            if "costs" not in claim and not (quick and "command" in claim):
                try:
                    value = computed(expression, claim, piece.names)
                except FileNotFoundError as error:
                    given = str(error)
            tolerance = claim.get("tolerance", half_a_digit(stands))
            yield Compared(claim["page"], line, stands, value, tolerance, given)


def unclaimed(page: str, given: list[dict]) -> list[str]:
    """The decimal numbers of a page that no claim speaks of."""
    spans = [piece.span for claim in given for piece in pieces(claim, page)]
    found = DECIMAL.finditer(page)
    return [one.group() for one in found if not any(start <= one.start() < stop for start, stop in spans)]


def verify(root: Path, given: list[dict], *, quick: bool = False) -> tuple[list[Compared], list[str]]:
    """All numbers of all claims, and a sentence for each claim or number of README.md that has lost the other."""
    numbers, lost = [], []
    pages = {name: (root / name).read_text(encoding="utf-8") for name in {claim["page"] for claim in given}}
    for claim in given:
        try:
            numbers += compared(claim, pages[claim["page"]], quick=quick)
        except LookupError as error:
            lost.append(f"{claim['page']}: {error.args[0]}; change claims.yaml with the page.")
    if not lost and "README.md" in pages:
        own = [claim for claim in given if claim["page"] == "README.md"]
        lost += [f"README.md: no claim speaks of {one}; give it a file." for one in unclaimed(pages["README.md"], own)]
    return numbers, lost


def report(numbers: list[Compared], lost: list[str]) -> int:
    """Print what was found; exit code 1 where a number or a claim fails."""
    checked = [one for one in numbers if one.found is not None]
    wrong = [one for one in checked if not one.agrees]
    for one in wrong:
        print(f"{one.page}:{one.line}: {one.stands.strip()} stands there, {one.source} says {one.found:.6g}.")
    print(*lost, sep="\n", end="\n" if lost else "")
    for (page, source), count in Counter((one.page, one.source) for one in numbers if one.found is None).items():
        print(f"{page}: not computed, for they cost or need more ({count}): {source}")
    for page, count in Counter(one.page for one in checked).items():
        print(f"{page}: {count} numbers computed again")
    print(f"{len(checked) - len(wrong)} of {len(checked)} within their stated tolerance")
    return 1 if wrong or lost else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="./reproduce/verify", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out what a network must compute: a few seconds")
    return report(*verify(ROOT, claims(), quick=parser.parse_args().quick))


if __name__ == "__main__":
    sys.exit(main())
