"""Did a call come through? By its recording, in which each word has a sound of its own, and by what was written down.

The caller's side is proved by length: the simulated recogniser's text says how much speech it heard, and that must be
what the caller said. The agent's side is proved by content: the words read out of the recording must be whole phrases,
one answer to each line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from engines.word_sounds import HeardWord, words_in
from loadtest.caller import SpokenLine
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames

WORD_MS: Final = 350
HEARD: Final = re.compile(r"(\d+) milliseconds")
TOLERANCE_MS: Final = 120
"""The recogniser counts loud frames on another grid than the line's, and the edges of an utterance are found in windows
of 32 ms: quiet ends of words fall on either side. What can be lost comes in pieces of ``media.upload_ms``, 200 ms."""
AFTERWARDS_MS: Final = 12_000
"""A gateway's death excuses what was said and heard for this long after it: the stream itself was gone."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Something the agent was heard to say, on the caller's clock. ``text`` is empty for what is no phrase.

    ``whole``: from the first sample to the last, without a hole. Else it is a piece of ``text``: from its word
    ``first`` on, counted from 0, ``words`` words, and with ``begun`` the begin of one more.
    """

    text: str
    start_ms: int
    end_ms: int
    whole: bool
    first: int = 0
    words: int = 0
    begun: bool = False


@dataclass(slots=True)
class CallVerdict:
    """What became of one call. Times are ms, counts are of lines, phrases or words.

    ``cut`` are sentences in pieces, each counted once; ``words_twice`` and ``words_missing`` are of the greeting and of
    answers of which anything was heard. A word that broke off and came again was heard twice.
    """

    call_sid: str
    lost: str = ""
    asked: int = 0
    answered: int = 0
    excused: int = 0
    caller_ms: int = 0
    caller_ms_lost: int = 0
    repeated: int = 0
    cut: int = 0
    skipped: int = 0
    words_twice: int = 0
    words_missing: int = 0
    fillers: int = 0
    apologies: int = 0
    records_missing: int = 0
    notes: list[str] = field(default_factory=list)


def spoken_ms(line: bytes) -> int:
    """How much of a line (mu-law) is speech, as the simulated recogniser counts it."""
    return int(np.count_nonzero(loud_frames(mulaw_decode(line), 80, -50.0))) * 10


def phrases_in(recording: bytes, phrases: Sequence[str]) -> list[Phrase]:
    """The agent's channel (mu-law) as phrases, and pieces of phrases where they are not whole."""
    heard = words_in(recording, [word for phrase in phrases for word in phrase.split()], WORD_MS)
    found: list[Phrase] = []
    at = 0
    while at < len(heard):
        before = found[-1].text if found else ""
        places = [(phrase, first) for phrase in phrases for first in range(len(phrase.split()))]
        piece = max(
            (_match(heard[at:], phrase, first) for phrase, first in places),
            key=lambda one: (one.whole, one.words + one.begun, one.first == 0, one.text == before),
        )
        found.append(piece)
        at += max(piece.words + piece.begun, 1)
    return found


def _match(heard: Sequence[HeardWord], text: str, first: int) -> Phrase:
    """How many words of a phrase come next, from its word ``first`` on, and whether that is all of it."""
    phrase = text.split()
    words, begun = 0, False
    for one, word in zip(heard, phrase[first:], strict=False):
        if one.word != word:
            break
        begun = one.samples != WORD_MS * 8
        if begun:
            break
        words += 1
    last = heard[max(words + begun, 1) - 1]
    start_ms, end_ms = heard[0].at // 8, (last.at + last.samples) // 8
    if not words + begun:
        return Phrase("", start_ms, end_ms, whole=False)
    return Phrase(text, start_ms, end_ms, words == len(phrase), first, words, begun)


@dataclass(frozen=True, slots=True)
class Said:
    """The texts of the agent of this run."""

    greeting: str
    reply: str
    reprompt: str
    fillers: tuple[str, ...]
    apology: str
    others: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every phrase that may be heard."""
        return (self.greeting, self.reply, self.reprompt, *self.fillers, self.apology, *self.others)


def judge_agent(
    verdict: CallVerdict, lines: Sequence[SpokenLine], heard: Sequence[Phrase], cut_ms: Sequence[int], said: Said
) -> None:
    """One whole answer to each line, and nothing else. ``cut_ms``: when a gateway of the call died."""
    begin_ms = lines[0].start_ms if lines else 0
    if not any(at_ms < begin_ms for at_ms in cut_ms):
        greeting = [phrase for phrase in heard if phrase.start_ms < begin_ms]
        _judge_words(verdict, greeting, said.greeting)
        if any(phrase.text == said.greeting and not phrase.whole for phrase in greeting):
            verdict.notes.append(f"of the greeting: {_told(greeting)}")
    ends = [*(line.start_ms for line in lines), 1 << 31][1:]
    for line, until_ms in zip(lines, ends, strict=True):
        after = [phrase for phrase in heard if line.start_ms <= phrase.start_ms < until_ms]
        whole = sum(phrase.whole and phrase.text == said.reply for phrase in after)
        verdict.asked += 1
        verdict.fillers += sum(phrase.text in said.fillers for phrase in after)
        verdict.apologies += sum(phrase.text == said.apology for phrase in after)
        if any(line.start_ms - AFTERWARDS_MS <= at_ms < until_ms for at_ms in cut_ms):
            verdict.excused += 1
            continue
        verdict.answered += _judge_words(verdict, after, said.reply)
        verdict.repeated += max(0, whole - 1)
        verdict.skipped += not any(phrase.text == said.reply for phrase in after)
        # A filler gives way to the answer.
        others = [phrase for phrase in after if phrase.text not in said.fillers]
        broken = [not phrase.whole for phrase in others]
        verdict.cut += sum(this and not before for before, this in pairwise((False, *broken)))
        if any(broken) or whole != 1:
            verdict.notes.append(f"after the line at {line.start_ms} ms: {_told(after)}")


def _judge_words(verdict: CallVerdict, heard: Sequence[Phrase], text: str) -> bool:
    """Count the words of ``text`` that were heard twice, or not to their ends. True when it was all heard."""
    phrase = text.split()
    pieces = [piece for piece in heard if piece.text == text]
    whole = any(piece.whole for piece in pieces)
    times = Counter({number: int(whole) for number in range(len(phrase))})
    ended = set(range(len(phrase))) if whole else set()
    for piece in pieces:
        if not piece.whole:
            times.update(range(piece.first, piece.first + piece.words + piece.begun))
            ended.update(range(piece.first, piece.first + piece.words))
    twice, missing = sum(max(0, count - 1) for count in times.values()), len(phrase) - len(ended)
    if pieces:
        verdict.words_twice += twice
        verdict.words_missing += missing
    return bool(pieces) and not missing


def _told(heard: Sequence[Phrase]) -> list[tuple[int, str, str]]:
    """For notes: when, and which words."""
    told = []
    for phrase in heard:
        words = phrase.text.split()[phrase.first :][: phrase.words + phrase.begun]
        told.append((phrase.start_ms, "whole" if phrase.whole else "piece", " ".join(words)[:60] or phrase.text[:60]))
    return told


def judge_caller(
    verdict: CallVerdict,
    lines: Sequence[tuple[SpokenLine, int]],
    record: Mapping[str, Any],
    media_start_ms: int,
    cut_ms: Sequence[int],
) -> None:
    """The recogniser heard of each line as much as was said. ``lines`` come with their speech in ms."""
    turns = [turn for turn in record.get("turn_records", ()) if turn["caller_text_pii"]]
    for place, (line, said_ms) in enumerate(lines):
        if any(line.start_ms - AFTERWARDS_MS <= at_ms <= line.end_ms for at_ms in cut_ms):
            continue
        if any(at_ms < line.start_ms for at_ms in cut_ms):
            # Another gateway began its clock again: count from the end.
            mine = turns[len(turns) - len(lines) + place :][:1]
        else:
            mine = [
                turn
                for turn in turns
                if line.start_ms <= turn["times_ms"].get("speech_end_ms", -1) + media_start_ms <= line.end_ms + 1500
            ]
        heard_ms = sum(int(number) for turn in mine for number in HEARD.findall(turn["caller_text_pii"]))
        verdict.caller_ms += said_ms
        if abs(heard_ms - said_ms) > TOLERANCE_MS:
            verdict.caller_ms_lost += max(0, said_ms - heard_ms)
            verdict.notes.append(f"of the line at {line.start_ms} ms {heard_ms} of {said_ms} ms were heard")


def judge_records(verdict: CallVerdict, record: Mapping[str, Any]) -> None:
    """The call and all of its turns are in Postgres."""
    if not record or record.get("ended_at") is None:
        verdict.records_missing += 1
        verdict.notes.append("the call is not in Postgres, or not as ended")
        return
    missing = int(record["turns"]) - len(record["turn_records"])
    if missing:
        verdict.records_missing += abs(missing)
        verdict.notes.append(f"{record['turns']} turns, {len(record['turn_records'])} in Postgres")
