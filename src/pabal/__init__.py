"""Pabal: a durable message queue broker that RabbitMQ's clients use unchanged."""

__version__ = "0.1.0"
