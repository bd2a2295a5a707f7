"""Statistical dependence of two latents, measured by predicting one from the other on held-out particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARTICLES = 3000
HELD_OUT = 1.0 / 3.0
TREES = 30
WEAK_R2, STRONG_R2 = 0.05, 0.3
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Prediction:
    """Held-out R² of the prediction of one latent from another, with a permutation test.

    Attributes
    ----------
    source, target
        Names of the predicting and the predicted latent.
    ridge, forest
        R² of ridge regression and of a random forest: the mean over the dimensions of the target, weighted by their
        variance.
    null
        R² of the better model for each permutation of the particles.
    """

    source: str
    target: str
    ridge: float
    forest: float
    null: tuple[float, ...]

    @property
    def best(self) -> float:
        """R² of the better model."""
        return max(self.ridge, self.forest)

    @property
    def p_value(self) -> float:
        """Permutation p-value: fraction of permutations, including the identity, that reach the observed R²."""
        return (1 + sum(value >= self.best for value in self.null)) / (1 + len(self.null))

    def sentence(self) -> str:
        """Return the result and its interpretation as text."""
        result = (
            f"The {self.source} predicts {max(self.best, 0.0):.0%} of the variance of the {self.target} on "
            f"held-out particles (R²: ridge {self.ridge:.2f}, forest {self.forest:.2f}; at most {max(self.null):.2f} "
            f"for shuffled particles, p = {self.p_value:.2g})."
        )
        if self.p_value > SIGNIFICANT or self.best < WEAK_R2:
            return f"{result} The two latents are nearly independent."
        if self.best < STRONG_R2:
            return f"{result} The two latents are weakly dependent."
        return (
            f"{result} The two latents are strongly dependent: apparent motion may be composition, or the reverse. "
            "Compare dpc with pc volumes before interpreting either."
        )


def predict_latent(
    source: np.ndarray, target: np.ndarray, names: tuple[str, str], permutations: int = 19, seed: int = 0
) -> Prediction:
    """Measure how well `source` predicts `target` on a held-out third of at most 3,000 particles.

    Parameters
    ----------
    source, target
        Latents of the same particles, shapes (N, a) and (N, b).
    names
        Names of `source` and `target` in the report.
    permutations
        Number of permutations of the particles for the null distribution.
    seed
        Random seed.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(source))[:PARTICLES]
    cut = round(len(chosen) * HELD_OUT)
    if cut < 2 or len(chosen) - cut < 2:
        raise ValueError(f"{len(source)} particles are too few to hold some out")
    x = _scaled(source[chosen])
    y = _scaled(target[chosen])

    def scores(targets: np.ndarray) -> tuple[float, float]:
        r2 = []
        for model in (
            RidgeCV(np.logspace(-3, 4, 15)),
            RandomForestRegressor(TREES, min_samples_leaf=3, max_features=0.5, random_state=seed, n_jobs=1),
        ):
            model.fit(x[cut:], targets[cut:] if targets.shape[1] > 1 else targets[cut:, 0])
            predicted = model.predict(x[:cut]).reshape(cut, -1)
            r2.append(float(r2_score(targets[:cut], predicted, multioutput="variance_weighted")))
        return r2[0], r2[1]

    ridge, forest = scores(y)
    null = tuple(max(scores(y[rng.permutation(len(y))])) for _ in range(permutations))
    return Prediction(*names, ridge, forest, null)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Center values and divide them by the largest standard deviation, which keeps the ratios of variances."""
    values = np.asarray(values, dtype=np.float64)
    values = values - values.mean(0)
    spread = values.std(0).max()
    return values / spread if spread > 0 else values
