"""Searching embeddings by scores that know their norms, and taking such scores to the indexes people run."""
