"""Whether the default harms an image that has hardly any noise: python -m support.no_harm OUT.csv, from notebooks/.

Every fourth image of BSD68 and slices of clean MR, under white noise of 0 to 2 gray levels of 255.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch

from mptpn.inference import NoisyImages, assess
from mptpn.random import generator
from support import datasets

SIGMAS = (0.0, 0.5, 1.0, 2.0)


def images() -> Iterator[tuple[str, str, np.ndarray]]:
    """Set, name and clean image [H, W], 0..255."""
    for image in datasets.awgn("bsd68")[::4]:
        yield "BSD68", image.name, image.pixels[0, 0].double().numpy() * 255
    for path in sorted(Path(datasets.home(), "mr_volumes_clean").glob("*.nii.gz")):
        volume = np.asanyarray(nibabel.load(path).dataobj).astype(float)
        for share in (0.4, 0.5, 0.6):
            slice_ = volume[:, :, int(share * volume.shape[2])]
            yield "MR", f"{path.name} {share}", slice_ / slice_.max() * 255


def row(noisy: np.ndarray, clean: np.ndarray) -> dict:
    """Gain in PSNR, dB, as applied and of all of the change; about -300 where an image without noise is changed."""
    denoiser = NoisyImages.of([noisy]).prepare()
    prediction = denoiser.predict(noisy, uncertainty=False)
    found = assess(denoiser, noisy, prediction)
    before = np.mean((noisy - clean) ** 2)

    def gained(share: float) -> float:
        after = np.mean((prediction.applied(noisy, share)[0] - clean) ** 2)
        return 0.0 if after == before else float(10 * np.log10(max(before, 1e-30) / after))

    texture = found.quality["texture"].value
    about = {"found_sigma": denoiser.noise.sigma, "looks_like_noise": texture, "applied": found.share}
    return about | {"gain_db": gained(found.share), "gain_of_all_db": gained(1.0), "verdict": found.verdict}


def main(out: str) -> None:
    rows = []
    for name, image, clean in images():
        for sigma in SIGMAS:
            field = torch.randn(clean.shape, generator=generator(name, image, str(sigma)), dtype=torch.float64)
            noisy = clean + sigma * field.numpy()
            rows.append({"set": name, "image": image, "sigma": sigma} | row(noisy, clean))
    table = pd.DataFrame(rows)
    table.to_csv(out, index=False)
    harmed = table.assign(harmed=table.gain_db < -0.1, all_harmed=table.gain_of_all_db < -0.1)
    print(harmed.groupby(["set", "sigma"])[["gain_db", "gain_of_all_db", "harmed", "all_harmed"]].mean().round(2))


if __name__ == "__main__":
    main(sys.argv[1])
