//! Every webhook of a line's birth lost, late, twice, early and overtaken; a person's word lost; and a world in which all goes wrong by chance.
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod service;

use domain::LineId;
use durable::Tx;
use jobs::NameReviewed;
use service::Service;
use simulators::{Config, Fault, FaultPlan, HookFault, HookPlan, Hostility, Profile, Scene, ScenePlan};
use sqlx::PgPool;
use std::time::Duration;
use uuid::Uuid;
use workflows::OTP_PATIENCE;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// As long as the slowest undoing may take: a week for a person, a day for the code budget, and something for faults.
const PATIENCE: Duration = Duration::from_secs(9 * 24 * 3_600);

/// How the code comes: by what was asked for first, or by text whatever was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Voice,
    Text,
}

impl Way {
    /// Lets the codes of the run with this reference come this way.
    fn lead(self, service: &Service, reference: &str) {
        if self == Self::Text {
            service.sims.scene(ScenePlan { scene: Scene::TextInstead, times: 0, only: Some(reference.to_owned()) });
        }
    }
}

/// A line on trial, and what it has to bear.
struct Trial {
    what: String,
    line: LineId,
    run: Uuid,
}

/// The webhooks of a smooth birth, by voice and by text, from the simulators' own log: a new one is drilled without anybody
/// listing it.
async fn kinds(service: &Service) -> Vec<(Way, String)> {
    let mut kinds = Vec::new();
    for way in [Way::Voice, Way::Text] {
        let (_, run) = service.order_line_with("MA", |reference| way.lead(service, reference)).await;
        assert_eq!(service.end_of(run, MINUTE).await, "succeeded");
        service.settle().await;
        let known = |kind: &String| kinds.iter().any(|(_, one)| one == kind);
        let new: Vec<_> = service.sims.webhook_kinds().into_iter().filter(|kind| !known(kind)).collect();
        kinds.extend(new.into_iter().map(|kind| (way, kind)));
    }
    for expected in ["number_order.complete", "call.initiated", "call.transcription", "message.received"] {
        assert!(kinds.iter().any(|(_, kind)| kind == expected), "{expected} is not among {kinds:?}");
    }
    kinds
}

/// Live with exactly one number bought, or undone with none kept; then released, and both sides' books agree at every stage.
async fn outcome(service: &Service, trials: Vec<Trial>) -> Vec<(String, String)> {
    let mut ends = Vec::new();
    for Trial { what, run, .. } in &trials {
        ends.push((what.clone(), service.end_of(*run, PATIENCE).await));
    }
    service.sims.be(Profile::Smooth);
    service.sims.clear_plans();
    service.balance().await;
    let books = service.books();
    let mut releases = Vec::new();
    for (Trial { what, line, run }, (_, end)) in trials.iter().zip(&ends) {
        let (row, bought) = (service.line(*line).await, books.purchases(&format!("ligne-{run}")));
        if end == "succeeded" {
            assert_eq!((row.status.as_str(), bought), ("live", 1), "{what}");
            assert!(books.numbers[&row.phone.unwrap()[1..]].registered, "{what}");
            releases.push((what, service.release_line(*line).await));
        } else {
            assert!(end.starts_with("undone: "), "{what}: {end}");
            assert_eq!(row.status, "failed", "{what}");
            assert!(bought <= 1, "{what}: {bought} numbers bought");
        }
    }
    for (what, release) in releases {
        assert_eq!(service.end_of(release, DAY).await, "succeeded", "{what}");
    }
    service.balance().await;
    ends
}

/// One line for each kind of webhook, all at once; every webhook of that kind that concerns the line meets with this.
async fn endure(db: PgPool, fault: HookFault, times: u32) {
    let service = Service::open(db).await;
    let mut trials = Vec::new();
    for (way, kind) in kinds(&service).await {
        let plan = |reference: &str| {
            way.lead(&service, reference);
            let (event, fault, only) = (kind.clone(), fault.clone(), Some(reference.to_owned()));
            service.sims.hook_fault(HookPlan { event, fault, times, only });
        };
        let (line, run) = service.order_line_with("MA", plan).await;
        trials.push(Trial { what: format!("{kind} of a code by {way:?}: {fault:?}"), line, run });
    }
    for (what, end) in outcome(&service, trials).await {
        // A text that nobody delivers in time and no log shows is the one thing that nothing makes up for.
        let hopeless = matches!(fault, HookFault::Drop | HookFault::Late { .. }) && times == 0 && what.starts_with("message.");
        assert_eq!(end != "succeeded", hopeless, "{what}: {end}");
    }
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn every_webhook_may_be_lost(db: PgPool) {
    endure(db, HookFault::Drop, 0).await;
}

#[sqlx::test(migrations = false)]
async fn every_webhook_may_come_twice(db: PgPool) {
    endure(db, HookFault::Duplicate, 0).await;
}

#[sqlx::test(migrations = false)]
async fn every_webhook_may_come_when_nobody_waits_for_it_any_more(db: PgPool) {
    let ms = u64::try_from((OTP_PATIENCE + MINUTE).as_millis()).unwrap();
    endure(db, HookFault::Late { ms }, 0).await;
}

/// The first of its kind arrives after everything that the call or the order had to tell.
#[sqlx::test(migrations = false)]
async fn every_webhook_may_be_overtaken(db: PgPool) {
    endure(db, HookFault::Late { ms: 2_000 }, 1).await;
}

/// Whatever a call of ours sets off is told to us before the call is answered.
#[sqlx::test(migrations = false)]
async fn every_call_may_be_answered_after_its_webhooks(db: PgPool) {
    let service = Service::open(db).await;
    kinds(&service).await;
    let mut calls: Vec<_> = service.sims.journal().into_iter().map(|entry| entry.operation).collect();
    calls.sort_unstable();
    calls.dedup();
    let mut trials = Vec::new();
    for call in calls.into_iter().chain(["*"]) {
        let plan = |reference: &str| {
            let (operation, only) = (call.to_owned(), Some(reference.to_owned()));
            service.sims.fault(FaultPlan { operation, fault: Fault::HooksFirst, skip: 0, times: 0, only });
        };
        let (line, run) = service.order_line_with("MA", plan).await;
        trials.push(Trial { what: format!("{call} answered last"), line, run });
    }
    for (what, end) in outcome(&service, trials).await {
        assert_eq!(end, "succeeded", "{what}");
    }
    service.close().await;
}

/// Nothing but the webhooks is wrong, and most of them are.
#[sqlx::test(migrations = false)]
async fn webhooks_come_in_any_order_or_not_at_all(db: PgPool) {
    const LINES: usize = 10;
    let quiet = Hostility { lose_call: 0, lose_answer: 0, throttle: 0, server_error: 0, hang: 0, slow_body: 0, ..calm() };
    let hostility = Hostility { hook_drop: 100, hook_duplicate: 200, hook_late: 600, hook_late_ms: 1_000, ..quiet };
    let service = Service::open_with(db, Config { hostility, ..Config::default() }).await;
    service.sims.be(Profile::Hostile { seed: 7 });
    let mut trials = Vec::new();
    for seed in 0..LINES {
        let (line, run) = service.order_line("MA").await;
        trials.push(Trial { what: format!("line {seed}"), line, run });
    }
    outcome(&service, trials).await;
    service.close().await;
}

/// Codes come, numbers are delivered: the world itself is kind.
fn calm() -> Hostility {
    Hostility {
        number_taken: 0,
        order_fails: 0,
        settings_lost: 0,
        nobody_calls: 0,
        text_instead: 0,
        wrong_code: 0,
        call_cut_short: 0,
        ..Hostility::default()
    }
}

async fn hostile(db: PgPool, seed: u64) {
    const LINES: usize = 20;
    // Nobody moves time on while a call hangs or a webhook is about to come: both are short.
    let hostility = Hostility { hang_ms: 500, hook_late_ms: 500, ..Hostility::default() };
    let service = Service::open_with(db, Config { hostility, ..Config::default() }).await;
    service.sims.be(Profile::Hostile { seed });
    let mut trials = Vec::new();
    for at in 0..LINES {
        let (line, run) = service.order_line("MA").await;
        trials.push(Trial { what: format!("line {at} under seed {seed}"), line, run });
    }
    let ends = outcome(&service, trials).await;
    let live = ends.iter().filter(|(_, end)| end == "succeeded").count();
    assert!(live >= LINES / 2, "only {live} of {LINES} live: {ends:#?}");
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn twenty_lines_in_a_hostile_world(db: PgPool) {
    hostile(db, 1).await;
}

#[sqlx::test(migrations = false)]
async fn twenty_lines_in_another_hostile_world(db: PgPool) {
    hostile(db, 42).await;
}

#[sqlx::test(migrations = false)]
async fn twenty_lines_in_a_third_hostile_world(db: PgPool) {
    hostile(db, 20_261_001).await;
}

/// A person settles things at the provider, the word of it is lost, and so is the provider's webhook: looking finds it.
#[sqlx::test(migrations = false)]
async fn a_person_s_word_may_be_lost(db: PgPool) {
    let service = Service::open(db).await;
    service.sims.hook_fault(HookPlan { event: "phone_number_name_update".into(), fault: HookFault::Drop, times: 0, only: None });
    service.sims.hook_fault(HookPlan { event: "number_order.complete".into(), fault: HookFault::Drop, times: 0, only: None });
    let mut trials = Vec::new();
    for scene in [Scene::NameDeclined, Scene::RequirementsOpen] {
        let what = format!("{scene:?}, settled in silence");
        let plan = |reference: &str| {
            service.sims.scene(ScenePlan { scene: scene.clone(), times: 1, only: Some(reference.to_owned()) });
        };
        let (line, run) = service.order_line_with("MA", plan).await;
        trials.push(Trial { what, line, run });
    }
    service.until_waiting_for(trials[0].run, "propose another", 10 * MINUTE).await;
    service.until_waiting_for(trials[1].run, "documents", 10 * MINUTE).await;
    let named = service.line(trials[0].line).await.phone_number_id.unwrap();
    service.sims.decide_name(&named, true);
    let order = &service.books().orders[&format!("ligne-{}", trials[1].run)][0].id;
    service.sims.decide_order(order, true);
    for (what, end) in outcome(&service, trials).await {
        assert_eq!(end, "succeeded", "{what}");
    }
    service.close().await;
}

/// A person proposes a name before anybody asks, and again: it is kept until it is wanted, and asked for once.
#[sqlx::test(migrations = false)]
async fn a_person_s_word_may_come_early_and_twice(db: PgPool) {
    let service = Service::open(db).await;
    let (line, run) = service
        .order_line_with("MA", |reference| {
            service.sims.scene(ScenePlan { scene: Scene::NameDeclined, times: 1, only: Some(reference.to_owned()) });
            service.sims.scene(ScenePlan { scene: Scene::NobodyCalls, times: 1, only: Some(reference.to_owned()) });
        })
        .await;
    service.until_waiting_for(run, "a call with Meta's code", 10 * MINUTE).await;
    let phone = service.line(line).await.phone.unwrap();
    for _ in 0..2 {
        let mut tx: Tx<'_> = service.db.begin().await.unwrap();
        let answer = NameReviewed { display_name: Some("Atlas Emploi Maroc".to_owned()), ..NameReviewed::default() };
        durable::signal(&mut tx, &phone, &answer).await.unwrap();
        tx.commit().await.unwrap();
    }
    let trials = vec![Trial { what: "a name proposed early and twice".to_owned(), line, run }];
    for (what, end) in outcome(&service, trials).await {
        assert_eq!(end, "succeeded", "{what}");
    }
    assert_eq!(service.line(line).await.display_name, "Atlas Emploi Maroc");
    let books = service.books();
    let number = &books.numbers[&phone[1..]];
    assert_eq!((number.register_calls.len(), books.calls["meta.number_update"]), (2, 1));
    service.close().await;
}
