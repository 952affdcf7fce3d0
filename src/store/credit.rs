//! Tables `credit`, `credit_month`, `credit_delta`: what a tenant may still spend this month, exact under concurrency.
//!
//! Charged this month plus reserved for messages in hand never passes the limit (net MAD). Reservations queue behind the row of
//! `credit`; what webhooks free or charge is appended to `credit_delta` and folded in by the next reservation.

use chrono::{DateTime, NaiveDate, Utc};
use domain::{TenantId, billing::Period};
use sqlx::{PgConnection, PgExecutor};

/// Parts of the limit, in percent, at which a tenant is warned, once a month each.
const WARNINGS: [i16; 2] = [100, 80];

/// How far back lost messages are looked for: as far as a send may be scheduled ahead, and some nights.
const LOST_SPAN_DAYS: i64 = 100;

/// There is no room: nothing was reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCredit {
    /// Ledger units.
    pub left: i64,
}

/// What of the limit is used; ledger units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub charged: i64,
    pub reserved: i64,
}

/// Tell the tenant: so much of its limit is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// 80 or 100.
    pub percent: i16,
    pub month: Period,
    pub used: i64,
    pub limit: i64,
}

/// Takes `wanted` ledger units out of the month's room, or nothing. Whoever asks for the same tenant waits until this
/// transaction ends, so a burst cannot overshoot.
pub async fn reserve(
    tx: &mut PgConnection,
    tenant: TenantId,
    now: DateTime<Utc>,
    wanted: i64,
) -> sqlx::Result<Result<Option<Warning>, NoCredit>> {
    sqlx::query!("insert into credit (tenant_id) values ($1) on conflict do nothing", tenant.0).execute(&mut *tx).await?;
    sqlx::query!("select from credit where tenant_id = $1 for update", tenant.0).execute(&mut *tx).await?;
    fold(tx, tenant).await?;
    let row = sqlx::query!(
        "select c.reserved_units, c.warned_month, c.warned_percent, t.credit_limit_units, t.time_zone,
            (select p.price_per_message_units from plan_price p
             where p.tenant_id = t.tenant_id and p.valid_from <= ($2::timestamptz at time zone t.time_zone)::date
             order by p.valid_from desc limit 1) as price_units
         from credit c join tenant t using (tenant_id) where tenant_id = $1",
        tenant.0,
        now
    )
    .fetch_one(&mut *tx)
    .await?;
    let month = Period::of(now, row.time_zone.parse().unwrap_or(chrono_tz::Africa::Casablanca));
    let charged = sqlx::query_scalar!(
        "select charged_units from credit_month where tenant_id = $1 and month = $2",
        tenant.0,
        month.first_day()
    )
    .fetch_optional(&mut *tx)
    .await?
    .unwrap_or_default();
    let left = row.credit_limit_units - row.reserved_units - charged;
    let warned = if row.warned_month == Some(month.first_day()) { row.warned_percent } else { 0 };
    if wanted > left {
        return Ok(Err(NoCredit { left: left.max(0) }));
    }
    let used = charged + row.reserved_units + wanted;
    // The limit is reached where not one more message fits.
    let full = row.price_units.is_some_and(|price| wanted > 0 && left - wanted < price);
    let reached = WARNINGS.into_iter().find(|percent| {
        row.credit_limit_units > 0
            && (full || i128::from(used) * 100 >= i128::from(row.credit_limit_units) * i128::from(*percent))
    });
    let due = reached.filter(|percent| *percent > warned);
    sqlx::query!(
        "update credit set reserved_units = reserved_units + $2, warned_month = $3, warned_percent = $4 where tenant_id = $1",
        tenant.0,
        wanted,
        month.first_day(),
        due.unwrap_or(warned)
    )
    .execute(tx)
    .await?;
    Ok(Ok(due.map(|percent| Warning { percent, month, used, limit: row.credit_limit_units })))
}

/// Notes what was charged (or taken back) in months: (tenant, month, ledger units). Waits for nobody.
pub async fn charged(tx: &mut PgConnection, used: &[(TenantId, NaiveDate, i64)]) -> sqlx::Result<()> {
    if used.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into credit_delta (tenant_id, month, charged_units) select * from unnest($1::uuid[], $2::date[], $3::bigint[])",
        &used.iter().map(|row| row.0.0).collect::<Vec<_>>(),
        &used.iter().map(|row| row.1).collect::<Vec<_>>(),
        &used.iter().map(|row| row.2).collect::<Vec<_>>()
    )
    .execute(tx)
    .await
    .map(drop)
}

/// How a tenant stands in the month of `now`.
pub async fn usage(db: impl PgExecutor<'_>, tenant: TenantId, month: Period) -> sqlx::Result<Usage> {
    sqlx::query_as!(
        Usage,
        r#"select (coalesce((select charged_units from credit_month where tenant_id = $1 and month = $2), 0)
                    + coalesce(sum(charged_units) filter (where month = $2), 0))::bigint as "charged!",
                  (coalesce((select reserved_units from credit where tenant_id = $1), 0) + coalesce(sum(reserved_units), 0))::bigint as "reserved!"
           from credit_delta where tenant_id = $1"#,
        tenant.0,
        month.first_day()
    )
    .fetch_one(db)
    .await
}

/// The holder of the tenant's row takes in what was appended since.
async fn fold(tx: &mut PgConnection, tenant: TenantId) -> sqlx::Result<()> {
    sqlx::query!(
        "with taken as (delete from credit_delta where tenant_id = $1 returning month, charged_units, reserved_units),
         months as (
            insert into credit_month (tenant_id, month, charged_units)
            select $1, month, sum(charged_units) from taken where month is not null group by month
            on conflict (tenant_id, month) do update set charged_units = credit_month.charged_units + excluded.charged_units)
         update credit set reserved_units = reserved_units + (select coalesce(sum(reserved_units), 0) from taken) where tenant_id = $1",
        tenant.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Where a tenant's orders asked to be called back.
pub async fn addresses(db: impl PgExecutor<'_>, tenant: TenantId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select distinct callback_url as "url!" from line where tenant_id = $1 and callback_url is not null order by 1"#,
        tenant.0
    )
    .fetch_all(db)
    .await
}

/// Frees what is reserved for messages that were accepted and never heard of again. Says how many.
pub async fn release_lost(tx: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<u64> {
    let before = now - chrono::Duration::days(domain::billing::PROVISIONAL_DAYS);
    // Ids of messages begin with the time of their making, so that only some nights' worth of them is looked at.
    let id_at = |at: DateTime<Utc>| {
        let ms = u128::from(at.timestamp_millis().unsigned_abs());
        uuid::Uuid::from_u128(ms << 80)
    };
    sqlx::query!(
        "update message set reserved_units = 0
         where message_id between $1 and $2 and reserved_units > 0 and status in ('accepted', 'held', 'sent') and accepted_at < $3",
        id_at(before - chrono::Duration::days(LOST_SPAN_DAYS)),
        id_at(before),
        before
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}
