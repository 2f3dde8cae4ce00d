"""Base classes of contrastive tasks: module, data, evaluation splits, ranking measures."""
