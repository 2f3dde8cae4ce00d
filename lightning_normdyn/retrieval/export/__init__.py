"""Folding a norm exponent into stored vectors, and writing them to an index."""
