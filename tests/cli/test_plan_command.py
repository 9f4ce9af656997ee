"""`chatwright plan` as people call it: times with units, and mistakes told before anything is measured."""

import pytest

from chatwright.cli.plan import seconds_of
from chatwright.foundation.errors import ExitCode, UsageError


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86_400)])
def test_a_time_has_a_unit(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "0m", "1e3s", "10 minutes", "9" * 50 + "s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="not a time"):
        seconds_of(text)


@pytest.mark.slow
def test_a_plan_without_text_to_train_on_says_how_to_name_it(call):
    told = call("plan")
    assert told.returncode == ExitCode.USAGE
    assert "--documents" in told.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--documents", ".", "--fit"), "name a run"),
        (("--run", "runs/x", "--fit", "--on", "h100"), "cannot go with `--on`"),
        (("--documents", ".", "--spend", "5"), "`--price`"),
        (("--documents", ".", "--spend", "5", "--budget", "1h", "--price", "2"), "one limit"),
        (("--documents", ".", "--scripts", "x"), "without `--on`"),
    ],
)
def test_options_that_cannot_go_together_are_told_before_anything_is_measured(call, arguments, said):
    told = call("plan", *arguments)
    assert told.returncode == ExitCode.USAGE
    assert said in told.stderr
    assert "measuring" not in told.stderr
