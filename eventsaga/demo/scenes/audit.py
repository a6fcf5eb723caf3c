"""Scene 5: the auditor comes, and brings psql."""

from eventsaga.client.verify import verify
from eventsaga.demo.auditing import QUESTIONS
from eventsaga.demo.checks import Check
from eventsaga.demo.report import Scene
from eventsaga.demo.stage import Stage


async def answer_the_auditor(stage: Stage, scene: Scene) -> None:
    """Ask the tables, then prove every row of this run against its events."""
    for question in QUESTIONS:
        scene.ask(question.text, question.command(stage.place, stage.run))
        rows = await question.ask(stage.db, stage.run)
        scene.answer(question.text, question.sql, rows)
        scene.check(question.judge(rows))
    await _verify(stage, scene)


async def _verify(stage: Stage, scene: Scene) -> None:
    """Prove the histories of this run and their rows, as ``eventsaga verify`` does for all."""
    sagas = await stage.sagas()
    with stage.console.status("verifying…"):
        found = [str(violation) async for violation in verify(stage.orchestrator.store, sagas)]
    scene.say(f"verify: {len(sagas)} sagas, each event and each row")
    scene.check(
        Check("sagas of this run", len(stage.order_ids), len(sagas)),
        Check("violations", [], found),
    )
