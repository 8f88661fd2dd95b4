//! The table of statements: that each has a test or a reason, and that `STATEMENTS.md` says so.
//!
//! `UPDATE_STATEMENTS=1 cargo test -p mqtt-broker --test conformance table` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const STATEMENTS: &str = include_str!("statements.txt");

/// A line of `statements.txt`.
struct Statement<'a> {
    standard: &'a str,
    number: &'a str,
    binds: &'a str,
    words: &'a str,
    /// Why no test tries it.
    reason: Option<&'a str>,
}

fn statements() -> Vec<Statement<'static>> {
    let lines = STATEMENTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let fields: Vec<&str> = line.split(" | ").collect();
        let [standard, number, binds, words, reason @ ..] = &fields[..] else {
            panic!("a line of no such form: {line}")
        };
        assert!(matches!(*binds, "both" | "server" | "client") && reason.len() <= 1, "{line}");
        Statement { standard, number, binds, words, reason: reason.first().copied() }
    });
    parsed.collect()
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// From a standard and a number to the tests that name it above themselves, as `FILE::TEST`.
fn tests() -> BTreeMap<(String, String), Vec<String>> {
    let mut found = BTreeMap::<_, Vec<String>>::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(here()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let room = file.file_stem().unwrap().to_str().unwrap();
        let (mut named, mut is_test) = (Vec::new(), false);
        let mut standard = String::new();
        for line in std::fs::read_to_string(file).unwrap().lines() {
            if let Some(words) = line.strip_prefix("/// ") {
                for word in words.split_whitespace() {
                    let word = word.trim_end_matches([',', '.']);
                    match word.strip_suffix(':') {
                        Some(version @ ("5.0" | "3.1.1")) => standard = version.to_owned(),
                        _ if word.starts_with("MQTT-") => named.push((standard.clone(), word.to_owned())),
                        _ => {}
                    }
                }
            } else if line == "#[test]" {
                is_test = true;
            } else if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()) {
                if is_test {
                    for statement in named.drain(..) {
                        found.entry(statement).or_default().push(format!("{room}::{name}"));
                    }
                }
                (named, is_test) = (Vec::new(), false);
            }
        }
    }
    found
}

fn rendered() -> String {
    let tests = tests();
    let mut out = String::from(
        "# Normative statements of MQTT, and what tries them\n\n\
         Made of `statements.txt` and of the tests beside it (`UPDATE_STATEMENTS=1 cargo test -p mqtt-broker --test \
         conformance table`); a test\nfails when it is stale. What only clients can violate is listed last; many of those \
         have a test too, of what the broker does to a client\nthat violates them.\n",
    );
    let statements = statements();
    let mut table = |title: &str, of: &dyn Fn(&Statement<'_>) -> bool| {
        write!(out, "\n## {title}\n\n| number | says | tried by |\n| --- | --- | --- |\n").unwrap();
        for statement in statements.iter().filter(|statement| of(statement)) {
            let Statement { standard, number, words, reason, .. } = statement;
            let by = tests.get(&((*standard).to_owned(), (*number).to_owned()));
            let by = by.map(|tests| tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join(", "));
            let by = by.or_else(|| reason.map(|reason| format!("– ({reason})"))).unwrap_or_default();
            writeln!(out, "| [{number}] | {words} | {by} |").unwrap();
        }
    };
    for standard in ["5.0", "3.1.1"] {
        let of = |binds_server: bool| {
            move |statement: &Statement<'_>| {
                statement.standard == standard && (statement.binds != "client") == binds_server
            }
        };
        table(&format!("MQTT {standard}: what a server can violate"), &of(true));
        table(&format!("MQTT {standard}: what only clients can violate"), &of(false));
    }
    out
}

#[test]
fn every_statement_has_a_test_or_a_reason() {
    let (statements, tests) = (statements(), tests());
    let mut wrong = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for Statement { standard, number, binds, reason, .. } in &statements {
        let key = ((*standard).to_owned(), (*number).to_owned());
        let tested = tests.contains_key(&key);
        match (*binds, reason) {
            _ if !known.insert(key) => wrong.push(format!("{standard} [{number}] is listed twice")),
            ("client", None) => {}
            ("client", Some(_)) => wrong.push(format!("{standard} [{number}] needs no reason")),
            (_, None) if !tested => wrong.push(format!("{standard} [{number}] has neither a test nor a reason")),
            (_, Some(_)) if tested => wrong.push(format!("{standard} [{number}] has a test and a reason why not")),
            _ => {}
        }
    }
    for ((standard, number), tests) in tests.iter().filter(|(key, _)| !known.contains(*key)) {
        wrong.push(format!("{tests:?} names {standard} [{number}], which there is not"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_in_the_documents_is_what_the_tests_say() {
    let (file, rendered) = (here().join("STATEMENTS.md"), rendered());
    if std::env::var_os("UPDATE_STATEMENTS").is_some() {
        std::fs::write(&file, &rendered).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == rendered, "{} is stale: run this test with UPDATE_STATEMENTS=1", file.display());
}
