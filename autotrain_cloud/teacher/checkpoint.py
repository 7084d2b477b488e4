"""Where Whisper's weights are, and whether they are Whisper's.  Nothing is ever downloaded here.

A size ("small", "large-v3-turbo") means the file that openai-whisper itself caches; anything else
is the path of a checkpoint in its format: a dictionary of `dims` and `model_state_dict`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from autotrain_cloud.teacher.digests import file_digest
from edge_runtime.errors import ConfigError

DEFAULT_SIZE = "small"


def find_weights(name: str) -> Path:
    """The file of a size or a checkpoint.  Raises ConfigError: package or file missing."""
    urls = _urls()
    name = name or DEFAULT_SIZE
    if name not in urls:
        if not Path(name).is_file():
            raise ConfigError(
                f"teacher openai-whisper: {name}: no such checkpoint file, and no size either "
                f"(sizes: {', '.join(urls)})"
            )
        return Path(name)
    path = cache_folder() / urls[name].rpartition("/")[2]
    if not path.is_file():
        raise ConfigError(
            f"teacher openai-whisper: {path}: the weights of {name!r} are not there, and labelling "
            f"downloads nothing by itself; fetch {urls[name]} to that place, or run once where "
            f"there is a network: python -c \"import whisper; whisper.load_model('{name}')\""
        )
    return path


def load_whisper(name: str, device: str) -> tuple[Any, str]:
    """-> the model, and the SHA-256 of its file.

    Raises ConfigError: the package or the file is missing, damaged, or of another format.
    """
    path, urls = find_weights(name), _urls()
    known = name in urls
    digest = file_digest(path)
    if known and digest != urls[name].split("/")[-2]:  # it would be downloaded again
        raise ConfigError(
            f"teacher openai-whisper: {path}: damaged: its SHA-256 is {digest[:12]}, that of "
            f"{name!r} is {urls[name].split('/')[-2][:12]}; delete it and fetch it again"
        )
    import torch
    import whisper

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"teacher openai-whisper: device {device!r}: torch finds no CUDA here")
    try:
        # Reads with weights_only: a hostile file cannot run code.
        model = whisper.load_model(name if known else str(path), device=device)
    except Exception as error:  # torch, pickle and zipfile each raise their own
        raise ConfigError(
            f"teacher openai-whisper: {path}: not a checkpoint in openai-whisper's format "
            "(expected a dictionary of 'dims' and 'model_state_dict', saved by torch; those of "
            f"transformers and CTranslate2 are others): {_first_line(error)}"
        ) from error
    model.eval()
    return model, digest


def _urls() -> dict[str, str]:
    """Sizes, and where openai-whisper would download them from: .../SHA-256/name.pt"""
    try:
        import whisper
    except ImportError as error:
        raise ConfigError(
            "teacher openai-whisper: the package is not installed: "
            "pip install 'vitconformer[whisper]'"
        ) from error
    urls: dict[str, str] = whisper._MODELS
    return urls


def cache_folder() -> Path:
    """Where openai-whisper keeps downloads."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "whisper"


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".partition("\n")[0]
    return text[:200]
