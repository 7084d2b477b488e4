"""Word n-gram language models: modified Kneser-Ney, pruned, written as ARPA text.

    model = estimate(sentences, order=3)
    model = model.pruned(1e-7)
    model.write(Path("lm.arpa"))

The estimate is Chen & Goodman's interpolated modified Kneser-Ney ("An Empirical Study of Smoothing
Techniques for Language Modeling", 1999) with the discounts of Heafield et al. (ACL 2013).  Pruning
drops what backing off says nearly as well, Seymore & Rosenfeld's weighted difference ("Scalable
backoff language models", ICSLP 1996).  Whatever is pruned, a context's probabilities sum to one.

The books of a small model are a few million words, so plain dictionaries do.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.decoding.arpa import END, START, UNKNOWN
from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

_MAX_ORDER = 6
_NEVER = -99.0  # log10 of what is never predicted: the start of a sentence

Ngram = tuple[str, ...]


@dataclass(frozen=True)
class NgramLM:
    """A back-off model: p(w | h) is listed, or it is the weight of h times p(w | shorter h)."""

    probabilities: tuple[Mapping[Ngram, float], ...]  # by order, from unigrams; natural scale
    backoffs: Mapping[Ngram, float]  # of contexts; 1 where absent
    counts: Mapping[Ngram, int]  # how often each n-gram was seen in the text

    @property
    def order(self) -> int:
        return len(self.probabilities)

    @property
    def size(self) -> int:
        """N-grams of all orders."""
        return sum(map(len, self.probabilities))

    def probability(self, history: Ngram, word: str) -> float:
        """p(word | history); the last `order` - 1 words of the history count."""
        if (word,) not in self.probabilities[0]:
            word = UNKNOWN
        history = history[max(0, len(history) - self.order + 1) :]
        weight = 1.0
        while history:
            p = self.probabilities[len(history)].get((*history, word))
            if p is not None:
                return weight * p
            weight *= self.backoffs.get(history, 1.0)
            history = history[1:]
        return weight * self.probabilities[0][(word,)]

    def perplexity(self, sentences: Iterable[str]) -> float:
        """Per word and sentence end, unknown words left out."""
        logs, n = 0.0, 0
        for sentence in sentences:
            words = (START, *sentence.split(), END)
            for at in range(1, len(words)):
                if (words[at],) in self.probabilities[0]:
                    logs += math.log(self.probability(words[:at], words[at]))
                    n += 1
        return math.exp(-logs / max(1, n))

    def pruned(self, threshold: float) -> NgramLM:
        """Without the n-grams whose loss would cost less than `threshold` nats per word of text.

        An n-gram that is the context of one that stays, stays.
        """
        total = sum(n for ngram, n in self.counts.items() if len(ngram) == 1)
        kept = [dict(table) for table in self.probabilities]
        contexts: set[Ngram] = set()
        for n in range(self.order, 1, -1):  # from the longest, so that contexts become free
            for ngram, p in self.probabilities[n - 1].items():
                history, word = ngram[:-1], ngram[-1]
                shorter = self.backoffs.get(history, 1.0) * self.probability(history[1:], word)
                cost = self.counts.get(ngram, 0) / total * math.log(p / shorter)
                if cost < threshold and ngram not in contexts:
                    del kept[n - 1][ngram]
            contexts = {ngram[:-1] for ngram in kept[n - 1]}
        return NgramLM(tuple(kept), _backoffs(kept), self.counts)

    def write(self, path: Path) -> None:
        """ARPA text, log10; the file appears whole or not at all."""
        lines = ["\\data\\"]
        lines += [f"ngram {n}={len(table)}" for n, table in enumerate(self.probabilities, 1)]
        for n, table in enumerate(self.probabilities, 1):
            lines += ["", f"\\{n}-grams:"]
            for ngram, p in sorted(table.items()):
                log10 = _NEVER if ngram == (START,) else math.log10(p)
                line = f"{log10:.4f}\t{' '.join(ngram)}"
                if n < self.order and ngram in self.backoffs:
                    line += f"\t{math.log10(max(self.backoffs[ngram], 1e-9)):.4f}"
                lines.append(line)
        lines += ["", "\\end\\", ""]
        write_atomically(path, "\n".join(lines).encode())


def estimate(sentences: Iterable[str], order: int = 3, words: Iterable[str] = ()) -> NgramLM:
    """Counts and smooths.  `sentences` are words separated by spaces.

    `words` are further ones that exist, though the text has none of them: they share what the
    smoothing of the unigrams leaves.  Rare as they are, a search that charges for unknown words
    (`edge_runtime.decoding`) then knows them.

    Raises ConfigError for an order that is not 1 to 6, or where there are no words.
    """
    if not 1 <= order <= _MAX_ORDER:
        raise ConfigError(f"a language model's order is 1 to {_MAX_ORDER}, not {order}")
    counts: Counter[Ngram] = Counter()
    for sentence in sentences:
        said = (START, *sentence.split(), END)
        for n in range(1, order + 1):
            counts.update(said[i : i + n] for i in range(len(said) - n + 1))
    words_seen = [ngram for ngram in counts if len(ngram) == 1 and ngram[0] not in (START, END)]
    if not words_seen:
        raise ConfigError("a language model needs text: there is not one word")
    unseen = {(word,) for word in words} - set(words_seen) - {(START,), (END,), (UNKNOWN,)}

    adjusted = _adjusted(counts, order)
    # The words, the end of a sentence, and the unknown word.
    outcomes = len(words_seen) + len(unseen) + 2
    tables: list[dict[Ngram, float]] = []
    for n, table in enumerate(adjusted, 1):
        discounts = _discounts(table)
        totals: Counter[Ngram] = Counter()
        freed: defaultdict[Ngram, float] = defaultdict(float)  # by discounting, per context
        for ngram, count in table.items():
            totals[ngram[:-1]] += count
            freed[ngram[:-1]] += discounts[min(count, 3)]
        smoothed: dict[Ngram, float] = {}
        for ngram, count in table.items():
            history = ngram[:-1]
            lower = tables[-1][ngram[1:]] if n > 1 else 1 / outcomes
            own = count - discounts[min(count, 3)]
            smoothed[ngram] = (own + freed[history] * lower) / totals[history]
        if n == 1:
            for ngram in (*unseen, (UNKNOWN,)):
                smoothed[ngram] = freed[()] / totals[()] / outcomes
            smoothed[(START,)] = 0.0  # a context, never an outcome
        tables.append(smoothed)
    return NgramLM(tuple(tables), _backoffs(tables), counts)


def _adjusted(counts: Mapping[Ngram, int], order: int) -> list[dict[Ngram, int]]:
    """Counts per order; below the highest, in how many contexts an n-gram occurs.

    What begins a sentence has no context to its left and keeps its count.
    """
    tables: list[dict[Ngram, int]] = [{} for _ in range(order)]
    for ngram, count in counts.items():
        n = len(ngram)
        if n == order or ngram[0] == START:
            tables[n - 1][ngram] = count
        if n > 1:
            shorter = tables[n - 2]
            if ngram[1] != START:
                shorter[ngram[1:]] = shorter.get(ngram[1:], 0) + 1
    tables[0].pop((START,), None)
    return tables


def _discounts(table: Mapping[Ngram, int]) -> tuple[float, float, float, float]:
    """What a count of 0, 1, 2, and 3 or more gives away, from the counts of counts."""
    n1, n2, n3, n4 = (sum(count == k for count in table.values()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):  # too little text for statistics of statistics
        return 0.0, 0.5, 0.75, 0.9
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    d1, d2, d3 = (min(max(d, 0.05), k - 0.05) for k, d in enumerate(found, 1))
    return 0.0, d1, d2, d3


def _backoffs(tables: list[dict[Ngram, float]]) -> dict[Ngram, float]:
    """The weight of every context that makes its probabilities sum to one."""
    backoffs: dict[Ngram, float] = {}
    for n in range(2, len(tables) + 1):
        model = NgramLM(tuple(tables[: n - 1]), backoffs, {})
        listed: defaultdict[Ngram, float] = defaultdict(float)
        shorter: defaultdict[Ngram, float] = defaultdict(float)
        for ngram, p in tables[n - 1].items():
            history = ngram[:-1]
            listed[history] += p
            shorter[history] += model.probability(history[1:], ngram[-1])
        for history, sum_listed in listed.items():
            left = 1 - shorter[history]
            backoffs[history] = max(0.0, 1 - sum_listed) / left if left > 1e-9 else 1.0
    return backoffs
