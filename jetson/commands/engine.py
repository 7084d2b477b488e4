"""`vitconformer engine`: TensorRT engines of a bundle, built, timed and proven on this machine."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli import FAILED, OK
from edge_runtime.commands import options
from edge_runtime.errors import BackendError, ConfigError, EdgeError

if TYPE_CHECKING:
    from jetson.goldens import Goldens
    from jetson.prepare import Options, Outcome, Site
    from jetson.store import Store

NAME = "engine"
HELP = "TensorRT engines: build, bench, info, selftest"
ACTIONS = {
    "build": "build INT8 and FP16 engines, prove them, keep the faster one",
    "bench": "time the engine at every chunk size and batch",
    "info": "what this machine has, and the engines on it",
    "selftest": "all of these, as one JSON object to send in",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    parser.add_argument(
        "action",
        choices=ACTIONS,
        help="; ".join(f"{name}: {text}" for name, text in ACTIONS.items()),
    )
    parser.add_argument(
        "--bundle", metavar="DIR", help="model bundle (default: as for `transcribe`)"
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR",
        help="where engines are kept (default: $VITCONFORMER_ENGINES, else the user's cache)",
    )  # fmt: skip
    parser.add_argument(
        "--goldens", type=Path, metavar="FILE", help="what to compare with (default: the bundle's)"
    )
    parser.add_argument(
        "--chunk-ms", type=options.positives, metavar="MS,...",
        help="chunk sizes to build (default: all the bundle has)",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=options.positives, metavar="N,...",
        help="batches to build; others are padded to the next (default: 1,2,4,8)",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", default="int8,fp16", metavar="LIST", help="default: int8,fp16"
    )
    parser.add_argument(
        "--workspace", type=options.positive, default=256, metavar="MIB",
        help="memory that the build may use at once (default: 256)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=options.positive, default=200, metavar="N",
        help="steps to time, after 50 that are not counted (default: 200)",
    )  # fmt: skip
    parser.add_argument(
        "--background", action="store_true", help="build: return at once, log to the store"
    )
    parser.add_argument("--cuda", metavar="PACKAGE", help="cuda-python or pycuda (default: either)")
    parser.add_argument("--json", action="store_true", help="results as one JSON object")


def run(args: argparse.Namespace) -> int:
    from jetson.store import Store

    store = Store(args.store) if args.store else Store.default()
    if args.action == "info":
        facts = info(store, args.cuda)
        lines = _info_lines(facts)
    elif args.action == "build" and args.background:
        facts = _in_background(store)
        lines = [f"building in process {facts['pid']}; see {facts['log']}"]
    else:
        facts, lines = _on_gpu(args, store)
    if args.json or args.action == "selftest":
        lines = [json.dumps(facts, indent=2, ensure_ascii=False)]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return FAILED if facts.get("failed") else OK


def info(store: Store, package: str | None = None) -> dict[str, Any]:
    """What there is on this machine. Works without a GPU, and says so."""
    from dataclasses import asdict

    from jetson import cuda, trt
    from jetson.machine import this_machine
    from jetson.store import Record
    from jetson.telemetry import snapshot

    facts: dict[str, Any] = {"telemetry": snapshot().to_json(), "store": str(store.root)}
    try:
        driver = cuda.open_cuda(package)
        facts["gpu"] = asdict(driver.device()) | {"package": driver.name}
        facts["machine"] = this_machine(driver, trt.load()).to_json()
    except BackendError as error:
        facts["unusable"] = str(error)
    facts["engines"] = [
        {
            "key": found.key,
            "candidate": found.candidate,
            "source": found.source,
            "machine": str(found.machine),
            "created": found.created,
            "here": facts.get("machine") == found.machine.to_json(),
        }
        if isinstance(found, Record)
        else {"refused": str(found)}
        for found in store.records()
    ]
    return facts


def _info_lines(facts: dict[str, Any]) -> list[str]:
    state = facts["telemetry"]
    rows = [
        ("machine", state.get("model") or "not a Jetson"),
        ("JetPack", f"{state.get('jetpack') or '-'} (L4T {state.get('l4t') or '-'})"),
        ("power mode", state.get("power_mode") or "-"),
        ("GPU", facts.get("unusable") or f"{facts['gpu']['name']}, SM {facts['gpu']['sm']}"),
        ("TensorRT", facts.get("machine", {}).get("tensorrt") or "-"),
        ("store", facts["store"]),
    ]
    lines = [f"{name:<11} {value}" for name, value in rows]
    for engine in facts["engines"]:
        if "refused" in engine:
            lines.append(f"refused     {engine['refused']}")
        else:
            here = "" if engine["here"] else f" [not this machine: {engine['machine']}]"
            lines.append(f"engine      {engine['candidate']} of {engine['source']}, "
                         f"{engine['created']}{here}")  # fmt: skip
    return lines if facts["engines"] else [*lines, "engine      none"]


def _on_gpu(args: argparse.Namespace, store: Store) -> tuple[dict[str, Any], list[str]]:
    from edge_runtime.bundle import Bundle
    from jetson import cuda, trt
    from jetson.bench import bench
    from jetson.goldens import Goldens
    from jetson.machine import this_machine
    from jetson.prepare import Site

    wanted = _options(args)
    bundle = Bundle.open(options.find_bundle(args.bundle))
    goldens = Goldens.load(args.goldens) if args.goldens else None
    driver = cuda.open_cuda(args.cuda)  # before TensorRT is touched
    tensorrt = trt.load()
    machine = this_machine(driver, tensorrt)
    site = Site(cuda=driver, trt=tensorrt, machine=machine, store=store)
    if args.action == "bench":
        facts = bench(bundle, site, wanted)
        return facts, _bench_lines(facts)
    if args.action == "build":  # recognition goes on beside it; a selftest wants the true times
        os.nice(max(0, 10 - os.nice(0)))
    with store.building():
        outcome = build(bundle, goldens, site, wanted)
    facts = _outcome_facts(outcome)
    lines = _outcome_lines(outcome)
    if args.action == "selftest":
        facts = {"info": info(store, args.cuda), "build": facts, "failed": facts["failed"]}
        if outcome.record is not None:
            try:
                facts["bench"] = bench(bundle, site, wanted)
            except EdgeError as error:
                facts["failed"] = str(error)
    return facts, lines


def _options(args: argparse.Namespace) -> Options:
    from jetson.prepare import BATCHES, CANDIDATES, Options, chunks_of

    candidates = tuple(dict.fromkeys(c.strip() for c in args.candidates.split(",") if c.strip()))
    if unknown := [name for name in candidates if name not in CANDIDATES]:
        raise ConfigError(f"--candidates {unknown[0]}: there are {', '.join(CANDIDATES)}")
    if not candidates:
        raise ConfigError("--candidates is empty")
    return Options(
        chunk_frames=chunks_of(args.chunk_ms or ()),
        candidates=candidates,
        workspace_mib=args.workspace,
        steps=args.steps,
        batches=tuple(sorted(set(args.batches or BATCHES))),
    )


def build(bundle: Any, goldens: Goldens | None, site: Site, wanted: Options) -> Outcome:
    """Builds, and reports every step on stderr."""
    from jetson.prepare import prepare

    def report(text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    return prepare(bundle, goldens, site, wanted, report)


def _bench_lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['candidate']} engine, {facts['cuda']}, {facts['steps']} steps",
             "chunk    batch  graphs      p50      p95      p99"]  # fmt: skip
    for row in facts["times"]:
        times = "  ".join(f"{row[name]:7.3f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
        graphs = "yes" if row["cuda_graphs"] else "no"
        lines.append(f"{row['chunk_ms']:4} ms  {row['batch']:5}  {graphs:<6} {times}  ms")
    state = facts["telemetry"]["after"]
    clock = f"{state.get('gpu_mhz') or '?'} MHz"
    return [*lines, f"power mode {state.get('power_mode') or 'unknown'}; GPU {clock}"]


def _outcome_facts(outcome: Outcome) -> dict[str, Any]:
    chosen = outcome.record
    return {
        "chosen": chosen.candidate if chosen else None,
        "key": chosen.key if chosen else None,
        "tried": outcome.tried,
        "failed": None if chosen else "no engine is fit for use",
    }


def _outcome_lines(outcome: Outcome) -> list[str]:
    if outcome.record is None:
        return ["no engine is fit for use; onnxruntime on the CPU goes on"]
    found = outcome.record
    return [f"{found.candidate} engine {found.key} of {found.source}, for {found.machine}"]


def _in_background(store: Store) -> dict[str, Any]:
    """The same command line without --background, in a process of its own that outlives us."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--background"]
    store.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = store.root / "build.log"
    with path.open("wb") as output:
        child = subprocess.Popen(
            ["nice", "-n", "19", sys.executable, "-m", "jetson", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return {"pid": child.pid, "log": str(path)}
