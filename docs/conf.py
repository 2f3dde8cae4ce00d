"""How the documentation is built; ``make docs`` builds it."""

import sys
from pathlib import Path

from sphinx.util import logging

from lightning_normdyn._version import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from gallery_state import not_run, pattern

for page, package in not_run().items():
    logging.getLogger(__name__).info("%s is shown and not run: %s is not installed", page, package)

project = "lightning-normdyn"
author = "lightning-normdyn developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "api_pages",
    "registry_tables",
]
exclude_patterns = ["_build", "examples", "package.md", "reference/quantity_table.md", "reference/rule_table.md"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": pattern(),
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "capture_repr": (),
    "write_computation_times": False,
    "matplotlib_animations": False,
    "reset_modules": ("matplotlib", "gallery_state.reset"),
    "image_srcset": ["2x"],
}

html_theme = "furo"
html_title = f"lightning-normdyn {release}"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7ab3ef", "color-brand-content": "#7ab3ef"},
}
