"""The site: Markdown of docs/ and the notebooks as they were executed. ./docs/build copies both into one folder."""

project = "mptpn"
author = "The mptpn authors"
root_doc = "docs/index"
extensions = ["myst_nb"]
exclude_patterns = ["docs/_build"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]  # a page has no kernel
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = [
    "mystnb.unknown_mime_type",  # widgets
    "myst.header",  # notebooks may skip a heading level
]

html_theme = "sphinx_book_theme"
html_title = "mptpn"
html_theme_options = {"home_page_in_toc": True}
html_show_sourcelink = False
