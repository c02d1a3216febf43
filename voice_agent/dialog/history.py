"""The dialog as a language model sees it: what the caller said, and what the caller *heard*."""

from __future__ import annotations

from dataclasses import dataclass, field

from voice_agent.ports import Message


@dataclass(slots=True)
class History:
    """Alternating messages, oldest first, bounded to ``max_messages``."""

    messages: list[Message] = field(default_factory=list)
    max_messages: int = 40

    def add(self, role: str, text: str) -> None:
        """Append a message; consecutive messages of one role become one, empty text is nothing."""
        if not text:
            return
        if self.messages and self.messages[-1].role == role:
            self.messages[-1] = Message(role, f"{self.messages[-1].content} {text}")
        else:
            self.messages.append(Message(role, text))
        del self.messages[: max(0, len(self.messages) - self.max_messages)]

    def prompt(self, system: str, caller_text: str) -> tuple[Message, ...]:
        """Messages for a reply to ``caller_text``; the history itself stays as it is."""
        return (Message("system", system), *self.messages, Message("user", caller_text))
