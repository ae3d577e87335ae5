import itertools, json, msgpack, os, sys, zmq

home, user = os.environ.get("KVBROKER_HOME"), os.getuid()
bases = [f"{home}/run"] if home else [f"{os.environ.get('XDG_RUNTIME_DIR')}/kvbroker", f"/tmp/kvbroker-{user}", f"/run/user/{user}/kvbroker"]
endpoint = json.load(open(next(filter(os.path.exists, (f"{base}/{sys.argv[1]}/endpoint.json" for base in bases)))))
socket = zmq.Context.instance().socket(zmq.DEALER)
socket.connect("ipc://" + endpoint["router"])
ids = itertools.count(1)

def ask(*operation):
    socket.send(msgpack.packb([1, next(ids), None, None, None, None, None, operation]))
    version, id, retry_safe, result = msgpack.unpackb(socket.recv())
    return result

print(ask("put", "zebra", {"weight": 100, "raw": b"\x00\xff"}))  # [0, 1]: status ok, revision
print(ask("get", "zebra"))  # [0, 1, {'weight': 100, 'raw': b'\x00\xff'}, 1, 1]: …, value, modified, created
