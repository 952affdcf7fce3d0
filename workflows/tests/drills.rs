//! Every provider call of both workflows, one after the other: its answer lost, the call itself lost, refused, throttled.
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod service;

use service::Service;
use simulators::{Fault, Scene};
use sqlx::PgPool;
use std::{collections::BTreeSet, time::Duration};

const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

/// The calls that a smooth life makes, from the simulators' own journal: a new step is drilled without anybody listing it.
async fn calls(service: &Service) -> Vec<&'static str> {
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, PATIENCE).await, "succeeded");
    let release = service.release_line(line).await;
    assert_eq!(service.end_of(release, PATIENCE).await, "succeeded");
    let calls: BTreeSet<_> = service.sims.journal().into_iter().map(|entry| entry.operation).collect();
    calls.into_iter().collect()
}

/// A whole life with this fault at each call: it lives all the same, costs one number, and leaves nothing behind.
async fn survives(db: PgPool, fault: Fault) {
    let service = Service::open(db).await;
    for call in calls(&service).await {
        service.fault(call, fault.clone(), 1);
        let (line, run) = service.order_line("MA").await;
        assert_eq!(service.end_of(run, PATIENCE).await, "succeeded", "{call} with {fault:?}");
        assert_eq!(service.books().purchases(&format!("ligne-{run}")), 1, "{call} with {fault:?}");
        let release = service.release_line(line).await;
        assert_eq!(service.end_of(release, PATIENCE).await, "succeeded", "{call} with {fault:?}");
        service.sims.clear_plans();
        service.balance().await;
        assert!(service.books().is_empty_handed(), "{call} with {fault:?}");
    }
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn every_answer_may_be_lost_after_the_act(db: PgPool) {
    survives(db, Fault::LoseAnswer).await;
}

#[sqlx::test(migrations = false)]
async fn every_call_may_be_lost_before_the_act(db: PgPool) {
    survives(db, Fault::LoseCall).await;
}

#[sqlx::test(migrations = false)]
async fn every_call_may_fail_with_a_server_error(db: PgPool) {
    survives(db, Fault::ServerError { status: 503, acted: false }).await;
}

#[sqlx::test(migrations = false)]
async fn every_call_may_be_throttled(db: PgPool) {
    survives(db, Fault::Throttle { headers: true, retry_after_s: 7 }).await;
}

/// A life stopped where most is at stake, bought and registered; the calls of the way back, from the journal.
async fn undo_of_a_registered_line(service: &Service, fault: Option<(&str, &Fault)>) -> Vec<&'static str> {
    let (line, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "propose another", PATIENCE).await;
    let before = service.sims.journal().len();
    if let Some((call, fault)) = fault {
        service.fault(call, fault.clone(), 1);
    }
    let mut tx = service.db.begin().await.unwrap();
    assert!(durable::cancel(&mut tx, run).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(service.end_of(run, PATIENCE).await, "cancelled", "{fault:?}");
    assert_eq!(service.line(line).await.status, "failed", "{fault:?}");
    service.balance().await;
    assert!(service.books().is_empty_handed(), "{fault:?}");
    let calls: BTreeSet<_> = service.sims.journal()[before..].iter().map(|entry| entry.operation).collect();
    calls.into_iter().collect()
}

#[sqlx::test(migrations = false)]
async fn every_call_of_the_way_back_may_go_wrong(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NameDeclined, 0);
    let calls = undo_of_a_registered_line(&service, None).await;
    assert!(calls.contains(&"telnyx.release") && calls.contains(&"meta.deregister"), "{calls:?}");
    let throttle = Fault::Throttle { headers: false, retry_after_s: 7 };
    for fault in [Fault::LoseAnswer, Fault::LoseCall, throttle] {
        for call in &calls {
            undo_of_a_registered_line(&service, Some((call, &fault))).await;
        }
    }
    service.close().await;
}

/// Refused for good, by each call in turn: live or undone, never half of it.
#[sqlx::test(migrations = false)]
async fn every_call_may_be_refused(db: PgPool) {
    let service = Service::open(db).await;
    for call in calls(&service).await {
        let code = if call.starts_with("meta.") { 100 } else { 10_015 };
        service.fault(call, Fault::Refuse { status: 0, code }, 1);
        let (line, run) = service.order_line("MA").await;
        let end = service.end_of(run, 9 * PATIENCE).await;
        service.sims.clear_plans();
        if end == "succeeded" {
            let release = service.release_line(line).await;
            assert_eq!(service.end_of(release, PATIENCE).await, "succeeded", "{call}");
        } else {
            assert!(end.starts_with("undone: "), "{call}: {end}");
            assert_eq!(service.line(line).await.status, "failed", "{call}");
        }
        service.balance().await;
        assert!(service.books().is_empty_handed(), "{call}");
    }
    service.close().await;
}
