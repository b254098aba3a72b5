"""The words of the broker: messages, limits, arguments, errors. Knows nothing else of ours."""
