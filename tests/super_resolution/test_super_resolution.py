"""The super-resolution network: the size of the published one, deterministic, any image size, weights that go from one
scale to another.
"""

import pytest
import torch

from mptpn.networks.weights import load_weights, save_weights
from mptpn.random import generator
from mptpn.super_resolution.bicubic import resize
from mptpn.super_resolution.network import SSFORMER, SuperResolutionNetwork, start_from

SMALL = {"n_resblocks": 2, "n_feats": 8, "chunk_size": 16, "n_hashes": 2}


def network(scale: int = 2, *, seed: int = 0, change: dict | None = None) -> SuperResolutionNetwork:
    torch.manual_seed(seed)
    return SuperResolutionNetwork(scale, **(SMALL | (change or {}))).eval()


def image(height: int = 11, width: int = 17, *, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, height, width, generator=generator(height, width))


@pytest.mark.parametrize(("scale", "millions"), [(2, 41.8), (4, 44.2)])
def test_full_size_has_the_published_number_of_parameters(scale, millions):
    with torch.device("meta"):  # counted, not stored
        body = [torch.nn.Conv2d(256, 256, 3) for _ in range(65)]  # 32 blocks and the last
    count = sum(p.numel() for p in SuperResolutionNetwork(scale).parameters())
    assert abs(count / 1e6 - millions) < 0.005 * millions
    assert count == {2: 41_796_163, 4: 44_156_483}[scale] > sum(p.numel() for layer in body for p in layer.parameters())


def test_full_size_has_five_attentions_and_smaller_ones_have_one():
    assert sum(type(part).__name__ == "HashedAttention" for part in SuperResolutionNetwork(2, n_feats=8).body) == 5
    assert sum(type(part).__name__ == "HashedAttention" for part in network().body) == 1


@pytest.mark.parametrize("ssformer", SSFORMER)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_any_size_is_enlarged_by_the_scale(scale, ssformer):
    net = network(scale, change={"ssformer": ssformer})
    for height, width in ((1, 1), (3, 2), (11, 17), (24, 9)):  # 1, 6: fewer pixels than a chunk
        assert net(image(height, width)).shape == (1, 3, scale * height, scale * width)


@pytest.mark.parametrize("ssformer", SSFORMER)
def test_every_weight_learns(ssformer):
    net = network(change={"ssformer": ssformer}).train()
    net(image(12, 13)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_the_same_input_gives_the_same_output_whatever_came_before():
    net, low = network().train(), image()
    state, draws = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    first = net(low)
    net(image(5, 4)), net(image(40, 40))
    assert torch.equal(first, net(low)) and torch.equal(draws, torch.get_rng_state())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())


def test_another_rotation_seed_hashes_otherwise():
    low, nets = image(20, 21), [network(change={"rotation_seed": seed}) for seed in (0, 0, 1)]
    outs = [net(low) for net in nets]
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


def test_small_images_need_no_hash():
    low = image(3, 5)  # 15 pixels, a chunk of 16: everything attends to everything
    assert torch.allclose(
        network(change={"rotation_seed": 0})(low), network(change={"rotation_seed": 1})(low), atol=1e-5
    )


def test_the_quadratic_law_gives_the_same_network():
    low, chunked, noise_model = image(14, 15), network(), network(change={"backend": "reference"})
    assert torch.allclose(chunked(low), noise_model(low), atol=1e-4)  # float32; numbers up to 255 inside


def test_the_image_may_be_in_any_inner_range_and_a_batch_is_its_images():
    net = network()
    low = torch.cat([image(9, 10), image(9, 10).flip(2)])
    assert torch.allclose(net(low), torch.cat([net(x[None]) for x in low]), atol=1e-4)


def test_an_untrained_network_with_the_skip_is_bicubic():
    low = image(7, 9, channels=1)
    assert torch.equal(network(3, change={"bicubic_skip": True, "channels": 1})(low), resize(low, scale=3))


def test_recomputing_changes_no_gradient():
    grads = []
    for recompute in (False, True):
        net = network(change={"recompute": recompute, "ssformer": "both"}).train()
        net(image()).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def saved(tmp_path, net: SuperResolutionNetwork, change: dict | None = None):
    return save_weights(
        tmp_path / f"x{net.scale}.safetensors", net, arguments={"scale": net.scale} | SMALL | (change or {})
    )


def test_weights_come_back_and_keep_the_hashing(tmp_path):
    net = network(change={"rotation_seed": 3})
    loaded, _ = load_weights(saved(tmp_path, net, {"rotation_seed": 3}), SuperResolutionNetwork)
    assert torch.equal(net(image()), loaded(image()))


def test_weights_of_the_same_scale_are_taken_whole_with_another_chunk_size(tmp_path):
    source, target = network(seed=1), network(change={"chunk_size": 18, "n_hashes": 3})
    assert start_from(target, saved(tmp_path, source)) == "x2.safetensors: all weights, x2."
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


@pytest.mark.parametrize("scale", [2, 3])
def test_a_network_hashes_as_the_one_whose_weights_it_takes(tmp_path, scale):
    source, target = network(change={"rotation_seed": 5}), network(scale)
    start_from(target, saved(tmp_path, source, {"rotation_seed": 5}))
    assert target.rotation_seed == 5 and torch.equal(target.body[0].rotations, source.body[0].rotations)
    assert not torch.equal(network(scale).body[0].rotations, target.body[0].rotations)


@pytest.mark.parametrize("scale", [3, 4])
def test_weights_of_x2_start_the_body_of_another_scale_and_say_so(tmp_path, scale):
    source, target, fresh = network(seed=1), network(scale), network(scale)
    said = start_from(target, saved(tmp_path, source))
    assert "stem and body of a network for x2" in said and f"x{scale} begins anew" in said
    for name, value in target.state_dict().items():
        assert torch.equal(value, (source if name.startswith(("stem", "body")) else fresh).state_dict()[name]), name


def test_a_body_of_another_shape_is_refused_and_nothing_is_written(tmp_path):
    target = network(change={"n_feats": 12})
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match="weights do not fit.*n_resblocks, n_feats and ssformer"):
        start_from(target, saved(tmp_path, network()))
    with pytest.raises(ValueError, match="do not fit"):
        start_from(network(change={"ssformer": "dual"}), saved(tmp_path, network()))
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in before.items())


def test_scale_3_with_x2_weights_cannot_be_tested_only(tmp_path):
    with pytest.raises(ValueError, match="weights for x2 cannot enlarge x3; train x3 from them first"):
        start_from(network(3), saved(tmp_path, network()), test_only=True)
    assert "all weights" in start_from(network(), saved(tmp_path, network()), test_only=True)


def test_weights_of_another_inner_range_or_residual_scale_are_refused(tmp_path):
    """They would load, and the network would be another function."""
    for change in ({"rgb_range": 1.0}, {"res_scale": 1.0}):
        with pytest.raises(ValueError, match="x2.safetensors: trained with rgb_range .* and res_scale .*; give those"):
            start_from(network(), saved(tmp_path, network(change=change), change))


def test_networks_of_the_package_are_known_by_name():
    shape = {"n_resblocks": 16, "n_feats": 64, "res_scale": 1.0, "rgb_range": 1.0, "bicubic_skip": True}
    for scale in (2, 4):
        target = SuperResolutionNetwork(scale, **shape)
        assert start_from(target, f"x{scale}", test_only=True) == f"x{scale}: all weights, x{scale}."
        source, note = load_weights(f"x{scale}", SuperResolutionNetwork)
        assert (
            all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
            and "research" in note["trained_on"]
        )
    assert "stem and body of a network for x2" in start_from(SuperResolutionNetwork(3, **shape), "x2")
    with pytest.raises(
        ValueError, match="x2: weights for x2 with bicubic_skip=True cannot enlarge x2 with bicubic_skip=False"
    ):
        start_from(SuperResolutionNetwork(2, **shape | {"bicubic_skip": False}), "x2", test_only=True)
    with pytest.raises(ValueError, match="holds 'RetractableTransformer'; expected one of SuperResolutionNetwork"):
        start_from(network(), "small")


def test_pickled_or_missing_weights_are_refused_with_a_sentence(tmp_path):
    torch.save({}, tmp_path / "model_x2.pt")
    with pytest.raises(ValueError, match="model_x2.pt: not a safetensors file.*pickled"):
        start_from(network(), tmp_path / "model_x2.pt")
    with pytest.raises(FileNotFoundError, match="no such weights file.*x2, x4 to enlarge"):
        start_from(network(), tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 5}, "scale 5 is none of 2, 3 and 4"),
        ({"channels": 2}, "channels 2"),
        ({"ssformer": "triple"}, "'triple'"),
        ({"backend": "cuda"}, "'cuda'"),
        ({"n_resblocks": 0}, "n_resblocks 0"),
        ({"n_feats": 3}, "n_feats 3"),
        ({"chunk_size": 0}, "chunk_size 0"),
        ({"rgb_range": 0.0}, "rgb_range 0.0"),
    ],
)
def test_a_wrong_network_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuperResolutionNetwork(**(SMALL | arguments))
