"""The management API and the `iocpd` command.

`iocpd.api.app.create_app` makes the ASGI application over a running `iocpd.core.Engine`; `iocpd.api.server.serve` runs
both in one process. This package reaches the engine through what `iocpd.core` exports and nothing else.
"""
