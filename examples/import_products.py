"""A catalogue imported product by product, ten at a time, into a table of one's own.

    EVENTSAGA_DATABASE_URL=postgresql://… python -m examples.import_products

Each product's row and the event that it was imported are one commit, so none is there twice
or missing, whatever crashes. A product that cannot be imported takes the others back.
"""

import asyncio

from pydantic import BaseModel
from sqlalchemy import text

from eventsaga import ForEach, Orchestrator, PermanentError, Saga, Status, Step, StepContext
from examples.database import database


class Catalogue(BaseModel):
    """Names of products."""

    products: list[str]


async def create_table(catalogue: Catalogue, step: StepContext) -> None:
    del catalogue
    await step.session.execute(text("CREATE TABLE IF NOT EXISTS products (name text PRIMARY KEY)"))


async def add(catalogue: Catalogue, step: StepContext) -> None:
    del catalogue
    if not step.item:
        raise PermanentError(f"product {step.index} has no name")
    await step.session.execute(text("INSERT INTO products VALUES (:name)"), {"name": step.item})


async def remove(catalogue: Catalogue, step: StepContext) -> None:
    del catalogue
    await step.session.execute(text("DELETE FROM products WHERE name = :name"), {"name": step.item})


import_saga = Saga(
    "import_products",
    context=Catalogue,
    steps=[
        Step("create_table", create_table, transactional=True),
        ForEach(
            "import",
            lambda catalogue: catalogue.products,
            Step("add", add, compensate=remove, transactional=True),
            max_concurrency=10,
        ),
    ],
)


async def main() -> None:
    with database() as url:
        async with Orchestrator(url, sagas=[import_saga]) as orchestrator:
            for products in ([f"product {n}" for n in range(100)], ["one", "two", ""]):
                handle = await orchestrator.start(import_saga, Catalogue(products=products))
                state = await handle.result(timeout=60)
                print(f"{len(products)} products: {state.status}")
                if state.status is not Status.COMPLETED and state.error:
                    print(f"  {state.error.step_name}: {state.error.message}")
            async with orchestrator.store.connection() as connection:
                print(await connection.fetchval("SELECT count(*) FROM products"), "rows")


if __name__ == "__main__":
    asyncio.run(main())
