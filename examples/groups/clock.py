"""The third group: nobody asks it anything, so nothing puts it to sleep."""

import signal
import threading
import time

stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
while not stop.wait(2):
    print(f"it is {time.strftime('%H:%M:%S')}", flush=True)
