//! The floors: a crate imports only from those below it.

/// Every crate of the workspace and what of ours it may import. A new crate names its floor here.
const FLOORS: [(&str, &[&str]); 13] = [
    ("domain", &[]),
    ("vault", &[]),
    ("cluster", &[]),
    ("store", &["domain", "vault"]),
    ("providers", &["domain", "vault"]),
    ("durable", &["domain"]),
    ("simulators", &["domain"]),
    ("typeset", &["domain"]),
    ("jobs", &["durable", "store", "providers", "vault", "domain"]),
    ("workflows", &["jobs", "durable", "store", "providers", "vault", "domain"]),
    ("front", &["typeset", "workflows", "jobs", "durable", "store", "providers", "vault", "domain"]),
    ("verify", &["cluster"]),
    (
        "ligne",
        &["front", "workflows", "jobs", "durable", "store", "typeset", "providers", "simulators", "cluster", "vault", "domain"],
    ),
];

/// Reads `cargo tree --depth 1 --prefix depth`: lines like `0jobs v0.1.0 (/path)`, each crate followed by its dependencies
/// as `1durable v0.1.0 (/path)`.
pub(crate) fn check(tree: &str) -> Result<(), String> {
    let mut above = "";
    let mut wrong = Vec::new();
    for line in tree.lines() {
        let Some((depth, name)) = line.split_at_checked(1).map(|(depth, rest)| (depth, rest.split(' ').next().unwrap_or(rest)))
        else {
            continue;
        };
        let known = FLOORS.iter().any(|(one, _)| *one == name);
        if depth == "0" {
            above = name;
            if !known {
                wrong.push(format!("{name} has no floor: name it in .ci/verify/src/floors.rs and in docs/architecture.md"));
            }
        } else if known && !FLOORS.iter().any(|(one, below)| *one == above && below.contains(&name)) {
            wrong.push(format!("{above} imports {name}, which is not below it"));
        }
    }
    let seen = tree.lines().filter(|line| line.starts_with('0')).count();
    if seen < FLOORS.len() {
        wrong.push(format!("only {seen} of {} crates are in the workspace", FLOORS.len()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(extra: &str) -> String {
        FLOORS
            .iter()
            .map(|(name, _)| format!("0{name} v0.1.0 (/src/{name})\n1serde v1.0.0\n"))
            .chain([extra.to_owned()])
            .collect()
    }

    #[test]
    fn down_is_right_and_sideways_or_up_is_wrong() {
        assert_eq!(check(&tree("0jobs v0.1.0\n1durable v0.1.0 (/src/durable)\n")), Ok(()));
        assert_eq!(
            check(&tree("0store v0.1.0\n1providers v0.1.0\n")).unwrap_err(),
            "store imports providers, which is not below it"
        );
        assert_eq!(check(&tree("0domain v0.1.0\n1store v0.1.0\n")).unwrap_err(), "domain imports store, which is not below it");
        assert!(check(&tree("0helpers v0.1.0\n")).unwrap_err().starts_with("helpers has no floor"));
        assert!(check("0domain v0.1.0\n").is_err());
    }
}
