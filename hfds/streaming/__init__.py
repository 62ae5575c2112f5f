"""Streaming: exported samples handed to a trainer, in an order that is known beforehand. docs/streaming.md."""
