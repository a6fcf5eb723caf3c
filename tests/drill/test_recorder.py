"""Is it counted right how often a key took effect?"""

from datetime import UTC, datetime

from eventsaga.drill import Keyed, Sent, keyed

AT = datetime(2026, 1, 1, tzinfo=UTC)


def sent(
    key: str | None = "k", status: int | None = 200, *, replayed: bool = False, digest: str = "a"
) -> Sent:
    return Sent(AT, "POST", "http://till/charge", key, 1, status, AT, replayed, digest)


def effects(*requests: Sent) -> int:
    (one,) = keyed(requests)
    assert one.requests == len(requests)
    return one.effects


def test_the_same_reply_again_is_one_effect() -> None:
    assert effects(sent(), sent()) == 1


def test_another_reply_is_another_effect() -> None:
    assert effects(sent(digest="a"), sent(digest="b")) == 2


def test_a_participant_that_marks_replays_is_believed() -> None:
    assert effects(sent(), sent(digest="b", replayed=True)) == 1
    assert effects(sent(), sent(), sent(replayed=True)) == 2


def test_refusals_and_lost_replies_are_no_effect() -> None:
    assert effects(sent(status=409), sent(status=None)) == 0


def test_keys_are_counted_apart_and_requests_without_one_not_at_all() -> None:
    assert keyed([sent("a"), sent(None), sent("b")]) == [
        Keyed("a", 1, 1, AT),
        Keyed("b", 1, 1, AT),
    ]
