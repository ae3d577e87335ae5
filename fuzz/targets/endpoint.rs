//! What must hold for any endpoint file. In an input `@` stands for the directory that the file is in.
//!
//! - Nothing panics. What is said about a file that isn't one is bounded and safe to print.
//! - What is taken leads nowhere out of its directory, belongs to the project, and is read the same after it was written again.

use kvbroker::endpoint::{Endpoint, EndpointError};
use kvbroker::paths::{Dirs, RuntimeDir};
use kvbroker::project::ProjectName;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// It is no endpoint file of this project.
    Refused,
    /// It is one.
    Taken,
}

/// The project that the files are for.
pub const PROJECT: &str = "lab";

/// A home for the files; removed when the thread ends.
fn place() -> (tempfile::TempDir, RuntimeDir) {
    let home = tempfile::Builder::new().prefix("kvf-").tempdir().expect("there is room for temporary files");
    let project: ProjectName = PROJECT.parse().expect("it is a name");
    let runtime = Dirs::under(home.path()).and_then(|dirs| dirs.create_runtime(&project)).expect("the home is ours");
    (home, runtime)
}

thread_local! {
    static PLACE: (tempfile::TempDir, RuntimeDir) = place();
}

/// An endpoint file as a client finds it.
///
/// # Panics
/// If a rule is broken, or there is no room for the file.
pub fn endpoint(input: &[u8]) -> Became {
    PLACE.with(|(_home, runtime)| endpoint_in(runtime, input))
}

fn endpoint_in(runtime: &RuntimeDir, input: &[u8]) -> Became {
    let place = runtime.path().as_os_str().as_encoded_bytes();
    let text: Vec<u8> = input.split(|byte| *byte == b'@').collect::<Vec<_>>().join(place);
    std::fs::write(runtime.endpoint_file(), text).expect("there is room for a file");
    let endpoint = match Endpoint::read(runtime) {
        Ok(endpoint) => endpoint.expect("the file is there"),
        Err(error) => {
            let EndpointError::Invalid { reason, .. } = &error else { panic!("the disk gave no reason for this: {error}") };
            assert!(!reason.chars().any(char::is_control) && reason.len() <= 1_000, "{reason:?}");
            return Became::Refused;
        }
    };
    assert_eq!(endpoint.project.as_str(), PROJECT);
    for socket in [&endpoint.router_socket, &endpoint.pub_socket] {
        assert_eq!(socket.parent(), Some(runtime.path()));
    }
    assert!(!endpoint.owner.is_empty() && !endpoint.owner.chars().any(char::is_control), "{endpoint:?}");
    if let Some(tcp) = &endpoint.tcp {
        assert!(tcp.port != 0 && tcp.pub_port != 0 && !tcp.hosts.is_empty(), "{endpoint:?}");
    }
    endpoint.write(runtime).expect("what was read can be written");
    let again = Endpoint::read(runtime).expect("what was written can be read");
    assert_eq!(again.as_ref(), Some(&endpoint));
    Became::Taken
}
