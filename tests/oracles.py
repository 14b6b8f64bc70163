"""The method written out plainly in NumPy and float64, sharing no code with the package: what tests compare it with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Predict = Callable[[np.ndarray, int], np.ndarray]
"""(x_t (B, C, H, W), t) -> predicted noise."""


def abar(train_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> list[float]:
    """abar_t = prod_{s<=t} (1 - beta_s) of linear betas, one factor at a time (Ho et al. 2020, section 2)."""
    values, product = [], 1.0
    for t in range(train_steps):
        beta = first + (last - first) * t / max(1, train_steps - 1)
        product *= 1 - beta
        values.append(product)
    return values


def data_of(images: np.ndarray) -> np.ndarray:
    """uint8 (M, H, W, C) -> float64 (M, C, H, W) in [-1, 1]."""
    return np.transpose(images, (0, 3, 1, 2)).astype(np.float64) / 255 * 2 - 1


def posterior(data: np.ndarray, a: float, x: np.ndarray) -> list[float]:
    """p(j | x_t) over the data, for one x_t, by Bayes: data equally likely, noise of variance 1 - a around each."""
    logs = []
    for datum in data:
        squared = 0.0
        for value, centre in zip(x.flat, datum.flat, strict=True):
            squared += (value - a**0.5 * centre) ** 2
        logs.append(-squared / (2 * (1 - a)))
    weights = [np.exp(log - max(logs)) for log in logs]
    return [float(weight / sum(weights)) for weight in weights]


def ideal(data: np.ndarray, schedule: Sequence[float]) -> Predict:
    """The optimal noise predictor on a finite data set, row by row."""

    def predict(x: np.ndarray, t: int) -> np.ndarray:
        a, out = schedule[t], np.empty_like(x)
        for row, value in enumerate(x):
            mean = sum(p * datum for p, datum in zip(posterior(data, a, value), data, strict=True))
            out[row] = (value - a**0.5 * mean) / (1 - a) ** 0.5
        return out

    return predict


def mean_of(predictors: Sequence[Predict]) -> Predict:
    """The ensemble: the arithmetic mean of its members' predictions."""
    return lambda x, t: sum(predict(x, t) for predict in predictors) / len(predictors)


def strided(train_steps: int, steps: int) -> list[int]:
    """t = k T/steps, highest first."""
    return [k * (train_steps // steps) for k in reversed(range(steps))]


def ancestral(predict: Predict, noise: np.ndarray, schedule: Sequence[float], steps: int) -> np.ndarray:
    """Ho et al. 2020, algorithm 2 with equation 11 and the variance beta-tilde of equation 7, over strided timesteps.

    alpha_t is the ratio of abar at a visited timestep and at the next lower one, which for all T steps is 1 - beta_t.
    """
    x = noise[0].astype(np.float64)
    times = strided(len(schedule), steps)
    for k, t in enumerate(times, start=1):
        below = schedule[times[k]] if k < steps else 1.0
        alpha = schedule[t] / below
        beta = 1 - alpha
        mean = (x - beta / (1 - schedule[t]) ** 0.5 * predict(x, t)) / alpha**0.5
        variance = (1 - below) / (1 - schedule[t]) * beta
        x = mean + variance**0.5 * noise[k]
    return x


def implicit(predict: Predict, noise: np.ndarray, schedule: Sequence[float], steps: int) -> np.ndarray:
    """DDIM (Song et al. 2021, equation 12) with eta 0."""
    x = noise[0].astype(np.float64)
    times = strided(len(schedule), steps)
    for k, t in enumerate(times, start=1):
        below = schedule[times[k]] if k < steps else 1.0
        eps = predict(x, t)
        x0 = (x - (1 - schedule[t]) ** 0.5 * eps) / schedule[t] ** 0.5
        x = below**0.5 * x0 + (1 - below) ** 0.5 * eps
    return x


def multistep(predict: Predict, noise: np.ndarray, schedule: Sequence[float], steps: int) -> np.ndarray:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), its last step, to noise zero, of first order.

    Timesteps are spread evenly over 0 .. T-1, of which the lowest is where the last but one step would end.
    """
    x, last, last_lambda, h_last = noise[0].astype(np.float64), None, 0.0, 0.0
    times = [round(k * (len(schedule) - 1) / steps) for k in range(steps, 0, -1)]
    for k, t in enumerate(times, start=1):
        alpha, sigma = schedule[t] ** 0.5, (1 - schedule[t]) ** 0.5
        lambda_t = np.log(alpha / sigma)
        if k > 1:
            h_last = lambda_t - last_lambda
        x0 = (x - sigma * predict(x, t)) / alpha
        if k == steps:
            return x0
        alpha_to, sigma_to = schedule[times[k]] ** 0.5, (1 - schedule[times[k]]) ** 0.5
        h = np.log(alpha_to / sigma_to) - lambda_t
        direction = x0
        if last is not None:
            r = h_last / h
            direction = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * last
        x = sigma_to / sigma * x - alpha_to * (np.exp(-h) - 1) * direction
        last, last_lambda = x0, lambda_t
    raise ValueError("no steps")


def heun(predict: Predict, noise: np.ndarray, schedule: Sequence[float], steps: int) -> np.ndarray:
    """Karras et al. 2022, algorithm 1 (their deterministic sampler), for the probability flow of equation 1.

    The noise levels of equation 5 (rho = 7), from at most 80 to the schedule's lowest, at the nearest timesteps that
    leave room for as many as there are. y is the noisy picture without the schedule's scaling down.
    """
    sigma = [((1 - a) / a) ** 0.5 for a in schedule]
    high, times = min(80.0, sigma[-1]), list[int]()
    for i in range(steps):
        share = i / (steps - 1) if steps > 1 else 0.0
        level = (high ** (1 / 7) + share * (sigma[0] ** (1 / 7) - high ** (1 / 7))) ** 7
        times.append(min(range(len(sigma)), key=lambda t, at=level: abs(np.log(sigma[t] / at))))
    for i in reversed(range(steps - 1)):
        times[i] = max(times[i], times[i + 1] + 1)
    times = [min(t, len(sigma) - 1 - i) for i, t in enumerate(times)]
    y = noise[0].astype(np.float64) / schedule[times[0]] ** 0.5

    def slope(y: np.ndarray, t: int) -> np.ndarray:
        image = y - sigma[t] * predict(y * schedule[t] ** 0.5, t)  # D(y; sigma)
        return (y - image) / sigma[t]

    for i, t in enumerate(times):
        below = sigma[times[i + 1]] if i + 1 < steps else 0.0
        d = slope(y, t)
        ahead = y + (below - sigma[t]) * d
        if below > 0:
            ahead = y + (below - sigma[t]) * (d / 2 + slope(ahead, times[i + 1]) / 2)
        y = ahead
    return y


SAMPLERS = {"ddpm": ancestral, "ddim": implicit, "dpmsolver++": multistep, "heun": heun}
