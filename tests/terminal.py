"""A terminal for a program under test.

    terminal.py OUTPUT ROWS COLUMNS COMMAND...

Runs the command with a pseudo-terminal as its stdin, stdout and stderr, and copies all that it prints to the file OUTPUT. Lines
on stdin tell what happens at the terminal:

    type TEXT          keys; \\x03 is Ctrl-C
    size ROWS COLUMNS  the window gets another size
    signal NAME        the program gets a signal: TERM

At the end one line is printed: `exit CODE restored`, or `exit CODE changed` if the terminal's modes are not as before. A
program that was ended by a signal has its negative number as code. It dies with this script.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios


def resize(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def obey(line, terminal, child):
    word, _, rest = line.partition(" ")
    if word == "type":
        os.write(terminal, rest.encode().decode("unicode_escape").encode())
    elif word == "size":
        rows, columns = rest.split()
        resize(terminal, int(rows), int(columns))
    elif word == "signal":
        os.kill(child, getattr(signal, "SIG" + rest))
    else:
        raise ValueError(f"unknown order: {line}")


def main():
    output, rows, columns, *command = sys.argv[1:]
    terminal, inner = pty.openpty()
    resize(terminal, int(rows), int(columns))
    before = termios.tcgetattr(inner)
    child = os.fork()
    if child == 0:
        os.setsid()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        for stream in (0, 1, 2):
            os.dup2(inner, stream)
        os.execvp(command[0], command)
    orders = b""
    ended = None
    with open(output, "wb", buffering=0) as kept:
        open_inputs = [terminal, 0]
        while True:
            ready, _, _ = select.select(open_inputs, [], [], 0.05)
            if terminal in ready:
                kept.write(os.read(terminal, 65536))
            elif ended is not None:
                break
            if 0 in ready:
                read = os.read(0, 4096)
                if not read:
                    # Whoever gave the orders is gone.
                    open_inputs.remove(0)
                    if ended is None:
                        os.kill(child, signal.SIGKILL)
                orders += read
                *lines, orders = orders.split(b"\n")
                for line in lines:
                    if ended is None:
                        obey(line.decode(), terminal, child)
            if ended is None:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    ended = os.waitstatus_to_exitcode(status)
    # This side keeps the terminal open, so its modes can still be asked for.
    same = termios.tcgetattr(inner) == before
    print(f"exit {ended} {'restored' if same else 'changed'}", flush=True)


main()
