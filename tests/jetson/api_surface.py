"""Whether real TensorRT and cuda-python have the names that the runtime uses.

    python -m tests.jetson.api_surface              # all versions, downloaded if need be
    python -m tests.jetson.api_surface 10.3.0       # one

NVIDIA's Python bindings are wheels of about 1.3 MB on PyPI, without the libraries.  They import
beside libraries that only define the few symbols they link to, which are compiled here; then every
class and enumerator can be looked at, and nothing can be run.  Each version is looked at in a
process of its own.  Downloads are kept in the user's cache directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from jetson.trt import USED, USED_IN

VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")  # of JetPack 6.1 on, 7.0, 7.2, 7.2.2
_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
_SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry "
    "getNvOnnxParserVersion getPluginRegistry initLibNvInferPlugins"
).split()

_LOOK = """
import json, sys
import tensorrt_bindings as trt
missing = []
for owner, names in json.load(sys.stdin).items():
    thing = getattr(trt, owner, None) if owner else trt
    missing += [f"{owner or 'tensorrt'}.{name}" for name in names if not hasattr(thing, name)]
print(json.dumps({"version": trt.__version__, "missing": missing}))
"""


_refused: list[str] = []  # why a download failed: without a network all do, after a while


class Unavailable(Exception):
    """The check cannot be made here, and why."""


def cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "vitconformer" / "tensorrt-bindings"


def wanted(version: str) -> dict[str, list[str]]:
    """What a version must have."""
    major = int(version.split(".")[0])
    names = {owner: list(listed) for owner, listed in USED.items()}
    for (first, last), more in USED_IN.items():
        if first <= major <= last:
            for owner, listed in more.items():
                names[owner] = [*names.get(owner, []), *listed]
    return names


def missing(version: str) -> list[str]:
    """Names that this version of the bindings lacks. Raises Unavailable."""
    package = bindings(version)
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(stubs(version.split(".")[0])),
        "PYTHONPATH": str(package),
    }
    done = subprocess.run(
        [sys.executable, "-c", _LOOK],
        input=json.dumps(wanted(version)),
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f"the bindings of {version} do not import: {done.stderr[-500:]}")
    found = json.loads(done.stdout)
    assert version.startswith(found["version"]), found
    return list(found["missing"])


def bindings(version: str) -> Path:
    """The unpacked wheel of the bindings. Raises Unavailable where there is none to be had."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    target = cache() / f"{version}-{tag}"
    if (target / "tensorrt_bindings").is_dir():
        return target
    if os.environ.get("VITCONFORMER_OFFLINE"):
        raise Unavailable("VITCONFORMER_OFFLINE is set, and the bindings are not in the cache")
    if _refused:
        raise Unavailable(_refused[0])
    cache().mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--retries", "0", "--timeout", "10"]
    command += ["-d", str(cache()), f"tensorrt-cu12-bindings=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        _refused.append(f"pip cannot download: {error}")
        raise Unavailable(_refused[0]) from error
    wheels = sorted(cache().glob(f"tensorrt_cu12_bindings-{version}-{tag}-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip() or "no wheel for this Python").splitlines()[-1]
        _refused.append(f"the bindings of {version} cannot be downloaded: {reason[:200]}")
        raise Unavailable(_refused[0])
    unpacked = cache() / f".{target.name}.{os.getpid()}"
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(unpacked)
    wheels[0].unlink()
    unpacked.rename(target)
    return target


def stubs(major: str) -> Path:
    """Libraries with the symbols that the bindings link to. Raises Unavailable without gcc."""
    folder = cache() / f"stubs-{major}"
    folder.mkdir(parents=True, exist_ok=True)
    source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in _SYMBOLS)
    for name in _LIBRARIES:
        library = folder / f"lib{name}.so.{major}"
        if library.exists():
            continue
        part = library.with_name(f".{library.name}.{os.getpid()}")
        command = ["gcc", "-shared", "-fPIC", "-x", "c", f"-Wl,-soname,{library.name}"]
        try:
            subprocess.run(
                [*command, "-o", str(part), "-"], input=source, text=True, check=True, timeout=60,
                capture_output=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"no stub libraries: {error}") from error
        part.rename(library)
    return folder


def main() -> int:
    failed = False
    for version in sys.argv[1:] or VERSIONS:
        lacking = missing(version)
        failed |= bool(lacking)
        count = sum(map(len, wanted(version).values()))
        sys.stdout.write(f"{version}: {count} names, missing: {', '.join(lacking) or 'none'}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
