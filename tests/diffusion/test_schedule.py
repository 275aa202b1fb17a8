import numpy as np
import pytest

from ddpm_jax.diffusion.process import posterior_tables
from ddpm_jax.diffusion.schedule import BETAS, MAX_BETA, Schedule, linear_betas, schedule_of_betas


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_tables_equal_the_reference(name, request, reference):
    schedule, expected = request.getfixturevalue(name), reference[name]
    tables = {
        "alpha_bar": schedule.alpha_bar,
        "posterior_variance": posterior_tables(schedule).variance,
        "log_snr": schedule.log_snr,
    }
    for table, values in tables.items():
        for t, value in expected[table].items():
            np.testing.assert_allclose(values[int(t)], value, rtol=1e-9, atol=1e-15, err_msg=f"{table} at t={t}")


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("steps", [2, 10, 250, 1000, 4000])
def test_schedules_of_any_length_go_from_signal_to_noise(name, steps):
    schedule = schedule_of_betas(BETAS[name](steps))
    assert schedule.steps == steps
    assert schedule.alpha_bar.shape == (steps + 1,) and schedule.alpha_bar.dtype == np.float64
    assert schedule.alpha_bar[0] == 1.0 and schedule.noise_rate[0] == 0.0
    assert np.all(np.diff(schedule.alpha_bar) < 0)
    assert schedule.alpha_bar[-1] < 0.01
    np.testing.assert_allclose(schedule.signal_rate**2 + schedule.noise_rate**2, 1.0, rtol=1e-12)


@pytest.mark.parametrize("name", BETAS)
def test_betas_stay_within_bounds(name):
    for steps in (5, 1000):
        betas = BETAS[name](steps)
        assert betas.shape == (steps,) and np.all(betas > 0) and np.all(betas <= MAX_BETA)


def test_linear_schedules_of_all_lengths_end_at_about_the_same_noise():
    ends = [schedule_of_betas(linear_betas(steps)).log_snr[-1] for steps in (500, 1000, 4000)]
    np.testing.assert_allclose(ends, ends[1], atol=0.2)


def test_zero_terminal_snr_equals_the_reference(reference):
    schedule = schedule_of_betas(linear_betas(1000), zero_terminal_snr=True)
    for t, value in reference["linear"]["zero_terminal_snr_alpha_bar"].items():
        np.testing.assert_allclose(schedule.alpha_bar[int(t)], value, rtol=1e-12, atol=1e-15)
    assert schedule.log_snr[-1] == -np.inf


@pytest.mark.parametrize("alpha_bar", [[0.9, 0.5], [1.0, 0.5, 0.5], [1.0, 0.5, -0.1]])
def test_invalid_tables_are_refused(alpha_bar):
    with pytest.raises(ValueError, match="start at 1 and fall"):
        Schedule(np.array(alpha_bar))
