"""A mail server on loopback that keeps what it gets: STARTTLS, then an account, then mail."""

from __future__ import annotations

import base64
import socketserver
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from threading import Thread

from tests.support.certificate import write_certificate

USER, PASSWORD = "weavloader", "a-mail-password"


@dataclass
class MailServer:
    """The server as its test sees it.

    Attributes:
        host: ``host:port``.
        certificate: What its clients have to trust.
        mails: What it got, with the addresses in ``X-To``.
    """

    host: str
    certificate: Path
    mails: list[EmailMessage]


class _Listener(socketserver.ThreadingTCPServer):
    """Listens, and knows the key and where mail is kept."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.context = context
        self.mails: list[EmailMessage] = []


class _Session(socketserver.BaseRequestHandler):
    """One client, from its greeting to its goodbye."""

    server: _Listener

    def handle(self) -> None:
        self._stream = self.request.makefile("rb")
        self._is_safe, self._to = False, ""
        self._say("220 tests")
        with suppress(OSError):
            while line := self._stream.readline().decode().strip():
                self._answer(line.split()[0].upper(), line)
        self._stream.close()
        self.request.close()

    def _answer(self, verb: str, line: str) -> None:
        if verb in ("EHLO", "HELO"):
            self._say("250-tests\r\n250 " + ("AUTH PLAIN" if self._is_safe else "STARTTLS"))
        elif verb == "STARTTLS":
            self._say("220 go on")
            self._stream.close()
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
            self._stream, self._is_safe = self.request.makefile("rb"), True
        elif verb == "AUTH":
            given = base64.b64decode(line.split()[2]).decode().split("\0")
            is_right = self._is_safe and given[1:] == [USER, PASSWORD]
            self._say("235 welcome" if is_right else "535 wrong account")
        elif verb == "DATA":
            self._say("354 go on")
            self._keep()
        else:  # MAIL, RCPT, QUIT
            self._to += line.partition("TO:")[2]
            self._say("221 bye" if verb == "QUIT" else "250 ok")

    def _keep(self) -> None:
        lines = iter(self._stream.readline, b".\r\n")
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        mail["X-To"] = self._to
        self.server.mails.append(mail)
        self._say("250 kept")

    def _say(self, text: str) -> None:
        self.request.sendall(f"{text}\r\n".encode())


@contextmanager
def mail_server(folder: Path) -> Iterator[MailServer]:
    """Run one.

    Args:
        folder: For its key and certificate.
    """
    key, certificate = write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with _Listener(context) as listening:
        host = f"127.0.0.1:{listening.server_address[1]}"
        thread = Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield MailServer(host, certificate, listening.mails)
        finally:
            listening.shutdown()
            thread.join()
