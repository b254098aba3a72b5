"""Every limit of the broker, with its unit in its name. Settings may lower or raise those marked (setting).

Those that are `int` and not `Final` are lowered by tests, in the modules that use them: the others are compiled in.
"""

from typing import Final

# --- Names and arguments -------------------------------------------------------------------------------------
NAME_BYTES_MAX: Final = 255
"""Names of exchanges, queues, vhosts, consumers and routing keys, UTF-8 (AMQP 0-9-1 §4.2.5.3)."""

ARGUMENT_MS_MAX: Final = 315_360_000_000
"""The longest time an argument or an expiration may name: ten years, as in RabbitMQ."""

DELAY_MS_MAX: Final = 4_294_967_295
"""The longest delay of a delayed exchange; a longer one is none, as with RabbitMQ's plugin."""

PATTERN_BYTES_MAX: Final = 1024
"""Regular expressions of policies (RabbitMQ's limit)."""

PRIORITY_MAX: Final = 255
"""The highest priority of a message, and the highest `x-max-priority`."""

# --- Messages ------------------------------------------------------------------------------------------------
MESSAGE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Body size of one message (setting `message_bytes_max`)."""

ASSEMBLY_MESSAGES_MAX: Final = 2
"""Unfinished contents of one connection, all channels together, in times `message_bytes_max`."""

# --- Connections and channels --------------------------------------------------------------------------------
FRAME_BYTES_MAX: Final = 131_072
"""frame_max proposed in connection.tune, whole frames (setting `frame_bytes_max`)."""

FRAME_BYTES_MIN: Final = 4096
"""The smallest frame_max a peer may ask for (AMQP 0-9-1 §4.2.3 frame-min-size)."""

CHANNEL_MAX: Final = 2047
"""channel_max proposed in connection.tune: channels of one connection (setting `channel_max`)."""

HEARTBEAT_SECONDS: Final = 60
"""heartbeat proposed in connection.tune (setting `heartbeat_seconds`)."""

HANDSHAKE_SECONDS_MAX: Final = 10
"""A peer that has not opened its connection by then is dropped."""

LOGINS_WAITING_MAX: Final = 4096
"""Log-ins whose password or token is still to be checked; further ones are refused."""

LOGINS_OF_ADDRESS_WAITING_MAX: Final = 1024
"""... those from one address ..."""

LOGINS_OF_ONE_WAITING_MAX: Final = 64
"""... and those of one user from one address: what is checked within a few seconds."""

OPENING_CONNECTIONS_MAX: int = 1000
"""Connections at once that have not got as far as to open a vhost; further ones wait in the system's backlog ..."""

OPENING_SECONDS_MIN: float = 2.0
"""... until one of them is open, or has taken this long and is dropped to make room."""

RESERVED_FILES: Final = 32
"""File descriptors that are not given to connections, so that the store can open its files."""

REFUSED_CONNECTIONS_MAX: Final = 100
"""How many above the setting `connections_max` may get as far as to be told that they are too many."""

SHUTDOWN_SECONDS_MAX: Final = 2
"""How long a stopping broker waits for its clients to answer connection.close."""

CLOSE_SECONDS_MAX: Final = 5
"""A peer that has not answered connection.close by then is dropped."""

# --- Memory --------------------------------------------------------------------------------------------------
OUTPUT_BYTES_HIGH: Final = 1024 * 1024
"""A connection with more than this unsent gets no deliveries until it has read."""

OUTPUT_BYTES_LOW: Final = 128 * 1024
"""... and gets deliveries again from here."""

REPLY_BYTES_MAX: Final = 1024 * 1024
"""A peer that does not read is itself not read any more once this much of replies and confirms waits for it."""

TRANSACTION_BYTES_MAX: Final = 64 * 1024 * 1024
"""Messages held by one channel's open transaction, each counted as 256 bytes more than its content."""

UNSAVED_BYTES_MAX: int = 16 * 1024 * 1024
"""Messages waiting for a commit: beyond this, publishers are not read until the commit is done."""

TURN_BYTES_MAX: Final = 256 * 1024
"""Read from one connection in one turn; what more it has sent waits until the others had theirs."""

TURN_BYTES_BUSY_MAX: Final = 64 * 1024
"""The same while consumers have all that they can hold: so their settlements come in between, and the backlog that
publishers build up is no longer than it must be."""

TURN_BYTES_CROWD_MAX: Final = 32 * 1024
"""... and while there is a crowd (CROWD_MIN)."""

TURN_BYTES_OVERLOADED_MAX: Final = 4096
"""... and while publishers wait for a commit: a thousand connections may have sent something by then."""

SLOW_SECONDS: Final = 0.001
"""A connection that gives more than half of this work with what it sends at once is read in slices from then on, each
worth so much ..."""

BUSY_SECONDS: Final = 0.004
"""... or half of this, if it is work for ..."""

SLOW_BYTES_PER_SECOND: Final = 8 * 1024 * 1024
"""... more bytes than that: so publishers are served, however small their messages are. A slice has ..."""

SLOW_BYTES_MIN: Final = 256
"""... this many bytes at least ..."""

SLOW_BYTES_FIRST: Final = 1024
"""... a new connection's no more, until it has shown that its bytes are little work."""

LIGHT_SECONDS: Final = 0.0001
"""What is more work than this is looked at closely ..."""

WATCHED_MS: Final = 1000
"""... for so long."""

HEAVY_SHARE: Final = 0.025
"""A connection may give work, beyond what its bytes are good for, for this part of the time ..."""

HEAVY_SECONDS: Final = 0.0002
"""... and so much at once: who gives more is heavy ..."""

HEAVY_SECONDS_MAX: Final = 0.05
"""... for no longer than it takes to make up for this ..."""

STRANGERS_SECONDS: Final = 0.0004
"""... and all heavy ones, and those that have not logged in yet, are together given so much of a turn, or what one of
them does at once: the others do not wait for all of them."""

BULK_SECONDS: Final = 0.001
"""When connections have given so much work in a turn with what is not slow, further ones wait that come with more
than ..."""

BULK_BYTES_MIN: Final = 16 * 1024
"""... this."""

CROWD_MIN: Final = 16
"""So many strangers and heavy ones ..."""

CROWD_MS: Final = 1000
"""... in such a period are a crowd. Until the end of the next period a turn is shorter for all others too: slices are
worth half as much, and of what has CROWD in its name the smaller bound holds, such as ..."""

STRANGERS_SECONDS_CROWD: Final = 0.0002
"""... this instead of STRANGERS_SECONDS ..."""

BULK_SECONDS_CROWD: Final = 0.0001
"""... and this instead of BULK_SECONDS."""

WAITING_MAX: Final = 512
"""When more connections wait than this, none is read beyond TURN_BYTES_OVERLOADED_MAX at once."""

DISPATCH_MESSAGES_MAX: int = 1024
"""Messages handed to one consumer in one step."""

DISPATCH_BYTES_MAX: int = 128 * 1024
"""... and about this many bytes of them. Then another queue has its turn."""

DISPATCH_MESSAGE_BYTES: Final = 512
"""A message counts for so many bytes more than its content has, when what is handed out is counted."""

TURN_DISPATCH_BYTES_MAX: int = 512 * 1024
"""Handed out in one turn, by all queues together, or twice what was published in it; the rest is for the next."""

TURN_DISPATCH_BYTES_CROWD_MAX: int = 128 * 1024
"""The same while there is a crowd (CROWD_MIN)."""

URGENT_MS: int = 1000
"""A message that expires sooner than this is handed out in the turn in which it comes, if a consumer has room."""

WINDOW_MESSAGES_STORED: int = 16_384
"""Ready messages of a durable queue held in memory; the rest is on disk."""

WINDOW_BYTES_STORED: int = 8 * 1024 * 1024
"""... and their bytes."""

WINDOW_MESSAGES_TRANSIENT: int = 131_072
"""The same for a queue that is not durable: it is written to disk only beyond this."""

WINDOW_BYTES_TRANSIENT: int = 64 * 1024 * 1024
"""... and their bytes."""

LOAD_MESSAGES_MAX: int = 4096
"""Messages read from the store in one step."""

LOAD_BYTES_MAX: int = 512 * 1024
"""... and their bytes (one message at least)."""

INBOX_MESSAGES_MAX: int = 131_072
"""Answers that wait for a consumer who does not read: further ones are refused, since they are never on disk."""

INBOX_BYTES_MAX: int = 64 * 1024 * 1024
"""... and their bytes (one answer may have more)."""

ROUTES_CACHED_MAX: Final = 16_384
"""Routes remembered of one vhost."""

TIMER_MESSAGES_MAX: int = 2048
"""Messages of one queue expired in one step; the rest follow in the next turn."""

RETURN_MESSAGES_MAX: int = 2048
"""Messages that go back in one turn because the channels that held them have ended; the rest follow in the next."""

DEAD_LETTER_RETRY_MS: int = 10_000
"""How soon a dead letter that has no place, and must not be dropped, is tried again; twice as late each time."""

DEAD_LETTER_RETRIES_DOUBLED_MAX: int = 4
"""... so many times."""

OVERLOAD_MS: Final = 5
"""How soon messages that are due are looked at again when the disk is behind."""

DISK_FREE_BYTES_MIN: Final = 50_000_000
"""With less than this free on the disk of the data directory nothing published is taken (setting)."""

RESOURCES_CHECK_SECONDS: Final = 5
"""How often free disk space and used memory are looked at."""

SAMPLE_MS: Final = 5000
"""How often counters are sampled, for rates."""

SAMPLES_MAX: Final = 13
"""Samples kept of a queue, an exchange, a channel or a connection: a minute ..."""

SAMPLES_TOTAL_MAX: Final = 121
"""... and of the broker and its vhosts: ten minutes."""

SAMPLES_SHOWN_MAX: Final = 500
"""Samples that one request may ask for of each value."""

RESOURCES_CHECK_SECONDS_MIN: Final = 0.1
"""... when free space comes near its limit, or falls fast."""

COMMIT_RETRY_SECONDS: Final = 1.0
"""How often a commit for which the disk had no room is tried again."""

# --- Store ---------------------------------------------------------------------------------------------------
MAP_BYTES: Final = 64 * 1024**3
"""Address space reserved for the data file at first; doubled when it is full."""

LOG_BYTES_MAX: Final = 8 * 1024 * 1024
"""In the write-ahead log before a checkpoint empties it; more only by what one commit adds."""

ENTRY_BYTES_MAX: Final = 768 * 1024
"""A commit with more than this does not go to the log, but with all before it straight to the data file."""

RESERVE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Space put by for a full disk: what is on its way then mostly has room in it. Less on a small one."""

UNSTORED_CHANGES_MAX: Final = 4096
"""Messages that wait in memory for a checkpoint, put or removed."""

HELD_CHANGES_MAX: Final = 131_072
"""While the data file is copied for a backup, so many messages wait for it in memory; then publishers wait ..."""

HELD_BYTES_MAX: Final = 128 * 1024 * 1024
"""... or so many bytes, which the log has too."""

COMPACTION_FREE_BYTES_MIN: Final = 64 * 1024 * 1024
"""With this much free in the data file, and more than is in use, it is compacted at the start ..."""

COMPACTED_BYTES_MAX: Final = 128 * 1024 * 1024
"""... unless more than this is in use, which it would take too long to copy."""

SHARED_BYTES_MIN: Final = 4096
"""A larger content that goes to several queues is stored once ..."""

PARTED_BYTES_MIN: Final = 65_536
"""... and from here on it is in a record of its own also for one queue, which saves a copy and writing it again."""

DROPS_PER_COMMIT_MAX: int = 2000
"""Messages of a purged or deleted queue that one commit removes from disk."""

SETTLEMENTS_WAIT_MS: int = 5
"""After a commit, settlements that nobody waits for may wait so long for more of them."""

# --- HTTP API ------------------------------------------------------------------------------------------------
HTTP_BODY_BYTES_MAX: Final = 20_000_000
"""Of one request, as in RabbitMQ."""

HTTP_BODIES_BYTES_MAX: Final = 100_000_000
"""Of all requests that are being read or done."""

HTTP_BODY_SECONDS_MAX: Final = 60.0
"""For the body of a request to arrive."""

HTTP_HEADER_BYTES_MAX: Final = 65_536
"""Request line and headers together."""

HTTP_HEADER_SECONDS_MAX: Final = 10.0
"""For them to arrive, from the first byte of the connection on."""

HTTP_IDLE_SECONDS_MAX: Final = 60
"""Between two requests over one connection."""

HTTP_STALLED_SECONDS_MAX: Final = 60.0
"""How long a client may take none of its answer."""

HTTP_CONNECTIONS_MAX: Final = 1000
"""At once; further ones take the place of those that have been ..."""

HTTP_UNUSED_SECONDS_MIN: Final = 1.0
"""... without a request for longer than this; if there is none, they are closed."""

HTTP_SLICE_MS: Final = 4
"""How long the API works on an answer before all others have their turn."""

HTTP_GET_MESSAGES_MAX: Final = 100_000
"""Asked for in one request; and no more than HTTP_GET_BYTES_MAX are answered."""

HTTP_GET_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of contents in one answer (one message may have more)."""

# --- Taps ----------------------------------------------------------------------------------------------------
TAP_LINES_PER_SECOND_MAX: Final = 5000
"""That one tap is given; what follows in that tenth of a second is left out."""

TAP_FRAMES_PER_SECOND_MAX: Final = 100_000
"""That are looked at for one tap, likewise."""

TAP_BYTES_MAX: Final = 256 * 1024
"""Of lines that its reader has not taken yet; meanwhile everything is left out."""

TAP_QUIET_SECONDS: Final = 15.0
"""Without a line for so long its reader gets an empty one."""

TAP_BODY_BYTES_MAX: Final = 65_536
"""Of each body, if asked for."""

TAPS_MAX: Final = 32
"""At once."""

# --- Traces --------------------------------------------------------------------------------------------------
TRACED_MESSAGES_MAX: Final = 50_000
"""Of so many it is remembered when they were published, and of so many when they were delivered."""

TRACES_FLUSH_SECONDS_MAX: Final = 3.0
"""How long the broker's end waits for the last spans to be sent."""
