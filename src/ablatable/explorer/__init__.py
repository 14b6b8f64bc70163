"""The explorer: a static page on which a visitor removes units and watches the same noise denoise again without them.

The page and its engine are plain files (`web/site` in the repository, `ablatable/explorer/page` in a wheel). This room
exports a run for them: components as ONNX, training images, the exact pictures, and the tests of a universe.
"""

from .site import Site as Site
from .site import serve_site as serve_site
from .site import write_explorer as write_explorer
