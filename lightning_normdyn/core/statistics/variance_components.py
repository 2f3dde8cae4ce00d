"""Parts of the uncertainty of a gain: which queries were asked, which seed trained, and both together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NORMAL_OF_POWER = 0.841621
"""How many standard errors above its bound a gain must lie to pass it with a probability of 80%."""
_POWER = 0.8
_DRAWS = 20_000
_BISECTIONS = 40
_LEAST_ERROR = 1e-30


class VarianceComponents(NamedTuple):
    """Where variants' means come from, as variances; of a balanced two-way layout without replicates.

    Attributes:
        queries: of the difference of two variants, from query to query.
        trainings: of a variant, from seed to seed.
        residual: of a variant, from query to query under one seed, beyond what all seeds share.
        freedom: degrees of freedom of ``trainings``.
    """

    queries: float
    trainings: float
    residual: float
    freedom: int

    @classmethod
    def of(cls, values: Tensor) -> VarianceComponents:
        """Estimates them.

        A query's difference is that of means over seeds, and a seed's mean that over queries; what two seeds leave of
        the residual in either is taken off (Searle, Casella, McCulloch 1992, chapter 4).

        Args:
            values: finite measures ``[variants, seeds, n]``, two or more of each.
        """
        variants, seeds, n = values.shape
        values = values.double()
        of_seeds = values.mean(2)
        of_queries = values.mean(1)
        left = values - of_seeds[:, :, None] - of_queries[:, None] + values.mean((1, 2))[:, None, None]
        residual = float(left.square().sum() / (variants * (seeds - 1) * (n - 1)))
        trainings = float(of_seeds.var(1).mean()) - residual / n
        # Of two of several variants: the mean variance of a difference over all pairs.
        scatter = float(of_queries.sub(of_queries.mean(0)).var(1).sum()) / (variants - 1)
        queries = 2 * scatter - 2 * residual / seeds
        return cls(max(queries, 0.0), max(trainings, 0.0), residual, variants * (seeds - 1))

    def with_trainings(self, share: float, *, queries: int) -> VarianceComponents:
        """The same with as much variance from seed to seed as may hide behind what was seen.

        Args:
            share: how likely the true variance is to be smaller: with two seeds much larger ones remain likely.
            queries: over which seeds' means were taken.
        """
        generator = torch.Generator().manual_seed(0)
        chi_square = torch.randn(10 * _DRAWS, self.freedom, generator=generator).square().sum(1)
        of_training = self._of_training(queries) * self.freedom / float(chi_square.quantile(1 - share))
        return self._replace(trainings=of_training - self.residual / queries)

    def standard_error(self, *, seeds: int, queries: int) -> float:
        """Of a gain over the reference, a difference of means over so many of both."""
        return math.sqrt(self.queries / queries + 2 * self._of_training(queries) / seeds)

    def _of_training(self, queries: int) -> float:
        """Variance of a mean over queries from seed to seed."""
        return self.trainings + self.residual / queries

    def visible_gain(self, *, variants: int, seeds: int, queries: int, level: float = 0.95) -> float:
        """The smallest gain of one of several variants that is seen with a probability of 80%.

        Args:
            variants: that are compared, the reference among them.
            seeds: trainings of each, two or more.
            queries: of the test.
            level: of the intervals, which hold for all gains at once.

        Example:
            >>> components = VarianceComponents(queries=0.09, trainings=0.0, residual=0.0, freedom=2)
            >>> round(components.visible_gain(variants=2, seeds=3, queries=900), 3)  # (1.96 + 0.84) · 0.3 / 30
            0.028
        """
        halves = self._half_widths(variants, seeds, queries, level)
        error = self.standard_error(seeds=seeds, queries=queries)
        low, high = 0.0, float(halves.max()) + 4 * error
        for _ in range(_BISECTIONS):
            gain = (low + high) / 2
            is_seen = float(torch.special.ndtr((gain - halves) / max(error, _LEAST_ERROR)).mean()) >= _POWER
            low, high = (low, gain) if is_seen else (gain, high)
        return high

    def _half_widths(self, variants: int, seeds: int, queries: int, level: float) -> Tensor:
        """Of intervals as :func:`compare_variants` makes them, where seeds happen to spread by little or by much."""
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(2, _DRAWS, variants, generator=generator)
        freedom = variants * (seeds - 1)
        chi_square = torch.randn(_DRAWS, freedom, generator=generator).square().sum(1)
        of_queries = normal[0] * math.sqrt(self.queries / 2 / queries)
        of_trainings = normal[1] * (freedom / chi_square).sqrt()[:, None]
        spread = math.sqrt(self._of_training(queries) / seeds)
        halves = []
        for estimate in chi_square.quantile(torch.linspace(0.025, 0.975, 20)).tolist():
            errors = of_queries + of_trainings * (spread * math.sqrt(estimate / freedom))
            halves.append((errors[:, 1:] - errors[:, :1]).abs().amax(1).quantile(level))
        return torch.stack(halves)

    def largest_sizes(self, looks: Sequence[int], *, variants: int, queries: int, draws: int) -> Tensor:
        """The largest gain over the reference in standard errors, in draws where no variant differs.

        Errors of queries stay from look to look and those of seeds are averaged; the standard errors are those that
        one would estimate from the seeds so far.

        Args:
            looks: numbers of seeds, ascending, two or more.
            variants: that are compared, the reference among them.
            queries: of the test.
            draws: how many.

        Returns:
            ``[draws, looks]``.
        """
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(1 + looks[-1], draws, variants, generator=generator)
        of_queries = normal[0] * math.sqrt(self.queries / 2 / queries)
        of_trainings = normal[1:] * math.sqrt(self._of_training(queries))
        sums, squares = of_trainings.cumsum(0), of_trainings.square().cumsum(0)
        sizes = []
        for seeds in looks:
            scatter = (squares[seeds - 1] - sums[seeds - 1].square() / seeds).clamp(min=0).mean(1)
            error = (self.queries / queries + 2 * scatter / (seeds - 1) / seeds).clamp(min=1e-30).sqrt()
            means = of_queries + sums[seeds - 1] / seeds
            sizes.append((means[:, 1:] - means[:, :1]).abs().amax(1) / error)
        return torch.stack(sizes, 1)
