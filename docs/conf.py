"""The pages, built from the root of the checkout: links between them are those that a reader of the files follows."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

from simcse import __version__

project = "simcse"
author = "the authors of simcse-kit"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "benchmarks/**.md", "examples/**.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "dist", "data", "runs", "tests", "simcse"]

html_theme = "furo"
html_title = "simcse"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # tables that benchmarks write begin below a title

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
add_module_names = False
default_role = "code"  # `name` in a docstring
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def setup(app: Sphinx) -> None:
    app.connect("build-finished", _begin_at_the_root)


def _begin_at_the_root(app: Sphinx, failed: Exception | None) -> None:
    """The folder's own index.html leads to the first page, which lies below docs/."""
    if failed is None and app.builder.name == "html":
        page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html"><title>simcse</title>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
