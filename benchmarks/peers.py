"""The peers at hand: Pabal from a source tree, RabbitMQ, NATS, and any AMQP broker that runs already."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from amqp import AMQP
from brokers import Broker, OwnBroker, free_port
from nats import NATS, configuration
from spec import LoadError

RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Where Debian keeps it; the one on the PATH there insists on another user."""
NATS_DURABLE_SHARE = 0.05
"""It syncs for each message, and so has a small part of the speed of those that sync for many at once."""
_PROBE = """
import pabal, pabal.broker.queue
form = "plain" if pabal.broker.queue.__file__.endswith(".py") else "compiled"
print(pabal.__file__, pabal.__version__, form, sep="\\n")
"""


def pabal(name: str, source: Path, directory: Path, arguments: list[str]) -> OwnBroker:
    """Pabal as it is in a source tree.

    Args:
        name: as the tables call it.
        source: holds the package `pabal`.
        directory: for its data.
        arguments: more for `pabal serve`.

    Raises:
        LoadError: `source` is not what would run.
    """
    environment = {"PYTHONPATH": str(source.resolve()), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pabal", "serve", "--port", "{port}", "--data", "{directory}/data"]
    broker = OwnBroker(name, AMQP, directory, "data", command + arguments, environment)
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE],
        env=os.environ | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
    )
    file, version, form = probe.stdout.split("\n")[:3] if probe.returncode == 0 else ("/", "", "")
    if not Path(file).resolve().is_relative_to(source.resolve()):
        raise LoadError(f"{name}: no package pabal in {source} {probe.stdout}{probe.stderr}")
    broker.form = f"{version}, {form}"
    return broker


class RabbitMQ(OwnBroker):
    """A RabbitMQ node of our own with its defaults, no plugins, and nothing outside its directory."""

    def __init__(self, server: Path, directory: Path) -> None:
        epmd_port = str(free_port())
        environment = {
            "HOME": "{directory}",  # For the Erlang cookie.
            "RABBITMQ_NODENAME": "pabal-bench@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": "{port}",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": "{directory}/mnesia",
            "RABBITMQ_LOG_BASE": "{directory}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "{directory}/enabled_plugins",
            "RABBITMQ_CONFIG_FILE": "{directory}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": "{directory}/rabbitmq-env.conf",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {{127,0,0,1}}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": epmd_port,
        }
        super().__init__("RabbitMQ", AMQP, directory, "mnesia", [str(server)], environment)
        (directory / "enabled_plugins").write_text("[].\n")
        (directory / "rabbitmq.conf").write_text("")
        (directory / "rabbitmq-env.conf").write_text("")
        self._epmd_port = epmd_port
        self._epmd: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start Erlang's port mapper first: one that RabbitMQ starts for itself would stay behind."""
        epmd = _epmd_program()
        if epmd:
            self._epmd = subprocess.Popen(
                [epmd, "-address", "127.0.0.1", "-port", self._epmd_port],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        super().launch()

    def stop(self) -> None:
        """Stop the node, then the port mapper."""
        super().stop()
        if self._epmd:
            self._epmd.terminate()
            self._epmd.wait()
            self._epmd = None


def rabbitmq(directory: Path) -> Broker | None:
    """A RabbitMQ node of our own; None when it is not installed."""
    found = shutil.which("rabbitmq-server")
    server = RABBITMQ_SERVER if RABBITMQ_SERVER.exists() else Path(found) if found else None
    return RabbitMQ(server, directory) if server else None


def nats(directory: Path) -> Broker | None:
    """A NATS server of our own, with JetStream; None when it is not installed."""
    beside = Path(sys.executable).with_name("nats-server")
    server = str(beside) if beside.exists() else shutil.which("nats-server")
    if not server:
        return None
    broker = OwnBroker("NATS", NATS, directory, "jetstream", [server, "-c", "{directory}/nats.conf"], {})
    broker.durable_share = NATS_DURABLE_SHARE
    (directory / "nats.conf").write_text(configuration(broker.port, str(directory)))
    return broker


def running(text: str) -> Broker:
    """A broker that runs already: NAME=PORT of one that speaks AMQP 0-9-1."""
    name, _, port = text.partition("=")
    if not name or not port.isdigit():
        raise LoadError(f"--amqp takes NAME=PORT, not {text}")
    return Broker(name, int(port), AMQP)


def _epmd_program() -> str | None:
    found = shutil.which("epmd")
    bundled = sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))
    return found or (str(bundled[-1]) if bundled else None)
