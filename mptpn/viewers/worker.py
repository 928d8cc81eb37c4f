"""Work beside a window: one thread, a share that is done, and a stop that networks obey between two of their layers."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from mptpn import faults
from mptpn.networks.block import Block
from mptpn.networks.transformer import RetractableTransformer

RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"


class Stopped(Exception):
    """The user asked to stop."""


class Job:
    """Work in a thread of its own.

    Attributes:
        title: what is done, such as "denoising (auto)".
        state: RUNNING, DONE, FAILED or STOPPED. share: of the work that is done, 0 to 1.
        outcome: what the work returned. failure: one sentence, or "".
    """

    def __init__(
        self, title: str, work: Callable[[Job], Any], *, tell: Callable[[], object] = lambda: None, name: str = ""
    ):
        """Prepare it.

        Args:
            work: called with this job; may call reached(). tell: called in the job's thread when share or state has
                changed.
            name: of the image, with which a failure begins.
        """
        self.title, self.state, self.share = title, RUNNING, 0.0
        self.outcome, self.failure = None, ""
        self._caught: list[warnings.WarningMessage] = []
        self._work, self._tell, self._name, self._stop = work, tell, name or "the image", threading.Event()
        self._told = 0.0
        self._thread = threading.Thread(target=self._run, name=title, daemon=True)

    def start(self) -> Job:
        """Begin; returns itself."""
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        """Whether it is not over."""
        return self.state == RUNNING

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings of the work so far, a sentence each."""
        return tuple(dict.fromkeys(str(one.message) for one in self._caught if one.category is UserWarning))

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask to stop; the job is over when its networks reach their next layer."""
        self._stop.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most `seconds`; whether it is over."""
        self._thread.join(seconds)
        return not self.running

    def reached(self, share: float) -> None:
        """Say how much is done; raises Stopped where the user asked for that."""
        if self._stop.is_set():
            raise Stopped
        self.share = max(self.share, min(1.0, share))
        if time.monotonic() - self._told > 0.1:  # no more than a window can draw
            self._told = time.monotonic()
            self._tell()

    @contextlib.contextmanager
    def counting(self, pixels: float, *, minutes: float = 0.0) -> Iterator[None]:
        """While it lasts, share follows the networks of this thread, and they can be stopped.

        Args:
            pixels: that networks see in all, each as often as it is seen. minutes: of training before that, of which
                the clock tells.
        """
        parts, seen, started = 1, 0.0, time.monotonic()
        trained = 0.5 if minutes else 0.0  # share of the training

        def step(module: nn.Module, inputs: tuple) -> None:
            nonlocal parts, seen
            if threading.get_ident() != self._thread.ident:
                return
            if torch.is_grad_enabled():
                self.reached(trained * (time.monotonic() - started) / (60 * minutes) if minutes else self.share)
                return
            if isinstance(module, RetractableTransformer):
                parts = sum(isinstance(one, Block) for one in module.modules())
                step.size = inputs[0].shape[2] * inputs[0].shape[3]
            seen += step.size / parts if isinstance(module, Block) else 0.0
            self.reached(trained + (0.99 - trained) * min(1.0, seen / pixels))

        step.size = 0
        handle = register_module_forward_pre_hook(step)
        try:
            yield
        finally:
            handle.remove()

    def _run(self) -> None:
        try:
            with warnings.catch_warnings(record=True) as self._caught:
                warnings.simplefilter("always", UserWarning)
                self.outcome = self._work(self)
            state, self.share = DONE, 1.0
        except Stopped:
            state = STOPPED
        except Exception as error:  # what a viewer must say in a sentence, whatever it is
            state, self.failure = FAILED, sentence(error, self._name)
        self.state = state
        self._tell()


def sentence(error: BaseException, name: str) -> str:
    """What went wrong, for a user who has no command line."""
    if isinstance(error, (*faults.EXPECTED, MemoryError, ImportError)) and str(error):
        words = faults.sentence(error, name) if not isinstance(error, ImportError) else str(error)
        return words.replace(f"{name}: the image: ", f"{name}: ")  # arrays have no names of their own
    return f"{name}: cannot be shown or denoised ({type(error).__name__}); try another region or method, and report it."
