//! Table `charge`: one per wamid, ever; provisional when sent, final when first delivered or read, whatever the order of the news.
//!
//! A wamid spells the person's number, and charges outlive the person: only its hash is kept.
//! spec.md 4 "Money, settled"; contracts/meta-cloud-api.md 12.2.

use crate::{
    credit,
    ledger::{self, Account, Currency, Entry, Heads},
    rates::{self, Card},
    tenants::{self, Tenant},
};
use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use domain::{
    LineId, MessageId, Phone, TenantId,
    billing::{PROVISIONAL_DAYS, Period, PricingType},
    rates::Category,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Charges reversed, or priced, in one transaction.
pub const EXPIRE_BATCH: i64 = 5_000;

/// One fresh piece of news about an outbound message.
#[derive(Debug, Clone)]
pub struct PricedStatus {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub wamid: String,
    /// `sent`, `delivered`, `read` or `failed`; others say nothing about money.
    pub status: String,
    pub at: DateTime<Utc>,
    /// As Meta told: `regular`, `utility`, ...
    pub pricing_type: Option<String>,
    pub pricing_category: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Charge {
    wamid_hash: Vec<u8>,
    tenant_id: TenantId,
    line_id: LineId,
    message_id: MessageId,
    state: String,
    category: String,
    pricing_type: Option<String>,
    pricing_rank: i16,
    pricing_at: Option<DateTime<Utc>>,
    country: Option<String>,
    sent_at: Option<DateTime<Utc>>,
    failed_at: Option<DateTime<Utc>>,
    happened_at: Option<DateTime<Utc>>,
    price_units: i64,
    market: Option<String>,
    rate_valid_from: Option<NaiveDate>,
    cost_micro: Option<i64>,
    cost_units: Option<i64>,
    usage_month: Option<NaiveDate>,
    billing_month: Option<NaiveDate>,
}

/// What a charge means to the ledger.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
struct Weight {
    pending: i64,
    unbilled: i64,
    cost_micro: i64,
}

impl Charge {
    fn weight(&self) -> Weight {
        match self.state.as_str() {
            "provisional" => Weight { pending: self.price_units, ..Weight::default() },
            "final" => Weight { unbilled: self.price_units, cost_micro: self.cost_micro.unwrap_or_default(), pending: 0 },
            _ => Weight::default(),
        }
    }

    /// Takes news in; the result is the same in every order of arrival.
    fn hear(&mut self, news: &PricedStatus) {
        let earliest = |known: Option<DateTime<Utc>>| Some(known.map_or(news.at, |known| known.min(news.at)));
        let rank = match news.status.as_str() {
            "delivered" => 3,
            "read" => 2,
            "sent" => 1,
            _ => 0,
        };
        match rank {
            2 | 3 => self.happened_at = earliest(self.happened_at),
            1 => self.sent_at = earliest(self.sent_at),
            _ => self.failed_at = earliest(self.failed_at),
        }
        let Some(pricing) = news.pricing_type.as_deref().and_then(PricingType::read).filter(|_| rank > 0) else { return };
        let earlier = self.pricing_at.is_none_or(|at| news.at < at);
        if rank > self.pricing_rank || (rank == self.pricing_rank && earlier) {
            (self.pricing_rank, self.pricing_at) = (rank, Some(news.at));
            self.pricing_type = Some(pricing.name().to_owned());
            if let Some(category) = news.pricing_category.as_deref().and_then(Category::read) {
                self.category = category.name().to_owned();
            }
        }
    }

    /// State, price, cost and months from what is known of it.
    fn settle(&mut self, tenant: &Tenant, frozen: &HashSet<(TenantId, NaiveDate)>, card: &Card, account_zone: Tz) {
        let zone = zone(tenant);
        self.state = match (self.happened_at, self.failed_at, self.state.as_str()) {
            (Some(_), ..) => "final",
            // Expired stays expired.
            (None, Some(_), _) | (None, None, "reversed") => "reversed",
            (None, None, _) => "provisional",
        }
        .to_owned();
        let Some(at) = self.happened_at.or(self.sent_at).or(self.failed_at) else { return };
        let pricing = self.pricing_type.as_deref().and_then(PricingType::read);
        let price = tenant.price_on(at.with_timezone(&zone).date_naive()).map_or(0, |price| price.price_per_message_units);
        self.price_units = if pricing.is_some_and(PricingType::is_free) { 0 } else { price };
        if self.state != "final" {
            return;
        }
        self.cost(at, card, account_zone);
        let usage = Period::of(at, zone);
        let mut billing = usage;
        while frozen.contains(&(self.tenant_id, billing.first_day())) {
            billing = billing.next();
        }
        self.usage_month = Some(usage.first_day());
        self.billing_month = Some(billing.first_day());
    }

    /// What Meta asks for it, as far as the cards say.
    fn cost(&mut self, at: DateTime<Utc>, card: &Card, account_zone: Tz) {
        let pricing = self.pricing_type.as_deref().and_then(PricingType::read);
        let cost = card.cost(pricing, Category::read(&self.category), self.country.as_deref(), at, account_zone);
        self.cost_micro = cost.as_ref().map(|cost| cost.micro.0);
        self.cost_units = cost.as_ref().and_then(|cost| cost.units);
        self.rate_valid_from = cost.as_ref().and_then(|cost| cost.rate_from);
        self.market = cost.and_then(|cost| cost.market);
    }
}

/// What is kept of a wamid where nobody may be recognised.
pub fn wamid_hash(wamid: &str) -> Vec<u8> {
    Sha256::digest(wamid).to_vec()
}

/// The time zone that a tenant's months are counted in.
pub fn zone(tenant: &Tenant) -> Tz {
    tenant.time_zone.parse().unwrap_or(chrono_tz::Africa::Casablanca)
}

/// Books fresh news in the transaction that keeps them. The caller has the messages' rows locked.
pub async fn note(tx: &mut PgConnection, news: &[PricedStatus]) -> sqlx::Result<()> {
    let news: Vec<&PricedStatus> =
        news.iter().filter(|n| matches!(n.status.as_str(), "sent" | "delivered" | "read" | "failed")).collect();
    if news.is_empty() {
        return Ok(());
    }
    let mut ids: Vec<_> = news.iter().map(|n| n.tenant_id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    let known = tenants::of_ids(tx, &ids).await?;
    let paying: HashMap<TenantId, Tenant> =
        known.into_iter().filter(|tenant| tenant.billing_mode == "platform").map(|tenant| (tenant.id, tenant)).collect();
    if paying.is_empty() {
        return Ok(());
    }
    let news: Vec<&PricedStatus> = news.into_iter().filter(|n| paying.contains_key(&n.tenant_id)).collect();
    let heads = ledger::lock(tx, &paying.keys().copied().collect::<Vec<_>>()).await?;
    let hashes: Vec<Vec<u8>> = news.iter().map(|news| wamid_hash(&news.wamid)).collect();
    let before = load(tx, &hashes).await?;
    let messages = messages(tx, &news).await?;
    let mut after: BTreeMap<&[u8], Charge> = BTreeMap::new();
    for (news, hash) in news.iter().zip(&hashes) {
        let Some(message) = messages.get(&news.message_id) else { continue };
        let charge = after.entry(hash).or_insert_with(|| match before.get(hash) {
            Some(charge) => charge.clone(),
            None => Charge {
                wamid_hash: hash.clone(),
                tenant_id: news.tenant_id,
                line_id: message.line_id,
                message_id: news.message_id,
                state: "provisional".into(),
                category: message.category.clone(),
                pricing_type: None,
                pricing_rank: 0,
                pricing_at: None,
                country: message.country.clone(),
                sent_at: None,
                failed_at: None,
                happened_at: None,
                price_units: 0,
                market: None,
                rate_valid_from: None,
                cost_micro: None,
                cost_units: None,
                usage_month: None,
                billing_month: None,
            },
        });
        charge.hear(news);
    }
    let frozen = frozen(tx, &paying.keys().copied().collect::<Vec<_>>()).await?;
    // What stands on an issued invoice stays as it was.
    after.retain(|hash, charge| {
        let billed = before.get(*hash).and_then(|before| before.billing_month);
        billed.is_none_or(|month| !frozen.contains(&(charge.tenant_id, month)))
    });
    let mut countries: Vec<String> =
        after.values().filter(|charge| charge.happened_at.is_some()).filter_map(|charge| charge.country.clone()).collect();
    countries.sort_unstable();
    countries.dedup();
    let card = if countries.is_empty() { Card::default() } else { rates::card(tx, Some(&countries)).await? };
    let zones = rates::zones(&mut *tx).await?;
    for charge in after.values_mut() {
        let account = messages.get(&charge.message_id).and_then(|message| message.account.as_ref());
        let zone = account.and_then(|account| zones.get(account).copied()).unwrap_or(chrono_tz::Africa::Casablanca);
        if let Some(tenant) = paying.get(&charge.tenant_id) {
            charge.settle(tenant, &frozen, &card, zone);
        }
    }
    let changed: Vec<(Option<&Charge>, Charge)> = after
        .into_iter()
        .map(|(hash, charge)| (before.get(hash), charge))
        .filter(|(before, after)| before.is_none_or(|before| before != after))
        .collect();
    book(tx, heads, "charges", &changed).await
}

/// Reverses provisional charges that nothing has confirmed for 32 days, and frees what was reserved for them. Says how many.
pub async fn expire(tx: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<usize> {
    let before = now - chrono::Duration::days(PROVISIONAL_DAYS);
    let old = sqlx::query!(
        r#"select wamid_hash, tenant_id as "tenant_id: TenantId", message_id from charge where state = 'provisional' and sent_at < $1
           order by sent_at limit $2"#,
        before,
        EXPIRE_BATCH
    )
    .fetch_all(&mut *tx)
    .await?;
    if old.is_empty() {
        return Ok(0);
    }
    // The same order of locks as webhooks: messages, chains, charges.
    let messages: Vec<_> = old.iter().map(|row| row.message_id).collect();
    sqlx::query!("select message_id from message where message_id = any($1) order by message_id for update", &messages)
        .fetch_all(&mut *tx)
        .await?;
    let mut tenants: Vec<TenantId> = old.iter().map(|row| row.tenant_id).collect();
    tenants.dedup();
    let heads = ledger::lock(tx, &tenants).await?;
    let hashes: Vec<Vec<u8>> = old.into_iter().map(|row| row.wamid_hash).collect();
    let still = load(tx, &hashes).await?.into_values().filter(|charge| charge.state == "provisional").collect::<Vec<_>>();
    let ended: Vec<_> =
        still.iter().map(|charge| (Some(charge), Charge { state: "reversed".into(), ..charge.clone() })).collect();
    let count = ended.len();
    book(tx, heads, "expiry", &ended).await?;
    Ok(count)
}

/// Prices the charges that came before a card or an exchange rate was loaded for them. Says how many.
pub async fn price_waiting(db: &PgPool) -> sqlx::Result<usize> {
    let (mut priced, mut last) = (0, Vec::new());
    loop {
        let mut tx = db.begin().await?;
        let (some, next) = price_some(&mut tx, &last).await?;
        tx.commit().await?;
        priced += some;
        match next {
            Some(next) => last = next,
            None => return Ok(priced),
        }
    }
}

/// Those after `last`; how many had a price, and the last one looked at.
async fn price_some(tx: &mut PgConnection, last: &[u8]) -> sqlx::Result<(usize, Option<Vec<u8>>)> {
    let waiting = sqlx::query!(
        r#"select c.wamid_hash, c.tenant_id as "tenant_id: TenantId", c.message_id, c.line_id as "line_id: LineId", l.messaging_account
           from charge c join line l using (line_id) where c.state = 'final' and c.cost_units is null and c.wamid_hash > $1
           order by c.wamid_hash limit $2"#,
        last,
        EXPIRE_BATCH
    )
    .fetch_all(&mut *tx)
    .await?;
    let Some(next) = waiting.last().map(|row| row.wamid_hash.clone()) else { return Ok((0, None)) };
    // The same order of locks as webhooks: messages, chains, charges.
    let messages: Vec<_> = waiting.iter().map(|row| row.message_id).collect();
    sqlx::query!("select message_id from message where message_id = any($1) order by message_id for update", &messages)
        .fetch_all(&mut *tx)
        .await?;
    let heads = ledger::lock(tx, &waiting.iter().map(|row| row.tenant_id).collect::<Vec<_>>()).await?;
    let zones = rates::zones(&mut *tx).await?;
    let zone_of: HashMap<LineId, Tz> =
        waiting.iter().filter_map(|row| Some((row.line_id, *zones.get(row.messaging_account.as_ref()?)?))).collect();
    let card = rates::card(tx, None).await?;
    let before = load(tx, &waiting.into_iter().map(|row| row.wamid_hash).collect::<Vec<_>>()).await?;
    let mut changed = Vec::new();
    for before in before.values().filter(|charge| charge.state == "final" && charge.cost_units.is_none()) {
        let Some(at) = before.happened_at else { continue };
        let mut after = before.clone();
        after.cost(at, &card, zone_of.get(&before.line_id).copied().unwrap_or(chrono_tz::Africa::Casablanca));
        if after != *before {
            changed.push((Some(before), after));
        }
    }
    book(tx, heads, "costs", &changed).await?;
    Ok((changed.len(), Some(next)))
}

/// Writes charges, the ledger's entries for what changed, the month's use, and the messages' prices.
async fn book(
    tx: &mut PgConnection,
    heads: Heads,
    kind: &'static str,
    changed: &[(Option<&Charge>, Charge)],
) -> sqlx::Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let charges: Vec<&Charge> = changed.iter().map(|(_, after)| after).collect();
    write(tx, &charges).await?;
    let mut totals: BTreeMap<TenantId, (Weight, Vec<Value>)> = BTreeMap::new();
    let mut used: BTreeMap<(TenantId, NaiveDate), i64> = BTreeMap::new();
    for (before, after) in changed {
        let (old, new) = (before.map(|before| before.weight()).unwrap_or_default(), after.weight());
        if let Some((month, price)) = before.and_then(|before| Some((before.usage_month?, before.weight().unbilled))) {
            *used.entry((after.tenant_id, month)).or_default() -= price;
        }
        if let Some(month) = after.usage_month {
            *used.entry((after.tenant_id, month)).or_default() += new.unbilled;
        }
        if before.is_some_and(|before| before.state == after.state) && old == new {
            continue;
        }
        let (sum, detail) = totals.entry(after.tenant_id).or_default();
        sum.pending += new.pending - old.pending;
        sum.unbilled += new.unbilled - old.unbilled;
        sum.cost_micro += new.cost_micro - old.cost_micro;
        detail.push(json!([after.message_id.0, after.state, after.price_units, after.cost_micro]));
    }
    let entries: Vec<Entry> = totals
        .into_iter()
        .map(|(tenant, (sum, detail))| {
            Entry::new(tenant, kind, json!({ "charges": detail }))
                .transfer(Account::Pending, Account::PendingRevenue, Currency::Mad, sum.pending)
                .transfer(Account::Unbilled, Account::MessageRevenue, Currency::Mad, sum.unbilled)
                .transfer(Account::MetaCost, Account::MetaPayable, Currency::Usd, sum.cost_micro)
        })
        .collect();
    ledger::append_to(tx, heads, &entries).await?;
    let used: Vec<_> =
        used.into_iter().filter(|(_, units)| *units != 0).map(|((tenant, month), units)| (tenant, month, units)).collect();
    credit::charged(tx, &used).await?;
    // The reservation has become a charge, or has come to nothing.
    sqlx::query!(
        "update message m set price_units = u.price, cost_micro = u.cost, reserved_units = case when u.open then m.reserved_units else 0 end
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[]) as u(message_id, price, cost, open)
         where m.message_id = u.message_id",
        &charges.iter().map(|c| c.message_id.0).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.price_units).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.cost_micro).collect::<Vec<_>>() as _,
        // A failed attempt may be tried again: its message knows whether it has ended.
        &charges.iter().map(|c| c.state == "provisional" || (c.state == "reversed" && kind == "charges")).collect::<Vec<_>>()
    )
    .execute(tx)
    .await
    .map(drop)
}

struct Told {
    line_id: LineId,
    category: String,
    country: Option<String>,
    account: Option<String>,
}

async fn messages(tx: &mut PgConnection, news: &[&PricedStatus]) -> sqlx::Result<HashMap<MessageId, Told>> {
    let rows = sqlx::query!(
        r#"select m.message_id as "message_id: MessageId", m.line_id as "line_id: LineId", coalesce(m.category, 'service') as "category!", l.messaging_account,
                (select value from contact_alias a where a.contact_id = m.contact_id and a.kind = 'phone' order by a.valid_to desc nulls first limit 1) as phone,
                (select left(value, 2) from contact_alias a where a.contact_id = m.contact_id and a.kind = 'bsuid' order by a.valid_to desc nulls first limit 1) as prefix,
                l.country as line_country
           from message m join line l using (line_id) where m.message_id = any($1)"#,
        &news.iter().map(|n| n.message_id.0).collect::<Vec<_>>()
    )
    .fetch_all(tx)
    .await?;
    let told = rows.into_iter().map(|row| {
        let of_phone = row.phone.and_then(|phone| Phone::parse(&phone).ok()).and_then(|phone| phone.country());
        // Of an erased person nothing is left but that the line was meant for its country.
        let country = of_phone.map(|country| country.iso2().to_owned()).or(row.prefix).unwrap_or(row.line_country);
        let told = Told { line_id: row.line_id, category: row.category, country: Some(country), account: row.messaging_account };
        (row.message_id, told)
    });
    Ok(told.collect())
}

async fn load(tx: &mut PgConnection, hashes: &[Vec<u8>]) -> sqlx::Result<HashMap<Vec<u8>, Charge>> {
    let rows = sqlx::query_as!(
        Charge,
        r#"select wamid_hash, tenant_id as "tenant_id: TenantId", line_id as "line_id: LineId", message_id as "message_id: MessageId", state, category,
                pricing_type, pricing_rank, pricing_at, country, sent_at, failed_at, happened_at, price_units, market, rate_valid_from,
                cost_micro, cost_units, usage_month, billing_month
           from charge where wamid_hash = any($1) order by wamid_hash for update"#,
        hashes
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|charge| (charge.wamid_hash.clone(), charge)).collect())
}

async fn frozen(tx: &mut PgConnection, tenants: &[TenantId]) -> sqlx::Result<HashSet<(TenantId, NaiveDate)>> {
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.0).collect();
    sqlx::query!(r#"select tenant_id as "tenant_id: TenantId", month from billing_period where tenant_id = any($1)"#, &ids)
        .fetch_all(tx)
        .await
        .map(|rows| rows.into_iter().map(|row| (row.tenant_id, row.month)).collect())
}

async fn write(tx: &mut PgConnection, charges: &[&Charge]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"insert into charge (wamid_hash, tenant_id, line_id, message_id, state, category, pricing_type, pricing_rank, pricing_at, country, sent_at, failed_at,
                happened_at, price_units, market, rate_valid_from, cost_micro, cost_units, usage_month, billing_month)
           select * from unnest($1::bytea[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::smallint[], $9::timestamptz[],
                $10::text[], $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::bigint[], $15::text[], $16::date[], $17::bigint[],
                $18::bigint[], $19::date[], $20::date[])
           on conflict (wamid_hash) do update set state = excluded.state, category = excluded.category, pricing_type = excluded.pricing_type,
                pricing_rank = excluded.pricing_rank, pricing_at = excluded.pricing_at, country = excluded.country, sent_at = excluded.sent_at,
                failed_at = excluded.failed_at, happened_at = excluded.happened_at, price_units = excluded.price_units, market = excluded.market,
                rate_valid_from = excluded.rate_valid_from, cost_micro = excluded.cost_micro, cost_units = excluded.cost_units,
                usage_month = excluded.usage_month, billing_month = excluded.billing_month"#,
        &charges.iter().map(|c| c.wamid_hash.clone()).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.tenant_id.0).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.line_id.0).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.message_id.0).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.state.clone()).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.category.clone()).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.pricing_type.clone()).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.pricing_rank).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.pricing_at).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.country.clone()).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.sent_at).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.failed_at).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.happened_at).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.price_units).collect::<Vec<_>>(),
        &charges.iter().map(|c| c.market.clone()).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.rate_valid_from).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.cost_micro).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.cost_units).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.usage_month).collect::<Vec<_>>() as _,
        &charges.iter().map(|c| c.billing_month).collect::<Vec<_>>() as _
    )
    .execute(tx)
    .await
    .map(drop)
}
