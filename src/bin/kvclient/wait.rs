//! `wait`: until a key is there, has a value, or is gone.

use std::time::Instant;

use kvbroker::client::{Client, MirrorRow, MirrorState, WatchEvent, WatchFrom, WatchOptions};
use kvbroker::exit::Exit;
use kvbroker_protocol::{Key, Stored, same_value};
use serde_json::json;

use crate::args::Global;
use crate::output::{Output, printable};
use crate::values::{Kind, bytes, stored};
use crate::watch::silent;
use crate::watch_args::WaitArgs;
use crate::{Trouble, complain};

/// What is waited for.
#[derive(Debug)]
pub(crate) struct Wanted {
    key: Key,
    until: Until,
}

#[derive(Debug)]
enum Until {
    There,
    Value(Stored),
    Gone,
}

impl Wanted {
    /// # Errors
    /// The value is not JSON.
    pub(crate) fn new(args: &WaitArgs, global: &Global) -> Result<Wanted, Trouble> {
        let until = match &args.value {
            Some(value) => Until::Value(stored(bytes(value), Kind::of_text(global.json))?),
            None if args.gone => Until::Gone,
            None => Until::There,
        };
        Ok(Wanted { key: bytes(&args.key), until })
    }

    fn holds(&self, found: Option<&MirrorRow>) -> bool {
        match (&self.until, found) {
            (Until::Gone, found) => found.is_none(),
            (Until::There, found) => found.is_some(),
            (Until::Value(wanted), Some(row)) => same_value(row.value.as_bytes(), wanted.as_bytes()),
            (Until::Value(_), None) => false,
        }
    }

    fn in_vain(&self) -> String {
        let key = printable(&String::from_utf8_lossy(&self.key));
        match self.until {
            Until::There => format!("there is still no key {key:?}"),
            Until::Value(_) => format!("{key:?} still does not have this value"),
            Until::Gone => format!("there is still a key {key:?}"),
        }
    }

    /// What to do when the time is up.
    fn hint(&self, found: Option<&MirrorRow>) -> &'static str {
        let mut json = Vec::new();
        if let (Until::Value(wanted), Some(row)) = (&self.until, found) {
            row.value.write_json(&mut json);
            if wanted.as_text().is_some_and(|text| text.as_bytes() == json) {
                return "the value is no text, but JSON that looks like it: --json reads --value as JSON";
            }
        }
        "--timeout 5m waits longer, --timeout 0 for ever"
    }
}

pub(crate) fn run(global: &Global, client: &Client, wanted: &Wanted, out: &mut Output) -> Result<Exit, Trouble> {
    let until = global.timeout().and_then(|timeout| Instant::now().checked_add(timeout));
    let options = WatchOptions::key(&wanted.key).from(WatchFrom::Snapshot).resync(true);
    let mut watch = client.watch_with(options)?;
    let mut state = MirrorState::new();
    let mut is_known = false;
    loop {
        let Some(event) = watch.next(until)? else {
            if !is_known {
                // How it is only the broker could say.
                return Err(silent(client, global.timeout().unwrap_or_default()).into());
            }
            return in_vain(global, wanted, state.get(&wanted.key), out);
        };
        match event {
            WatchEvent::SnapshotEnd { .. } | WatchEvent::CaughtUp { .. } => is_known = true,
            WatchEvent::Disconnected { .. } => is_known = false,
            _ => {}
        }
        // In the midst of a snapshot nothing is known yet.
        let is_whole = matches!(event, WatchEvent::SnapshotEnd { .. } | WatchEvent::Changes(_));
        state.apply(event);
        let found = state.get(&wanted.key);
        if is_whole && wanted.holds(found) {
            print(found, state.revision().unwrap_or_default(), out)?;
            return Ok(Exit::Ok);
        }
    }
}

fn print(found: Option<&MirrorRow>, revision: u64, out: &mut Output) -> Result<(), Trouble> {
    match found {
        Some(row) if out.is_json() => {
            let mut value = Vec::new();
            row.value.write_json(&mut value);
            let value = String::from_utf8_lossy(&value);
            out.line(&format!("{{\"status\":\"ok\",\"rev\":{revision},\"value\":{value},\"modified\":{}}}", row.modified))?;
        }
        Some(row) => out.value(&row.value)?,
        None if out.is_json() => out.line(&json!({"status": "ok", "rev": revision}).to_string())?,
        None => {}
    }
    Ok(out.flush()?)
}

fn in_vain(global: &Global, wanted: &Wanted, found: Option<&MirrorRow>, out: &mut Output) -> Result<Exit, Trouble> {
    let sentence = wanted.in_vain();
    if out.is_json() {
        let said = json!({"code": "timed_out", "message": sentence, "definite": true});
        out.line(&json!({"status": "failed", "error": said}).to_string())?;
        out.flush()?;
    }
    let waited = global.timeout().unwrap_or_default().as_secs_f64();
    complain(&format!("{sentence}, after {waited} s"), Some(wanted.hint(found)));
    Ok(Exit::NotFound)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_compared_by_what_they_say() {
        let row = |json: &str| MirrorRow { value: Stored::from_json(json.as_bytes()).unwrap(), modified: 1 };
        let wanted = |until| Wanted { key: b"k".to_vec(), until };
        let hundred = wanted(Until::Value(Stored::from_json(b"100").unwrap()));
        assert!(hundred.holds(Some(&row("100.0"))) && !hundred.holds(Some(&row("\"100\""))) && !hundred.holds(None));
        assert!(wanted(Until::There).holds(Some(&row("null"))) && !wanted(Until::There).holds(None));
        let text = wanted(Until::Value(Stored::from_json(b"\"100\"").unwrap()));
        assert!(!text.holds(Some(&row("100"))) && text.hint(Some(&row("100"))).contains("--json"));
        assert!(!text.hint(Some(&row("99"))).contains("--json") && !text.hint(None).contains("--json"));
        assert!(wanted(Until::Gone).holds(None) && !wanted(Until::Gone).holds(Some(&row("null"))));
    }
}
