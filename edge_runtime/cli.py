"""The command `vitconformer VERB`: finds the verb, runs it, turns errors into exit codes.

A verb is a module with `NAME`, `HELP`, `configure(parser)` and `run(args) -> int`.  Those of this
package are in BUILTINS; other packages register theirs in the entry-point group
`vitconformer.commands`, with the extra that brings their requirements in brackets:

    synth = "training.commands.synth:run [train]"

Only the chosen verb is imported, and a verb imports what is heavy inside `run`, because the start
of the process counts towards the time to the first word.  A verb whose extra is not installed is
listed with the command that installs it.

Exit codes: 0 done; 1 failed, with one line on stderr; 2 wrong usage; 130 interrupted by Ctrl-C;
141 whoever read stdout went away.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from edge_runtime import __version__
from edge_runtime.errors import ConfigError, EdgeError

PROG = "vitconformer"
GROUP = "vitconformer.commands"
BUILTINS = {
    **{
        name: f"edge_runtime.commands.{name}"
        for name in ("transcribe", "listen", "inspect", "bench")
    },
    "import": "edge_runtime.commands.importing",  # a module cannot be called by a keyword
}

OK, FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141


class Command(Protocol):
    """What a verb's module holds."""

    NAME: str
    HELP: str  # one line, lower case, no full stop

    def configure(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb by name, not yet imported."""

    name: str
    module: str
    missing: str = (
        ""  # what must be installed before it can be imported, e.g. "vitconformer[train]"
    )

    def load(self) -> Command:
        return cast(Command, importlib.import_module(self.module))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own) and returns its exit code."""
    logging.basicConfig(format=f"{PROG}: warning: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a narrow locale must not end a run
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a closed pipe can still be handled
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more on its way out; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except ConfigError as error:
        complain(error)
        return USAGE
    except EdgeError as error:
        complain(error)
        return FAILED
    except OSError as error:  # a full disk, a file that went away
        complain(error)
        return FAILED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OURS:
            raise  # a bug, not an installation
        complain(f"package {error.name} is not installed: pip install '{PROG}[edge]'")
        return FAILED


_URL = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")  # as Path writes s3://bucket
_OURS = {"edge_runtime", "training", "calibration", "jetson", "autotrain_cloud"}


def complain(problem: object) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{PROG}: error: {' '.join(str(problem).split())}\n")


def _dispatch(argv: list[str]) -> int:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return OK if argv else USAGE
    if name in ("-V", "--version"):
        sys.stdout.write(f"{PROG} {__version__}\n")
        return OK
    verb = Verb(name, BUILTINS[name]) if name in BUILTINS else verbs(name).get(name)
    if verb is None:
        import difflib

        near = [] if name.startswith("-") else difflib.get_close_matches(name, verbs(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"see {PROG} --help"
        complain(f"unknown {'option' if name.startswith('-') else 'command'} '{name}'; {hint}")
        return USAGE
    if verb.missing:
        complain(f"'{name}' is not installed: pip install '{verb.missing}'")
        return FAILED
    command = verb.load()
    parser = argparse.ArgumentParser(prog=f"{PROG} {name}", description=_sentence(command.HELP))
    command.configure(parser)
    try:
        args = parser.parse_args(argv[1:])
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    for name, value in vars(args).items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Path) and _URL.match(str(each)):
                complain(
                    f"--{name.replace('_', '-')} {each} is a URL (expected a path on this machine)"
                )
                return USAGE
    return command.run(args)


def overview() -> str:
    """The text of `--help`: every verb there is, and what would bring the rest."""
    lines = [
        f"usage: {PROG} VERB [options]        {PROG} VERB --help explains one",
        "",
        "Streaming speech recognition on the device.",
        "",
    ]
    for name, verb in verbs().items():
        if verb.missing:
            text = f"needs: pip install '{verb.missing}'"
        else:
            try:
                text = verb.load().HELP
            except Exception as error:  # somebody else's broken verb must not hide ours
                text = f"broken: {error}"
        line = f"  {name:<12} {text}"
        lines.append(line if len(line) <= 80 else line[:79] + "…")
    lines += ["", "  --version    print the version"]
    return "\n".join(lines) + "\n"


def verbs(only: str | None = None) -> dict[str, Verb]:
    """Every verb by name: this package's, then those that other packages registered.

    `only` that one of the latter, as it costs 10 ms to see whether a verb's extra is installed.
    """
    from importlib.metadata import entry_points  # 20 ms that our own verbs need not pay

    found = {name: Verb(name, module) for name, module in BUILTINS.items()}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if only not in (None, point.name):
            continue
        missing = ""
        if point.dist is not None:
            extras = [extra for extra in point.extras if not is_installed(point.dist, extra)]
            if extras:
                missing = f"{point.dist.name}[{','.join(extras)}]"
        found.setdefault(point.name, Verb(point.name, point.module, missing))
    return found


def is_installed(dist: Any, extra: str) -> bool:
    """Whether every requirement of a distribution's extra is there, by metadata alone.

    Versions are pip's concern, and requirements with further conditions (`python_version < ...`)
    are taken as met, because only `packaging` could evaluate them.
    """
    requirements = dist.requires or ()  # parses all the metadata, every time
    return _is_met(dist.name, requirements, extra)


def _is_met(ours: str, requirements: Sequence[str], extra: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    for requirement in requirements:
        spec, _, marker = requirement.partition(";")
        if not re.fullmatch(rf"""\s*extra\s*==\s*['"]{re.escape(extra)}['"]\s*""", marker):
            continue
        name = re.match(r"[A-Za-z0-9._-]+", spec.strip())
        if name is None:
            continue
        if _same_name(name[0], ours):  # vitconformer[edge] within vitconformer[train]
            inner = re.search(r"\[([^\]]*)\]", spec)
            extras = inner[1].split(",") if inner else []
            if not all(_is_met(ours, requirements, other.strip()) for other in extras):
                return False
            continue
        try:
            distribution(name[0])
        except PackageNotFoundError:
            return False
    return True


def _same_name(a: str, b: str) -> bool:
    """PEP 503: case and separators do not matter."""
    return re.sub(r"[-_.]+", "-", a).lower() == re.sub(r"[-_.]+", "-", b).lower()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
