"""Every decision: routing, queues, consumers, leases, expiry, dead letters. No I/O, no clock."""
