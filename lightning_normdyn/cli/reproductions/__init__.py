"""The body of ``normdyn reproduce``: experiments one after the other, in a folder that can be gone on with."""
