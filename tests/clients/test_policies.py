"""Policies and limits of vhosts, set by the settings file and SIGHUP, as clients see them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.exceptions import AMQPConnectionError, AMQPError, NackError, ProbableAccessDeniedError
from pika.spec import BasicProperties

from broker_process import SOURCE, BrokerProcess
from clients.desk import death, history
from clients.pika_client import (
    WAIT_SECONDS_MAX,
    bodies,
    channel_error,
    get,
    open_connection,
    publish,
    ready_count,
    wait_ready,
)
from pabal.model.passwords import hash_password

SHORT = """
[[policies]]
name = "short"
pattern = "^jobs"
definition = { max-length = 2, dead-letter-exchange = "", dead-letter-routing-key = "dead" }
"""


class Configured:
    """A broker of the test's own, and its settings file."""

    def __init__(self, file: Path, process: BrokerProcess) -> None:
        self.file = file
        self.process = process
        self.connections: list[BlockingConnection] = []

    def connect(self, **parameters: object) -> BlockingConnection:
        self.connections.append(open_connection(self.process, **parameters))
        return self.connections[-1]

    def channel(self) -> BlockingChannel:
        """One that publishes with confirms."""
        channel = self.connect().channel()
        channel.confirm_delivery()
        return channel

    def reread(self, text: str, answer: str = "settings re-read") -> list[str]:
        """Puts `text` in the file and has it read again; returns the lines that the broker says of it."""
        self.file.write_text(text)
        since = self.process.log_size()
        assert self.process.process is not None
        self.process.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while answer not in self.process.log(since):
            assert time.monotonic() < deadline, self.process.log(since)
            time.sleep(0.01)
        self.connect().close()  # the turn that read them is over now
        lines = self.process.log(since).splitlines()
        return [line.split(maxsplit=3)[3] for line in lines if " 127.0.0.1:" not in line]


@pytest.fixture
def configured(start_broker: Callable[..., BrokerProcess], tmp_path: Path) -> Iterator[Configured]:
    file = tmp_path / "pabal.toml"
    file.write_text("")
    configured = Configured(file, start_broker(arguments=["--config", str(file)]))
    yield configured
    for connection in configured.connections:
        if connection.is_open:
            with contextlib.suppress(AMQPError):  # it may be one of before a restart
                connection.close()


def filled(channel: BlockingChannel, queue: str = "jobs", count: int = 5) -> None:
    channel.queue_declare(queue, durable=True)
    publish(channel, queue, *(f"{n}" for n in range(count)), delivery_mode=2)


def test_a_living_queue_gets_its_length_and_a_place_for_dead_letters(configured: Configured) -> None:
    channel = configured.channel()
    channel.queue_declare("dead", durable=True)
    filled(channel)
    said = configured.reread(SHORT)
    assert said == ["settings re-read, with changes:", "policy 'short' of vhost '/' added"]
    assert ready_count(channel, "jobs") == 2
    letters = [get(channel, "dead") for _ in range(3)]
    assert [letter.body for letter in letters] == [b"0", b"1", b"2"]
    assert history(letters[0]) == [death("jobs", "maxlen")]
    publish(channel, "jobs", "5")
    assert bodies(channel, "dead", 1) == [b"3"]
    assert configured.reread("")[1:] == ["policy 'short' of vhost '/' removed"]
    publish(channel, "jobs", "6", "7")
    assert bodies(channel, "jobs", 4) == [b"4", b"5", b"6", b"7"]


def test_a_living_queue_gets_a_time_to_live(configured: Configured) -> None:
    channel = configured.channel()
    filled(channel, count=1)
    configured.reread(SHORT.replace("max-length = 2", "message-ttl = 50"))
    channel.queue_declare("dead")
    assert ready_count(channel, "jobs") == 1, "what was there has none"
    channel.queue_purge("jobs")
    publish(channel, "jobs", "short-lived")
    wait_ready(channel, "jobs", 0)
    assert history(get(channel, "dead")) == [death("jobs", "expired")]


def test_a_living_queue_gets_a_limit_in_bytes_and_refuses(configured: Configured) -> None:
    channel = configured.channel()
    filled(channel)
    configured.reread(SHORT.replace("max-length = 2", 'max-length-bytes = 6, overflow = "reject-publish"'))
    publish(channel, "jobs", "5")
    with pytest.raises(NackError):
        channel.basic_publish("", "jobs", b"6", BasicProperties())


@pytest.mark.parametrize("kill", [False, True])
def test_a_restart_keeps_them(configured: Configured, kill: bool) -> None:
    channel = configured.channel()
    filled(channel)
    configured.reread(SHORT + '[vhost_limits."/"]\nmax-queues = 1\n')
    since = configured.process.log_size()
    configured.process.restart(kill=kill)
    assert "policy" not in configured.process.log(since), "there was nothing to change"
    channel = configured.channel()
    assert bodies(channel, "jobs", 2) == [b"3", b"4"]
    filled(channel)
    assert ready_count(channel, "jobs") == 2
    with channel_error(
        channel, 406, "PRECONDITION_FAILED - cannot declare queue 'other': queue limit in vhost '/' (1) is reached"
    ):
        channel.queue_declare("other")


def test_what_the_file_names_no_more_goes_at_a_restart_too(configured: Configured) -> None:
    configured.reread(SHORT)
    configured.file.write_text("")
    configured.process.restart()
    filled(channel := configured.channel())
    assert ready_count(channel, "jobs") == 5


def test_an_operators_policy_limits_what_a_user_asked_for(configured: Configured) -> None:
    text = SHORT.replace("max-length = 2", "max-length = 4")
    operators = '[[operator_policies]]\nname = "cap"\npattern = ""\ndefinition = { max-length = 3 }\n'
    channel = configured.channel()
    filled(channel)
    assert configured.reread(text + operators)[1:] == [
        "policy 'short' of vhost '/' added",
        "operator policy 'cap' of vhost '/' added",
    ]
    assert ready_count(channel, "jobs") == 3


def test_an_exchange_gets_an_alternate(configured: Configured) -> None:
    channel = configured.channel()
    channel.exchange_declare("orders")
    filled(channel, count=0)
    channel.queue_bind("jobs", "amq.fanout")
    definition = 'definition = { alternate-exchange = "amq.fanout" }'
    configured.reread(f'[[policies]]\nname = "rest"\npattern = "^orders"\n{definition}\n')
    channel.basic_publish("orders", "nobody", b"stray")
    assert bodies(channel, "jobs", 1) == [b"stray"]


def test_a_file_that_is_not_valid_changes_nothing(configured: Configured) -> None:
    channel = configured.channel()
    filled(channel)
    text = 'vhosts = ["/", "new"]\n' + SHORT + '[[policies]]\nname = "bad"\npattern = "("\ndefinition = {}\n'
    [said] = configured.reread(text, "settings refused")
    assert said.startswith("settings refused, nothing changed: ")
    assert "policies, the 'bad' one: no policy provided; pattern should be regular expression" in said
    assert ready_count(channel, "jobs") == 5
    with pytest.raises(AMQPConnectionError):
        configured.connect(virtual_host="new")


def test_a_policy_for_a_vhost_that_is_not_there_changes_nothing(configured: Configured) -> None:
    [said] = configured.reread(SHORT.replace("definition", 'vhost = "no"\ndefinition'), "settings refused")
    assert said == "settings refused, nothing changed: policy 'short': there is no vhost 'no': name it in vhosts"


def test_users_and_vhosts_are_added_and_other_settings_take_a_restart(configured: Configured) -> None:
    kept = hash_password("secret", b"0" * 16, 16)
    said = configured.reread(f'channel_max = 5\nvhosts = ["/", "new"]\n[users]\nalice = "{kept}"\n')
    assert said == [
        "setting channel_max has changed: that takes a restart",
        "settings re-read, with changes:",
        "vhost 'new' added",
        "user 'alice' added",
    ]
    credentials = pika.PlainCredentials("alice", "secret")
    configured.connect(virtual_host="new", credentials=credentials)


def test_no_more_connections_than_the_vhost_may_have(configured: Configured) -> None:
    first = configured.connect()
    configured.reread('[vhost_limits."/"]\nmax-connections = 2\n')
    second = configured.connect()
    with pytest.raises(ProbableAccessDeniedError) as caught:
        configured.connect()
    assert (
        "(530) \"NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (2) is reached\""
    ) in str(caught.value)
    second.close()
    configured.connect()
    assert first.is_open


def test_a_vhost_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / "pabal.toml"
    file.write_text(f'port = 0\ndata = "{tmp_path / "data"}"\n[vhost_limits.no]\nmax-queues = 1\n')
    command = [sys.executable, "-m", "pabal", "serve", "--config", str(file)]
    result = subprocess.run(command, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=20)
    assert result.returncode == 2
    assert result.stderr == "pabal: vhost_limits: there is no vhost 'no': name it in vhosts\n"
