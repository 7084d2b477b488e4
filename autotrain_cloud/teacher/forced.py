"""Whisper's decoder run over a text that is already there: its probabilities and its times.

One forward pass over a batch, no autoregressive loop.  It serves two ends: to weigh the words that
a device heard, and to say when each word of a transcript was spoken and how sure it is.

Times follow Whisper's own way: the attention of the alignment heads over the audio, normalised and
smoothed, then dynamic time warping.  `align` is checked against openai-whisper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrain_cloud.segments import HeardWord

TOKENS_PER_SECOND = 50  # encoder frames
_SMOOTHING = 7  # frames of the median filter


@dataclass(frozen=True, slots=True)
class Forced:
    """What the decoder thinks of one text."""

    logprobs: NDArray[np.float64]  # of each token, the end included; natural log
    probabilities: NDArray[np.float64]  # of each token among texts only, the end left out
    attention: NDArray[np.float64] | None  # [tokens, frames], smoothed; None: not asked for


def force(
    model: Any,
    features: Any,
    texts: Sequence[Sequence[int]],
    starts: Sequence[Sequence[int]],
    eot: int,
    *,
    frames: Sequence[int] | None = None,
) -> list[Forced]:
    """`features` [B, 1500, D], and per row text tokens and what they start with (`sot` ...).

    `frames` per row asks for attention, over that many encoder frames.
    """
    import torch

    rows = [[*start, *text, eot] for start, text in zip(starts, texts, strict=True)]
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([row + [eot] * (longest - len(row)) for row in rows])
    tokens = tokens.to(features.device)
    with torch.no_grad(), _Attention(model, wanted=frames is not None) as attention:
        logits = model.decoder(tokens, features)  # [B, longest, V]; padding is never looked back at
        found = []
        for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
            first, count = len(start) - 1, len(text)
            said = logits[row, first : first + count + 1].float()  # each predicts the next token
            target = tokens[row, first + 1 : first + count + 2, None]
            logprobs = said.log_softmax(-1).gather(1, target)[:, 0]
            among = said[:count, :eot].softmax(-1).gather(1, target[:count])[:, 0]
            weights = None
            if frames is not None and count:
                weights = attention.weights(row, len(start), count, max(1, frames[row]))
            found.append(
                Forced(
                    logprobs.double().cpu().numpy(),
                    among.double().cpu().numpy(),
                    weights,
                )
            )
    return found


class _Attention:
    """Collects what the cross-attention of every layer looked at."""

    def __init__(self, model: Any, *, wanted: bool) -> None:
        self._model = model
        self._wanted = wanted
        self._layers: dict[int, Any] = {}
        self._hooks: list[Any] = []
        self._fused = True

    def __enter__(self) -> _Attention:
        from whisper.model import MultiHeadAttention

        if self._wanted:
            self._fused = MultiHeadAttention.use_sdpa
            MultiHeadAttention.use_sdpa = False  # fused attention keeps no weights
            for index, block in enumerate(self._model.decoder.blocks):
                self._hooks.append(block.cross_attn.register_forward_hook(self._keep(index)))
        return self

    def __exit__(self, *_: object) -> None:
        from whisper.model import MultiHeadAttention

        if self._wanted:
            MultiHeadAttention.use_sdpa = self._fused
        for hook in self._hooks:
            hook.remove()

    def _keep(self, index: int) -> Any:
        def hook(_module: Any, _inputs: Any, outputs: Any) -> None:
            self._layers[index] = outputs[1]  # [B, heads, tokens, frames], before the softmax

        return hook

    def weights(self, row: int, start: int, count: int, frames: int) -> NDArray[np.float64]:
        import torch
        from whisper.timing import median_filter

        heads = self._model.alignment_heads.indices().T.tolist()
        stop = start + count + 1
        seen = torch.stack([self._layers[layer][row, head, :stop] for layer, head in heads])
        weights = seen[:, :, :frames].float().softmax(-1)  # [heads, tokens, frames]
        std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
        weights = median_filter((weights - mean) / std.clamp_min(1e-9), _SMOOTHING)
        # The row of the token before predicts a text token, as in openai-whisper.
        averaged: NDArray[np.float64] = (
            weights.mean(0)[start - 1 : start + count].double().cpu().numpy()
        )
        return averaged


def align(attention: NDArray[np.float64]) -> NDArray[np.int64]:
    """[tokens, frames] -> the frame at which the path first reaches each token.

    Dynamic time warping with steps down, right and diagonal.  A row needs its own left neighbour,
    which looks sequential; but once the running sum of the row is taken off, the best way to come
    from the left is a running minimum, so a row is a few numpy calls.
    """
    cost_of = -attention
    rows, columns = cost_of.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for i in range(rows):
        above = np.minimum(total[i, :-1], total[i, 1:])
        run = np.cumsum(cost_of[i])
        before = np.concatenate([[0.0], run[:-1]])
        total[i + 1, 1:] = np.minimum.accumulate(above - before) + run
    first = np.zeros(rows, np.int64)
    i, j = rows, columns
    while i > 0:
        first[i - 1] = j - 1
        diagonal, up, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        if diagonal <= up and diagonal <= left:
            i, j = i - 1, j - 1
        elif up <= left:
            i -= 1
        else:
            j -= 1
        if j == 0:
            break
    return first


def timed_words(
    forced: Forced, words: Sequence[str], word_tokens: Sequence[Sequence[int]], offset_s: float
) -> tuple[HeardWord, ...]:
    """Words with times and confidences; a mark belongs to the word before it.

    `words` and `word_tokens` are the tokenizer's split of the text and its end; a confidence is the
    mean probability of a word's tokens.
    """
    if forced.attention is None or len(words) <= 1:
        return ()
    starts = align(forced.attention) / TOKENS_PER_SECOND
    found: list[HeardWord] = []
    position = 0
    for word, tokens in zip(words[:-1], word_tokens[:-1], strict=True):
        stop = position + len(tokens)
        heard = HeardWord(
            word=word.strip(),
            start_s=round(offset_s + float(starts[position]), 2),
            end_s=round(offset_s + float(starts[stop]), 2),
            confidence=float(forced.probabilities[position:stop].mean()),
        )
        position = stop
        if any(letter.isalnum() for letter in heard.word):
            found.append(heard)
        elif found:
            found[-1] = replace(found[-1], word=found[-1].word + heard.word)
    return tuple(found)
