"""`iocpd service`: the service of Windows that deploy/windows/launcher hosts.

    binary.py     its command line, quoted for the launcher and for Python
    plan.py       what is to be installed: options and serve's settings, checked
    scm.py        what is asked of the service control manager, and what its errors mean
    native.py     the same over advapi32, by cffi (ctypes would load user32)
    machine.py    what else an installation changes: event log, rights, firewall
    steps.py      install, start, stop and remove, with what they wait for

All but native.py and machine.py runs on any system.
"""
