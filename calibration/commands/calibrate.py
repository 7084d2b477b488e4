"""`vitconformer calibrate`: INT8 models from a float one and some audio."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from calibration.calibrate import Calibration
    from calibration.observe import Plan
    from edge_runtime.bundle import Bundle
    from edge_runtime.manifest import Utterance

NAME = "calibrate"
HELP = "INT8 models from a bundle's float model and some audio"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options to `parser`."""
    parser.add_argument("--bundle", required=True, type=Path, help="bundle with the float model")
    parser.add_argument(
        "--manifest", required=True, nargs="+", type=Path, metavar="FILE",
        help="JSON lines with audio_filepath, duration and text: what the device will hear; "
        "a tenth of it is for comparing, not for ranges",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where files go")
    parser.add_argument(
        "--chunks", type=int, default=1000, metavar="N", help="windows to observe (default: 1000)"
    )
    parser.add_argument(
        "--targets", default="x86,dynamic", metavar="LIST",
        help="comma-separated: x86, arm64, dynamic, dynamic7, trt10, trt8, float16-trt10 "
        "(default: x86,dynamic)",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=float, default=0.02, metavar="X",
        help="edits per token that INT8 may cost before layers stay float (default: 0.02)",
    )  # fmt: skip
    parser.add_argument(
        "--plain", action="store_true",
        help="leave norms and biases as they are: try neither smoothing nor bias correction",
    )  # fmt: skip
    parser.add_argument(
        "--cache", default="", metavar="VERSION",
        help="also write calibration.cache for the implicit INT8 of this TensorRT, such as 8.6.2 "
        "(implies --plain)",
    )  # fmt: skip
    parser.add_argument(
        "--ranges", type=Path, metavar="FILE",
        help="ranges.json of this model: write the same files again, observe nothing",
    )  # fmt: skip
    parser.add_argument(
        "--bundle-out", type=Path, metavar="DIR",
        help="also write the bundle with the INT8 files, ranges.json and goldens.npz in it",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=Path, metavar="DIR",
        help="also write a report for people: Markdown and pictures",
    )  # fmt: skip
    parser.add_argument(
        "--report-manifest", nargs="+", type=Path, default=[], metavar="FILE",
        help="recordings with texts that the report compares float and INT8 on (default: what "
        "calibration keeps for comparing)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from calibration.calibrate import calibrate
    from calibration.emit import TARGETS
    from calibration.observe import Plan
    from calibration.ranges import Ranges
    from edge_runtime.bundle import Bundle
    from edge_runtime.engine import Engine
    from edge_runtime.errors import ConfigError
    from edge_runtime.manifest import read_manifest

    targets = tuple(dict.fromkeys(t.strip() for t in args.targets.split(",") if t.strip()))
    if unknown := [target for target in targets if target not in TARGETS]:
        raise ConfigError(f"--targets {unknown[0]}: there are {', '.join(TARGETS)}")
    if args.chunks < 1 or not args.budget >= 0:
        raise ConfigError("--chunks must be positive, --budget 0 or more")
    if args.report_manifest and args.report is None:
        raise ConfigError("--report-manifest is for the report: name its directory with --report")
    if args.report is not None and not targets:
        raise ConfigError("--report is about INT8 files: name at least one with --targets")
    if args.report is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "--report draws with matplotlib, which is not installed: "
            "pip install 'vitconformer[calibrate]'"
        )
    bundle = Bundle.open(args.bundle)
    heard = [u for path in args.report_manifest for u in read_manifest(path)]
    utterances = tuple(u for path in args.manifest for u in read_manifest(path))
    with tqdm(total=1, file=sys.stderr, disable=None, leave=False) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.set_description(what)
            bar.total, bar.n = total, done
            bar.refresh()

        plan = Plan(utterances=utterances, chunks=args.chunks, seed=args.seed)
        found = calibrate(
            bundle.model(),
            Engine.from_bundle(bundle),
            plan,
            args.out,
            targets=targets,
            budget=args.budget,
            plain=args.plain,
            tensorrt_cache=args.cache,
            ranges=Ranges.load(args.ranges) if args.ranges else None,
            progress=progress,
        )
        if args.report is not None:
            report(bundle, found, plan, heard, args, progress)
    sys.stdout.write("".join(f"{line}\n" for line in summary(found)))
    if args.bundle_out is not None:
        write_with(bundle, found, args.out, args.bundle_out)
        sys.stdout.write(f"{args.bundle_out}\n")
    if args.report is not None:
        sys.stdout.write(f"{args.report / 'report.md'}\n")
    return 0


def report(
    bundle: Bundle,
    found: Calibration,
    plan: Plan,
    heard: list[Utterance],
    args: argparse.Namespace,
    progress: Callable[[str, int, int], object],
) -> None:
    """Compares the files as a bundle has them, in one that is made for it."""
    from calibration.report.gather import gather
    from calibration.report.page import write_report

    with tempfile.TemporaryDirectory(prefix="vitconformer-report-") as folder:
        whole = write_with(bundle, found, args.out, Path(folder) / "bundle")
        write_report(args.report, gather(whole, found, plan, heard, progress=progress))


def summary(found: Calibration) -> list[str]:
    """What a person wants to know, as lines."""
    ranges = found.ranges
    lines = [f"{ranges.chunks} chunks, {len(ranges.tensors)} tensors; ranges by {ranges.method}"]
    for method, cost in ranges.measured.get("methods", {}).items():
        mark = "  <- least" if method == ranges.method else ""
        lines.append(
            f"  {method:<8} divergence {cost['divergence']:<9g} tokens changed "
            f"{cost['tokens']:.2%}, {cost['snr_db']:.1f} dB{mark}"
        )
    for name, what in (("smooth", "smoothing"), ("bias", "bias correction")):
        if tried := ranges.measured.get(name):
            cost = tried["divergence"]
            lines.append(
                f"{what} {'is used' if tried['kept'] else 'is left out'}: divergence "
                f"{cost['before']:g} without, {cost['after']:g} with; on sounds not chosen on it "
                f"gains {tried['gain']:g}, standard error {tried['standard_error']}"
            )
    if ranges.keep_float:
        lines.append(f"float stay: {', '.join(ranges.keep_float)}")
    for target, path in found.files.items():
        cost, kernels = found.differences[target], found.kernels[target]
        products = ", ".join(
            f"{n} {kind}" for kind, n in kernels.items() if "MatMul" in kind or "Quant" in kind
        )
        lines.append(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB; tokens changed {cost.tokens:.2%}, "
            f"{cost.snr_db:.1f} dB; {products}"
        )
    return lines


def write_with(bundle: Bundle, found: Calibration, out: Path, target: Path) -> Bundle:
    """The bundle at `target`, with the INT8 files beside what it had."""
    import dataclasses

    from calibration.calibrate import RANGES_NAME
    from calibration.emit import precision_of
    from edge_runtime.bundle import write_bundle
    from edge_runtime.contract.bundle import GOLDENS_NAME

    manifest = bundle.manifest
    files: dict[str, Path | bytes] = {name: bundle.file(name) for name in manifest.files}
    files |= {path.name: path for path in found.files.values()}
    files[RANGES_NAME] = out / RANGES_NAME
    files[GOLDENS_NAME] = found.goldens
    precisions = {precision_of(name): path.name for name, path in found.files.items()}
    return write_bundle(
        target,
        dataclasses.replace(
            manifest,
            files={},
            precisions={**manifest.precisions, **precisions},
            goldens=GOLDENS_NAME,
        ),
        files,
    )
