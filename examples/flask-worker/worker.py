"""The other half: works for as long as it lives, and ends its job when it is told to stop."""

import os
import signal
import threading

stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())

job = 0
while not stop.wait(2):
    job += 1
    print(f"job {job} done by group {os.environ.get('FLY_PROCESS_GROUP', '?')}", flush=True)
print("stopped between two jobs", flush=True)
