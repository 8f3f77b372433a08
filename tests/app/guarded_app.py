"""Runs app.py as users do, but notes and refuses every connection to another computer.

python guarded_app.py NOTES [flags of app.py]
"""

import os
import runpy
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCAL = ("127.", "::1", "localhost")

notes = Path(sys.argv[1])
notes.touch()


def guarded(original):
    def call(*arguments, **options):
        for argument in arguments:
            host = argument[0] if isinstance(argument, tuple) else argument
            if isinstance(host, str | bytes) and not os.fsdecode(host).startswith(LOCAL):
                with notes.open("a") as file:
                    print(original.__name__, host, file=file)
                raise OSError("refused by the test")
            if isinstance(argument, tuple):
                break
        return original(*arguments, **options)

    return call


class GuardedSocket(socket.socket):
    def connect(self, address):
        return guarded(super().connect)(address)

    def connect_ex(self, address):
        return guarded(super().connect_ex)(address)

    def sendto(self, data, *rest):
        return guarded(lambda address: super(GuardedSocket, self).sendto(data, *rest))(rest[-1])


def guarded_lookup(host, *rest, original=socket.getaddrinfo, **options):
    if host is not None:
        guarded(lambda _: None)(host)
    return original(host, *rest, **options)


socket.socket = GuardedSocket
socket.getaddrinfo = guarded_lookup

sys.path.insert(0, str(ROOT))
from l2sae_jax.app import server, sessions  # noqa: E402

sessions.UPLOAD_SECONDS = 3
server._SWEEP_SECONDS = 0.5
sys.argv = [str(ROOT / "app.py"), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
