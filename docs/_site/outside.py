"""Files beside the docs folder (README, CONTRIBUTING, CHANGELOG) are linked on a code host and named on the site.

A link from a page to a file outside docs/, or to a settings file, works on a code host. The site has no such file, so
there the link's text stays and the link goes.
"""

from __future__ import annotations

import re

OUTSIDE = re.compile(
    r"(?<!!)\[([^\]]+)\]\((?:\.\./)+(?:README|CONTRIBUTING|CHANGELOG|LICENSE|src|examples|tests)[^)]*\)"
)
SETTINGS = re.compile(r"(?<!!)\[([^\]]+)\]\(([\w-]+\.json)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Unlink what the site does not contain."""
    return SETTINGS.sub(r"\1 (`docs/results/\2`)", OUTSIDE.sub(r"\1", markdown))
