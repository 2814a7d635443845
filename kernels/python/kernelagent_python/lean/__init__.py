"""The lean kernel: ipykernel's classes with a short way from a request to its answer.

What differs from stock, on the same wire protocol: a message is sent by the thread that makes it;
one thread serves everything that is not a cell, and sleeps while nothing happens; an interrupt
reaches user code and nothing else; and all that belongs to the operating system (sockets, threads,
pipes) hangs on one object that can be dropped and made anew, so that a kernel can be built before
a fork and wired up after it.
"""
