"""Cleaning as pure steps: a document goes in, and is kept (perhaps changed) or dropped with a reason.

Also the split and the scores, which depend on a text alone. Main text from HTML is `extract`'s work, duplicates
between documents are `duplicates`'.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Literal

from chatwright.data import limits
from chatwright.data.document import Document
from chatwright.data.duplicates.config import DuplicatesConfig
from chatwright.data.duplicates.corpus import cluster_id
from chatwright.data.duplicates.decontaminate import DecontaminateConfig
from chatwright.data.duplicates.passages import ParagraphsConfig, SiteLinesConfig
from chatwright.data.language import LanguageConfig, is_wanted, language_of
from chatwright.data.normalise import normalise, strip_punctuation, strip_symbols
from chatwright.data.pii import PiiConfig, redact
from chatwright.data.rules import RuleConfig, first_verdict, word_count
from chatwright.data.rules_base import Shape, Verdict, num_words
from chatwright.data.scores import score
from chatwright.foundation.config import Config

HELDOUT = "heldout"
TRAIN = "train"
_HASH_BYTES = 16
_ROUND_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
_VARIETY_SCALE = 4.0
_PROSE_WORDS = 6


class CleanConfig(Config):
    """How raw documents become the corpus."""

    heldout_share: float = 0.05  # of documents, chosen by the hash of their content
    repair: bool = True  # undo wrong decoding
    lowercase: bool = False
    strip_punctuation: bool = False
    strip_symbols: bool = False  # currency, mathematics, arrows, emoji
    html_extractor: Literal["blocks", "trafilatura", "resiliparse"] = "blocks"  # figures: docs/cleaning.md
    html_time_limit_s: float = 20.0  # for one page
    licences: tuple[str, ...] = ()  # only documents under these stay: SPDX names, "CC-BY" for all its versions
    language: LanguageConfig = LanguageConfig()
    rules: RuleConfig = RuleConfig()
    pii: PiiConfig = PiiConfig()
    site_lines: SiteLinesConfig = SiteLinesConfig()
    paragraphs: ParagraphsConfig = ParagraphsConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()

    def problems(self) -> Iterator[str]:
        """Ranges that no type can say."""
        if not 0 <= self.heldout_share < 1:
            yield f"`heldout_share` must lie between 0 and 1: {self.heldout_share}"
        if self.html_time_limit_s <= 0:
            yield f"`html_time_limit_s` must be positive: {self.html_time_limit_s}"
        if self.paragraphs.remove_repeats and self.duplicates.near == "mark":
            yield '`paragraphs.remove_repeats` would take apart the copies that `duplicates.near = "mark"` keeps'


@dataclasses.dataclass(frozen=True, slots=True)
class Keep:
    """The document goes on, with the places changed by name of the change."""

    document: Document
    changes: dict[str, int]
    content: bytes = b""  # `text_hash` of the text, once it is judged


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """The document ends here."""

    reason: str
    detail: str = ""


def clean_document(document: Document, config: CleanConfig) -> Keep | Drop:
    """All steps but those that look at other documents.

    Args:
        document: of media "text".
        config: thresholds and options.
    """
    outcome = sound_document(document, config)
    return outcome if isinstance(outcome, Drop) else judged(outcome, config)


def sound_document(document: Document, config: CleanConfig) -> Keep | Drop:
    """The steps before any judgement: licence, size, sound Unicode."""
    if not _is_licensed(document.licence, config.licences):
        return Drop("licence", document.licence)
    if len(document.text) > limits.MAX_DOCUMENT_CHARACTERS:
        return Drop("too_large", f"{len(document.text)} characters")
    text, changes = normalise(document.text, repair=config.repair)
    return Keep(dataclasses.replace(document, text=text), changes) if text else Drop("no_text")


def judged(sound: Keep, config: CleanConfig, *, whole: str | None = None) -> Keep | Drop:
    """What follows on a sound text: language, rules, personal data, options, scores.

    Args:
        sound: what `sound_document` gave.
        config: thresholds and options.
        whole: the text before lines of its site were taken out, if some were: it decides the split, which what other
            pages say must not move.
    """
    document, text = sound.document, sound.document.text
    language = language_of(text, document.language, config.language)
    shape = Shape(text)
    if is_wanted(language, config.language):
        verdict = first_verdict(shape, config.rules)
    else:
        verdict = Verdict("language", language)
    if verdict is not None:
        return Drop(verdict.reason, verdict.detail)
    quality = quality_of(shape)
    text, places = redact(text, config.pii)
    text = _simplified(text, config)
    if not text:
        return Drop("no_text", "nothing is left without punctuation")
    content = text_hash(text)
    judged = dataclasses.replace(
        document,
        text=text,
        language=language,
        quality=quality,
        split=split_of(content if whole is None else text_hash(whole), heldout_share=config.heldout_share),
        cluster=cluster_id(content),
        **score(text, shape.words if text is shape.text else text.split())._asdict(),
    )
    return Keep(judged, sound.changes | places, content)


def as_in_corpus(text: str, config: CleanConfig) -> str:
    """A text in the form that cleaning would give it, without any judgement: for passages looked for in the corpus."""
    return _simplified(redact(normalise(text, repair=config.repair).text, config.pii).text, config)


def shortened(document: Document, text: str, config: CleanConfig) -> Keep | Drop:
    """A judged document with less text: only its length is judged again, and its scores are made anew.

    Split, cluster and quality stay those of the whole.
    """
    verdict = word_count(Shape(text), config.rules)
    if verdict is not None:
        return Drop(verdict.reason, f"{verdict.detail} without paragraphs that stood before")
    return Keep(dataclasses.replace(document, text=text, **score(text, text.split())._asdict()), {})


def _is_licensed(licence: str, wanted: tuple[str, ...]) -> bool:
    """Whether a licence is wanted, by its name or as a version of one: `CC-BY-4.0` of `CC-BY`, not `CC-BY-NC-4.0`."""
    licence = licence.casefold()  # columns of data sets hold `mit`
    for name in map(str.casefold, wanted):
        version = licence.removeprefix(f"{name}-")
        if licence == name or (version != licence and version[:1].isdecimal()):
            return True
    return not wanted


def _simplified(text: str, config: CleanConfig) -> str:
    if config.lowercase:
        text = text.lower()
    if config.strip_punctuation:
        text = strip_punctuation(text)
    if config.strip_symbols:
        text = strip_symbols(text)
    if config.lowercase or config.strip_punctuation or config.strip_symbols:
        text = normalise(text, repair=False).text
    return text


def text_hash(text: str) -> bytes:
    """Hash of the words, whatever the case and the white space: equal for texts that count as the same."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=_HASH_BYTES).digest()


def split_of(content: bytes, *, heldout_share: float) -> Literal["train", "heldout"]:
    """Held out or not, from the content's hash alone: other documents and their order cannot move it.

    Args:
        content: what `text_hash` gives; its first 8 bytes decide.
        heldout_share: between 0 and 1.
    """
    return "heldout" if int.from_bytes(content[:8], "big") < heldout_share * 2**64 else "train"


def larger_share(contents: Iterable[bytes], *, heldout_share: float) -> float | None:
    """The least round share with which `split_of` holds one of the contents out, where it holds out none.

    Args:
        contents: what `text_hash` gives.
        heldout_share: the share that holds none out; None is given back where a half of them would not do.
    """
    least = min(content[:8] for content in contents)
    larger = (share for share in _ROUND_SHARES if share > heldout_share)
    return next((share for share in larger if split_of(least, heldout_share=share) == HELDOUT), None)


def quality_of(shape: Shape) -> float:
    """A score between 0 and 1: the mean of four signs of text that was written to be read.

    - the share of words with a letter;
    - the share of characters that are not in repeated lines;
    - variety: distinct words over the square root of twice the words (Carroll 1964), 1 from `_VARIETY_SCALE` on;
    - the share of words that stand in prose lines of at least `_PROSE_WORDS` words.

    It orders documents; it is not a probability, and nothing is dropped by it.
    """
    words = shape.words
    if not words:
        return 0.0
    variety = min(1.0, len(set(words)) / math.sqrt(2 * len(words)) / _VARIETY_SCALE)
    lengths = [num_words(line) for line in shape.prose]
    in_prose = sum(length for length in lengths if length >= _PROSE_WORDS) / len(words)
    parts = (shape.alphabetic_share, 1 - shape.repeated_lines.character_share, variety, min(1.0, in_prose))
    return round(sum(parts) / len(parts), 4)
