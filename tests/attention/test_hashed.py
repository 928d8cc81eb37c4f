"""Attention by spherical hashing: the fast forms agree with the quadratic definition, in output and gradients."""

import pytest
import torch
from torch.nn import functional as F

from mptpn.attention import hashed_attention, rotations_from_seed
from mptpn.attention.hashed import attend, buckets_of, sorted_tokens, spherical_hash
from mptpn.random import generator

FAST = ("chunked", "gathered")


def tokens(n, *, batch=2, features=8, out=12, dtype=torch.float64):
    drawn = torch.randn(batch, n, features + out, generator=generator(0, n), dtype=dtype)
    return drawn[..., :features].contiguous().requires_grad_(), drawn[..., features:].contiguous().requires_grad_()


def rotations(rounds, features=8, seed=0):
    return rotations_from_seed(seed, rounds=rounds, features=features)


def results(match, values, *, backend, chunk_size):
    """Output and both gradients."""
    out = hashed_attention(match, values, rotations=rotations(3), chunk_size=chunk_size, backend=backend)
    weight = torch.randn(out.shape, generator=generator(9), dtype=torch.float64).to(out)
    return out.detach(), *torch.autograd.grad((out * weight).sum(), (match, values))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("n", [1, 16, 17, 61])  # less than a chunk, one, one and a token, an unfilled last one
def test_fast_forms_agree_with_the_definition_in_output_and_gradients(backend, n):
    ours, exact = (results(*tokens(n), backend=name, chunk_size=16) for name in (backend, "reference"))
    # float64: a few hundred sums of numbers near 1
    assert all((mine - truth).abs().max() < 1e-12 for mine, truth in zip(ours, exact, strict=True))


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_where_one_chunk_holds_everything_it_is_plain_softmax_attention(backend):
    match, values = tokens(35)
    plain = F.scaled_dot_product_attention(match, F.normalize(match, dim=-1), values, scale=1.0)
    out = hashed_attention(match, values, rotations=rotations(4), chunk_size=35, backend=backend)
    assert (out - plain).abs().max() < 1e-12


@pytest.mark.parametrize("backend", FAST)
def test_float32_error_is_at_most_twice_that_of_the_plain_form(backend):
    exact = results(*tokens(200), backend="reference", chunk_size=32)
    single = [x.detach().float().requires_grad_() for x in tokens(200)]
    ours, plain = (results(*single, backend=name, chunk_size=32) for name in (backend, "reference"))
    for mine, theirs, truth in zip(ours, plain, exact, strict=True):
        assert (mine - truth).abs().max() <= 2 * (theirs - truth).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits_sorted_chunks_err_less_than_the_form_of_the_public_code(dtype):
    """With log-sum-exps in 16 bits, as "gathered" has them, the error is more than twice as large."""
    given = [x.detach().to(dtype) for x in tokens(300, features=16)]
    order = sorted_tokens(given[0], rotations=rotations(4, 16), chunk_size=32)

    def found(backend, dtype):
        inputs = [x.to(dtype).requires_grad_() for x in given]
        out = attend(*inputs, order, chunk_size=32, backend=backend)
        assert out.dtype == dtype
        return out.detach(), *torch.autograd.grad(out.square().sum(), inputs)

    every = found("chunked", dtype), found("gathered", dtype), found("reference", torch.float64)
    for ours, plain, truth in zip(*every, strict=True):
        assert (ours.double() - truth).norm() < (plain.double() - truth).norm()


def test_tokens_attend_to_their_own_and_to_neighbouring_chunks_alone():
    match, values = tokens(64, batch=1)
    order = sorted_tokens(match, rotations=rotations(1), chunk_size=8)[0, 0]
    out = hashed_attention(match, values, rotations=rotations(1), chunk_size=8)
    seen = torch.autograd.grad(out[0, order[:8]].sum(), values)[0][0].abs().sum(-1)[order]
    assert (seen[:16] > 0).all() and (seen[16:] == 0).all()  # the first chunk has one neighbour, and not the last


def test_images_of_a_batch_do_not_see_each_other():
    images = list(zip(*(x.detach().split(1) for x in tokens(45, batch=3)), strict=True))
    together = hashed_attention(*map(torch.cat, zip(*images, strict=True)), rotations=rotations(2), chunk_size=8)
    alone = [hashed_attention(*image, rotations=rotations(2), chunk_size=8) for image in images]
    assert (together - torch.cat(alone)).abs().max() < 1e-12


def test_length_does_not_change_the_bucket_and_the_opposite_direction_has_the_opposite_one():
    match, _ = tokens(50, batch=1)
    codes, longer, opposite = (
        spherical_hash(x, rotations=rotations(4), buckets=12) for x in (match, 3 * match, -match)
    )
    assert torch.equal(codes, longer) and 0 <= codes.min() and codes.max() < 12
    assert torch.equal((codes + 6) % 12, opposite)


def test_near_tokens_meet_more_often_than_far_ones():
    match = torch.randn(1, 400, 16, generator=generator(3))
    near = match + 0.1 * torch.randn(match.shape, generator=generator(4))
    codes, close, far = (
        spherical_hash(x, rotations=rotations(8, 16), buckets=16) for x in (match, near, match.roll(1, 1))
    )
    # by chance 1/16, standard error 0.004
    assert (codes == close).double().mean() > 0.7 and (codes == far).double().mean() < 0.12


def test_rotations_come_from_the_seed_and_rounds_are_added_not_changed():
    assert torch.equal(rotations(4, seed=5)[:2], rotations(2, seed=5))
    assert not torch.equal(rotations(1, seed=5), rotations(1, seed=6))


def test_copies_of_tokens_in_an_unfilled_chunk_would_be_found():
    """The public code fills the last chunk with copies of the last tokens, which then count twice."""
    given = tokens(13)
    copied = [torch.cat([x, x[:, -3:]], dim=1) for x in given]
    truth, planted = (hashed_attention(*x, rotations=rotations(1), chunk_size=16)[:, :13] for x in (given, copied))
    assert (planted - truth).abs().max() > 1e-3


def saved_bytes(n):
    """Memory held for the backward pass."""
    sizes, (match, values) = {}, tokens(n, batch=1)

    def keep(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = hashed_attention(match, values, rotations=rotations(2), chunk_size=16)
    return sum(sizes.values()) if out is not None else 0


def test_memory_is_linear_in_tokens():
    assert 3.6 < saved_bytes(8000) / saved_bytes(2000) < 4.1  # within the last chunk's padding


@pytest.mark.parametrize(("chunks", "buckets"), [(0, 2), (1, 2), (5, 6), (127, 128), (1000, 128)])
def test_buckets_are_about_one_a_chunk_and_even(chunks, buckets):
    assert buckets_of(chunks * 144, chunk_size=144) == buckets


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"match": torch.zeros(2, 0, 8), "values": torch.zeros(2, 0, 4)}, r"\(2, 0, 8\)"),
        ({"values": torch.zeros(2, 6, 4)}, r"\(2, 6, 4\)"),
        ({"rotations": torch.zeros(2, 7, 64)}, r"\(2, 7, 64\)"),
        ({"chunk_size": 0}, "chunk_size 0"),
        ({"backend": "cuda"}, "'cuda'"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    given = {"match": torch.zeros(2, 5, 8), "values": torch.zeros(2, 5, 4), "rotations": torch.zeros(2, 8, 64)} | change
    with pytest.raises(ValueError, match=message):
        hashed_attention(given.pop("match"), given.pop("values"), **{"chunk_size": 4, **given})
