"""Pictures of the documents: where they went, copies, personal data, and the mix by domain and language.

Bars with their numbers beside them, so that a picture says nothing that cannot be read. Not for tables and samples.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from chatwright.recipe.report import markup as html
from chatwright.recipe.report.facts import RunFacts
from chatwright.recipe.report.figures import COLOURS, MUTED, Bars, bars

_MAX_BARS = 12  # of one picture; the rest is one bar
_STAYS, _GOES = COLOURS[0], COLOURS[1]
_COPIES = ("exact_duplicate", "near_duplicate", "near_duplicate_across_splits")


class _Bar(NamedTuple):
    label: str
    value: float
    colour: str


def fate_figure(run: RunFacts, collected: dict[str, Any], cleaned: dict[str, Any]) -> html.Html | None:
    """Documents from found to learned from: what was left after each stage, and between them what each reason took."""
    before = _reasons(collected)
    found = collected.get("documents", 0) + sum(one.value for one in before)
    if not found:
        return None
    drawn = [_Bar("found", found, _STAYS), *_most(before), _Bar("collected", collected.get("documents", 0), _STAYS)]
    if cleaned:
        drawn += [*_most(_reasons(cleaned)), _Bar("kept after cleaning", cleaned.get("documents_out", 0), _STAYS)]
    tokens = run.summary("tokens")
    for key, label in (("train", "for training"), ("heldout", "held out")):
        if key in tokens:
            drawn.append(_Bar(label, tokens[key]["documents"], _STAYS))
    kept = drawn[-1] if not cleaned else next(one for one in drawn if one.label == "kept after cleaning")
    description = f"Of {html.count(found)} documents found, {html.count(kept.value)} {kept.label}. " + "; ".join(
        f"{one.label}: {html.count(one.value)}" for one in drawn
    )
    picture = _picture("fate", drawn, caption="Where the documents went", description=description)
    key = html.element(
        "div",
        html.element("span", html.element("i", style=f"background:{_STAYS}"), "documents there"),
        html.element("span", html.element("i", style=f"background:{_GOES}"), "documents that went, by reason"),
        class_="key",
    )
    return html.join([picture, key])


def _reasons(report: dict[str, Any]) -> list[_Bar]:
    dropped = report.get("dropped") or {}
    return [_Bar(f"\N{MINUS SIGN} {_words(name)}", entry["count"], _GOES) for name, entry in dropped.items()]


def _most(drawn: list[_Bar]) -> list[_Bar]:
    """The largest, and all others as one."""
    ordered = sorted(drawn, key=lambda one: -one.value)
    rest = ordered[_MAX_BARS:]
    if not rest:
        return ordered
    return [*ordered[:_MAX_BARS], _Bar(f"{len(rest)} others", sum(one.value for one in rest), MUTED)]


def _picture(key: str, drawn: Sequence[_Bar], *, caption: str, description: str) -> html.Html:
    series = Bars("", [one.label for one in drawn], [one.value for one in drawn], [one.colour for one in drawn])
    return bars(key, [series], caption=caption, description=description, shown=html.count)


def copies_part(cleaned: dict[str, Any]) -> html.Html | None:
    """Copies of whole documents, of paragraphs, and what it took to find them."""
    dropped, search = cleaned.get("dropped") or {}, cleaned.get("near_duplicates") or {}
    drawn = [_Bar(_words(name), dropped[name]["count"], _GOES) for name in _COPIES if name in dropped]
    repeats = cleaned.get("repeated_paragraphs")
    if not drawn and not repeats:
        return None
    parts: list[html.Child] = []
    if drawn:
        said = "; ".join(f"{one.label}: {html.count(one.value)}" for one in drawn)
        parts.append(_picture("copies", drawn, caption="Copies of whole documents", description=said))
    if search.get("near") not in (None, "off") and "candidate_pairs" in search:
        parts.append(
            html.note(
                f"Near copies share at least {html.percent(search['threshold'], digits=0)} of their runs of "
                f"{search['shingle_words']} words. Of {html.count(search['candidate_pairs'])} pairs that might, "
                f"{html.count(search['compared_pairs'])} were compared and {html.count(search['copies'])} were copies: "
                "no document goes by an estimate. The better of two stays."
            )
        )
    if repeats:
        parts.append(
            html.note(
                f"Paragraphs long enough to be judged: {html.count(repeats['paragraphs'])}, of them different "
                f"{html.count(repeats['distinct'])}; {html.count(repeats['repeated'])} stood more than once and stay "
                "where they stood first."
            )
        )
    return html.join(parts)


def sites_part(cleaned: dict[str, Any]) -> html.Html | None:
    """What lines of sites cost and where they stood."""
    facts, changed = cleaned.get("site_lines"), (cleaned.get("changed") or {}).get("site_lines")
    if not facts:
        return None
    gone = f"{html.count(changed['places'])} places on {html.count(changed['documents'])} pages" if changed else "none"
    return html.note(
        f"Lines that stand on most pages of a site: {html.count(facts['lines'])} different ones, looked for on "
        f"{html.count(facts['pages'])} pages; sites with enough pages: {html.count(facts['sites'])}. Taken out: {gone}."
    )


def personal_figure(cleaned: dict[str, Any]) -> html.Html | None:
    """Places at which personal data were replaced, by kind."""
    changed = cleaned.get("changed") or {}
    drawn = [
        _Bar(name.removeprefix("pii_").replace("ip", "IP address"), entry["places"], COLOURS[3])
        for name, entry in changed.items()
        if name.startswith("pii_")
    ]
    if not drawn:
        return None
    said = "; ".join(f"{one.label}: {html.count(one.value)}" for one in drawn)
    return _picture("personal", drawn, caption="Personal data and keys replaced, places", description=said)


def mix_figures(run: RunFacts, collected: dict[str, Any], cleaned: dict[str, Any]) -> html.Html | None:
    """Shares by domain, of what was collected, kept and made tokens; and by language, of what was kept."""
    shares = {"collected text": _shares(collected.get("by_domain") or {}), "kept text": {}, "training tokens": {}}
    shares["kept text"] = _shares(cleaned.get("by_domain") or {})
    tokens = run.summary("tokens").get("by_domain") or {}
    shares["training tokens"] = _shares({name: {"bytes": count} for name, count in tokens.items()})
    domains = _mixed("domains", {name: one for name, one in shares.items() if one}, caption="Mix by domain")
    spoken = {"kept text": _shares(cleaned.get("by_language") or {})}
    spoken["kept text"] = {"not known" if name == "und" else name: share for name, share in spoken["kept text"].items()}
    languages = _mixed("languages", spoken, caption="Mix by language")
    parts = [part for part in (domains, languages) if part is not None]
    return html.join(parts) if parts else None


def _shares(counts: dict[str, Any]) -> dict[str, float]:
    total = sum(entry["bytes"] for entry in counts.values())
    return {name: entry["bytes"] / total for name, entry in counts.items()} if total else {}


def _mixed(key: str, shares: dict[str, dict[str, float]], *, caption: str) -> html.Html | None:
    """Bars of shares side by side; one name alone is no mix."""
    names = {name for one in shares.values() for name in one}
    if len(names) < 2:
        return None
    ordered = sorted(names, key=lambda name: (-max(one.get(name, 0.0) for one in shares.values()), name))
    labels = ordered[:_MAX_BARS]
    rest = ordered[_MAX_BARS:]
    series = []
    for label, one in shares.items():
        values = [one.get(name, 0.0) for name in labels]
        series.append(Bars(label, list(labels), [*values, sum(one.get(name, 0.0) for name in rest)]))
        if rest:
            series[-1].labels.append(f"{len(rest)} others")
        else:
            series[-1].values.pop()
    said = ". ".join(
        f"{one.name}: "
        + ", ".join(f"{name} {html.percent(share)}" for name, share in zip(one.labels, one.values, strict=True))
        for one in series
    )
    return bars(f"mix-{key}", series, caption=caption, description=said, shown=html.percent)


def _words(name: str) -> str:
    return name.replace("_", " ")
