//! Our side of the month, to compare with the providers' and with what was invoiced: margin, deliveries by day, numbers held.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use domain::{LineId, TenantId, billing::Period};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// Messages named as evidence of one difference.
const EVIDENCE: i64 = 100;

/// What a month brought in and cost; ledger units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Margin {
    pub tenant_id: TenantId,
    /// Net of what was invoiced, less credit notes; of an open month what has been delivered so far.
    pub revenue_units: i64,
    /// Messages at Meta's card and numbers at Telnyx's price, in dirhams.
    pub cost_units: i64,
    /// Messages for which no card or exchange rate was loaded: their cost is missing above.
    pub without_cost: i64,
}

/// Every tenant with revenue or cost in the month. A number costs its whole month, and its set-up in the month it was bought.
pub async fn margin(db: impl PgExecutor<'_>, month: Period) -> sqlx::Result<Vec<Margin>> {
    sqlx::query_as!(
        Margin,
        r#"with used as (
                select tenant_id, sum(price_units) as revenue, sum(cost_units) as cost, count(*) filter (where cost_units is null) as without
                from charge where billing_month = $1 and state = 'final' group by tenant_id),
             billed as (
                select tenant_id, sum(case kind when 'invoice' then net_units else -net_units end) as revenue
                from invoice where month = $1 and number is not null group by tenant_id),
             held as (
                select tenant_id, sum(round((monthly_cost_micro::numeric
                        + case when bought_at >= $1::date and bought_at < $2::date then coalesce(setup_cost_micro, 0) else 0 end)
                    * (select micro_mad from exchange_rate where currency = 'USD' and valid_from < $2::date order by valid_from desc limit 1) / 100000000)) as cost
                from line where monthly_cost_micro is not null and coalesce(cost_currency, 'USD') = 'USD' and bought_at < $2::date
                    and (ended_at is null or ended_at >= $1::date) group by tenant_id)
           select tenant_id as "tenant_id!: TenantId", coalesce(billed.revenue, used.revenue, 0)::bigint as "revenue_units!",
                (coalesce(used.cost, 0) + coalesce(held.cost, 0))::bigint as "cost_units!", coalesce(used.without, 0) as "without_cost!"
           from used full join billed using (tenant_id) full join held using (tenant_id) order by tenant_id"#,
        month.first_day(),
        month.next().first_day()
    )
    .fetch_all(db)
    .await
}

/// A messaging account whose bill from Meta is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub messaging_account: String,
    pub portfolio: Option<String>,
    /// A line of it, with the account's own token (`line:token:<line>`); ours opens it where there is none.
    pub line_id: Option<LineId>,
    pub token_sealed: Option<Vec<u8>>,
}

/// Our own account, and those of the lines whose tenants pay us and not Meta.
pub async fn accounts(db: impl PgExecutor<'_>, own: &str) -> sqlx::Result<Vec<Account>> {
    let mut accounts = sqlx::query_as!(
        Account,
        r#"select distinct on (messaging_account) messaging_account as "messaging_account!", portfolio, line_id as "line_id?: LineId", token_sealed
           from line join tenant using (tenant_id) where messaging_account <> $1 and billing_mode = 'platform'
           order by messaging_account, token_sealed is null, live_at desc nulls last"#,
        own
    )
    .fetch_all(db)
    .await?;
    accounts.insert(0, Account { messaging_account: own.to_owned(), portfolio: None, line_id: None, token_sealed: None });
    Ok(accounts)
}

/// What we know was delivered on a day of the account's calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub day: NaiveDate,
    pub line_id: LineId,
    /// E.164.
    pub phone: Option<String>,
    pub category: String,
    pub volume: i64,
    /// Of these, told after their month was closed: they stand on a later invoice.
    pub late: i64,
    /// Millionths of a dollar.
    pub cost_micro: i64,
}

/// Final charges of one messaging account by day, line and category.
pub async fn delivered(db: impl PgExecutor<'_>, account: &str, month: Period, zone: Tz) -> sqlx::Result<Vec<Delivered>> {
    sqlx::query_as!(
        Delivered,
        r#"select (c.happened_at at time zone $4)::date as "day!", c.line_id as "line_id: LineId", l.phone, c.category, count(*) as "volume!",
                count(*) filter (where c.billing_month > c.usage_month) as "late!",
                coalesce(sum(c.cost_micro), 0)::bigint as "cost_micro!"
           from charge c join line l using (line_id)
           where l.messaging_account = $1 and c.state = 'final' and c.happened_at >= $2 and c.happened_at < $3 group by 1, 2, 3, 4 order by 1, 2, 4"#,
        account,
        month.start(zone),
        month.end(zone),
        zone.name()
    )
    .fetch_all(db)
    .await
}

/// The messages behind a day's count, those that were told after their month was closed first, and which of them were.
pub async fn evidence(
    db: impl PgExecutor<'_>,
    line: LineId,
    category: &str,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Vec<(Uuid, bool)>> {
    let rows = sqlx::query!(
        r#"select message_id, coalesce(billing_month > usage_month, false) as "late!" from charge
           where line_id = $1 and category = $2 and state = 'final' and happened_at >= $3 and happened_at < $4
           order by billing_month > usage_month desc nulls last, happened_at limit $5"#,
        line.0,
        category,
        from,
        until,
        EVIDENCE
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.message_id, row.late)).collect())
}

/// Lines by their number's digits, those of today and before.
pub async fn lines_by_number(db: &mut PgConnection, account: &str) -> sqlx::Result<Vec<(String, LineId)>> {
    sqlx::query!(
        r#"select ltrim(phone, '+') as "digits!", line_id as "line_id: LineId" from line
           where messaging_account = $1 and phone is not null order by live_at nulls first, line_id"#,
        account
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.digits, row.line_id)).collect())
}

/// A number that we held in the month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub line_id: LineId,
    /// E.164.
    pub phone: String,
    /// Millionths, as told before it was bought.
    pub monthly_micro: Option<i64>,
    pub setup_micro: Option<i64>,
    pub bought_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Numbers bought from Telnyx that were ours at some time of the month (days in UTC).
pub async fn held(db: impl PgExecutor<'_>, month: Period) -> sqlx::Result<Vec<Held>> {
    sqlx::query_as!(
        Held,
        r#"select line_id as "line_id: LineId", phone as "phone!", monthly_cost_micro as monthly_micro, setup_cost_micro as setup_micro,
                bought_at as "bought_at!", ended_at
           from line where kind = 'virtual' and phone is not null and bought_at < $2 and (ended_at is null or ended_at >= $1) order by bought_at"#,
        month.start(Tz::UTC),
        month.end(Tz::UTC)
    )
    .fetch_all(db)
    .await
}
