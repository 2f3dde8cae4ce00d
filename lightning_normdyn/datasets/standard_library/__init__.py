"""Sets made of the Python installation itself: no download, the same for every user of one version."""
