"""A table of word vectors, trained on plain text: the task of the demo."""
