"""The body of ``normdyn watch``: finds the run, follows its history on disk, and keeps one page up to date."""
