"""A loan that waits for a person, and goes back when nobody comes.

    EVENTSAGA_DATABASE_URL=postgresql://… python -m examples.approval

Without the variable it runs on an embedded PostgreSQL (`pip install eventsaga[embedded]`).
"""

import asyncio

from pydantic import BaseModel

from eventsaga import Orchestrator, Saga, Step, WaitForSignal
from examples.database import database


class Approval(BaseModel):
    """What a clerk says."""

    clerk: str


class Loan(BaseModel):
    """What a customer asks for."""

    amount: int
    approval: Approval | None = None


async def reserve(loan: Loan) -> None:
    print(f"  {loan.amount} reserved")


async def release(loan: Loan) -> None:
    print(f"  {loan.amount} released")


async def pay_out(loan: Loan) -> None:
    assert loan.approval is not None
    print(f"  {loan.amount} paid out, approved by {loan.approval.clerk}")


loan_saga = Saga(
    "loan",
    context=Loan,
    steps=[
        Step("reserve", reserve, compensate=release),
        WaitForSignal("approval", Approval, timeout=1, on_timeout="compensate"),
        Step("pay_out", pay_out, pivot=True),
    ],
)


async def main() -> None:
    with database() as url:
        async with Orchestrator(url, sagas=[loan_saga]) as orchestrator:
            approved = await orchestrator.start("loan", Loan(amount=100))
            await approved.signal("approval", Approval(clerk="ada"))
            print((await approved.result(timeout=30)).status)
            forgotten = await orchestrator.start("loan", Loan(amount=200))
            print((await forgotten.result(timeout=30)).status)


if __name__ == "__main__":
    asyncio.run(main())
