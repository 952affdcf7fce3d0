//! Tables `portfolio`, `portfolio_use` and `portfolio_count`: to how many people outside a window one portfolio may write in a day.

use chrono::{DateTime, Utc};
use domain::TenantId;
use sqlx::{PgConnection, PgExecutor};
use std::collections::HashSet;

/// The limit as Meta last told: `None` if it was never told, `Some(None)` if there is none.
pub async fn limit(db: impl PgExecutor<'_>, portfolio: &str) -> sqlx::Result<Option<Option<i32>>> {
    sqlx::query_scalar!("select messaging_limit from portfolio where portfolio = $1", portfolio).fetch_optional(db).await
}

pub async fn set_limit(db: impl PgExecutor<'_>, portfolio: &str, limit: Option<i32>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into portfolio (portfolio, messaging_limit, told_at) values ($1, $2, durable.now())
         on conflict (portfolio) do update set messaging_limit = excluded.messaging_limit, told_at = excluded.told_at",
        portfolio,
        limit
    )
    .execute(db)
    .await
    .map(drop)
}

/// Who may be written to, and when the next place becomes free for the others.
#[derive(Debug, Default)]
pub struct Reserved {
    pub allowed: HashSet<String>,
    pub next_free_at: Option<DateTime<Utc>>,
}

/// Reserves places for `people` (their keys at Meta). One portfolio serves many tenants: while more than a tenth is free anybody
/// may take it, the last tenth is shared out evenly, so that one campaign cannot starve the others. Uses are counted by ten
/// minutes, and a place is free again up to so much late.
pub async fn reserve(
    tx: &mut PgConnection,
    portfolio: &str,
    tenant: TenantId,
    limit: i64,
    people: &[String],
) -> sqlx::Result<Reserved> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('portfolio:' || $1, 0))", portfolio).execute(&mut *tx).await?;
    // Whoever was written to before that counts no more, and need not be known.
    sqlx::query!(
        "with uses as (delete from portfolio_use where portfolio = $1 and used_at <= durable.now() - interval '24 hours')
         delete from portfolio_count where portfolio = $1 and since <= durable.now() - interval '24 hours 10 minutes'",
        portfolio
    )
    .execute(&mut *tx)
    .await?;
    let mut reserved = Reserved {
        allowed: sqlx::query_scalar!(
            "select contact_key from portfolio_use where portfolio = $1 and contact_key = any($2) and used_at > durable.now() - interval '24 hours'",
            portfolio,
            people
        )
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect(),
        next_free_at: None,
    };
    let used = sqlx::query!(
        r#"select coalesce(sum(people), 0)::bigint as "all!", coalesce(sum(people) filter (where tenant_id = $2), 0)::bigint as "ours!",
                count(distinct tenant_id) filter (where tenant_id <> $2) as "others!", min(since) + interval '24 hours 10 minutes' as next_free_at
           from portfolio_count where portfolio = $1 and since > durable.now() - interval '24 hours 10 minutes'"#,
        portfolio,
        tenant.0
    )
    .fetch_one(&mut *tx)
    .await?;
    let free = (limit - used.all).max(0);
    let kept = if used.others > 0 { limit / 10 } else { 0 };
    let share = limit / (used.others + 1);
    let room = (free - kept).max((share - used.ours).min(free)).max(0);
    let mut seen = reserved.allowed.clone();
    let fresh: Vec<String> =
        people.iter().filter(|person| seen.insert((*person).clone())).take(usize::try_from(room).unwrap_or(0)).cloned().collect();
    if !fresh.is_empty() {
        sqlx::query!(
            "with clock as materialized (select durable.now() as now),
             used as (
                insert into portfolio_use (portfolio, contact_key, tenant_id, used_at) select $1, unnest($3::text[]), $2, (select now from clock)
                on conflict (portfolio, contact_key) do update set tenant_id = excluded.tenant_id, used_at = excluded.used_at)
             insert into portfolio_count (portfolio, tenant_id, since, people)
             select $1, $2, date_bin('10 minutes', now, 'epoch'), cardinality($3::text[]) from clock
             on conflict (portfolio, tenant_id, since) do update set people = portfolio_count.people + excluded.people",
            portfolio,
            tenant.0,
            &fresh
        )
        .execute(&mut *tx)
        .await?;
    }
    reserved.allowed.extend(fresh);
    reserved.next_free_at = used.next_free_at;
    Ok(reserved)
}
