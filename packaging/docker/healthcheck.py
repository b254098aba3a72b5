"""Whether the broker in this container answers: it greets whoever says AMQP. Exit code 0 if it does; else 1, and why.

It asks where the variables PABAL_BIND, PABAL_PORT and PABAL_TLS_PORT say; a settings file it does not know.
"""

import os
import socket

# Connecting to 0.0.0.0 or :: is to this machine, on Linux.
address = os.environ.get("PABAL_BIND") or "127.0.0.1"
port = int(os.environ.get("PABAL_PORT", "5672"))
tls = port < 0
if tls:
    port = int(os.environ.get("PABAL_TLS_PORT", "5671"))


def answers() -> bool:
    with socket.create_connection((address, port), timeout=2) as peer:
        stream = over_tls(peer) if tls else peer
        stream.sendall(b"AMQP\x00\x00\x09\x01")
        try:
            return stream.recv(1) == b"\x01"
        except OSError as error:  # with tls_verify = "required" we have no certificate to show, but it did answer
            if getattr(error, "reason", "") == "TLSV13_ALERT_CERTIFICATE_REQUIRED":
                return True
            raise


def over_tls(peer: socket.socket) -> socket.socket:
    import ssl  # a third of the time that this program takes: only when it is needed

    context = ssl.create_default_context()
    context.check_hostname = False  # whose certificate it is does not matter here
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(peer)


try:
    healthy = answers()
    why = "something else than AMQP"
except OSError as error:
    healthy = False
    why = str(error)
if not healthy:
    raise SystemExit(f"no answer from {address} port {port}: {why}")
