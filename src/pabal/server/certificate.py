"""When the certificate that the broker shows ends, for the health check."""

from __future__ import annotations

import ssl

_STEPS_MAX = 10


def expires_s(context: ssl.SSLContext, file: str) -> float:
    """In seconds since the epoch; 0 when it has ended already, or is not valid yet. `context`: the server's, that
    shows the certificate in `file`. The standard library reads certificates only of peers: so a client in memory
    looks."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what is in the file is trusted, root or not
    client_context.load_verify_locations(file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_side=False)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(_STEPS_MAX):
            if _shake(client):
                break
            _shake(server)
    except ssl.SSLError:
        return 0.0
    certificate = client.getpeercert()
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"]))) if certificate else 0.0


def _shake(side: ssl.SSLObject) -> bool:
    """True when it has done its part of the handshake."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
