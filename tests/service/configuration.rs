//! What the program says before it starts anything.

use crate::installation::{Directory, Installation, PROGRAM, new_database};
use simulators::Config;
use std::process::Output;
use tokio::process::Command;

async fn ligne(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = Directory::new();
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().envs(environment.iter().copied()).current_dir(&directory.0);
    command.output().await.expect("the program runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn every_problem_of_the_configuration_is_told_at_once() {
    let output = ligne(&["serve"], &[("LIGNE_LISTEN", "nowhere"), ("LIGNE_SANDBOX", "1")]).await;
    assert!(!output.status.success());
    let told = told(&output);
    for problem in [
        "DATABASE_URL is not set",
        "LIGNE_VAULT_KEYS is not set",
        "LIGNE_LISTEN",
        "LIGNE_SANDBOX=1 is refused",
        "TELNYX_API_KEY is not set",
    ] {
        assert!(told.contains(problem), "{problem} is missing in {told}");
    }
    assert!(!told.contains('\x1b'), "colours are for terminals");
}

#[tokio::test]
async fn help_names_every_variable() {
    let output = ligne(&["serve", "--help"], &[]).await;
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in ["DATABASE_URL", "LIGNE_VAULT_KEYS", "LIGNE_SANDBOX", "META_GRAPH_VERSION", "TELNYX_PUBLIC_KEY", "RUST_LOG"] {
        assert!(help.contains(name), "{name}");
    }
}

#[tokio::test]
async fn an_unreachable_service_is_one_sentence_and_no_success() {
    let output = ligne(&["line", "list"], &[("LIGNE_URL", "http://127.0.0.1:9"), ("LIGNE_API_KEY", "lgn_x")]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).starts_with("error: the service at http://127.0.0.1:9 cannot be reached"), "{}", told(&output));
    let output = ligne(&["line", "list"], &[]).await;
    assert_eq!(told(&output).trim(), "error: no API key: set LIGNE_API_KEY or LIGNE_ADMIN_KEY");
}

#[tokio::test]
async fn a_made_key_is_a_key_that_opens() {
    let output = ligne(&["vault", "key", "2026-11"], &[]).await;
    let key = String::from_utf8(output.stdout).expect("text");
    assert!(vault::Vault::from_keys(key.trim()).is_ok());
}

#[tokio::test]
async fn a_reader_who_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(PROGRAM).args(["vault", "key", "2026-11"]).stdout(writer).output().await.expect("the program runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", told(&output));
}

#[tokio::test]
async fn migrating_twice_and_side_by_side_changes_nothing() {
    let installation = Installation::open_on(Config::default(), &new_database().await).await;
    let schema = || async {
        sqlx::query_as::<_, (String, String)>(
            "select table_schema::text, table_name::text from information_schema.tables
             where table_schema not in ('pg_catalog', 'information_schema') order by 1, 2",
        )
        .fetch_all(&installation.db)
        .await
        .expect("the tables")
    };
    let before = schema().await;
    assert!(before.iter().any(|(_, table)| table == "line"));
    let (one, other) = tokio::join!(installation.ligne(&["migrate"]), installation.ligne(&["migrate"]));
    assert!(one.status.success() && other.status.success(), "{} {}", told(&one), told(&other));
    assert_eq!(schema().await, before);
    installation.close().await;
}
