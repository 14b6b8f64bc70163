"""A guess at the ablations not drawn yet, from some that were: a Gaussian process over the ensemble's weights.

An ablation changes the weights of the ensemble's mean, 1/n each, by dw. Expand what that does to a picture in a Taylor
series: its term of order k is a form of degree k in dw, and a random form of degree k is a Gaussian process with
kernel r^k, r = <dw, dw'>. So the changes y of all pixels are taken as

    y ~ GP(0, K) x Sigma,    K(dw, dw') = v1 r + v2 r^2 + v3 r^3 + v0 [dw = dw'],

with v fitted by likelihood, and the pixels' covariance Sigma from the errors that each drawn ablation leaves when it is
left out. v0 is what no smooth function explains. Of the pictures only the inner products of their changes are needed,
so the cost does not grow with their size.
"""

from __future__ import annotations

import math

import numpy as np

from ...codes.code import weight_change

ORDERS = (1, 2, 3)
START = np.log([1.0, 0.3, 0.3, 0.1])  # v1, v2, v3, v0 before anything is known; v1 only sets the scale
FLOOR = -9.0  # log of the least share that is told from none
FITTED = 256  # v is fitted to so many ablations at most: it costs the cube of their number, some dozens of times
JITTER = 1e-8  # of the kernel: keeps it invertible
FREEDOM = 5  # of Student's t: errors have longer tails than a normal distribution's


class Surrogate:
    """Predicts how far ablations move a sample.

    Attributes:
        dw: changes of the weights, float64 (ablations, n), scaled to a mean square length of 1.
        v: the kernel's parameters, v1 .. v3 and v0, relative to v1.
        spread: mean square of the left-out errors in squared distance, over the variance foreseen for them; foreseen
            variances are multiplied by it.
    """

    def __init__(self, words: np.ndarray) -> None:
        """`words`: which components each ablation removes, bool (ablations, n)."""
        dw = weight_change(words)
        self.dw = dw / np.sqrt(np.square(dw).sum(1).mean())
        self._log_v = START.copy()
        self.spread = 1.0

    @property
    def v(self) -> np.ndarray:
        """v1, v2, v3, v0, float64."""
        return np.exp(self._log_v)

    def fit(self, rows: np.ndarray, gram: np.ndarray) -> Surrogate:
        """Learn from drawn ablations; from the last v on, if it was fitted before.

        Args:
            rows: which, int (m,).
            gram: inner products of the changes they made, float64 (m, m), not all zero.
        """
        self.rows, self.gram, m = rows, gram, len(gram)
        self._choose_v(rows[:FITTED], gram[:FITTED, :FITTED])
        self.inverse = np.linalg.inv(self._kernel(rows))
        # y_i is missed by (inverse @ y)_i / inverse_ii when it is left out, which has the variance 1 / inverse_ii
        left_out = 1 / np.diag(self.inverse)
        standard = self.inverse * np.sqrt(left_out)[:, None]  # standard @ y: those errors in standard deviations
        self.across = standard @ gram  # their inner products with the changes
        self.within = self.across @ standard.T  # and with each other: m Sigma, seen from the span of the errors
        self.spread = 1.0
        mean, variance = self._square(np.eye(m) - self.inverse * left_out[:, None], left_out)
        self.spread = float(np.mean((np.diag(gram) - mean) ** 2 / variance))
        return self

    def squares(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the squared distance from the factual sample under some ablations: (rows,) each."""
        known, length = self._products(rows, self.rows), np.square(self.dw[rows]).sum(1)
        own = self._orders(length) + self.v[-1] * (length > 0)  # without any change nothing moves
        weights = known @ self.inverse
        return self._square(weights, np.maximum(own - (weights * known).sum(1), JITTER * self.v.sum()))

    def _square(self, weights: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of |mu + e|^2, mu = weights @ y and e ~ N(0, variance x Sigma)."""
        m = len(self.gram)
        length = ((weights @ self.gram) * weights).sum(1)  # |mu|^2
        along = np.square(weights @ self.across.T).sum(1) / m  # mu' Sigma mu
        mean = length + variance * np.trace(self.within) / m
        return mean, self.spread * (4 * variance * along + 2 * np.square(variance / m) * np.square(self.within).sum())

    def _choose_v(self, rows: np.ndarray, gram: np.ndarray) -> None:
        """Raise the likelihood, one parameter at a time, with Sigma = s 1, for which the best s is known."""
        m, r = len(rows), self.dw[rows] @ self.dw[rows].T
        parts = [*(r**order for order in ORDERS), np.eye(m)]

        def loss(log_v: np.ndarray) -> float:
            v = np.exp(log_v)
            factor = np.linalg.cholesky(sum(map(np.multiply, v, parts), JITTER * v.sum() * np.eye(m)))
            half = np.linalg.solve(factor, gram)
            return m * math.log(np.trace(np.linalg.solve(factor, half.T))) / 2 + np.log(np.diag(factor)).sum()

        least = loss(self._log_v)
        for stride in (1.5, 0.7, 0.3):
            moved = True
            while moved:
                moved = False
                for k in range(1, len(self._log_v)):
                    for step in (stride, -stride):
                        tried = self._log_v.copy()
                        tried[k] = max(FLOOR, tried[k] + step)
                        if (found := loss(tried)) < least - 1e-6:
                            least, self._log_v, moved = found, tried, True
                            break

    def _kernel(self, rows: np.ndarray) -> np.ndarray:
        return self._products(rows, rows) + (self.v[-1] + JITTER * self.v.sum()) * np.eye(len(rows))

    def _products(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return self._orders(self.dw[rows] @ self.dw[others].T)

    def _orders(self, r: np.ndarray) -> np.ndarray:
        """Sum over the orders of v r^order, for each r."""
        return sum((v * r**order for v, order in zip(self.v, ORDERS, strict=False)), np.zeros_like(r))


def beyond(z: np.ndarray) -> np.ndarray:
    """The chance that Student's t with FREEDOM = 5, scaled to variance 1, exceeds z."""
    from scipy.special import stdtr

    return stdtr(FREEDOM, -z * math.sqrt(FREEDOM / (FREEDOM - 2)))
