"""One training loop for every stage: resumable, with a progress bar, on the devices that Lightning Fabric was given."""

import hashlib
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from mptpn.atomic import write_atomically
from mptpn.training.cuda_graph import Batch, ReplayedStep

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PLAIN = (bool, int, float, str, tuple)  # types of a module's attributes that say how it was built
FREE = ("training", "backend", "recompute")  # attributes that do not change what is learned
UNREAD = 10  # steps of a replayed CUDA graph between two reads of the loss: reading it makes the GPU wait


def launch(
    *, accelerator: str = "cpu", devices: int = 1, nodes: int = 1, precision: str = "32-true", threads: int = 0
) -> "Fabric":
    """Start Fabric, which decides device, number of processes and arithmetic.

    Args:
        accelerator: "cpu", "cuda" or "auto".
        devices, nodes: processes a node and nodes.
        precision: Fabric's names, for example "32-true" or "bf16-mixed" (on a CPU bfloat16 is slower than float32).
        threads: CPU threads of this process; 0 leaves PyTorch's choice. The same number gives the same result.
    Raises:
        RuntimeError: CUDA is asked for and there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        remedy = 'choose accelerator="cpu" or run on a machine with a GPU'
        raise RuntimeError(f'accelerator="cuda": PyTorch finds no CUDA device here; {remedy}.')
    if threads:
        torch.set_num_threads(threads)
    # stage 1 freezes its mean for a while: those weights have no gradient then, and processes must not wait for it
    strategy = "auto" if devices == nodes == 1 else "ddp_find_unused_parameters_true"
    from lightning.fabric import Fabric  # slow to import, and only training needs it

    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric


def learning_rate(fraction: float, *, peak: float, warmup: float = 0.05) -> float:
    """Linear warm-up, then half a cosine down to 1 % of the peak; fraction of the training done and warmup are 0..1."""
    if fraction < warmup:
        return peak * (fraction + 1e-3) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup))))


def fit(
    module: nn.Module,
    *,
    loss: Callable[[nn.Module, Batch, float], Tensor],
    batches: Callable[[int], Batch],
    steps: int,
    lr: float,
    fabric: "Fabric",
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 20.0,
    ema: float = 0.0,
    clip: float = 1.0,
    seconds: float = math.inf,
    rate: Callable[[float], float] | None = None,
    watch: Callable[[nn.Module], dict] | None = None,
    watch_seconds: float = 60.0,
    phases: tuple[float, ...] = (),
    title: str = "training",
) -> list[dict]:
    """Train a module in place with Adam; a killed training goes on from its checkpoint to the same weights.

    Args:
        module: ends with the averaged weights when ema > 0.
        loss: (module, this process's share of a batch, fraction of the training done) -> scalar, left on the device.
        batches: step -> batch, a dict of tensors with the batch along axis 0; a function of step alone.
        steps: optimiser steps in all. lr: peak learning rate of learning_rate, unless rate is given.
        fabric: from launch; on a single GPU the step is captured as a CUDA graph and replayed.
        checkpoint: file to resume from, if it is of the same code, weights, data and settings, and to write to.
        checkpoint_seconds, watch_seconds: between two writes, and between two calls of watch, which ends it too.
        ema: decay of the exponential moving average of the weights; 0: none. clip: largest norm of the gradient.
        seconds: wall-clock budget over all resumed pieces; the schedule is the further of step and time.
        rate: fraction of the training done -> learning rate. title: name on the bar.
        watch: (module in eval mode, averaged) -> numbers for the history; takes nothing off the budget.
        phases: fractions at which the loss changes form; within a phase it depends on batch and weights alone.
    Returns:
        about 100 rows {"step", "loss", "lr", "seconds"}, and one for each call of watch with its numbers.
    Raises:
        FloatingPointError: the loss became NaN or infinite; the last good checkpoint stays.
    """
    module.to(fabric.device)
    identity = ""
    if checkpoint:
        settings = steps, lr, ema, clip, fabric.world_size, title, _sampled(rate, steps)
        identity = _identity(module, batches, settings)
    kept = _Checkpoint(checkpoint, identity, seconds=checkpoint_seconds)
    learner = _Learner(module, loss=loss, fabric=fabric, lr=lr, ema=ema, clip=clip, phases=phases, title=title)
    run = _Run(learner, batches, kept, steps=steps, seconds=seconds, rate=rate or partial(learning_rate, peak=lr))
    return run.finish(watch, seconds=watch_seconds)


class _Learner:
    """A module with its optimiser and its average; a call is one step."""

    def __init__(self, module: nn.Module, *, loss, fabric: "Fabric", lr: float, ema: float, clip: float, phases, title):
        self.module, self.loss, self.fabric, self.lr = module, loss, fabric, lr
        self.clip, self.phases, self.title = clip, phases, title
        self.replays = fabric.device.type == "cuda" and fabric.world_size == 1
        rate = torch.tensor(lr, device=fabric.device) if self.replays else lr  # a graph reads the rate from the GPU
        adam = torch.optim.Adam(module.parameters(), rate, betas=(0.9, 0.99), fused=True, capturable=self.replays)
        self.wrapped, self.optimizer = fabric.setup(module, adam)
        self.average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
        self.replayed = ReplayedStep(self._advance) if self.replays else None

    def __call__(self, batch: Batch, *, fraction: float, rate: float, where: str) -> Tensor:
        """The loss of a batch, and the step that it asks for.

        Args:
            where: step and checkpoint, for the error message.
        """
        self.fraction, self.where = fraction, where
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"].fill_(rate) if self.replays else rate
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        batch = {name: self.fabric.to_device(tensor[rank::processes]) for name, tensor in batch.items()}
        phase = sum(fraction >= end for end in self.phases)
        value = self.replayed(batch, form=phase) if self.replays else self._advance(batch)
        if self.average:
            self.average.update_parameters(self.module)
        return value

    def _advance(self, batch: Batch) -> Tensor:
        value = self.loss(self.wrapped, batch, self.fraction)
        if not self.replays:
            self.check(value)
        self.optimizer.zero_grad()
        self.fabric.backward(value)
        norm = {"max_norm": self.clip, "error_if_nonfinite": not self.replays}
        self.fabric.clip_gradients(self.wrapped, self.optimizer, **norm)
        self.optimizer.step()
        return value

    def check(self, value: Tensor) -> None:
        if not torch.isfinite(value):
            remedy = f"lower lr (now {self.lr:g}) or look for NaN pixels"
            raise FloatingPointError(f"{self.title}: the loss is {value.item()} at {self.where}; {remedy}.")

    def watched(self, watch: Callable[[nn.Module], dict]) -> dict:
        """What watch says of the module in eval mode, averaged."""
        module = self.average.module if self.average else self.module
        training = module.training
        module.eval()
        with torch.no_grad():
            numbers = watch(module)
        module.train(training)
        return numbers

    def state(self) -> dict:
        average = self.average and self.average.state_dict()
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "average": average}

    def resume(self, state: dict) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups if self.replays else ():
            group["lr"] = group["lr"].to(self.fabric.device)
        if self.average:
            self.average.load_state_dict(state["average"])


class _Run:
    """Steps taken, time spent and history of a training; all of it is in the checkpoint."""

    def __init__(self, learner: _Learner, batches, kept: "_Checkpoint", *, steps: int, seconds: float, rate):
        self.learner, self.batches, self.kept = learner, batches, kept
        self.steps, self.seconds, self.rate = steps, seconds, rate
        self.step, self.spent, self.history = 0, 0.0, []
        saved = kept.load()
        if saved:
            learner.resume(saved)
            self.step, self.spent, self.history = saved["step"], saved["spent"], saved["history"]

    @property
    def fraction(self) -> float:
        return max(self.step / self.steps, self.spent / self.seconds)

    def finish(self, watch: Callable[[nn.Module], dict] | None, *, seconds: float) -> list[dict]:
        """Take the steps that are left; watch is called every so many seconds."""
        learner, first = self.learner, self.learner.fabric.is_global_zero
        start, watched, every = time.monotonic() - self.spent, self.spent, max(1, self.steps // 100)
        form = {"desc": learner.title, "file": sys.stderr, "mininterval": 2, "ncols": 100, "disable": not first}
        with tqdm(total=self.steps, initial=self.step, **form) as bar:
            while self.step < self.steps and self.spent < self.seconds:
                rate, where = self.rate(self.fraction), f"step {self.step}; {self.kept}"
                value = learner(self.batches(self.step), fraction=self.fraction, rate=rate, where=where)
                self.step, self.spent = self.step + 1, time.monotonic() - start
                ended = self.step == self.steps or self.spent >= self.seconds
                saves = ended or self.kept.due()
                if learner.replays and (saves or self.step % UNREAD == 0):
                    learner.check(value)
                if watch and first and (ended or self.spent - watched >= seconds):
                    self._note(value, rate, learner.watched(watch))
                    start, watched = time.monotonic() - self.spent, self.spent
                elif ended or self.step % every == 0 or self.spent / self.seconds >= (len(self.history) + 1) / 100:
                    self._note(value, rate, {})
                    bar.set_postfix_str(f"loss {value.item():.4f}", refresh=False)
                bar.total = min(self.steps, round(self.step / self.fraction))  # as many as the clock will allow
                bar.update()
                if saves and first:
                    self.kept.save(learner.state() | {"step": self.step, "spent": self.spent, "history": self.history})
        if learner.average:
            learner.module.load_state_dict(learner.average.module.state_dict())
        return self.history

    def _note(self, value: Tensor, rate: float, numbers: dict) -> None:
        row = {"step": self.step, "loss": value.item(), "lr": rate, "seconds": round(self.spent, 2)}
        self.history.append(row | numbers)


class _Checkpoint:
    """The file that a training goes on from; path None: none is read or written."""

    def __init__(self, path: str | Path | None, identity: str, *, seconds: float):
        self.path, self.identity, self.seconds, self.written = path and Path(path), identity, seconds, time.monotonic()

    def __str__(self) -> str:
        return f"the last good checkpoint is {self.path}" if self.path else "no checkpoint was asked for"

    def due(self) -> bool:
        return time.monotonic() - self.written > self.seconds

    def save(self, state: dict) -> None:
        if self.path:
            write_atomically(self.path, partial(torch.save, state | {"identity": self.identity}))
        self.written = time.monotonic()

    def load(self) -> dict | None:
        if not self.path or not self.path.is_file():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # the bytes of another format can raise anything in the unpickler
            saved = None
        if not isinstance(saved, dict) or "identity" not in saved:
            reason = "is no checkpoint of this version"
        elif saved["identity"] != self.identity:
            reason = "belongs to another training (code, data or settings differ)"
        else:
            print(f"going on from step {saved['step']} of {self.path.name}", file=sys.stderr)
            return saved
        print(f"{self.path.name} {reason}: starting from step 0", file=sys.stderr)
        return None


def code_hash() -> str:
    """SHA-256 of the package's own sources, hexadecimal: a checkpoint of other code is not resumed."""
    digest, root = hashlib.sha256(), Path(str(files("mptpn")))
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode() + source.read_bytes())
    return digest.hexdigest()


def _sampled(rate: Callable[[float], float] | None, steps: int) -> list[float] | None:
    count = min(steps, 100_000)
    return [rate(k / count) for k in range(count)] if rate else None


def _identity(module: nn.Module, batches: Callable[[int], Batch], settings: tuple) -> str:
    """Hash of code, weights, construction of the module, first batch and settings."""
    named = ((path, *item) for path, part in module.named_modules() for item in vars(part).items())
    plain = [(path, name, value) for path, name, value in named if name not in FREE and type(value) in PLAIN]
    built = [(path, name, float(value) if type(value) is int else value) for path, name, value in plain]
    digest = hashlib.sha256(repr((settings, built, code_hash(), torch.__version__)).encode())
    for name, tensor in [*module.state_dict().items(), *module.named_buffers(), *batches(0).items()]:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
