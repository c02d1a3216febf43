"""MediaGateway: one per node, everything a carrier can see."""

from actors.gateway.gateway import MediaGateway

__all__ = ["MediaGateway"]
