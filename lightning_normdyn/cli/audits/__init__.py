"""The body of ``normdyn audit``: from files and models to the page."""
