"""The status of an agent that does not run, from what it left behind; and statuses for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from edge_runtime.agent.config import AgentSettings
from edge_runtime.agent.consent import Consents
from edge_runtime.agent.outbox import DATABASE_NAME, Outbox
from edge_runtime.agent.state import last_session, load_budget
from edge_runtime.errors import EdgeError


def resting(settings: AgentSettings) -> dict[str, Any]:
    """The same keys as a running agent's, as far as files tell."""
    state = settings.device.state
    problems: dict[str, str] = {}
    status: dict[str, Any] = {"running": False, "session": last_session(state)}
    try:
        if (state / DATABASE_NAME).exists():
            with Outbox.open(state, quota_bytes=settings.outbox.quota_mb * 1_000_000) as outbox:
                status["outbox"] = dataclasses.asdict(outbox.stats())
    except EdgeError as error:
        problems["outbox"] = str(error)
    consents = Consents(state, settings.consent.file)
    try:
        consents.refresh()
    except EdgeError as error:
        problems["consent"] = str(error)
    if (consent := consents.current) is not None:
        status["consent"] = {
            "id": consent.id,
            "version": consent.version,
            "granted": consent.granted,
        }
    if (budget := load_budget(state)) is not None:
        status["budget"] = dataclasses.asdict(budget)
    return {**status, "problems": problems}


def table(status: Mapping[str, Any]) -> str:
    """One line for each thing a person asks about."""
    lines = [("agent", "runs" if status["running"] else "does not run")]
    if since := status.get("since_ms"):
        when = datetime.fromtimestamp(since / 1000).isoformat(" ", "seconds")
        lines[0] = ("agent", f"runs since {when}, version {status['agent']}")
    if status.get("session") is not None:
        lines.append(("session", str(status["session"])))
    if status.get("device"):
        lines.append(("device", status["device"]))
    if "model" in status:
        model = status["model"]
        text = "none" if model is None else "{name} {version}, {precision}".format_map(model)
        lines.append(("model", text))
    if "audio_s" in status:
        text = f"{status['audio_s']:.0f} s, {status['utterances']} utterances"
        if status["missed_s"]:
            text += f", {status['missed_s']:.0f} s unheard"
        if status["crashes"]:
            text += f", {status['crashes']} failures of the recogniser"
        lines.append(("heard", text))
    consent = status.get("consent")
    text = "none: nothing is kept"
    if consent is not None:
        text = consent["id"] if consent["granted"] else f"{consent['id']} was withdrawn"
    lines.append(("consent", text))
    if (outbox := status.get("outbox")) is not None:
        text = f"{outbox['queued']} segments, {outbox['queued_bytes'] / 1e6:.1f} MB wait"
        for name in ("dead", "corrupt"):
            if outbox[name]:
                text += f", {outbox[name]} {name}"
        lines.append(("outbox", text))
    if (uplink := status.get("uplink")) is not None:
        accepts = {True: "", False: "; the cloud accepts nothing now", None: ""}
        text = f"{uplink['state']}, {uplink['broker']}{accepts[uplink['cloud_accepts']]}"
        lines.append(("uplink", text))
    if (budget := status.get("budget")) and budget["day"]:
        spent = budget["segments"] + budget["random_segments"]
        octets = budget["bytes"] + budget["random_bytes"]
        lines.append(("budget", f"{spent} segments, {octets / 1e6:.1f} MB on {budget['day']}"))
    lines += [("problem", f"{key}: {line}") for key, line in status["problems"].items()]
    return "".join(f"{name:<9}{text}\n" for name, text in lines)
