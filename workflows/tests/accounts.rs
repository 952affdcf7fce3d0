//! Files, stops and their end, and what is not kept for ever, told against both simulators.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a test an unwrap is an assertion, and an id is anything")]

mod service;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use domain::{LineId, MessageId};
use jobs::{ForgetMessages, Queued, Tools, UploadMedia, WakeLanes, queue_messages};
use serde_json::{Value, json};
use service::Service;
use sha2::{Digest as _, Sha256};
use simulators::Fault;
use sqlx::PgPool;
use std::time::Duration;
use store::{
    media::{self, Upload, content_context},
    messages::{self, Message},
    tenants,
};
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);
const PERSON: &str = "+212600000101";
const JPEG: &[u8] = b"\xFF\xD8\xFF\xE0 a photograph";

/// A live line that somebody has written to, so that it may answer.
struct Talk {
    service: Service,
    line: LineId,
    number: String,
}

impl Talk {
    async fn open(db: PgPool) -> Self {
        let service = Service::open(db).await;
        let (line, run) = service.order_line("MA").await;
        assert_eq!(service.end_of(run, 30 * MINUTE).await, "succeeded");
        let number = service.line(line).await.phone.unwrap();
        let talk = Self { service, line, number };
        talk.hear(json!({ "type": "text", "text": { "body": "Bonjour" } })).await;
        talk
    }

    async fn hear(&self, content: Value) {
        self.service.sims.write(&self.number, PERSON, content).unwrap();
        self.service.settle().await;
    }

    async fn send(&self, kind: &str, content: Value) -> Result<MessageId, &'static str> {
        let mut tx = self.service.db.begin().await.unwrap();
        let tenant = tenants::get(&mut tx, self.service.tenant).await.unwrap().unwrap();
        let request = json!({ "line_id": self.line, "to": PERSON, "type": kind, kind: content });
        let now = self.service.tools.clock.now();
        match queue_messages(&mut tx, &self.service.tools.vault, now, &tenant, &[request]).await.unwrap() {
            Queued::Done(ids) => {
                tx.commit().await.unwrap();
                Ok(ids[0])
            }
            Queued::Refused(problems) => Err(problems[0].problem.code),
            Queued::NoCredit { .. } => panic!("no credit"),
        }
    }

    async fn message(&self, id: MessageId) -> Message {
        messages::get(&self.service.db, self.service.tenant, id).await.unwrap().unwrap()
    }

    /// A photograph given to us, as the front keeps it.
    async fn upload(&self) -> Uuid {
        let id = Uuid::now_v7();
        let new = Upload {
            media_id: id,
            line_id: self.line,
            mime_type: "image/jpeg".into(),
            filename: None,
            size_bytes: JPEG.len() as i64,
            sha256: hex::encode(Sha256::digest(JPEG)),
            content_sealed: self.service.tools.vault.seal(&content_context(id), JPEG),
            expires_at: self.service.tools.clock.now() + chrono::TimeDelta::days(30),
        };
        let mut tx = self.service.db.begin().await.unwrap();
        media::keep(&mut *tx, self.service.tenant, &new).await.unwrap();
        durable::enqueue::<Tools, _>(&mut tx, &UploadMedia { tenant: self.service.tenant, media: id }).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn work<J: durable::Job<Tools>>(&self, job: &J) {
        let mut tx = self.service.db.begin().await.unwrap();
        durable::enqueue::<Tools, _>(&mut tx, job).await.unwrap();
        tx.commit().await.unwrap();
        self.service.settle().await;
    }

    async fn look(&self) {
        self.work(&WakeLanes { at: self.service.tools.clock.now() }).await;
    }

    fn announce(&self, field: &str, value: Value) {
        self.service.sims.announce(self.number.trim_start_matches('+'), field, value);
    }

    async fn line_status(&self) -> String {
        self.service.line(self.line).await.status
    }
}

#[sqlx::test(migrations = false)]
async fn a_file_is_uploaded_once_and_sent_by_our_id(db: PgPool) {
    let talk = Talk::open(db).await;
    let file = talk.upload().await;
    let before_upload = talk.send("image", json!({ "id": file })).await.unwrap();
    talk.service.settle().await;
    let after = talk.send("image", json!({ "id": file, "caption": "Le poste" })).await.unwrap();
    talk.service.settle().await;
    for id in [before_upload, after] {
        let message = talk.message(id).await;
        assert!(matches!(message.status.as_str(), "delivered" | "read"), "{message:?}");
    }
    assert!(media::get(&talk.service.db, talk.service.tenant, file).await.unwrap().unwrap().meta_media_id.is_some());
    talk.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_file_that_is_not_ours_or_not_right_is_refused_before_anything_is_queued(db: PgPool) {
    let talk = Talk::open(db).await;
    let file = talk.upload().await;
    talk.service.settle().await;
    assert_eq!(talk.send("image", json!({ "id": Uuid::now_v7() })).await, Err("media_unknown"));
    // Meta's own ids would reach into other companies' files: they share the account.
    let theirs = media::get(&talk.service.db, talk.service.tenant, file).await.unwrap().unwrap().meta_media_id.unwrap();
    assert_eq!(talk.send("image", json!({ "id": theirs })).await, Err("media_unknown"));
    assert_eq!(talk.send("video", json!({ "id": file })).await, Err("media_kind"));
    let header = json!({ "type": "button", "header": { "type": "image", "image": { "id": Uuid::now_v7() } }, "body": { "text": "?" },
        "action": { "buttons": [{ "type": "reply", "reply": { "id": "1", "title": "Oui" } }] } });
    assert_eq!(talk.send("interactive", header).await, Err("media_unknown"));
    talk.service.skip(Duration::from_secs(31 * 86_400)).await;
    talk.hear(json!({ "type": "text", "text": { "body": "Encore" } })).await;
    assert_eq!(talk.send("image", json!({ "id": file })).await, Err("media_expired"));
    talk.work(&ForgetMessages { at: talk.service.tools.clock.now() }).await;
    assert!(!media::get(&talk.service.db, talk.service.tenant, file).await.unwrap().unwrap().here);
    talk.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_received_file_is_fetched_and_kept_sealed(db: PgPool) {
    let talk = Talk::open(db).await;
    let theirs = talk.service.sims.receive_media("image/jpeg", JPEG.to_vec());
    let sha256 = BASE64_STANDARD.encode(Sha256::digest(JPEG));
    // The first link leads nowhere.
    talk.service.fault("meta.media_download", Fault::Refuse { code: 100, status: 404 }, 1);
    talk.hear(
        json!({ "type": "image", "image": { "id": theirs, "mime_type": "image/jpeg", "sha256": sha256, "caption": "Mon CV" } }),
    )
    .await;
    talk.service.skip(MINUTE).await;
    let (message, file): (Uuid, Uuid) = sqlx::query_as("select message_id, media_id from media where message_id is not null")
        .fetch_one(&talk.service.db)
        .await
        .unwrap();
    let kept = media::get(&talk.service.db, talk.service.tenant, file).await.unwrap().unwrap();
    assert!(kept.here, "{kept:?}");
    assert_eq!(kept.sha256.as_deref(), Some(hex::encode(Sha256::digest(JPEG)).as_str()));
    let sealed = media::content(&talk.service.db, talk.service.tenant, file).await.unwrap().unwrap();
    assert!(!sealed.windows(5).any(|window| window == b"photo"));
    assert_eq!(&talk.service.tools.vault.open(&content_context(file), &sealed).unwrap()[..], JPEG);
    // The message names our file.
    let shown = talk.message(MessageId(message)).await.content_sealed.unwrap();
    let shown = talk.service.tools.vault.open(&messages::content_context(MessageId(message)), &shown).unwrap();
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    assert_eq!((&shown["image"]["id"], &shown["image"]["caption"]), (&json!(file), &json!("Mon CV")));
    talk.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_file_that_is_not_what_its_hash_says_is_never_kept(db: PgPool) {
    let talk = Talk::open(db).await;
    let theirs = talk.service.sims.receive_media("image/jpeg", JPEG.to_vec());
    let other = BASE64_STANDARD.encode(Sha256::digest(b"something else"));
    talk.hear(json!({ "type": "image", "image": { "id": theirs, "mime_type": "image/jpeg", "sha256": other } })).await;
    let kept: i64 = sqlx::query_scalar("select count(*) from media where content_sealed is not null")
        .fetch_one(&talk.service.db)
        .await
        .unwrap();
    assert_eq!(kept, 0);
}

#[sqlx::test(migrations = false)]
async fn a_restricted_account_stops_its_lines_until_the_restriction_ends(db: PgPool) {
    let talk = Talk::open(db).await;
    let until = talk.service.tools.clock.now() + chrono::TimeDelta::hours(2);
    talk.announce(
        "account_update",
        json!({ "event": "ACCOUNT_RESTRICTION",
            "restriction_info": [{ "restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING", "expiration": until.timestamp() }] }),
    );
    talk.service.settle().await;
    assert_eq!(talk.line_status().await, "restricted");
    let id = talk.send("text", json!({ "body": "Bonjour" })).await.unwrap();
    talk.service.settle().await;
    talk.look().await;
    assert_eq!((talk.message(id).await.status.as_str(), talk.line_status().await.as_str()), ("queued", "restricted"));
    talk.service.skip(Duration::from_secs(2 * 3_600 + 60)).await;
    talk.look().await;
    assert_eq!(talk.line_status().await, "live");
    talk.service.settle().await;
    assert!(matches!(talk.message(id).await.status.as_str(), "delivered" | "read"));
    talk.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_reinstated_account_goes_on_and_an_operator_may_say_so_too(db: PgPool) {
    let talk = Talk::open(db).await;
    let disabled = |state: &str, date: &str| json!({ "event": "DISABLED_UPDATE", "ban_info": { "waba_ban_state": state, "waba_ban_date": date } });
    talk.announce("account_update", disabled("DISABLE", "April 17, 2027"));
    talk.service.settle().await;
    assert_eq!(talk.line_status().await, "restricted");
    talk.announce("account_update", disabled("REINSTATE", "April 18, 2027"));
    talk.service.settle().await;
    assert_eq!(talk.line_status().await, "live");
    talk.announce("account_update", disabled("DISABLE", "April 19, 2027"));
    talk.service.settle().await;
    let account = talk.service.sims.config().meta.waba_id.clone();
    let mut tx = talk.service.db.begin().await.unwrap();
    assert!(jobs::free_account(&mut tx, &account).await.unwrap());
    assert!(!jobs::free_account(&mut tx, &account).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(talk.line_status().await, "live");
    let told: i64 =
        sqlx::query_scalar("select count(*) from event where type = 'line.status' and data->>'status' = 'restricted'")
            .fetch_one(&talk.service.db)
            .await
            .unwrap();
    assert_eq!(told, 2);
    talk.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn levels_and_limits_are_as_meta_last_told(db: PgPool) {
    let talk = Talk::open(db).await;
    let digits = talk.number.trim_start_matches('+').to_owned();
    talk.announce("phone_number_quality_update", json!({ "display_phone_number": digits, "event": "THROUGHPUT_UPGRADE" }));
    talk.announce("business_capability_update", json!({ "max_daily_conversations_per_business": "TIER_10K" }));
    talk.service.settle().await;
    let line = talk.service.line(talk.line).await;
    assert_eq!(line.throughput.as_deref(), Some("HIGH"));
    if let Some(portfolio) = line.portfolio {
        assert_eq!(store::quota::limit(&talk.service.db, &portfolio).await.unwrap(), Some(Some(10_000)));
    }
    talk.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn the_net_finds_a_lane_that_everybody_forgot(db: PgPool) {
    let talk = Talk::open(db).await;
    let id = talk.send("text", json!({ "body": "Bonjour" })).await.unwrap();
    // Its job is lost, and the lane still counts as awake.
    sqlx::query("update message set status = 'queued', due_at = durable.now() - interval '1 minute', attempts = 0, wamid = null where message_id = $1")
        .bind(id.0)
        .execute(&talk.service.db)
        .await
        .unwrap();
    talk.service.settle().await;
    sqlx::query("update message set status = 'queued', due_at = durable.now() - interval '1 minute' where message_id = $1")
        .bind(id.0)
        .execute(&talk.service.db)
        .await
        .unwrap();
    sqlx::query("update lane set awake = true, lease_until = null").execute(&talk.service.db).await.unwrap();
    talk.service.settle().await;
    assert_eq!(talk.message(id).await.status, "queued");
    talk.look().await;
    talk.service.settle().await;
    assert_ne!(talk.message(id).await.status, "queued");
    // A hold that is over is settled though no lane runs.
    sqlx::query("update message set status = 'unknown', hold_until = durable.now() - interval '1 second', policy = 'at_most_once' where message_id = $1")
        .bind(id.0)
        .execute(&talk.service.db)
        .await
        .unwrap();
    talk.look().await;
    assert_eq!(talk.message(id).await.status, "parked");
}

#[sqlx::test(migrations = false)]
async fn words_are_kept_as_long_as_the_company_wants_and_no_longer(db: PgPool) {
    let talk = Talk::open(db).await;
    let old = talk.send("text", json!({ "body": "Ancien" })).await.unwrap();
    talk.service.settle().await;
    sqlx::query("update tenant set retention_months = 2").execute(&talk.service.db).await.unwrap();
    sqlx::query("update message set created_at = durable.now() - interval '70 days'").execute(&talk.service.db).await.unwrap();
    talk.hear(json!({ "type": "text", "text": { "body": "Neuf" } })).await;
    let young = talk.send("text", json!({ "body": "Neuf" })).await.unwrap();
    talk.service.settle().await;
    talk.work(&ForgetMessages { at: talk.service.tools.clock.now() }).await;
    let (old, young) = (talk.message(old).await, talk.message(young).await);
    assert!(old.content_sealed.is_none() && old.wamid.is_some() && matches!(old.status.as_str(), "delivered" | "read"));
    assert!(young.content_sealed.is_some());
    talk.service.close().await;
}
