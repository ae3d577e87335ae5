//! Finds out which commit this is built from, for `--version`.
//!
//! - `KVBROKER_COMMIT` is set to twelve hex digits, with `-dirty` if a tracked
//!   file differs from that commit, or to `unknown` outside of a checkout of
//!   this repository (an unpacked archive inside another repository included).
//! - It runs again when the commit changes. In release builds it also runs again
//!   when any tracked file changes, so that a program to be handed out never calls
//!   itself clean when it isn't. Debug builds watch only this package's own
//!   files: otherwise each edit anywhere would compile everything again.
//! - Setting `KVBROKER_COMMIT` for the build replaces the answer (for packagers).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const VARIABLE: &str = "KVBROKER_COMMIT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let commit = match env::var(VARIABLE) {
        Ok(given) if given.bytes().all(|byte| byte.is_ascii_graphic()) && !given.is_empty() => given,
        _ => commit(&root).unwrap_or_else(|| "unknown".into()),
    };
    println!("cargo::rustc-env={VARIABLE}={commit}");
    for path in ["build.rs", "Cargo.toml", "src"] {
        println!("cargo::rerun-if-changed={path}");
    }
}

fn commit(root: &Path) -> Option<String> {
    let top_level = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top_level).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    watch(root);
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    // --no-optional-locks: looking must not write to the repository.
    let status = git(root, &["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])?;
    let mark = if status.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{mark}"))
}

/// Names the files whose change means another answer. Git is asked where they
/// are, because in a linked worktree they are elsewhere.
fn watch(root: &Path) {
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    // A commit changes the branch's file and the log of HEAD, a checkout HEAD itself.
    let names = ["HEAD", "logs/HEAD", "packed-refs"].into_iter().map(str::to_owned).chain(branch);
    for name in names {
        let path = git(root, &["rev-parse", "--git-path", &name]).map(|path| root.join(path));
        // Cargo takes a missing file for a changed one.
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let files = git(root, &["ls-files", "-z"]).unwrap_or_default();
        for file in files.split('\0').filter(|file| !file.is_empty() && !file.contains('\n')) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
}

/// What git prints, without the line feed at the end; `None` if it fails or isn't there.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(root).args(arguments);
    // Set when cargo runs inside a git hook; they would point elsewhere.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(variable);
    }
    let output = command.output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim_end_matches('\n').to_owned())
}
