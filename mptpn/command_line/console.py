"""The channels of a command: closed ones are opened, and faults and files that are passed over are told."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress


def complain(options: argparse.Namespace, words: str, trace: str = "") -> None:
    """One line, and with --debug where it came from."""
    print(f"mptpn {options.command}: {words}", file=sys.stderr)
    if options.debug and trace:
        print(trace, file=sys.stderr)


def told(options: argparse.Namespace, outcomes: Iterable) -> Iterator:
    """The outcomes of files but of those passed over, each as soon as it is there; failures are told."""
    counts: Counter = Counter()
    for one in outcomes:
        if one.passed_over:
            _pass_over(options, one.failure, counts)
            continue
        if one.failure:
            complain(options, one.failure, one.trace)
        yield one
    if counts:
        words = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        complain(options, f"files passed over: {words}")


def _pass_over(options: argparse.Namespace, words: str, counts: Counter) -> None:
    """Images that are left out are named, the others counted."""
    from mptpn.io.folders import RESULT, SEGMENTED  # slow to import

    marks = {"no image of a known type": "that are no images", RESULT: "of earlier results"}
    marks[SEGMENTED] = "of earlier results"
    for mark, kind in marks.items():
        if mark in words:
            counts[kind] += 1
            return
    if "is empty, 0 bytes" in words:
        counts["that are no images"] += 1
    else:
        complain(options, words)


def open_closed() -> None:
    """Opens the standard channels that the caller has closed: else the next file would be taken for one of them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # for as long as the process lives
    if sys.stdout.errors == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are no Unicode
    sys.stderr = _Patient(sys.stderr)


class _Patient:
    """An error channel that passes over what it cannot write: a full disk behind it stops no work."""

    def __init__(self, channel):
        self._channel = channel

    def __getattr__(self, name: str):
        return getattr(self._channel, name)

    def write(self, words: str) -> int:
        with suppress(OSError):
            self._channel.write(words)
        return len(words)

    def flush(self) -> None:
        with suppress(OSError):
            self._channel.flush()
