import jax.numpy as jnp
import pytest

from ddpm_jax.reporting.profile import Profile


@pytest.mark.parametrize(("steps", "traced"), [((2, 3), [2, 3]), ((4, 9), [4, 5]), ((), []), ((7, 8), [])])
def test_a_profile_traces_the_configured_steps(tmp_path, steps, traced):
    profile, seen = Profile(tmp_path, steps), []
    for number in range(1, 6):
        with profile.step(number):
            result = jnp.ones(3) * number
            seen += [number] * profile.running
        if profile.ends_at(number):
            profile.stop(result)
    profile.stop(result)
    assert seen == traced and not profile.running
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == bool(traced)
