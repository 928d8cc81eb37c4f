"""The session behind both viewers: the numbers of mptpn.denoise, a strength at once, a stop within a second."""

import re
import threading
import time
import warnings

import numpy as np
import pytest
import torch

import mptpn
from mptpn.io import open_scan
from mptpn.viewers import samples, words
from mptpn.viewers.session import Region, Session, check_room
from mptpn.viewers.worker import DONE, FAILED, STOPPED, Job
from viewer_images import noisy


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def opened(array: np.ndarray, axes: str = "YX", **given) -> Session:
    session = Session(**given)
    session.open(Region(array, axes, "cells"))
    return session


def finished(job: Job) -> Job:
    assert job.wait(300), "the job does not end"
    return job


@pytest.fixture(scope="module")
def done():
    array = noisy()
    return array, finished(opened(array).denoise("auto")).outcome


def test_the_result_and_its_report_are_those_of_mptpn_denoise(done):
    array, result = done
    same = mptpn.denoise(array)
    assert (result.denoised() == same.image).all() and (result.uncertainty() == same.uncertainty).all()
    assert result.assessment.quality == same.trust and str(result.noise) == str(same.noise)


def test_strength_0_is_the_input_and_one_half_takes_half(done):
    array, result = done
    assert (result.denoised(0.0) == array).all() and result.denoised(0.0).dtype == array.dtype
    assert np.allclose(result.removed(0.5), result.removed(1.0) / 2)
    weaker = mptpn.denoise(array, strength=0.5)
    assert (result.denoised(0.5) == weaker.image).mean() > 0.999  # halves are rounded in float32
    assert np.allclose(result.uncertainty(0.5), weaker.uncertainty, rtol=1e-5)


def test_colour_is_denoised_as_colour_and_a_stack_plane_by_plane():
    colour = np.stack([noisy(seed=i) for i in range(3)], -1)
    result = finished(opened(colour, "YXS").denoise()).outcome
    assert (result.denoised() == mptpn.denoise(colour).image).all()
    stack = np.stack([noisy((40, 33), seed=i) for i in range(2)])
    result = finished(opened(stack, "ZYX").denoise()).outcome
    assert (result.denoised() == mptpn.denoise(stack, axes="ZYX").image).all()


def test_every_check_is_one_line_in_the_colour_of_its_answer(done):
    _, result = done
    lines = words.result_lines(result)
    assert lines[0] == words.verdict_line(result.assessment)
    for check in result.assessment.quality.checks:
        colour = next(colour for colour, text in lines if text.endswith(check.verdict))
        assert colour == (words.GOOD if check.passed else words.BAD)
    assert f"{result.noise.sigma:.4g}" in words.noise_lines(result.noise)[0][1]


def test_words_of_an_image_are_not_read_as_html():
    assert "<i>" not in words.as_html([(words.BAD, "<i>: is no image")])


def test_a_stop_ends_within_a_second_and_loses_nothing():
    session = opened(noisy((512, 512)))
    first = finished(session.measure())
    session.results["small"] = kept = object()
    job = session.denoise("base")
    while job.share == 0 and job.running:
        time.sleep(0.01)
    started = time.process_time()  # of this process: others may have the cores
    session.stop()
    assert job.wait(60) and job.state == STOPPED
    assert time.process_time() - started < 1
    assert session.noise is first.outcome and session.results == {"small": kept}


def test_training_on_the_image_itself_stops_too():
    session = opened(noisy(), minutes=5.0)
    job = session.denoise("self")
    while job.share == 0 and job.running:
        time.sleep(0.01)
    session.stop()
    started = time.process_time()
    assert job.wait(60) and job.state == STOPPED and time.process_time() - started < 1


def test_a_second_run_is_refused_and_the_first_goes_on():
    session = opened(noisy())
    job = session.denoise()
    with pytest.raises(ValueError, match=r"still denoising \(auto\); stop it, or wait"):
        session.denoise("small")
    assert finished(job).state == DONE and list(session.results) == ["auto"]


def test_a_run_takes_the_place_of_a_measurement():
    session = opened(noisy())
    measured = session.measure()
    job = session.denoise()
    assert not measured.running and finished(job).state == DONE


def test_a_result_of_an_image_that_was_left_is_not_kept():
    session = opened(noisy())
    job = session.denoise()
    session.open(Region(noisy(seed=1), "YX"))
    finished(job)
    assert session.results == {} and session.noise is None


def test_the_share_grows_to_one():
    shares, session = [], opened(noisy())
    session.tell = lambda: shares.append(session.job.share) if session.job else None
    job = finished(session.denoise())
    assert job.share == 1 and shares == sorted(shares) and len(shares) > 1


@pytest.mark.parametrize(
    ("array", "axes", "sentence"),
    [
        (np.full((40, 41), 7, np.uint8), "YX", "constant|one value|the same"),
        (np.zeros((0, 9)), "YX", "empty"),
        (np.full((40, 41), np.nan, np.float32), "YX", "NaN"),
        (noisy((8, 9)), "YX", "16"),
        (noisy() + 1j, "YX", "complex"),
    ],
)
def test_what_is_no_image_is_one_sentence(array, axes, sentence, capsys):
    job = finished(opened(array, axes).denoise())
    assert job.state == FAILED and re.search(sentence, job.failure), job.failure
    assert "\n" not in job.failure and "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(("name", "sentence"), [("none.safetensors", "no such weights"), ("bad.safetensors", "not a")])
def test_a_model_file_that_is_none_is_one_sentence(tmp_path, name, sentence):
    (tmp_path / "bad.safetensors").write_text("no weights")
    job = finished(opened(noisy()).denoise(str(tmp_path / name)))
    assert job.state == FAILED and sentence in job.failure and name in job.failure


def test_an_unforeseen_fault_is_one_sentence_too(capfd):
    job = finished(Job("denoising (auto)", lambda _: 1 / 0, name="cells").start())
    assert job.failure.startswith("cells: cannot be") and "ZeroDivisionError" in job.failure
    assert "Traceback" not in "".join(capfd.readouterr())


def test_warnings_of_the_work_become_notes():
    session = opened(noisy())
    job = finished(Job("x", lambda _: warnings.warn("the network is for white noise", stacklevel=1)).start())
    assert job.notes == ("the network is for white noise",) and session.job is None


def test_networks_of_other_threads_are_neither_counted_nor_stopped():
    array, session = noisy(), opened(noisy((256, 256)))
    job = session.denoise()
    session.stop()
    assert mptpn.denoise(array).image.shape == array.shape  # in this thread
    assert finished(job).state == STOPPED and threading.active_count() < 20


def test_a_region_that_memory_does_not_hold_is_refused():
    check_room(512 * 512, name="cells")
    with pytest.raises(ValueError, match="cells: this region has 1000000 million pixels and takes 80000.0 GB"):
        check_room(10**12, name="cells")


def test_a_prompt_is_answered_or_not_found_with_a_reason():
    session = opened(noisy())
    job = finished(session.ask("nuclei", noisy()))
    assert job.state == DONE and (job.outcome.found or job.outcome.sentence.startswith("not found: "))
    with pytest.raises(ValueError, match="the prompt is empty"):
        session.ask("  ", noisy())


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_a_sample_is_a_noisy_scan_with_a_pixel_size(name):
    path = samples.sample(name)
    assert min(open_scan(path).shape) >= 128 and 0.3 < samples.pixel_size(path)[0] < 2  # mm
