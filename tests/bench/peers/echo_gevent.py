"""Echo peer: gevent's StreamServer, a greenlet for each connection.

echo_gevent.py PORT
"""

import socket
import sys

from gevent.server import StreamServer


def echo(connection: socket.socket, _address: object) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


StreamServer(("127.0.0.1", int(sys.argv[1])), echo, backlog=4096).serve_forever()
