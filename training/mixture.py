"""One language model from several texts, each as much as it helps.

    weights = best_weights(models, sentences)          # of a development set
    model = mixed(models, weights, vocabulary)

More text is not better text: what is read together counts by its length, whatever it is about. In a
mixture, p(w | h) = sum(weight * p of each), and the weights that make development text most
probable are found by expectation maximisation (Jelinek & Mercer, "Interpolated estimation of Markov
source parameters from sparse data", 1980).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence

import numpy as np

from edge_runtime.errors import ConfigError
from training.ngram import END, START, UNKNOWN, Ngram, NgramLM, with_backoffs

MAX_STEPS = 200
ENOUGH = 1e-4  # a step that changes no weight by more was the last


def best_weights(models: Sequence[NgramLM], sentences: Iterable[str]) -> list[float]:
    """Weights that sum to one and make the sentences' words most probable.

    Raises ConfigError where there are none of whose words all models know one.
    """
    likely = []
    for sentence in sentences:
        said = (START, *sentence.split(), END)
        for at in range(1, len(said)):
            if all((said[at],) in model.probabilities[0] for model in models):
                likely.append([model.probability(said[:at], said[at]) for model in models])
    if not likely:
        raise ConfigError("the weights of a mixture need development text with words that it knows")
    p = np.array(likely)  # (words, models)
    weights = np.full(len(models), 1 / len(models))
    for _ in range(MAX_STEPS):
        share = weights * p
        share /= share.sum(axis=1, keepdims=True)  # how probable it is that each said the word
        before, weights = weights, share.mean(axis=0)
        if np.abs(weights - before).max() < ENOUGH:
            break
    found: list[float] = weights.tolist()
    return found


def mixed(
    models: Sequence[NgramLM], weights: Sequence[float], vocabulary: Container[str]
) -> NgramLM:
    """The n-grams of all of them that are made of the vocabulary's words.

    What the models give to other words goes to the unknown word. All must know the whole vocabulary
    (`estimate`'s `words`) and have one order.
    """
    totals = [sum(n for ngram, n in m.counts.items() if len(ngram) == 1) for m in models]
    counts: defaultdict[Ngram, float] = defaultdict(float)
    for model, weight, total in zip(models, weights, totals, strict=True):
        for ngram, count in model.counts.items():
            counts[ngram] += weight * count / total

    def is_inside(ngram: Ngram) -> bool:
        return all(word in vocabulary or word in (START, END, UNKNOWN) for word in ngram)

    tables: list[dict[Ngram, float]] = []
    for n in range(models[0].order):
        listed = {ngram for model in models for ngram in model.probabilities[n] if is_inside(ngram)}
        tables.append(
            {
                ngram: sum(
                    weight * model.probability(ngram[:-1], ngram[-1])
                    for model, weight in zip(models, weights, strict=True)
                )
                for ngram in listed
            }
        )
    tables[0][(UNKNOWN,)] += 1 - sum(tables[0].values())
    return with_backoffs(tables, {ngram: n for ngram, n in counts.items() if is_inside(ngram)})
