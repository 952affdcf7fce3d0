//! Table `line`: one row per WhatsApp line, from order to end.

use chrono::{DateTime, Utc};
use domain::{LineId, TenantId};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// What an order says; everything that can be refused has been checked.
#[derive(Debug, Clone)]
pub struct NewLine {
    pub line_id: LineId,
    /// ISO 3166 alpha-2.
    pub country: String,
    /// As Meta names it: `fr`, `ar`, `en_US`. The code is asked for in it.
    pub language: String,
    pub display_name: String,
    /// Meta's own fields (contracts/meta-cloud-api.md 4.2), without the picture.
    pub profile: Value,
    /// The picture and its type, `image/png` or `image/jpeg`.
    pub logo: Option<(Vec<u8>, String)>,
    pub callback_url: Option<String>,
    /// `auto` or `off`.
    pub introduction: String,
}

/// A line as `GET /v1/lines/{id}` shows it. `status` is one of spec.md's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    #[serde(rename = "id")]
    pub line_id: Uuid,
    pub tenant_id: Uuid,
    pub kind: String,
    pub status: String,
    /// What it waits for, or why it ended.
    pub reason: Option<String>,
    pub country: String,
    pub language: String,
    pub display_name: String,
    /// Meta's word for the review of the name.
    pub name_status: Option<String>,
    pub profile: Value,
    pub callback_url: Option<String>,
    pub introduction: String,
    /// E.164.
    pub phone: Option<String>,
    pub phone_number_id: Option<String>,
    pub messaging_account: Option<String>,
    pub portfolio: Option<String>,
    /// Null until Meta splits its accounts.
    pub waac_id: Option<String>,
    pub quality: Option<String>,
    pub throughput: Option<String>,
    /// Millionths of `cost_currency`.
    pub setup_cost_micro: Option<i64>,
    pub monthly_cost_micro: Option<i64>,
    pub final_cost_micro: Option<i64>,
    pub cost_currency: Option<String>,
    pub provision_run: Option<Uuid>,
    pub release_run: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub bought_at: Option<DateTime<Utc>>,
    pub live_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Telnyx's id of the number.
    #[serde(skip)]
    pub number_id: Option<String>,
}

/// Most rows of a list: a page of 200, and the one that tells of more.
pub const PAGE_ROWS: i64 = 201;

macro_rules! select_line {
    ($rest:literal, $($arg:expr),*) => {
        sqlx::query_as!(
            Line,
            "select line_id, tenant_id, kind, status, reason, country, language, display_name, name_status, profile, callback_url,
                introduction, phone, phone_number_id, messaging_account, portfolio, waac_id, quality, throughput, setup_cost_micro,
                monthly_cost_micro, final_cost_micro, cost_currency, provision_run, release_run, created_at, bought_at, live_at,
                ended_at, number_id
             from line " + $rest,
            $($arg),*
        )
    };
}

/// A virtual line in status `ordered`.
pub async fn create(db: impl PgExecutor<'_>, tenant: TenantId, new: &NewLine) -> sqlx::Result<()> {
    let (logo, logo_type) = new.logo.as_ref().map(|(bytes, mime)| (bytes.as_slice(), mime.as_str())).unzip();
    sqlx::query!(
        "insert into line (line_id, tenant_id, kind, country, language, display_name, profile, logo, logo_type, callback_url, introduction)
         values ($1, $2, 'virtual', $3, $4, $5, $6, $7, $8, $9, $10)",
        new.line_id.0,
        tenant.0,
        new.country,
        new.language,
        new.display_name,
        new.profile,
        logo,
        logo_type,
        new.callback_url,
        new.introduction,
    )
    .execute(db)
    .await
    .map(drop)
}

/// One line of a tenant.
pub async fn get(db: impl PgExecutor<'_>, tenant: TenantId, id: LineId) -> sqlx::Result<Option<Line>> {
    select_line!("where line_id = $1 and tenant_id = $2", id.0, tenant.0).fetch_optional(db).await
}

/// For keys without a tenant and for the installation's own work.
pub async fn get_any(db: impl PgExecutor<'_>, id: LineId) -> sqlx::Result<Option<Line>> {
    select_line!("where line_id = $1", id.0).fetch_optional(db).await
}

/// Newest first, after `before`; of one tenant, or of all (`None`: keys without a tenant).
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: Option<TenantId>,
    before: Option<LineId>,
    rows: i64,
) -> sqlx::Result<Vec<Line>> {
    select_line!(
        "where ($1::uuid is null or tenant_id = $1) and ($2::uuid is null or line_id < $2) order by line_id desc limit $3",
        tenant.map(|id| id.0),
        before.map(|id| id.0),
        rows.clamp(1, PAGE_ROWS)
    )
    .fetch_all(db)
    .await
}

/// The line that has this number now.
pub async fn by_phone(db: impl PgExecutor<'_>, phone: &str) -> sqlx::Result<Option<Line>> {
    select_line!("where phone = $1 and status not in ('released', 'failed')", phone).fetch_optional(db).await
}

/// The line that has this number at Meta now.
pub async fn by_phone_number_id(db: impl PgExecutor<'_>, phone_number_id: &str) -> sqlx::Result<Option<Line>> {
    select_line!("where phone_number_id = $1 and status not in ('released', 'failed')", phone_number_id).fetch_optional(db).await
}

/// Lines that are being built on an account: whom its news may concern.
pub async fn in_the_making(db: impl PgExecutor<'_>, messaging_account: &str) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "select line_id from line
         where status in ('ordered', 'bought', 'linked', 'verified', 'registered') and coalesce(messaging_account, $1) = $1",
        messaging_account
    )
    .fetch_all(db)
    .await
}

/// The picture of the profile and its type.
pub async fn logo(db: impl PgExecutor<'_>, id: LineId) -> sqlx::Result<Option<(Vec<u8>, String)>> {
    let row = sqlx::query!(
        r#"select logo as "logo!", logo_type as "logo_type!" from line where line_id = $1 and logo is not null"#,
        id.0
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.logo, row.logo_type)))
}

/// The run that builds it, and its reason gone: `false` if the line is not `ordered`.
pub async fn begun(db: impl PgExecutor<'_>, id: LineId, run: Uuid) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update line set provision_run = $2 where line_id = $1 and (provision_run is null or provision_run = $2)",
        id.0,
        run
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What it waits for, shown to people.
pub async fn waits(db: impl PgExecutor<'_>, id: LineId, reason: Option<&str>) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update line set reason = $2, changed_at = durable.now() where line_id = $1 and reason is distinct from $2",
        id.0,
        reason
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A number that is ours, and what it costs.
#[derive(Debug, Clone)]
pub struct Bought<'a> {
    pub phone: &'a str,
    pub number_id: &'a str,
    pub upfront_micro: Option<i64>,
    pub monthly_micro: Option<i64>,
    pub currency: Option<&'a str>,
}

/// `ordered` to `bought`.
pub async fn bought(tx: &mut PgConnection, id: LineId, number: &Bought<'_>) -> sqlx::Result<bool> {
    sqlx::query!(
        "update line set phone = $2, number_id = $3, setup_cost_micro = $4, monthly_cost_micro = $5, cost_currency = $6,
            bought_at = coalesce(bought_at, durable.now())
         where line_id = $1 and status = 'ordered'",
        id.0,
        number.phone,
        number.number_id,
        number.upfront_micro,
        number.monthly_micro,
        number.currency,
    )
    .execute(&mut *tx)
    .await?;
    move_to(tx, id, &["ordered"], "bought", None).await
}

/// `bought` to `linked`.
pub async fn linked(
    tx: &mut PgConnection,
    id: LineId,
    phone_number_id: &str,
    messaging_account: &str,
    portfolio: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update line set phone_number_id = $2, messaging_account = $3, portfolio = $4 where line_id = $1 and status = 'bought'",
        id.0,
        phone_number_id,
        messaging_account,
        portfolio,
    )
    .execute(&mut *tx)
    .await?;
    move_to(tx, id, &["bought"], "linked", None).await
}

/// What Meta says of a number now; `None` keeps.
#[derive(Debug, Clone, Default)]
pub struct Seen<'a> {
    pub name_status: Option<&'a str>,
    pub display_name: Option<&'a str>,
    pub quality: Option<&'a str>,
    pub throughput: Option<&'a str>,
}

pub async fn seen(db: impl PgExecutor<'_>, id: LineId, seen: &Seen<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "update line set name_status = coalesce($2, name_status), display_name = coalesce($3, display_name),
            quality = coalesce($4, quality), throughput = coalesce($5, throughput), changed_at = durable.now()
         where line_id = $1",
        id.0,
        seen.name_status,
        seen.display_name,
        seen.quality,
        seen.throughput,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Guarded move with its event; says whether it happened, so that a repeated step is a quiet `false`.
pub async fn move_to(tx: &mut PgConnection, id: LineId, from: &[&str], to: &str, reason: Option<&str>) -> sqlx::Result<bool> {
    let from: Vec<String> = from.iter().map(|&status| status.to_owned()).collect();
    let done = sqlx::query!(
        "update line set status = $3, reason = $4, changed_at = durable.now(),
            live_at = case when $3 = 'live' then coalesce(live_at, durable.now()) else live_at end,
            ended_at = case when $3 in ('released', 'failed') then durable.now() else ended_at end
         where line_id = $1 and status = any($2)",
        id.0,
        &from,
        to,
        reason,
    )
    .execute(&mut *tx)
    .await?;
    let moved = done.rows_affected() == 1;
    if moved {
        tell(tx, id).await?;
    }
    Ok(moved)
}

/// Tells the tenant how a line stands (`line.status`), in the change's own transaction.
pub async fn tell(tx: &mut PgConnection, id: LineId) -> sqlx::Result<()> {
    let Some(line) = get_any(&mut *tx, id).await? else { return Ok(()) };
    let data = serde_json::to_value(&line).map_err(|error| sqlx::Error::Encode(error.into()))?;
    crate::events::append(&mut *tx, TenantId(line.tenant_id), "line.status", &data).await
}

/// The portfolios that the lines of an account belong to.
pub async fn portfolios(db: impl PgExecutor<'_>, messaging_account: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select distinct portfolio as "portfolio!" from line where messaging_account = $1 and portfolio is not null"#,
        messaging_account
    )
    .fetch_all(db)
    .await
}

/// What the vault binds a line's PIN to.
pub fn pin_context(id: LineId) -> String {
    format!("line:pin:{id}")
}

/// Keeps the first PIN: a repeated step must not forget the one that Meta may have been told.
pub async fn keep_pin(db: impl PgExecutor<'_>, id: LineId, sealed: &[u8]) -> sqlx::Result<bool> {
    let done = sqlx::query!("update line set pin_sealed = $2 where line_id = $1 and pin_sealed is null", id.0, sealed)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn pin(db: impl PgExecutor<'_>, id: LineId) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!("select pin_sealed from line where line_id = $1", id.0).fetch_optional(db).await.map(Option::flatten)
}

/// Live, paused or restricted to `releasing`: `false` if there is nothing to release.
pub async fn releasing(tx: &mut PgConnection, id: LineId, run: Uuid) -> sqlx::Result<bool> {
    sqlx::query!("update line set release_run = $2 where line_id = $1 and release_run is null", id.0, run)
        .execute(&mut *tx)
        .await?;
    move_to(tx, id, &["live", "paused", "restricted", "registered"], "releasing", None).await
}

/// The end of a line, with what it cost.
pub async fn released(tx: &mut PgConnection, id: LineId, final_cost_micro: Option<i64>) -> sqlx::Result<bool> {
    sqlx::query!(
        "update line set final_cost_micro = coalesce($2, final_cost_micro), pin_sealed = null, token_sealed = null
         where line_id = $1 and status = 'releasing'",
        id.0,
        final_cost_micro
    )
    .execute(&mut *tx)
    .await?;
    move_to(tx, id, &["releasing"], "released", None).await
}

/// A number at a provider that no line claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// `telnyx` or `meta`.
    pub provider: String,
    pub number_id: String,
    pub phone: String,
    pub customer_reference: Option<String>,
    pub why: String,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
}

/// Lists an orphan, or says that it is still there.
pub async fn note_orphan(
    db: impl PgExecutor<'_>,
    provider: &str,
    number_id: &str,
    phone: &str,
    customer_reference: Option<&str>,
    why: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into orphan_number (provider, number_id, phone, customer_reference, why) values ($1, $2, $3, $4, $5)
         on conflict (provider, number_id) do update set last_seen_at = durable.now(), why = excluded.why",
        provider,
        number_id,
        phone,
        customer_reference,
        why,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Forgets the orphans of a provider that were not seen since `swept`.
pub async fn forget_orphans(db: impl PgExecutor<'_>, provider: &str, swept: DateTime<Utc>) -> sqlx::Result<u64> {
    let done =
        sqlx::query!("delete from orphan_number where provider = $1 and last_seen_at < $2", provider, swept).execute(db).await?;
    Ok(done.rows_affected())
}

pub async fn forget_orphan(db: impl PgExecutor<'_>, provider: &str, number_id: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from orphan_number where provider = $1 and number_id = $2", provider, number_id)
        .execute(db)
        .await
        .map(drop)
}

pub async fn orphans(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Orphan>> {
    sqlx::query_as!(
        Orphan,
        "select provider, number_id, phone, customer_reference, why, first_seen_at, last_seen_at
         from orphan_number order by provider, phone, number_id"
    )
    .fetch_all(db)
    .await
}

/// Whether a line that has not ended claims this number, or a run may still come to own it.
pub async fn claims(db: impl PgExecutor<'_>, phone: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from line where phone = $1 and status not in ('released', 'failed'))
             or exists (select from purchase p join line l using (line_id)
                        where p.phone = $1 and p.outcome in ('open', 'ordered', 'owned') and l.status not in ('released', 'failed')) as "claims!""#,
        phone
    )
    .fetch_one(db)
    .await
}

/// What Meta told of an account's number cap; older news is ignored.
pub async fn note_number_cap(
    db: impl PgExecutor<'_>,
    messaging_account: &str,
    max: i32,
    at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "insert into portfolio_limit (messaging_account, max_numbers, told_at) values ($1, $2, $3)
         on conflict (messaging_account) do update set max_numbers = excluded.max_numbers, told_at = excluded.told_at
         where portfolio_limit.told_at <= excluded.told_at",
        messaging_account,
        max,
        at,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn number_cap(db: impl PgExecutor<'_>, messaging_account: &str) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar!("select max_numbers from portfolio_limit where messaging_account = $1", messaging_account)
        .fetch_optional(db)
        .await
        .map(Option::flatten)
}
