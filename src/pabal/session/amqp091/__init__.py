"""AMQP 0-9-1 sessions: handshake, channels, publishing, deliveries, entities."""
