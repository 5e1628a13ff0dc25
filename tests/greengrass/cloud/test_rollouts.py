"""Rates, abort criteria and time limits of deployments, as IoT jobs have them."""

import pytest

from foreshore.greengrass.cloud.rollouts import deadline_of, is_to_abort, may_tell, rate_of

GROWING = {
    "jobExecutionsRolloutConfig": {
        "maximumPerMinute": 100,
        "exponentialRate": {
            "baseRatePerMinute": 5, "incrementFactor": 2.0, "rateIncreaseCriteria": {"numberOfNotifiedThings": 10}
        },
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("configuration", "notified", "rate"),
    [
        ({}, 0, 1000),
        ({"jobExecutionsRolloutConfig": {"maximumPerMinute": 3}}, 50, 3),
        (GROWING, 9, 5),
        (GROWING, 10, 10),
        (GROWING, 25, 20),
        (GROWING, 90, 100),
    ],
)
def test_the_rate(configuration, notified, rate):
    assert rate_of(configuration, notified, 0) == rate


def test_the_rate_grows_with_successes():
    criteria = {"numberOfSucceededThings": 4}
    growth = {"baseRatePerMinute": 2, "incrementFactor": 1.5, "rateIncreaseCriteria": criteria}
    configuration = {"jobExecutionsRolloutConfig": {"exponentialRate": growth}}
    assert [rate_of(configuration, 100, done) for done in (0, 4, 8)] == [2, 3, 4]


def test_no_more_than_the_rate_in_a_minute():
    configuration = {"jobExecutionsRolloutConfig": {"maximumPerMinute": 2}}
    assert may_tell(configuration, [100.0], 0, 110.0)
    assert not may_tell(configuration, [100.0, 105.0], 0, 159.0)
    assert may_tell(configuration, [100.0, 105.0], 0, 160.0)


@pytest.mark.parametrize(
    ("kind", "statuses", "aborts"),
    [
        ("FAILED", ["FAILED", "SUCCEEDED", "QUEUED"], True),
        ("FAILED", ["FAILED", "QUEUED"], False),
        ("FAILED", ["TIMED_OUT", "TIMED_OUT"], False),
        ("ALL", ["TIMED_OUT", "REJECTED"], True),
        ("ALL", ["FAILED", "SUCCEEDED", "SUCCEEDED"], False),
        ("ALL", [], False),
    ],
)
def test_abort_criteria(kind, statuses, aborts):
    criterion = {"failureType": kind, "action": "CANCEL", "thresholdPercentage": 50.0, "minNumberOfExecutedThings": 2}
    assert is_to_abort({"abortConfig": {"criteriaList": [criterion]}}, statuses) is aborts
    assert not is_to_abort({}, statuses)


def test_the_time_limit():
    assert deadline_of({}, 10.0) is None
    assert deadline_of({"timeoutConfig": {"inProgressTimeoutInMinutes": 5}}, 10.0) == 310.0
