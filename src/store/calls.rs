//! Tables `code_request`, `call_leg` and `heard`: for which code we listen, the calls that we answered, and what was said.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{LineId, otp};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;
use vault::Vault;

/// A code that a run has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeRequest {
    pub code_request_id: Uuid,
    pub run_id: Uuid,
    pub line_id: Uuid,
    /// E.164.
    pub phone: String,
    /// `voice` or `sms`.
    pub method: String,
    /// As Meta was asked: `fr`, `ar`, `en_US`.
    pub language: String,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
}

/// A request to open.
#[derive(Debug, Clone, Copy)]
pub struct NewRequest<'a> {
    pub code_request_id: Uuid,
    pub run_id: Uuid,
    pub line_id: LineId,
    pub phone: &'a str,
    pub method: &'a str,
    pub language: &'a str,
}

/// Opens a request for `life` from now, and closes an older one of the same number: Meta's new code makes the old one void.
pub async fn open(tx: &mut PgConnection, new: &NewRequest<'_>, life: TimeDelta) -> sqlx::Result<()> {
    sqlx::query!(
        "update code_request set closed_at = durable.now() where phone = $1 and closed_at is null and code_request_id <> $2",
        new.phone,
        new.code_request_id
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "insert into code_request (code_request_id, run_id, line_id, phone, method, language, since, until)
         values ($1, $2, $3, $4, $5, $6, durable.now(), durable.now() + make_interval(secs => $7)) on conflict do nothing",
        new.code_request_id,
        new.run_id,
        new.line_id.0,
        new.phone,
        new.method,
        new.language,
        life.as_seconds_f64(),
    )
    .execute(&mut *tx)
    .await
    .map(drop)
}

/// As if it had never been opened: Meta was certainly not asked.
pub async fn withdraw(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from code_request where code_request_id = $1", id).execute(db).await.map(drop)
}

/// The request for which this number is listened to now.
pub async fn open_for(db: impl PgExecutor<'_>, phone: &str) -> sqlx::Result<Option<CodeRequest>> {
    sqlx::query_as!(
        CodeRequest,
        "select code_request_id, run_id, line_id, phone, method, language, since, until, closed_at from code_request
         where phone = $1 and closed_at is null and until > durable.now()",
        phone
    )
    .fetch_optional(db)
    .await
}

pub async fn request(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<CodeRequest>> {
    sqlx::query_as!(
        CodeRequest,
        "select code_request_id, run_id, line_id, phone, method, language, since, until, closed_at from code_request
         where code_request_id = $1",
        id
    )
    .fetch_optional(db)
    .await
}

/// Whether a code may still be passed on for it.
pub async fn is_open(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from code_request where code_request_id = $1 and closed_at is null and until > durable.now()) as "open!""#,
        id
    )
    .fetch_one(db)
    .await
}

/// Closes every request of a run: nobody is listened to for it any more.
pub async fn close(db: impl PgExecutor<'_>, run: Uuid) -> sqlx::Result<()> {
    sqlx::query!("update code_request set closed_at = durable.now() where run_id = $1 and closed_at is null", run)
        .execute(db)
        .await
        .map(drop)
}

/// The requests of a run, oldest first.
pub async fn of_run(db: impl PgExecutor<'_>, run: Uuid) -> sqlx::Result<Vec<CodeRequest>> {
    sqlx::query_as!(
        CodeRequest,
        "select code_request_id, run_id, line_id, phone, method, language, since, until, closed_at from code_request
         where run_id = $1 order by since",
        run
    )
    .fetch_all(db)
    .await
}

fn passed_context(id: Uuid) -> String {
    format!("code_request:passed:{id}")
}

/// Notes a code that is passed on to its run, in the transaction of the signal. `false`: the request is no longer open, or has had
/// this code; with `run_wide`, if any request of the run has had it.
pub async fn pass(tx: &mut PgConnection, vault: &Vault, id: Uuid, code: &otp::Code, run_wide: bool) -> sqlx::Result<bool> {
    let open = sqlx::query_scalar!(
        "select run_id from code_request where code_request_id = $1 and closed_at is null and until > durable.now() for update",
        id
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(run) = open else { return Ok(false) };
    let had = sqlx::query!("select code_request_id, passed_sealed from code_request where run_id = $1", run)
        .fetch_all(&mut *tx)
        .await?;
    for request in had.iter().filter(|request| run_wide || request.code_request_id == id) {
        for sealed in &request.passed_sealed {
            let plain = vault
                .open(&passed_context(request.code_request_id), sealed)
                .map_err(|error| sqlx::Error::Decode(error.into()))?;
            if plain.as_slice() == code.expose().as_bytes() {
                return Ok(false);
            }
        }
    }
    sqlx::query!(
        "update code_request set passed_sealed = array_append(passed_sealed, $2) where code_request_id = $1",
        id,
        vault.seal_str(&passed_context(id), code.expose())
    )
    .execute(&mut *tx)
    .await?;
    Ok(true)
}

/// Whether a code was passed on for this request.
pub async fn has_passed(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from code_request where code_request_id = $1 and cardinality(passed_sealed) > 0) as "some!""#,
        id
    )
    .fetch_one(db)
    .await
}

/// A call that we answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallLeg {
    pub call_leg_id: String,
    /// What commands are sent to.
    pub call_control_id: String,
    pub code_request_id: Uuid,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Binds a call to the request that is open as it comes; once.
pub async fn answer(db: impl PgExecutor<'_>, leg: &CallLeg) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into call_leg (call_leg_id, call_control_id, code_request_id, started_at) values ($1, $2, $3, $4) on conflict do nothing",
        leg.call_leg_id,
        leg.call_control_id,
        leg.code_request_id,
        leg.started_at,
    )
    .execute(db)
    .await
    .map(drop)
}

pub async fn leg(db: impl PgExecutor<'_>, call_leg_id: &str) -> sqlx::Result<Option<CallLeg>> {
    sqlx::query_as!(
        CallLeg,
        "select call_leg_id, call_control_id, code_request_id, started_at, ended_at from call_leg where call_leg_id = $1",
        call_leg_id
    )
    .fetch_optional(db)
    .await
}

/// The calls that came for a request.
pub async fn legs(db: impl PgExecutor<'_>, request: Uuid) -> sqlx::Result<Vec<CallLeg>> {
    sqlx::query_as!(
        CallLeg,
        "select call_leg_id, call_control_id, code_request_id, started_at, ended_at from call_leg
         where code_request_id = $1 order by started_at",
        request
    )
    .fetch_all(db)
    .await
}

pub async fn ended(db: impl PgExecutor<'_>, call_leg_id: &str, at: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!("update call_leg set ended_at = coalesce(ended_at, $2) where call_leg_id = $1", call_leg_id, at)
        .execute(db)
        .await
        .map(drop)
}

fn text_context(heard_id: &str) -> String {
    format!("heard:text:{heard_id}")
}

/// Keeps what was said, sealed; doubled events once. The leg need not be known yet.
pub async fn hear(
    db: impl PgExecutor<'_>,
    vault: &Vault,
    heard_id: &str,
    call_leg_id: &str,
    heard: &otp::Heard,
) -> sqlx::Result<()> {
    let source = if heard.source == otp::Source::Recording { "recording" } else { "live" };
    sqlx::query!(
        "insert into heard (heard_id, call_leg_id, at, source, is_final, text_sealed) values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        heard_id,
        call_leg_id,
        heard.at,
        source,
        heard.is_final,
        vault.seal_str(&text_context(heard_id), &heard.text),
    )
    .execute(db)
    .await
    .map(drop)
}

/// Everything said on a leg, opened. As secret as the code in it.
pub async fn heard(db: impl PgExecutor<'_>, vault: &Vault, call_leg_id: &str) -> sqlx::Result<Vec<otp::Heard>> {
    let rows = sqlx::query!(
        "select heard_id, at, source, is_final, text_sealed from heard where call_leg_id = $1 order by at",
        call_leg_id
    )
    .fetch_all(db)
    .await?;
    let open = |sealed: &[u8], id: &str| {
        let plain = vault.open(&text_context(id), sealed).map_err(|error| sqlx::Error::Decode(error.into()))?;
        String::from_utf8(plain.to_vec()).map_err(|error| sqlx::Error::Decode(error.into()))
    };
    rows.into_iter()
        .map(|row| {
            let source = if row.source == "recording" { otp::Source::Recording } else { otp::Source::Live };
            Ok(otp::Heard { at: row.at, text: open(&row.text_sealed, &row.heard_id)?, is_final: row.is_final, source })
        })
        .collect()
}

/// Forgets what was said before `age` ago, and the codes of requests that are closed as long.
pub async fn forget(db: &PgPool, age: TimeDelta) -> sqlx::Result<u64> {
    sqlx::query!(
        "update code_request set passed_sealed = '{}'
         where closed_at < durable.now() - make_interval(secs => $1) and cardinality(passed_sealed) > 0",
        age.as_seconds_f64()
    )
    .execute(db)
    .await?;
    let done =
        sqlx::query!("delete from heard where created_at < durable.now() - make_interval(secs => $1)", age.as_seconds_f64())
            .execute(db)
            .await?;
    Ok(done.rows_affected())
}
