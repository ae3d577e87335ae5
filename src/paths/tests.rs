#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn one_variable_moves_everything() {
    let dirs = Dirs::under(Path::new("/x")).unwrap();
    let lab = project("lab");
    assert_eq!(dirs.data_dir(&lab), Path::new("/x/data/lab"));
    assert_eq!(dirs.config_dir(), Path::new("/x/config"));
    assert_eq!(dirs.runtime_dir(&lab), Path::new("/x/run/lab"));
    assert_eq!(dirs.runtime_candidates(&lab), [Path::new("/x/run/lab")]);
}

#[test]
fn the_xdg_directories_are_used_and_the_runtime_directory_may_be_missing() {
    let uid = rustix::process::geteuid().as_raw();
    let lab = project("lab");
    let home = tempfile::tempdir().unwrap();
    let shared = format!("/tmp/kvbroker-{uid}/lab");
    let system = format!("/run/user/{uid}/kvbroker/lab");

    let dirs = Dirs::from_xdg(Path::new("/d"), Path::new("/c"), Some(home.path()));
    assert_eq!(dirs.data_dir(&lab), Path::new("/d/kvbroker/lab"));
    assert_eq!(dirs.config_dir(), Path::new("/c/kvbroker"));
    let own = home.path().join("kvbroker/lab");
    assert_eq!(dirs.runtime_candidates(&lab), [&own, Path::new(&shared), Path::new(&system)]);
    assert_eq!(dirs.runtime_dir(&lab), own);

    let gone = home.path().join("gone");
    for missing in [None, Some(gone.as_path())] {
        let dirs = Dirs::from_xdg(Path::new("/d"), Path::new("/c"), missing);
        assert_eq!(dirs.runtime_candidates(&lab), [&shared, &system].map(Path::new));
    }
}

#[test]
fn the_runtime_directory_is_made_private_and_found_again() {
    let home = tempfile::tempdir().unwrap();
    let dirs = Dirs::under(&home.path().join("new/home")).unwrap();
    let lab = project("lab");
    assert!(dirs.open_runtimes(&lab).next().is_none());
    assert!(dirs.local_projects().is_empty());

    let made = dirs.create_runtime(&lab).unwrap();
    assert_eq!(mode_of(made.path()), 0o700);
    assert_eq!(mode_of(made.path().parent().unwrap()), 0o700);
    assert_eq!(made.router_socket(), made.path().join("router.sock"));
    dirs.create_runtime(&lab).unwrap();

    let opened: Vec<RuntimeDir> = dirs.open_runtimes(&lab).map(Result::unwrap).collect();
    assert_eq!(opened.len(), 1);
    assert_eq!((opened[0].path(), opened[0].project()), (made.path(), &lab));
    dirs.create_runtime(&project("also")).unwrap();
    assert_eq!(dirs.local_projects(), [project("also"), lab]);
}

#[test]
fn directories_open_to_others_are_refused_with_the_command_to_type() {
    let home = tempfile::tempdir().unwrap();
    let dirs = Dirs::under(home.path()).unwrap();
    let lab = project("lab");
    let runtime = dirs.create_runtime(&lab).unwrap();
    let ours = runtime.path().parent().unwrap().to_owned();
    for loose in [runtime.path(), &ours] {
        for mode in [0o701, 0o740, 0o777, 0o1777] {
            set_mode(loose, mode);
            for result in [dirs.create_runtime(&lab), dirs.open_runtimes(&lab).next().unwrap()] {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(&format!("chmod 700 '{}'", loose.display())), "{error}");
            }
        }
        set_mode(loose, 0o700);
    }
    // The base may be readable, and writable if only owners can rename: like /tmp.
    for (mode, is_fine) in [(0o755, true), (0o1777, true), (0o777, false), (0o770, false)] {
        set_mode(home.path(), mode);
        assert_eq!(dirs.create_runtime(&lab).is_ok(), is_fine, "{mode:o}");
    }
    set_mode(home.path(), 0o700);
}

#[test]
fn symlinks_and_files_in_the_place_of_directories_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let dirs = Dirs::under(home.path()).unwrap();
    let lab = project("lab");
    let run = home.path().join("run");

    fs::create_dir(elsewhere.path().join("lab")).unwrap();
    set_mode(&elsewhere.path().join("lab"), 0o700);
    symlink(elsewhere.path(), &run).unwrap();
    assert!(matches!(dirs.create_runtime(&lab), Err(PathError::NotADirectory { path }) if path == run));
    assert!(matches!(dirs.open_runtimes(&lab).next(), Some(Err(PathError::NotADirectory { .. }))));
    fs::remove_file(&run).unwrap();

    fs::create_dir(&run).unwrap();
    set_mode(&run, 0o700);
    symlink(elsewhere.path().join("lab"), run.join("lab")).unwrap();
    assert!(matches!(dirs.create_runtime(&lab), Err(PathError::NotADirectory { .. })));
    fs::remove_file(run.join("lab")).unwrap();

    fs::write(run.join("lab"), "").unwrap();
    assert!(matches!(dirs.create_runtime(&lab), Err(PathError::NotADirectory { .. })));
}

#[test]
fn a_directory_of_another_user_is_refused() {
    // Only root can make one; for others the tests of modes must do.
    if rustix::process::geteuid().is_root() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path()).unwrap();
        let lab = project("lab");
        let runtime = dirs.create_runtime(&lab).unwrap();
        std::os::unix::fs::chown(runtime.path(), Some(12_345), None).unwrap();
        let error = dirs.open_runtimes(&lab).next().unwrap().unwrap_err();
        assert!(matches!(error, PathError::ForeignOwner { uid: 12_345, .. }), "{error}");
        std::os::unix::fs::chown(home.path(), Some(12_345), None).unwrap();
        assert!(matches!(dirs.create_runtime(&lab), Err(PathError::ForeignOwner { .. })));
    }
}

#[test]
fn socket_paths_that_do_not_fit_are_refused_with_words() {
    let home = tempfile::tempdir().unwrap();
    let dirs = Dirs::under(&home.path().join("x".repeat(40))).unwrap();
    dirs.create_runtime(&project("lab")).unwrap();
    let error = dirs.create_runtime(&project(&"y".repeat(48))).unwrap_err();
    assert!(matches!(error, PathError::SocketPathTooLong { .. }), "{error}");
    assert!(error.to_string().contains("107 are the most"), "{error}");

    assert!(check_socket_path(Path::new(&"z".repeat(107))).is_ok());
    assert!(check_socket_path(Path::new(&"z".repeat(108))).is_err());
}

#[test]
fn one_broker_per_runtime_directory() {
    let home = tempfile::tempdir().unwrap();
    let dirs = Dirs::under(home.path()).unwrap();
    let lab = project("lab");
    let first = dirs.create_runtime(&lab).unwrap();
    let lock = first.lock().unwrap();

    // flock is per open file, so a second one in this process is as good as another process's.
    let second = dirs.create_runtime(&lab).unwrap();
    let error = second.lock().unwrap_err();
    let own = std::process::id();
    assert!(matches!(&error, PathError::AlreadyRunning { pid: Some(pid), .. } if *pid == own));
    assert!(error.to_string().contains(&format!("for lab already runs here (process {own})")), "{error}");
    dirs.create_runtime(&project("other")).unwrap().lock().unwrap();

    drop(lock);
    let lock = second.lock().unwrap();

    // A lock file that was tidied away is made again; the old lock is on a file nobody finds.
    fs::remove_file(first.path().join(LOCK_FILE)).unwrap();
    let newer = first.lock().unwrap();
    drop(lock);
    assert!(second.lock().is_err());
    drop(newer);
}

#[test]
fn a_lock_file_with_odd_content_is_no_obstacle() {
    let home = tempfile::tempdir().unwrap();
    let dirs = Dirs::under(home.path()).unwrap();
    let runtime = dirs.create_runtime(&project("lab")).unwrap();
    let path = runtime.path().join(LOCK_FILE);
    fs::write(&path, "not a number, and rather long as lock files go\n").unwrap();
    let lock = runtime.lock().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    fs::write(&path, [0xff; 100]).unwrap();
    assert!(matches!(runtime.lock(), Err(PathError::AlreadyRunning { pid: None, .. })));
    drop(lock);

    fs::remove_file(&path).unwrap();
    symlink("/dev/null", &path).unwrap();
    assert!(matches!(runtime.lock(), Err(PathError::Io { .. })));
}

#[test]
fn login_names_come_from_the_user_database() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1000::/home/ann:/bin/sh\n:x:7:7:::\n";
    assert_eq!(name_in_passwd(passwd, 1_000), Some("ann"));
    assert_eq!(name_in_passwd(passwd, 7), None);
    assert_eq!(name_in_passwd(passwd, 8), None);
    assert!(!login_name().is_empty());
}
