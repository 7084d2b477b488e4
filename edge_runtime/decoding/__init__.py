"""From CTC log-probabilities to tokens, block by block.

    decoder = decoder_factory(GreedyConfig(), vocabulary)()   # or BeamConfig(hotwords=("ada:3",))
    if decoder.advance(logprobs):                           # [T', V], any T'
        show(decoder.tokens())                              # best tokens of this utterance
    final = decoder.split(frame)                            # an endpoint inside silence

Frames are output frames of the model, counted from the start of the stream. A decoder never sees a
clock or audio. How a stream is cut into blocks makes no difference to its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.contract.bundle import DECODING
from edge_runtime.tokens import Vocabulary


@dataclass(frozen=True, slots=True)
class Token:
    """One emitted token: the run of frames in which the model says it."""

    id: int
    start_frame: int
    end_frame: int  # exclusive
    logprob: float  # natural log, at the token's surest frame


@dataclass(frozen=True, slots=True)
class Candidate:
    """One hypothesis of an n-best list. Scores are natural logs; higher is better."""

    tokens: tuple[Token, ...]
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GreedyConfig:
    """The best token of every frame. Costs almost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamConfig:
    """CTC prefix beam search with optional hotwords and language model.

    The pruning fields bound the work per frame. `exact()` turns all of them off.
    """

    beam: int = 24  # hypotheses kept per frame
    top_k: int = 16  # tokens considered per frame, besides the blank and repetitions
    min_logprob: float = -7.0  # tokens less probable than this in a frame are not tried
    beam_width: float = 12.0  # nats below the best hypothesis at which one is dropped
    blank_skip: float = 0.999  # frames with a surer blank pass without a search; > 1: never
    blank_penalty: float = 0.0  # nats that a blank costs besides: words are left out less often
    nbest: int = 1  # hypotheses listed in finals
    hotwords: Sequence[str] = ()  # "phrase" or "phrase:boost", see decoding/hotwords.py
    hotword_boost: float = 1.5  # nats per piece, for phrases without a boost of their own
    lm: str | None = None  # path of an ARPA or KenLM file
    lm_weight: float = 0.5
    word_bonus: float = 1.0  # nats per word; only with a language model
    unknown_logprob: float = -20.0  # nats, instead of the model's own score of unknown words …
    letter_logprob: float = 0.0  # … and for each of their letters
    recombine: bool = True  # of hypotheses with one future keep the best; not with nbest > 1

    def __post_init__(self) -> None:
        if self.beam < 1 or self.top_k < 1 or self.nbest < 1:
            raise ValueError("beam, top_k and nbest must be at least 1")
        if not self.blank_skip > 0:
            raise ValueError("blank_skip must be positive")
        for name in ("hotword_boost", *DECODING):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite")
        if isinstance(self.hotwords, str):
            raise ValueError("hotwords must be a sequence of phrases, not one string")

    def exact(self) -> BeamConfig:
        """The same search without pruning: all prefixes, exponentially many. For tests."""
        unbounded = 1 << 62
        return replace(
            self,
            beam=unbounded,
            top_k=unbounded,
            min_logprob=-math.inf,
            beam_width=math.inf,
            blank_skip=2.0,
            recombine=False,
        )


DecoderConfig = GreedyConfig | BeamConfig


class Decoder(Protocol):
    """The state of one stream."""

    @property
    def frames(self) -> int:
        """Frames seen since the start of the stream."""

    @property
    def trailing_blank_frames(self) -> int:
        """Frames since the best hypothesis' last token ended, or since the start of the stream."""

    def advance(
        self, logprobs: NDArray[np.float32], stats: list[list[float]] | None = None
    ) -> bool:
        """Takes the next block, [T', V], and its `edge_runtime.frame_stats` where they are known.

        True if the best hypothesis has other tokens now.
        """

    def tokens(self) -> Sequence[Token]:
        """The best hypothesis since the last split. Not to be modified."""

    def nbest(self, n: int, *, before: int | None = None, ended: bool = True) -> list[Candidate]:
        """Up to `n` hypotheses with different texts, best first, as if the utterance ended now.

        `before` leaves out tokens that start at that frame or later. With the same arguments the
        first one is what `split` returns.
        """

    def split(self, frame: int, *, ended: bool = True) -> tuple[Token, ...]:
        """Ends the utterance at `frame`: returns and forgets the tokens that start before it.

        What starts later stays, and is the beginning of the next utterance. No token is ever
        returned twice or lost. `ended` says that a sentence ended too, which a language model
        scores; a cut in running speech is no such end.
        """

    def reset(self) -> None:
        """A fresh stream: frame 0, nothing decoded."""


def decoder_factory(config: DecoderConfig, vocabulary: Vocabulary) -> Callable[[], Decoder]:
    """What makes decoders: one per stream, sharing the hotword graph and the language model.

    Raises ConfigError for hotwords the vocabulary cannot spell or a language model that is missing
    or unreadable.
    """
    if isinstance(config, GreedyConfig):
        from edge_runtime.decoding.greedy import GreedyDecoder

        return lambda: GreedyDecoder(vocabulary.blank_id)

    from edge_runtime.decoding.beam import BeamDecoder
    from edge_runtime.decoding.context import Context
    from edge_runtime.decoding.hotwords import HotwordGraph, parse_hotword
    from edge_runtime.decoding.ngram import open_ngram, word_beginnings

    phrases = [parse_hotword(text, default_boost=config.hotword_boost) for text in config.hotwords]
    context = Context(
        vocabulary,
        hotwords=HotwordGraph(phrases, vocabulary) if phrases else None,
        ngram=open_ngram(config.lm) if config.lm else None,
        lm_weight=config.lm_weight,
        word_bonus=config.word_bonus,
        unknown_logprob=config.unknown_logprob,
        letter_logprob=config.letter_logprob,
        beginnings=word_beginnings(config.lm) if config.lm else None,
        known=[word for phrase in phrases for word in phrase.phrase.split()],
    )
    return lambda: BeamDecoder(config, context)
