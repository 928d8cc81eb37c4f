"""Trials: the noise that is added has the level it says, results are held, and what cannot be tried is refused."""

import math

import numpy as np
import pytest
import torch

from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.weights import save_weights
from mptpn.random import generator
from mptpn.stages import pipeline
from mptpn.trials import KEPT, MODEL, NOISES, STAGE_1, Choice, Session, added_noise_model

BLUR = "Gaussian blur, 1 px"


def image(*, low: float = 100.0) -> np.ndarray:
    """A smooth wave with white noise of 20, 83 x 70 px, about 100 to 1100 for low 100."""
    rows, columns = np.mgrid[:83, :70]
    return low + 500 * (1 + np.sin(rows / 9) * np.cos(columns / 11)) + np.random.default_rng(0).normal(0, 20, (83, 70))


@pytest.fixture(scope="module")
def trials() -> Session:
    torch.set_num_threads(1)
    return Session(image(), minutes=0.02)


@pytest.mark.parametrize("kind", NOISES[1:])
def test_added_noise_has_its_level_at_the_brightest_intensity(kind):
    noise_model, clean = (
        added_noise_model(kind, sigma=20.0, brightest=400.0),
        torch.full((1, 1, 300, 301), 400.0, dtype=torch.float64),
    )
    drawn = noise_model.sample(clean, generator=generator(0))
    spread = float((drawn - noise_model.mean(clean)).std())
    # five standard errors; Rice's spread is 0.1 % smaller here
    assert abs(spread / 20 - 1) < 5 / math.sqrt(2 * clean.numel()) + 0.002
    # a planted one is seen
    assert abs(float(added_noise_model(kind, sigma=24.0, brightest=400.0).variance(clean).mean()) ** 0.5 / 20 - 1) > 0.1


@pytest.mark.parametrize("kind", NOISES[1:])
@pytest.mark.parametrize("low", [100.0, -1000.0])
def test_noise_is_added_to_any_scan_and_its_error_is_told(kind, low):
    trial = Session(image(low=low)).run(Choice(BLUR, noise=kind, level=0.1))
    assert (trial.noisy != trial.before).mean() > 0.99 and "before noise was added" in trial.report
    assert abs(np.corrcoef(trial.noisy.flat, trial.before.flat)[0, 1]) > 0.7


def test_without_added_noise_the_image_is_the_files_own(trials):
    trial = trials.run(Choice(BLUR))
    assert trial.noisy is trial.before and (trial.noisy == image()).all() and "before noise" not in trial.report


def test_result_is_held_and_the_oldest_is_dropped(trials):
    first = trials.run(Choice(BLUR))
    assert trials.run(Choice(BLUR, level=0.3)) is first  # the level of no noise does not matter
    for i in range(KEPT):
        trials.run(Choice(BLUR, noise="Gaussian", level=0.1 + 0.05 * i))
    again = trials.run(Choice(BLUR))
    assert again is not first and len(trials._trials) == len(trials._denoisers) == KEPT
    assert all((a == b).all() for a, b in zip(again.at(1.0)[:1], first.at(1.0)[:1], strict=True))


def test_strength_is_linear_and_leaves_the_result_as_it_was(trials):
    trial = trials.run(Choice(STAGE_1))
    full, sure = trial.at(1.0)
    half = trial.at(0.5)[0]
    assert (trial.at(0.0)[0] == trial.noisy).all()
    assert np.allclose(trial.noisy - half, (trial.noisy - full) / 2, atol=1e-3)  # float32 of 1100
    again = trial.at(1.0)
    assert (again[0] == full).all() and (again[1] == sure).all()


def test_filter_states_no_uncertainty_and_stage_1_does(trials):
    assert np.isnan(trials.run(Choice("NLM")).at(1.0)[1]).all()
    assert (trials.run(Choice(STAGE_1)).at(1.0)[1] > 0).all()


@pytest.mark.parametrize("choice", [("median", "none"), (MODEL, "none"), (BLUR, "pink")])
def test_unknown_method_and_noise_are_refused_with_those_there_are(trials, choice):
    with pytest.raises(ValueError, match="choose one of"):
        trials.run(Choice(choice[0], noise=choice[1], level=0.1))


@pytest.mark.parametrize("level", [0.0, -0.1, 1.5])
def test_level_outside_its_range_is_refused(level):
    with pytest.raises(ValueError, match="share of the brightest"):
        Choice(BLUR, noise="Gaussian", level=level)


def test_model_file_is_one_more_method_and_comes_first(tmp_path):
    torch.manual_seed(0)
    arguments = pipeline.BLIND | {"width": 8, "depth": 1, "half_size": (0, 0)}
    path = save_weights(tmp_path / "tiny.safetensors", BlindSpotNetwork(**arguments), arguments=arguments)
    trials = Session(image(), model=path)
    assert trials.methods[0] == MODEL and np.isfinite(trials.run(Choice(MODEL)).at(1.0)[0]).all()


def test_missing_model_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError):
        Session(image(), model=tmp_path / "none.safetensors").run(Choice(MODEL))


def test_constant_scan_is_refused():
    with pytest.raises(ValueError, match="nothing to explore"):
        Session(np.full((40, 41), 3.0))


def test_padding_stays_as_it_is_and_counts_for_nothing(tmp_path):
    padded = image()
    padded[:20] = np.nan
    trials = Session(padded)
    trial = trials.run(Choice(BLUR, noise="Gaussian", level=0.1))
    assert not trial.valid[:20].any() and trial.valid[20:].all() and (trial.noisy[:20] == 0).all()
    saved = np.load(trials.save(Choice(BLUR), strength=1.0, folder=tmp_path))
    assert np.isnan(saved[:20]).all() and (saved[20:] != padded[20:]).mean() > 0.99


def test_note_of_a_learned_result_names_its_weights(trials, tmp_path, monkeypatch):
    notes = []
    writer = trials.scan.writer
    monkeypatch.setattr(
        trials.scan,
        "writer",
        lambda folder, note, overwrite: notes.append(note) or writer(folder, note=note, overwrite=overwrite),
    )
    trials.save(Choice(STAGE_1), strength=0.5, folder=tmp_path / "a")
    trials.save(Choice(BLUR), strength=0.5, folder=tmp_path / "b")
    assert "weights" in notes[0] and notes[1] == f"({BLUR}, strength 0.5)"
