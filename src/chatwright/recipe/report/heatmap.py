"""Text with each token's loss as its ground: where a model was surprised, seen at a glance. No figure, no script."""

from collections.abc import Sequence
from typing import Any

from chatwright.recipe.report import markup as html

_MAX_NATS = 10.0  # from here on the ground is as strong as it gets


def heat(pairs: Sequence[Sequence[Any]]) -> html.Html:
    """A text of `[token, nats]` pairs; the loss of a token is told when it is pointed at."""
    return html.element("div", *(_token(str(text), float(nats)) for text, nats in pairs), class_="heat")


def _token(shown: str, nats: float) -> html.Html:
    share = min(1.0, max(0.0, nats / _MAX_NATS))
    return html.element("span", shown, style=f"--heat:{share:.2f}", title=f"{nats:.2f} nats")


def key() -> html.Html:
    """What the colours mean."""
    steps = [
        html.element("span", f"{nats:g}", style=f"--heat:{min(1.0, nats / _MAX_NATS):.2f}") for nats in (0, 1, 3, 6, 10)
    ]
    return html.element("div", "nats per token: ", *_spaced(steps), " and more", class_="heat key")


def _spaced(children: Sequence[html.Child]) -> list[html.Child]:
    return [piece for child in children for piece in (child, " ")]


def spans_part(spans: Sequence[dict[str, Any]], *, whose: str) -> html.Html | None:
    """The hardest stretches of the measured texts, each with its document and the loss of its tokens."""
    if not spans:
        return None
    parts: list[html.Child] = [html.element("h3", f"Hardest passages for the {whose}"), key()]
    for span in spans:
        about = f" {span['domain']}, from token {span['first_token'] + 1:,}: {span['nats_per_token']:.2f} nats a token"
        parts += [html.element("p", html.code(str(span["id"])), about, class_="soft"), heat(span["tokens"])]
    parts.append(
        html.note(
            "The stretch with the highest mean loss of each document, hardest documents first. Point at a token to "
            "read its loss."
        )
    )
    return html.join(parts)


def domains_part(domains: dict[str, dict[str, Any]]) -> html.Html:
    """Figures by domain with their intervals."""
    rows: list[list[html.Child]] = [
        [
            name,
            html.decimal(values["bits_per_byte"]),
            _interval(values.get("bits_per_byte_95")),
            html.decimal(values["perplexity"], digits=2),
            f"{values['documents']:,}",
            f"{values['tokens']:,}",
            f"{values['bytes']:,}",
        ]
        for name, values in domains.items()
    ]
    head = ["domain", "bits per byte", "95% interval", "perplexity", "documents", "tokens", "bytes"]
    return html.table(head, rows, caption="Loss by domain")


def _interval(ends: Sequence[float] | None) -> str:
    return "\N{EN DASH}" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
