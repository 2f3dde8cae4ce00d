"""Text retrieval and retrieval-augmented reading."""
