"""`vitconformer inspect BUNDLE`: what a bundle contains, verified, and how it would be run."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from typing import TYPE_CHECKING, Any

from edge_runtime.cli import OK
from edge_runtime.commands import options

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

NAME = "inspect"
HELP = "verify a model bundle and describe it"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="directory (default: the demo)")
    parser.add_argument(
        "--precision", metavar="NAME", help="which of its models (default: what would run here)"
    )
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")


def run(args: argparse.Namespace) -> int:
    facts = describe(options.find_bundle(args.bundle), args.precision)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _table(facts)))
    return OK


def describe(path: Any, precision: str | None = None) -> dict[str, Any]:
    """All facts about a bundle as JSON values.  Raises BundleError if it must not be used."""
    from edge_runtime.bundle import Bundle
    from edge_runtime.engine import Engine

    bundle = Bundle.open(path)  # verifies every digest
    manifest = json.loads(bundle.manifest.to_json())
    runtime = _runtime(bundle, precision)
    engine = Engine.from_bundle(bundle, precision=runtime["precision"])
    try:
        engine.session()  # runs one window: a graph that loads may still not run
        model = engine.inspect()
    finally:
        engine.close()
    return {
        "bundle": str(path),
        "manifest": manifest,
        "files": [
            {"name": name, **entry, "verified": True} for name, entry in manifest["files"].items()
        ],
        "vocabulary": len(bundle.vocabulary()),
        "model": model,
        "runtime": runtime,
    }


def _runtime(bundle: Bundle, precision: str | None) -> dict[str, Any]:
    """What would run the model, which of its files, and why."""
    from edge_runtime.precision import choose, this_processor

    chosen, why = choose(bundle.manifest.precisions, this_processor())
    if precision:
        chosen, why = precision, "asked for"
    return {
        "backend": "onnxruntime",
        "version": _installed("onnxruntime"),
        "precision": chosen,
        "file": bundle.model(chosen).name,
        "why": why,
        "required": [
            {"package": package, "version": version, "installed": _installed(package)}
            for package, version in bundle.manifest.runtime.items()
        ],
    }


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _table(facts: dict[str, Any]) -> list[str]:
    manifest, model, runtime = facts["manifest"], facts["model"], facts["runtime"]
    rows = [
        ("bundle", f"{manifest['name']} {manifest['version']}  ({facts['bundle']})"),
        ("released", f"{manifest['created']}, release {manifest['release_counter']}"),
        ("made from", manifest["parent"] or "-"),
        ("licence", manifest["licence"] or "-"),
        ("trained on", _brief(manifest["training_data"]) or "not stated"),
        ("features", f"{model['frontend']}, {model['sample_rate']} Hz"),
        ("vocabulary", f"{facts['vocabulary']} pieces with blank"),
        (
            "output",
            f"one frame per {model['output_frame_ms']} ms, "
            f"{model['state_bytes_per_stream'] / 1024:.0f} KiB of state per stream",
        ),
        ("confidence", manifest["confidence"] or "not calibrated"),
        ("language model", manifest["lm"] or "none"),
        ("lexicon", manifest["lexicon"] or "none"),
        (
            "would run",
            f"{runtime['file']} ({runtime['precision']}: {runtime['why']}) "
            f"on {runtime['backend']} {runtime['version']}",
        ),
    ]
    rows += [
        ("needs", f"{need['package']} {need['version']} (installed: {need['installed'] or 'no'})")
        for need in runtime["required"]
    ]
    lines = [f"{name:<15} {value}" for name, value in rows]
    lines += ["", "chunk     latency at worst"]
    for chunk in model["chunks"]:
        mark = "  default" if chunk["chunk_ms"] == model["default_chunk_ms"] else ""
        lines.append(f"{chunk['chunk_ms']:4} ms   {chunk['latency_ms']:4} ms{mark}")
    lines += ["", "file                          size  sha256"]
    lines += [
        f"{file['name']:<24} {file['size']:>9}  {file['sha256'][:16]}… verified"
        for file in facts["files"]
    ]
    if manifest["metrics"]:
        lines += ["", "measured"]
        lines += [f"  {name}: {_brief(value)}" for name, value in manifest["metrics"].items()]
    return lines


def _brief(value: Any) -> str:
    """A JSON value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_brief, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
