"""Formulas become MathML when the site is built, so browsers show them without a script.

The Markdown has `$...$` and ```math blocks, which code hosts render as well. Arithmatex finds them (and leaves code
alone); this hook translates what it found.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Replace each formula in a page's HTML."""
    content = DISPLAY.sub(lambda found: convert(html.unescape(found[1]).strip(), display="block"), content)
    return INLINE.sub(lambda found: convert(html.unescape(found[1]).strip()), content)
