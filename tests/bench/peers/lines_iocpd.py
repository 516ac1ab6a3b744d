"""Services that answer each line in upper case; iocpd serve --tcp HOST:PORT/python:lines_iocpd:Upper."""

from iocpd.core import Lines, Service, ServiceConnection


class Upper(Service):
    framing = Lines()

    def on_message(self, connection: ServiceConnection, message: bytes) -> None:
        connection.send(message.upper())


class UpperInBatches(Service):
    framing = Lines()

    def on_messages(self, connection: ServiceConnection, messages: list[bytes]) -> None:
        connection.send_all([message.upper() for message in messages])
