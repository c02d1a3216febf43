"""The numbers and phrases a dialog runs by. Frozen; filled from the settings by the shell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TurnPolicy:
    """When a turn ends and what interrupts the agent. All times in ms; see ``docs/configuration.md``, section turn."""

    speculate: bool = True
    endpoint_ms: int = 450
    endpoint_short_ms: int = 300
    endpoint_long_ms: int = 1200
    barge_in_confirm_ms: int = 700
    barge_in_min_confidence: float = 0.5
    reprompt_after_ms: int = 8000
    reprompts: int = 2
    max_call_ms: int = 1_800_000
    not_understood_after_ms: int = 600
    endpoint_min_ms: int = 240
    max_speculations: int = 3
    max_early_speculations: int = 2
    speculate_below_load: float = 0.8
    keys_pause_ms: int = 1500
    filler_after_ms: int = 1250
    max_tools: int = 4
    first_clause_words: int = 0


@dataclass(frozen=True, slots=True)
class AgentPhrases:
    """What the agent says by itself, and the system prompt for a language model."""

    system_prompt: str = "You answer the phone. Be brief."
    greeting: str = "Hello. How can I help you?"
    reprompt: str = "Are you still there?"
    not_understood: str = "I am sorry, I did not get that. Could you say it again?"
    apology: str = "I am sorry, something went wrong on our side. Please say that again."
    goodbye: str = "Thank you for calling. Goodbye."
    filler: str = "One moment, please."
    hold: str = "I am still here. Just a moment more, please."
    silence_goodbye: str = "I can't hear you, so I will hang up now. Goodbye."
