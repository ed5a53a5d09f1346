"""The site: `make docs` builds it without a network; a warning is an error."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import generated  # noqa: E402

from edgepath import __version__  # noqa: E402

project = "edgepath"
author = "The edgepath developers"
project_copyright = author
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_ext", "pictures"]
html_theme = "furo"
html_title = f"edgepath {__version__}"
html_theme_options = {"source_repository": "", "light_css_variables": {"color-brand-primary": "#0072b2"}}
html_show_sourcelink = False
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
default_role = "code"  # docstrings write names as `name`
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

nb_execution_mode = "force" if os.environ.get("EDGEPATH_DOCS_NOTEBOOKS", "1") == "1" else "off"
nb_execution_timeout = 600  # of a cell; a busy machine is slow, not wrong
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"
smartquotes = False  # `--model` is two signs
highlight_language = "bash"

os.environ.setdefault("EDGEPATH_CACHE", tempfile.mkdtemp(prefix="edgepath-docs-"))
os.environ.update(HF_HUB_OFFLINE="1", COLUMNS="100")
generated.write(HERE, HERE.parent)


def setup(app):  # type: ignore[no-untyped-def]
    """Pages link to files of the repository; on the site those are pages, too."""

    def read(app, name, source):  # type: ignore[no-untyped-def]
        path = Path(app.env.doc2path(name))
        if path.suffix == ".md" and "_generated" not in path.parts:
            source[0] = generated.linked(source[0], path, path.parent, HERE.parent)

    app.connect("source-read", read)
