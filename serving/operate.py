"""What an operator may do over HTTP: kill, resume, roll back. Each is an event of the ledger, as from anywhere else."""

import asyncio
from typing import TYPE_CHECKING

from pilotage.errors import (
    InvalidRequest,
    KillNotRecorded,
    LedgerConflict,
    LedgerUnavailable,
    NotApproved,
    NotReleasable,
)
from pilotage.release import commands
from pilotage.runtime.access.caller import Role
from pilotage.runtime.kill_notes import KillNote, KillNotes
from serving.endpoints import LARGEST_BODY, Endpoint
from serving.exchange import Exchange
from serving.protocols import decode
from serving.replies import encoded, send_reply
from serving.schemas import LONGEST_WHY

if TYPE_CHECKING:
    from serving.worker import Core

ACTIONS = ("kill", "resume", "rollback")
_FIX = 'Send {"why": "the reason, in words"}.'


class Operate(Endpoint):
    """``POST /admin/<model>/kill`` and its like."""

    role: Role = "operate"

    def __init__(self, model: str, action: str) -> None:
        super().__init__(model)
        self.action = action
        self.route = f"/admin/{{model}}/{action}"

    async def answer(self, exchange: Exchange) -> None:
        """Records the decision, and carries it out in this worker at once; the others follow within a second."""
        core = exchange.core
        content = decode(await exchange.body(LARGEST_BODY), fix=_FIX)
        why, to, version = self._asked(content)
        actor = f"{exchange.caller.name} (key {exchange.caller.id})" if exchange.caller.id else exchange.caller.name
        if core.standalone:
            body = await asyncio.to_thread(self._decide_alone, core, actor, why)
        else:
            try:
                body = await asyncio.to_thread(self._decide, core, actor, why, to, version)
            except KillNotRecorded:
                await asyncio.to_thread(core.follower.heed)
                raise
            await asyncio.to_thread(core.follower.follow)
        core.logger.warning("%s of %s by %s", self.action, self.model, actor)
        headers = [(b"content-type", b"application/json"), (b"x-request-id", exchange.request_id.encode())]
        await send_reply(exchange.send, 200, encoded(body), headers=headers)

    def _asked(self, content: object) -> tuple[str, int | None, int | None]:
        """The reason, which version is to answer instead, and which is to be taken back.

        Raises:
            InvalidRequest: The body is something else.
        """
        fields = ("why", "to", "version") if self.action == "rollback" else ("why",)
        if not isinstance(content, dict):
            raise InvalidRequest("The body is no object.", fix=_FIX)
        if unknown := content.keys() - set(fields):
            name = min(unknown)[:100]
            raise InvalidRequest(f"There is no field {name!r}.", fix=f"Use only: {', '.join(fields)}.", field=name)
        why = content.get("why")
        if not isinstance(why, str) or not why.strip():
            raise InvalidRequest("A decision is recorded with its reason; why is missing.", fix=_FIX, field="why")
        if len(why) > LONGEST_WHY or not why.isprintable():
            raise InvalidRequest(
                f"why has more than {LONGEST_WHY:,} characters, or some that can't be printed in a line.",
                fix="Send the reason in a few plain words.",
                field="why",
            )
        for name in ("to", "version"):
            number = content.get(name)
            if number is not None and type(number) is not int:
                raise InvalidRequest(f"{name} is no version.", fix="Send its number, or leave it out.", field=name)
        return why, content.get("to"), content.get("version")

    def _decide(self, core: "Core", actor: str, why: str, to: int | None, version: int | None) -> dict[str, object]:
        settings, spec = core.deciding, core.specs[self.model]
        if self.action == "kill":
            state = commands.kill(self.model, settings=settings, actor=actor, why=why)
        elif self.action == "resume":
            state = commands.resume(self.model, settings=settings, actor=actor, why=why)
        else:
            state = commands.rollback(
                self.model, to, version=version, settings=settings, actor=actor, why=why, spec=spec
            )
        return {
            "model": self.model,
            "champion": state.champion.version if state.champion else None,
            "killed": state.killed.why if state.killed else None,
            "sequence": state.sequence,
        }

    def _decide_alone(self, core: "Core", actor: str, why: str) -> dict[str, object]:
        """Where there is no ledger: a kill is a note on this host's disk, until it is resumed."""
        notes = KillNotes(core.settings.service_state)
        held = [note for note in notes.read() if note.model == self.model]
        if self.action == "kill":
            if not held:
                notes.write(KillNote.of(self.model, actor=actor, why=why))
        elif self.action == "resume":
            if not held:
                raise NotReleasable(f"{self.model} is not killed.", fix="Nothing is to be done.", model=self.model)
            for note in held:
                notes.remove(note)
        else:
            raise NotReleasable(
                "This service has no ledger: it knows no version but the one that it was built with.",
                fix=f"Kill {self.model}, or start a bento of the version to go back to.",
                model=self.model,
            )
        core.follower.heed()
        core.follower.follow()
        plan = core.follower.boards[self.model].plan
        champion = plan.champion.version if plan.champion else None
        return {"model": self.model, "champion": champion, "killed": plan.killed, "sequence": plan.sequence}


def refused_status(error: Exception) -> int | None:
    """The status of an error that is the release room's, which knows no HTTP; ``None`` for any other."""
    if isinstance(error, (NotReleasable, NotApproved, LedgerConflict)):
        return 409
    return 503 if isinstance(error, LedgerUnavailable) else None
