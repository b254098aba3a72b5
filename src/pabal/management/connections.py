"""Connections, channels and consumers."""

from __future__ import annotations

from typing import Final

from pabal.broker.clients import Client, ClientChannel
from pabal.broker.consumer import Consumer
from pabal.broker.queue import Queue
from pabal.broker.vhost import Vhost
from pabal.management import statistics
from pabal.management.call import Answer, Call, Work, not_authorised, not_found
from pabal.management.encoding import plain
from pabal.management.listing import Facts, listing, one
from pabal.management.rates import asked_windows
from pabal.management.routes import Route, Who

CLOSED: Final = "Closed via management plugin"
"""What a connection is told that is closed without a reason."""


# --- Connections ---------------------------------------------------------------------------------------------


def _basic(client: Client) -> Facts:
    return {"name": client.name, "vhost": client.vhost_name, "user": client.user}


def _full(call: Call, client: Client) -> Facts:
    facts = statistics.connection(call.broker, client, call.node.name, asked_windows(call.query))
    facts["client_properties"] = plain(facts["client_properties"])
    return facts


def _visible(call: Call) -> list[Client]:
    """Who is no monitor sees only what is their own."""
    clients = list(call.broker.clients.values())
    if not call.monitor:
        clients = [client for client in clients if client.user == call.principal.name]
    if "vhost" in call.arguments:
        name = call.vhost.name
        clients = [client for client in clients if client.vhost_name == name]
    return clients


def list_connections(call: Call) -> Work:
    return listing(call, _visible(call), _basic, lambda client: _full(call, client))


def _find(call: Call) -> Client:
    client = call.broker.clients.get(call.arguments["connection"])
    if client is None:
        raise not_found()
    _check_own(call, client.user)
    return client


def _check_own(call: Call, user: str) -> None:
    """Monitors see what is others', and only administrators close it."""
    may = call.administrator if call.method == "DELETE" else call.monitor
    if not (may or user == call.principal.name):
        raise not_authorised("User not authorised to access object")


def show_connection(call: Call) -> Answer:
    return one(call, _full(call, _find(call)))


def close_connection(call: Call) -> None:
    _find(call).close(call.reason or CLOSED)


def _of_user(call: Call) -> list[Client]:
    name = call.arguments["username"]
    _check_own(call, name)
    return [client for client in call.broker.clients.values() if client.user == name]


def list_of_user(call: Call) -> Work:
    clients = _of_user(call)

    def facts(client: Client) -> Facts:
        return {**_basic(client), "node": call.node.name}

    return listing(call, clients, facts, paged=False)


def close_of_user(call: Call) -> None:
    for client in _of_user(call):
        client.close(call.reason or CLOSED)


# --- Channels ------------------------------------------------------------------------------------------------


def _basic_channel(channel: ClientChannel) -> Facts:
    client = channel.client
    return {"name": statistics.channel_name(channel), "vhost": client.vhost_name, "user": client.user}


def _full_channel(call: Call, channel: ClientChannel) -> Facts:
    return statistics.channel(call.broker, channel, call.node.name, asked_windows(call.query))


def _listed_channels(call: Call, channels: list[ClientChannel]) -> Work:
    return listing(call, channels, _basic_channel, lambda channel: _full_channel(call, channel))


def list_channels(call: Call) -> Work:
    return _listed_channels(call, [channel for client in _visible(call) for channel in client.open_channels])


def list_channels_of(call: Call) -> Work:
    return _listed_channels(call, list(_find(call).open_channels))


def show_channel(call: Call) -> Answer:
    name = call.arguments["channel"]
    client = call.broker.clients.get(name.rpartition(" (")[0])
    for channel in client.open_channels if client is not None else ():
        if statistics.channel_name(channel) == name:
            if not (call.monitor or channel.client.user == call.principal.name):
                raise not_authorised("User not authorised to access object")
            facts = _full_channel(call, channel)
            facts["consumer_details"] = [consumer_facts(call, each) for each in channel.open_consumers]
            return one(call, {**facts, "publishes": [], "deliveries": []})
    raise not_found()


# --- Consumers -----------------------------------------------------------------------------------------------


def consumer_facts(call: Call, consumer: Consumer) -> Facts:
    facts = statistics.consumer(consumer, call.node.name)
    facts["arguments"] = plain(facts["arguments"])
    return facts


def consumers_of(call: Call, queue: Queue) -> list[Facts]:
    return [consumer_facts(call, consumer) for consumer in queue.consumers]


def list_consumers(call: Call) -> Work:
    vhosts: list[Vhost] = call.asked_vhosts()
    if not call.monitor:
        vhosts = [vhost for vhost in vhosts if call.may_open(vhost.name)]
    consumers = [each for vhost in vhosts for queue in vhost.queues.values() for each in queue.consumers]
    return listing(call, consumers, lambda each: consumer_facts(call, each), order=(), paged=False)


_CHANNELS: Final = "/api/connections/{connection}/channels"
_USER: Final = "/api/connections/username/{username}"

ROUTES: Final = (
    Route("GET", "/api/connections", Who.USER, list_connections, "All connections; one's own for who is no monitor."),
    Route("GET", "/api/vhosts/{vhost}/connections", Who.VHOST_MONITOR, list_connections, "Those to a vhost."),
    Route("GET", "/api/connections/{connection}", Who.USER, show_connection, "One connection."),
    Route("DELETE", "/api/connections/{connection}", Who.USER, close_connection, "Closes it; header X-Reason."),
    Route("GET", _USER, Who.USER, list_of_user, "The connections of a user."),
    Route("DELETE", _USER, Who.USER, close_of_user, "Closes them; header X-Reason."),
    Route("GET", _CHANNELS, Who.USER, list_channels_of, "The channels of a connection."),
    Route("GET", "/api/channels", Who.USER, list_channels, "All channels; one's own for who is no monitor."),
    Route("GET", "/api/vhosts/{vhost}/channels", Who.VHOST_MONITOR, list_channels, "Those in a vhost."),
    Route("GET", "/api/channels/{channel}", Who.USER, show_channel, "One channel."),
    Route("GET", "/api/consumers", Who.USER, list_consumers, "All consumers."),
    Route("GET", "/api/consumers/{vhost}", Who.VHOST_MONITOR, list_consumers, "Those in a vhost."),
)
