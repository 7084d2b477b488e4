"""A verdict for people: Markdown, and a picture of the differences."""

from __future__ import annotations

from pathlib import Path

from autotrain_cloud.gate.evidence import Rule
from autotrain_cloud.gate.verdict import Verdict

_SIGNS = {True: "pass", False: "FAIL", None: "not measured"}


def markdown(verdict: Verdict) -> str:
    """The decision, its reasons, and every rule with its numbers."""
    before, after = verdict.champion, verdict.challenger
    lines = [
        f"# {'Promoted' if verdict.promote else 'Rejected'}: "
        f"{after.name} {after.version} against {before.version}",
        "",
        f"Heard as {verdict.precision}, {verdict.chunk_ms} ms chunks. "
        f"Verdict {verdict.digest[:16]}.",
        "",
    ]
    for title, texts in (("Reasons", verdict.reasons), ("Warnings", verdict.warnings)):
        if texts:
            lines += [f"{title}:", "", *(f"- {text}" for text in texts), ""]
    lines += ["| rule | | what was found |", "|---|---|---|"]
    lines += [f"| {r.name} | {_SIGNS[r.passed]} | {_cell(r.reason)} |" for r in verdict.rules]
    lines += ["", "| set | role | utterances | audio | digest |", "|---|---|---|---|---|"]
    lines += [
        f"| {one['name']} | {one['role']} | {one['utterances']} | {one['seconds'] / 60:.1f} min "
        f"| {one['digest'][:16]} |"
        for one in verdict.sets
    ]
    return "\n".join(lines) + "\n"


def plot(verdict: Verdict, path: Path) -> None:
    """Relative differences of word error rate with their bounds, a line for each slice."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rules = [rule for rule in verdict.rules if _has_interval(rule)][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.4 * max(1, len(rules))))
    for row, rule in enumerate(rules):
        champion = rule.measured["wer"]["champion"]
        low, high = (100 * bound / champion for bound in rule.measured["interval"])
        colour = "tab:green" if rule.passed else "tab:red"
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([100 * rule.measured["relative"]], [row], "o", color=colour)
        axes.plot([100 * (rule.threshold or 0.0)], [row], "|", color="black", markersize=14)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(rules)), [rule.name for rule in rules])
    axes.set_xlabel("change of WER, % of the champion's; | is the threshold")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _has_interval(rule: Rule) -> bool:
    return bool(
        rule.measured.get("wer", {}).get("champion")
        and None not in rule.measured.get("interval", [None])
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
