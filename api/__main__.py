"""`python -m iocpd.api` is the same command as `iocpd`."""

from iocpd.api.cli import main

raise SystemExit(main())
