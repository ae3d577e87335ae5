"""The same worker as thumbnailer.rs, with the usual ZeroMQ and MessagePack packages: python thumbnailer.py NETID-a5"""

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
    return result  # [status, revision, …]; status 0 is ok, others have a code next


def scaled(picture, wanted):
    """A PGM picture (P5, 8 bits) of this width: each of its pixels is the mean of those that it stands for."""
    magic, columns, rows, rest = bytes(picture).split(maxsplit=3)
    columns, rows, pixels = int(columns), int(rows), rest.removeprefix(b"255\n")
    if magic != b"P5" or not 0 < wanted <= columns or len(pixels) != columns * rows or len(rest) != len(pixels) + 4:
        raise ValueError
    width, height = wanted, max(1, rows * wanted // columns)
    small = bytearray(b"P5 %d %d 255\n" % (width, height))
    for y in range(height):
        lines = range(y * rows // height, (y + 1) * rows // height)
        for x in range(width):
            left, right = x * columns // width, (x + 1) * columns // width
            total = sum(sum(pixels[row * columns + left : row * columns + right]) for row in lines)
            small.append(total // (len(lines) * (right - left)))
    return bytes(small)


while True:
    status, revision, items, lease = ask("pull", "thumbnails", {"wait": 60_000})
    for item, token, job, *_ in items:
        found = ask("get", "picture/" + job["picture"])
        try:
            small = scaled(found[2] if found[0] == 0 else b"", job["width"])
        except (TypeError, ValueError):
            ask("bury", "thumbnails", item, {"token": token, "reason": "no PGM picture"})
            continue
        # All of it or nothing: the job is done, here is the result, and one more was made in Python.
        result = ["put", "thumbnail/" + job["picture"], small]
        ask("txn", [], [["ack", "thumbnails", item, token], result, ["incr", "made/python"]])
        # Refused with lease_lost: it took too long, and somebody else has the job. Nothing was stored here then.
