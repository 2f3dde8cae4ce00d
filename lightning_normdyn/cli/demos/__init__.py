"""The body of ``normdyn demo``: its training, its numbers, its table."""
