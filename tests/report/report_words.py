"""The words of a page as its reader sees them, and what makes a result by hand that of a plain net."""

import re
from html import unescape

PLAIN = {"run": "at", "gate": 0}


def text(html):
    """What a reader sees, cell by cell."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", str(html))).split())
