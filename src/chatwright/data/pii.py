"""Personal data and secrets replaced by a word for their kind: e-mail, phone, public IP, card, keys. Not anonymisation.

Every pattern is linear: it begins at a rare character or has bounded repeats (a test times each on 1 MB of its worst
case). Names and addresses are not looked for.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from chatwright.foundation.config import Config

Kind = Literal["email", "phone", "ip", "card", "key"]


class PiiConfig(Config):
    """Which kinds are replaced; none unless asked for: code and documentation are full of harmless examples."""

    redact: tuple[Kind, ...] = ()

    def problems(self) -> Iterator[str]:
        """Each kind once."""
        if len(set(self.redact)) != len(self.redact):
            yield f"`redact` names a kind twice: {', '.join(self.redact)}"


class Redacted(NamedTuple):
    """A text and the places replaced, by kind."""

    text: str
    places: dict[str, int]


# RFC 5321 limits a local part to 64 octets and a domain to 255; without such bounds the pattern would be quadratic.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}\b"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
# E.164: a plus and up to 15 digits; or the North American form. Other national forms look like any number.
_PHONE = re.compile(
    r"(?<![\w+])\+[1-9]\d{0,2}(?:[ .\-/]?(?:\(\d{1,4}\)|\d{1,4})){2,6}(?!\w)"
    r"|(?<![\w+.-])(?:1[-. ])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-.]\d{4}(?![\w-])"
)
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
# A number alone, in one piece or in the groups of its issuer: above, an expiry date or a CVV behind it joins it.
_CARD_ALONE = re.compile(r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{5})(?![\w-])")
_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bxox[abprs]-[A-Za-z0-9-]{10,255}"
    r"|\bsk-[A-Za-z0-9_-]{20,255}|\bAIza[0-9A-Za-z_-]{35}|\bhf_[A-Za-z0-9]{30,64}\b"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\\\s]{0,8192}-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
_DOUBLED = bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)).ljust(256)  # the sum of the digits of twice a digit
_PHONE_DIGITS = range(8, 16)


def redact(text: str, config: PiiConfig) -> Redacted:
    """Replace what `config.redact` names by words such as `<EMAIL>`, and count the places."""
    places: dict[str, int] = {}
    for kind in _ORDER:
        if kind not in config.redact:
            continue
        mark, patterns, holds, hint = _KINDS[kind]
        if hint not in text:
            continue
        count = 0

        def replaced(match: "re.Match[str]", mark: str = mark, holds: Callable[[str], bool] = holds) -> str:
            nonlocal count
            if not holds(match[0]):
                return match[0]
            count += 1
            return mark

        for pattern in patterns:
            text = pattern.sub(replaced, text)
        if count:
            places[f"pii_{kind}"] = count
    return Redacted(text, places)


def is_card_number(text: str) -> bool:
    """13 to 19 digits whose Luhn sum is a multiple of ten (ISO/IEC 7812-1, annex B), not all alike."""
    digits = bytes(map(unicodedata.decimal, filter(str.isdecimal, text)))  # twice as fast as a list of `int`
    total = sum(digits[::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    return 13 <= len(digits) <= 19 and total % 10 == 0 and len(set(digits)) > 1


def is_public_address(text: str) -> bool:
    """Whether it is an IP address that is reachable from anywhere: examples and private ranges are no one's.

    Of IPv6 only 2000::/3, the one range handed out so far (IANA's registry of global unicast addresses): code such as
    `x[::2]` and `Dad::Bee` reads as an address outside of it.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and (address.version == 4 or int(address) >> 125 == 1)


def _is_phone(text: str) -> bool:
    return sum(character.isdigit() for character in text) in _PHONE_DIGITS


def _always(text: str) -> bool:  # noqa: ARG001 - the signature of the checks
    return True


class _Rule(NamedTuple):
    mark: str
    patterns: tuple["re.Pattern[str]", ...]
    holds: Callable[[str], bool]
    hint: str  # a text without it has none; empty where no character is certain


_KINDS: dict[str, _Rule] = {
    "key": _Rule("<KEY>", (_KEY,), _always, ""),
    "email": _Rule("<EMAIL>", (_EMAIL,), _always, "@"),
    "ip": _Rule("<IP>", (_IPV4, _IPV6), is_public_address, ""),
    "card": _Rule("<CARD>", (_CARD, _CARD_ALONE), is_card_number, ""),
    "phone": _Rule("<PHONE>", (_PHONE,), _is_phone, ""),
}
_ORDER = tuple(_KINDS)  # keys first: one could hold what looks like a number
