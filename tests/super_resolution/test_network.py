"""The super-resolution network: the published size, deterministic, any image size, weights across scales."""

import pytest
import torch

from mptpn.networks.weights import load_weights, save_weights
from mptpn.random import generator
from mptpn.super_resolution import SuperResolutionNetwork, resize, start_from

SMALL = {"n_resblocks": 2, "n_feats": 8, "chunk_size": 16, "n_hashes": 2}


def network(scale=2, *, seed=0, **change):
    torch.manual_seed(seed)
    return SuperResolutionNetwork(scale, **(SMALL | change)).eval()


def image(height=11, width=17, *, channels=3):
    return torch.rand(1, channels, height, width, generator=generator(height, width))


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "parameters"), [(2, 41_796_163), (4, 44_156_483)])
def test_the_defaults_have_the_published_size_and_five_attentions(scale, parameters):
    with torch.device("meta"):  # counted, not stored
        full = SuperResolutionNetwork(scale)
    assert sum(p.numel() for p in full.parameters()) == parameters
    assert sum(type(part).__name__ == "HashedAttention" for part in full.body) == 5


@pytest.mark.parametrize(("scale", "ssformer"), [(2, "none"), (3, "balanced"), (4, "dual"), (2, "both")])
def test_any_size_is_enlarged_and_every_weight_learns(scale, ssformer):
    net = network(scale, ssformer=ssformer).train()
    for height, width in ((1, 1), (3, 2), (11, 17)):  # 1, 6: fewer pixels than a chunk
        out = net(image(height, width))
        assert out.shape == (1, 3, scale * height, scale * width)
    out.square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_the_same_input_gives_the_same_output_whatever_came_before():
    net, low, draws = network().train(), image(), torch.get_rng_state()
    first = net(low)
    net(image(5, 4)), net(image(40, 40))
    assert torch.equal(first, net(low)) and torch.equal(draws, torch.get_rng_state())


def test_another_rotation_seed_hashes_otherwise_but_small_images_need_no_hash():
    nets = [network(rotation_seed=seed) for seed in (0, 0, 1)]
    first, again, other = (net(image(20, 21)) for net in nets)
    assert torch.equal(first, again) and not torch.equal(first, other)
    first, _, other = (net(image(3, 5)) for net in nets)  # 15 pixels, a chunk of 16: everything attends to everything
    assert torch.allclose(first, other, atol=1e-5)


def test_an_untrained_network_with_the_skip_is_bicubic():
    low = image(7, 9, channels=1)
    assert torch.equal(network(3, bicubic_skip=True, channels=1)(low), resize(low, scale=3))


def test_recomputing_changes_no_gradient():
    nets = [network(recompute=recompute, ssformer="both").train() for recompute in (False, True)]
    for net in nets:
        net(image()).square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(net.parameters() for net in nets), strict=True))


def saved(folder, net, **change):
    arguments = {"scale": net.scale} | SMALL | change
    return save_weights(folder / f"x{net.scale}.safetensors", net, arguments=arguments)


def test_weights_of_the_same_scale_are_taken_whole_with_another_chunk_size(tmp_path):
    source, target = network(seed=1, rotation_seed=5), network(chunk_size=18)
    assert "all weights, x2" in start_from(target, saved(tmp_path, source, rotation_seed=5), test_only=True)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    assert target.rotation_seed == 5 and torch.equal(target.body[0].rotations, source.body[0].rotations)


def test_weights_of_x2_start_the_body_of_another_scale(tmp_path):
    source, target, fresh = network(seed=1), network(3), network(3)
    assert "enlarging part for x3 begins anew" in start_from(target, saved(tmp_path, source))
    for name, value in target.state_dict().items():
        assert torch.equal(value, (source if name.startswith(("stem", "body")) else fresh).state_dict()[name]), name


@pytest.mark.parametrize(
    ("scale", "change", "source", "message"),
    [
        (2, {"n_feats": 12}, {}, "do not fit"),
        (2, {"ssformer": "dual"}, {}, "do not fit"),
        (3, {}, {}, "weights for x2 cannot enlarge x3"),
        (2, {}, {"bicubic_skip": True}, "x2 with bicubic_skip=True cannot enlarge x2 with bicubic_skip=False"),
        (2, {}, {"rgb_range": 1.0}, "rgb_range 1 .* not rgb_range 255"),
        (2, {}, {"res_scale": 1.0}, "res_scale 1, not"),
    ],
)
def test_weights_that_would_make_another_function_are_refused_and_nothing_is_written(
    tmp_path, scale, change, source, message
):
    target, file = network(scale, **change), saved(tmp_path, network(**source), **source)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=f"x2.safetensors: .*{message}"):
        start_from(target, file, test_only=True)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("scale", [2, 4])
def test_networks_of_the_package_are_known_by_name(scale):
    shape = {"n_resblocks": 16, "n_feats": 64, "res_scale": 1.0, "rgb_range": 1.0, "bicubic_skip": True}
    target = SuperResolutionNetwork(scale, **shape)
    assert "all weights" in start_from(target, f"x{scale}", test_only=True)
    source, note = load_weights(f"x{scale}", SuperResolutionNetwork)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    assert "research" in note["trained_on"]


def test_other_files_are_refused(tmp_path):
    torch.save({}, tmp_path / "model_x2.pt")
    with pytest.raises(ValueError, match="model_x2.pt: not a safetensors file"):
        start_from(network(), tmp_path / "model_x2.pt")
    with pytest.raises(FileNotFoundError, match="x.safetensors"):
        start_from(network(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="'RetractableTransformer'; expected one of SuperResolutionNetwork"):
        start_from(network(), "small")


@pytest.mark.parametrize(
    "arguments",
    [
        *({"scale": 5}, {"channels": 2}, {"ssformer": "triple"}, {"backend": "cuda"}, {"n_resblocks": 0}),
        *({"n_feats": 3}, {"chunk_size": 0}, {"n_hashes": 0}, {"rgb_range": 0.0}),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} {value!r}"):
        SuperResolutionNetwork(**(SMALL | arguments))
