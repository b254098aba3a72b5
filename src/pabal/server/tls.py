"""Certificates: the context for TLS connections, renewed while the broker runs, and names in the peers' ones."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from pabal.broker.clients import Encryption
from pabal.server.settings import Settings, SettingsError

VERIFY: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

_ATTRIBUTES: Final = {
    "surname": "SN",
    "givenName": "GIVENNAME",
    "initials": "INITIALS",
    "generationQualifier": "GENERATIONQUALIFIER",
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "title": "TITLE",
    "countryName": "C",
    "serialNumber": "SERIALNUMBER",
    "pseudonym": "PSEUDONYM",
    "domainComponent": "DC",
    "emailAddress": "EMAILADDRESS",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""OpenSSL's long names of what a distinguished name consists of, and those that RabbitMQ writes."""


class Certificates:
    """What the settings say of TLS. `context` is for connections from now on; those that there are keep theirs.
    `https_context`: the same for HTTP, where nobody is asked for a certificate."""

    def __init__(self, settings: Settings) -> None:
        """SettingsError when a file cannot be used."""
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Reads the files again. SettingsError when one cannot be used: then all stays as it was."""
        context, https_context = _load(settings), _load(replace(settings, tls_verify="none"))
        self.context: ssl.SSLContext = context
        self.https_context: ssl.SSLContext = https_context
        self.login_from: str = settings.tls_login_from

    def renewed(self, settings: Settings) -> str:
        """The same; returns why not, or nothing."""
        try:
            self.renew(settings)
        except SettingsError as error:
            return str(error)
        return ""


def _load(settings: Settings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # which TLS 1.2 lets a client ask for without end
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key or None, password=_no_password)
    except (OSError, ValueError) as error:
        files = " and ".join(filter(None, (settings.tls_certificate, settings.tls_key)))
        raise SettingsError(f"tls_certificate: cannot use {files}: {_why(error)}") from None
    if settings.tls_verify != "none":
        try:
            context.load_verify_locations(settings.tls_ca)
        except (OSError, ValueError) as error:
            raise SettingsError(f"tls_ca: cannot use {settings.tls_ca}: {_why(error)}") from None
        context.verify_mode = VERIFY[settings.tls_verify]
        # Who resumes a session does not show its certificate again, though it may not be taken any more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _no_password() -> str:
    raise ValueError("the key has a password, and nobody to type it")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return ssl_reason(error)
    return (isinstance(error, OSError) and error.strerror) or str(error)


def ssl_reason(error: ssl.SSLError) -> str:
    """OpenSSL's words without its numbers: "wrong version number"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message}"
    return str(error.reason or error.strerror or error).replace("_", " ").lower()


def encryption(connection: ssl.SSLObject) -> Encryption:
    """What others may see of a connection's encryption, once its handshake is done."""
    certificate: dict[str, Any] = connection.getpeercert() or {}
    cipher = connection.cipher()
    return Encryption(
        connection.version() or "",
        cipher[0] if cipher else "",
        distinguished_name(certificate.get("subject", ())),
        distinguished_name(certificate.get("issuer", ())),
        " - ".join(_time(certificate[end]) for end in ("notBefore", "notAfter")) if certificate else "",
    )


def _time(text: str) -> str:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def certificate_name(connection: ssl.SSLObject, login_from: str) -> str:
    """The user that the peer's certificate stands for; "" when it showed none, or one without such a name."""
    certificate: dict[str, Any] = connection.getpeercert() or {}
    if login_from == "distinguished_name":
        return distinguished_name(certificate.get("subject", ()))
    if login_from == "common_name":
        names = [v for rdn in certificate.get("subject", ()) for key, v in rdn if key == "commonName"]
        return ",".join(names)
    return next((str(v) for kind, v in certificate.get("subjectAltName", ()) if kind == "DNS"), "")


def distinguished_name(name: tuple[tuple[tuple[str, str], ...], ...]) -> str:
    """RFC 4514: the last part first, as RabbitMQ writes it: "CN=anna,O=Relay"."""
    parts = ["+".join(f"{_ATTRIBUTES.get(key, key)}={_escaped(value)}" for key, value in rdn) for rdn in name]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    """RFC 4514 §2.4; what is not printable ASCII as UTF-8, in hexadecimal."""
    data = value.encode()
    pieces: list[str] = []
    for at, byte in enumerate(data):
        char = chr(byte)
        edge = (at == 0 and char in " #") or (at == len(data) - 1 and char == " ")
        if edge or char in '"+,;<>\\':
            pieces.append("\\" + char)
        elif 32 <= byte < 126:
            pieces.append(char)
        else:
            pieces.append(f"\\{byte:02X}")
    return "".join(pieces)
