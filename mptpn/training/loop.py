"""One training loop for every stage: resumable, watched by a progress bar, on whatever devices Lightning Fabric was
given.
"""

import copy
import hashlib
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from mptpn.atomic import write_atomically
from mptpn.training.cuda_graph import Batch, ReplayedStep

PLAIN = (bool, int, float, str, tuple)  # attributes of a module that say how it was built
# those that do not change what is learned: a training may go on with another kernel, or with less memory
FREE = ("training", "backend", "recompute")
UNREAD = 10  # steps of a replayed CUDA graph between two looks at the loss: reading it makes the GPU wait


def launch(
    *, accelerator: str = "cpu", devices: int = 1, nodes: int = 1, precision: str = "32-true", threads: int = 0
) -> Fabric:
    """Start Fabric: device, number of processes and arithmetic are its business.

    Args:
        accelerator: "cpu", "cuda" or "auto".
        devices, nodes: processes a node and nodes.
        precision: Fabric's names, for example "32-true" or "bf16-mixed" (on a CPU bfloat16 is slower than float32).
        threads: CPU threads of this process; 0 leaves PyTorch's choice. The same number gives the same result.
    Raises:
        RuntimeError: CUDA is asked for and there is none.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            'accelerator="cuda": PyTorch finds no CUDA device here; choose accelerator="cpu" or run on a machine with a GPU.'
        )
    if threads:
        torch.set_num_threads(threads)
    # stage 1 freezes its mean for a while; those weights have no gradient then, and several processes must not wait for
    # it
    strategy = "auto" if devices == nodes == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric


def learning_rate(fraction: float, *, peak: float, warmup: float = 0.05) -> float:
    """Linear warm-up over the first `warmup` of the training, then half a cosine down to 1 % of the peak; fraction is
    0..1.
    """
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
    fabric: Fabric,
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
    """Train a module in place with Adam and return its history; a killed training goes on from its checkpoint to the
    same weights.

    On a single GPU the step is captured as a CUDA graph and replayed.

    Args:
        module: trained in place; ends with the averaged weights when ema > 0.
        loss: (module, batch, fraction of the training done) -> scalar; called on this process's share of a batch; reads
            nothing back from a GPU.
        batches: step -> batch, a dict of tensors with the batch along axis 0; a function of step alone, so that a
            resumed run sees the same data.
        steps: optimiser steps in all.
        lr: peak learning rate, see learning_rate; not used where rate is given.
        fabric: from launch().
        checkpoint: side file to resume from and to write to; None: no resume. It is used only if it belongs to this
            very training: same code, weights, data and settings.
        checkpoint_seconds: time between two writes.
        ema: decay of the exponential moving average of the weights; 0: none.
        clip: largest norm of the gradient.
        seconds: wall-clock budget, over all resumed pieces; the schedule is then the further of step and time. Results
            depend on the machine when finite.
        rate: fraction of the training done -> learning rate; None: learning_rate.
        watch: (module in eval mode, with the averaged weights when ema > 0) -> numbers to note in the history; it takes
            nothing off the budget.
        watch_seconds: time between two looks; there is one at the end too.
        phases: fractions at which the loss takes another form; within a phase it depends on batch and weights alone.
        title: name on the bar.
    Returns:
        [{"step", "loss", "lr", "seconds"}, ...], about 100 rows, and one for each look with the noted numbers beside
        these.
    Raises:
        FloatingPointError: the loss became NaN or infinite; the last good checkpoint stays.
    """
    module.to(fabric.device)
    replays = fabric.device.type == "cuda" and fabric.world_size == 1
    first_rate = torch.tensor(lr, device=fabric.device) if replays else lr  # a graph reads the rate from the GPU
    optimizer = torch.optim.Adam(module.parameters(), lr=first_rate, betas=(0.9, 0.99), fused=True, capturable=replays)
    rates = [rate(k / min(steps, 100_000)) for k in range(min(steps, 100_000))] if rate else None
    identity = _identity(module, batches, (steps, lr, ema, clip, fabric.world_size, title, rates))
    wrapped, optimizer = fabric.setup(module, optimizer)
    average = copy.deepcopy(module) if ema else None
    rate = rate or partial(learning_rate, peak=lr)
    step, spent, history, every = 0, 0.0, [], max(1, steps // 100)
    saved = _load(checkpoint, identity)
    if saved:
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        for group in optimizer.param_groups if replays else []:
            group["lr"] = group["lr"].to(fabric.device)
        if average:
            average.load_state_dict(saved["average"])
        step, spent, history = saved["step"], saved["spent"], saved["history"]

    def advance(batch: Batch) -> Tensor:
        value = loss(wrapped, batch, fraction)
        if not replays:
            check(value)
        optimizer.zero_grad()
        fabric.backward(value)
        fabric.clip_gradients(wrapped, optimizer, max_norm=clip, error_if_nonfinite=not replays)
        optimizer.step()
        if average:
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - ema if step else 1.0)
        return value

    def check(value: Tensor) -> None:
        if not torch.isfinite(value):
            where = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was asked for"
            raise FloatingPointError(
                f"{title}: the loss is {value.item()} at step {step}; {where}; lower lr (now {lr:g}) or look for NaN pixels."
            )

    def save() -> None:
        if checkpoint is not None and fabric.is_global_zero:
            parts = {
                "identity": identity,
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average and average.state_dict(),
            }
            _write(checkpoint, parts | {"step": step, "spent": spent, "history": history})

    def note(looked: dict) -> None:
        history.append({"step": step, "loss": value.item(), "lr": now, "seconds": round(spent, 2)} | looked)

    def look() -> dict:
        seen = average or module
        training, _ = seen.training, seen.eval()
        with torch.no_grad():
            looked = watch(seen)
        seen.train(training)
        return looked

    replayed = ReplayedStep(advance) if replays else None
    start, written, looked_at = time.monotonic() - spent, time.monotonic(), spent
    with tqdm(
        total=steps,
        initial=step,
        desc=title,
        file=sys.stderr,
        mininterval=2,
        dynamic_ncols=False,
        ncols=100,
        disable=not fabric.is_global_zero,
    ) as bar:
        while step < steps and spent < seconds:
            fraction = max(step / steps, spent / seconds)
            now = rate(fraction)
            for group in optimizer.param_groups:
                if replays:
                    group["lr"].fill_(now)
                else:
                    group["lr"] = now
            batch = {
                key: fabric.to_device(value[fabric.global_rank :: fabric.world_size])
                for key, value in batches(step).items()
            }
            value = replayed(batch, form=sum(fraction >= end for end in phases)) if replays else advance(batch)
            step, spent = step + 1, time.monotonic() - start
            ended = step == steps or spent >= seconds
            saves = ended or time.monotonic() - written > checkpoint_seconds
            if replays and (saves or step % UNREAD == 0):
                check(value)
            if watch and fabric.is_global_zero and (ended or spent - looked_at >= watch_seconds):
                note(look())
                start, looked_at = time.monotonic() - spent, spent
            elif ended or step % every == 0 or spent / seconds >= (len(history) + 1) / 100:
                note({})
                bar.set_postfix_str(f"loss {value.item():.4f}", refresh=False)
            # as many steps as the clock will allow
            bar.total = min(steps, round(step / max(step / steps, spent / seconds)))
            bar.update()
            if saves:
                save()
                written = time.monotonic()
    if average:
        module.load_state_dict(average.state_dict())
    return history


def code_hash() -> str:
    """SHA-256 of the package's own sources, hexadecimal: a checkpoint of other code is not resumed."""
    digest = hashlib.sha256()
    root = Path(str(files("mptpn")))
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode() + source.read_bytes())
    return digest.hexdigest()


def _identity(module: nn.Module, batches: Callable[[int], Batch], settings: tuple) -> str:
    plain = (
        (path, *item)
        for path, part in module.named_modules()
        for item in vars(part).items()
        if item[0] not in FREE and type(item[1]) in PLAIN
    )
    built = [(path, name, float(value) if type(value) is int else value) for path, name, value in plain]
    digest = hashlib.sha256(repr((settings, built, code_hash(), torch.__version__)).encode())
    for name, tensor in [*module.state_dict().items(), *module.named_buffers(), *batches(0).items()]:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(checkpoint: str | Path | None, identity: str) -> dict | None:
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["identity"] != identity:
        print(
            f"{Path(checkpoint).name} belongs to another training (code, data or settings differ): starting from step 0",
            file=sys.stderr,
        )
        return None
    print(f"going on from step {saved['step']} of {Path(checkpoint).name}", file=sys.stderr)
    return saved


def _write(checkpoint: str | Path, parts: dict) -> None:
    write_atomically(checkpoint, lambda temporary: torch.save(parts, temporary))
