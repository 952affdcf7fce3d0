//! A line's life against both simulators: every way to live, and every way back to nothing.
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod service;

use durable::Tx;
use jobs::{NameReviewed, SweepOrphans};
use service::Service;
use simulators::{Config, Fault, Scene};
use sqlx::PgPool;
use std::time::Duration;
use store::budgets::{self, Call};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

#[sqlx::test(migrations = false)]
async fn a_line_is_ordered_and_goes_live_by_voice(db: PgPool) {
    let service = Service::open(db).await;
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 5 * MINUTE).await, "succeeded");
    let row = service.line(line).await;
    assert_eq!(row.status, "live");
    assert_eq!((row.quality.as_deref(), row.throughput.as_deref()), (Some("GREEN"), Some("STANDARD")));
    assert_eq!((row.setup_cost_micro, row.monthly_cost_micro), (Some(1_000_000), Some(4_500_000)));
    let phone = row.phone.unwrap();
    let books = service.books();
    assert_eq!(books.purchases(&format!("ligne-{run}")), 1);
    let number = &books.numbers[&phone[1..]];
    assert!(number.registered && number.has_pin);
    assert_eq!((number.register_calls.len(), number.code_requests.len()), (1, 1));
    assert_eq!(service.told(), ["live"]);
    assert!(lines_pin_is_sealed(&service, line).await);
    service.balance().await;
    let kept: Vec<String> = recordings_left(&service);
    assert!(kept.is_empty(), "a recording of the code was left: {kept:?}");
    service.close().await;
}

async fn lines_pin_is_sealed(service: &Service, line: domain::LineId) -> bool {
    store::lines::pin(&service.db, line).await.unwrap().is_some_and(|sealed| sealed.len() > 6)
}

/// Recordings that were listed and never deleted, as the journal tells.
fn recordings_left(service: &Service) -> Vec<String> {
    let journal = service.sims.journal();
    let deleted = journal.iter().any(|entry| entry.operation == "telnyx.recording_delete");
    let answered = journal.iter().any(|entry| entry.operation == "telnyx.answer");
    if answered && !deleted { vec!["all".to_owned()] } else { Vec::new() }
}

#[sqlx::test(migrations = false)]
async fn nobody_calls_and_the_code_comes_by_text(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NobodyCalls, 1);
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 30 * MINUTE).await, "succeeded");
    let phone = service.line(line).await.phone.unwrap();
    let methods: Vec<_> = service.books().numbers[&phone[1..]].code_requests.iter().map(|asked| asked.method.clone()).collect();
    assert_eq!(methods, ["VOICE", "SMS"]);
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn nobody_ever_calls_and_the_number_is_given_back(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NobodyCalls, 0);
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 3 * HOUR).await, "undone: no right code by voice or by text");
    let row = service.line(line).await;
    assert_eq!((row.status.as_str(), row.reason.as_deref()), ("failed", Some("no right code by voice or by text")));
    assert!(service.books().is_empty_handed());
    assert_eq!(service.told(), ["failed"]);
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn the_call_is_recorded_but_nothing_is_transcribed(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NoTranscript, 1);
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 30 * MINUTE).await, "succeeded");
    let phone = service.line(line).await.phone.unwrap();
    assert_eq!(service.books().numbers[&phone[1..]].code_requests.len(), 1, "the recording has the code");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn an_order_that_fails_is_undone(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::OrderFails, 1);
    let (line, run) = service.order_line("MA").await;
    let end = service.end_of(run, 10 * MINUTE).await;
    assert!(end.starts_with("undone: Telnyx could not deliver"), "{end}");
    assert_eq!(service.line(line).await.status, "failed");
    assert!(service.books().is_empty_handed());
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_number_that_was_sold_to_somebody_else_is_replaced(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NumberTaken, 2);
    let (_, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 10 * MINUTE).await, "succeeded");
    assert_eq!(service.books().purchases(&format!("ligne-{run}")), 1);
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn the_answer_to_the_order_is_lost_and_one_number_is_bought(db: PgPool) {
    let service = Service::open(db).await;
    service.fault("telnyx.order", Fault::LoseAnswer, 1);
    let (_, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 10 * MINUTE).await, "succeeded");
    let books = service.books();
    assert_eq!((books.owned.len(), books.calls["telnyx.order"]), (1, 1));
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn the_order_itself_is_lost_and_made_again_after_its_grace(db: PgPool) {
    let service = Service::open(db).await;
    service.fault("telnyx.order", Fault::LoseCall, 1);
    let (_, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 20 * MINUTE).await, "succeeded");
    let books = service.books();
    assert_eq!((books.owned.len(), books.calls["telnyx.order"]), (1, 2));
    let gap: Vec<_> =
        service.sims.journal().into_iter().filter(|entry| entry.operation == "telnyx.order").map(|entry| entry.at).collect();
    assert!((gap[1] - gap[0]).num_seconds() >= 120, "called again too early");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn three_wrong_codes_and_the_fourth_is_right(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::WrongCode, 3);
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 4 * HOUR).await, "succeeded");
    let phone = service.line(line).await.phone.unwrap();
    let asked = &service.books().numbers[&phone[1..]].code_requests;
    assert_eq!(asked.len(), 4, "{asked:?}");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_locked_number_waits_out_its_72_hours_and_goes_on(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::RegisterLocked, 1);
    let (line, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "registration budget", 10 * MINUTE).await;
    assert!(service.line(line).await.reason.is_some(), "the line says what it waits for");
    service.skip(71 * HOUR).await;
    assert_eq!(service.status(run).await.status, "waiting");
    assert_eq!(service.end_of(run, 2 * HOUR).await, "succeeded");
    let phone = service.line(line).await.phone.unwrap();
    assert_eq!(budgets::count(&service.db, &phone, Call::Register).await.unwrap(), 2);
    service.balance().await;
    service.close().await;
}

/// Ten in 72 hours lock a number out, whatever became of them: ours stop at eight.
#[sqlx::test(migrations = false)]
async fn a_number_that_cannot_be_registered_is_tried_eight_times_in_three_days(db: PgPool) {
    let service = Service::open(db).await;
    service.fault("meta.register", Fault::Throttle { headers: false, retry_after_s: 1 }, 0);
    let (_, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "registration budget", 2 * DAY).await;
    let tries = |service: &Service| -> Vec<_> {
        let journal = service.sims.journal().into_iter();
        journal.filter(|entry| entry.operation == "meta.register").map(|entry| entry.at).collect()
    };
    assert_eq!(tries(&service).len(), 8);
    service.sims.clear_plans();
    assert_eq!(service.end_of(run, 4 * DAY).await, "succeeded");
    let tries = tries(&service);
    assert_eq!(tries.len(), 9, "the ninth is the first that Meta heard");
    assert!((tries[8] - tries[0]).num_hours() >= 72, "{tries:?}");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_declined_name_waits_for_a_person_who_proposes_another(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NameDeclined, 1);
    let (line, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "propose another", 10 * MINUTE).await;
    let phone = service.line(line).await.phone.unwrap();
    let mut tx: Tx<'_> = service.db.begin().await.unwrap();
    let answer = NameReviewed { display_name: Some("Atlas Emploi Maroc".to_owned()), ..NameReviewed::default() };
    durable::signal(&mut tx, &phone, &answer).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(service.end_of(run, HOUR).await, "succeeded");
    assert_eq!(service.line(line).await.display_name, "Atlas Emploi Maroc");
    let number = &service.books().numbers[&phone[1..]];
    assert_eq!((number.verified_name.as_str(), number.register_calls.len()), ("Atlas Emploi Maroc", 2));
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_declined_name_that_nobody_settles_is_undone_after_a_week(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NameDeclined, 0);
    let (line, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "propose another", 10 * MINUTE).await;
    let end = service.end_of(run, 8 * DAY).await;
    assert!(end.starts_with("undone: Meta declined the name"), "{end}");
    assert_eq!(service.line(line).await.status, "failed");
    assert!(service.books().is_empty_handed());
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn documents_that_nobody_files_cancel_the_order_after_a_week(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::RequirementsOpen, 1);
    let (line, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "documents", 10 * MINUTE).await;
    assert!(service.line(line).await.reason.unwrap().contains("documents"));
    let end = service.end_of(run, 8 * DAY).await;
    assert!(end.starts_with("undone: Telnyx wants documents"), "{end}");
    assert!(service.books().is_empty_handed());
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_full_account_waits_for_room(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NumberCap, 1);
    let (_, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "no more numbers", 10 * MINUTE).await;
    assert_eq!(service.end_of(run, HOUR).await, "succeeded");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_number_that_is_on_whatsapp_elsewhere_is_given_back(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::OnWhatsApp, 1);
    let (_, run) = service.order_line("MA").await;
    let end = service.end_of(run, 10 * MINUTE).await;
    assert!(end.starts_with("undone: +212") && end.ends_with("is already on WhatsApp elsewhere"), "{end}");
    assert!(service.books().is_empty_handed());
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn without_money_nothing_is_ordered(db: PgPool) {
    let mut config = Config::default();
    config.telnyx.balance_cents = 100;
    let service = Service::open_with(db, config).await;
    let (_, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "top it up", 10 * MINUTE).await;
    let end = service.end_of(run, 8 * DAY).await;
    assert!(end.starts_with("undone: the balance at Telnyx"), "{end}");
    assert!(!service.books().calls.contains_key("telnyx.order"));
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_run_cancelled_midway_gives_everything_back(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NobodyCalls, 0);
    let (line, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "a call with Meta's code", 10 * MINUTE).await;
    let mut tx = service.db.begin().await.unwrap();
    assert!(durable::cancel(&mut tx, run).await.unwrap());
    tx.commit().await.unwrap();
    assert!(service.end_of(run, HOUR).await.starts_with("cancelled"));
    assert_eq!(service.line(line).await.status, "failed");
    assert!(service.books().is_empty_handed());
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_run_cancelled_after_registration_deregisters_first(db: PgPool) {
    let service = Service::open(db).await;
    service.scene(Scene::NameDeclined, 0);
    let (_, run) = service.order_line("MA").await;
    service.until_waiting_for(run, "propose another", 10 * MINUTE).await;
    let mut tx = service.db.begin().await.unwrap();
    assert!(durable::cancel(&mut tx, run).await.unwrap());
    tx.commit().await.unwrap();
    assert!(service.end_of(run, HOUR).await.starts_with("cancelled"));
    assert!(service.books().is_empty_handed());
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_line_is_released_once_and_its_costs_are_kept(db: PgPool) {
    let service = Service::open(db).await;
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 5 * MINUTE).await, "succeeded");
    let release = service.release_line(line).await;
    assert_eq!(service.release_line(line).await, release, "asked again: the same run");
    assert_eq!(service.end_of(release, HOUR).await, "succeeded");
    let row = service.line(line).await;
    assert_eq!((row.status.as_str(), row.final_cost_micro), ("released", Some(5_500_000)));
    assert!(service.books().is_empty_handed());
    assert_eq!(service.told(), ["live", "released"]);
    let orphans = store::lines::orphans(&service.db).await.unwrap();
    assert_eq!(orphans.len(), 1, "Meta's number stays behind and is listed");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn twenty_lines_ordered_at_once_get_twenty_numbers(db: PgPool) {
    const LINES: usize = 20;
    let service = Service::open(db).await;
    let mut runs = Vec::new();
    for _ in 0..LINES {
        runs.push(service.order_line("MA").await.1);
    }
    for run in runs {
        assert_eq!(service.end_of(run, HOUR).await, "succeeded");
    }
    assert_eq!(service.books().owned.len(), LINES);
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn strangers_are_turned_away(db: PgPool) {
    let service = Service::open(db).await;
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 5 * MINUTE).await, "succeeded");
    let phone = service.line(line).await.phone.unwrap();
    let answered = service.books().calls["telnyx.answer"];
    service.sims.call(&phone, "your code is one two three four five six");
    service.sims.text(&phone, "Meta", "123-456 est votre code");
    service.settle().await;
    let books = service.books();
    assert_eq!((books.calls["telnyx.answer"], books.calls["telnyx.reject"]), (answered, 1));
    let mail: i64 =
        sqlx::query_scalar("select count(*) from durable.mail where topic = 'otp_arrived'").fetch_one(&service.db).await.unwrap();
    assert_eq!(mail, 0, "no code is passed on while nobody awaits one");
    service.balance().await;
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_number_that_no_line_has_is_listed(db: PgPool) {
    let service = Service::open(db).await;
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 5 * MINUTE).await, "succeeded");
    let phone = service.line(line).await.phone.unwrap();
    sweep(&service).await;
    assert!(store::lines::orphans(&service.db).await.unwrap().is_empty());
    sqlx::query("update line set status = 'failed'").execute(&service.db).await.unwrap();
    sweep(&service).await;
    let orphans = store::lines::orphans(&service.db).await.unwrap();
    assert_eq!(
        orphans.iter().map(|o| (o.provider.as_str(), o.phone.as_str())).collect::<Vec<_>>(),
        [("meta", &*phone), ("telnyx", &*phone)]
    );
    service.close().await;
}

async fn sweep(service: &Service) {
    let mut tx = service.db.begin().await.unwrap();
    durable::enqueue(&mut tx, &SweepOrphans { at: service.tools.clock.now() }).await.unwrap();
    tx.commit().await.unwrap();
    service.settle().await;
}
