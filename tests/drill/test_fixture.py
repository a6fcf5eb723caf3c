"""Does a drill by the pytest fixture find what is wrong, and nothing else?"""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from eventsaga.drill import DrillError, Mode, Options, Outcome, Report, keyed
from tests.drill.checks import booked_once_or_not_at_all, create_bookings, paid_or_refunded
from tests.drill.till import Till

SHOP = "tests.drill.shop:orchestrator"
ORDER = {"order_id": "o-{run}"}

Drill = Callable[..., Coroutine[Any, Any, Report]]


async def test_a_saga_survives_death_around_every_effect_forward_and_back(
    saga_drill: Drill, till: Till
) -> None:
    report = await saga_drill(
        SHOP,
        saga="paid",
        context=ORDER,
        checks=[paid_or_refunded],
        options=Options(at="doing charge"),
    )

    report.require_ok()
    titles = [boundary.title for boundary in report.boundaries]
    assert titles[:4] == [
        "after claim",
        "before commit: charge started",
        "after commit: charge started",
        "before doing charge",
    ]
    assert [result.status for result in report.clean] == ["COMPLETED", "COMPENSATED"]
    assert [result.title for result in report.results] == [
        "kill before doing charge",
        "kill after doing charge",
        "kill after doing charge",
        "kill before undoing charge",
        "kill after undoing charge",
    ]
    assert report.counts == {Outcome.OK: 5}
    # Some requests came again; the till was asked twice, and charged once.
    keys = [one for result in report.all for one in keyed(result.requests)]
    assert any(one.requests > 1 for one in keys)
    assert all(one.effects == 1 for one in keys)
    assert len(set(till.charged)) == len(till.charged) > 0


async def test_rows_of_a_transactional_step_are_there_once_or_not_at_all(
    saga_drill: Drill, till: Till
) -> None:
    report = await saga_drill(
        SHOP,
        saga="booked",
        context=ORDER,
        checks=[booked_once_or_not_at_all],
        setup=create_bookings,
        options=Options(at="commit of a transaction"),
    )

    report.require_ok()
    tried = [result.case.boundary for result in report.results if result.case]
    assert [(one.title, one.back) for one in tried] == [
        ("before commit of a transaction", False),
        ("after commit of a transaction", False),
        ("before commit of a transaction", True),
        ("after commit of a transaction", True),
    ]


async def test_a_boundary_that_is_not_there_is_refused_with_those_that_are(
    saga_drill: Drill, till: Till
) -> None:
    with pytest.raises(DrillError, match="no boundary is at 'sending'; there are: after claim; "):
        await saga_drill(
            SHOP, saga="paid", context=ORDER, options=Options(back=False, at="sending")
        )


async def test_every_kind_of_fault_strikes_at_a_commit(saga_drill: Drill, till: Till) -> None:
    report = await saga_drill(
        SHOP,
        saga="paid",
        context=ORDER,
        checks=[paid_or_refunded],
        options=Options(modes=list(Mode), back=False, at="before commit: charge started"),
    )

    report.require_ok()
    assert {result.case.mode for result in report.results if result.case} == set(Mode)
    assert all(result.outcome is Outcome.OK for result in report.results)
    assert all(result.recovered is not None for result in report.results)


async def test_a_compensation_that_does_nothing_is_noticed_by_the_users_check(
    saga_drill: Drill, till: Till
) -> None:
    report = await saga_drill(
        SHOP, saga="forgetful", context=ORDER, checks=[paid_or_refunded], setup=create_bookings
    )

    assert not report.ok
    assert not report.results, "what is wrong without a fault needs none"
    with pytest.raises(AssertionError, match="check: paid_or_refunded does not hold"):
        report.require_ok()
