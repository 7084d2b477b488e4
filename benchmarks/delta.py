"""Size of an update that comes as a delta, against the whole file and against general tools.

One pair of models after another: BASE is on the device, NEW is wanted. Every number is the size of
what is fetched, as a share of the whole new file.

* `ours`: `edge_runtime.ota.delta`, what devices fetch;
* `xz`: the whole file, compressed (preset 9e);
* `zstd` and `zstd patch`: likewise at level 19, and with the base as a dictionary (what
  `zstd --patch-from` does); `bsdiff`: bsdiff4. These two columns need packages that vitconformer
  does not: `pip install zstandard bsdiff4`; without them they are empty.

A delta is applied before it is counted: it must give the new file, byte for byte. Pairs are folders
of bundles; all files of their models that differ are compared. The first pair is what the pipeline
makes, and the one that the target is about: fine-tuned, interpolated, its update rounded to steps
from the parent (`vitconformer export --parent-weights`).

    python benchmarks/delta.py --pair "as shipped" bundles/en-demo data/child
"""

from __future__ import annotations

import argparse
import importlib
import lzma
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure
from edge_runtime.ota import delta

COLUMNS = ("ours", "xz", "zstd", "zstd patch", "bsdiff")
TARGET = 0.4


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pair", nargs=3, action="append", required=True, metavar=("NAME", "BASE", "NEW"),
        help="a name and two folders; may be given again",
    )  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for name, base, new in args.pair:
        for path in sorted(Path(new).glob("*.onnx")):
            old = Path(base) / path.name
            if old.is_file() and old.read_bytes() != path.read_bytes():
                measure.say(f"{name}: {path.name} ...")
                rows.append(
                    {
                        "pair": name,
                        "file": path.name,
                        **sizes(old.read_bytes(), path.read_bytes()),
                    }
                )
    return {"target": TARGET, "rows": rows}


def sizes(base: bytes, new: bytes) -> dict[str, Any]:
    """Bytes of `new`, and of every way to get it there."""
    start = time.process_time()
    made = delta.make(base, new)
    made_s = time.process_time() - start
    start = time.process_time()
    assert delta.apply(base, made, limit=len(new)) == new
    found: dict[str, Any] = {
        "bytes": len(new),
        "ours": len(made),
        "make_s": made_s,
        "apply_s": time.process_time() - start,
        "xz": len(lzma.compress(new, preset=9 | lzma.PRESET_EXTREME)),
    }
    if zstandard := optional("zstandard"):
        found["zstd"] = len(zstandard.ZstdCompressor(level=19).compress(new))
        prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            19, window_log=27, enable_ldm=True
        )
        packer = zstandard.ZstdCompressor(dict_data=prefix, compression_params=parameters)
        found["zstd patch"] = len(packer.compress(new))
    if bsdiff4 := optional("bsdiff4"):
        found["bsdiff"] = len(bsdiff4.diff(base, new))
    return found


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def table(results: dict[str, Any]) -> measure.Table:
    rows = [["models", "file", "MB", *COLUMNS, "made in, CPU s", "applied in"]]
    for row in results["rows"]:
        shares = [f"{row[name] / row['bytes']:.1%}" if name in row else "" for name in COLUMNS]
        rows.append(
            [
                row["pair"],
                row["file"],
                f"{row['bytes'] / 1e6:.1f}",
                *shares,
                f"{row['make_s']:.1f}",
                f"{row['apply_s']:.2f}",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
