"""What was dropped and why, as tests compare it."""


def reasons(tally):
    """Paths of the examples under each reason."""
    return {reason: [e["path"] for e in entry["examples"]] for reason, entry in tally.dropped.items()}
