"""The commands as typed functions: their signatures and docstrings make the parser; bodies are imported when called."""
