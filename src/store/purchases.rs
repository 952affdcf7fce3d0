//! Tables `purchase` and `receipt`: what we set out to buy, each call made for it, and what came of it; hash-chained.

use chrono::{DateTime, Utc};
use domain::{
    LineId,
    hash_chain::{self, Hash, NotCanonical},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

/// One number that a run set out to buy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purchase {
    pub purchase_id: Uuid,
    pub run_id: Uuid,
    pub line_id: Uuid,
    /// What the provider keeps with the order and the number.
    pub customer_reference: String,
    /// E.164.
    pub phone: String,
    /// Millionths of `currency`; `None` if the provider named no price.
    pub upfront_micro: Option<i64>,
    pub monthly_micro: Option<i64>,
    pub currency: Option<String>,
    /// When the order call was last begun; `None`: nothing can have been bought.
    pub called_at: Option<DateTime<Utc>>,
    pub calls: i32,
    /// A call was made whose outcome nobody knows.
    pub in_doubt: bool,
    /// The code of the last refusal.
    pub refusal: Option<String>,
    pub order_id: Option<String>,
    /// `open`, `ordered`, `owned`, `taken`, `void` or `released`.
    pub outcome: String,
}

/// What to buy.
#[derive(Debug, Clone)]
pub struct Intent<'a> {
    pub purchase_id: Uuid,
    pub run_id: Uuid,
    pub line_id: LineId,
    pub customer_reference: &'a str,
    pub phone: &'a str,
    pub upfront_micro: Option<i64>,
    pub monthly_micro: Option<i64>,
    pub currency: Option<&'a str>,
}

/// The intent, before any call; meant already: nothing changes. `false`: another run is after this number.
pub async fn intend(db: &PgPool, intent: &Intent<'_>) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let new = sqlx::query!(
        "insert into purchase (purchase_id, run_id, line_id, customer_reference, phone, upfront_micro, monthly_micro, currency)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
        intent.purchase_id,
        intent.run_id,
        intent.line_id.0,
        intent.customer_reference,
        intent.phone,
        intent.upfront_micro,
        intent.monthly_micro,
        intent.currency,
    )
    .execute(&mut *tx)
    .await?;
    if new.rows_affected() == 1 {
        let detail = json!({
            "run_id": intent.run_id, "line_id": intent.line_id, "reference": intent.customer_reference, "phone": intent.phone,
            "upfront_micro": intent.upfront_micro, "monthly_micro": intent.monthly_micro, "currency": intent.currency,
        });
        append(&mut tx, intent.purchase_id, "intent", detail).await?;
    }
    let ours = sqlx::query_scalar!(
        r#"select exists (select from purchase where purchase_id = $1 and outcome in ('open', 'ordered', 'owned')) as "ours!""#,
        intent.purchase_id
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(ours)
}

pub async fn get(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Purchase>> {
    sqlx::query_as!(
        Purchase,
        "select purchase_id, run_id, line_id, customer_reference, phone, upfront_micro, monthly_micro, currency, called_at, calls,
            in_doubt, refusal, order_id, outcome
         from purchase where purchase_id = $1",
        id
    )
    .fetch_optional(db)
    .await
}

/// Everything a run set out to buy, in order.
pub async fn of_run(db: impl PgExecutor<'_>, run: Uuid) -> sqlx::Result<Vec<Purchase>> {
    sqlx::query_as!(
        Purchase,
        "select purchase_id, run_id, line_id, customer_reference, phone, upfront_micro, monthly_micro, currency, called_at, calls,
            in_doubt, refusal, order_id, outcome
         from purchase where run_id = $1 order by created_at, purchase_id",
        run
    )
    .fetch_all(db)
    .await
}

/// Written before the order call, so that a call whose answer is lost is known to have been made.
pub async fn calling(db: &PgPool, id: Uuid) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    let calls = sqlx::query_scalar!(
        "update purchase set called_at = durable.now(), calls = calls + 1, in_doubt = true where purchase_id = $1 returning calls",
        id
    )
    .fetch_one(&mut *tx)
    .await?;
    append(&mut tx, id, "call", json!({ "number": calls })).await?;
    tx.commit().await
}

/// How a call was answered. `in_doubt`: the answer says nothing certain, or an earlier call's did not.
/// `detail` without secrets and without fractions.
pub async fn answered(db: &PgPool, id: Uuid, in_doubt: bool, refusal: Option<&str>, detail: Value) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query!("update purchase set in_doubt = $2, refusal = $3 where purchase_id = $1", id, in_doubt, refusal)
        .execute(&mut *tx)
        .await?;
    append(&mut tx, id, "answer", detail).await?;
    tx.commit().await
}

/// Guarded move, with its link in the chain: `false` if it has this outcome (and order) already.
pub async fn settle(db: &PgPool, id: Uuid, outcome: &str, order_id: Option<&str>, why: &str) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let done = sqlx::query!(
        "update purchase set outcome = $2, order_id = coalesce($3, order_id)
         where purchase_id = $1 and (outcome <> $2 or ($3::text is not null and order_id is distinct from $3))",
        id,
        outcome,
        order_id,
    )
    .execute(&mut *tx)
    .await?;
    let moved = done.rows_affected() == 1;
    if moved {
        append(&mut tx, id, "outcome", json!({ "outcome": outcome, "order_id": order_id, "why": why })).await?;
    }
    tx.commit().await?;
    Ok(moved)
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    pub seq: i64,
    pub purchase_id: Uuid,
    /// `{"purchase_id","kind","at_us","detail"}`.
    pub record: Value,
    /// SHA-256 in hex.
    pub hash: String,
}

/// The receipts of a line, in the order of the chain.
pub async fn receipts(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Vec<Receipt>> {
    sqlx::query_as!(
        Receipt,
        r#"select seq, purchase_id, record, encode(hash, 'hex') as "hash!" from receipt join purchase using (purchase_id)
           where line_id = $1 order by seq"#,
        line.0
    )
    .fetch_all(db)
    .await
}

/// The only way into the chain. One writer at a time, until the caller commits.
async fn append(tx: &mut PgConnection, purchase: Uuid, kind: &str, detail: Value) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('receipt', 0))").execute(&mut *tx).await?;
    let last = sqlx::query!("select seq, hash from receipt order by seq desc limit 1").fetch_optional(&mut *tx).await?;
    let now = sqlx::query_scalar!(r#"select durable.now() as "now!""#).fetch_one(&mut *tx).await?;
    let record = json!({ "purchase_id": purchase, "kind": kind, "at_us": now.timestamp_micros(), "detail": detail });
    let previous = last.as_ref().map(|last| to_hash(&last.hash)).transpose()?;
    let hash = hash_chain::link_record(previous, &record).map_err(|error: NotCanonical| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "insert into receipt (seq, purchase_id, record, hash) values ($1, $2, $3, $4)",
        last.map_or(1, |last| last.seq + 1),
        purchase,
        record,
        hash.as_slice(),
    )
    .execute(&mut *tx)
    .await
    .map(drop)
}

fn to_hash(bytes: &[u8]) -> sqlx::Result<Hash> {
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash of the receipt chain is not 32 bytes long".into()))
}

/// What a check of the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chain {
    Whole {
        links: usize,
        last: Option<String>,
    },
    /// `seq` of the first link that is missing or does not fit.
    Broken {
        seq: i64,
    },
}

/// Walks every receipt from the first to the last.
pub async fn verify_chain(db: impl PgExecutor<'_>) -> sqlx::Result<Chain> {
    let rows = sqlx::query!("select seq, record, hash from receipt order by seq").fetch_all(db).await?;
    let mut links = Vec::with_capacity(rows.len());
    for (row, expected) in rows.iter().zip(1..) {
        let Ok(bytes) = hash_chain::canonical(&row.record) else { return Ok(Chain::Broken { seq: row.seq }) };
        if row.seq != expected {
            return Ok(Chain::Broken { seq: expected });
        }
        links.push((bytes, to_hash(&row.hash)?));
    }
    Ok(match hash_chain::verify(links) {
        Ok(last) => Chain::Whole { links: rows.len(), last: last.map(hex::encode) },
        Err(broken) => Chain::Broken { seq: rows.get(broken.index).map_or(0, |row| row.seq) },
    })
}
