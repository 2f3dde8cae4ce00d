"""The report of one training run: its figures, words and page."""
