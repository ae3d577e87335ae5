//! A slice of fuzzing with a fixed seed for what programs read from catalogs and files: the functions that `fuzz/` gives to libFuzzer, with
//! mutations of our own.
//!
//! `fuzz/run catalog` is a long run. `KVBROKER_FUZZ_INPUTS=1000000` makes these longer, `KVBROKER_TEST_SEED` others.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/targets/authorized.rs"]
mod authorized;
#[path = "../../fuzz/targets/catalog.rs"]
mod catalog;
#[path = "../../fuzz/targets/endpoint.rs"]
mod endpoint;
#[path = "../../fuzz/targets/pins.rs"]
mod pins;
#[path = "../../fuzz/slice.rs"]
mod slice;

use std::path::Path;

use slice::slice;

const RECORD: &str = r#"{"type":"hashtable","project":"NETID-a5","owner":"netid","port":9123,"pub_port":9124,"public_key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","uuid":"8c1f0000-0000-4000-8000-000000000001","instance":"51d00000-0000-4000-8000-000000000002","epoch":"00000000feedbeef","starttime":1795255198,"lifetime":180,"shard":0,"durability":"always","endpoints":["tcp://10.0.0.5:9123","tcp://[fd00::1]:9123"],"version":"0.1.0"}"#;

/// What a catalog puts in front.
const HEAD: &str = r#"{"name":"lab","lastheardfrom":1795255198,"address":"10.0.0.5","#;

const ENDPOINT: &str = r#"{"project":"lab","owner":"ann","uuid":"8c1f0000-0000-4000-8000-000000000001","instance":"51d00000-0000-4000-8000-000000000002","epoch":"0123456789abcdef","pid":4242,"starttime":1795255198,"router":"@/router.sock","pub":"@/pub.sock","tcp":{"hosts":["10.0.0.5","::1"],"port":4000,"pub_port":4001},"public_key":"kvpub15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}"#;

fn bytes(texts: &[String]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.clone().into_bytes()).collect()
}

fn catalog_seeds() -> Vec<Vec<u8>> {
    let listed = format!("{HEAD}{}", &RECORD[1..]);
    let lie = listed.replace(r#""owner""#, r#""address":"9.9.9.9","lastheardfrom":"x","owner""#);
    let open = listed.replace(r#""pub_port":9124,"#, "").replace(r#""public_key""#, r#""other""#);
    let course = format!(r#"{HEAD}"type":"hashtable","owner":"b","port":"9000","project":"NETID-a4-test5"}}"#);
    let other = format!(r#"{HEAD}"type":"catalog","url":"http://a/b?c=\"d\"","n":[1,{{"x":null}},-1.5e3]}}"#);
    let broken = format!(r#"{HEAD}"type":"hashtable","load":inf}}"#);
    let all = [&listed, &lie, &open, &course, &other, &broken].map(String::as_str);
    bytes(&[
        format!("[\n{}\n]\n", all.join(",\n")),
        format!("[\n{listed}\n]\n"),
        format!("[{listed},{open}"),
        RECORD.to_owned(),
        lie[..].to_owned(),
        r#"{"type":"wq_master","name":"h \" x","uuid":"ü:1","lifetime":5,"s":"\u00e9\n\u001b[31m","port":1}"#.to_owned(),
        "\u{feff}[]".to_owned(),
    ])
}

fn authorized_seeds() -> Vec<Vec<u8>> {
    let [ann, bob, cy] = ["1a", "2b", "3c"].map(|digits| format!("kvpub1{}", digits.repeat(32)));
    let secret = format!("kvsec1{}", "4d".repeat(32));
    bytes(&[
        format!("# who may come in\n\n{ann} read\n{bob} write prefix=team/ prefix=x # Bob\n{cy} admin # the other one\n"),
        format!("{ann} read prefix=\"a b\\u00e9\" prefix={{\"$bytes\":\"/wA=\"}} # ünï\n\t {bob}\tadmin\n#{cy} read\n"),
        format!("{ann} read prefix=team/\n{bob} write prefix=team/ prefix=team/a prefix=z"),
        format!("{ann} write # {secret}\n"),
        format!("{secret} read\n"),
        format!("{ann} read\n{ann} write\n"),
        format!("{ann} admin prefix=x\n"),
        "\u{feff}# nobody\r\n".to_owned(),
    ])
}

fn pins_seeds() -> Vec<Vec<u8>> {
    let [ann, bob] = ["1a", "2b"].map(|digits| format!("kvpub1{}", digits.repeat(32)));
    let secret = format!("kvsec1{}", "4d".repeat(32));
    bytes(&[
        format!("# keys that I accepted\n\nann lab {ann} # 2026-01-31T12:00:00Z\nbob NETID-a5 {bob} # x\nann zoo {bob}\n"),
        format!("\"ann b\" lab {ann} # 2026-01-31T12:00:00Z\n\t bob\tlab {bob}\nbob lab {bob}"),
        format!("ann lab {ann}\r\nann lab {bob}\r\n"),
        format!("ann lab {secret}\n"),
        format!("{secret} lab {ann}\n"),
        format!("\"ann\\u001b[31m\" lab {ann}\n"),
        format!("ann lab {ann} and more\n"),
        "# nobody\r\n".to_owned(),
    ])
}

fn endpoint_seeds() -> Vec<Vec<u8>> {
    let without_tcp = ENDPOINT.replace(r#""tcp":{"hosts":["10.0.0.5","::1"],"port":4000,"pub_port":4001},"#, "");
    bytes(&[ENDPOINT.to_owned(), without_tcp, ENDPOINT.replace("router.sock", "../x")])
}

#[test]
fn no_answer_of_a_catalog_breaks_a_reader_and_no_update_a_catalog() {
    use catalog::{Became, catalog};
    let seeds = catalog_seeds();
    for seed in &seeds {
        catalog(seed);
    }
    let counts = slice("catalog", 40_000, &seeds, &[], catalog);
    for became in [Became::Listing, Became::NoBroker, Became::Update, Became::Refused] {
        assert!(counts.get(&became).is_some_and(|count| *count > 100), "{became:?}: {counts:?}");
    }
}

#[test]
fn no_endpoint_file_breaks_a_reader() {
    use endpoint::{Became, endpoint};
    let seeds = endpoint_seeds();
    assert_eq!(seeds.iter().map(|seed| endpoint(seed)).collect::<Vec<_>>(), [Became::Taken, Became::Taken, Became::Refused]);
    let counts = slice("endpoint", 8_000, &seeds, &[], endpoint);
    for became in [Became::Refused, Became::Taken] {
        assert!(counts.get(&became).is_some_and(|count| *count > 100), "{became:?}: {counts:?}");
    }
}

#[test]
fn no_list_of_clients_breaks_its_reader_or_its_editor() {
    use authorized::{Became, authorized};
    let seeds = authorized_seeds();
    for seed in &seeds {
        authorized(seed);
    }
    let counts = slice("authorized", 40_000, &seeds, &[], authorized);
    for became in [Became::Refused, Became::Empty, Became::Grants] {
        assert!(counts.get(&became).is_some_and(|count| *count > 100), "{became:?}: {counts:?}");
    }
}

#[test]
fn no_list_of_accepted_keys_breaks_its_reader() {
    use pins::{Became, pins};
    let seeds = pins_seeds();
    let became: Vec<Became> = seeds.iter().map(|seed| pins(seed)).collect();
    assert_eq!(became[..2], [Became::Pins; 2]);
    // A secret in the place of an owner is a name like others.
    use Became::{Empty, Pins as Keys, Refused};
    assert_eq!(became[2..], [Refused, Refused, Keys, Refused, Refused, Empty]);
    let counts = slice("pins", 40_000, &seeds, &[], pins);
    for became in [Became::NoText, Became::Refused, Became::Empty, Became::Pins] {
        assert!(counts.get(&became).is_some_and(|count| *count > 100), "{became:?}: {counts:?}");
    }
}

/// For `fuzz/run`, which names the directory.
#[test]
#[ignore = "writes the seeds for libFuzzer into KVBROKER_FUZZ_SEEDS; fuzz/run calls it"]
fn write_the_seeds() {
    let directory = std::env::var_os("KVBROKER_FUZZ_SEEDS").expect("KVBROKER_FUZZ_SEEDS names a directory");
    let all = [
        ("catalog", catalog_seeds()),
        ("endpoint", endpoint_seeds()),
        ("authorized", authorized_seeds()),
        ("pins", pins_seeds()),
    ];
    for (name, seeds) in all {
        let directory = Path::new(&directory).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (index, seed) in seeds.into_iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{index}")), seed).unwrap();
        }
    }
}
