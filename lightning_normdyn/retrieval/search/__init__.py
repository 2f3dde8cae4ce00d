"""Exact search over embeddings, streamed in tiles."""
