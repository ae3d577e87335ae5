"""Follows a prefix and misses nothing: python watch_gapless.py ENDPOINT_FILE PREFIX [FROM [UNTIL]]

Written from docs/protocol.md, "A watcher that misses nothing". FROM is `now`, `snapshot` or a revision, with :EPOCH behind it
where that is known. Ends when a put of the key UNTIL was delivered. Prints a line for whatever it learns:

    {"rev": 7, "changes": [["user/ada", "put", 36]]}    each revision that changed something, once and in order
    caught_up 7                                         everything up to here was delivered
    hole 3 6                                            the stream goes on behind 6, and 3 is where we are: the broker is asked
    snapshot begin WHY, snapshot row [KEY, VALUE, REVISION], snapshot end REVISION
    lost WHY, silent, end COUNTERS                      new connections; a stream that says nothing; the end
"""

import base64
import collections
import itertools
import json
import socket
import sys
import time

import msgpack
import zmq
from zmq.utils.monitor import recv_monitor_message

KEPT_MAX = 1_000  # messages that are kept while an answer is waited for
ANSWER_S, EVENTS_S = 5, 60
HEARTBEAT_S, FIRST_S, BOOKMARK_S = 3, 3, 45
WORD_S = 5  # between two words on how far we are
GONE = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)


class Lost(Exception):
    """The connections, or what is at their other end, are of no use any more."""


class BeginAgain(Exception):
    """What we know is worth nothing: a snapshot is due."""


class Refused(Exception):
    """The broker's refusal: its code, its revision and its sentence."""


def unpack(body):
    return msgpack.unpackb(body, strict_map_key=False)


def plain(value):
    """What JSON can say of a value."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def say(*words):
    print(*words, flush=True)


class Watcher:
    def __init__(self, endpoint_file, prefix, start="now", until=None):
        self.endpoint_file, self.prefix, self.until = endpoint_file, prefix, until
        self.topic = b"s" + len(prefix.encode()).to_bytes(2, "big") + prefix.encode()
        self.snapshot_is_due = "asked" if start == "snapshot" else None
        self.epoch = self.verified = None
        if start not in ("now", "snapshot"):
            revision, _, epoch = start.partition(":")
            self.verified, self.epoch = int(revision), epoch or None
        self.ids = itertools.count(1)
        self.kept = collections.deque()
        self.sub = self.dealer = self.monitor = None
        self.caught_up = False
        self.lost, self.said, self.say_at = 0, 0, time.monotonic()
        self.counters = collections.Counter(revisions=0, refills=0, snapshots=0, connections=0, stale=0)

    # Connections

    def find(self):
        """What the endpoint file says, if somebody listens there."""
        try:
            with open(self.endpoint_file) as file:
                endpoint = json.load(file)
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(endpoint["router"])
            return endpoint
        except (OSError, ValueError):
            return None

    def connect(self):
        while not (endpoint := self.find()):
            time.sleep(0.05)
        context = zmq.Context.instance()
        self.sub = context.socket(zmq.SUB)
        self.sub.linger, self.sub.sndhwm = 0, 0
        self.sub.subscribe(b"h")
        self.sub.subscribe(self.topic)
        self.sub.connect("ipc://" + endpoint["pub"])
        self.dealer = context.socket(zmq.DEALER)
        # Not by itself: a request that was on its way would be waited for in vain.
        self.dealer.linger, self.dealer.reconnect_ivl, self.dealer.sndtimeo = 0, -1, ANSWER_S * 1000
        self.monitor = self.dealer.get_monitor_socket()
        self.dealer.connect("ipc://" + endpoint["router"])
        self.poller = zmq.Poller()
        for each in (self.sub, self.dealer, self.monitor):
            self.poller.register(each, zmq.POLLIN)
        self.spoken, self.silence_s, self.stream_silence_s = False, 0.0, 0.0
        self.heard = self.heartbeat = None
        self.counters["connections"] += 1
        self.hello()

    def close(self):
        if self.sub is not None:
            self.dealer.disable_monitor()
            self.dealer.close()
            self.sub.close()
        self.sub = self.dealer = self.monitor = None
        self.kept.clear()
        self.caught_up = False

    def wait(self):
        """Waits a second at most, keeps what the SUB has, and says which sockets are ready."""
        before = time.monotonic()
        ready = dict(self.poller.poll(1000))
        # Only what was waited counts: when this program was stopped for a while, the broker was not silent.
        passed_s = min(time.monotonic() - before, 1.0)
        self.silence_s += passed_s
        self.stream_silence_s += passed_s
        if self.sub in ready:
            self.silence_s = 0.0
            self.read()
        if self.silence_s > HEARTBEAT_S:
            raise Lost("no heartbeat")
        if self.monitor in ready and recv_monitor_message(self.monitor)["event"] in GONE:
            raise Lost("the connection has ended")
        return ready

    def read(self):
        for _ in range(KEPT_MAX):
            try:
                topic, body = self.sub.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if topic == self.topic:
                self.spoken, self.stream_silence_s = True, 0.0
                if len(self.kept) < KEPT_MAX:
                    self.kept.append(unpack(body))
            elif topic == b"h":
                self.heartbeat = unpack(body)

    # Requests

    def ask(self, *operation, patience_s=ANSWER_S):
        """The answer to an operation and its revision. The SUB is read meanwhile."""
        request_id = None
        while True:
            if request_id is None:
                request_id = next(self.ids)
                try:
                    self.dealer.send(msgpack.packb([1, request_id, None, None, None, None, None, operation]))
                except zmq.Again:
                    raise Lost("no request can be sent") from None
                deadline = time.monotonic() + patience_s
            if self.dealer in self.wait():
                _, reply_id, _, result = unpack(self.dealer.recv())
                if reply_id != request_id:
                    continue
                status, revision, *answer = result
                if status == 0:
                    return revision, answer
                code, message, retry_ms = answer[:3]
                if code == "busy":
                    again = time.monotonic() + (retry_ms or 100) / 1000
                    while time.monotonic() < again:
                        self.wait()
                    request_id = None
                elif code == "shutting_down":
                    raise Lost(code)
                else:
                    raise Refused(code, revision, message)
            elif time.monotonic() > deadline:
                raise Lost("no answer")

    def hello(self):
        """Who the broker is; begins again where its history is not ours."""
        verified = self.verified
        revision, (me, *_) = self.ask("hello")
        if self.snapshot_is_due is None and self.epoch is not None:
            if me["epoch"] != self.epoch:
                raise BeginAgain("other history")
            if revision < verified:
                raise BeginAgain("rolled back")
        return me

    def events(self):
        """A page of what is behind where we are, delivered; true if there may be more."""
        options = {} if self.verified is None else {"after": self.verified}
        if self.epoch is not None:
            options["epoch"] = self.epoch
        if self.lost:
            options["lost"], self.lost = self.lost, 0
        try:
            _, (events, through, more, epoch, *_) = self.ask("events", self.prefix, options, patience_s=EVENTS_S)
        except Refused as refusal:
            code, revision, _ = refusal.args
            if code == "compacted":
                raise BeginAgain("compacted") from None
            if code == "invalid" and revision is not None and self.verified is not None and revision < self.verified:
                raise BeginAgain("rolled back") from None
            raise
        self.epoch = epoch
        self.deliver(events)
        self.verified = max(self.verified or 0, through)
        return more

    def snapshot(self):
        say("snapshot begin", self.snapshot_is_due)
        while True:
            instance = self.hello()["instance"]
            rows, options = [], {"prefix": self.prefix, "snapshot": 0}
            try:
                while True:
                    revision, (page, cursor, *snapshot) = self.ask("scan", options)
                    rows += page
                    if options["snapshot"] == 0:
                        verified = snapshot[0] if snapshot else revision
                    if cursor is None:
                        break
                    options.update(cursor=cursor, snapshot=verified)
            except Refused as refusal:
                if refusal.args[0] != "snapshot_gone":
                    raise
                continue
            me = self.hello()
            if me["instance"] == instance:
                break
        for row in rows:
            say("snapshot row", json.dumps(plain(row)))
        self.epoch, self.verified, self.snapshot_is_due = me["epoch"], verified, None
        self.counters["snapshots"] += 1
        say("snapshot end", verified)

    # The rule

    def deliver(self, events):
        for revision, _, changes, *_ in events or []:
            if self.verified is None or revision > self.verified:
                self.verified = revision
                self.counters["revisions"] += 1
                say(json.dumps({"rev": revision, "changes": plain(changes)}))
                if any(key == self.until and kind == "put" for key, kind, *_ in changes):
                    say("end", json.dumps(self.counters))
                    sys.exit()

    def say_where(self):
        """Tells the broker how far we are, now that all that came before the heartbeat was applied."""
        beat, now = self.heartbeat, time.monotonic()
        # A heartbeat need not say where the table is.
        if beat is None or not self.caught_up or beat.get("epoch") != self.epoch or beat.get("rev", 0) <= self.said or now < self.say_at:
            return
        self.said, self.say_at = max(beat["rev"], self.verified), now + WORD_S
        try:
            self.ask("events", self.prefix, {"after": self.said, "epoch": self.epoch, "limit": 0})
        except Refused:
            pass  # what is wrong the stream will show

    def apply(self, message):
        if self.heard is not None and message["prev"] > self.heard:
            self.lost += 1
        self.heard = message["rev"]
        if self.epoch is None:
            self.epoch = message["epoch"]
            self.verified = message["prev"] if self.verified is None else self.verified
        if message["epoch"] != self.epoch:
            # Of the history to come, or of one before ours that this SUB had still in hand: hello knows.
            self.hello()
            self.counters["stale"] += 1
            return
        if message["prev"] > self.verified:
            say("hole", self.verified, message["prev"])
            self.counters["refills"] += 1
            self.caught_up = False
            while self.verified < message["prev"]:
                if not self.events() and self.verified < message["prev"]:
                    self.counters["stale"] += 1
                    return
        self.deliver(message.get("events"))
        self.verified = max(self.verified, message["rev"])
        self.tell_caught_up()

    def tell_caught_up(self):
        if not self.caught_up:
            self.caught_up = True
            say("caught_up", self.verified)

    def follow(self):
        while True:
            while self.kept:
                self.apply(self.kept.popleft())
            self.say_where()
            self.wait()
            if not self.kept and self.stream_silence_s > (BOOKMARK_S if self.spoken else FIRST_S):
                say("silent")
                self.sub.unsubscribe(self.topic)
                self.sub.subscribe(self.topic)
                while self.events():
                    pass
                self.tell_caught_up()
                self.spoken, self.stream_silence_s, self.heard = bool(self.kept), 0.0, None

    def run(self):
        while True:
            try:
                if self.sub is None:
                    self.connect()
                if self.snapshot_is_due is not None:
                    self.snapshot()
                self.follow()
            except Lost as why:
                say("lost", why)
                self.close()
                time.sleep(0.05)  # a broker that refuses everybody is not asked without end
            except BeginAgain as why:
                self.snapshot_is_due = str(why)
                self.caught_up = False


if __name__ == "__main__":
    Watcher(*sys.argv[1:]).run()
