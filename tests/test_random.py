"""Random generators: a function of their keys."""

import numpy as np
import pytest
import torch

from mptpn.random import generator, seeded


def test_equal_keys_draw_equal_numbers_and_others_do_not():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (7, 101, 3), (7, 3, 101), (-1,), (2**31, 1), (0, "new")]
    draws = {key: torch.rand(3, generator=generator(*key)).tolist() for key in keys}
    assert all(torch.rand(3, generator=generator(*key)).tolist() == draw for key, draw in draws.items())
    assert len({tuple(draw) for draw in draws.values()}) == len(keys)


def test_a_published_stream_keeps_its_old_number():
    named, numbered = generator(3, "pairs", 5), generator(3, 301, 5)
    assert torch.equal(torch.rand(9, generator=named), torch.rand(9, generator=numbered))


def test_generators_leave_the_global_one_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "pairs"))
    assert torch.equal(before, torch.get_rng_state())


def test_what_takes_no_generator_draws_from_the_seed_and_the_global_one_stays():
    torch.manual_seed(3)
    wanted = torch.rand(9)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stopped"), seeded(3):
        drawn = torch.rand(9)
        raise RuntimeError("stopped")
    assert torch.equal(drawn, wanted) and torch.equal(before, torch.get_rng_state())


def test_numbers_of_neighbouring_keys_do_not_correlate():
    draws = np.array([torch.randn(2000, generator=generator(0, "pairs", step)).numpy() for step in range(20)])
    correlation = np.corrcoef(draws) - np.eye(20)
    # 190 coefficients of standard deviation 1 / sqrt(2000); six of them: 4e-7
    assert np.abs(correlation).max() < 6 / 2000**0.5
