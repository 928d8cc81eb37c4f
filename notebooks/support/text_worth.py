"""What the text is worth: trainings that differ in one thing: python -m support.text_worth OUT.csv [BERT folder]."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mptpn.filters import turned, turned_back
from mptpn.metrics import dice
from mptpn.networks import SegmentationNetwork
from mptpn.random import seeded
from mptpn.segmentation import Crops, Example
from mptpn.segmentation.encoders import OWN, PretrainedWords
from mptpn.segmentation.pretraining import pretrain
from mptpn.segmentation.training import PromptLoss, with_own_statistics
from mptpn.segmentation.words import Words, word_numbers
from mptpn.training import fit, launch
from support import datasets, segmentation_sets, text_worth_sets
from support.figures import write_table
from support.segmentation_scores import PARAPHRASES

LENGTH = 10  # words of a sentence of MoNuSeg, and of the published network
LONG = 20  # of BUSI
# the overview and linear patches lose Dice (notebook 14); the rows of notebook 13 differ in other things and have both
SMALL = {"width": 8, "text_width": 32, "overview": True, "linear_patches": True}
SEEDS = (0, 1, 2)
VARIANTS = {  # of the network on MoNuSeg, trained with its own sentences
    "published": {"published": True, "overview": False},
    "repaired, as many parameters": {"width": 20, "text_width": 48},
    "without fusion": {"fusion": False},
    "without gates": {"gates": False},
    "pretrained on images": {},
    "pretrained on images and captions": {},
}
CELLS = ("white blood cell nucleus", "white blood cell cytoplasm", "white blood cell")
TYPOS = {  # two neighbouring letters swapped, one left out, one doubled
    CELLS[0]: ("white blood cell nucelus", "white blood cell nuclus", "white blood cell nuccleus"),
    CELLS[1]: ("white blood cell cytoplsam", "white blood cell cytplasm", "white blood cell cytopplasm"),
    CELLS[2]: ("whiet blood cell", "white blod cell", "white blood celll"),
}


@dataclass(frozen=True)
class Job:
    """One training and its questions.

    Attributes:
        experiment: "drawn", "text", "network", "ladder" or "encoder".
        variant: what differs within the experiment. seed: of weights and batches.
        steps, batch: budget.
    """

    experiment: str
    variant: str
    seed: int = 0
    steps: int = 100
    batch: int = 2

    @property
    def key(self) -> tuple:
        """What tells a finished job from another."""
        return self.experiment, self.variant, self.seed, self.steps, self.batch


def all_jobs(seeds: Sequence[int] = SEEDS, *, long: bool = True, bert: str = "") -> list[Job]:
    """Every run of the table, a seed at a time.

    Args:
        long: pretraining too.
        bert: folder of a BERT model; "": without.
    """
    found = []
    for seed in seeds:
        found += [Job("text", text, seed) for text in text_worth_sets.TEXTS if text != "contrary"]
        found += [Job("network", name, seed) for name in VARIANTS if long or not name.startswith("pretrained")]
        found += [Job("encoder", name, seed, 50, 8) for name in (OWN, "wordllama", *([bert] if bert else []))]
        found += [Job("ladder", level, seed, 40, 8) for level in text_worth_sets.LEVELS]
    return found


def run(jobs: Sequence[Job], path: Path, tell: Callable[[str], object] = print) -> pd.DataFrame:
    """Do the jobs that a table does not hold yet, and write it after each.

    Returns:
        rows experiment, variant, seed, steps, batch, test, image, dice, parameters, seconds: one for each question.
    """
    table = pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame()
    keys = ["experiment", "variant", "seed", "steps", "batch"]
    done = set(table[keys].itertuples(index=False, name=None)) if len(table) else set()
    for job in jobs:
        if _named(job).key in done:
            continue
        started, cpu = time.monotonic(), time.process_time()
        rows, parameters = DO[job.experiment](job)
        about = dict(zip(keys, _named(job).key, strict=True))
        about |= {"parameters": parameters, "seconds": round(time.process_time() - cpu, 1)}
        new = pd.DataFrame([about | dict(zip(("test", "image", "dice"), row, strict=True)) for row in rows])
        table = pd.concat([table, new], ignore_index=True)
        write_table(path, table)
        tell(f"{job.experiment} {job.variant} {job.seed}: {new.dice.mean():.3f}, {time.monotonic() - started:.0f} s")
    return table


def _named(job: Job) -> Job:
    """A folder is no name for a table."""
    return replace(job, variant="bert") if Path(job.variant).is_dir() else job


def network(words: Sequence[str], seed: int, **settings) -> SegmentationNetwork:
    """A small network with weights drawn from a seed."""
    with seeded(seed):
        return SegmentationNetwork(tuple(words), **SMALL | settings)


def counted(net: SegmentationNetwork) -> int:
    """Parameters that the mask depends on: all but those of the judgement of presence and of the word vectors."""
    return sum(p.numel() for name, p in net.named_parameters() if name.split(".")[0] not in ("judge", "ask", "vectors"))


def learn(net: SegmentationNetwork, examples, prompts: Sequence[Words], questions: Tensor, job: Job, **crops):
    """Train; the averaged weights with their own statistics. No validation image has a say in anything."""
    crops = Crops(examples, prompts=prompts, batch=job.batch, absent=0, seed=job.seed, **crops)
    module, kept = PromptLoss(net.to(memory_format=torch.channels_last), questions).train(), []

    def watch(averaged: PromptLoss) -> dict:
        kept[:] = [with_own_statistics(averaged, crops)]
        return {}

    settings = {"steps": job.steps, "lr": 4e-3, "ema": 0.95, "watch": watch, "watch_seconds": 1e9, "title": job.variant}
    fabric = launch(precision="bf16-mixed", threads=1)
    fit(module, loss=lambda learner, data, _: learner(**data), batches=crops, fabric=fabric, **settings)
    return kept[0].float()


def numbers(prompts: Sequence[Words], net: SegmentationNetwork, length: int) -> Tensor:
    """Word numbers [P, length]; words that the network does not have are left out."""
    known = [tuple(word for word in words if word in net.words)[:length] for words in prompts]
    return torch.stack([word_numbers(words, net.words, length=length) for words in known])


@torch.no_grad()
def overlap(net: SegmentationNetwork, example: Example, text: Tensor, truth: Tensor, *, turns: int = 1) -> float:
    """Dice of the mask for word vectors [1, T, D]; turns: orientations whose probabilities are averaged."""
    found = 0
    for turn in range(turns):
        seen = turned(example.image.float(), turn).contiguous(memory_format=torch.channels_last)
        found = found + turned_back(net(seen, text).sigmoid(), turn)
    return dice((found / turns >= 0.5)[0, 0].numpy(), truth[0, 0].numpy())


def _sentences(net: SegmentationNetwork, job: Job, training, tests: dict[str, list[Example]], length: int) -> list:
    training, prompts = text_worth_sets.with_prompts(training)
    net = learn(net, training, prompts, numbers(prompts, net, length), job, side=training[0].image.shape[2])
    rows = []
    for name, examples in tests.items():
        for example in examples:
            ((words, truth),) = example.masks.items()
            text = net.read(numbers([words], net, length))
            rows.append((name, example.name, overlap(net, example, text, truth)))
    return rows


def _text(job: Job) -> tuple[Iterator, int]:
    """Text at training by text at test, on MoNuSeg or on drawn cells."""
    make = text_worth_sets.drawn if job.experiment == "drawn" else text_worth_sets.histology
    training = make("train", job.variant, seed=job.seed)
    tests = {text: make("val", text, seed=job.seed) for text in text_worth_sets.TEXTS}
    net = network(text_worth_sets.vocabulary(make("train", "own"), make("val", "own")), job.seed)
    return _sentences(net, job, training, tests, LENGTH), counted(net)


def _network(job: Job) -> tuple[Iterator, int]:
    """Another network or another start, with its own sentences on MoNuSeg."""
    make = text_worth_sets.histology
    words = text_worth_sets.vocabulary(make("train", "own"), make("val", "own"))
    net = network(words, job.seed, **VARIANTS[job.variant])
    if job.variant.startswith("pretrained"):
        photographs = [image.array for image in datasets.natural("train", colour=True)[:60]]
        photographs = [segmentation_sets.as_input(np.asarray(a).squeeze()).float() for a in photographs]
        settings = {"steps": 200, "batch": 8, "seed": job.seed, "fabric": launch(precision="bf16-mixed", threads=1)}
        pretrain(net, photographs, captions=job.variant.endswith("captions"), **settings)
    tests = {text: make("val", text, seed=job.seed) for text in ("own", "none", "nonsense")}
    return _sentences(net, job, make("train", "own"), tests, LENGTH), counted(net)


def _ladder(job: Job) -> tuple[Iterator, int]:
    """A level of BUSI's prompts at training and at test."""
    training, test = (text_worth_sets.breast(split, job.variant) for split in ("train", "val"))
    net = network(text_worth_sets.vocabulary(training), job.seed)
    return _sentences(net, job, training, {job.variant: test}, LONG), counted(net)


def _encoder(job: Job) -> tuple[Iterator, int]:
    """White blood cells, three names; asked with these, with paraphrases and with typos, and nothing refuses."""
    words = [tuple(name.split()) for name in CELLS]
    truths = (segmentation_sets.WHITE_NUCLEUS, segmentation_sets.CYTOPLASM, segmentation_sets.WHITE_CELL)
    examples = {}
    for split in ("train", "val"):
        cells = [text_worth_sets.resized(e, 96) for e in segmentation_sets.white_cells(split)]
        examples[split] = [replace(e, masks=dict(zip(words, map(e.masks.get, truths), strict=True))) for e in cells]
    reader = None if job.variant == OWN else PretrainedWords(job.variant)
    vocabulary = () if reader else sorted({word for name in words for word in name})
    net = network(vocabulary, job.seed, **({"text_width": reader.width} if reader else {}))
    questions = reader.together(list(CELLS)) if reader else numbers(words, net, LENGTH)
    net, rows = learn(net, examples["train"], words, questions, job, side=96), []
    for name, known in zip(CELLS, words, strict=True):
        for kind, texts in {"name": (name,), "paraphrase": PARAPHRASES[name], "typo": TYPOS[name]}.items():
            for text in texts:
                vectors = reader(text)[None] if reader else net.read(numbers([text.lower().split()], net, LENGTH))
                found = [overlap(net, e, vectors, e.masks[known]) for e in examples["val"][::4]]
                rows.append((kind, f"{name}: {text}", float(np.mean(found))))
    return rows, counted(net)


DO = {"drawn": _text, "text": _text, "network": _network, "ladder": _ladder, "encoder": _encoder}


if __name__ == "__main__":
    run(all_jobs(bert=sys.argv[2] if len(sys.argv) > 2 else ""), Path(sys.argv[1]))
