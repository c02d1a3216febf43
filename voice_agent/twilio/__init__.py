"""Twilio Media Streams and webhooks: messages both ways, signatures, stream tokens."""
