"""Attention by spherical hashing: the fast forms obey the quadratic noise model, in output and gradients, and nothing
is drawn in a call.
"""

import pytest
import torch
from torch.nn import functional as F

from mptpn.attention.hashed import (
    attend,
    buckets_of,
    hashed_attention,
    rotations_from_seed,
    sorted_tokens,
    spherical_hash,
)
from mptpn.random import generator

FAST = ("chunked", "gathered")


def tokens(
    n: int, *, batch: int = 2, features: int = 8, out: int = 12, seed: int = 0, dtype=torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(batch, n, features + out, generator=generator(seed, n), dtype=dtype)
    return drawn[..., :features].contiguous().requires_grad_(), drawn[..., features:].contiguous().requires_grad_()


def result(match, values, *, backend: str, chunk_size: int, rounds: int = 3, seed: int = 0):
    rotations = rotations_from_seed(seed, rounds=rounds, features=match.shape[-1])
    out = hashed_attention(match, values, rotations=rotations, chunk_size=chunk_size, backend=backend)
    weight = torch.randn(out.shape, generator=generator(9), dtype=torch.float64).to(out)
    return out, *torch.autograd.grad((out * weight).sum(), (match, values))


@pytest.mark.parametrize("backend", FAST)
# less than a chunk, one, one and a token, several, an unfilled last one
@pytest.mark.parametrize("n", [1, 7, 16, 17, 32, 61, 160])
def test_fast_form_is_the_law_in_output_and_gradients(backend, n):
    match, values = tokens(n)
    for ours, noise_model in zip(
        result(match, values, backend=backend, chunk_size=16),
        result(match, values, backend="reference", chunk_size=16),
        strict=True,
    ):
        assert (ours - noise_model).abs().max() < 1e-12  # float64: a few hundred sums of numbers near 1


@pytest.mark.parametrize("backend", ["auto", "reference", *FAST])
def test_where_one_chunk_holds_everything_it_is_plain_softmax_attention(backend):
    match, values = tokens(35)
    logits = match @ F.normalize(match, dim=-1).mT
    plain = F.scaled_dot_product_attention(match, F.normalize(match, dim=-1), values, scale=1.0)
    out = hashed_attention(
        match, values, rotations=rotations_from_seed(0, rounds=4, features=8), chunk_size=35, backend=backend
    )
    assert (out - logits.softmax(-1) @ values).abs().max() < 1e-12 and (out - plain).abs().max() < 1e-12


@pytest.mark.parametrize("backend", FAST)
def test_float32_error_is_at_most_twice_that_of_the_plain_form(backend):
    exact = [x.detach() for x in result(*tokens(200), backend="reference", chunk_size=32)]
    match, values = (x.detach().float().requires_grad_() for x in tokens(200))
    ours, plain = (result(match, values, backend=b, chunk_size=32) for b in (backend, "reference"))
    for mine, noise_model, truth in zip(ours, plain, exact, strict=True):
        assert (mine - truth).abs().max() <= 2 * (noise_model - truth).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits_sorted_chunks_err_less_than_the_public_codes_form(dtype):
    """Only the products are in 16 bits; with log-sum-exps in them, too, the error was more than twice that of
    "gathered", which has them so.
    """
    match, values = (x.detach().to(dtype).requires_grad_() for x in tokens(300, features=16))
    order = sorted_tokens(match, rotations=rotations_from_seed(0, rounds=4, features=16), chunk_size=32)

    def errors(backend, dtype):
        given = [x.detach().to(dtype).requires_grad_() for x in (match, values)]
        out = attend(*given, order, chunk_size=32, backend=backend)
        assert out.dtype == dtype
        return [
            x.double() - y for x, y in zip((out, *torch.autograd.grad(out.square().sum(), given)), exact, strict=True)
        ]

    exact = [torch.zeros(())] * 3
    exact = errors("reference", torch.float64)
    for ours, plain in zip(errors("chunked", dtype), errors("gathered", dtype), strict=True):
        assert ours.norm() < plain.norm()


def test_gradients_are_those_of_finite_differences():
    match, values = tokens(11, batch=1, features=3, out=2)
    rotations = rotations_from_seed(1, rounds=2, features=3)
    # steps of 1e-7 are too small to change a bucket
    assert torch.autograd.gradcheck(
        lambda m, v: hashed_attention(m, v, rotations=rotations, chunk_size=4), (match, values), eps=1e-7
    )


def test_tokens_attend_to_their_own_and_to_neighbouring_chunks_alone():
    match, values = tokens(64, batch=1)
    rotations = rotations_from_seed(0, rounds=1, features=8)
    order = spherical_hash(match, rotations=rotations, buckets=buckets_of(64, chunk_size=8))[0, 0].argsort(stable=True)
    out = hashed_attention(match, values, rotations=rotations, chunk_size=8)
    seen = torch.autograd.grad(out[0, order[:8]].sum(), values)[0][0].abs().sum(-1)[order]
    assert (seen[:16] > 0).all() and (seen[16:] == 0).all()  # the first chunk has one neighbour, and not the last


def test_images_of_a_batch_do_not_see_each_other():
    match, values = (x.detach() for x in tokens(45, batch=3))
    rotations = rotations_from_seed(0, rounds=2, features=8)
    together = hashed_attention(match, values, rotations=rotations, chunk_size=8)
    alone = torch.cat(
        [hashed_attention(match[b : b + 1], values[b : b + 1], rotations=rotations, chunk_size=8) for b in range(3)]
    )
    assert (together - alone).abs().max() < 1e-12


def test_equal_tokens_share_a_bucket_and_length_does_not_matter():
    match, _ = tokens(50, batch=1)
    rotations = rotations_from_seed(0, rounds=4, features=8)
    codes = spherical_hash(match, rotations=rotations, buckets=12)
    assert (
        torch.equal(codes, spherical_hash(3 * match, rotations=rotations, buckets=12))
        and 0 <= codes.min()
        and codes.max() < 12
    )
    # the opposite direction, the opposite bucket
    assert torch.equal((codes + 6) % 12, spherical_hash(-match, rotations=rotations, buckets=12))


def test_near_tokens_meet_more_often_than_far_ones():
    match = torch.randn(1, 400, 16, generator=generator(3))
    near = match + 0.1 * torch.randn(match.shape, generator=generator(4))
    rotations = rotations_from_seed(0, rounds=8, features=16)
    codes, close, far = (spherical_hash(x, rotations=rotations, buckets=16) for x in (match, near, match.roll(1, 1)))
    # by chance 1/16, standard error 0.004
    assert (codes == close).double().mean() > 0.7 and (codes == far).double().mean() < 0.12


def test_rotations_come_from_the_seed_and_rounds_are_added_not_changed():
    assert torch.equal(rotations_from_seed(5, rounds=4, features=8)[:2], rotations_from_seed(5, rounds=2, features=8))
    assert not torch.equal(rotations_from_seed(5, rounds=1, features=8), rotations_from_seed(6, rounds=1, features=8))


def test_nothing_is_drawn_in_a_call():
    match, values = (x.detach() for x in tokens(90))
    state = torch.get_rng_state()
    first, second = (
        result(match.requires_grad_(), values.requires_grad_(), backend="chunked", chunk_size=16)[0] for _ in range(2)
    )
    assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())


def test_copies_of_tokens_in_an_unfilled_chunk_would_be_found():
    """The public code fills the last chunk with copies of the last tokens; they count twice then, and the noise model
    says otherwise.
    """
    match, values = tokens(13)
    noise_model = hashed_attention(
        match, values, rotations=rotations_from_seed(0, rounds=1, features=8), chunk_size=16, backend="reference"
    )
    copied = [torch.cat([x, x[:, -3:]], dim=1) for x in (match, values)]
    planted = hashed_attention(*copied, rotations=rotations_from_seed(0, rounds=1, features=8), chunk_size=16)[:, :13]
    assert (planted - noise_model).abs().max() > 1e-3


@pytest.mark.parametrize("n", [500, 2000])
def test_memory_is_linear_in_tokens(n):
    """Bytes saved for the backward pass, counted: 4 times the tokens need 4 times the bytes, within the last chunk's
    padding.
    """
    held = []
    for count in (n, 4 * n):
        match, values = tokens(count, batch=1)
        storages = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=storages: (s.append(x.untyped_storage()), x)[1], lambda x: x
        ):
            hashed_attention(match, values, rotations=rotations_from_seed(0, rounds=2, features=8), chunk_size=16)
        held.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
    assert 3.6 < held[1] / held[0] < 4.1


@pytest.mark.parametrize(("chunks", "buckets"), [(0, 2), (1, 2), (2, 2), (5, 6), (64, 64), (127, 128), (1000, 128)])
def test_buckets_are_about_one_a_chunk_and_even(chunks, buckets):
    assert buckets_of(chunks * 144, chunk_size=144) == buckets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"match": torch.zeros(2, 0, 8), "values": torch.zeros(2, 0, 4)}, "tokens in them"),
        ({"values": torch.zeros(2, 6, 4)}, r"\(2, 6, 4\)"),
        ({"rotations": torch.zeros(2, 7, 64)}, r"\[rounds, 8, 64\]"),
        ({"chunk_size": 0}, "chunk_size 0"),
        ({"backend": "cuda"}, "'cuda'"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(change, message):
    given = {
        "match": torch.zeros(2, 5, 8),
        "values": torch.zeros(2, 5, 4),
        "rotations": torch.zeros(2, 8, 64),
        "chunk_size": 4,
        "backend": "chunked",
    } | change
    with pytest.raises(ValueError, match=message):
        hashed_attention(given.pop("match"), given.pop("values"), **given)
