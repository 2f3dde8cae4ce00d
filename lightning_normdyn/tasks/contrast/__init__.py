"""What contrastive tasks share: module, data, evaluation splits and ranking measures."""
