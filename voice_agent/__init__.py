"""The pure core: no Ray, no asyncio, no socket, no clock, no randomness, no environment (stdlib and numpy)."""
