"""``normdyn grid``: a family trained with every normalization, each at its own learning rate, on equal budgets."""
