//! The language against tables, against a naive evaluator over parsed JSON, and against texts at random.

#![allow(clippy::unwrap_used)]

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::*;
use crate::error::ErrorCode;
use crate::limits;
use crate::value::Stored;

/// True if the predicate holds, which both encodings must agree about.
fn holds(predicate: &str, value: &str) -> bool {
    let matcher = Predicate::new(predicate).unwrap_or_else(|failure| panic!("{predicate}: {failure}")).matcher().unwrap();
    let as_json = Stored::from_json(value.as_bytes()).unwrap();
    let as_pack = Stored::from_msgpack(&crate::json_to_msgpack(value.as_bytes()).unwrap()).unwrap();
    let answers = [as_json, as_pack].map(|stored| {
        let subject = Subject { key: b"user/ada", stored: Some(stored.as_bytes()), modified: 7, created: 5 };
        matcher.judge(&subject).holds
    });
    assert_eq!(answers[0], answers[1], "the encodings differ: {predicate} of {value}");
    answers[0]
}

fn refused(predicate: &str) -> Failure {
    Predicate::new(predicate).expect_err(predicate)
}

#[test]
fn comparisons_are_typed_and_exact() {
    let value = r#"{"n":100,"f":1.5,"t":"100","yes":true,"nothing":null,"big":9007199254740993,"huge":18446744073709551615,
        "raw":{"$bytes":"AP8="},"nan":{"$float":"nan"},"inf":{"$float":"inf"},"beyond":1e400,"list":[1],"map":{"x":1}}"#;
    for yes in [
        "n = 100",
        "n=100",
        "n = 1e2",
        "n = 100.0",
        "n > 99.5",
        "n >= 100",
        "n < 100.5",
        "n <= 100",
        "n != 101",
        "n != '100'",
        "f = 1.5",
        "f > 1",
        "f < 2",
        "t = '100'",
        "t = \"100\"",
        "t > '10'",
        "t < '2'",
        "t ^= '10'",
        "t != 100",
        "yes = true",
        "yes != false",
        "yes != 1",
        "nothing = null",
        "nothing != 0",
        "big = 9007199254740993",
        "big != 9007199254740992.0",
        "big > 9007199254740992.0",
        "huge = 18446744073709551615",
        "huge < 18446744073709551616.0",
        "raw = x'00ff'",
        "raw = x\"00FF\"",
        "raw ^= x'00'",
        "raw > x'00'",
        "raw != 'x'",
        "nan != 0",
        "inf > 1e308",
        "beyond != 1",
        "absent != 1",
        "absent != null",
        "list != 1",
        "map != 1",
        "has nothing",
        "has map.x",
        "not has absent",
        "not absent = null",
    ] {
        assert!(holds(yes, value), "{yes}");
    }
    for no in [
        "n = '100'",
        "n = 101",
        "n != 100",
        "n < 100",
        "n > 100",
        "n ^= '1'",
        "n ~ '1'",
        "t = 100",
        "t > 1",
        "t < 1",
        "yes = 1",
        "yes = 'true'",
        "nothing = 0",
        "nothing = false",
        "big = 9007199254740992.0",
        "huge = 18446744073709551616.0",
        "raw = 'x'",
        "raw ~ '.'",
        "raw ^= ''",
        "nan = 0",
        "nan < 0",
        "nan >= 0",
        "beyond > 1",
        "beyond < 1",
        "absent = null",
        "absent < 1",
        "absent >= 1",
        "list = 1",
        "map = 1",
        "has absent",
        "has n.x",
        "has list.x",
        "not has n",
    ] {
        assert!(!holds(no, value), "{no}");
    }
}

#[test]
fn paths_lead_into_maps_and_arrays() {
    let value = r#"{"a":{"b":[10,{"c":1}],"0":"zero","b c":2,"and":3,"é":4,"x-y":5,"$bytes":6},"not":7,"[0]":8,"a.b":9,"":0}"#;
    for yes in [
        "a.b[0] = 10",
        "a.b.0 = 10",
        "a.b[1].c = 1",
        "a.b.1.c = 1",
        "a.0 = zero",
        "a.\"0\" = zero",
        "a.\"b c\" = 2",
        "a.'b c' = 2",
        "a.and = 3",
        "a.é = 4",
        "a.x-y = 5",
        "a.\"$bytes\" = 6",
        "\"not\" = 7",
        "'[0]' = 8",
        "\"a.b\" = 9",
        "\"\" = 0",
        "@value.a.0 = zero",
        "has a.b",
        "has @value",
        "not has a[0]",
        "not has a.b.\"0\"",
        "not has a.b[2]",
        "not has a.b[18446744073709551615]",
        "not has a.b.c",
        "not has a.b.00",
    ] {
        assert!(holds(yes, value), "{yes}");
    }
    assert!(
        holds("[1].x = 1", r#"[0, {"x": 1}]"#)
            && holds("@value.1.x = 1", r#"[0,{"x":1}]"#)
            && holds("@value[1][0] = 2", "[1,[2]]")
    );
    assert!(holds("@value = 5", "5") && holds("@value ~ 'b'", "\"abc\"") && !holds("@value = 5", "[5]"));
    // Maps with other keys than texts, and the other forms that JSON writes with a dollar.
    let odd = r#"{"m":{"$map":[[1,"one"],["1","text"],[-1,"minus"],["x",{"$map":[[2,{"$bytes":"AA=="}]]}]]},"d":{"$$map":4},"r":{"$ref":5}}"#;
    for yes in
        ["m[1] = one", "m.\"1\" = text", "m.1 = text", "m.x[2] = x'00'", "d.\"$map\" = 4", "r.\"$ref\" = 5", "not has m.\"$map\""]
    {
        assert!(holds(yes, odd), "{yes}");
    }
}

#[test]
fn keys_and_revisions_are_asked_beside_the_value() {
    for yes in [
        "@key = 'user/ada'",
        "@key ^= 'user/'",
        "@key ^= x'75'",
        "@key > 'user'",
        "@key ~ '^user/[a-z]+$'",
        "@key != x'00'",
        "@modified = 7",
        "@modified > 6.5",
        "@created <= 5",
        "@key ^= user and @value = 1",
    ] {
        assert!(holds(yes, "1"), "{yes}");
    }
    for no in ["@key = 'user'", "@key < 'user/'", "@modified = 5", "not @created = 5"] {
        assert!(!holds(no, "1"), "{no}");
    }
    let matcher = Predicate::new("has @value or @key = x'ff'").unwrap().matcher().unwrap();
    let removed = |key| matcher.judge(&Subject { key, stored: None, modified: 1, created: 1 }).holds;
    assert!(removed(&[0xff]) && !removed(b"a"));
}

#[test]
fn of_some_keys_the_key_alone_says_that_no_value_fits() {
    let may = |predicate: &str, key: &str| Predicate::new(predicate).unwrap().matcher().unwrap().may_hold(key.as_bytes()).holds;
    for (predicate, ours, others) in [
        ("@key = 'a/1'", true, false),
        ("@key ^= 'a/' and @value > 41", true, false),
        ("@value > 41 and @key ~ '^a'", true, false),
        ("not (@key != 'a/1' or has x)", true, false),
        ("@key = 'b/1'", false, true),
        ("not @key ^= 'a'", false, true),
        // Values have a say in these.
        ("@value > 41", true, true),
        ("@key ^= 'a/' or @modified > 3", true, true),
        ("not (@key ^= 'a/' and has x)", true, true),
        ("@created = 3 and not has x", true, true),
    ] {
        assert_eq!((may(predicate, "a/1"), may(predicate, "b/1")), (ours, others), "{predicate}");
    }
}

#[test]
fn and_binds_before_or_and_not_before_both() {
    let value = r#"{"t":1,"f":0}"#;
    for (predicate, expected) in [
        ("t=1 or f=1 and f=2", true),
        ("(t=1 or f=1) and f=2", false),
        ("not f=1 and t=1", true),
        ("not (f=0 and t=1)", false),
        ("not f=1 or f=1", true),
        ("not not t=1", true),
        ("((t=1))and(f=0)", true),
        ("\tt = 1\r\nand\n f = 0 ", true),
    ] {
        assert_eq!(holds(predicate, value), expected, "{predicate}");
    }
}

#[test]
fn texts_are_written_in_three_ways() {
    let value = r#"{"s":"it's \"so\"\n","w":"red-ish_2","b":"a\\b","u":"Löwe","e":""}"#;
    for yes in [
        r#"s = "it's \"so\"\n""#,
        "s ^= 'it''s \"so\"'",
        "w = red-ish_2",
        r"b = 'a\b'",
        r#"b = "a\\b""#,
        r"b ~ '\\'",
        "u = Löwe",
        r#"u = "L\u00f6we""#,
        "e = ''",
        "e = \"\"",
        "u ~ 'L.we'",
        r"w ~ '^\w+-'",
        "w > red",
    ] {
        assert!(holds(yes, value), "{yes}");
    }
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (predicate, column, said) in [
        ("", 1, "a field"),
        ("a", 2, "`has a`"),
        ("a ==1", 4, "expected a number"),
        ("a = ", 5, "it ends where"),
        ("a = 1 b = 2", 7, "`and`, `or` or the end"),
        ("a = 1 AND b = 2", 7, "not \"AND\""),
        ("(a = 1", 7, "`)`"),
        ("a = 1)", 6, "not \")\""),
        ("a = 2026-05-01", 5, "no number"),
        ("a = 007", 5, "no number"),
        ("a = 1e400", 5, "neither a 64-bit integer nor a double"),
        ("a = 18446744073709551616", 5, "neither"),
        ("a = user/ada", 9, "quotes"),
        ("a = x.y", 6, "quotes"),
        ("a = \"x", 5, "no end"),
        ("a = 'x", 5, "no end"),
        ("a = \"\\x\"", 5, "JSON"),
        ("a = x'0'", 6, "hexadecimal"),
        ("a = x'+1'", 6, "hexadecimal"),
        ("a = and", 5, "expected a number"),
        ("and = 1", 1, "in quotes"),
        ("null = 1", 1, "in quotes"),
        ("é.b < null", 5, "order"),
        ("a ^= 1", 3, "text or bytes"),
        ("a ^= true", 3, "order"),
        ("@key = 1", 8, "quotes"),
        ("@modified = '7'", 13, "number"),
        ("@modified ~ '7'", 11, "number"),
        ("@modified ^= '7'", 14, "number"),
        ("@kex = 1", 1, "@key"),
        ("has @key", 5, "always there"),
        ("has", 4, "a field"),
        ("a. = 1", 3, "behind the point"),
        ("a .b = 1", 3, "expected ="),
        ("a[x] = 1", 3, "brackets"),
        ("a[01] = 1", 3, "brackets"),
        ("a[-1] = 1", 3, "brackets"),
        ("a[1 = 1", 3, "brackets"),
        ("a ~ '('", 5, "does not compile"),
        ("a ~ 5", 5, "regex"),
        ("a ~ true", 5, "regex"),
        ("a ~ x'00'", 5, "regex"),
        ("a % 1", 3, "expected ="),
    ] {
        let failure = refused(predicate);
        assert_eq!(failure.code, ErrorCode::Invalid, "{predicate}");
        assert!(failure.message.contains(&format!("column {column}:")), "{predicate}: {failure}");
        assert!(failure.message.contains(said), "{predicate}: {failure}");
    }
}

#[test]
fn every_bound_holds_and_is_told() {
    let long = format!("a = '{}'", "x".repeat(limits::PREDICATE_BYTES_MAX - 6));
    assert!(Predicate::new(&long).is_ok());
    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    let many = |terms: usize| vec!["a=1"; terms].join(" or ");
    let regexes = |count: usize| vec!["a~b"; count].join(" or ");
    let path = |parts: usize| format!("a{} = 1", ".b".repeat(parts - 1));
    let nots = |count: usize| format!("{}a = 1", "not ".repeat(count));
    assert!(
        Predicate::new(&nested(limits::PREDICATE_DEPTH_MAX)).is_ok()
            && Predicate::new(&many(limits::PREDICATE_TERMS_MAX)).is_ok()
    );
    assert_eq!(Predicate::new(&regexes(limits::PREDICATE_REGEXES_MAX)).unwrap().regexes(), limits::PREDICATE_REGEXES_MAX);
    assert!(Predicate::new(&path(limits::DEPTH_MAX)).is_ok() && Predicate::new(&nots(limits::PREDICATE_DEPTH_MAX)).is_ok());
    for over in [
        format!("{long} "),
        nested(limits::PREDICATE_DEPTH_MAX + 1),
        "(".repeat(4_000),
        nots(limits::PREDICATE_DEPTH_MAX + 1),
        many(limits::PREDICATE_TERMS_MAX + 1),
        regexes(limits::PREDICATE_REGEXES_MAX + 1),
        path(limits::DEPTH_MAX + 1),
        r"a ~ '\w{1000}'".to_owned(),
    ] {
        assert_eq!(refused(&over).code, ErrorCode::Limit, "{over}");
    }
}

#[test]
fn memory_is_counted_with_what_a_short_text_unfolds_to() {
    let predicate = Predicate::new(&vec!["a=1"; limits::PREDICATE_TERMS_MAX].join(" or ")).unwrap();
    let least = limits::PREDICATE_TERMS_MAX * (size_of::<Node>() + size_of::<OwnedPart>());
    assert!(predicate.memory_bytes() >= least && predicate.memory_bytes() < 2 * least, "{}", predicate.memory_bytes());
}

#[test]
fn work_is_what_was_looked_into() {
    let value = Stored::text(&"x".repeat(64_000)).unwrap();
    let work = |predicate: &str| {
        let subject = Subject { key: b"k", stored: Some(value.as_bytes()), modified: 1, created: 1 };
        Predicate::new(predicate).unwrap().matcher().unwrap().judge(&subject).work
    };
    let once = limits::search_work(value.as_bytes().len(), 1, false);
    let twice = limits::search_work(value.as_bytes().len(), 2, false);
    assert!(once > 4_000 && once < twice && twice < 2 * once);
    assert_eq!(work("@modified = 1"), 0);
    assert_eq!(work("@value = 1"), once);
    assert_eq!(work("@value = 1 or @value = 2 or not has @value"), once, "one walk finds a place for all");
    assert_eq!(work("@value = 1 or a = 2"), twice);
    assert_eq!(work("@modified = 1 or a = 2"), 0, "the second test is not made");
    assert_eq!(work("@value ~ 'y'"), once + 64_000, "a pattern of 1 KiB");
    assert_eq!(work("absent ~ 'y'"), once, "there is no text to match");
}

#[test]
fn a_text_over_what_a_regex_may_cost_is_not_matched() {
    let matches = |bytes: usize, predicate: &str| {
        let value = Stored::text(&"x".repeat(bytes)).unwrap();
        let subject = Subject { key: b"k", stored: Some(value.as_bytes()), modified: 1, created: 1 };
        Predicate::new(predicate).unwrap().matcher().unwrap().judge(&subject).holds
    };
    assert!(matches(limits::MATCH_WORK_MAX, "@value ~ 'x'") && !matches(limits::MATCH_WORK_MAX + 1, "@value ~ 'x'"));
    // `\w` is large only by its table of characters.
    assert!(
        matches(limits::MATCH_WORK_MAX >> 2, r"@value ~ '\w'") && !matches((limits::MATCH_WORK_MAX >> 2) + 1, r"@value ~ '\w'")
    );
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn name(&mut self) -> String {
        self.pick(&["a", "b", "0", "1", "007", "$a", "and", "é x", "", "x-y", "it's"]).to_owned()
    }

    fn atom(&mut self) -> Value {
        self.pick(&[
            json!(null),
            json!(true),
            json!(false),
            json!(0),
            json!(-1),
            json!(1),
            json!(1.0),
            json!(-0.5),
            json!(9007199254740993_u64),
            json!(9007199254740992.0),
            json!(u64::MAX),
            json!(18446744073709551616.0),
            json!(i64::MIN),
            json!(""),
            json!("a"),
            json!("ab"),
            json!("1"),
            json!("it's \"é\"\n"),
        ])
    }

    fn document(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 1 } else { 4 }) {
            0 => self.atom(),
            1 => (0..self.below(4)).map(|_| self.document(depth - 1)).collect(),
            _ => Value::Object((0..self.below(5)).map(|_| (self.name(), self.document(depth - 1))).collect()),
        }
    }

    fn node(&mut self, depth: usize, regexes: &mut usize) -> Node {
        match self.below(if depth == 0 { 1 } else { 4 }) {
            1 => Node::Not(Box::new(self.node(depth - 1, regexes))),
            2 => Node::Any((0..self.below(2) + 2).map(|_| self.node(depth - 1, regexes)).collect()),
            3 => Node::All((0..self.below(2) + 2).map(|_| self.node(depth - 1, regexes)).collect()),
            _ => Node::Term(self.term(regexes)),
        }
    }

    fn term(&mut self, regexes: &mut usize) -> Term {
        let place = match self.below(12) {
            0 => Place::Key,
            1 => Place::Modified,
            2 => Place::Created,
            _ => Place::Value((0..self.below(4)).map(|_| self.part()).collect()),
        };
        let comparison = self.pick(&[
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
        ]);
        let text = || Scalar::Text(String::new());
        let test = match (&place, self.below(6)) {
            (Place::Modified | Place::Created, _) => Test::Compare(comparison, Scalar::Int(self.below(4) as i128)),
            (Place::Value(_), 0) => Test::Has,
            (_, 1) if *regexes < limits::PREDICATE_REGEXES_MAX => {
                *regexes += 1;
                Test::Regex(Pattern::new(self.pick(&["a", "^a$", "'|é", r"\n$"])).unwrap(), *regexes - 1)
            }
            (_, 2) => Test::Prefix(self.pick(&[text(), Scalar::Text("a".into()), Scalar::Bytes(vec![0x61, 0xff])])),
            (Place::Key, _) => {
                Test::Compare(comparison, self.pick(&[Scalar::Text("ab".into()), Scalar::Bytes(vec![0x61, 0xff])]))
            }
            _ => {
                let scalar = Scalar::from_json(&self.atom().to_string()).unwrap();
                let has_order = !matches!(scalar, Scalar::Null | Scalar::Bool(_));
                Test::Compare(if has_order { comparison } else { Comparison::NotEqual }, scalar)
            }
        };
        Term { place, test }
    }

    fn part(&mut self) -> OwnedPart {
        let name = self.name();
        match (self.below(5), digits(&name)) {
            (0, _) => OwnedPart::Index(self.below(3) as u64),
            (1 | 2, Some(index)) => OwnedPart::Digits(index, name),
            _ => OwnedPart::Name(name),
        }
    }
}

/// What it means, in the plainest way.
fn naive(node: &Node, key: &str, value: &Value) -> bool {
    let Term { place, test } = match node {
        Node::Any(members) => return members.iter().any(|member| naive(member, key, value)),
        Node::All(members) => return members.iter().all(|member| naive(member, key, value)),
        Node::Not(inner) => return !naive(inner, key, value),
        Node::Term(term) => term,
    };
    let found = match place {
        Place::Key => Some(json!(key)),
        Place::Modified => Some(json!(2)),
        Place::Created => Some(json!(1)),
        Place::Value(path) => path.iter().try_fold(value.clone(), |value, part| match (part, &value) {
            (OwnedPart::Name(name) | OwnedPart::Digits(_, name), Value::Object(fields)) => fields.get(name).cloned(),
            (OwnedPart::Index(at) | OwnedPart::Digits(at, _), Value::Array(list)) => list.get(*at as usize).cloned(),
            _ => None,
        }),
    };
    let text = found.as_ref().and_then(Value::as_str);
    match test {
        Test::Has => found.is_some(),
        Test::Prefix(Scalar::Text(prefix)) => text.is_some_and(|text| text.starts_with(prefix)),
        // No key and no text of this test is bytes.
        Test::Prefix(_) => false,
        Test::Regex(pattern, _) => text.is_some_and(|text| regex::Regex::new(pattern.as_str()).unwrap().is_match(text)),
        Test::Compare(comparison, wanted) => {
            let order = found.as_ref().and_then(|found| naive_order(found, wanted));
            let order =
                if let (Place::Key, Scalar::Bytes(bytes)) = (place, wanted) { Some(key.as_bytes().cmp(bytes)) } else { order };
            match (comparison, order) {
                (Comparison::Equal, order) => order == Some(Ordering::Equal),
                (Comparison::NotEqual, order) => order != Some(Ordering::Equal),
                (_, None) => false,
                (Comparison::Less, Some(order)) => order.is_lt(),
                (Comparison::LessOrEqual, Some(order)) => order.is_le(),
                (Comparison::Greater, Some(order)) => order.is_gt(),
                (Comparison::GreaterOrEqual, Some(order)) => order.is_ge(),
            }
        }
    }
}

fn naive_order(found: &Value, wanted: &Scalar) -> Option<Ordering> {
    // All floats of this test are halves, so that twice the number is an integer.
    let twice = |float: f64| (float * 2.0) as i128;
    let found_twice = match found {
        Value::Number(number) => Some(number.as_i128().map_or_else(|| twice(number.as_f64().unwrap()), |int| int * 2)),
        _ => None,
    };
    match (found, wanted) {
        (Value::Null, Scalar::Null) => Some(Ordering::Equal),
        (Value::Bool(one), Scalar::Bool(other)) => Some(one.cmp(other)),
        (Value::String(one), Scalar::Text(other)) => Some(one.cmp(other)),
        (Value::Number(_), Scalar::Int(other)) => Some(found_twice?.cmp(&(other * 2))),
        (Value::Number(_), Scalar::Float(other)) => Some(found_twice?.cmp(&twice(*other))),
        _ => None,
    }
}

#[test]
fn random_predicates_mean_what_a_naive_evaluator_says_and_read_back() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..30_000 {
        let mut dice = Dice(seed);
        let root = dice.node(3, &mut 0);
        let shown = root.to_string();
        let predicate = Predicate::new(&shown).unwrap_or_else(|failure| panic!("seed {seed}: {shown}: {failure}"));
        assert_eq!(predicate.0.root, root, "seed {seed}: {shown}");
        assert_eq!(predicate.to_string(), shown);
        let matcher = predicate.matcher().unwrap();
        for _ in 0..4 {
            let (document, key) = (dice.document(3), dice.pick(&["a", "ab", "b", ""]));
            let text = if dice.below(2) == 0 { document.to_string() } else { serde_json::to_string_pretty(&document).unwrap() };
            let as_pack = Stored::from_msgpack(&crate::json_to_msgpack(text.as_bytes()).unwrap()).unwrap();
            let expected = naive(&root, key, &document);
            *(if expected { &mut yes } else { &mut no }) += 1;
            for stored in [Stored::from_json(text.as_bytes()).unwrap(), as_pack] {
                let subject = Subject { key: key.as_bytes(), stored: Some(stored.as_bytes()), modified: 2, created: 1 };
                let kind = stored.kind();
                assert_eq!(matcher.judge(&subject).holds, expected, "seed {seed}: {shown} of {key:?} = {text} ({kind:?})");
            }
        }
    }
    assert!(yes > 20_000 && no > 20_000, "one answer is rare: {yes} yes, {no} no");
}

#[test]
fn no_text_makes_the_parser_panic_and_what_it_takes_reads_back() {
    let pieces = [
        "a",
        "b.c",
        "[0]",
        ".0",
        "@key",
        "@value",
        "@",
        "has ",
        "not ",
        " and ",
        " or ",
        "(",
        ")",
        "=",
        "!=",
        "<",
        "<=",
        "^=",
        "~",
        "\"",
        "'",
        "''",
        "x'00'",
        "x'0",
        "\\",
        "\\u12",
        "\"\\ud800\"",
        "1",
        "-",
        "1.5e3",
        "007",
        "true",
        "null",
        " ",
        "\n",
        "é",
        "😀",
        ".",
        "[",
        "]",
        "'a'",
        "\"q\"",
        "\0",
    ];
    let mut taken = 0;
    for seed in 0..100_000 {
        let mut dice = Dice(seed ^ 0x5eed);
        let mut text: String = (0..dice.below(12)).map(|_| dice.pick(&pieces)).collect();
        if dice.below(8) == 0 {
            // One that is right, but for one character at most.
            let mut letters: Vec<char> = dice.node(2, &mut 0).to_string().chars().collect();
            let at = dice.below(letters.len());
            letters[at] = dice.pick(&pieces).chars().next().unwrap_or(' ');
            text = letters.into_iter().collect();
        }
        if let Ok(predicate) = Predicate::new(&text) {
            taken += 1;
            let shown = predicate.to_string();
            assert_eq!(Predicate::new(&shown).unwrap().0.root, predicate.0.root, "{text:?} as {shown:?}");
            let subject = Subject { key: b"a", stored: Some(b"\x02{\"a\":[{\"0\":1}]}"), modified: 1, created: 1 };
            predicate.matcher().unwrap().judge(&subject);
        }
    }
    assert!(taken > 1_500, "hardly any text is a predicate: {taken}");
}

#[test]
fn a_broken_document_is_no_panic() {
    let whole = Stored::from_msgpack(&crate::json_to_msgpack(br#"{"a":[1,{"b":"x"}],"c":{"$bytes":"AA=="}}"#).unwrap()).unwrap();
    let json = Stored::from_json(br#"{"a":[1,{"b":"x\u0041"}],"c":{"$bytes":"AA=="}}"#).unwrap();
    let matcher = Predicate::new("a[1].b = 'x' or c = x'00' or has d.e").unwrap().matcher().unwrap();
    for stored in [whole, json] {
        for length in 0..stored.as_bytes().len() {
            let stored = Some(&stored.as_bytes()[..length]);
            matcher.judge(&Subject { key: b"k", stored, modified: 1, created: 1 });
        }
    }
}
