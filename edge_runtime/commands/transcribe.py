"""`vitconformer transcribe FILE...`: files or standard input to text, live.

Results go to stdout: on a terminal the words as they are recognised, on a pipe one line per final,
with --json one object per event, with --srt or --vtt captions.  A file that cannot be read is
reported and the others go on; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge_runtime.cli import FAILED, OK, complain
from edge_runtime.commands import options
from edge_runtime.commands.live import recognise
from edge_runtime.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from edge_runtime.audio import RawFormat
    from edge_runtime.captions import Cue
    from edge_runtime.display import Display
    from edge_runtime.events import Final, Partial
    from edge_runtime.recognizer import Recognizer

NAME = "transcribe"
HELP = "turn audio files, or standard input, into text"

Caption = Callable[["Final"], None]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio file; - is standard input")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object per event and line")
    output.add_argument("--srt", metavar="FILE", help="write SubRip captions; - is standard output")
    output.add_argument("--vtt", metavar="FILE", help="write WebVTT captions; - is standard output")
    output.add_argument(
        "--realtime", action="store_true", help="feed audio no faster than it was spoken"
    )
    output.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    options.add_decoding_options(parser)
    options.add_model_options(parser)
    pipe = parser.add_argument_group("standard input, unless it is a WAV stream")
    pipe.add_argument("--stdin-format", choices=("s16le", "f32le"), help="default: s16le")
    pipe.add_argument("--stdin-rate", type=options.positive, metavar="HZ", help="default: 16000")
    pipe.add_argument("--stdin-channels", type=options.positive, metavar="N", help="default: 1")


def run(args: argparse.Namespace) -> int:
    captions = [name for name in (args.srt, args.vtt) if name]
    if captions and len(args.files) > 1:
        raise ConfigError("--srt and --vtt caption one file at a time")
    if captions.count("-") + args.json > 1:
        raise ConfigError("standard output can take one of --json, --srt - and --vtt -")
    for name in captions:
        _refuse_to_overwrite_sound(name)
    raw = _raw_format(args)
    recognizer = options.open_recognizer(args)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(_captions(name, kind))
            for name, kind in ((args.srt, "srt"), (args.vtt, "vtt"))
            if name
        ]
        display = stack.enter_context(_display(args, silent="-" in captions))
        failed = False
        for name in args.files:
            try:
                _transcribe(args, recognizer, name, raw, display, writers)
            except AudioError as error:
                display.close()
                complain(error)
                failed = True
    return FAILED if failed else OK


def _transcribe(
    args: argparse.Namespace,
    recognizer: Recognizer,
    name: str,
    raw: RawFormat | None,
    display: Display,
    writers: list[Caption],
) -> None:
    from edge_runtime.audio import open_audio
    from edge_runtime.display import JsonDisplay, Progress

    with open_audio(name, raw=raw) as source:
        if len(args.files) > 1:
            if isinstance(display, JsonDisplay):
                display.file = name
            if not args.quiet:
                sys.stderr.write(f"{name}:\n")
                sys.stderr.flush()
        # Where the words themselves are watched live, a progress line would only disturb them.
        watched = args.quiet or args.realtime or sys.stdout.isatty() or not sys.stderr.isatty()
        progress = Progress(sys.stderr, name, None if watched else source.duration_s)

        def show(event: Partial | Final) -> None:
            progress.clear()
            display.show(event)
            if event.type == "final":
                for write in writers:
                    write(event)

        interrupted = recognise(
            recognizer, source, show, realtime=args.realtime, on_time=progress.update
        )
        progress.clear()
        if interrupted:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _display(args: argparse.Namespace, *, silent: bool) -> Iterator[Display]:
    from edge_runtime.display import JsonDisplay, NoDisplay, open_display

    display: Display
    if silent:
        display = NoDisplay()
    else:
        display = JsonDisplay(sys.stdout) if args.json else open_display(sys.stdout)
    try:
        yield display
    finally:
        display.close()


@contextlib.contextmanager
def _captions(name: str, kind: str) -> Iterator[Caption]:
    """A function that takes finals and writes their captions as soon as they are settled."""
    from edge_runtime.captions import VTT_HEADER, CueSheet, srt, vtt

    with _output(name) as out:
        if kind == "vtt":
            out.write(VTT_HEADER)
        sheet = CueSheet()
        number = 0

        def write(cues: list[Cue]) -> None:
            nonlocal number
            for cue in cues:
                number += 1
                out.write(srt(number, cue) if kind == "srt" else vtt(cue))
            out.flush()

        try:
            yield lambda final: write(sheet.add(final))
        finally:
            write(sheet.finish())


def _refuse_to_overwrite_sound(name: str) -> None:
    """`--srt talk.wav other.wav` is a slip, and would destroy a recording."""
    from edge_runtime.audio import is_sound

    if name != "-" and is_sound(name):
        raise ConfigError(f"{name} is a recording; --srt and --vtt name the file to write")


@contextlib.contextmanager
def _output(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdout
        return
    try:
        file = Path(name).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigError(f"cannot write captions to {name}: {error.strerror}") from error
    with file:
        yield file


def _raw_format(args: argparse.Namespace) -> RawFormat | None:
    """What the --stdin options say; None leaves it to the header."""
    if not (args.stdin_format or args.stdin_rate or args.stdin_channels):
        return None
    from edge_runtime.audio import SAMPLE_RATE, RawFormat

    try:
        return RawFormat(
            encoding=args.stdin_format or "s16le",
            sample_rate=args.stdin_rate or SAMPLE_RATE,
            channels=args.stdin_channels or 1,
        )
    except ValueError as error:
        raise ConfigError(f"standard input: {error}") from error
