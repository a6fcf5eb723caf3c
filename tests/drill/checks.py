"""What must hold of the shop's sagas, and what do they need in a database?"""

import asyncpg

from eventsaga import Status
from eventsaga.drill import Ended


async def create_bookings(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE bookings (order_id text)")
    finally:
        await connection.close()


async def booked_once_or_not_at_all(ended: Ended) -> str | None:
    """Return what is wrong with the rows that the transactional step wrote."""
    connection = await asyncpg.connect(ended.database_url)
    try:
        found = await connection.fetchval("SELECT count(*) FROM bookings")
    finally:
        await connection.close()
    expected = int(ended.state.status is Status.COMPLETED)
    return None if found == expected else f"{found} bookings instead of {expected}"


def paid_or_refunded(ended: Ended) -> bool:
    """Whether who was charged has an order, or the money back."""
    asked = [request.url.rpartition("/")[2] for request in ended.requests]
    return ended.state.status is Status.COMPLETED or "charge" not in asked or "refund" in asked
