import os, re, sys, zmq
from zmq.utils.monitor import recv_monitor_message
from zmq.utils.z85 import decode, encode

link, key_file = sys.argv[1:]  # kv://HOST:PORT/PROJECT?key=kvpub1… as `kvbroker PROJECT link` prints it; a place for a key
place, project, broker = re.fullmatch(r"kv://(.+)/(.+)\?key=kvpub1([0-9a-f]{64})", link).groups()
if not os.path.exists(key_file):
    with open(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"kvsec1{decode(zmq.curve_keypair()[1]).hex()}\n")
secret = bytes.fromhex(re.search("^kvsec1([0-9a-f]{64})$", open(key_file).read(), re.MULTILINE).group(1))
public = decode(zmq.curve_public(encode(secret)))

socket = zmq.Context.instance().socket(zmq.REQ)
socket.curve_secretkey, socket.curve_publickey, socket.curve_serverkey = secret, public, bytes.fromhex(broker)
socket.linger, socket.reconnect_ivl, socket.rcvtimeo, socket.ipv6 = 0, -1, 30_000, True
events = socket.get_monitor_socket()
socket.connect(f"tcp://{place}")
while (event := recv_monitor_message(events)["event"]) != zmq.EVENT_HANDSHAKE_SUCCEEDED:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        sys.exit(f"refused; the owner lets you in with: kvclient {project} authorize kvpub1{public.hex()} write")
    if event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
        sys.exit("nobody is there who has the broker's key")

def ask(**request):
    socket.send_json(request)
    return socket.recv_json()

me = ask(op="hello", project=project)
print(me["user"] == f"kvpub1{public.hex()}", me["role"], me.get("prefixes"))  # True write ['team/']
print(ask(op="put", key="team/zebra", value={"weight": 100})["status"])  # ok
print(ask(op="put", key="lion", value=1)["error"]["code"])  # refused
