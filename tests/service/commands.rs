//! The API's nouns from the terminal, against a running service.

use crate::{
    books,
    installation::{END_PATIENCE, Installation, Order, STOP_PATIENCE},
};
use chrono::{DateTime, Utc};
use domain::{billing::Period, money::Units};
use simulators::Config;
use std::time::Duration;

/// Nothing happens for this long: then it is time that is missing.
const STILL: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_line_is_ordered_and_followed_from_the_terminal() {
    let installation = Installation::open(Config::default()).await;
    let service = installation.spawn(&["serve"]);
    installation.ready().await;

    let create = [
        "tenant",
        "create",
        "Atlas Recrutement",
        "--ice",
        "001234567000089",
        "--if",
        "12345678",
        "--rc",
        "98765",
        "--address",
        "12, rue Tarik, Casablanca",
    ];
    let tenant = installation.json(&create).await;
    let tenant = tenant["id"].as_str().expect("an id");
    let key = installation.json(&["key", "create", "--tenant", tenant, "--role", "recruiter"]).await;
    assert!(key["key"].as_str().is_some_and(|key| key.starts_with("lgn_")), "{key}");
    let order = ["line", "create", "--tenant", tenant, "--display-name", "Atlas Recrutement", "--wait"];
    let run = installation.json(&order).await;
    assert_eq!(run["status"], "succeeded", "{run}");

    let lines = installation.json(&["line", "list"]).await;
    assert_eq!(lines["data"][0]["status"], "live", "{lines}");
    let line = lines["data"][0]["id"].as_str().expect("an id").to_owned();
    let run = run["id"].as_str().expect("an id").to_owned();
    let shown = installation.ligne(&["run", "show", &run]).await;
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(text.contains("provision_line  succeeded"), "{text}");
    assert!(!text.contains('\x1b'), "colours are for terminals");
    books::balance(&installation, &[Order { line, run }]).await;

    let refused = installation.ligne(&["line", "show", "00000000-0000-7000-8000-000000000000"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).expect("text");
    assert!(told.starts_with("error: ") && told.trim_end().ends_with("404)") && told.lines().count() == 1, "{told}");

    service.stop(STOP_PATIENCE).await.expect("it stops when told to");
    installation.close().await;
}

#[tokio::test]
async fn a_receipt_that_was_touched_is_found() {
    let installation = Installation::open(Config::default()).await;
    let service = installation.spawn(&["serve"]);
    installation.ready().await;
    let order = installation.order().await;
    let ends = installation.end_of(std::slice::from_ref(&order), STILL, END_PATIENCE).await;
    assert_eq!(ends, ["succeeded"]);
    books::balance(&installation, &[order]).await;
    sqlx::query("update receipt set record = jsonb_set(record, '{kind}', '\"nothing\"') where seq = 2")
        .execute(&installation.db)
        .await
        .expect("touched");
    let verified = installation.ligne(&["verify"]).await;
    assert_eq!(verified.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&verified.stderr).trim(), "error: the chain of purchase receipts is broken at link 2");
    drop(service);
    installation.close().await;
}

#[tokio::test]
async fn secrets_are_sealed_again_with_a_new_key_and_the_old_one_may_go() {
    let mut installation = Installation::open(Config::default()).await;
    let service = installation.spawn(&["serve"]);
    installation.ready().await;
    let order = installation.order().await;
    installation.end_of(&[order], STILL, END_PATIENCE).await;
    service.kill().await.expect("kill -9");

    let old = installation.environment["LIGNE_VAULT_KEYS"].clone();
    let made = installation.ligne(&["vault", "key", "next"]).await;
    let new = String::from_utf8(made.stdout).expect("text").trim().to_owned();
    installation.environment.insert("LIGNE_VAULT_KEYS".into(), format!("{new},{old}"));
    let first = installation.json(&["vault", "rotate"]).await;
    let resealed = |told: &serde_json::Value| {
        told["columns"].as_array().expect("columns").iter().map(|c| c["resealed"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    assert!(resealed(&first) > 0, "{first}");
    installation.environment.insert("LIGNE_VAULT_KEYS".into(), new);
    let again = installation.json(&["vault", "rotate"]).await;
    assert_eq!(resealed(&again), 0, "nothing is left for a second rotation: {again}");
    installation.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_closed_shown_paid_credited_and_exported_from_the_terminal() {
    let installation = Installation::open(Config::default()).await;
    let service = installation.spawn(&["serve"]);
    installation.ready().await;
    let order = installation.order().await;
    installation.end_of(&[order], STILL, END_PATIENCE).await;
    let clock = installation.json(&["clock", "show"]).await;
    let now: DateTime<Utc> = clock["now"].as_str().expect("a time").parse().expect("a time");
    let month = Period::of(now, chrono_tz::Africa::Casablanca).to_string();
    let refused = async |arguments: &[&str]| {
        let output = installation.ligne(arguments).await;
        let told = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.starts_with("error: ") && told.lines().count() == 1, "{told}");
        told
    };
    assert!(refused(&["bill", "close", &month]).await.contains("month_not_over"));
    assert!(refused(&["bill", "export", "2026-13"]).await.contains("\"2026-13\" is no month"));
    assert!(refused(&["invoice", "show", "F-2026-999999"]).await.contains("404"));

    installation.json(&["clock", "advance", "32d"]).await;
    let run = installation.json(&["bill", "close", &month, "--wait"]).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(installation.json(&["bill", "close", &month]).await["run"]["id"], run["id"], "it stays closed");
    let invoices = installation.json(&["invoice", "list", "--month", &month]).await;
    let (number, total) = (&invoices["data"][0]["number"], &invoices["data"][0]["total"]);
    let (number, total) = (number.as_str().expect("a number"), total.as_str().expect("a total"));
    let shown = String::from_utf8(installation.ligne(&["invoice", "show", number]).await.stdout).expect("text");
    assert!(shown.contains(&format!("total    {total} MAD")) && shown.contains("dirhams"), "{shown}");
    let pdf = installation.json(&["invoice", "pdf", number, "--out", "facture.pdf"]).await;
    assert!(pdf["file"] == "facture.pdf" && pdf["bytes"].as_u64() > Some(10_000), "{pdf}");

    let note = installation.json(&["invoice", "credit", number, "1.20", "--reason", "geste commercial"]).await;
    assert_eq!((note["kind"].as_str(), note["total"].as_str()), (Some("credit_note"), Some("1.20")), "{note}");
    assert!(refused(&["invoice", "credit", number, total, "--reason", "trop"]).await.contains("credit_too_large"));
    assert!(refused(&["invoice", "pay", number, total, "--reference", "V1"]).await.contains("payment_too_large"));
    let rest = Units::amount(total).and_then(|total| total.minus(Units::amount("1.20")?)).expect("what is left").to_string();
    let paid = installation.json(&["invoice", "pay", number, &rest, "--reference", "V1", "--on", "2026-12-05"]).await;
    assert_eq!((paid["status"].as_str(), paid["left"].as_str()), (Some("paid"), Some("0.00")), "{paid}");

    let rows = installation.json(&["bill", "export", &month]).await;
    assert_eq!(rows["data"][0]["number"], number, "{rows}");
    let csv = String::from_utf8(installation.ligne(&["bill", "export", &month]).await.stdout).expect("text");
    assert!(csv.starts_with("number,kind,tenant_id,") && csv.contains(number), "{csv}");
    let margin = installation.json(&["bill", "margin", &month]).await;
    assert_eq!(margin["data"][0]["currency"], "MAD", "{margin}");
    let balanced = installation.json(&["bill", "reconcile", &month]).await;
    assert_eq!(balanced["balanced"], true, "{balanced}");

    service.stop(STOP_PATIENCE).await.expect("it stops when told to");
    installation.close().await;
}
