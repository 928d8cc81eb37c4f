"""The speed measurement: a form that errs too much is reported and not timed, and triton's failure is the program's."""

import sys

import pytest
import torch

from mptpn.attention.hashed import attend
from support import hashed_attention_speed as speed


@pytest.fixture
def measure(monkeypatch):
    """Run the program on one small image with a form that adds 1 to its output; sorted chunks stand for triton here."""

    def run(faulty: str, options: str) -> None:
        def spoiled(match, values, order, *, chunk_size, backend):
            out = attend(match, values, order, chunk_size=chunk_size, backend=backend.replace("triton", "chunked"))
            return out + 1 if backend == faulty and match.dtype == torch.float32 else out  # the truth is float64

        monkeypatch.setattr(speed, "attend", spoiled)
        monkeypatch.setattr(speed, "hashed_attention", lambda match, values, **_: values + match.sum())
        small = "speed --sides 8 --features 16 --chunk-size 16 --seconds 0 --backends"
        monkeypatch.setattr(sys, "argv", [*small.split(), *options.split()])
        speed.main()

    return run


def timed(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if " ms " in line]
    return {name for name in ("gathered", "chunked", "triton") if any(name in line for line in lines)}


def test_an_inexact_form_is_reported_and_the_others_are_timed(measure, capsys):
    measure("chunked", "chunked triton")
    text = capsys.readouterr().out
    assert "output more than twice that of gathered: not timed" in text and timed(text) == {"gathered", "triton"}


@pytest.mark.parametrize(
    ("faulty", "options", "words"),
    [
        ("triton", "chunked triton", "8 px: triton is inexact"),
        ("", "chunked --at-least chunked 1e9", "less than 1e+09"),
    ],
)
def test_an_inexact_kernel_and_a_slow_form_are_the_programs_failure(measure, faulty, options, words):
    with pytest.raises(SystemExit, match=words.replace("+", r"\+")):
        measure(faulty, options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("chunked --chunk-size 0", "chunk-size"),
        ("chunked --at-least triton 3", "triton"),
        ("a --at-least a b", "number"),
    ],
)
def test_a_wrong_request_is_refused(measure, capsys, options, words):
    with pytest.raises(SystemExit) as stopped:
        measure("", options)
    assert stopped.value.code == 2 and words in capsys.readouterr().err
