"""`iocpd top`: connections and their rates, live.

sample.py       one look at the service, and rates from two looks
columns.py      what the table has, and how it is sorted
state.py        what the keys change; no terminal and no service in it
screen.py       how it looks
keyboard.py     keys, on Linux and on Windows
loop.py         all of it together
"""
