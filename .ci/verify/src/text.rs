//! House rules that no compiler knows: captions, names, and what must not be left in the text.

use std::{fs, path::Path, process::Command};

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "manager", "service", "misc"];
/// What must not be in Rust code, and why.
const CODE: [(&str, &str); 5] = [
    ("todo!(", "unfinished"),
    ("dbg!(", "left from a search"),
    ("#[ignore", "a test that does not run proves nothing"),
    ("unimplemented!(", "unfinished"),
    ("FIXME", "unfinished"),
];
/// Crates that live by the clock of `durable`, which a sandbox can move.
const ONE_CLOCK: [&str; 6] = ["src/domain/", "src/store/", "src/durable/", "src/front/", "jobs/", "workflows/"];
/// The one place that may read the machine's clock.
const CLOCK: &str = "src/durable/clock.rs";

/// Reads every tracked file of the checkout.
pub(crate) fn check(root: &Path) -> Result<(), String> {
    let list = Command::new("git").args(["-c", "safe.directory=*", "ls-files", "-z"]).current_dir(root).output();
    let list = list.map_err(|error| format!("cannot run git: {error}"))?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let here = root.to_string_lossy().into_owned();
    let mut wrong = Vec::new();
    let mut rust = 0;
    for name in list.split('\0').filter(|name| !name.is_empty()) {
        // Binary files and files that are deleted but not yet committed have no lines.
        let Ok(text) = fs::read_to_string(root.join(name)) else { continue };
        rust += usize::from(name.ends_with(".rs"));
        wrong.extend(check_file(name, &text, &here));
    }
    if rust == 0 {
        wrong.push("git lists no Rust files: this is not a checkout".into());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn check_file(name: &str, text: &str, here: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_rust = name.ends_with(".rs");
    if is_rust && !text.trim_start().starts_with("//!") {
        wrong.push(format!("{name}: the first line is its caption: //! …"));
    }
    let stem = Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if is_rust && !name.contains("tests/") && EMPTY_NAMES.contains(&stem.as_str()) {
        wrong.push(format!("{name}: a name that says nothing"));
    }
    let lives_by_one_clock = is_rust && name != CLOCK && ONE_CLOCK.iter().any(|place| name.starts_with(place));
    for (line, number) in text.lines().zip(1..) {
        let mut say = |why: &str| wrong.push(format!("{name}:{number}: {why}"));
        if line.contains(here) {
            say("a path of this machine");
        }
        if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
            say("an unfinished merge");
        }
        if is_rust && !name.starts_with(".ci/") {
            CODE.iter().filter(|(what, _)| line.contains(what)).for_each(|(what, why)| say(&format!("{what}: {why}")));
            if lives_by_one_clock && line.contains("Utc::now()") && !line.trim_start().starts_with("//") {
                say("time comes from durable's clock, so that a sandbox can move it");
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_told_with_its_place() {
        let check = |name, text| check_file(name, text, "/nowhere/else").join("; ");
        assert_eq!(check("src/domain/a.rs", "//! A.\nfn a() {}\n"), "");
        assert_eq!(check("src/domain/a.rs", "fn a() {}\n"), "src/domain/a.rs: the first line is its caption: //! …");
        assert_eq!(check("src/utils.rs", "//! A."), "src/utils.rs: a name that says nothing");
        assert_eq!(check("a.rs", "//! A.\ntodo!()"), "a.rs:2: todo!(: unfinished");
        assert_eq!(check("a.md", "see /nowhere/else/x"), "a.md:1: a path of this machine");
        assert!(check("jobs/a.rs", "//! A.\nlet t = Utc::now();").contains("durable's clock"));
        assert_eq!(check("src/durable/clock.rs", "//! A.\nlet t = Utc::now();"), "");
        assert_eq!(check("a.rs", "//! A.\n<<<<<<< HEAD"), "a.rs:2: an unfinished merge");
    }
}
