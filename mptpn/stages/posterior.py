"""What the blind mean, its spread and the noise level say together: the likelihood to train on, the best estimate, and
how far to trust it.
"""

from torch import Tensor


def negative_log_likelihood(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> Tensor:
    """-log p(noisy | surroundings) at each pixel, up to a constant: (y - mu)^2 / 2(s_mu^2 + s_n^2) + log(s_mu^2 +
    s_n^2) / 2 (Wu et al. 2020, Eq. 7).

    Args:
        noisy, mean: [B, C, H, W].
        sigma_mu: standard deviation of the clean pixel given its surroundings, broadcast to noisy.
        sigma_n: standard deviation of the noise, broadcast to noisy.
    """
    variance = sigma_mu**2 + sigma_n**2
    return 0.5 * ((noisy - mean) ** 2 / variance + variance.log())


def constrained_negative_log_likelihood(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> Tensor:
    """An upper bound that tells sigma_mu from sigma_n: log(s_mu^2 + s_n^2) becomes log(s_n^2) + s_mu^2 / s_n^2 (Wu et
    al. 2020, Eq. 8).

    For the warm start only: its optimum s_mu^2 = sqrt(s_n^2 R) - s_n^2, R = E (y - mu)^2, is smaller than the true R -
    s_n^2. Arguments as in negative_log_likelihood.
    """
    return 0.5 * ((noisy - mean) ** 2 / (sigma_mu**2 + sigma_n**2) + 2 * sigma_n.log() + (sigma_mu / sigma_n) ** 2)


def fuse(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean (s_mu^2 y + s_n^2 mu) / (s_mu^2 + s_n^2) and its standard deviation (Wu et al. 2020, Eq. 9; the
    deviation: same Gaussians).

    Args: as in negative_log_likelihood.
    Returns:
        denoised [B, C, H, W] and sigma of the error [B, C, H, W], both in the image's unit.
    """
    share = sigma_mu**2 / (sigma_mu**2 + sigma_n**2)
    return share * noisy + (1 - share) * mean, share.sqrt() * sigma_n
