"""Signal and noise rates after t steps: beta schedules, and the tables derived from them.

    q(x_t | x_0) = N(signal_t x_0, noise_t^2 I),   signal_t^2 = alpha_bar_t,   noise_t^2 = 1 - alpha_bar_t

Time counts 1..T as in the papers, and alpha_bar_0 = 1, so every table has T + 1 entries and no step is a special case.
Everything is computed once in float64 NumPy, including differences (1 - alpha_bar computed in float32 is wrong by
1.7e-4 at t = 1), and read by `process.per_image` as float32.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np

from ddpm_jax.shapes import Betas, Table

MAX_BETA = 0.999  # Nichol & Dhariwal 2021, section 3.2: keeps the last steps of a steep schedule invertible.


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The noise schedule as tables over t = 0..T; alpha_bar[0] = 1 and alpha_bar never increases."""

    alpha_bar: Table

    def __post_init__(self) -> None:
        if self.alpha_bar[0] != 1.0 or np.any(np.diff(self.alpha_bar) >= 0.0) or self.alpha_bar[-1] < 0.0:
            raise ValueError("alpha_bar must start at 1 and fall strictly, and not below 0.")

    @property
    def steps(self) -> int:
        """T, the number of diffusion steps."""
        return len(self.alpha_bar) - 1

    @cached_property
    def signal_rate(self) -> Table:
        """sqrt(alpha_bar_t), the factor of x_0 in x_t."""
        return np.sqrt(self.alpha_bar)

    @cached_property
    def noise_rate(self) -> Table:
        """sqrt(1 - alpha_bar_t), the factor of eps in x_t."""
        return np.sqrt(1.0 - self.alpha_bar)

    @cached_property
    def sigma(self) -> Table:
        """noise_rate / signal_rate, the noise level of x_t / signal_t in Karras et al. 2022; rises from 0 at t = 0.

        Infinite at t = T where the terminal SNR is zero.
        """
        with np.errstate(divide="ignore"):
            return self.noise_rate / self.signal_rate

    @cached_property
    def snr(self) -> Table:
        """Signal-to-noise ratio alpha_bar_t / (1 - alpha_bar_t); infinite at t = 0."""
        with np.errstate(divide="ignore"):
            return self.alpha_bar / (1.0 - self.alpha_bar)

    @cached_property
    def log_snr(self) -> Table:
        """log(snr), Kingma et al. 2021; falls from +inf at t = 0, to -inf where the terminal SNR is zero."""
        with np.errstate(divide="ignore"):
            return np.log(self.snr)


def linear_betas(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Betas:
    """beta_1..beta_T evenly spaced, Ho et al. 2020, section 4.

    beta_start and beta_end are for T = 1000; for another T they are scaled by 1000 / T, which keeps alpha_bar_T about
    the same.
    """
    scale = 1000.0 / steps
    return np.minimum(np.linspace(scale * beta_start, scale * beta_end, steps), MAX_BETA)


def quadratic_betas(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Betas:
    """sqrt(beta) evenly spaced ("scaled linear" in diffusers), with the scaling of `linear_betas`."""
    scale = 1000.0 / steps
    return np.minimum(np.linspace((scale * beta_start) ** 0.5, (scale * beta_end) ** 0.5, steps) ** 2, MAX_BETA)


def cosine_betas(steps: int) -> Betas:
    """alpha_bar_t proportional to cos^2(pi/2 (t/T + s) / (1 + s)) with s = 0.008, Nichol & Dhariwal 2021, Eq. 17."""
    s = 0.008
    return betas_of_curve(np.cos(np.pi / 2 * (np.arange(steps + 1) / steps + s) / (1 + s)) ** 2)


def sigmoid_betas(steps: int) -> Betas:
    """alpha_bar_t a falling sigmoid over [-3, 3], rescaled to 1..0: Jabri et al. 2022; Chen 2023, Algorithm 1."""
    curve = 1.0 / (1.0 + np.exp(np.linspace(-3.0, 3.0, steps + 1)))
    return betas_of_curve((curve - curve[-1]) / (curve[0] - curve[-1]))


def betas_of_curve(alpha_bar: Table) -> Betas:
    """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1} for t = 1..T, at most MAX_BETA; alpha_bar has T + 1 entries."""
    return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


def schedule_of_betas(betas: Betas, *, zero_terminal_snr: bool = False) -> Schedule:
    """The Schedule of beta_1..beta_T, each in 0..1.

    zero_terminal_snr shifts and scales sqrt(alpha_bar) so that step 1 keeps its value and step T has no signal, Lin et
    al. 2023, Algorithm 1. Such a schedule cannot train an eps-model, since x_T contains no information on x_0.
    """
    alpha_bar = np.cumprod(1.0 - np.asarray(betas, np.float64))
    if zero_terminal_snr:
        signal = np.sqrt(alpha_bar)
        alpha_bar = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
    return Schedule(np.insert(alpha_bar, 0, 1.0))


BETAS: dict[str, Callable[..., Betas]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "quadratic": quadratic_betas,
    "sigmoid": sigmoid_betas,
}
"""The schedules by their config names; linear and quadratic also take beta_start and beta_end."""
