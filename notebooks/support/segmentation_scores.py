"""Scores of a prompt network on validation images: python -m support.segmentation_scores OUT [WEIGHTS]."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu
from skimage.restoration import denoise_nl_means

import mptpn
import mptpn.io
from mptpn.metrics import aggregated_jaccard, dice, hausdorff_95, iou
from mptpn.random import generator
from mptpn.segmentation import AskBack, Example, Segmenter, parse
from support import datasets, segmentation_sets
from support.figures import write_table

NONSENSE = (
    "purple elephants",
    "qwerty",
    "liver",
    "a red bicycle",
    "wisdom",
    "train station",
    "xyzzy plugh",
    "Zellkerne",
)
PARAPHRASES = {  # ten a target, written before the words of the lexicon were looked at again; none was trained on
    "nuclei": (
        "cell nuclei", "every nucleus", "the nuclei of all cells", "nuclear regions", "outline each cell nucleus",
        "chromatin", "DAPI stained nuclei", "please mark the dark cell nuclei", "where are the nuclei?", "nucleus mask",
    ),
    "vessels": (
        "blood vessels", "retinal vessels", "the vascular tree", "vasculature", "every blood vessel of the eye",
        "vessel network", "trace the vessels", "arteries and veins", "show me the retinal vasculature",
        "the vessel tree",
    ),
    "membranes": (
        "cell membranes", "the borders between cells", "plasma membranes", "membrane", "cell boundaries",
        "outlines of the cells", "dark membranes around cells", "trace each cell membrane", "cell walls",
        "cell borders",
    ),
    "cell interior": (
        "inside of the cells", "interior of cells", "the inside of each cell", "cell interiors", "intracellular space",
        "everything within the cells", "what lies inside the cells", "cell insides", "interiors", "the cell content",
    ),
    "breast lesion": (
        "tumor", "the tumour", "breast mass", "lesion in the breast", "nodule", "suspicious mass", "breast cancer",
        "abnormality", "where is the tumour?", "outline the breast lesion",
    ),
    "white blood cell nucleus": (
        "nucleus of the white blood cell", "leukocyte nucleus", "WBC nucleus", "white cell nucleus", "leucocyte nuclei",
        "the nucleus inside the white blood cell", "nuclei of white blood cells", "nucleus of the leukocyte",
        "nuclear part of the white blood cell", "dark nucleus of the white cell",
    ),
    "white blood cell cytoplasm": (
        "cytoplasm", "leukocyte cytoplasm", "cytoplasm of the white blood cell", "WBC cytoplasm", "cytosol",
        "white blood cell without its nucleus", "the pale cytoplasm", "cytoplasmic region", "white cell cytoplasm",
        "cytoplasm around the nucleus of the white blood cell",
    ),
    "white blood cell": (
        "whole white blood cell", "leukocyte", "WBC", "the entire white cell", "leucocytes", "white cells",
        "whole cell",
        "all white blood cells", "outline the leukocyte", "the complete white blood cell",
    ),
}  # fmt: skip
Picture = np.ndarray


def picture(example: Example) -> Picture:
    """[H, W, 3], float32, normalised."""
    return example.image[0].float().permute(1, 2, 0).numpy()


def overlaps(segmenter: Segmenter, examples: Sequence[Example], *, judged: bool = True) -> pd.DataFrame:
    """Every image that has a target, asked for it: rows set, target, image, dice, iou, hausdorff_95, both, total.

    judged: presence may refuse, and a target that is missed scores 0; otherwise the mask alone.
    """
    rows = []
    for example in examples:
        for target in segmenter.targets:
            if not example.has(target.words):
                continue
            truth = example.masks[target.words][0, 0].numpy()
            mask = _mask(segmenter, example, target, judged)
            row = {"set": example.group, "target": target.name, "image": example.name}
            row |= {"dice": dice(mask, truth), "iou": iou(mask, truth), "hausdorff_95": hausdorff_95(mask, truth)}
            rows.append(row | {"both": int((mask & truth).sum()), "total": int(mask.sum() + truth.sum())})
    return pd.DataFrame(rows)


def _mask(segmenter: Segmenter, example: Example, target, judged: bool) -> np.ndarray:
    if judged:
        return segmenter.ask(picture(example), target.name).mask
    image = example.image.float()
    return (segmenter.probability(image, target) >= target.threshold)[0, 0].numpy()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over images with its 95 % interval, and pooled over pixels, in columns of their own."""
    rows = []
    for (name, target), part in table.groupby(["set", "target"], sort=False):
        half = 1.96 * part.dice.std(ddof=1) / len(part) ** 0.5 if len(part) > 1 else np.nan
        row = {
            "set": name,
            "target": target,
            "images": len(part),
            "dice_mean": part.dice.mean(),
            "dice_half_width": half,
        }
        row |= {"iou_mean": part.iou.mean(), "hausdorff_95_median": part.hausdorff_95.median()}
        pooled = 2 * part.both.sum() / part.total.sum()
        rows.append(row | {"dice_pooled": pooled, "iou_pooled": pooled / (2 - pooled)})
    return pd.DataFrame(rows)


def not_here(segmenter: Segmenter, examples: Sequence[Example]) -> pd.DataFrame:
    """Every image asked for every target that it does not have, and for nonsense: rows set, prompt, image, share."""
    rows = []
    for example in examples:
        absent = [t.name for t in segmenter.targets if not example.has(t.words) and t.words not in example.unknown]
        for prompt in (*absent, *NONSENSE):
            answer = segmenter.ask(picture(example), prompt)
            row = {"set": example.group, "prompt": prompt, "nonsense": prompt in NONSENSE, "image": example.name}
            rows.append(row | {"share": answer.mask.mean(), "presence": answer.presence, "said": bool(answer.why)})
    return pd.DataFrame(rows)


def wording(segmenter: Segmenter) -> pd.DataFrame:
    """Ten paraphrases a target: whether each is understood; the mask is then exactly that of the known prompt."""
    rows = []
    for name, texts in PARAPHRASES.items():
        for text in texts:
            try:
                found = parse(text, segmenter.targets)
                heard = found.target.name if found.target else "not found"
                heard = "restricted" if found.place or found.size or found.count else heard
            except AskBack as sentence:
                heard = f"asked back: {sentence}"
            rows.append({"target": name, "prompt": text, "heard": heard, "understood": heard == name})
    return pd.DataFrame(rows)


def instances(segmenter: Segmenter) -> pd.DataFrame:
    """Numbered nuclei of DSB 2018 against the people's: rows image, kind, dice, aji, count, true_count."""
    rows = []
    for example in segmentation_sets.dsb("val"):
        truth = segmentation_sets.labels(example.name).astype(np.int64)
        found = segmenter.ask(picture(example), "nuclei").labels
        row = {"image": example.name, "kind": example.group, "dice": dice(found > 0, truth > 0)}
        rows.append(
            row
            | {"aji": aggregated_jaccard(found, truth), "count": found.max(), "true_count": len(np.unique(truth)) - 1}
        )
    return pd.DataFrame(rows)


def classic(image: Picture) -> np.ndarray:
    """Nuclei by stain unmixing and Otsu's threshold, [H, W], bool; of gray images by Otsu alone."""
    rgb = np.clip(image, 0, 1)
    level = rgb[..., 0] if segmentation_sets.is_gray(rgb) else ndimage.gaussian_filter(rgb2hed(rgb)[..., 0], 1)
    return level > threshold_otsu(level)


def denoise_first(
    segmenters: dict[str, Callable[[Picture], np.ndarray]],
    examples: Sequence[Example],
    *,
    sigmas=(25, 50),
    seed: int = 0,
) -> pd.DataFrame:
    """White noise of sigma (of 255) on images, a cure, then each segmenter: rows sigma, cure, segmenter, dice."""
    rows = []
    for sigma in sigmas:
        for number, example in enumerate(examples):
            clean = picture(example)
            draw = torch.randn(clean.shape, generator=generator(seed, "segmentation noise", sigma, number)).numpy()
            if segmentation_sets.is_gray(clean):
                draw = np.repeat(draw[..., :1], 3, 2)
            noisy = (clean + sigma / 255 * draw).astype(np.float32)
            truth = example.masks[segmentation_sets.NUCLEI][0, 0].numpy()
            for cure, image in _cures(clean, noisy, sigma / 255).items():
                for name, segment in segmenters.items():
                    row = {"sigma": sigma, "cure": cure, "segmenter": name, "set": example.group, "image": example.name}
                    rows.append(row | {"dice": dice(segment(image), truth)})
    return pd.DataFrame(rows)


def _cures(clean: Picture, noisy: Picture, sigma: float) -> dict[str, Picture]:
    """Blur of 1 and 2 px, non-local means that knows sigma, and mptpn.denoise that does not."""
    blurs = {f"blur {width} px": ndimage.gaussian_filter(noisy, (width, width, 0)) for width in (1, 2)}
    nlm = denoise_nl_means(
        noisy, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, fast_mode=True, channel_axis=2
    )
    gray = np.allclose(noisy[..., 0], noisy[..., 1])
    ours = mptpn.denoise(noisy[..., 0] if gray else noisy).image
    ours = np.repeat(ours[..., None], 3, 2) if gray else ours
    return {"clean": clean, "noisy": noisy, **blurs, "NLM": nlm.astype(np.float32), "mptpn denoise": ours}


def text_worth(segmenter: Segmenter, *, seed: int = 0) -> pd.DataFrame:
    """What the words are worth at test: rows set, text, image, dice of the target's truth, and answered.

    own: the image's sentence (MoNuSeg) or the target's name; shuffled: the sentence of the next image; nonsense: a
    prompt without a target. "network alone" is given no words (zeros), vectors drawn at random, or those of another
    target, with nothing that refuses.
    """
    rows, draw = [], generator(seed, "nonsense words")
    told = segmentation_sets.sentences("val")
    names = list(told)
    for example in (*segmentation_sets.monuseg("val"), *segmentation_sets.white_cells("val")):
        histology = example.group == "monuseg"
        target = segmenter.targets[0 if histology else 6]
        truth = example.masks[target.words][0, 0].numpy()
        asked = {"own": target.name, "nonsense": "purple elephants"}
        if histology:
            later = names[(names.index(example.name) + 1) % len(names)]
            asked |= {"own": told[example.name], "shuffled": told[later]}
        for text, prompt in asked.items():
            answer = segmenter.ask(picture(example), prompt)
            row = {
                "set": example.group,
                "text": text,
                "image": example.name,
                "answered": answer.prompt.target is not None,
            }
            rows.append(row | {"dice": dice(answer.mask, truth) if answer.prompt.target else np.nan})
        own = segmenter.text(target)
        vectors = {"own": own, "no words": torch.zeros_like(own), "other target": segmenter.text(segmenter.targets[5])}
        vectors |= {"random words": own.std() * torch.randn(own.shape, generator=draw)}
        for text, vector in vectors.items():
            mask = _with_words(segmenter, example, vector)
            row = {"set": example.group, "text": f"network alone, {text}", "image": example.name, "answered": True}
            rows.append(row | {"dice": dice(mask, truth)})
    return pd.DataFrame(rows)


@torch.no_grad()
def _with_words(segmenter: Segmenter, example: Example, vector: torch.Tensor) -> np.ndarray:
    image, network = example.image.float(), segmenter.network
    return (network(image, vector, network.look(image)) > 0)[0, 0].numpy()


def strangers() -> list[Example]:
    """Kinds of image that no training saw, none with a target: chest X-rays, head MR, standard photographs."""
    folder, found = datasets.home(), []
    for pattern, group in (
        ("cxr_hannover/*.png", "chest X-ray"),
        ("set14/**/*.png", "photographs"),
        ("mr_volumes_clean/*.nii.gz", "head MR"),
    ):
        for path in sorted(folder.glob(pattern))[:14]:
            pixels = mptpn.io.open_scan(path)
            array = pixels.read(pixels.middle).pixels
            found.append(Example(segmentation_sets.as_input(array), {}, group, name=path.stem))
    return found


def main(out: Path, weights: str = "segmentation") -> None:
    """Write every table into `out`, and print the short ones."""
    segmenter = Segmenter.load(weights)
    val = [e for name, group in segmentation_sets.GROUPS.items() if name != "others" for e in group("val")]
    mask_alone = overlaps(segmenter, [*val, *_shifted()], judged=False)
    judged = overlaps(segmenter, val)
    tables = {"overlap_mask_alone": mask_alone, "overlap_judged": judged, "instances": instances(segmenter)}
    tables |= {"not_here": not_here(segmenter, [*val, *segmentation_sets.others("val")]), "wording": wording(segmenter)}
    tables |= {"text_worth": text_worth(segmenter)}
    tables |= {"strangers": not_here(segmenter, strangers())}
    tables |= {"summary_mask_alone": summary(mask_alone), "summary_judged": summary(judged)}
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(tables["summary_mask_alone"].round(3), tables["summary_judged"].round(3), sep="\n")
        print(tables["instances"].groupby("kind")[["dice", "aji"]].mean().round(3))
        for name in ("not_here", "strangers"):
            table = tables[name].assign(nothing=tables[name].share < 0.001)
            print(name, table.groupby(["nonsense", "set"]).nothing.agg(["mean", "count"]).round(3), sep="\n")
            print(table.groupby("nonsense").nothing.agg(["mean", "count"]).round(4))
        print(tables["text_worth"].groupby(["set", "text"])[["dice", "answered"]].agg(["mean", "count"]).round(3))
        print(tables["wording"].groupby("target").understood.mean())


def _shifted() -> list[Example]:
    return [
        Example(e.image, e.masks, "white cells, other stain", name=e.name)
        for e in segmentation_sets.white_cells("shift")
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
