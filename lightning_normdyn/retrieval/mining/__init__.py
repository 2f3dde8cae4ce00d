"""Hard negatives: mining them from embeddings, and handing them to a training."""
