"""Tries vectors, as tests/vectors/README.md and docs/protocol.md have them, on a broker: python vectors.py PROJECT DIRECTORY"""
import base64, glob, json, os, re, struct, sys, zmq

# By the first byte: what a MessagePack value is, and the form of the number or length behind it.
KIND = "i" * 128 + "m" * 16 + "a" * 16 + "s" * 32 + "wwwwbbbeeennnnnnnnnneeeeesssaamm" + "i" * 32
FORM = dict(zip([*range(0xC4, 0xD4), *range(0xD9, 0xE0)], "BHIBHIfdBHIQbhiqBHIHIHI"))

def unpack(body, at=0):
    """A MessagePack value, bytes in the form that JSON has for them, and the offset behind it."""
    head, at = body[at], at + 1
    if KIND[head] in "iw":
        return {0xC0: None, 0xC2: False, 0xC3: True}.get(head, head - 256 if head > 0xDF else head), at
    size = 1 << head - 0xD4 if head > 0xD3 else head & 31 if head > 0x9F else head & 15
    if head in FORM:
        (size,), at = struct.unpack_from(">" + FORM[head], body, at), at + struct.calcsize(">" + FORM[head])
    if KIND[head] == "n":
        return size, at
    if KIND[head] in "am":
        items = []
        for _ in range(size if KIND[head] == "a" else 2 * size):
            item, at = unpack(body, at)
            items.append(item)
        return (items if KIND[head] == "a" else dict(zip(map(str, items[::2]), items[1::2]))), at
    end = at + size + (KIND[head] == "e")
    return (body[at:end].decode() if KIND[head] == "s" else {"$bytes": base64.b64encode(body[at:end]).decode()}), end

def octets(notation, kind, kept={}):
    """The bytes that a vector writes in one of README.md's ways."""
    if isinstance(notation, list):
        return b"".join(octets(part, kind, kept) for part in notation)
    if isinstance(notation, dict):
        word, part = next(iter(notation.items()))
        part_kind = {"repeat": kind, "hex": "msgpack"}.get(word, "json")
        return octets(str(kept[part]) if word == "kept" else part, part_kind, kept) * notation.get("times", 1)
    parts = re.findall("'([^']*)'|([0-9a-f]{2})", notation)
    pack = b"".join(bytes.fromhex(pair or "%02x" % (0xA0 + len(text))) + text.encode() for text, pair in parts)
    return notation.encode() if kind == "json" else pack

def fits(pattern, actual, base, kept):
    if isinstance(pattern, str) and (pattern == "…" or pattern[:2] in ("R+", "K=")):
        return pattern == "…" or actual == (base + int(pattern[2:]) if pattern[0] == "R" else kept[pattern[2:]])
    if isinstance(pattern, dict) and isinstance(actual, dict):
        same = "…" in pattern or pattern.keys() == actual.keys()
        return same and all(name == "…" or name in actual and fits(pattern[name], actual[name], base, kept) for name in pattern)
    if isinstance(pattern, list) and isinstance(actual, list):
        return len(pattern) == len(actual) and all(fits(*pair, base, kept) for pair in zip(pattern, actual))
    return type(pattern) is type(actual) and pattern == actual

def ask(body, envelope=()):
    socket.send_multipart([*envelope, body])
    *front, reply = socket.recv_multipart()
    assert front == list(envelope), f"the envelope came back as {front}"
    return reply, unpack(reply)[0] if reply[0] >= 0x80 else json.loads(reply)

def refusal(reply):
    """The message's id, and the code of a result that is not ok."""
    if isinstance(reply, list):
        return reply[1], reply[3][2] if reply[3][0] in (1, 2, 3) else None
    return reply.get("id"), reply.get("error", {}).get("code")

def checks(stem, vector):
    """Whether each thing that a vector says is so, and what was seen instead."""
    kinds = [kind for kind in ("json", "msgpack") if kind in vector]
    if stem == "conversion":
        forms = {kind: octets(vector[kind], kind) for kind in kinds}
        for kind in {"to_json": ["msgpack"], "to_msgpack": ["json"]}.get(vector.get("way"), kinds):
            put = b'{"op":"put","key":"k","value":%b}' if kind == "json" else b"\x83\xa2op\xa3put\xa3key\xa1k\xa5value%b"
            _, code = refusal(ask(put % forms[kind])[1])
            yield code == vector.get("error"), code
            if code is None and "error" not in vector:
                reply, _ = ask(b'{"op":"get","key":"k"}')
                yield b'"value":%b,' % forms["json"] in reply, reply
                reply, _ = ask(octets("98 01 c0 c0 c0 c0 c0 c0 92 'get' 'k'", "msgpack"))
                _, at = unpack(reply, 6)  # behind [1, nil, nil, [0, rev
                yield reply[at : unpack(reply, at)[1]] == forms["msgpack"], reply
    elif stem == "requests":
        body, reply = ask(octets(vector[kinds[0]], kinds[0]))
        codes = [vector["error"]] if "error" in vector else [None, "not_found", "compacted"]
        yield refusal(reply) in [(vector.get("same_as", vector).get("id"), code) for code in codes], reply
        yield (body[0] >= 0x80, isinstance(reply, list)) == (kinds[0] == "msgpack", vector.get("compact", False)), body
    else:
        base, kept = ask(b'{"op":"ping"}')[1]["rev"], {}
        for step in vector["steps"]:
            kind = "json" if "json" in step else "msgpack"
            _, reply = ask(octets(step[kind], kind, kept), [bytes.fromhex(frame) for frame in step.get("envelope", [])])
            yield fits(step["reply"], reply, base, kept), reply
            kept.update({name: reply[field] for name, field in step.get("keep", {}).items()})

socket = zmq.Context.instance().socket(zmq.DEALER)
socket.rcvtimeo, socket.linger = 30_000, 0
socket.connect("ipc://" + json.load(open(f"{os.environ['KVBROKER_HOME']}/run/{sys.argv[1]}/endpoint.json"))["router"])
tried, wrong = 0, []
for path in sorted(glob.glob(sys.argv[2] + "/*.json")):
    for vector in json.load(open(path))["vectors"]:
        while keys := ask(b'{"op":"scan","keys_only":true,"limit":1000}')[1]["keys"]:
            ask(json.dumps([{"op": "del", "key": key} for key in keys]).encode())
        stem, tried = os.path.basename(path)[:-5], tried + 1
        wrong += [f"{stem}: {vector['name']}: {str(seen)[:300]}" for right, seen in checks(stem, vector) if not right][:1]
print(*wrong, f"{tried} vectors, {len(wrong)} failed", sep="\n")
sys.exit(bool(wrong) or tried == 0)
