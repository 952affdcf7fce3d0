//! Templates, sends and replies, told against both simulators.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a test an unwrap is an assertion, and an id is anything")]

mod service;

use domain::{LineId, MessageId, TemplateId, TenantId};
use jobs::{Queued, queue_messages};
use serde_json::{Value, json};
use service::Service;
use simulators::{Fault, HookFault, HookPlan, Scene};
use sqlx::PgPool;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use store::{messages, templates, tenants};
use uuid::Uuid;
use workflows::ApproveTemplate;

const MINUTE: Duration = Duration::from_secs(60);

/// A live line, and a template that Meta has approved.
struct Talk {
    service: Service,
    line: LineId,
}

impl Talk {
    async fn open(db: PgPool) -> Self {
        let service = Service::open(db).await;
        let (line, run) = service.order_line("MA").await;
        assert_eq!(service.end_of(run, 30 * MINUTE).await, "succeeded");
        let talk = Self { service, line };
        talk.template("invitation", "MARKETING").await;
        talk
    }

    fn tenant(&self) -> TenantId {
        self.service.tenant
    }

    async fn submit(&self, name: &str, category: &str) -> (TemplateId, Uuid) {
        let id = TemplateId(Uuid::now_v7());
        let new = templates::NewTemplate {
            template_id: id,
            tenant_id: self.tenant(),
            global_template_id: None,
            name: name.to_owned(),
            meta_name: domain::template::meta_name(self.tenant(), name),
            messaging_account: self.service.sims.config().meta.waba_id.clone(),
            language: "fr".to_owned(),
            category: category.to_owned(),
            components: json!([{"type": "BODY", "text": "Bonjour {{prenom}}, un poste vous attend à Casablanca cette semaine.",
                "example": {"body_text_named_params": [{"param_name": "prenom", "example": "Salma"}]}}]),
            parameter_format: "NAMED".to_owned(),
            introduces: true,
            message_send_ttl_seconds: None,
        };
        let mut tx = self.service.db.begin().await.unwrap();
        assert!(templates::create(&mut *tx, &new).await.unwrap());
        let run = durable::start(&mut tx, &ApproveTemplate { template: id, tenant: self.tenant(), version: 1 }).await.unwrap();
        tx.commit().await.unwrap();
        (id, run)
    }

    async fn template(&self, name: &str, category: &str) -> TemplateId {
        let (id, run) = self.submit(name, category).await;
        assert_eq!(self.service.end_of(run, 60 * MINUTE).await, "succeeded");
        let template = templates::by_id(&self.service.db, id).await.unwrap().unwrap();
        assert_eq!(template.status, "APPROVED", "{template:?}");
        id
    }

    fn invite(&self, to: &str) -> Value {
        json!({"line_id": self.line, "to": to, "type": "template",
            "template": {"name": "invitation", "language": "fr", "variables": {"prenom": "Yassine"}}})
    }

    fn text(&self, to: &str, body: &str) -> Value {
        json!({"line_id": self.line, "to": to, "type": "text", "text": {"body": body}})
    }

    async fn try_send(&self, requests: &[Value]) -> Queued {
        let mut tx = self.service.db.begin().await.unwrap();
        let tenant = tenants::get(&mut tx, self.tenant()).await.unwrap().unwrap();
        let now = self.service.tools.clock.now();
        let queued = queue_messages(&mut tx, &self.service.tools.vault, now, &tenant, requests).await.unwrap();
        match queued {
            Queued::Done(_) => tx.commit().await.unwrap(),
            _ => tx.rollback().await.unwrap(),
        }
        queued
    }

    async fn send(&self, requests: &[Value]) -> Vec<MessageId> {
        match self.try_send(requests).await {
            Queued::Done(ids) => ids,
            Queued::Refused(problems) => panic!("refused: {problems:?}"),
            Queued::NoCredit { .. } => panic!("no credit"),
        }
    }

    async fn refused(&self, request: Value) -> &'static str {
        match self.try_send(&[request]).await {
            Queued::Refused(problems) => problems[0].problem.code,
            _ => panic!("it was queued"),
        }
    }

    async fn message(&self, id: MessageId) -> messages::Message {
        messages::get(&self.service.db, self.tenant(), id).await.unwrap().unwrap()
    }

    async fn statuses(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select status, count(*) from message where direction = 'out' group by status")
                .fetch_all(&self.service.db)
                .await
                .unwrap();
        rows.into_iter().collect()
    }

    /// A contact writes to the line, so that free-form answers may be sent.
    async fn hears(&self, from: &str, text: &str) {
        let phone = self.service.line(self.line).await.phone.unwrap();
        self.service.sims.write(&phone, from, json!({"type": "text", "text": {"body": text}})).unwrap();
        self.service.settle().await;
    }

    /// What every test ends with: nothing was accepted twice, nothing is in between.
    async fn end(self) {
        self.service.settle().await;
        let twice: Vec<_> = self.service.sims.message_books().per_callback.into_iter().filter(|(_, times)| *times > 1).collect();
        assert!(twice.is_empty(), "attempts that Meta accepted twice: {twice:?}");
        let open: i64 = sqlx::query_scalar("select count(*) from message where status in ('sending')")
            .fetch_one(&self.service.db)
            .await
            .unwrap();
        assert_eq!(open, 0, "attempts nobody settled");
        let untaken: i64 = sqlx::query_scalar("select count(*) from inbox where taken_at is null and provider = 'meta'")
            .fetch_one(&self.service.db)
            .await
            .unwrap();
        assert_eq!(untaken, 0, "news nobody took");
        self.service.close().await;
    }
}

#[sqlx::test(migrations = false)]
async fn a_campaign_goes_out_once_each_and_is_told_to_the_end(db: PgPool) {
    let talk = Talk::open(db).await;
    let requests: Vec<Value> = (0..60).map(|n| talk.invite(&format!("+2126000001{n:02}"))).collect();
    let ids = talk.send(&requests).await;
    talk.service.settle().await;
    let books = talk.service.sims.message_books();
    assert_eq!((books.accepted, books.per_callback.len()), (60, 60));
    assert!(books.per_callback.keys().all(|callback| callback.ends_with(".1")), "one attempt each");
    let statuses = talk.statuses().await;
    assert_eq!(statuses.keys().filter(|status| !matches!(status.as_str(), "delivered" | "read")).count(), 0, "{statuses:?}");
    let message = talk.message(ids[0]).await;
    assert!(message.wamid.is_some() && message.history.as_array().unwrap().len() >= 3, "{}", message.history);
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn a_lost_answer_is_settled_by_its_status_and_never_sent_again(db: PgPool) {
    let talk = Talk::open(db).await;
    talk.service.fault("meta.send", Fault::LoseAnswer, 1);
    let ids = talk.send(&[talk.invite("+212600000201")]).await;
    talk.service.settle().await;
    let message = talk.message(ids[0]).await;
    assert!(matches!(message.status.as_str(), "delivered" | "read"), "{} {:?}", message.status, message.waiting_for);
    assert_eq!(talk.service.sims.message_books().accepted, 1);
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn an_attempt_that_never_arrived_parks_at_most_once_and_repeats_at_least_once(db: PgPool) {
    let talk = Talk::open(db).await;
    talk.service.fault("meta.send", Fault::LoseCall, 2);
    let mut again = talk.invite("+212600000302");
    again["delivery"] = json!("at_least_once");
    let once = talk.send(&[talk.invite("+212600000301")]).await[0];
    talk.service.settle().await;
    let again = talk.send(&[again]).await[0];
    talk.service.settle().await;
    assert_eq!((talk.message(once).await.status, talk.message(again).await.status), ("unknown".into(), "unknown".into()));
    // What comes later to the same contact stays behind it.
    let behind = talk.send(&[talk.invite("+212600000301")]).await[0];
    talk.service.settle().await;
    assert_eq!(talk.message(behind).await.status, "queued");
    talk.service.skip(6 * MINUTE).await;
    assert_eq!(talk.message(once).await.status, "parked");
    let repeated = talk.message(again).await;
    assert!(matches!(repeated.status.as_str(), "delivered" | "read"), "{}", repeated.status);
    assert_eq!(repeated.attempts, 2);
    assert!(matches!(talk.message(behind).await.status.as_str(), "delivered" | "read"));
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn retryable_refusals_are_tried_again_and_final_ones_are_not(db: PgPool) {
    let talk = Talk::open(db).await;
    talk.service.fault("meta.send", Fault::Refuse { code: 131016, status: 0 }, 4);
    let ids = talk.send(&[talk.invite("+212600000401")]).await;
    talk.service.settle().await;
    // After 1, 4, 16 and 60 s it is tried again: nobody is too late to see it wait.
    let waiting = talk.message(ids[0]).await;
    assert_eq!((waiting.status.as_str(), waiting.error_code.as_deref()), ("queued", Some("131016")));
    talk.service.skip(5 * MINUTE).await;
    let sent = talk.message(ids[0]).await;
    assert!(matches!(sent.status.as_str(), "delivered" | "read"), "{} {:?}", sent.status, sent.waiting_for);
    assert_eq!(sent.attempts, 5);
    talk.service.fault("meta.send", Fault::Refuse { code: 131050, status: 0 }, 1);
    let last = talk.send(&[talk.invite("+212600000402")]).await[0];
    talk.service.skip(10 * MINUTE).await;
    let last = talk.message(last).await;
    assert_eq!((last.status.as_str(), last.attempts, last.error_class.as_deref()), ("failed", 1, Some("X")));
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn one_contact_gets_45_at_once_and_then_one_every_six_seconds(db: PgPool) {
    let talk = Talk::open(db).await;
    let requests: Vec<Value> = (0..60).map(|_| talk.invite("+212600000501")).collect();
    let begun = talk.service.tools.clock.now();
    talk.send(&requests).await;
    talk.service.settle().await;
    let books = talk.service.sims.message_books();
    let held = talk.statuses().await.get("queued").copied().unwrap_or(0);
    // A slow machine gives some their six seconds.
    let due = 45 + u64::try_from((talk.service.tools.clock.now() - begun).num_seconds()).unwrap() / 6;
    assert!((45..=due).contains(&books.accepted), "{} of {due}", books.accepted);
    assert!(held + i64::try_from(due).unwrap() >= 60, "{held} are held, {due} may have gone");
    assert_eq!(books.refused_pair, 0, "we never ran into Meta's limit");
    for _ in 0..16 {
        talk.service.skip(Duration::from_secs(7)).await;
    }
    let books = talk.service.sims.message_books();
    assert_eq!((books.accepted, books.refused_pair), (60, 0));
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn a_reply_opens_the_window_and_a_stop_word_closes_everything(db: PgPool) {
    let talk = Talk::open(db).await;
    let person = "+212600000601";
    assert_eq!(talk.refused(talk.text(person, "Bonjour")).await, "window_closed");
    talk.hears(person, "Oui, je suis disponible").await;
    let answer = talk.send(&[talk.text(person, "Parfait, à lundi")]).await[0];
    talk.service.settle().await;
    assert!(matches!(talk.message(answer).await.status.as_str(), "delivered" | "read"));
    let unread: i32 = sqlx::query_scalar("select unread from conversation where window_until is not null")
        .fetch_one(&talk.service.db)
        .await
        .unwrap();
    assert_eq!(unread, 1);
    talk.hears(person, "STOP").await;
    assert_eq!(talk.refused(talk.text(person, "Encore un mot")).await, "opted_out");
    assert_eq!(talk.refused(talk.invite(person)).await, "opted_out");
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn webhooks_doubled_late_and_out_of_order_end_in_the_same_rows(db: PgPool) {
    let talk = Talk::open(db).await;
    for fault in [HookFault::Duplicate, HookFault::Late { ms: 1_500 }] {
        talk.service.sims.hook_fault(HookPlan { event: "messages".to_owned(), fault, times: 20, only: None });
    }
    let requests: Vec<Value> = (0..20).map(|n| talk.invite(&format!("+2126000007{n:02}"))).collect();
    talk.send(&requests).await;
    talk.service.settle().await;
    talk.service.skip(10 * MINUTE).await;
    let statuses = talk.statuses().await;
    assert_eq!(statuses.keys().filter(|status| !matches!(status.as_str(), "delivered" | "read")).count(), 0, "{statuses:?}");
    let doubled: i64 = sqlx::query_scalar(
        "select count(*) from (select message_id, status from message_status group by 1, 2 having count(*) > 1) d",
    )
    .fetch_one(&talk.service.db)
    .await
    .unwrap();
    assert_eq!(doubled, 0);
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn a_paused_template_holds_its_sends_and_its_return_wakes_them(db: PgPool) {
    let talk = Talk::open(db).await;
    let template = templates::named(&talk.service.db, talk.tenant(), "invitation", "fr").await.unwrap().unwrap();
    let meta_id = template.meta_template_id.unwrap();
    talk.service.sims.decide_template(&meta_id, "PAUSED", "NONE");
    talk.service.settle().await;
    let id = talk.send(&[talk.invite("+212600000801")]).await[0];
    talk.service.settle().await;
    let held = talk.message(id).await;
    assert_eq!(held.status, "queued");
    assert!(held.waiting_for.as_deref().is_some_and(|why| why.contains("template")), "{:?}", held.waiting_for);
    talk.service.sims.decide_template(&meta_id, "REINSTATED", "NONE");
    talk.service.settle().await;
    assert!(matches!(talk.message(id).await.status.as_str(), "delivered" | "read"));
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn an_account_that_cannot_pay_stops_the_line_until_it_is_resumed(db: PgPool) {
    let talk = Talk::open(db).await;
    talk.service.fault("meta.send", Fault::Refuse { code: 131042, status: 0 }, 1);
    let requests: Vec<Value> = (0..5).map(|n| talk.invite(&format!("+21260000090{n}"))).collect();
    talk.send(&requests).await;
    talk.service.settle().await;
    let before = talk.statuses().await;
    assert!(before.get("queued").is_some_and(|queued| *queued >= 1), "{before:?}");
    let account = talk.service.sims.config().meta.waba_id.clone();
    let mut tx = talk.service.db.begin().await.unwrap();
    assert!(jobs::free_account(&mut tx, &account).await.unwrap());
    tx.commit().await.unwrap();
    talk.service.settle().await;
    let after = talk.statuses().await;
    assert_eq!(after.values().sum::<i64>(), after.get("delivered").unwrap_or(&0) + after.get("read").unwrap_or(&0), "{after:?}");
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn bad_rows_are_all_named_and_nothing_is_queued(db: PgPool) {
    let talk = Talk::open(db).await;
    let mut unknown = talk.invite("+212600001002");
    unknown["template"]["name"] = json!("nobody_knows");
    let mut empty = talk.invite("+212600001003");
    empty["template"]["variables"] = json!({});
    let requests = [talk.invite("+212600001001"), unknown, empty.clone(), talk.invite("nobody")];
    let Queued::Refused(problems) = talk.try_send(&requests).await else { panic!("it was queued") };
    let named: Vec<(usize, &str)> = problems.iter().map(|p| (p.row, p.problem.code)).collect();
    assert_eq!(named, [(1, "template_unknown"), (3, "invalid_recipient")]);
    assert_eq!(talk.refused(empty).await, "missing_variable");
    assert!(talk.statuses().await.is_empty());
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn a_rejected_template_says_why(db: PgPool) {
    let talk = Talk::open(db).await;
    talk.service.scene(Scene::TemplateRejected { reason: "PROMOTIONAL".to_owned() }, 1);
    let (id, run) = talk.submit("refusee", "UTILITY").await;
    assert_eq!(talk.service.end_of(run, 60 * MINUTE).await, "succeeded");
    let template = templates::by_id(&talk.service.db, id).await.unwrap().unwrap();
    assert_eq!((template.status.as_str(), template.reason.as_deref()), ("REJECTED", Some("PROMOTIONAL")));
    talk.end().await;
}

/// The calls that a template's approval and a send make, from the simulators' own journal: a new one is drilled without anybody
/// listing it.
async fn calls_of_a_smooth_campaign(talk: &Talk) -> BTreeSet<&'static str> {
    let before = talk.service.sims.journal().len();
    campaign(talk, "smooth", "+212600002000").await;
    let calls: BTreeSet<_> = talk.service.sims.journal()[before..].iter().map(|entry| entry.operation).collect();
    assert!(calls.contains("meta.send") && calls.len() >= 2, "{calls:?}");
    calls
}

/// A template of its own, and a send that uses it; how both ended.
async fn campaign(talk: &Talk, name: &str, to: &str) -> (String, messages::Message) {
    let (id, run) = talk.submit(name, "UTILITY").await;
    assert_eq!(talk.service.end_of(run, 48 * 60 * MINUTE).await, "succeeded", "{name}");
    let template = templates::by_id(&talk.service.db, id).await.unwrap().unwrap();
    let mut invite = talk.invite(to);
    if template.status == "APPROVED" {
        invite["template"]["name"] = json!(name);
    }
    let id = talk.send(&[invite]).await[0];
    talk.service.settle().await;
    talk.service.skip(6 * MINUTE).await;
    talk.service.skip(20 * MINUTE).await;
    (template.status, talk.message(id).await)
}

/// Afterwards the simulator's books and ours agree about the one template and the one message.
async fn balance(talk: &Talk, what: &str, creations: usize, (template, message): &(String, messages::Message)) {
    let created =
        talk.service.sims.journal().iter().filter(|entry| entry.operation == "meta.template_create" && entry.acted).count();
    let new = usize::from(template != "REJECTED");
    assert_eq!(created, creations + new, "{what}: templates created at Meta");
    let books = talk.service.sims.message_books();
    let accepted: u32 = books
        .per_callback
        .iter()
        .filter(|(name, _)| name.starts_with(&message.message_id.to_string()))
        .map(|(_, times)| times)
        .sum();
    let told = format!("{what}: {} {:?} {:?}", message.status, message.error_code, message.waiting_for);
    match message.status.as_str() {
        "accepted" | "sent" | "delivered" | "read" => assert_eq!(accepted, 1, "{told}"),
        "failed" => assert!(accepted <= 1 && message.error_code.is_some(), "{told}"),
        "parked" => assert!(accepted <= 1 && message.waiting_for.is_some(), "{told}"),
        // Only a stop that a person must lift may hold a message so long.
        _ => assert!(accepted == 0 && message.waiting_for.is_some(), "{told}"),
    }
}

fn creations(talk: &Talk) -> usize {
    talk.service.sims.journal().iter().filter(|entry| entry.operation == "meta.template_create" && entry.acted).count()
}

/// Each call of template and send in turn with this fault.
async fn drill(db: PgPool, fault: Fault) {
    let talk = Talk::open(db).await;
    let calls = calls_of_a_smooth_campaign(&talk).await;
    for (place, call) in calls.into_iter().enumerate() {
        let (what, before) = (format!("{call} with {fault:?}"), creations(&talk));
        talk.service.fault(call, fault.clone(), 1);
        let end = campaign(&talk, &format!("essai_{place}"), &format!("+2126000021{place:02}")).await;
        talk.service.sims.clear_plans();
        balance(&talk, &what, before, &end).await;
        if !matches!(fault, Fault::Refuse { .. }) {
            assert_eq!(end.0, "APPROVED", "{what}");
        }
    }
    talk.end().await;
}

#[sqlx::test(migrations = false)]
async fn every_call_of_template_and_send_may_lose_its_answer(db: PgPool) {
    drill(db, Fault::LoseAnswer).await;
}

#[sqlx::test(migrations = false)]
async fn every_call_of_template_and_send_may_be_lost(db: PgPool) {
    drill(db, Fault::LoseCall).await;
}

#[sqlx::test(migrations = false)]
async fn every_call_of_template_and_send_may_be_refused(db: PgPool) {
    drill(db, Fault::Refuse { status: 0, code: 100 }).await;
}

#[sqlx::test(migrations = false)]
async fn every_call_of_template_and_send_may_end_in_a_bad_gateway_after_the_act(db: PgPool) {
    drill(db, Fault::ServerError { status: 502, acted: true }).await;
}

#[sqlx::test(migrations = false)]
async fn every_webhook_of_template_and_send_may_come_early(db: PgPool) {
    drill(db, Fault::HooksFirst).await;
}

#[sqlx::test(migrations = false)]
async fn every_webhook_of_template_and_send_may_be_lost_late_or_twice(db: PgPool) {
    let talk = Talk::open(db).await;
    let faults = [HookFault::Drop, HookFault::Duplicate, HookFault::Late { ms: 90_000 }];
    for (place, (event, fault)) in ["messages", "message_template_status_update"]
        .into_iter()
        .flat_map(|event| faults.clone().map(|fault| (event, fault)))
        .enumerate()
    {
        let (what, before) = (format!("{event} with {fault:?}"), creations(&talk));
        talk.service.sims.hook_fault(HookPlan { event: event.to_owned(), fault, times: 0, only: None });
        let end = campaign(&talk, &format!("nouvelle_{place}"), &format!("+2126000022{place:02}")).await;
        talk.service.sims.clear_plans();
        balance(&talk, &what, before, &end).await;
        assert_eq!(end.0, "APPROVED", "{what}");
    }
    talk.end().await;
}
