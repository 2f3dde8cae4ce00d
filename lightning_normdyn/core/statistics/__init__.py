"""Statistics of samples: correlations, effect sizes, intervals, tests, rankings and the Fisher information."""
