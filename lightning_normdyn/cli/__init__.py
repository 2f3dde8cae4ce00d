"""The command line: ``normdyn demo | report | fit | validate | test | predict``."""
