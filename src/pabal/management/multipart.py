"""Forms with files (multipart/form-data, RFC 7578), as far as uploading definitions takes it."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser

from pabal.management.call import bad_request


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """The fields by name. ApiError 400: there is no boundary."""
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise bad_request("multipart without a boundary")
    found: dict[str, bytes] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            break
        headers, _, content = part.partition(b"\r\n\r\n")
        parsed = BytesHeaderParser().parsebytes(headers.lstrip())
        name = parsed.get_param("name", header="content-disposition")
        if isinstance(name, str):
            found[name] = content
    return found
