"""Stands in for a server whose app was taken over: it gives a link away as its socket.

impostor.py 1 OWN TARGET     has a link in the place of its socket when it begins to listen
impostor.py 2 OWN TARGET     has the link there before, and never listens
"""

import signal
import socket
import sys
from pathlib import Path

instance, target = sys.argv[1], sys.argv[3]
own = Path(sys.argv[2])
listener = socket.socket(socket.AF_UNIX)
if instance == "1":
    listener.bind(str(own))
    own.unlink()
own.symlink_to(target)
if instance == "1":
    listener.listen()
try:
    own.parent.with_suffix(".sock").symlink_to(target)
except OSError as error:
    print("where the proxy looks:", error.strerror, flush=True)
signal.pause()
