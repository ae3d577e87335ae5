//! Every bound of the wire protocol in one place, with the relations between them checked at compile time.
//!
//! Hello reports the ones a client must know. A request over a bound is refused (`limit` or `invalid`, definite).

/// Longest key, bytes.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Longest value, bytes of its stored document.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// Longest message body, bytes; also what libzmq is told as the largest frame.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Most frames of one message, envelope included.
pub const FRAMES_MAX: usize = 8;
/// Most envelope frames, the empty delimiter included.
pub const ENVELOPE_FRAMES_MAX: usize = 4;
/// Deepest nesting of arrays and maps in a body; the operation's own map or array counts.
pub const DEPTH_MAX: usize = 100;
/// Most operations of one array.
pub const ARRAY_OPERATIONS_MAX: usize = 4_096;
/// Most comparisons and operations of one transaction, both lists together.
pub const TXN_OPERATIONS_MAX: usize = 1_024;
/// Longest regular expression, bytes.
pub const REGEX_BYTES_MAX: usize = 4 << 10;
/// Largest compiled regular expression, bytes of the regex engine's program.
pub const REGEX_PROGRAM_BYTES_MAX: usize = 256 << 10;
/// What the regex engine may keep in memory to make matching fast, bytes; only while a page is made.
pub const REGEX_CACHE_BYTES_MAX: usize = 256 << 10;
/// Most regular expressions in the operations of one array, those in predicates included: compiling a large one takes about a millisecond.
pub const ARRAY_REGEXES_MAX: usize = 16;
/// Longest predicate, bytes.
pub const PREDICATE_BYTES_MAX: usize = 4 << 10;
/// Most parentheses and `not` inside one another in a predicate.
pub const PREDICATE_DEPTH_MAX: usize = 32;
/// Most comparisons in a predicate.
pub const PREDICATE_TERMS_MAX: usize = 64;
/// Most regular expressions in a predicate.
pub const PREDICATE_REGEXES_MAX: usize = 4;
/// Bytes of a value that a predicate walks over for one unit of [`TURN_WORK_MAX`], with few places to look for.
pub const PREDICATE_BYTES_PER_UNIT: usize = 16;
/// Bytes of a value that are converted for one unit of [`TURN_WORK_MAX`], where a predicate meets JSON's forms with a dollar.
pub const PREDICATE_CONVERTED_BYTES_PER_UNIT: usize = 8;
/// Places in a value that make a predicate's walk as much dearer as the walk itself is.
pub const PREDICATE_PLACES_PER_WALK: usize = 16;
/// Most work that a predicate's regular expression does on one text, in units of [`TURN_WORK_MAX`]: on a longer text it never matches.
pub const MATCH_WORK_MAX: usize = 4 << 20;
/// Most rows of one page.
pub const PAGE_ROWS_MAX: usize = 10_000;
/// Most bytes of keys and stored values of one page; one row always fits.
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// Most keys that the scans and queries of one message examine together.
pub const EXAMINED_KEYS_MAX: usize = 10_000;
/// Of these, a page's that is asked for alone while other clients have work done: they wait for its end.
pub const EXAMINED_IN_COMPANY_MAX: usize = 200;
/// Most work that the scans and queries of one message do together, in units that take 0.1 µs at worst and mostly much less: a byte
/// of a key costs one unit for each KiB of the compiled regex, [`QUERY_BYTES_PER_UNIT`] bytes of a value that a query looks into cost
/// one. Keys alone bound nothing: one can be 64 KiB long and its value 8 MiB. The key at which the work is used up is still examined.
pub const TURN_WORK_MAX: usize = 256 << 10;
/// Bytes of a value that a query looks into for one unit of [`TURN_WORK_MAX`].
pub const QUERY_BYTES_PER_UNIT: usize = 32;
/// Most bytes of keys and stored values in the replies to the reads of one array.
pub const ARRAY_REPLY_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Most requests of one client that are taken and not answered.
pub const IN_FLIGHT_MAX: usize = 4_096;
/// Most bytes of one client's requests that are taken and not answered.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Most mutations a session keeps unacknowledged (the window W).
pub const SESSION_WINDOW: usize = 4_096;
/// Most bytes of replies that one session has remembered and not acknowledged before it is told `busy`. The reply that passes the
/// bound is still remembered, as a mutation's size of reply is known only once it is done.
pub const SESSION_REPLY_BYTES_MAX: usize = 16 << 20;
/// Most bytes of remembered replies, all sessions together.
pub const SESSIONS_REPLY_BYTES_MAX: usize = 256 << 20;
/// Most of them of a user other than the owner.
pub const SESSIONS_REPLY_BYTES_PER_USER_MAX: usize = SESSIONS_REPLY_BYTES_MAX / 4;
/// Most sessions that are known, ended ones included.
pub const SESSIONS_MAX: usize = 100_000;
/// Most sessions of one authenticated key that are known, ended ones included.
pub const SESSIONS_PER_OWNER_MAX: usize = 20_000;
/// A session used within this time is never forgotten, milliseconds.
pub const SESSION_KEEP_MS: u64 = 10 * 60 * 1_000;
/// A session id that was born further ahead of the broker's time than this is none of its own, milliseconds.
pub const SESSION_AHEAD_MS: u64 = 60_000;
/// Longest time to live, milliseconds: a hundred years.
pub const TTL_MS_MAX: u64 = 100 * 365 * 24 * 3_600 * 1_000;
/// Most keys whose deadline has come that are removed before one batch of requests.
pub const EXPIRIES_PER_BATCH_MAX: usize = 1_000;
/// Most bytes of keys that one `del_prefix` removes.
pub const DEL_PREFIX_BYTES_MAX: usize = 1 << 20;
/// Most bytes that one message makes the log write beyond those that it brings itself: values that `expire` and `persist` write again
/// with another deadline, and keys that `del_prefix` removes. A few bytes could ask for gigabytes otherwise.
pub const TURN_LOG_BYTES_MAX: usize = 16 << 20;
/// Most versions in one answer to `history`.
pub const HISTORY_VERSIONS_MAX: usize = 1_000;
/// Versions in an answer to `history` where no limit is given.
pub const HISTORY_VERSIONS_DEFAULT: usize = 100;
/// Most bytes of versions that one pass over the log collects, all requests together; who does not fit waits for the next pass.
pub const HISTORY_PASS_BYTES_MAX: usize = 64 << 20;
/// Most bytes of the table's latest changes, with what they replaced, that are kept in memory. The log has the rest.
pub const HISTORY_MEMORY_BYTES_MAX: usize = 64 << 20;
/// Most requests that wait for the log's reader: for a `history`, and for `events` behind a revision that is not in memory any more.
pub const HISTORY_CALLS_MAX: usize = 256;
/// Most of them of a user other than the owner.
pub const HISTORY_CALLS_PER_USER_MAX: usize = HISTORY_CALLS_MAX / 4;
/// Most changes of the table that one answer to `events` looks at, those of other keys included; a revision is always looked at whole.
pub const EVENTS_CHANGES_MAX: usize = 4_000;
/// Most work that the predicate of one request for `events` does on the first revision, which is gone through whole or not at all, in
/// units of [`TURN_WORK_MAX`]; behind it, all that it does comes to [`TURN_WORK_MAX`] at most.
pub const EVENTS_WORK_MAX: usize = PREDICATE_REGEXES_MAX * MATCH_WORK_MAX;
/// Most bytes of a revision's keys and values, old ones included, with which `events` tells another old value.
pub const EVENTS_DETAIL_BYTES_MAX: usize = 2 * (VALUE_BYTES_MAX + KEY_BYTES_MAX);
/// Most bytes of keys and values that one answer to `events` has where it comes from the log; one revision always fits.
pub const EVENTS_LOG_PAGE_BYTES_MAX: usize = 512 << 10;
/// Most bytes of the log that are read for one answer to `events`, behind the place where its page begins.
pub const EVENTS_LOG_READ_BYTES_MAX: u64 = 16 << 20;
/// Most places of the log that its reader remembers, for pages that begin where others ended. About 100 bytes each.
pub const EVENTS_LOG_PLACES_MAX: usize = 4_096;
/// Who hears a stream says at most so often how far it is, milliseconds, and at least so often while it is told anything new.
pub const FOLLOWER_WORD_MS: u64 = 5_000;
/// Most clients that `stats` knows of as followers: those that asked for `events` last.
pub const FOLLOWERS_MAX: usize = 64;
/// Most bytes of the text in which it tells of them; who asked longest ago is left out.
pub const FOLLOWERS_TEXT_BYTES_MAX: usize = 3 << 10;
/// Longest wait of `events` for a change, milliseconds.
pub const EVENTS_WAIT_MS_MAX: u64 = 60_000;
/// Most requests of one client that wait for a change.
pub const PARKED_PER_CLIENT_MAX: usize = 256;
/// Most requests that wait for a change, of one user other than the owner.
pub const PARKED_PER_USER_MAX: usize = 1_024;
/// Most requests that wait for a change, all users together.
pub const PARKED_MAX: usize = 16_384;
/// Most bytes that these take.
pub const PARKED_BYTES_MAX: usize = 64 << 20;
/// Most bytes of those of one user other than the owner.
pub const PARKED_USER_BYTES_MAX: usize = PARKED_BYTES_MAX / 4;
/// Most `authorize`, `revoke` and `who` requests that wait for the gatekeeper.
pub const ACCESS_CALLS_MAX: usize = 256;
/// Longest delimiter of `ls`, bytes.
pub const DELIMITER_BYTES_MAX: usize = 64;
/// Most snapshots that are open.
pub const SNAPSHOTS_MAX: usize = 64;
/// Most snapshots that a user other than the owner has open; and so many of all are left for the owner.
pub const SNAPSHOTS_PER_USER_MAX: usize = SNAPSHOTS_MAX / 4;
/// Most bytes of old values that open snapshots hold together.
pub const SNAPSHOT_BYTES_MAX: usize = 128 << 20;
/// A snapshot that nobody reads is given up after this time, milliseconds.
pub const SNAPSHOT_IDLE_MS: u64 = 30_000;
/// A snapshot whose last page was read is kept this long, in case the reply was lost and the page is asked for again, milliseconds.
pub const SNAPSHOT_LINGER_MS: u64 = 10_000;
/// Most calls in the intake queue, all clients together.
pub const INTAKE_CALLS_MAX: usize = 65_536;
/// Most bytes of calls in the intake queue, all clients together.
pub const INTAKE_BYTES_MAX: usize = 256 << 20;
/// Most calls of one batch: bounds the time between two syncs.
pub const BATCH_CALLS_MAX: usize = 8_192;
/// Most bytes of requests of one batch.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// Work after which a batch takes no more requests, in the units of [`TURN_WORK_MAX`]: about ten milliseconds of ordinary ones.
pub const BATCH_WORK_MAX: usize = 160 << 10;
/// The part of it that users other than the owner may have in one batch: about two milliseconds.
pub const OTHERS_WORK_MAX: usize = 32 << 10;
/// A request that may cost this much or more is dear: it waits for its turn among its kind, so that others need not wait for many.
/// About a millisecond.
pub const DEAR_WORK_MIN: usize = 16 << 10;
/// What a client may spend in one go while others wait.
pub const CLIENT_WORK_AT_ONCE: usize = 1 << 10;
/// Most bytes of replies and events that wait in the release queue before the worker pauses.
pub const RELEASE_BYTES_MAX: usize = 256 << 20;
/// What a client is credited with, bytes: with so much of replies made for it that have not left the broker, its next request waits
/// until some have. One reply is always made, however large.
pub const REPLY_CREDIT_BYTES: usize = 8 << 20;
/// Most bytes of replies that have not left the broker, all clients together. Beyond them only small replies are made.
pub const REPLIES_BYTES_MAX: usize = 256 << 20;
/// Most of them of the clients of one user other than the owner; all such users together leave the owner as much.
pub const USER_REPLIES_BYTES_MAX: usize = 64 << 20;
/// A small reply, bytes: the answer to `stats` is one.
pub const SMALL_REPLY_BYTES: usize = 12 << 10;
/// What a client is credited with, bytes, while [`REPLIES_BYTES_MAX`] or [`USER_REPLIES_BYTES_MAX`] is used up.
pub const SMALL_CREDIT_BYTES: usize = 4 << 10;
/// Most bytes of refusals that one client has not read; beyond them they are dropped.
pub const REFUSAL_BYTES_MAX: usize = 1 << 20;
/// Bytes of one client's replies in libzmq's hands that are not counted yet: what small replies come to before one of them is watched.
pub const REPLY_UNCOUNTED_BYTES: usize = 4 << 10;
/// Most requests of clients without credit that wait for it, all clients together; beyond them `busy`.
pub const HELD_CALLS_MAX: usize = INTAKE_CALLS_MAX / 4;
/// Most bytes of the same.
pub const HELD_BYTES_MAX: usize = INTAKE_BYTES_MAX / 4;
/// One request of a client without credit that is not larger than this may always wait, bytes.
pub const HELD_SMALL_BYTES: usize = 4 << 10;
/// Most bytes of events that wait for the publisher; beyond, whole batches of events are dropped there and counted.
pub const PUBLISH_BYTES_MAX: usize = 64 << 20;
/// Most prefixes whose streams are kept; whoever subscribes to another one gets no bookmark, and asks `events`.
pub const STREAMS_MAX: usize = 16_384;
/// A stream's message with more bytes of changes than this has only one revision.
pub const STREAM_MESSAGE_BYTES: usize = 64 << 10;
/// Most bytes of what one revision changed under a prefix that are sent on its stream; a larger one is told as a hole.
pub const STREAM_REVISION_BYTES_MAX: usize = 1 << 20;
/// Most bytes of changes that all streams together gather before they are sent, beside those of one batch.
pub const STREAMS_GATHERED_BYTES_MAX: usize = 8 << 20;
/// Most bytes of published messages that libzmq holds for subscribers who read too slowly. From a half of it on those are looked for who
/// read nothing, and cut off; from three quarters on nothing is published until they are; beyond it all are cut off and come back.
pub const PUBLISHED_UNREAD_BYTES_MAX: usize = 256 << 20;
/// Most messages that libzmq holds for one subscriber; beyond them they are lost to it.
pub const PUBLISHED_UNREAD_MAX: usize = 2_048;
/// Most connections of the front end.
pub const CONNECTIONS_MAX: usize = 10_000;
/// A connection that has not finished its handshake by then is closed, milliseconds. libzmq's default of 30 s lets silent strangers
/// hold descriptors for too long.
pub const HANDSHAKE_MS: i32 = 3_000;
/// Most users that `authorized_clients` names.
pub const GRANTS_MAX: usize = 4_096;
/// Most key prefixes of one user.
pub const GRANT_PREFIXES_MAX: usize = 64;
/// Longest comment on one user, bytes.
pub const GRANT_COMMENT_BYTES_MAX: usize = 256;
/// Largest `authorized_clients`, bytes.
pub const GRANTS_BYTES_MAX: usize = 1 << 20;
/// Most connections of the publisher.
pub const PUB_CONNECTIONS_MAX: usize = 10_000;
/// Most subscriptions of one user, all of its connections together. libzmq may need 2 KiB for each (a node's table of 256 places).
pub const SUBSCRIPTIONS_PER_USER_MAX: usize = 16_384;
/// Most bytes of their topics. libzmq needs about 50 bytes for each of them.
pub const SUBSCRIPTION_BYTES_PER_USER_MAX: usize = 1 << 20;
/// Most subscriptions of all users together.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;
/// Most bytes of their topics.
pub const SUBSCRIPTION_BYTES_MAX: usize = 4 << 20;
/// What a subscription counts beside its topic's bytes, where users are compared.
pub const SUBSCRIPTION_BASE_BYTES: usize = 40;
/// How long a user who subscribed to more than it may can't subscribe at all, milliseconds.
pub const SHUT_OUT_MS: u64 = 60_000;
/// Longest name of a queue, bytes.
pub const QUEUE_NAME_BYTES_MAX: usize = 255;
/// Longest content type of an item, bytes.
pub const QUEUE_TYPE_BYTES_MAX: usize = 128;
/// Longest reason why an item came back or is dead, bytes.
pub const QUEUE_REASON_BYTES_MAX: usize = 1 << 10;
/// Most queues.
pub const QUEUES_MAX: usize = 10_000;
/// Most items of one pull, peek, kick or purge.
pub const QUEUE_ITEMS_MAX: usize = 1_000;
/// Shortest lease, milliseconds.
pub const QUEUE_LEASE_MS_MIN: u64 = 100;
/// Longest lease, milliseconds.
pub const QUEUE_LEASE_MS_MAX: u64 = 24 * 3_600 * 1_000;
/// The lease of a queue that was declared without one, milliseconds.
pub const QUEUE_LEASE_MS_DEFAULT: u64 = 30_000;
/// How often an item is delivered before it is dead, in a queue that was declared without a number.
pub const QUEUE_DELIVERIES_DEFAULT: u32 = 10;
/// Longest wait of a pull for an item, milliseconds.
pub const QUEUE_WAIT_MS_MAX: u64 = 60_000;
/// The broker knows of so many items how they ended, the last ones of all queues; not over a restart.
pub const QUEUE_ENDS_MAX: usize = 65_536;
/// Through so many queues at most an item can pass that is dead in each of them.
pub const QUEUE_DEAD_CHAIN_MAX: usize = 16;
/// Longest subject, and longest pattern, bytes.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// Most tokens of a subject or a pattern.
pub const SUBJECT_TOKENS_MAX: usize = 32;
/// Most bindings of all queues,
pub const BINDINGS_MAX: usize = 10_000;
/// of one queue,
pub const BINDINGS_PER_QUEUE_MAX: usize = 1_000;
/// and most regular expressions in the predicates of all of them, which stay compiled.
pub const BINDING_REGEXES_MAX: usize = 256;
/// Most queues that get a copy of one message.
pub const PUBLISH_COPIES_MAX: usize = 1_000;
/// Most copies that the answer to a publish names.
pub const PUBLISH_COPIES_TOLD_MAX: usize = 100;
/// Most tokens of patterns that are looked at to find the bindings of one subject.
pub const ROUTE_STEPS_MAX: usize = 100_000;
/// Most columns of CSV.
pub const CSV_COLUMNS_MAX: usize = 4_096;
/// Bytes that are converted for one unit of [`TURN_WORK_MAX`].
pub const CONVERSION_BYTES_PER_UNIT: usize = 8;
/// Most work that a rule's steps do on one value, in units of [`TURN_WORK_MAX`].
pub const CONVERSION_WORK_MAX: usize = TURN_WORK_MAX;
/// Most rules.
pub const RULES_MAX: usize = 1_000;
/// Longest name of a rule, bytes.
pub const RULE_NAME_BYTES_MAX: usize = 255;
/// Longest name of a rule's consumer, bytes.
pub const RULE_CONSUMER_BYTES_MAX: usize = 128;
/// Longest pattern of subjects in a rule, bytes.
pub const RULE_SUBJECT_BYTES_MAX: usize = 255;
/// Most tokens of the patterns of all rules for one consumer or type, which are looked through for each item.
pub const RULE_SUBJECT_TOKENS_MAX: usize = 3_000;
/// Most steps of a rule.
pub const RULE_STEPS_MAX: usize = 64;
/// Longest path in a rule, bytes.
pub const RULE_PATH_BYTES_MAX: usize = 255;
/// Most bytes of a rule's defaults.
pub const RULE_DEFAULT_BYTES_MAX: usize = 4 << 10;
/// Shortest time limit of a program, milliseconds.
pub const PROGRAM_TIME_LIMIT_MS_MIN: u64 = 100;
/// Longest time limit of a program, milliseconds.
pub const PROGRAM_TIME_LIMIT_MS_MAX: u64 = 3_600 * 1_000;
/// The time limit of a program that was declared without one, milliseconds.
pub const PROGRAM_TIME_LIMIT_MS_DEFAULT: u64 = 60_000;
/// How long an item that could not be converted rests the first time, milliseconds; twice as long each time after.
pub const NOT_CONVERTED_REST_MS_MIN: u64 = 1_000;
/// How long it rests at most, milliseconds.
pub const NOT_CONVERTED_REST_MS_MAX: u64 = 60_000;
/// What a `busy` answer tells the client to wait, milliseconds.
pub const RETRY_AFTER_MS: u64 = 100;

/// What a predicate's walk over a value costs at worst, in units of [`TURN_WORK_MAX`].
pub const fn search_work(value_bytes: usize, places: usize, is_converted: bool) -> usize {
    let walk = value_bytes / PREDICATE_BYTES_PER_UNIT;
    let converting = if is_converted { value_bytes / PREDICATE_CONVERTED_BYTES_PER_UNIT } else { 0 };
    walk + walk * places / PREDICATE_PLACES_PER_WALK + converting
}

const _: () = {
    assert!(KEY_BYTES_MAX <= u16::MAX as usize, "stream topics hold a key's length in 16 bits");
    assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX + 4096 <= MESSAGE_BYTES_MAX, "the largest put must fit in a message");
    assert!(PAGE_BYTES_MAX <= ARRAY_REPLY_BYTES_MAX, "an array holds at least one full page");
    assert!(VALUE_BYTES_MAX <= ARRAY_REPLY_BYTES_MAX, "an array can read the largest value");
    assert!(PAGE_ROWS_MAX <= EXAMINED_KEYS_MAX, "a full page is reachable in one turn");
    assert!(VALUE_BYTES_MAX / QUERY_BYTES_PER_UNIT <= TURN_WORK_MAX, "one key alone does not use up a turn of queries");
    assert!(REGEX_PROGRAM_BYTES_MAX >= 1 << 10, "a regex costs at least one unit per byte");
    assert!(REGEX_BYTES_MAX <= PREDICATE_BYTES_MAX, "a predicate can be about as long as its regex");
    assert!(PREDICATE_REGEXES_MAX < ARRAY_REGEXES_MAX, "one operation's own regex and those of its predicate fit into an array");
    // What one key costs at worst beyond a turn that is all but used up is no more than the dearest regex on the longest key.
    assert!(PREDICATE_REGEXES_MAX * MATCH_WORK_MAX <= 16 << 20, "one key must not stall the others");
    assert!(
        search_work(VALUE_BYTES_MAX, PREDICATE_TERMS_MAX, true) <= MATCH_WORK_MAX,
        "walking over the largest value costs no more than the dearest text"
    );
    assert!(ENVELOPE_FRAMES_MAX < FRAMES_MAX, "an envelope leaves room for the body");
    assert!(SESSION_WINDOW >= ARRAY_OPERATIONS_MAX, "one full array of mutations fits into the window");
    assert!(TXN_OPERATIONS_MAX <= ARRAY_OPERATIONS_MAX, "an array holds at least one full transaction");
    assert!(MESSAGE_BYTES_MAX <= BATCH_BYTES_MAX, "the largest message fits into a batch");
    assert!(
        CLIENT_WORK_AT_ONCE < DEAR_WORK_MIN && DEAR_WORK_MIN < OTHERS_WORK_MAX && OTHERS_WORK_MAX < BATCH_WORK_MAX,
        "a cheap request is more than a share, less than a turn"
    );
    assert!(BATCH_BYTES_MAX <= INTAKE_BYTES_MAX, "a full batch fits into the intake queue");
    assert!(IN_FLIGHT_BYTES_MAX <= INTAKE_BYTES_MAX, "one client cannot need more than the queue holds");
    assert!(IN_FLIGHT_MAX <= INTAKE_CALLS_MAX, "one client cannot need more than the queue holds");
    assert!(SESSION_WINDOW <= u16::MAX as usize, "a remembered reply's place in the window has 16 bits");
    assert!(SESSION_REPLY_BYTES_MAX >= ARRAY_REPLY_BYTES_MAX, "one full array's replies can be remembered");
    assert!(SESSION_REPLY_BYTES_MAX <= SESSIONS_REPLY_BYTES_MAX, "one session cannot need more than all may");
    assert!(SESSION_REPLY_BYTES_MAX <= SESSIONS_REPLY_BYTES_PER_USER_MAX, "nor more than all of its user may");
    assert!(SESSIONS_PER_OWNER_MAX <= SESSIONS_MAX, "one key cannot need more sessions than all may");
    assert!(EXPIRIES_PER_BATCH_MAX * (KEY_BYTES_MAX + 128) <= 2 * BATCH_BYTES_MAX + (16 << 20), "expiries fit into a batch");
    assert!(DEL_PREFIX_BYTES_MAX > KEY_BYTES_MAX, "one key always fits");
    assert!(DEL_PREFIX_BYTES_MAX <= TURN_LOG_BYTES_MAX, "a del_prefix of its own has its whole share");
    assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX <= TURN_LOG_BYTES_MAX, "the largest value can get a deadline");
    // What we hold ourselves at the worst moment; libzmq's own buffers come on top (docs/operations.md).
    assert!(INTAKE_BYTES_MAX + RELEASE_BYTES_MAX + PUBLISH_BYTES_MAX + BATCH_BYTES_MAX <= 640 << 20);
    assert!(RELEASE_BYTES_MAX <= REPLIES_BYTES_MAX, "what waits for the front end is charged, too");
    assert!(SESSIONS_REPLY_BYTES_MAX + SNAPSHOT_BYTES_MAX + HISTORY_PASS_BYTES_MAX + HISTORY_MEMORY_BYTES_MAX <= 512 << 20);
    assert!(REPLY_CREDIT_BYTES >= VALUE_BYTES_MAX, "the largest values can follow each other without a pause");
    assert!(REPLY_CREDIT_BYTES >= IN_FLIGHT_MAX * 1_024, "a pipeline of ordinary replies is never held back");
    assert!(REPLIES_BYTES_MAX >= 16 * ARRAY_REPLY_BYTES_MAX, "a few clients cannot use up what all may have");
    assert!(USER_REPLIES_BYTES_MAX >= 4 * ARRAY_REPLY_BYTES_MAX, "nor one of a user what all of it may have");
    assert!(USER_REPLIES_BYTES_MAX <= REPLIES_BYTES_MAX / 4, "one user leaves most of it to the others");
    assert!(CONNECTIONS_MAX * REPLY_UNCOUNTED_BYTES <= 64 << 20, "what is not counted does not matter");
    assert!(SMALL_REPLY_BYTES > SMALL_CREDIT_BYTES && SMALL_CREDIT_BYTES >= REPLY_UNCOUNTED_BYTES);
    assert!(SMALL_REPLY_BYTES <= REPLY_CREDIT_BYTES / 64);
    // With every connection there may be, and no client that reads.
    assert!(
        REPLIES_BYTES_MAX + CONNECTIONS_MAX * (SMALL_CREDIT_BYTES + SMALL_REPLY_BYTES + REPLY_UNCOUNTED_BYTES) <= 480 << 20,
        "what clients do not read stays below half a GiB"
    );
    assert!(SUBSCRIPTION_BYTES_PER_USER_MAX > 8 * KEY_BYTES_MAX, "the longest prefixes can be watched");
    assert!(4 * SUBSCRIPTIONS_PER_USER_MAX <= SUBSCRIPTIONS_MAX && 4 * SUBSCRIPTION_BYTES_PER_USER_MAX <= SUBSCRIPTION_BYTES_MAX);
    // What libzmq needs for them at worst, both kinds of topics at once.
    assert!(
        50 * SUBSCRIPTION_BYTES_MAX + 2_048 * SUBSCRIPTIONS_MAX <= 384 << 20,
        "subscriptions stay within a third of a gibibyte"
    );
    // What subscribers have not read, in the hands of libzmq, and what is on its way to it.
    assert!(PUBLISHED_UNREAD_BYTES_MAX + PUBLISH_BYTES_MAX + 4 * STREAMS_GATHERED_BYTES_MAX <= 352 << 20);
    assert!(SUBSCRIPTIONS_PER_USER_MAX <= STREAMS_MAX, "one user's subscriptions can all be streams");
    assert!(STREAM_MESSAGE_BYTES <= STREAM_REVISION_BYTES_MAX && STREAM_REVISION_BYTES_MAX <= STREAMS_GATHERED_BYTES_MAX);
    assert!(
        PUBLISHED_UNREAD_MAX * STREAM_MESSAGE_BYTES <= PUBLISHED_UNREAD_BYTES_MAX / 2,
        "one subscriber with ordinary messages loses its own before all are cut off"
    );
    assert!(IN_FLIGHT_MAX <= HELD_CALLS_MAX / 2, "one client alone may wait with all its requests");
    assert!(CONNECTIONS_MAX * HELD_SMALL_BYTES <= INTAKE_BYTES_MAX / 4, "one small request of everybody can wait");
    assert!(
        SNAPSHOTS_PER_USER_MAX > 0 && 2 * SNAPSHOTS_PER_USER_MAX <= SNAPSHOTS_MAX,
        "no user but the owner has most snapshots"
    );
    assert!(SNAPSHOT_LINGER_MS <= SNAPSHOT_IDLE_MS, "a snapshot that was read to its end is kept no longer than another");
    assert!(SNAPSHOT_BYTES_MAX >= 2 * (VALUE_BYTES_MAX + KEY_BYTES_MAX), "one large value does not end every snapshot");
    assert!(HISTORY_MEMORY_BYTES_MAX >= 4 * (VALUE_BYTES_MAX + KEY_BYTES_MAX), "one large value does not end the history");
    assert!(GRANTS_MAX * 128 <= GRANTS_BYTES_MAX, "the file holds as many plain lines as it may");
    assert!(
        GRANTS_MAX * GRANT_COMMENT_BYTES_MAX + 2 * GRANTS_BYTES_MAX <= MESSAGE_BYTES_MAX,
        "an answer to `who` fits into a message"
    );
    assert!(HISTORY_CALLS_PER_USER_MAX > 0 && 2 * HISTORY_CALLS_PER_USER_MAX <= HISTORY_CALLS_MAX, "as of snapshots");
    assert!(
        HISTORY_CALLS_MAX * EVENTS_LOG_PAGE_BYTES_MAX <= REPLIES_BYTES_MAX / 2
            && HISTORY_CALLS_PER_USER_MAX * EVENTS_LOG_PAGE_BYTES_MAX <= USER_REPLIES_BYTES_MAX / 2,
        "the room that all who catch up may wait for leaves as much to others"
    );
    assert!(FOLLOWERS_TEXT_BYTES_MAX <= SMALL_REPLY_BYTES / 4, "the answer to `stats` stays a small reply");
    assert!(EVENTS_LOG_PAGE_BYTES_MAX <= PAGE_BYTES_MAX && EVENTS_LOG_READ_BYTES_MAX >= VALUE_BYTES_MAX as u64);
    assert!(HISTORY_VERSIONS_DEFAULT <= HISTORY_VERSIONS_MAX);
    assert!(EVENTS_CHANGES_MAX <= EXAMINED_KEYS_MAX, "events look at no more than a scan");
    assert!(
        EVENTS_WORK_MAX >= TURN_WORK_MAX && EVENTS_WORK_MAX <= 16 << 20,
        "one revision stalls the others no more than one key"
    );
    assert!(
        EVENTS_DETAIL_BYTES_MAX >= VALUE_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX,
        "the largest values are told with those before"
    );
    assert!(PARKED_PER_CLIENT_MAX < IN_FLIGHT_MAX, "who waits for changes can still ask for something else");
    assert!(PARKED_PER_CLIENT_MAX <= PARKED_PER_USER_MAX && PARKED_PER_USER_MAX <= PARKED_MAX / 4);
    assert!(PARKED_MAX <= INTAKE_CALLS_MAX / 4, "what waits for changes leaves the intake to the others");
    assert!(PARKED_USER_BYTES_MAX >= PARKED_PER_CLIENT_MAX * KEY_BYTES_MAX, "one client can wait with the longest prefixes");
    assert!(
        QUEUE_NAME_BYTES_MAX <= u8::MAX as usize && QUEUE_NAME_BYTES_MAX <= KEY_BYTES_MAX,
        "an item names its queue in 8 bits"
    );
    assert!(QUEUE_TYPE_BYTES_MAX <= u8::MAX as usize && QUEUE_REASON_BYTES_MAX <= u16::MAX as usize);
    assert!(QUEUE_LEASE_MS_MIN <= QUEUE_LEASE_MS_DEFAULT && QUEUE_LEASE_MS_DEFAULT <= QUEUE_LEASE_MS_MAX);
    assert!(
        SUBJECT_BYTES_MAX <= u8::MAX as usize && SUBJECT_BYTES_MAX + 9 <= KEY_BYTES_MAX,
        "an item names its subject in 8 bits"
    );
    assert!(PUBLISH_COPIES_TOLD_MAX <= PUBLISH_COPIES_MAX && PUBLISH_COPIES_MAX <= TXN_OPERATIONS_MAX, "each copy has a place");
    assert!(BINDINGS_PER_QUEUE_MAX <= BINDINGS_MAX && BINDINGS_MAX <= ROUTE_STEPS_MAX);
    assert!(
        BINDING_REGEXES_MAX * (REGEX_PROGRAM_BYTES_MAX + REGEX_CACHE_BYTES_MAX) <= 128 << 20,
        "what stays compiled is bounded"
    );
    assert!(QUEUE_ITEMS_MAX <= PAGE_ROWS_MAX && QUEUE_ITEMS_MAX <= EXAMINED_KEYS_MAX);
    assert!(
        RULES_MAX * (RULE_NAME_BYTES_MAX + KEY_BYTES_MAX + QUEUE_NAME_BYTES_MAX + RULE_DEFAULT_BYTES_MAX) < SNAPSHOT_BYTES_MAX
            && RULE_STEPS_MAX * 2 * RULE_PATH_BYTES_MAX + KEY_BYTES_MAX < TURN_LOG_BYTES_MAX,
        "all rules together take little memory"
    );
    assert!(RULE_SUBJECT_BYTES_MAX == SUBJECT_BYTES_MAX, "what a queue is bound to, a rule can be for");
    assert!(
        RULE_SUBJECT_TOKENS_MAX * SUBJECT_TOKENS_MAX <= ROUTE_STEPS_MAX,
        "an item's rule is found as soon as a message's queues"
    );
    assert!(PROGRAM_TIME_LIMIT_MS_MAX < QUEUE_LEASE_MS_MAX, "a lease outlives the program that it was taken for");
    assert!(
        PROGRAM_TIME_LIMIT_MS_MIN <= PROGRAM_TIME_LIMIT_MS_DEFAULT && PROGRAM_TIME_LIMIT_MS_DEFAULT <= PROGRAM_TIME_LIMIT_MS_MAX
    );
    assert!(HISTORY_PASS_BYTES_MAX >= PAGE_BYTES_MAX + VALUE_BYTES_MAX, "one request for the history always gets its answer");
};
