"""Passwords and keys in addresses, out of sight before a recipe's values are shown, kept or digested.

A recipe needs them to open what it names; manifests, reports, lineage and keys of stages do not.
"""

import re
from typing import Any
from urllib.parse import unquote_plus

_HIDDEN = "***"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://(.*)", re.DOTALL)
_WEB_SCHEMES = frozenset({"ftp", "gs", "hf", "http", "https", "memory", "s3"})  # others are databases'
_WEB_USER = re.compile(r"^[^/?#]*@")  # whole: a token often stands where a name would
_DATABASE_PASSWORD = re.compile(r"^([^:/]*:)[^@]*@")  # as SQLAlchemy reads it, which lets `/` stand in it
# Names of parameters, without their dashes and underscores: passwords of databases, keys, and what signed addresses of
# object stores carry.
_SECRET_PARAMETERS = frozenset(
    {
        *("accesskey", "accesstoken", "apikey", "authtoken", "awsaccesskeyid", "clientsecret", "googleaccessid"),
        *("odbcconnect", "pass", "passphrase", "passwd", "password", "pwd", "secret", "secretkey", "securitytoken"),
        *("sig", "signature", "sslpassword", "token", "xamzcredential", "xamzsecuritytoken", "xamzsignature"),
        *("xgoogcredential", "xgoogsignature"),
    }
)


def without_secrets(value: Any) -> Any:
    """A configuration's value as it may be shown and kept; what carries no secret comes back equal."""
    if isinstance(value, dict):
        return {name: without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def masked(text: str) -> str:
    """An address with `***` for what proves who may use it; any other text as it is."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        return text
    scheme, rest = found.groups()
    if scheme.lower() in _WEB_SCHEMES:
        rest = _WEB_USER.sub(f"{_HIDDEN}@", rest)
    else:
        rest = _DATABASE_PASSWORD.sub(rf"\g<1>{_HIDDEN}@", rest)
    place, mark, parameters = rest.partition("?")
    return f"{scheme}://{place}{mark}{'&'.join(map(_masked_parameter, parameters.split('&')))}"


def _masked_parameter(part: str) -> str:
    name, _, word = part.partition("=")
    is_secret = re.sub("[-_.]", "", unquote_plus(name)).lower() in _SECRET_PARAMETERS
    return f"{name}={_HIDDEN}" if word and is_secret else part
