//! Tables `ledger_head`, `ledger_entry` and `ledger_posting`: double entry, append-only, a hash chain per tenant.
//!
//! Debits are positive. An entry is made of transfers from one account to another, so it balances by construction; the database
//! checks it again, and refuses every change.

use chrono::{DateTime, Utc};
use domain::{
    TenantId,
    hash_chain::{self, Hash, NotCanonical},
};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Links read at once while a chain is walked.
const WALK: i64 = 1_000;

/// What is kept apart. The names are stored for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Sent, not known to be delivered.
    Pending,
    PendingRevenue,
    /// Delivered, on no invoice yet.
    Unbilled,
    MessageRevenue,
    /// What Meta will ask for, at the rate card.
    MetaCost,
    MetaPayable,
    /// Invoiced, not paid; with TVA.
    Receivable,
    /// Base fees, number rents and adjustments.
    FeeRevenue,
    Vat,
    /// What the centime of an invoice line adds to or takes from its exact amount.
    Rounding,
    Cash,
}

impl Account {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::PendingRevenue => "pending_revenue",
            Self::Unbilled => "unbilled",
            Self::MessageRevenue => "message_revenue",
            Self::MetaCost => "meta_cost",
            Self::MetaPayable => "meta_payable",
            Self::Receivable => "receivable",
            Self::FeeRevenue => "fee_revenue",
            Self::Vat => "vat",
            Self::Rounding => "rounding",
            Self::Cash => "cash",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Currency {
    /// Ledger units of 0.0001 MAD.
    Mad,
    /// Millionths of a dollar.
    Usd,
}

impl Currency {
    pub fn name(self) -> &'static str {
        match self {
            Self::Mad => "MAD",
            Self::Usd => "USD",
        }
    }
}

/// What is to be written down for one tenant.
#[derive(Debug, Clone)]
pub struct Entry {
    pub tenant: TenantId,
    pub kind: &'static str,
    /// The rows behind it; without people, secrets and fractions.
    pub detail: Value,
    postings: BTreeMap<(Account, Currency), i64>,
}

impl Entry {
    pub fn new(tenant: TenantId, kind: &'static str, detail: Value) -> Self {
        Self { tenant, kind, detail, postings: BTreeMap::new() }
    }

    /// Debits one account and credits the other; a negative amount is the reverse.
    #[must_use]
    pub fn transfer(mut self, debit: Account, credit: Account, currency: Currency, amount: i64) -> Self {
        *self.postings.entry((debit, currency)).or_default() += amount;
        *self.postings.entry((credit, currency)).or_default() -= amount;
        self
    }

    fn body(&self, seq: i64, at: DateTime<Utc>) -> Value {
        let postings: Vec<Value> =
            self.moved().map(|((account, currency), amount)| json!([account.name(), currency.name(), amount])).collect();
        json!({ "tenant_id": self.tenant.0, "seq": seq, "at_us": at.timestamp_micros(), "kind": self.kind, "detail": self.detail,
            "postings": postings })
    }

    fn moved(&self) -> impl Iterator<Item = ((Account, Currency), i64)> {
        self.postings.iter().filter(|(_, amount)| **amount != 0).map(|(key, amount)| (*key, *amount))
    }
}

/// The ends of tenants' chains. Whoever has them holds the chains' locks, so that they stay the ends until the transaction is over
/// or [`append_to`] moves them on.
#[derive(Debug)]
pub struct Heads(BTreeMap<TenantId, (i64, Option<Hash>)>);

/// Locks the chains (and with them the months) of these tenants until the transaction ends, in the order of their ids. Take it
/// before rows of `charge` or `invoice` are written.
pub async fn lock(tx: &mut PgConnection, tenants: &[TenantId]) -> sqlx::Result<Heads> {
    let mut by_tenant = BTreeMap::new();
    for head in heads(tx, tenants).await? {
        by_tenant.insert(head.tenant_id, (head.seq, head.hash.as_deref().map(to_hash).transpose()?));
    }
    Ok(Heads(by_tenant))
}

struct Head {
    tenant_id: TenantId,
    seq: i64,
    hash: Option<Vec<u8>>,
}

async fn heads(tx: &mut PgConnection, tenants: &[TenantId]) -> sqlx::Result<Vec<Head>> {
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    sqlx::query!(
        "insert into ledger_head (tenant_id) select distinct id from unnest($1::uuid[]) as u(id)
         where not exists (select from ledger_head h where h.tenant_id = u.id) order by id on conflict do nothing",
        &ids
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query_as!(
        Head,
        r#"select tenant_id as "tenant_id: TenantId", seq, hash from ledger_head where tenant_id = any($1) order by tenant_id for update"#,
        &ids
    )
    .fetch_all(tx)
    .await
}

/// Appends in this order, each to its tenant's chain.
pub async fn append(tx: &mut PgConnection, entries: &[Entry]) -> sqlx::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let tenants: Vec<TenantId> = entries.iter().map(|entry| entry.tenant).collect();
    let heads = lock(tx, &tenants).await?;
    append_to(tx, heads, entries).await
}

/// [`append`], where the chains of all entries are locked already. The heads are used up: they are the ends no more.
pub async fn append_to(tx: &mut PgConnection, Heads(heads): Heads, entries: &[Entry]) -> sqlx::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = entries.iter().map(|entry| entry.tenant.0).collect();
    let told: BTreeSet<TenantId> = entries.iter().map(|entry| entry.tenant).collect();
    // Asked with the heads in hand: the times of a chain never go back.
    let at = sqlx::query_scalar!(r#"select durable.now() as "now!""#).fetch_one(&mut *tx).await?;
    let mut heads_by_tenant: BTreeMap<TenantId, (i64, Option<Hash>)> =
        heads.into_iter().filter(|(tenant, _)| told.contains(tenant)).collect();
    let (mut seqs, mut bodies, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let mut posted = Postings::default();
    for entry in entries {
        let head = heads_by_tenant.get_mut(&entry.tenant).ok_or(sqlx::Error::RowNotFound)?;
        let seq = head.0 + 1;
        let body = entry.body(seq, at);
        let hash = hash_chain::link_record(head.1, &body).map_err(|error: NotCanonical| sqlx::Error::Encode(error.into()))?;
        *head = (seq, Some(hash));
        for ((account, currency), amount) in entry.moved() {
            posted.tenants.push(entry.tenant.0);
            posted.seqs.push(seq);
            posted.accounts.push(account.name().to_owned());
            posted.currencies.push(currency.name().to_owned());
            posted.amounts.push(amount);
        }
        seqs.push(seq);
        bodies.push(body);
        hashes.push(hash.to_vec());
    }
    sqlx::query!(
        "insert into ledger_entry (tenant_id, seq, at, kind, body, hash)
         select tenant_id, seq, $3, kind, body, hash
         from unnest($1::uuid[], $2::bigint[], $4::text[], $5::jsonb[], $6::bytea[]) as u(tenant_id, seq, kind, body, hash)",
        &ids,
        &seqs,
        at,
        &entries.iter().map(|entry| entry.kind.to_owned()).collect::<Vec<_>>(),
        &bodies,
        &hashes
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "insert into ledger_posting (tenant_id, seq, account, currency, amount)
         select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])",
        &posted.tenants,
        &posted.seqs,
        &posted.accounts,
        &posted.currencies,
        &posted.amounts
    )
    .execute(&mut *tx)
    .await?;
    let moved: Vec<_> = heads_by_tenant.into_iter().filter_map(|(tenant, (seq, hash))| Some((tenant, seq, hash?))).collect();
    sqlx::query!(
        "update ledger_head h set seq = u.seq, hash = u.hash
         from unnest($1::uuid[], $2::bigint[], $3::bytea[]) as u(tenant_id, seq, hash) where h.tenant_id = u.tenant_id",
        &moved.iter().map(|head| head.0.0).collect::<Vec<_>>(),
        &moved.iter().map(|head| head.1).collect::<Vec<_>>(),
        &moved.iter().map(|head| head.2.to_vec()).collect::<Vec<_>>()
    )
    .execute(tx)
    .await
    .map(drop)
}

/// What an account of a tenant stands at; debits are positive.
pub async fn balance(db: impl PgExecutor<'_>, tenant: TenantId, account: Account, currency: Currency) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select coalesce(sum(amount), 0)::bigint as "sum!" from ledger_posting where tenant_id = $1 and account = $2 and currency = $3"#,
        tenant.0,
        account.name(),
        currency.name()
    )
    .fetch_one(db)
    .await
}

/// What a check of every tenant's chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Walk {
    Whole {
        chains: usize,
        links: usize,
    },
    /// The first link that is missing, changed, cut off, or posted otherwise than it says.
    Broken {
        tenant_id: Uuid,
        seq: i64,
    },
}

/// Walks the chains of all tenants in the order of their ids; memory does not grow with them.
pub async fn verify(db: &mut PgConnection) -> sqlx::Result<Walk> {
    let heads = sqlx::query!(
        r#"select coalesce(h.tenant_id, e.tenant_id) as "tenant_id!", coalesce(h.seq, 0) as "seq!", h.hash
           from ledger_head h full join (select distinct tenant_id from ledger_entry) e using (tenant_id) order by 1"#
    )
    .fetch_all(&mut *db)
    .await?;
    let (mut chains, mut links) = (0, 0);
    for head in heads {
        let (mut seq, mut previous): (i64, Option<Hash>) = (0, None);
        loop {
            let rows = sqlx::query!(
                r#"select e.seq, e.at, e.body, e.hash, (e.tenant_id = (e.body ->> 'tenant_id')::uuid and e.seq = (e.body ->> 'seq')::bigint and e.kind = e.body ->> 'kind') as "same!",
                    coalesce((select jsonb_agg(jsonb_build_array(p.account, p.currency, p.amount) order by p.account, p.currency)
                              from ledger_posting p where p.tenant_id = e.tenant_id and p.seq = e.seq), '[]') as "posted!"
                   from ledger_entry e where e.tenant_id = $1 and e.seq > $2 order by e.seq limit $3"#,
                head.tenant_id,
                seq,
                WALK
            )
            .fetch_all(&mut *db)
            .await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let broken = Walk::Broken { tenant_id: head.tenant_id, seq: seq + 1 };
                let hash = hash_chain::link_record(previous, &row.body).ok();
                let at = row.body["at_us"].as_i64() == Some(row.at.timestamp_micros());
                let whole = row.seq == seq + 1 && row.same && at && sorted(&row.body["postings"]) == sorted(&row.posted);
                if !whole || hash.is_none() || hash.as_ref().map(|hash| hash.as_slice()) != Some(&row.hash) {
                    return Ok(broken);
                }
                (seq, previous) = (row.seq, hash);
                links += 1;
            }
        }
        if seq != head.seq || previous.as_ref().map(|hash| hash.as_slice()) != head.hash.as_deref() {
            return Ok(Walk::Broken { tenant_id: head.tenant_id, seq: seq.min(head.seq) + 1 });
        }
        chains += 1;
    }
    Ok(Walk::Whole { chains, links })
}

fn sorted(postings: &Value) -> Vec<String> {
    let mut all: Vec<String> = postings.as_array().into_iter().flatten().map(Value::to_string).collect();
    all.sort();
    all
}

pub(crate) fn to_hash(bytes: &[u8]) -> sqlx::Result<Hash> {
    bytes.try_into().map_err(|_| sqlx::Error::Decode("a stored hash is not 32 bytes long".into()))
}

/// Postings as the columns of one insert.
#[derive(Default)]
struct Postings {
    tenants: Vec<Uuid>,
    seqs: Vec<i64>,
    accounts: Vec<String>,
    currencies: Vec<String>,
    amounts: Vec<i64>,
}
