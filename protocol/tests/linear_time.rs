//! What is nested is read in linear time: no level reads again what is inside it.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use kvbroker_protocol::json_to_msgpack;

/// The least time that any of `times` runs took: what the machine does beside only adds.
fn best_of(times: usize, work: impl Fn()) -> Duration {
    let time = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..times).map(|_| time()).min().unwrap()
}

#[test]
fn escapes_inside_escapes_take_linear_time() {
    // Each level read everything inside it again: four megabytes below 32 levels of `$map` held the front end for 4 seconds.
    let elements = format!("[{}1]", "1,".repeat(1 << 19));
    let flat = best_of(3, || drop(json_to_msgpack(elements.as_bytes()).unwrap()));
    for (open, close, depth) in
        [("{\"$map\":[[", ",2]]}", 32), ("{\"$a\":", "}", 96), ("{\"$$a\":", "}", 96), ("{\"$bytes\":", ",\"b\":1}", 96)]
    {
        let text = format!("{}{elements}{}", open.repeat(depth), close.repeat(depth));
        let nested = best_of(3, || drop(json_to_msgpack(text.as_bytes()).unwrap()));
        assert!(nested < flat * 15, "{open}: {nested:?} for {depth} levels, {flat:?} for none");
    }
}
