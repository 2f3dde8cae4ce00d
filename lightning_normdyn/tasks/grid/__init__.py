"""A family trained with every normalization: who is better, why, and whether theory had said so."""
