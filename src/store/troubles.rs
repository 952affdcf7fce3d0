//! What wants a person's eye, counted over all tables: the first thing an operator sees.

use sqlx::PgExecutor;

/// How many of each.
#[derive(Debug, Clone, Default)]
pub struct Troubles {
    /// Lines that Meta or an operator keeps from sending.
    pub lines: i64,
    /// Lanes that are stopped, and messaging accounts.
    pub lanes: i64,
    pub accounts: i64,
    /// Messages of which nobody knows whether they were sent.
    pub parked: i64,
    /// Messages that Meta holds to assess their template.
    pub held: i64,
    pub quarantined: i64,
    pub orphans: i64,
    /// Callbacks that were given up after three days.
    pub unheard: i64,
    pub templates: i64,
    pub suspended: i64,
    /// Companies that have used 80 % of this month's credit.
    pub short_of_credit: i64,
}

pub async fn now(db: impl PgExecutor<'_>) -> sqlx::Result<Troubles> {
    sqlx::query_as!(
        Troubles,
        r#"select (select count(*) from line where status in ('paused', 'restricted')) as "lines!",
                (select count(*) from lane where stopped_reason is not null and (stopped_until is null or stopped_until > durable.now())) as "lanes!",
                (select count(*) from account_stop where until is null or until > durable.now()) as "accounts!",
                (select count(*) from message where in_doubt and status = 'parked') as "parked!",
                (select count(*) from message where in_doubt and status = 'held') as "held!",
                (select count(*) from quarantine where replayed_at is null) as "quarantined!",
                (select count(*) from orphan_number) as "orphans!",
                (select count(*) from callback where delivered_at is null and next_at is null) as "unheard!",
                (select count(*) from template where deleted_at is null and status in ('PAUSED', 'DISABLED')) as "templates!",
                (select count(*) from tenant where status = 'suspended') as "suspended!",
                (select count(*) from credit where warned_percent > 0 and warned_month = date_trunc('month', durable.now())::date) as "short_of_credit!""#
    )
    .fetch_one(db)
    .await
}
