"""The super-resolution network: EDSR's body, attention among hashed tokens, and the gated modules of SSFormer."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mptpn.attention import HASHED_BACKENDS, hashed_attention, rotations_from_seed
from mptpn.networks import load_weights
from mptpn.super_resolution.bicubic import check_scale, resize

SSFORMER = ("none", "balanced", "dual", "both")
DIV2K_MEAN = {3: (0.4488, 0.4371, 0.4040), 1: (0.4368,)}  # mean of DIV2K's training pixels, and its luma


def convolution(inputs: int, outputs: int, side: int = 3) -> nn.Conv2d:
    """A convolution that keeps the image's size: zeros around it."""
    return nn.Conv2d(inputs, outputs, side, padding=side // 2)


class ResidualBlock(nn.Module):
    """x + res_scale * conv(relu(conv(x))), no normalisation (Lim et al. 2017, EDSR, Fig. 2c)."""

    def __init__(self, features: int, *, res_scale: float):
        super().__init__()
        self.first, self.second = convolution(features, features), convolution(features, features)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.second(F.relu(self.first(x)))


class HashedAttention(nn.Module):
    """x + res_scale * attention of x among like tokens (Mei et al. 2021, NLSN); [B, C, H, W] in and out.

    Args:
        features: C; the embedding that is matched has C / 4.
        chunk_size, n_hashes: tokens of a chunk, and rounds of hashing.
        seed, number: of the rotations, which the module keeps: the same input gives the same output.
        res_scale: weight of the attention beside its input.
        backend: see `hashed_attention`.
    """

    def __init__(
        self, features: int, *, chunk_size: int, n_hashes: int, seed: int, number: int, res_scale: float, backend: str
    ):
        super().__init__()
        self.chunk_size, self.n_hashes, self.number = chunk_size, n_hashes, number
        self.res_scale, self.backend = res_scale, backend
        self.match, self.assembly = convolution(features, features // 4), convolution(features, features, 1)
        # a function of the seed: not kept twice in a weights file
        self.register_buffer("rotations", None, persistent=False)
        self.hash_from(seed)

    def hash_from(self, seed: int) -> None:
        """Make the rotations anew."""
        seed, features = seed * 1000 + self.number, self.match.out_channels
        rotations = rotations_from_seed(seed, rounds=self.n_hashes, features=features)
        self.rotations = rotations.to(self.match.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        match, values = (part(x).flatten(2).mT for part in (self.match, self.assembly))  # [B, H * W, C / 4 and C]
        settings = {"rotations": self.rotations, "chunk_size": self.chunk_size, "backend": self.backend}
        attended = hashed_attention(match, values, **settings)
        return x + self.res_scale * attended.mT.unflatten(2, x.shape[2:])


class ChannelGate(nn.Module):
    """A number in 0..1 per channel from the channel means (Hu et al. 2018, Eq. 2-3), [B, C, H, W] -> [B, C, 1, 1].

    Leaky where theirs is not: four hidden numbers of a small network can all be dead.
    """

    def __init__(self, features: int):
        super().__init__()
        hidden = max(4, features // 16)
        down, up = nn.Conv2d(features, hidden, 1), nn.Conv2d(hidden, features, 1)
        self.layers = nn.Sequential(down, nn.LeakyReLU(0.2), up, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.mean((2, 3), keepdim=True))


class SpatialGate(nn.Module):
    """A number in 0..1 per pixel from the largest and mean channel around it (Woo et al. 2018, CBAM), [B, 1, H, W]."""

    def __init__(self, side: int = 7):
        super().__init__()
        self.layer = convolution(2, 1, side)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)).sigmoid()


class BalancedAttention(nn.Module):
    """x + x * channel gate * spatial gate, side by side: our reading of "balanced attention"; no paper defines it."""

    def __init__(self, features: int):
        super().__init__()
        self.channel, self.spatial = ChannelGate(features), SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return x + x * self.channel(x) * self.spatial(x)


class DualAttentionBlock(nn.Module):
    """x + res_scale * 1x1([y * channel gate, y * spatial gate]), y two convolutions of x (Zamir et al. 2020)."""

    def __init__(self, features: int, *, res_scale: float):
        super().__init__()
        self.first, self.second = convolution(features, features), convolution(features, features)
        self.channel, self.spatial = ChannelGate(features), SpatialGate()
        self.join, self.res_scale = convolution(2 * features, features, 1), res_scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        return x + self.res_scale * self.join(torch.cat([y * self.channel(y), y * self.spatial(y)], dim=1))


class SuperResolutionNetwork(nn.Module):
    """Enlarges an image 2, 3 or 4 times (Mei et al. 2021, NLSN); attention at the start and after every 8 blocks.

    The defaults are NLSN's: 41.80 M parameters at x2, 44.16 M at x4.

    Args:
        scale: 2, 3 or 4.
        channels: 1 or 3.
        n_resblocks, n_feats, res_scale: EDSR's residual blocks, features and weight of a residual.
        chunk_size, n_hashes: of the hashed attention; any weights run with any of them.
        rgb_range: what 1 becomes inside, where DIV2K's mean is taken off.
        ssformer: "none", "balanced" (a gate after each attention), "dual" (two dual-attention blocks at the end) or
            "both".
        bicubic_skip: predict the difference from the bicubic image (not in NLSN; a small network learns in a minute).
        rotation_seed: of the hashing.
        recompute: trade time for memory in training (gradient checkpointing).
        backend: of the attention, see `hashed_attention`.

    forward(low [B, channels, H, W], 0..1) -> [B, channels, scale H, scale W], not clipped; any H, W >= 1.
    """

    def __init__(
        self,
        scale: int = 2,
        *,
        channels: int = 3,
        n_resblocks: int = 32,
        n_feats: int = 256,
        res_scale: float = 0.1,
        chunk_size: int = 144,
        n_hashes: int = 4,
        rgb_range: float = 255.0,
        ssformer: str = "none",
        bicubic_skip: bool = False,
        rotation_seed: int = 0,
        recompute: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        check_scale(scale)
        _check(channels, ssformer, backend, rgb_range, n_feats, (n_resblocks, chunk_size, n_hashes))
        self.scale, self.rgb_range, self.res_scale, self.bicubic_skip = scale, rgb_range, res_scale, bicubic_skip
        self.recompute, self.rotation_seed = recompute, rotation_seed
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN[channels]).view(1, -1, 1, 1), persistent=False)
        shape = {"chunk_size": chunk_size, "n_hashes": n_hashes, "res_scale": res_scale, "backend": backend}
        body = []
        for number in range(n_resblocks + 1):
            body += [ResidualBlock(n_feats, res_scale=res_scale)] if number else []
            if number % 8 == 0:
                gate = [BalancedAttention(n_feats)] if ssformer in ("balanced", "both") else []  # the first to draw
                body += [HashedAttention(n_feats, seed=rotation_seed, number=number, **shape), *gate]
        if ssformer in ("dual", "both"):
            body += [DualAttentionBlock(n_feats, res_scale=res_scale) for _ in range(2)]
        self.stem = convolution(channels, n_feats)
        self.body = nn.ModuleList([*body, convolution(n_feats, n_feats)])
        steps = [2, 2] if scale == 4 else [scale]
        layers = [layer for s in steps for layer in (convolution(n_feats, s * s * n_feats), nn.PixelShuffle(s))]
        self.enlarge, self.head = nn.Sequential(*layers), convolution(n_feats, channels)
        if bicubic_skip:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, low: Tensor) -> Tensor:
        shallow = x = self.stem((low - self.mean) * self.rgb_range)
        for part in self.body:
            x = checkpoint(part, x, use_reentrant=False) if self.recompute and self.training else part(x)
        found = self.head(self.enlarge(x + shallow)) / self.rgb_range
        return found + (resize(low, scale=self.scale) if self.bicubic_skip else self.mean)

    def hash_from(self, rotation_seed: int) -> None:
        """Make the rotations of all attentions anew, as a network built with this rotation_seed has them."""
        self.rotation_seed = rotation_seed
        for part in self.body:
            if isinstance(part, HashedAttention):
                part.hash_from(rotation_seed)


def _check(channels: int, ssformer: str, backend: str, rgb_range: float, n_feats: int, counts: tuple[int, ...]) -> None:
    if channels not in DIV2K_MEAN:
        raise ValueError(f"channels {channels} must be one of {tuple(DIV2K_MEAN)}.")
    if ssformer not in SSFORMER or backend not in HASHED_BACKENDS:
        kinds = f"ssformer {ssformer!r} must be one of {SSFORMER}"
        raise ValueError(f"{kinds} and backend {backend!r} one of {HASHED_BACKENDS}.")
    if min(counts) < 1 or n_feats < 4 or not rgb_range > 0:
        limits = "n_resblocks {}, chunk_size {} and n_hashes {} start at 1".format(*counts)
        raise ValueError(f"{limits}, n_feats {n_feats} at 4; rgb_range {rgb_range} must be positive.")


def start_from(network: SuperResolutionNetwork, pre_train: str | Path, *, test_only: bool = False) -> str:
    """Copy a weights file into a network: all of it at the same scale, stem and body at another (Lim et al. 2017).

    The network then hashes as the one of the file did, whatever its own rotation_seed was.

    Args:
        network: written to.
        pre_train: a .safetensors file of a SuperResolutionNetwork, or "x2" or "x4", which come with the package:
            n_resblocks 16, n_feats 64, res_scale 1, rgb_range 1, bicubic_skip.
        test_only: nothing will be trained, so that weights for another scale are refused.
    Returns:
        A sentence that says what was loaded and what begins anew.
    Raises:
        FileNotFoundError, ValueError: no such file, another kind of file, a body of another shape or range, another
            scale to test with.
    """
    source, _ = load_weights(pre_train, SuperResolutionNetwork)
    same = source.scale == network.scale and source.bicubic_skip == network.bicubic_skip
    if test_only and not same:
        skips = (f" with bicubic_skip={n.bicubic_skip}" * (source.scale == network.scale) for n in (network, source))
        ours, theirs = (f"x{n.scale}{skip}" for n, skip in zip((network, source), skips, strict=True))
        remedy = f"train {ours} from them first (test_only=False)"
        raise ValueError(f"{pre_train}: weights for {theirs} cannot enlarge {ours}; {remedy}.")
    both = [n.state_dict() for n in (source, network)]
    parts = "" if same else ("stem.", "body.")
    state, wanted = ({name: value for name, value in n.items() if name.startswith(parts)} for n in both)
    theirs, ours = ({name: value.shape for name, value in n.items()} for n in (state, wanted))
    if unlike := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        remedy = "give the n_resblocks, n_feats and ssformer it was trained with"
        raise ValueError(f"{pre_train}: {len(unlike)} weights do not fit, {unlike[0]} for one; {remedy}.")
    if (source.rgb_range, source.res_scale) != (network.rgb_range, network.res_scale):
        theirs, ours = (f"rgb_range {n.rgb_range:g} and res_scale {n.res_scale:g}" for n in (source, network))
        raise ValueError(f"{pre_train}: trained with {theirs}, not {ours}; give those.")
    network.load_state_dict(state, strict=False)
    network.hash_from(source.rotation_seed)
    name = Path(pre_train).name
    if same:
        return f"{name}: all weights, x{network.scale}."
    new = f"the enlarging part for x{network.scale} begins anew and has to be trained"
    return f"{name}: stem and body of a network for x{source.scale}; {new}."
