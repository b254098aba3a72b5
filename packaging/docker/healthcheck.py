"""Whether the broker in this container answers: it greets whoever says AMQP. Exit code 0 if it does."""

import os
import socket
import ssl

port = int(os.environ.get("PABAL_PORT", "5672"))
context = None
if port < 0:  # only TLS; whose certificate it is does not matter here
    port = int(os.environ.get("PABAL_TLS_PORT", "5671"))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
    stream = context.wrap_socket(peer) if context is not None else peer
    stream.sendall(b"AMQP\x00\x00\x09\x01")
    raise SystemExit(stream.recv(1) != b"\x01")
