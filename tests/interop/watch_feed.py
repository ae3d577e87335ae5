"""Prints the changes of keys under a prefix: python watch_feed.py PUB_SOCKET PREFIX COUNT

Best effort, as docs/protocol.md says. Prints `ready` at the first heartbeat: from then on subscriptions are in place.
"""

import sys

import msgpack
import zmq

pub_socket, prefix, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
socket = zmq.Context.instance().socket(zmq.SUB)
socket.setsockopt(zmq.SNDHWM, 0)
socket.setsockopt(zmq.RCVTIMEO, 30_000)
socket.subscribe(b"k" + prefix.encode())
socket.subscribe(b"h")
socket.connect("ipc://" + pub_socket)
ready = False
while count > 0:
    topic, body = socket.recv_multipart()
    change = msgpack.unpackb(body)
    if topic == b"h":
        if not ready:
            print("ready", flush=True)
            ready = True
        continue
    print(change["rev"], change["kind"], change["key"], change.get("value"), flush=True)
    count -= 1
