"""The states of a rollout, and what follows from what."""

from __future__ import annotations

import enum

from autotrain_cloud.rollout.log import (
    Advanced,
    Approved,
    Completed,
    Decision,
    Halted,
    Paused,
    Republished,
    Resumed,
    Reverted,
    Reverting,
    Settled,
    Started,
    Submitted,
    Targeted,
)


class State(enum.Enum):
    """What is being done about a rollout."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting approval"
    RUNNING = "running"  # in one of the stages
    PAUSED = "paused"  # as running, without new devices
    HALTED = "halted"  # only a person, or the way back, leads out
    REVERTING = "reverting"
    REVERTED = "reverted"
    COMPLETE = "complete"


# The whole of the machine. Facts change what is known, never the state.
TABLE: dict[tuple[State, type[Decision]], State] = {
    (State.DRAFT, Submitted): State.AWAITING_APPROVAL,
    (State.AWAITING_APPROVAL, Approved): State.AWAITING_APPROVAL,
    (State.AWAITING_APPROVAL, Started): State.RUNNING,
    (State.AWAITING_APPROVAL, Halted): State.HALTED,
    (State.RUNNING, Targeted): State.RUNNING,
    (State.RUNNING, Settled): State.RUNNING,
    (State.RUNNING, Advanced): State.RUNNING,
    (State.RUNNING, Paused): State.PAUSED,
    (State.RUNNING, Halted): State.HALTED,
    (State.RUNNING, Completed): State.COMPLETE,
    (State.PAUSED, Resumed): State.RUNNING,
    (State.PAUSED, Halted): State.HALTED,
    (State.HALTED, Resumed): State.RUNNING,
    (State.HALTED, Reverting): State.REVERTING,
    (State.REVERTING, Republished): State.REVERTING,
    (State.REVERTING, Targeted): State.REVERTING,
    (State.REVERTING, Reverted): State.REVERTED,
}

OVER = (State.REVERTED, State.COMPLETE)


def diagram() -> str:
    """The table as a Mermaid state diagram, for the docs."""
    names = {state: state.value.replace(" ", "_") for state in State}
    lines = ["stateDiagram-v2", f"    [*] --> {names[State.DRAFT]}"]
    for (state, event), following in TABLE.items():
        lines.append(f"    {names[state]} --> {names[following]}: {event.__name__}")
    lines += [f"    {names[state]} --> [*]" for state in OVER]
    return "\n".join(lines) + "\n"
