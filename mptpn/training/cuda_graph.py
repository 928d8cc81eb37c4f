"""A training step that is captured once as a CUDA graph and then replayed: one launch for its thousands of kernels."""

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Batch = dict[str, Tensor]
WARM = 3  # steps that run as usual before the capture: they compile kernels and make the optimiser's state


class ReplayedStep:
    """Calls step(batch) as usual at first, then replays what it did on the GPU; the batches keep their shapes.

    Everything that decides what the step does, besides the numbers in the batch and in tensors that it reads, must be
    in `form`: where that changes, the step runs as usual again and is captured anew. The result of a replayed call is
    overwritten by the next.

    Args:
        step: batch -> loss; reads nothing back to the CPU.
    """

    def __init__(self, step: Callable[[Batch], Tensor]):
        self.step, self.form, self.usual, self.graph = step, None, 0, None
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, *, form: Hashable) -> Tensor:
        if form != self.form:
            self.form, self.usual, self.graph = form, 0, None
        if self.usual < WARM:
            self.usual += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                value = self.step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return value.detach()
        if self.graph is None:
            self.batch = {name: tensor.clone() for name, tensor in batch.items()}
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.value = self.step(self.batch).detach()
        for name, tensor in batch.items():
            self.batch[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.value
