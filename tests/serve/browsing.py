"""What tests with a real browser share: where Chromium is, how it is started, and what axe says of a page."""

import json
import os
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
AXE = Path(os.environ.get("CHATWRIGHT_AXE", "node_modules/axe-core/axe.min.js"))  # `npm install axe-core` brings it

marks = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's Chromium is not installed (/usr/bin/chromium)"),
]
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="axe-core is not installed (npm install axe-core, or CHATWRIGHT_AXE=FILE)"
)


def axe(page):
    """What axe calls serious or critical, as rule and place."""
    page.evaluate(AXE.read_text())
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (violation["id"], json.dumps([node["html"][:200] for node in violation["nodes"][:3]]))
        for violation in result["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
