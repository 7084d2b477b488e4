"""`vitconformer listen`: the microphone to text, live, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys

from edge_runtime.cli import OK
from edge_runtime.commands import options
from edge_runtime.commands.live import recognise

NAME = "listen"
HELP = "turn what the microphone hears into text, until Ctrl-C"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        metavar="D",
        help="microphone: its number or a part of its name (default: the system's)",
    )
    parser.add_argument("--list-devices", action="store_true", help="list the microphones and stop")
    parser.add_argument("--json", action="store_true", help="one JSON object per event and line")
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    options.add_decoding_options(parser)
    options.add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    from edge_runtime.microphone import list_devices, open_microphone

    if args.list_devices:
        for device in list_devices():
            mark = "*" if device.is_default else " "
            sys.stdout.write(
                f"{mark} {device.index:2}  {device.name}  "
                f"({device.channels} channels, {device.sample_rate} Hz)\n"
            )
        return OK
    recognizer = options.open_recognizer(args)
    from edge_runtime.display import JsonDisplay, open_display

    display = JsonDisplay(sys.stdout) if args.json else open_display(sys.stdout)
    with open_microphone(args.device) as microphone:
        if not args.quiet:
            sys.stderr.write(f"Listening to {microphone.device.name}; Ctrl-C stops.\n")
            sys.stderr.flush()
        try:
            recognise(recognizer, microphone, display.show)  # Ctrl-C is how this ends
        finally:
            display.close()
    return OK
