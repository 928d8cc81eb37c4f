"""Power spectra of patches."""

import torch
from torch import Tensor


def radial_spectrum(patches: Tensor, *, noise_variance: Tensor | float = 0.0) -> tuple[list[float], list[float]]:
    """Mean power spectrum of square patches over rings of frequency, white noise taken off.

    Args:
        patches: [N, 1, P, P]; each is centred and tapered by a Hann window.
        noise_variance: white noise in each patch, [N] or a number, intensity squared.
    Returns:
        frequencies (cycles / px, up to 0.5) and powers as shares of the whole content's variance, one for each ring; a
        ring can be negative where noise is nearly all there is.
    """
    side = patches.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    window = window / window.square().mean().sqrt()
    centred = patches.double() - patches.double().mean(dim=(2, 3), keepdim=True)
    # [N, P, P]; white noise of variance v has power v
    power = torch.fft.fft2(centred * window).abs().square().mean(dim=1) / side**2
    power = (power - torch.as_tensor(noise_variance, dtype=torch.float64).reshape(-1, 1, 1)).mean(dim=0)
    along = torch.fft.fftfreq(side, dtype=torch.float64)
    ring = ((along[:, None] ** 2 + along**2).sqrt() * side).round().long()
    rings = range(1, side // 2 + 1)
    values = [float(power[ring == r].mean() / power.mean()) for r in rings]
    return [r / side for r in rings], values
