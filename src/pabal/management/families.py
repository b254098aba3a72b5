"""The metrics there are, under the names that RabbitMQ's plugin rabbitmq_prometheus gives them, in its groups."""

from __future__ import annotations

from typing import Final

from pabal.management.exposition import COUNTER, GAUGE, Family

CHURN: Final = (
    Family("connections_opened_total", COUNTER, "Connections that have opened a vhost"),
    Family("connections_closed_total", COUNTER, "Connections that have ended after that"),
    Family("channels_opened_total", COUNTER, "Channels opened"),
    Family("channels_closed_total", COUNTER, "Channels that have ended"),
    Family("queues_declared_total", COUNTER, "Declarations of queues, new or not"),
    Family("queues_created_total", COUNTER, "Queues made"),
    Family("queues_deleted_total", COUNTER, "Queues deleted"),
)
NODE_COARSE: Final = (
    Family("process_open_fds", GAUGE, "File descriptors in use"),
    Family("process_open_tcp_sockets", GAUGE, "Connections of clients"),
    Family("process_resident_memory_bytes", GAUGE, "Resident memory"),
    Family("disk_space_available_bytes", GAUGE, "Free space on the disk of the data directory"),
)
NODE: Final = (
    Family("process_max_fds", GAUGE, "File descriptors that there may be"),
    Family("process_max_tcp_sockets", GAUGE, "Connections that there may be"),
    Family("resident_memory_limit_bytes", GAUGE, "Memory above which publishers wait, or all of the machine's"),
    Family("disk_space_available_limit_bytes", GAUGE, "Free space below which publishers wait"),
    Family("erlang_uptime_seconds", GAUGE, "Time since the start, under the name it has in RabbitMQ"),
)
PERSISTER: Final = (
    Family("io_sync_ops_total", COUNTER, "Commits that were made durable"),
    Family("io_sync_time_seconds_total", COUNTER, "Time that took"),
    Family("msg_store_read_total", COUNTER, "Messages read from the store"),
    Family("msg_store_write_total", COUNTER, "Messages written to the store"),
)
AUTHENTICATION: Final = (
    Family("auth_attempts_total", COUNTER, "Attempts to authenticate"),
    Family("auth_attempts_succeeded_total", COUNTER, "Those that succeeded"),
    Family("auth_attempts_failed_total", COUNTER, "Those that did not"),
)
QUEUE_COARSE: Final = (
    Family("queue_messages_ready", GAUGE, "Messages that wait for a consumer"),
    Family("queue_messages_unacked", GAUGE, "Messages leased to consumers"),
    Family("queue_messages", GAUGE, "Both together"),
)
QUEUE_CONSUMERS: Final = (Family("queue_consumers", GAUGE, "Consumers of the queue"),)
QUEUE: Final = (
    *QUEUE_CONSUMERS,
    Family("queue_consumer_utilisation", GAUGE, "1 when consumers have taken all there was, 0 when messages wait"),
    Family("queue_consumer_capacity", GAUGE, "The same"),
    Family("queue_process_memory_bytes", GAUGE, "Memory that its messages take, about"),
    Family("queue_messages_ram", GAUGE, "Messages held in memory"),
    Family("queue_messages_ram_bytes", GAUGE, "Their bytes"),
    Family("queue_messages_ready_ram", GAUGE, "Those of them that wait for a consumer"),
    Family("queue_messages_unacked_ram", GAUGE, "Those of them that are leased"),
    Family("queue_messages_persistent", GAUGE, "Messages in the store"),
    Family("queue_messages_persistent_bytes", GAUGE, "Their bytes, about"),
    Family("queue_messages_bytes", GAUGE, "Bytes of all messages, with their properties, about"),
    Family("queue_messages_ready_bytes", GAUGE, "Bytes of those that wait for a consumer"),
    Family("queue_messages_unacked_bytes", GAUGE, "Bytes of those that are leased, about"),
    Family("queue_messages_paged_out", GAUGE, "Messages on disk only"),
    Family("queue_messages_paged_out_bytes", GAUGE, "Their bytes, about"),
)
QUEUE_PUBLISHED: Final = (Family("queue_messages_published_total", COUNTER, "Messages published to the queue"),)
QUEUE_DELIVERY: Final = (
    Family("queue_get_ack_total", COUNTER, "Messages fetched, to be acknowledged"),
    Family("queue_get_total", COUNTER, "Messages fetched with automatic acknowledgement"),
    Family("queue_messages_delivered_ack_total", COUNTER, "Messages delivered, to be acknowledged"),
    Family("queue_messages_delivered_total", COUNTER, "Messages delivered with automatic acknowledgement"),
    Family("queue_messages_redelivered_total", COUNTER, "Of all these, handed over before"),
    Family("queue_messages_acked_total", COUNTER, "Messages acknowledged"),
    Family("queue_get_empty_total", COUNTER, "Fetches that found nothing"),
)
CHANNEL: Final = (
    Family("channel_consumers", GAUGE, "Consumers of the channel"),
    Family("channel_messages_unacked", GAUGE, "Deliveries that are not settled"),
    Family("channel_messages_unconfirmed", GAUGE, "Messages published and not confirmed"),
    Family("channel_messages_uncommitted", GAUGE, "Messages that its transaction holds"),
    Family("channel_acks_uncommitted", GAUGE, "Settlements that its transaction holds"),
    Family("consumer_prefetch", GAUGE, "What each of its next consumers may hold"),
    Family("channel_prefetch", GAUGE, "What all its consumers together may hold"),
)
CHANNEL_EXCHANGE: Final = (
    Family("channel_messages_published_total", COUNTER, "Messages published"),
    Family("channel_messages_confirmed_total", COUNTER, "Messages confirmed"),
    Family("channel_messages_unroutable_returned_total", COUNTER, "Messages returned, as they reached no queue"),
    Family("channel_messages_unroutable_dropped_total", COUNTER, "Messages dropped, as they reached no queue"),
)
CHANNEL_QUEUE: Final = (
    Family("channel_get_ack_total", COUNTER, "Messages fetched, to be acknowledged"),
    Family("channel_get_total", COUNTER, "Messages fetched with automatic acknowledgement"),
    Family("channel_messages_delivered_ack_total", COUNTER, "Messages delivered, to be acknowledged"),
    Family("channel_messages_delivered_total", COUNTER, "Messages delivered with automatic acknowledgement"),
    Family("channel_messages_redelivered_total", COUNTER, "Of all these, handed over before"),
    Family("channel_messages_acked_total", COUNTER, "Messages acknowledged"),
    Family("channel_get_empty_total", COUNTER, "Fetches that found nothing"),
)
CONNECTION_COARSE: Final = (
    Family("connection_incoming_bytes_total", COUNTER, "Bytes received"),
    Family("connection_outgoing_bytes_total", COUNTER, "Bytes sent"),
)
CONNECTION: Final = (
    Family("connection_incoming_packets_total", COUNTER, "Reads from the socket"),
    Family("connection_outgoing_packets_total", COUNTER, "Writes to the socket"),
    Family("connection_pending_packets", GAUGE, "1 when something waits to be sent"),
    Family("connection_channels", GAUGE, "Channels open"),
)
TOTALS: Final = (
    Family("connections", GAUGE, "Connections open"),
    Family("channels", GAUGE, "Channels open"),
    Family("consumers", GAUGE, "Consumers"),
    Family("queues", GAUGE, "Queues"),
)
ALARMS: Final = (
    Family("alarms_file_descriptor_limit", GAUGE, "Always 0: connections_max is below the limit of descriptors"),
    Family("alarms_free_disk_space_watermark", GAUGE, "1 while publishers wait for disk space"),
    Family("alarms_memory_used_watermark", GAUGE, "1 while publishers wait for memory"),
)
GLOBAL_PUBLISHING: Final = (
    Family("global_messages_received_total", COUNTER, "Messages published"),
    Family("global_messages_received_confirm_total", COUNTER, "Messages published that are to be confirmed"),
    Family("global_messages_routed_total", COUNTER, "Messages that reached a queue"),
    Family("global_messages_confirmed_total", COUNTER, "Messages confirmed"),
    Family("global_messages_unroutable_returned_total", COUNTER, "Messages returned, as they reached no queue"),
    Family("global_messages_unroutable_dropped_total", COUNTER, "Messages dropped, as they reached no queue"),
    Family("global_publishers", GAUGE, "Channels that have published"),
    Family("global_consumers", GAUGE, "Consumers"),
)
GLOBAL_DELIVERY: Final = (
    Family("global_messages_delivered_total", COUNTER, "Messages handed over"),
    Family("global_messages_delivered_consume_auto_ack_total", COUNTER, "... to consumers, acknowledged by that"),
    Family("global_messages_delivered_consume_manual_ack_total", COUNTER, "... to consumers, to be acknowledged"),
    Family("global_messages_delivered_get_auto_ack_total", COUNTER, "... as asked for, acknowledged by that"),
    Family("global_messages_delivered_get_manual_ack_total", COUNTER, "... as asked for, to be acknowledged"),
    Family("global_messages_get_empty_total", COUNTER, "Fetches that found nothing"),
    Family("global_messages_redelivered_total", COUNTER, "Messages handed over again"),
    Family("global_messages_acknowledged_total", COUNTER, "Messages acknowledged"),
)
DEAD_LETTER_REASONS: Final = ("rejected", "expired", "maxlen", "delivery_limit")
"""Those that RabbitMQ has metrics for: global_messages_dead_lettered_..._total."""
EXCHANGE_BINDINGS: Final = (Family("exchange_bindings", GAUGE, "Bindings from the exchange"),)
EXCHANGE_NAMES: Final = (Family("exchange_name", GAUGE, "1 for each exchange"),)
VHOST_STATUS: Final = (Family("vhost_status", GAUGE, "1 for each vhost"),)

OWN_EXCHANGE: Final = (
    Family("exchange_messages_in_total", COUNTER, "Messages published to the exchange"),
    Family("exchange_messages_out_total", COUNTER, "Messages that it passed on, counted for each queue"),
)
OWN_QUEUE: Final = (
    Family("queue_dead_letters_total", COUNTER, "Messages that died in the queue"),
    Family("queue_leases_expired_total", COUNTER, "Leases that ran out"),
    Family("queue_late_settlements_total", COUNTER, "Settlements that came after that"),
    Family("queue_messages_waiting", GAUGE, "Messages that wait for their time: retries, delays"),
)
