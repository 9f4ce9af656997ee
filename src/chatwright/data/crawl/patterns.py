"""Patterns with `*` over paths, matched in time linear in practice and never exponential: no regular expressions.

Not `fnmatch`: there `?` and brackets mean something, and URLs are full of them.
"""


def matches(pattern: str, text: str) -> bool:
    """Whether all of `text` fits `pattern`, in which `*` stands for any characters.

    The earliest place of each piece is taken, which finds a match if there is one: at most
    len(pattern) * len(text) comparisons.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return text == first
    if not text.startswith(first):
        return False
    *inner, last = rest
    place = len(first)
    for piece in inner:
        found = text.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    return len(text) - len(last) >= place and text.endswith(last)


def matches_rule(pattern: str, text: str) -> bool:
    """Whether `text` begins with `pattern`; `$` at its end asks for all of `text` (RFC 9309, 2.2.3)."""
    return matches(pattern[:-1], text) if pattern.endswith("$") else matches(f"{pattern}*", text)
