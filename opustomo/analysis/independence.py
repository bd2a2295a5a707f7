"""Whether two latents tell the same story: how well one is predicted from the other on held-out particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARTICLES = 3000
HELD_OUT = 1.0 / 3.0
TREES = 30
LITTLE, MUCH = 0.05, 0.3
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Prediction:
    """Held-out R² of one latent from another, and of shuffled partners.

    Attributes
    ----------
    source, target
        What is predicted from what.
    ridge, forest
        R² of a linear model and of a random forest; the mean over the target's dimensions, weighted by variance.
    null
        R² of the better of both on every permutation.
    """

    source: str
    target: str
    ridge: float
    forest: float
    null: tuple[float, ...]

    @property
    def best(self) -> float:
        """The better of both."""
        return max(self.ridge, self.forest)

    @property
    def p_value(self) -> float:
        """Share of the permutations that do as well, the real pairing counted as one of them."""
        return (1 + sum(value >= self.best for value in self.null)) / (1 + len(self.null))

    def sentence(self) -> str:
        """What it means, in plain words."""
        facts = (
            f"From the {self.source}, {max(self.best, 0.0):.0%} of the variance of the {self.target} is predicted on "
            f"held-out particles (R²: ridge {self.ridge:.2f}, forest {self.forest:.2f}; shuffled particles reach "
            f"{max(self.null):.2f}, p = {self.p_value:.2g})"
        )
        if self.p_value > SIGNIFICANT or self.best < LITTLE:
            return f"{facts}: they tell different stories."
        if self.best < MUCH:
            return f"{facts}: they share a little."
        return (
            f"{facts}: they tell the same story in part. What looks like motion may be composition, or the reverse; "
            "compare dpc with pc volumes before believing either."
        )


def predict_latent(
    source: np.ndarray, target: np.ndarray, names: tuple[str, str], permutations: int = 19, seed: int = 0
) -> Prediction:
    """Predict ``target`` (N, b) from ``source`` (N, a) on a held-out third of at most 3,000 particles.

    Parameters
    ----------
    names
        Of source and target, for the sentence.
    permutations
        How often the particles' partners are shuffled for the null.
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
        found = []
        for model in (
            RidgeCV(np.logspace(-3, 4, 15)),
            RandomForestRegressor(TREES, min_samples_leaf=3, max_features=0.5, random_state=seed, n_jobs=1),
        ):
            model.fit(x[cut:], targets[cut:] if targets.shape[1] > 1 else targets[cut:, 0])
            guess = model.predict(x[:cut]).reshape(cut, -1)
            found.append(float(r2_score(targets[:cut], guess, multioutput="variance_weighted")))
        return found[0], found[1]

    ridge, forest = scores(y)
    null = tuple(max(scores(y[rng.permutation(len(y))])) for _ in range(permutations))
    return Prediction(*names, ridge, forest, null)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Centred, in units of the largest standard deviation, so that variances keep their proportion."""
    values = np.asarray(values, dtype=np.float64)
    values = values - values.mean(0)
    spread = values.std(0).max()
    return values / spread if spread > 0 else values
