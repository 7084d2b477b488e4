"""CTC prefix beam search (Hannun et al., arXiv:1408.2873) with hotwords and a language model.

A hypothesis is a prefix of tokens; its probability is the sum over all alignments that collapse to
it, kept in two parts, alignments that end in a blank and those that end in the prefix' last token.
What hotwords and language model say is a function of the prefix alone (`Context`) and is added
when hypotheses are ranked.

Beside the sums every hypothesis keeps its most probable single alignment (Viterbi), which gives
the frames of its tokens.

Exactness. With `BeamConfig.exact()` every score equals the enumeration of all alignments. The fast
path for frames whose blank is surer than `blank_skip` ignores the rest of such a frame's
probability, 0.1 % at the default; a run of such frames costs one addition each.

Recombination: of hypotheses that end in the same token, and of which the context will say the same
whatever follows, only the best stays. They differ in older words or in spelling, and nothing to
come tells them apart; the room is for others (Ney and Ortmanns, IEEE Signal Processing Magazine
1999). What a text spelt otherwise would have added to it is lost.

Cost does not grow with the stream: prefixes are nodes of a trie in which only the ancestors of
live hypotheses exist, alignments are linked lists with shared tails, and a frame touches only
their ends. `tokens` re-reads only what changed since the last call.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from edge_runtime.decoding import BeamConfig, Candidate, Token
from edge_runtime.decoding.context import Context, ContextState

_NEVER = -math.inf


class _Prefix:
    """A node of the trie of prefixes."""

    __slots__ = ("children", "live", "parent", "state", "token")

    def __init__(self, parent: _Prefix | None, token: int, state: ContextState) -> None:
        self.parent = parent
        self.token = token  # its last; -1 in an empty prefix
        self.state = state
        self.children: dict[int, _Prefix] = {}
        self.live = False  # is it a hypothesis of the beam?


class _Cell:
    """A token in an alignment, linked to the ones before it.

    The cell at depth 0 stands for everything before this utterance.
    """

    __slots__ = ("before", "depth", "end", "logprob", "start", "token")

    def __init__(
        self, before: _Cell | None, token: int, start: int, end: int, logprob: float, depth: int
    ) -> None:
        self.before = before
        self.token = token
        self.start = start
        self.end = end
        self.logprob = logprob
        self.depth = depth


class _Hypothesis:
    """Scores are natural logs: of sums over alignments (p) and of the best alignment (v)."""

    __slots__ = (
        "cell_blank",
        "cell_token",
        "p_any",
        "p_blank",
        "p_token",
        "prefix",
        "v_blank",
        "v_token",
    )

    def __init__(self, prefix: _Prefix) -> None:
        self.prefix = prefix
        self.p_blank = self.p_token = self.v_blank = self.v_token = _NEVER
        self.p_any = _NEVER  # the sum of both
        # Read only where the v beside it is finite, or was found best.
        self.cell_blank: _Cell = _NOTHING
        self.cell_token: _Cell = _NOTHING

    @property
    def cell(self) -> _Cell:
        """The end of the best alignment."""
        return self.cell_blank if self.v_blank >= self.v_token else self.cell_token


_NOTHING = _Cell(None, -1, 0, 0, 0.0, 0)

# A prefix with one more token: score, p, v, the token's log-probability, the alignment and the
# prefix before it, the token, the context's state after it.
_Extension = tuple[float, float, float, float, _Cell, _Prefix, int, ContextState]


class BeamDecoder:
    """One stream; see `edge_runtime.decoding.Decoder`."""

    def __init__(self, config: BeamConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._blank = context.vocabulary.blank_id
        self._log_skip = math.log(config.blank_skip)
        self._penalty = config.blank_penalty
        # Not without a language model, to which all that end in one token are alike; and not where
        # other readings are asked for, whatever they differ in.
        self._recombine = config.recombine and config.nbest == 1 and context.has_ngram
        self.reset()

    def reset(self) -> None:
        self._frames = 0
        root = _Prefix(None, -1, self._context.start())
        root.live = True
        first = _Hypothesis(root)
        first.p_blank = first.p_any = first.v_blank = 0.0
        self._beam = [first]  # best first
        self._offset = 0.0  # nats that all scores of the beam lack; skipped frames only add here
        self._only_blank = True  # no alignment ends in a token: a skipped frame changes nothing
        self._path: list[_Cell] = []
        self._tokens: list[Token] = []

    @property
    def frames(self) -> int:
        return self._frames

    @property
    def trailing_blank_frames(self) -> int:
        return self._frames - self._beam[0].cell.end

    def advance(
        self, logprobs: NDArray[np.float32], stats: list[list[float]] | None = None
    ) -> bool:
        if not len(logprobs):
            return False
        best = self._beam[0].prefix
        blanks: list[float] = logprobs[:, self._blank].tolist()  # (T', V) -> T'
        candidates: list[list[int]] | None = None
        for t, blank in enumerate(blanks):
            if blank >= self._log_skip:
                if not self._only_blank:
                    self._close_tokens()
                self._offset += blank - self._penalty
            else:
                if candidates is None:
                    candidates = self._candidates(logprobs)
                self._step(logprobs[t].tolist(), candidates[t])
            self._frames += 1
        return self._beam[0].prefix is not best

    def _candidates(self, logprobs: NDArray[np.float32]) -> list[list[int]]:
        """Per frame the tokens worth trying: the `top_k` best above `min_logprob`, no blanks."""
        found: list[list[int]] = [[] for _ in range(len(logprobs))]
        frames, ids = np.nonzero(logprobs > self._config.min_logprob)
        for t, i in zip(frames.tolist(), ids.tolist(), strict=True):
            if i != self._blank:
                found[t].append(i)
        top_k = self._config.top_k
        for t, tokens in enumerate(found):
            if len(tokens) > top_k:
                row = logprobs[t]
                order = np.argsort(-row[tokens], kind="stable")[:top_k]
                found[t] = [tokens[k] for k in order.tolist()]
        return found

    def _close_tokens(self) -> None:
        """What a certain blank does: every alignment ends in a blank afterwards."""
        for one in self._beam:
            one.p_blank = one.p_any
            one.cell_blank = one.cell
            one.v_blank = max(one.v_blank, one.v_token)
            one.p_token = one.v_token = _NEVER
        self._only_blank = True

    def _step(self, row: list[float], candidates: list[int]) -> None:
        """One frame; `row` holds its V log-probabilities."""
        now = self._frames
        blank = row[self._blank] - self._penalty
        after: dict[_Prefix, _Hypothesis] = {}
        for one in self._beam:  # the prefixes that stay as they are
            same = after[one.prefix] = _Hypothesis(one.prefix)
            same.p_blank = one.p_any + blank
            same.cell_blank = one.cell
            same.v_blank = max(one.v_blank, one.v_token) + blank
            if one.p_token != _NEVER:  # the last token goes on
                old, logprob = one.cell_token, row[one.prefix.token]
                same.p_token = one.p_token + logprob
                same.v_token = one.v_token + logprob
                if logprob < old.logprob:
                    logprob = old.logprob
                same.cell_token = _Cell(
                    old.before, old.token, old.start, now + 1, logprob, old.depth
                )

        # A new token: after a blank if it is the last one again. Most of these are pruned at once,
        # so they stay plain tuples: see _Extension.
        longer: list[_Extension] = []
        advance = None if self._context.empty else self._context.advance
        for one in self._beam:
            prefix, p_any, cell = one.prefix, one.p_any, one.cell
            children, last, state = prefix.children, prefix.token, prefix.state
            v_any = one.v_blank if one.v_blank >= one.v_token else one.v_token
            for token in candidates:
                logprob = row[token]
                if token != last:
                    p, v, before = p_any + logprob, v_any + logprob, cell
                elif one.p_blank != _NEVER:
                    p, v, before = one.p_blank + logprob, one.v_blank + logprob, one.cell_blank
                else:
                    continue
                child = children.get(token)
                if child is not None and child.live:  # it is in the beam: two ways to one prefix
                    same = after[child]
                    same.p_token = _log_add(same.p_token, p)
                    if v > same.v_token:
                        same.v_token = v
                        same.cell_token = _Cell(
                            before, token, now, now + 1, logprob, before.depth + 1
                        )
                elif advance is None:
                    longer.append((p, p, v, logprob, before, prefix, token, state))
                else:
                    new = child.state if child is not None else advance(state, token)
                    longer.append((p + new.bonus, p, v, logprob, before, prefix, token, new))
        self._only_blank = False
        self._prune(list(after.values()), longer)

    def _prune(self, same: list[_Hypothesis], longer: list[_Extension]) -> None:
        """Makes the best hypotheses the beam and drops the prefixes nobody needs any more."""
        scored: list[tuple[float, _Hypothesis | _Extension]] = []
        for one in same:
            one.p_any = _log_add(one.p_blank, one.p_token)
            scored.append((one.p_any + one.prefix.state.bonus, one))
            one.prefix.live = False
        scored += [(extension[0], extension) for extension in longer]
        worst = max(scored, key=_by_score)[0] - self._config.beam_width
        scored = [pair for pair in scored if pair[0] >= worst]
        scored.sort(key=_by_score, reverse=True)
        beam: list[_Hypothesis] = []
        futures: set[Hashable] = set()
        for _, kept in scored:
            if len(beam) == self._config.beam:
                break
            if self._recombine:
                if isinstance(kept, _Hypothesis):
                    token, state = kept.prefix.token, kept.prefix.state
                else:
                    token, state = kept[6:]
                if (future := (token, self._context.future(state))) in futures:
                    continue
                futures.add(future)
            one = kept if isinstance(kept, _Hypothesis) else self._extended(kept)
            one.prefix.live = True
            beam.append(one)
        for one in same:
            _release(one.prefix)
        self._beam = beam

    def _extended(self, extension: _Extension) -> _Hypothesis:
        _, p, v, logprob, before, parent, token, state = extension
        prefix = parent.children.get(token)
        if prefix is None:
            prefix = parent.children[token] = _Prefix(parent, token, state)
        one = _Hypothesis(prefix)
        one.p_token = one.p_any = p
        one.v_token = v
        now = self._frames
        one.cell_token = _Cell(before, token, now, now + 1, logprob, before.depth + 1)
        return one

    def tokens(self) -> Sequence[Token]:
        cell = self._beam[0].cell
        path, changed = self._path, []
        while cell.before is not None and (
            cell.depth > len(path) or path[cell.depth - 1] is not cell
        ):
            changed.append(cell)
            cell = cell.before
        changed.reverse()
        path[cell.depth :] = changed
        self._tokens[cell.depth :] = map(_token, changed)
        return self._tokens

    def nbest(self, n: int, *, before: int | None = None, ended: bool = True) -> list[Candidate]:
        """Scores: ln of the summed alignments since the last split, plus the bonus."""
        return [
            Candidate(tuple(map(_token, _cells(one.cell, before))), score + self._offset)
            for score, one in self._ranked(before, ended)[:n]
        ]

    def _ranked(self, before: int | None, ended: bool) -> list[tuple[float, _Hypothesis]]:
        """The distinct texts of the beam, best first, each with its best hypothesis.

        Several spellings of one text, and several continuations after `before`, add up. Hypotheses
        in which `before` is inside a word do not take part if there are others.
        """
        vocabulary, final = self._context.vocabulary, self._context.final
        ranked = []
        for one in [one for one in self._beam if not self._splits_word(one, before)] or self._beam:
            state = one.prefix.state
            bonus = final(state) if ended else state.bonus
            ranked.append((one.p_any + bonus, one))
        ranked.sort(key=_by_score, reverse=True)
        texts: dict[str, tuple[float, _Hypothesis]] = {}
        for score, one in ranked:
            text = vocabulary.detokenise([cell.token for cell in _cells(one.cell, before)])
            other = texts.get(text)
            texts[text] = (score, one) if other is None else (_log_add(other[0], score), other[1])
        return sorted(texts.values(), key=_by_score, reverse=True)

    def _splits_word(self, one: _Hypothesis, frame: int | None) -> bool:
        """Does a piece that continues a word start at `frame` or later, before any new word?"""
        if frame is None:
            return False
        later: _Cell | None = None  # the first one that starts there
        cell = one.cell
        while cell.before is not None and cell.start >= frame:
            cell, later = cell.before, cell
        if later is None or cell.before is None:  # nothing there, or nothing before
            return False
        return not self._context.vocabulary.word_starts[later.token]

    def split(self, frame: int, *, ended: bool = True) -> tuple[Token, ...]:
        """See the protocol. Hypotheses that disagree with the best before `frame` are dropped."""
        best = self._ranked(frame, ended)[0][1]
        whole = not self._splits_word(best, frame)
        done = _cells(best.cell, frame)
        ids = [cell.token for cell in done]

        prefix = best.prefix  # cut back to what is split off
        for _ in range(best.cell.depth - len(done)):
            assert prefix.parent is not None
            prefix = prefix.parent
        ngram = None if ended else self._context.close(prefix.state)[1]
        # The last token stays the root's: where it goes on across the border it is no new one.
        root = _Prefix(None, prefix.token, self._context.start(ngram))

        beam: list[_Hypothesis] = []
        for one in self._beam:
            one.prefix.live = False
            cells = _cells(one.cell, None)
            rest = cells[len(ids) :]
            agrees = [cell.token for cell in cells[: len(ids)]] == ids
            agrees &= not (rest and rest[0].start < frame)
            agrees &= not (whole and self._splits_word(one, frame))
            if agrees:
                _release(one.prefix)
                one.prefix = self._descend(root, [cell.token for cell in rest])
                one.cell_blank = _rebase(one.cell_blank, len(ids))
                one.cell_token = _rebase(one.cell_token, len(ids))
                beam.append(one)
            else:
                _release(one.prefix)
        top = max(one.p_any for one in beam)
        for one in beam:
            one.prefix.live = True
            one.p_any -= top
            one.p_blank -= top
            one.p_token -= top
            one.v_blank -= top
            one.v_token -= top
        beam.sort(key=lambda one: one.p_any + one.prefix.state.bonus, reverse=True)
        self._beam, self._offset, self._path, self._tokens = beam, 0.0, [], []
        return tuple(map(_token, done))

    def _descend(self, prefix: _Prefix, tokens: Sequence[int]) -> _Prefix:
        """The node of `prefix` followed by `tokens`, made where it does not exist."""
        for token in tokens:
            child = prefix.children.get(token)
            if child is None:
                state = self._context.advance(prefix.state, token)
                child = prefix.children[token] = _Prefix(prefix, token, state)
            prefix = child
        return prefix


_by_score = itemgetter(0)


def _token(cell: _Cell) -> Token:
    return Token(cell.token, cell.start, cell.end, cell.logprob)


def _cells(cell: _Cell, before: int | None) -> list[_Cell]:
    """The alignment that ends in `cell`, first token first, up to those that start `before`."""
    found = []
    while cell.before is not None:
        if before is None or cell.start < before:
            found.append(cell)
        cell = cell.before
    found.reverse()
    return found


def _rebase(cell: _Cell, depth: int) -> _Cell:
    """The same alignment without its first `depth` tokens; the last of them becomes depth 0."""
    chain = []
    while cell.depth > depth:
        chain.append(cell)
        assert cell.before is not None
        cell = cell.before
    base = _Cell(None, cell.token, cell.start, cell.end, cell.logprob, 0)
    for old in reversed(chain):
        base = _Cell(base, old.token, old.start, old.end, old.logprob, base.depth + 1)
    return base


def _release(prefix: _Prefix) -> None:
    """Cuts a prefix off the trie, and its ancestors, unless a hypothesis needs them."""
    while not prefix.live and not prefix.children and prefix.parent is not None:
        parent = prefix.parent
        if parent.children.get(prefix.token) is not prefix:
            return
        del parent.children[prefix.token]
        prefix = parent


def _log_add(a: float, b: float) -> float:
    """ln(e^a + e^b)."""
    if a < b:
        a, b = b, a
    if b == _NEVER:
        return a
    return a + math.log1p(math.exp(b - a))
