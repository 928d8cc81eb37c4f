"""One training loop for every stage: resumable, watched by a progress bar, on whatever devices Lightning Fabric was given."""

import hashlib
import math
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from mptpn.images import write_atomically

Batch = dict[str, Tensor]


def launch(*, accelerator: str = "cpu", devices: int = 1, nodes: int = 1, precision: str = "32-true", threads: int = 0) -> Fabric:
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
        raise RuntimeError('accelerator="cuda": PyTorch finds no CUDA device here; choose accelerator="cpu" or run on a machine with a GPU.')
    if threads:
        torch.set_num_threads(threads)
    # stage 1 freezes its mean for a while; those weights have no gradient then, and several processes must not wait for it
    strategy = "auto" if devices == nodes == 1 else "ddp_find_unused_parameters_true"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric


def learning_rate(fraction: float, *, peak: float, warmup: float = 0.05) -> float:
    """Linear warm-up over the first `warmup` of the training, then half a cosine down to 1 % of the peak; fraction is 0..1."""
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
    title: str = "training",
) -> list[dict]:
    """Train a module in place with Adam and return its history; a killed training goes on from its checkpoint to the same weights.

    Args:
        module: trained in place; ends with the averaged weights when ema > 0.
        loss: (module, batch, fraction of the training done) -> scalar; called on this process's share of a batch.
        batches: step -> batch, a dict of tensors with the batch along axis 0; a function of step alone, so that a resumed run sees the same data.
        steps: optimiser steps in all.
        lr: peak learning rate, see learning_rate.
        fabric: from launch().
        checkpoint: side file to resume from and to write to; None: no resume. It is used only if it belongs to this very training:
            same code, weights, data and settings.
        checkpoint_seconds: time between two writes.
        ema: decay of the exponential moving average of the weights; 0: none.
        clip: largest norm of the gradient.
        seconds: wall-clock budget, over all resumed pieces; the schedule is then the further of step and time. Results depend on the machine when finite.
        title: name on the bar.
    Returns:
        [{"step", "loss", "lr", "seconds"}, ...], about 100 rows.
    Raises:
        FloatingPointError: the loss became NaN or infinite; the last good checkpoint stays.
    """
    module.to(fabric.device)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    identity = _identity(module, batches, (steps, lr, ema, clip, fabric.world_size, title))
    wrapped, optimizer = fabric.setup(module, optimizer)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
    step, spent, history = 0, 0.0, []
    saved = _load(checkpoint, identity)
    if saved:
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        if average:
            average.load_state_dict(saved["average"])
        step, spent, history = saved["step"], saved["spent"], saved["history"]

    def save() -> None:
        if checkpoint is not None and fabric.is_global_zero:
            parts = {"identity": identity, "module": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average and average.state_dict()}
            _write(checkpoint, parts | {"step": step, "spent": spent, "history": history})

    start, written = time.monotonic() - spent, time.monotonic()
    with tqdm(total=steps, initial=step, desc=title, file=sys.stderr, mininterval=2, dynamic_ncols=False, ncols=100, disable=not fabric.is_global_zero) as bar:
        while step < steps and spent < seconds:
            fraction = max(step / steps, spent / seconds)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(fraction, peak=lr)
            batch = {key: fabric.to_device(value[fabric.global_rank :: fabric.world_size]) for key, value in batches(step).items()}
            value = loss(wrapped, batch, fraction)
            if not torch.isfinite(value):
                where = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint was asked for"
                raise FloatingPointError(f"{title}: the loss is {value.item()} at step {step}; {where}; lower lr (now {lr:g}) or look for NaN pixels.")
            optimizer.zero_grad()
            fabric.backward(value)
            fabric.clip_gradients(wrapped, optimizer, max_norm=clip)
            optimizer.step()
            if average:
                average.update_parameters(module)
            step, spent = step + 1, time.monotonic() - start
            if step % max(1, steps // 100) == 0 or step == steps:
                history.append({"step": step, "loss": value.item(), "lr": group["lr"], "seconds": round(spent, 2)})
                bar.set_postfix_str(f"loss {value.item():.4f}", refresh=False)
            bar.update()
            if time.monotonic() - written > checkpoint_seconds:
                save()
                written = time.monotonic()
    save()
    if average:
        module.load_state_dict(average.module.state_dict())
    return history


def code_hash() -> str:
    """SHA-256 of the package's own sources, hexadecimal: a checkpoint of other code is not resumed."""
    digest = hashlib.sha256()
    for source in sorted(files("mptpn").iterdir(), key=lambda f: f.name):
        if source.name.endswith(".py"):
            digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def _identity(module: nn.Module, batches: Callable[[int], Batch], settings: tuple) -> str:
    digest = hashlib.sha256(repr((settings, code_hash(), torch.__version__)).encode())
    for name, tensor in [*module.state_dict().items(), *batches(0).items()]:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _load(checkpoint: str | Path | None, identity: str) -> dict | None:
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if saved["identity"] != identity:
        print(f"{Path(checkpoint).name} belongs to another training (code, data or settings differ): starting from step 0", file=sys.stderr)
        return None
    print(f"going on from step {saved['step']} of {Path(checkpoint).name}", file=sys.stderr)
    return saved


def _write(checkpoint: str | Path, parts: dict) -> None:
    write_atomically(checkpoint, lambda temporary: torch.save(parts, temporary))
