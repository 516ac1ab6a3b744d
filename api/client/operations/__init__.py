"""Every endpoint, described once for both clients.

To add one: a method that returns its Call, in the module of its resource, with the parameters that the OpenAPI document
names, and its result in models; for a listing also a stream that follows its pages.
tests/unit/test_client_contract.py says what is missing.
"""

from iocpd.api.client.operations.access import AccessOperations
from iocpd.api.client.operations.bans import BanOperations
from iocpd.api.client.operations.bulk import BulkOperations
from iocpd.api.client.operations.connections import ConnectionOperations
from iocpd.api.client.operations.events import EventOperations
from iocpd.api.client.operations.filters import Filter, Target
from iocpd.api.client.operations.node import DrainOptions, NodeOperations

__all__ = ["DrainOptions", "Filter", "Operations", "Target"]


class Operations(
    ConnectionOperations, BulkOperations, BanOperations, EventOperations, NodeOperations, AccessOperations
):
    """What both clients can do.

    Each method raises Unreachable, TimedOut, UnexpectedAnswer or a ProblemError: Unauthorized and Forbidden for the
    key, Invalid for a value that the service does not take, and what its own text names. A request is made again after
    a failure only where that can't do anything twice.
    """
