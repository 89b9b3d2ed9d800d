"""The site of these pages: ``make docs``."""

import drystone

project = "Drystone"
author = "the authors of Drystone"
version = release = drystone.__version__
copyright = f"{author}. Apache License 2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
]
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # signatures name types; docstrings say what they mean
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "Drystone"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b03426", "color-brand-content": "#b03426"},
    "dark_css_variables": {"color-brand-primary": "#ef8a7d", "color-brand-content": "#ef8a7d"},
}
