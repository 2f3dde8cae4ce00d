"""Few-shot classification with prototypes."""
