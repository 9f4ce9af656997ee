"""Why a request gave no page: one exception, with the reason under which it is counted."""


class Unfetchable(Exception):  # noqa: N818 - a verdict on a request, not an error of ours
    """A request that gave nothing to keep.

    Args:
        reason: one word, counted.
        detail: for a person.
        may_pass: asking again later may help.
        wait_s: what the server asked to wait, if it did.
    """

    def __init__(self, reason: str, detail: str = "", *, may_pass: bool = False, wait_s: float | None = None):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.may_pass = may_pass
        self.wait_s = wait_s
