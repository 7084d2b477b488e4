"""What speaks against a label: one rule, one outcome, none overwrites another's.

Every rule looks at what was measured and returns an `Outcome` with the value and the limit, so that
a label that was dropped can be argued about.  Limits are where practice has put them: Whisper's own
for fallback; NeMo Curator's for loops, long words and rates; agreement beats confidence
(arXiv:2506.04981), so it is what `triage` decides by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autotrain_cloud.speech import SpeechEvidence
from autotrain_cloud.teacher import Transcript
from edge_runtime.errors import ConfigError

# What Whisper says over silence and music: captions of the videos it learned from.
PHRASES = (
    "thank you", "thank you for watching", "thanks for watching", "thank you very much",
    "please subscribe", "subscribe to my channel", "like and subscribe", "see you next time",
    "bye bye", "you", "i'm sorry", "subtitles by the amara org community", "amara org",
    "copyright", "transcribed by", "untertitel der amara org community",
    "untertitel im auftrag des zdf", "sous titres réalisés par la communauté d'amara org",
    "subtítulos realizados por la comunidad de amara org", "gracias por ver el video",
    "obrigado por assistir", "sottotitoli creati dalla comunità amara org",
    "ご視聴ありがとうございました", "谢谢观看", "请不吝点赞 订阅 转发", "시청해주셔서 감사합니다",
    "продолжение следует", "субтитры создавал dimatorzok",
)  # fmt: skip
_PREFIX = 8  # letters from which a phrase also counts where the text only begins with it
_LONG_WORDS = ("fi", "hu", "et", "de", "nl", "da", "sv", "no")  # languages with compounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one rule found."""

    rule: str
    passed: bool | None  # None: it had nothing to look at
    value: float | None = None
    limit: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """Limits of all rules."""

    min_speech_s: float = 0.3
    min_voiced_s: float = 0.1
    min_unique_word_ratio: float = 0.4  # of texts with at least `loop_words` words
    loop_words: int = 8
    max_repeats: int = 4  # of one to four words in a row
    max_word_letters: int = 25
    max_word_letters_compound: int = 35  # in languages that compound
    max_word_to_next: float = 3.0  # letters of the longest word over those of the next
    min_chars_per_s: float = 3.0
    max_chars_per_s: float = 25.0
    max_compression_ratio: float = 2.4
    min_avg_logprob: float = -0.6
    max_no_speech_prob: float = 0.6
    min_language_prob: float = 0.8
    min_confidence: float = 0.0  # of the teacher; agreement is the better filter
    languages: tuple[str, ...] = ("en",)  # that the student is to learn; empty: any
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "  # of the student; empty: any
    phrases: tuple[str, ...] = PHRASES


def check_speech(evidence: SpeechEvidence, settings: FilterSettings) -> list[Outcome]:
    """The gate before a teacher is asked."""
    return [
        _at_least("speech", evidence.speech_s, settings.min_speech_s, "seconds of speech"),
        _at_least("voiced", evidence.voiced_s, settings.min_voiced_s, "seconds of voice"),
    ]


def check_transcript(
    transcript: Transcript, text: str, speech_s: float, settings: FilterSettings
) -> list[Outcome]:
    """All rules on what a teacher heard; `text` is its plain form (`labels.text.plain`)."""
    words = text.split()
    return [
        Outcome(rule="empty", passed=bool(words), detail="" if words else "no words"),
        *_loops(words, settings),
        _long_word(words, transcript.language, settings),
        _phrase(text, settings),
        _rate(text, speech_s, settings),
        _at_most("compression", transcript.compression_ratio, settings.max_compression_ratio),
        _at_least("avg_logprob", transcript.avg_logprob, settings.min_avg_logprob),
        _at_most("no_speech_prob", transcript.no_speech_prob, settings.max_no_speech_prob),
        _at_least("confidence", transcript.confidence, settings.min_confidence),
        _language(transcript, settings),
        _alphabet(text, settings),
    ]


def combine(*groups: Iterable[Outcome]) -> tuple[Outcome, ...]:
    """All outcomes together.  Raises ValueError where two have one name: neither may get lost."""
    found = [outcome for group in groups for outcome in group]
    twice = [name for name, count in Counter(o.rule for o in found).items() if count > 1]
    if twice:
        raise ValueError(f"two outcomes of rule {twice[0]!r}")
    return tuple(found)


def failed(outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """Names of the rules that a label broke."""
    return tuple(outcome.rule for outcome in outcomes if outcome.passed is False)


# --- rules ----------------------------------------------------------------------------------------


def _at_least(rule: str, value: float | None, limit: float, detail: str = "") -> Outcome:
    passed = None if value is None else value >= limit
    return Outcome(rule=rule, passed=passed, value=value, limit=limit, detail=detail)


def _at_most(rule: str, value: float | None, limit: float, detail: str = "") -> Outcome:
    passed = None if value is None else value <= limit
    return Outcome(rule=rule, passed=passed, value=value, limit=limit, detail=detail)


def _loops(words: Sequence[str], settings: FilterSettings) -> list[Outcome]:
    """Repetition: few different words, or the same few in a row."""
    ratio = len(set(words)) / len(words) if len(words) >= settings.loop_words else None
    count, phrase = longest_run(words)
    return [
        _at_least("unique_words", ratio, settings.min_unique_word_ratio),
        _at_most("repeats", float(count), settings.max_repeats, phrase if count > 1 else ""),
    ]


def longest_run(words: Sequence[str], longest: int = 4) -> tuple[int, str]:
    """How often some one to `longest` words come in a row at most, and which."""
    best, phrase = min(1, len(words)), ""
    for size in range(1, longest + 1):
        equal = 0
        for index in range(size, len(words)):
            equal = equal + 1 if words[index] == words[index - size] else 0
            if equal // size + 1 > best and equal >= size:
                best = equal // size + 1
                phrase = " ".join(words[index - size + 1 : index + 1])
    return best, phrase


def _long_word(words: Sequence[str], language: str, settings: FilterSettings) -> Outcome:
    compounds = language.partition("-")[0] in _LONG_WORDS
    limit = settings.max_word_letters_compound if compounds else settings.max_word_letters
    longest = sorted(set(words), key=len)[-2:]
    if not longest:
        return Outcome(rule="long_word", passed=None, limit=limit)
    word = longest[-1]
    alone = len(longest) == 2 and len(word) >= settings.max_word_to_next * len(longest[0])
    odd = alone and len(word) > limit / 2  # "a tremendous" is no accident
    return Outcome(
        rule="long_word", passed=len(word) < limit and not odd, value=float(len(word)),
        limit=limit, detail=word if len(word) >= limit or odd else "",
    )  # fmt: skip


def _phrase(text: str, settings: FilterSettings) -> Outcome:
    for phrase in settings.phrases:
        begins = len(phrase) >= _PREFIX and text.startswith(phrase + " ")
        short = len(text) <= 2 * len(phrase)  # "thank you very much for the book" is speech
        if text == phrase or (begins and short):
            return Outcome(rule="phrase", passed=False, detail=phrase)
    return Outcome(rule="phrase", passed=True)


def _rate(text: str, speech_s: float, settings: FilterSettings) -> Outcome:
    if speech_s <= 0 or not text:
        return Outcome(rule="rate", passed=None, detail="no text, or no speech")
    rate = len(text) / speech_s
    passed = settings.min_chars_per_s <= rate <= settings.max_chars_per_s
    limit = (
        settings.min_chars_per_s if rate < settings.min_chars_per_s else settings.max_chars_per_s
    )
    return Outcome(
        rule="rate", passed=passed, value=rate, limit=limit, detail="characters per second"
    )


def _language(transcript: Transcript, settings: FilterSettings) -> Outcome:
    language, prob = transcript.language.partition("-")[0], transcript.language_prob
    if not language or not settings.languages:
        return Outcome(rule="language", passed=None, detail=language)
    passed = language in settings.languages and (prob is None or prob >= settings.min_language_prob)
    return Outcome(
        rule="language",
        passed=passed,
        value=prob,
        limit=settings.min_language_prob,
        detail=language,
    )


def _alphabet(text: str, settings: FilterSettings) -> Outcome:
    strange = sorted(set(text) - set(settings.alphabet)) if settings.alphabet else []
    return Outcome(rule="alphabet", passed=not strange, detail="".join(strange))


def check_settings(settings: FilterSettings) -> FilterSettings:
    """Raises ConfigError for limits that nothing could pass."""
    if settings.min_chars_per_s >= settings.max_chars_per_s:
        raise ConfigError("min_chars_per_s must be less than max_chars_per_s")
    if settings.max_repeats < 1 or settings.loop_words < 1:
        raise ConfigError("max_repeats and loop_words must be positive")
    return settings
