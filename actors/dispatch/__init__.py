"""Dispatcher: admission, the warm pool, placement, replacement."""

from actors.dispatch.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
