//! The programs under test: built once, in the profile of the test itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// A directory with ready programs, for runs that have built them before.
const DIRECTORY_VARIABLE: &str = "KVBROKER_TEST_BIN";

/// The path of one of the workspace's programs.
///
/// # Panics
/// If the programs cannot be built, or there is none of this name.
pub fn program(name: &str) -> PathBuf {
    // What failed once fails again: it is not tried for every test.
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let path = DIRECTORY.get_or_init(directory).as_ref().expect("the programs do not build").join(name);
    assert!(path.is_file(), "there is no program {}", path.display());
    path
}

fn directory() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        return Some(PathBuf::from(directory));
    }
    // …/target/PROFILE/deps/TEST: cargo puts programs beside `deps`, also those that start others.
    let test = std::env::current_exe().expect("the kernel knows this program");
    let beside = test.parent().expect("a program lies in a directory");
    let directory = beside.parent().filter(|_| beside.ends_with("deps")).unwrap_or(beside).to_owned();
    build(&directory).then_some(directory)
}

/// True if it worked; cargo has said what did not.
fn build(directory: &Path) -> bool {
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("{} is no profile's directory", directory.display()),
    };
    let target = directory.parent().expect("a profile's directory has a parent");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace, so that cargo chooses the same features of shared packages as for the tests.
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--offline", "--workspace", "--bins", "--profile", profile])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status()
        .expect("cargo runs tests, so it can be run");
    status.success()
}
