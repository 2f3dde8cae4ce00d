"""The command line: ``normdyn demo | report | reproduce | fit | validate | test | predict``."""
