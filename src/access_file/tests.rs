#![allow(clippy::unwrap_used)]
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use kvbroker_protocol::limits::{GRANT_COMMENT_BYTES_MAX, GRANT_PREFIXES_MAX, GRANTS_BYTES_MAX, GRANTS_MAX};
use kvbroker_protocol::{GrantInfo, Role, UserKey, UserKeyError};

use super::store::{AccessStore, Look, StoreError};
use super::*;
use crate::paths::Dirs;

fn key(byte: u8) -> UserKey {
    UserKey::from_bytes([byte; 32])
}

fn grant(byte: u8, role: Role, prefixes: &[&[u8]], comment: &str) -> GrantInfo {
    GrantInfo { key: key(byte), role, prefixes: prefixes.iter().map(|prefix| prefix.to_vec()).collect(), comment: comment.into() }
}

fn only(line: &str) -> Result<GrantInfo, LineProblem> {
    match AccessFile::parse(line.as_bytes()) {
        Ok(file) => Ok(file.grants().next().unwrap().clone()),
        Err(AccessFileError::Line { line: 1, problem }) => Err(problem),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn lines_are_read_as_the_format_says() {
    let k = key(1);
    assert_eq!(only(&format!("{k} read")).unwrap(), grant(1, Role::Read, &[], ""));
    assert_eq!(
        only(&format!("  {k}\twrite # Ada's laptop # old \r\n")).unwrap(),
        grant(1, Role::Write, &[], "Ada's laptop # old")
    );
    assert_eq!(
        only(&format!(r#"{k} write prefix=b/ prefix="a b\u002f" prefix={{"$bytes":"/w=="}} # x"#)).unwrap(),
        grant(1, Role::Write, &[b"a b/", b"b/", b"\xff"], "x")
    );
    // What one prefix covers another needs not say.
    assert_eq!(only(&format!("{k} read prefix=ab prefix=a prefix=a")).unwrap().prefixes, [b"a".to_vec()]);
    assert_eq!(only(&format!("{k} read prefix=kindé/")).unwrap().prefixes, ["kindé/".as_bytes().to_vec()]);
    assert_eq!(only(&format!("{k} admin")).unwrap().role, Role::Admin);
}

#[test]
fn whatever_can_be_misread_is_refused_with_its_line_and_advice() {
    let k = key(1);
    let cases = [
        (format!("{k}"), "the role is missing"),
        (format!("{k} # read"), "the role is missing"),
        (format!("{k} Read"), "'Read' is no role"),
        (format!("{k} owner"), "'owner' is no role"),
        (format!("{k} read write"), "'write' means nothing here"),
        (format!("{k} read Prefix=a"), "'Prefix=a' means nothing here"),
        (format!("{k} read prefix =a"), "'prefix' means nothing here"),
        (format!("{k} read prefix= # all"), "an empty prefix"),
        (format!("{k} read prefix=\"\""), "an empty prefix"),
        (format!("{k} read prefix=a#b"), "cannot be read"),
        (format!("{k} read prefix='a'"), "cannot be read"),
        (format!("{k} read prefix=a\"b\""), "cannot be read"),
        (format!("{k} read prefix=\"a\"b"), "cannot be read"),
        (format!("{k} read prefix=\"a"), "cannot be read"),
        (format!("{k} read prefix={{a"), "cannot be read"),
        (format!("{k} read prefix={{\"$bytes\":\"a\"}}"), "base64"),
        (format!("{k} read prefix={{\"$bytes\":\"YQ==\",\"x\":1}}"), "cannot be read"),
        (format!("{k} admin prefix=a"), "admin"),
        (format!("{k} read # {}", "x".repeat(GRANT_COMMENT_BYTES_MAX + 1)), "comment"),
        (format!("{k} read # a\u{1b}[2J"), "comment"),
        (format!("{k} read{}", " prefix=a".repeat(GRANT_PREFIXES_MAX + 1)), "prefixes"),
        (format!("{} read", &k.to_string()[..69]), "kvpub1"),
        ("\u{feff}# a comment".to_owned(), "kvpub1"),
        ("read".to_owned(), "kvpub1"),
    ];
    for (line, wanted) in cases {
        let error = AccessFile::parse(format!("# first\n\n{line}\n").as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("line 3: ") && error.contains(wanted), "{line}: {error}");
    }
    let bytes = [format!("{k} read prefix=").as_bytes(), b"\xff\n"].concat();
    assert_eq!(AccessFile::parse(&bytes), Err(AccessFileError::Line { line: 1, problem: LineProblem::NotText }));
    let twice = AccessFile::parse(format!("{k} read\n#\n{k} write\n").as_bytes()).unwrap_err();
    assert_eq!(twice, AccessFileError::Line { line: 3, problem: LineProblem::Twice { first: 1 } });
}

#[test]
fn a_secret_key_is_named_as_such_and_never_repeated() {
    let secret = format!("kvsec1{}", "a5".repeat(32));
    let k = key(1);
    for line in [
        format!("{secret} read"),
        format!("{k} {secret}"),
        format!("{k} read {secret}"),
        format!("{k} read prefix={secret}"),
        format!("{k} read # {secret}"),
        format!("{k} {}", secret.to_uppercase()),
    ] {
        let problem = only(&line).unwrap_err();
        assert!(matches!(problem, LineProblem::Secret | LineProblem::Key(UserKeyError::Secret)), "{line}");
        assert!(!problem.to_string().to_lowercase().contains("a5a5") && problem.to_string().contains("secret"), "{problem}");
    }
    let mut file = AccessFile::explained("p");
    assert!(file.authorize(&grant(1, Role::Read, &[], &secret)).is_err());
    assert!(!String::from_utf8(file.to_bytes()).unwrap().contains("a5a5"));
}

#[test]
fn bounds_hold() {
    let line = |at: usize| {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        format!("{} read\n", UserKey::from_bytes(bytes))
    };
    let most: String = (0..GRANTS_MAX).map(line).collect();
    let mut file = AccessFile::parse(most.as_bytes()).unwrap();
    assert_eq!(file.grants().count(), GRANTS_MAX);
    assert_eq!(file.authorize(&grant(1, Role::Read, &[], "")), Err(AccessFileError::TooManyKeys));
    assert_eq!(file.to_bytes(), most.as_bytes());
    assert_eq!(AccessFile::parse((most.clone() + &line(GRANTS_MAX)).as_bytes()), Err(AccessFileError::TooManyKeys));
    let large = vec![b'#'; GRANTS_BYTES_MAX + 1];
    assert_eq!(AccessFile::parse(&large), Err(AccessFileError::TooLong { bytes: GRANTS_BYTES_MAX + 1 }));
    let mut file = AccessFile::parse(&large[..GRANTS_BYTES_MAX - 1]).unwrap();
    assert!(matches!(file.authorize(&grant(1, Role::Read, &[], "")), Err(AccessFileError::TooLong { .. })));
}

#[test]
fn edits_change_one_line_and_keep_the_rest() {
    let (a, b) = (key(0xa), key(0xb));
    let before = format!("# team\n\n{a} read   prefix=x/  # Ada\n  # old: {b} write\n\u{20}{b} write\n# the end");
    let mut file = AccessFile::parse(before.as_bytes()).unwrap();
    assert!(!file.is_whole());
    assert_eq!(file.authorize(&grant(0xb, Role::Read, &[b"y z/", b"\xff\0"], "Bob")), Ok(Edited::Replaced));
    assert_eq!(file.authorize(&grant(0xc, Role::Write, &[], "")), Ok(Edited::Added));
    // Nothing new, as no comment leaves the one that was there: not even the line's white space changes.
    assert_eq!(file.authorize(&grant(0xa, Role::Read, &[b"x/"], "")), Ok(Edited::Unchanged));
    assert_eq!(file.authorize(&grant(0xa, Role::Read, &[b"x/"], "Ada")), Ok(Edited::Unchanged));
    let c = key(0xc);
    let after = format!(
        "# team\n\n{a} read   prefix=x/  # Ada\n  # old: {b} write\n{b} read prefix=\"y z/\" prefix={{\"$bytes\":\"/wA=\"}} # Bob\n# the end\n{c} write\n"
    );
    assert_eq!(String::from_utf8(file.to_bytes()).unwrap(), after);
    let mut again = AccessFile::parse(after.as_bytes()).unwrap();
    assert!(again.grants().eq(file.grants()) && again.is_whole());
    assert!(again.revoke(&a) && !again.revoke(&a));
    assert_eq!(String::from_utf8(again.to_bytes()).unwrap(), after.replace(&format!("{a} read   prefix=x/  # Ada\n"), ""));
    assert_eq!(again.authorize(&grant(0xc, Role::Admin, &[], "Cyd")), Ok(Edited::Replaced));
    assert_eq!(again.grants().last(), Some(&grant(0xc, Role::Admin, &[], "Cyd")));
}

#[test]
fn every_grant_that_is_written_reads_back() {
    let prefixes: [&[u8]; 9] =
        [b"a", b" ", b"\"", b"{\"$bytes\":", b"a#b", b"'", "\u{202e}kind\u{7f}é🔑".as_bytes(), b"\xff\xfe", b"\\u0041\n"];
    for prefix in prefixes {
        let mut file = AccessFile::explained("zoo");
        let wanted = grant(3, Role::Write, &[prefix], "# it's \"quoted\" — prefix=");
        file.authorize(&wanted).unwrap();
        let read = AccessFile::parse(&file.to_bytes()).unwrap();
        assert_eq!(read.grants().collect::<Vec<_>>(), [&wanted], "{prefix:?}");
    }
    for bad in [grant(3, Role::Admin, &[b"a"], ""), grant(3, Role::Read, &[b""], ""), grant(3, Role::Read, &[], "a\nb")] {
        let mut file = AccessFile::explained("zoo");
        assert!(file.authorize(&bad).is_err());
        assert_eq!(file, AccessFile::explained("zoo"));
    }
}

struct Place {
    store: AccessStore,
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let home = tempfile::tempdir().unwrap();
        let store = AccessStore::new(&Dirs::under(home.path()).unwrap(), &"zoo".parse().unwrap());
        Place { store, home }
    }

    fn write(&self, text: &str) {
        self.store.make_place().unwrap();
        fs::write(self.store.path(), text).unwrap();
        self.chmod(0o644);
    }

    fn chmod(&self, mode: u32) {
        fs::set_permissions(self.store.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn the_file_is_where_paths_says_and_may_be_missing() {
    let place = Place::new();
    assert_eq!(place.store.path(), place.home.path().join("config/projects/zoo/authorized_clients"));
    assert_eq!(place.store.read(None).unwrap(), None);
    place.store.make_place().unwrap();
    assert_eq!(place.store.read(None).unwrap(), None);
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let place = Place::new();
    place.write("# nobody\n");
    assert!(matches!(place.store.read(None), Ok(Some(Look::Read(_)))));
    for mode in [0o664, 0o646, 0o777] {
        place.chmod(mode);
        let error = place.store.read(None).unwrap_err();
        assert!(matches!(error, StoreError::LooseMode { .. }) && error.to_string().contains("chmod go-w"), "{error}");
    }
    place.chmod(0o644);
    for directory in place.store.path().ancestors().skip(1).take(3) {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(place.store.read(None), Err(StoreError::LooseMode { path, .. }) if path == directory));
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(place.store.read(None).is_ok());
}

#[test]
fn only_a_regular_file_is_read() {
    let place = Place::new();
    place.write("# nobody\n");
    let elsewhere = place.store.path().with_file_name("elsewhere");
    fs::rename(place.store.path(), &elsewhere).unwrap();
    symlink(&elsewhere, place.store.path()).unwrap();
    assert!(matches!(place.store.read(None), Err(StoreError::NotAFile { .. })));
    fs::remove_file(place.store.path()).unwrap();
    fs::create_dir(place.store.path()).unwrap();
    assert!(matches!(place.store.read(None), Err(StoreError::NotAFile { .. })));
    fs::remove_dir(place.store.path()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, place.store.path(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(place.store.read(None), Err(StoreError::NotAFile { .. })), "and a pipe hangs nobody");
}

#[test]
fn it_is_replaced_whole_and_not_over_somebody_elses_edit() {
    let place = Place::new();
    let mut file = AccessFile::explained("zoo");
    file.authorize(&grant(1, Role::Read, &[], "Ada")).unwrap();
    let written = place.store.replace(&file, None).unwrap();
    assert_eq!(fs::metadata(place.store.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let Some(Look::Read(found)) = place.store.read(None).unwrap() else { panic!("it is there") };
    assert_eq!((found.stamp, &found.content), (written.stamp, &written.content));
    assert_eq!(place.store.read(Some(found.stamp)).unwrap(), Some(Look::Same));
    assert_eq!(place.store.parse(&found.content).unwrap(), file);
    assert!(matches!(place.store.replace(&file, None), Err(StoreError::Changing { .. })));
    fs::write(place.store.path(), "# by hand\n").unwrap();
    assert!(matches!(place.store.replace(&file, Some(found.stamp)), Err(StoreError::Changing { .. })));
    assert_eq!(fs::read(place.store.path()).unwrap(), b"# by hand\n");
    let left: Vec<_> = fs::read_dir(place.store.path().parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left: {left:?}");
}
