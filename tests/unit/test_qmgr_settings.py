"""The queue manager's parameters as they are read from main.cf."""

from __future__ import annotations

import pytest

from fastmta.config import load
from fastmta.qmgr.settings import Feedback, QmgrSettings, TransportRules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", Feedback(1.0)),
        ("0.25", Feedback(0.25)),
        ("1/8", Feedback(0.125)),
        ("1 / concurrency", Feedback(1.0, 1)),
        ("0.5/sqrt_concurrency", Feedback(0.5, 2)),
    ],
)
def test_feedback(text: str, expected: Feedback) -> None:
    assert Feedback.parse("x", text) == expected


@pytest.mark.parametrize("text", ["", "x", "2", "-1", "1/0", "1/x", "3/2", "1/concurrency/2", "nan"])
def test_bad_feedback(text: str) -> None:
    with pytest.raises(ValueError, match="malformed or unreasonable feedback"):
        Feedback.parse("x", text)


def test_settings_come_from_the_configuration(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "main.cf").write_text(
        "default_destination_concurrency_limit = 7\nslow_destination_concurrency_limit = 1\n"
        "slow_initial_destination_concurrency = 2\nslow_destination_rate_delay = 2m\n"
        "slow_destination_concurrency_positive_feedback = 1/concurrency\nminimal_backoff_time = 10m\n"
        "defer_transports = a, b\nbounce_queue_lifetime = 1d\n"
    )
    (tmp_path / "master.cf").write_text(
        "smtp unix - - n - - smtp\nslow unix - - n - 3 smtp\nerror unix - - n - 0 error\n"
    )
    cfg = load(tmp_path)
    rules = {service.name: TransportRules.read(cfg, service) for service in cfg.services}
    assert rules["smtp"].destination_concurrency_limit == 7
    assert rules["smtp"].process_limit == 100
    slow = rules["slow"]
    assert slow.destination_concurrency_limit == 1
    assert slow.initial_destination_concurrency == 2
    assert slow.process_limit == 3
    assert slow.destination_rate_delay == 120
    assert slow.positive_feedback == Feedback(1.0, 1)
    assert slow.negative_feedback == Feedback(1.0)
    assert slow.failed_cohort_limit == 1
    assert slow.minimal_backoff_time == 600
    assert rules["error"].process_limit == 0
    settings = QmgrSettings.read(cfg)
    assert settings.minimal_backoff_time == 600
    assert settings.defer_transports == {"a", "b"}
    assert settings.bounce_queue_lifetime == 86400
    assert settings.message_active_limit == 20000
