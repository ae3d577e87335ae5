//! `kvclient id`: the public key by which brokers of others know this user.

use kvbroker::client::ClientError;
use kvbroker::exit::Exit;
use kvbroker::keys::{OWNER_KEY_FILE, load_key_file, load_or_create_owner_key, load_owner_key};
use kvbroker::lookup::LookupError;
use kvbroker::paths::Dirs;

use crate::args::Global;
use crate::output::Output;
use crate::{Trouble, remark};

pub(crate) fn run(global: &Global) -> Result<Exit, Trouble> {
    let dirs = Dirs::from_environment().map_err(|error| ClientError::Lookup(LookupError::Path(error)))?;
    let directory = dirs.config_dir();
    let failed = |error| Trouble::from(ClientError::Lookup(LookupError::Key(error)));
    let own_file = directory.join(OWNER_KEY_FILE);
    let (pair, is_new) = match global.key_file() {
        // One that was named is not made.
        Some(file) => (load_key_file(file).map_err(failed)?, false),
        None => match load_owner_key(directory).map_err(failed)? {
            Some(pair) => (pair, false),
            // Another program may make it in this moment; then this is that one.
            None => (load_or_create_owner_key(directory).map_err(failed)?, true),
        },
    };
    let file = global.key_file().unwrap_or(&own_file);
    let key = pair.public().to_string();
    let mut out = Output::stdout(global.json);
    if global.json {
        out.line(&serde_json::json!({"key": key, "file": file.display().to_string(), "new": is_new}).to_string())?;
    } else {
        out.line(&key)?;
    }
    out.flush()?;
    let made = if is_new { "a key pair was made for you; " } else { "" };
    remark(
        global,
        &format!("{made}this is the public key, for others to see; the secret one is in {}, for nobody", file.display()),
    );
    Ok(Exit::Ok)
}
