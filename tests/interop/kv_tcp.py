"""Puts and gets over TCP with CURVE: python kv_tcp.py ENDPOINT_FILE SECRET_KEY_FILE

Shows that the file's public key is the one derived from the owner's secret and the project's name.
"""

import hashlib
import json
import sys

import zmq
from zmq.utils import z85

endpoint = json.load(open(sys.argv[1]))
line = next(line for line in open(sys.argv[2]) if line.startswith("kvsec1"))
secret = bytes.fromhex(line.strip().removeprefix("kvsec1"))
server_key = bytes.fromhex(endpoint["public_key"].removeprefix("kvpub1"))

context = b"kvbroker project key 1\0" + endpoint["project"].encode()
project_secret = hashlib.blake2b(context, key=secret, digest_size=32).digest()
assert z85.decode(zmq.curve_public(z85.encode(project_secret))) == server_key

socket = zmq.Context.instance().socket(zmq.REQ)
socket.setsockopt(zmq.RCVTIMEO, 30_000)
socket.setsockopt(zmq.LINGER, 0)
socket.curve_secretkey = z85.encode(secret)
socket.curve_publickey = zmq.curve_public(z85.encode(secret))
socket.curve_serverkey = z85.encode(server_key)
socket.connect("tcp://%s:%d" % (endpoint["tcp"]["hosts"][0], endpoint["tcp"]["port"]))
socket.send_json({"op": "put", "key": "over", "value": "tcp"})
print(socket.recv_json()["status"])
socket.send_json({"op": "get", "key": "over"})
print(socket.recv_json()["value"])
