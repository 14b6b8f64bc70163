"""Ablation based counterfactuals: remove training data from a diffusion ensemble exactly, and see what changes.

Names are loaded when they are first used, so that `import ablatable` and the command line start at once. The stub file
beside this one, `__init__.pyi`, lists every public name and where it lives.
"""

from __future__ import annotations

import lazy_loader

from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
