"""URIs as they may be shown. In user information and query stand passwords and signatures, which belong in no message, log or status."""

from __future__ import annotations

import re

HUB_PAGE = r"(?i)^https://huggingface\.co/(datasets/)?[^/?#]+/[^/?#]+/?(tree/[^?#]*)?([?#].*)?$"
"""What a browser shows of a repository, in the syntax that Python and RE2 (the apiserver) share; files of it are below `resolve/`."""


def scrub(uri: str) -> str:
    """The URI without what may be secret: user information, query and fragment (signatures of pre-signed URIs stand there)."""
    without_query, mark, _ = uri.partition("?")
    without_query = without_query.partition("#")[0]
    scheme = without_query.partition(":")[0].lower()
    if scheme == "hf":  # behind the repository's name @ is a revision
        without_query = re.sub(r"^(hf:/*)[^/]*@", r"\1", without_query, flags=re.IGNORECASE)
    elif scheme != "file":
        # up to the last @, because a password may hold a slash that nobody escaped
        without_query = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*:/*)?.*@", r"\1", without_query, flags=re.DOTALL)
    return without_query + ("?..." if mark else "")


def scrub_if_uri(text: str) -> str:
    """Text of any field for a message: people write URIs into wrong ones, too."""
    return scrub(text) if "://" in text else text
