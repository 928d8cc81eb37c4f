"""Answers of a prompt network as a table and as a picture: prompts x images."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mptpn.metrics import dice
from mptpn.segmentation import Answer, AskBack, Example, Segmenter, parse
from support.figures import WIDTH, show

RED = np.array([1.0, 0.15, 0.1])


def ask_all(
    segmenter: Segmenter, examples: Sequence[Example], prompts: Sequence[str]
) -> tuple[pd.DataFrame, dict[tuple[str, str], Answer]]:
    """Every image asked with every prompt.

    Returns:
        rows image, kind, prompt, here (whether the image has it), found, share (of the pixels in the mask), presence,
        dice (NaN where the truth is empty); and the answers by image and prompt. What is asked back has no row.
    """
    rows, answers = [], {}
    for example in examples:
        image = example.image[0].float().permute(1, 2, 0).numpy()
        for text in prompts:
            try:
                prompt = parse(text, segmenter.targets)
            except AskBack:
                continue
            answer = answers[example.name, text] = segmenter.ask(image, prompt)
            words = prompt.target.words if prompt.target else ()
            here = example.has(words)
            overlap = dice(answer.mask, example.masks[words][0, 0].numpy()) if here else np.nan
            row = {"image": example.name, "kind": example.group, "prompt": text, "here": here, "found": answer.found}
            rows.append(row | {"share": answer.mask.mean(), "presence": answer.presence, "dice": overlap})
    return pd.DataFrame(rows), answers


def empty_share(table: pd.DataFrame) -> float:
    """Share of the questions about what an image does not have whose mask is empty, less than 0.1 % of the pixels."""
    absent = table[~table.here]
    return float((absent.share < 0.001).mean())


def matrix(
    examples: Sequence[Example], prompts: Sequence[str], answers: dict[tuple[str, str], Answer], *, titles=None
) -> Figure:
    """Images down, prompts across; the mask in red, and the words *not found* where there is none."""
    shape = (len(examples), len(prompts) + 1)
    size = (WIDTH, WIDTH * shape[0] / shape[1] + 0.3)
    fig, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        picture = example.image[0].float().permute(1, 2, 0).numpy().clip(0, 1)
        show(row[0], picture)
        for ax, prompt in zip(row[1:], prompts, strict=True):
            answer = answers[example.name, prompt]
            inside = answer.mask[..., None]
            show(ax, np.where(inside, 0.45 * picture + 0.55 * RED, picture if answer.found else 0.6 + 0.4 * picture))
            if not answer.found:
                ax.text(0.5, 0.5, "not found", ha="center", va="center", transform=ax.transAxes, fontsize=8)
    for ax, title in zip(axes[0], ["image", *(titles or prompts)], strict=True):
        ax.set_title(fill(title, 13), fontsize=7)
    return fig
