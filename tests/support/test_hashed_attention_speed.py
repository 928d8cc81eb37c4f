"""The speed script: a form that errs too much is reported and left out, the others are timed, and triton's failure is
the script's.
"""

import sys

import hashed_attention_speed as speed
import pytest
import torch

from mptpn.attention.hashed import attend


@pytest.fixture
def spoiled(monkeypatch):
    """Run the script for one small image with a form that adds 1 to its output; triton stands for the sorted chunks
    here.
    """

    def run(name: str, *backends: str, more: str = "") -> None:
        def faulty(match, values, order, *, chunk_size, backend):
            out = attend(match, values, order, chunk_size=chunk_size, backend=backend.replace("triton", "chunked"))
            return out + 1 if backend == name and match.dtype == torch.float32 else out  # the truth is float64

        monkeypatch.setattr(speed, "attend", faulty)
        monkeypatch.setattr(speed, "hashed_attention", lambda match, values, **_: values + match.sum())
        monkeypatch.setattr(
            sys,
            "argv",
            f"speed --sides 8 --features 16 --chunk-size 16 --repeats 1 --backends {' '.join(backends)} {more}".split(),
        )
        speed.main()

    return run


def timed(text: str) -> set[str]:
    return {
        name
        for name in ("gathered", "chunked", "triton")
        if any(name in line and " ms " in line for line in text.splitlines())
    }


def test_an_inexact_form_is_reported_and_the_others_are_timed(spoiled, capsys):
    spoiled("chunked", "chunked", "triton")
    text = capsys.readouterr().out
    assert (
        "chunked   error output" in text
        and "output more than twice that of gathered: not timed" in text
        and timed(text) == {"gathered", "triton"}
    )


def test_only_the_kernels_failure_is_the_scripts(spoiled, capsys):
    with pytest.raises(SystemExit) as stopped:
        spoiled("triton", "chunked", "triton")
    assert stopped.value.code == 1 and timed(capsys.readouterr().out) == {"gathered", "chunked"}


@pytest.mark.parametrize(("factor", "code"), [("0", None), ("1e9", 1)])
def test_a_form_that_is_not_fast_enough_is_the_scripts_failure(spoiled, capsys, factor, code):
    if code is None:
        spoiled("", "chunked", more=f"--at-least chunked {factor}")
        assert timed(capsys.readouterr().out) == {"gathered", "chunked"}
        return
    with pytest.raises(SystemExit) as stopped:
        spoiled("", "chunked", more=f"--at-least chunked {factor}")
    assert (
        stopped.value.code == code
        and "chunked is less than 1e+09 times faster than gathered: 8 px, forward" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("--chunk-size 0", "chunk-size"),
        ("--at-least triton 3", "--at-least triton: timed are chunked"),
        ("--at-least chunked fast", "give a number"),
    ],
)
def test_a_wrong_request_is_refused(spoiled, capsys, more, sentence):
    with pytest.raises(SystemExit) as stopped:
        spoiled("", "chunked", more=more)
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err
