//! Tables `invoice`, `invoice_series`, `invoice_head`, `billing_period`, `adjustment`: the month on paper, for ever.
//!
//! A month is frozen, added up, numbered and chained in one transaction for any number of tenants, so there is never a gap, a
//! second invoice, or half a month. spec.md 4 "Money, settled".

use crate::{
    charges::zone,
    ledger::{self, Account, Currency, Entry},
    tenants::{self, Tenant},
};
use chrono::{DateTime, Datelike, Duration, NaiveDate, Utc};
use chrono_tz::Tz;
use domain::{
    InvoiceId, TenantId,
    billing::{
        BillingError, InvoiceNumber, Line, LineKind, Period, Series, Totals, Usage, credit_amount, credit_lines, lines, pro_rata,
    },
    hash_chain::{self, Hash, NotCanonical},
    money::{MoneyError, Units, line_amount},
    rates::Category,
    seller::{Buyer, Seller},
};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgExecutor};
use std::collections::HashMap;
use uuid::Uuid;

/// An invoice is due so many days after its issue.
pub const PAYMENT_DAYS: i64 = 30;
/// TVA as printed, in percent.
pub const VAT_RATE: &str = "20.00";
const CURRENCY: &str = "MAD";
/// The calendar of the series' years: the seller's.
const SELLER_ZONE: Tz = chrono_tz::Africa::Casablanca;
/// Documents read at once while the chain is walked.
const WALK: i64 = 500;

/// A document that was numbered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Issued {
    pub tenant: TenantId,
    pub invoice: InvoiceId,
    pub number: String,
}

/// An invoice or credit note as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Invoice {
    pub invoice_id: InvoiceId,
    /// `invoice` or `credit_note`.
    pub kind: String,
    pub tenant_id: TenantId,
    /// First day of the month that was served.
    pub month: NaiveDate,
    /// `final`, `sent`, `paid` or `overdue`.
    pub status: String,
    /// Of a credit note: the invoice that it takes back from.
    pub corrects: Option<InvoiceId>,
    pub reason: Option<String>,
    pub number: String,
    pub issued_at: DateTime<Utc>,
    pub due_at: Option<DateTime<Utc>>,
    pub sent_at: Option<DateTime<Utc>>,
    pub paid_at: Option<DateTime<Utc>>,
    pub net_units: i64,
    pub vat_units: i64,
    pub total_units: i64,
    /// What is hashed: `{"number","kind","place","tenant_id","period","issued_at","due_at","seller","buyer","lines","net",
    /// "vat_rate","vat","total","currency","corrects"?,"reason"?}`.
    pub body: Value,
    /// SHA-256 in hex.
    pub hash: String,
    pub previous_hash: Option<String>,
}

impl Invoice {
    pub fn totals(&self) -> Totals {
        Totals { net: Units(self.net_units), vat: Units(self.vat_units), total: Units(self.total_units) }
    }

    /// The lines as they were hashed.
    pub fn lines(&self) -> sqlx::Result<Vec<Line>> {
        serde_json::from_value(self.body["lines"].clone()).map_err(|error| sqlx::Error::Decode(error.into()))
    }
}

/// Why a document was not made; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("there is no such invoice")]
    Unknown,
    #[error("a credit note is not credited or paid")]
    NotAnInvoice,
    #[error(transparent)]
    Billing(#[from] BillingError),
    #[error("a credit note has lines")]
    NoLines,
    #[error("the payment is above what is left to pay ({left} MAD)")]
    TooMuch { left: Units },
    #[error("this reference was recorded with another amount")]
    OtherPayment,
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Closes a month for these tenants: freezes it, and issues at most one invoice each. Who is closed already is left alone.
/// The caller's transaction is the month: it commits whole or not at all.
pub async fn close(
    tx: &mut PgConnection,
    month: Period,
    tenants: &[TenantId],
    seller: &Seller,
    now: DateTime<Utc>,
) -> Result<Vec<Issued>, Refused> {
    let mut tenants = tenants.to_vec();
    tenants.sort_unstable();
    tenants.dedup();
    ledger::lock(tx, &tenants).await?;
    let fresh = freeze(tx, month, &tenants, now).await?;
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = fresh.iter().map(|tenant| tenant.0).collect();
    let mut usage = usage(tx, month, &ids).await?;
    let numbers = live_lines(tx, &ids).await?;
    let mut drafts = Vec::new();
    let mut taken = Vec::new();
    for tenant in tenants::of_ids(tx, &ids).await? {
        let mut parts = usage.remove(&tenant.id).unwrap_or_default();
        let exact = parts.iter().try_fold(Units::ZERO, |sum, part| sum.plus(part.unit_price.times(part.quantity)?));
        let exact = exact.map_err(BillingError::from)?;
        parts.extend(fees(&tenant, numbers.get(&tenant.id).map_or(&[], Vec::as_slice), month).map_err(BillingError::from)?);
        drafts.push((tenant, lines(parts).map_err(BillingError::from)?, exact));
    }
    let mut adjustments = adjustments(tx, &ids).await?;
    let mut documents = Vec::new();
    for (tenant, mut lines, exact) in drafts {
        let waiting = adjustments.remove(&tenant.id).unwrap_or_default();
        let mut net = Units::sum(lines.iter().map(|line| line.amount)).map_err(BillingError::from)?;
        for (id, line) in waiting {
            // What would turn the invoice into a debt of ours waits for the next one.
            let with = net.plus(line.amount).map_err(BillingError::from)?;
            if with >= Units::ZERO {
                net = with;
                taken.push(id);
                lines.push(line);
            }
        }
        if lines.is_empty() {
            continue;
        }
        let totals = Totals::of(&lines).map_err(BillingError::from)?;
        documents.push(Document {
            series: Series::Invoice,
            tenant: tenant.id,
            month,
            totals,
            due_at: Some(now + Duration::days(PAYMENT_DAYS)),
            corrects: None,
            head: json!({ "seller": seller, "buyer": Buyer { name: tenant.name.clone(), legal: tenant.legal.clone() } }),
            lines,
            exact,
        });
    }
    take_adjustments(tx, month, &taken).await?;
    let issued = issue(tx, documents, now).await?;
    Ok(issued)
}

/// Takes back a part of an invoice, or all of it: an amount with TVA, or lines.
pub enum Credit {
    Amount(Units),
    Lines(Vec<Line>),
}

/// A numbered credit note on `number`; never above what is left of it.
pub async fn credit(
    tx: &mut PgConnection,
    tenant: TenantId,
    number: &str,
    credit: Credit,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Issued, Refused> {
    ledger::lock(tx, &[tenant]).await?;
    let invoice = get(&mut *tx, Some(tenant), number).await?.ok_or(Refused::Unknown)?;
    if invoice.kind != "invoice" {
        return Err(Refused::NotAnInvoice);
    }
    let left = left_to_credit(&mut *tx, &invoice).await?;
    let (totals, lines) = match credit {
        Credit::Amount(amount) => {
            let totals = credit_amount(left, amount)?;
            let line = Line {
                kind: LineKind::Adjustment,
                category: None,
                usage_month: None,
                description: reason.to_owned(),
                quantity: 1,
                unit_price: totals.net,
                amount: totals.net,
            };
            (totals, vec![line])
        }
        Credit::Lines(lines) if lines.is_empty() => return Err(Refused::NoLines),
        Credit::Lines(mut lines) => {
            for line in &mut lines {
                line.amount = line_amount(line.quantity, line.unit_price).map_err(BillingError::from)?;
                if line.amount <= Units::ZERO {
                    return Err(BillingError::CreditNotPositive.into());
                }
            }
            (credit_lines(left, &lines)?, lines)
        }
    };
    let month = Period::of_day(invoice.month);
    let head = json!({ "seller": invoice.body["seller"], "buyer": invoice.body["buyer"], "corrects": invoice.number,
        "corrects_issued_at": invoice.body["issued_at"], "reason": reason });
    let document = Document {
        series: Series::CreditNote,
        tenant,
        month,
        totals,
        due_at: None,
        corrects: Some((invoice.invoice_id, reason.to_owned())),
        head,
        lines,
        exact: Units::ZERO,
    };
    let issued = issue(tx, vec![document], now).await?.pop().ok_or(sqlx::Error::RowNotFound)?;
    crate::payments::settle(tx, &invoice, now).await?;
    Ok(issued)
}

/// What of an invoice no credit note has taken back.
pub async fn left_to_credit(db: impl PgExecutor<'_>, invoice: &Invoice) -> Result<Totals, Refused> {
    let taken = sqlx::query!(
        r#"select coalesce(sum(net_units), 0)::bigint as "net!", coalesce(sum(vat_units), 0)::bigint as "vat!",
                coalesce(sum(total_units), 0)::bigint as "total!" from invoice where corrects = $1"#,
        invoice.invoice_id.0
    )
    .fetch_one(db)
    .await?;
    let taken = Totals { net: Units(taken.net), vat: Units(taken.vat), total: Units(taken.total) };
    Ok(invoice.totals().minus(taken).map_err(BillingError::from)?)
}

/// A document before it has its number.
struct Document {
    series: Series,
    tenant: TenantId,
    month: Period,
    totals: Totals,
    due_at: Option<DateTime<Utc>>,
    corrects: Option<(InvoiceId, String)>,
    /// The rest of its body.
    head: Value,
    lines: Vec<Line>,
    /// What its messages came to before their lines were rounded.
    exact: Units,
}

fn kind(series: Series) -> &'static str {
    match series {
        Series::Invoice => "invoice",
        Series::CreditNote => "credit_note",
    }
}

/// Numbers, chains and books them. Whoever issues anything waits for this transaction to end: that is why there are no
/// gaps, and why it is kept short.
async fn issue(tx: &mut PgConnection, documents: Vec<Document>, now: DateTime<Utc>) -> Result<Vec<Issued>, Refused> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = documents.iter().map(|_| Uuid::now_v7()).collect();
    let head = sqlx::query!("select seq, hash from invoice_head for update").fetch_one(&mut *tx).await?;
    let (mut place, mut previous) = (head.seq, head.hash.as_deref().map(ledger::to_hash).transpose()?);
    let year = now.with_timezone(&SELLER_ZONE).year();
    let mut last: HashMap<Series, i64> = HashMap::new();
    let (mut numbers, mut places, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    let (mut hashes, mut previouses): (Vec<Vec<u8>>, Vec<Option<Vec<u8>>>) = Default::default();
    for document in &documents {
        let sequence = match last.get(&document.series) {
            Some(last) => last + 1,
            None => series(tx, document.series, year).await? + 1,
        };
        last.insert(document.series, sequence);
        place += 1;
        let number = InvoiceNumber { series: document.series, year, sequence }.to_string();
        let body = body(document, &number, place, now);
        let hash = hash_chain::link_record(previous, &body).map_err(|error: NotCanonical| sqlx::Error::Encode(error.into()))?;
        previouses.push(previous.map(|hash| hash.to_vec()));
        previous = Some(hash);
        hashes.push(hash.to_vec());
        numbers.push(number);
        places.push(place);
        bodies.push(body);
    }
    sqlx::query!(
        "insert into invoice (status, issued_at, invoice_id, kind, tenant_id, month, corrects, reason, number, due_at, net_units, vat_units, total_units,
            seq, body, hash, previous_hash)
         select 'final', $1, * from unnest($2::uuid[], $3::text[], $4::uuid[], $5::date[], $6::uuid[], $7::text[], $8::text[], $9::timestamptz[],
            $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::jsonb[], $15::bytea[], $16::bytea[])",
        now,
        &ids,
        &documents.iter().map(|d| kind(d.series).to_owned()).collect::<Vec<_>>(),
        &documents.iter().map(|d| d.tenant.0).collect::<Vec<_>>(),
        &documents.iter().map(|d| d.month.first_day()).collect::<Vec<_>>(),
        &documents.iter().map(|d| d.corrects.as_ref().map(|(invoice, _)| invoice.0)).collect::<Vec<_>>() as _,
        &documents.iter().map(|d| d.corrects.as_ref().map(|(_, reason)| reason.clone())).collect::<Vec<_>>() as _,
        &numbers,
        &documents.iter().map(|d| d.due_at).collect::<Vec<_>>() as _,
        &documents.iter().map(|d| d.totals.net.0).collect::<Vec<_>>(),
        &documents.iter().map(|d| d.totals.vat.0).collect::<Vec<_>>(),
        &documents.iter().map(|d| d.totals.total.0).collect::<Vec<_>>(),
        &places,
        &bodies,
        &hashes,
        &previouses as _
    )
    .execute(&mut *tx)
    .await?;
    for (series, sequence) in last {
        sqlx::query!("update invoice_series set last = $3 where kind = $1 and year = $2", kind(series), year, sequence)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query!("update invoice_head set seq = $1, hash = $2", place, previous.map(|hash| hash.to_vec()))
        .execute(&mut *tx)
        .await?;
    let entries = documents.iter().zip(&numbers).map(|(document, number)| entry(document, number)).collect::<Result<Vec<_>, _>>();
    ledger::append(tx, &entries.map_err(BillingError::from)?).await?;
    let issued = documents.iter().zip(ids).zip(numbers);
    Ok(issued.map(|((document, id), number)| Issued { tenant: document.tenant, invoice: id.into(), number }).collect())
}

/// The last number given out; the row stays locked.
async fn series(tx: &mut PgConnection, series: Series, year: i32) -> sqlx::Result<i64> {
    sqlx::query!("insert into invoice_series (kind, year) values ($1, $2) on conflict do nothing", kind(series), year)
        .execute(&mut *tx)
        .await?;
    sqlx::query_scalar!("select last from invoice_series where kind = $1 and year = $2 for update", kind(series), year)
        .fetch_one(tx)
        .await
}

fn body(document: &Document, number: &str, place: i64, now: DateTime<Utc>) -> Value {
    let mut body = json!({
        "number": number, "kind": kind(document.series), "place": place, "tenant_id": document.tenant.0, "period": document.month,
        "issued_at": now.to_rfc3339(), "due_at": document.due_at.map(|due| due.to_rfc3339()), "lines": document.lines,
        "net": document.totals.net, "vat_rate": VAT_RATE, "vat": document.totals.vat, "total": document.totals.total,
        "currency": CURRENCY,
    });
    if let (Some(body), Some(head)) = (body.as_object_mut(), document.head.as_object()) {
        body.extend(head.clone());
    }
    body
}

fn entry(document: &Document, number: &str) -> Result<Entry, MoneyError> {
    let Totals { net, vat, .. } = document.totals;
    let entry = Entry::new(document.tenant, kind(document.series), json!({ "number": number }));
    Ok(match document.series {
        Series::Invoice => {
            let fees = document.lines.iter().filter(|line| !matches!(line.kind, LineKind::Messages | LineKind::Late));
            let fees = Units::sum(fees.map(|line| line.amount))?;
            let rounding = net.minus(fees)?.minus(document.exact)?;
            entry
                .transfer(Account::Receivable, Account::Unbilled, Currency::Mad, document.exact.0)
                .transfer(Account::Receivable, Account::FeeRevenue, Currency::Mad, fees.0)
                .transfer(Account::Receivable, Account::Rounding, Currency::Mad, rounding.0)
                .transfer(Account::Receivable, Account::Vat, Currency::Mad, vat.0)
        }
        Series::CreditNote => entry.transfer(Account::FeeRevenue, Account::Receivable, Currency::Mad, net.0).transfer(
            Account::Vat,
            Account::Receivable,
            Currency::Mad,
            vat.0,
        ),
    })
}

/// Which of them were open: from now on what happens in the month is late.
async fn freeze(tx: &mut PgConnection, month: Period, tenants: &[TenantId], now: DateTime<Utc>) -> sqlx::Result<Vec<TenantId>> {
    sqlx::query_scalar!(
        r#"insert into billing_period (tenant_id, month, frozen_at) select id, $2, $3 from unnest($1::uuid[]) as u(id) join tenant on tenant_id = id
           on conflict do nothing returning tenant_id as "tenant_id: TenantId""#,
        &tenants.iter().map(|tenant| tenant.0).collect::<Vec<_>>(),
        month.first_day(),
        now
    )
    .fetch_all(tx)
    .await
}

/// Adds up the month's charges in one scan of their index, whatever the number of tenants. Others that lie between these are
/// added up, too: a range can be scanned by several processes, a list of ids cannot.
async fn usage(tx: &mut PgConnection, month: Period, tenants: &[Uuid]) -> sqlx::Result<HashMap<TenantId, Vec<Usage>>> {
    let groups = sqlx::query!(
        r#"select tenant_id as "tenant_id: TenantId", usage_month as "usage_month!", category, price_units, count(*) as "quantity!"
           from charge where billing_month = $1 and state = 'final' and tenant_id between $2 and $3 group by 1, 2, 3, 4"#,
        month.first_day(),
        tenants.iter().min(),
        tenants.iter().max()
    )
    .fetch_all(tx)
    .await?;
    let mut usage: HashMap<TenantId, Vec<Usage>> = HashMap::new();
    for group in groups {
        let used = Period::of_day(group.usage_month);
        let late = used != month;
        usage.entry(group.tenant_id).or_default().push(Usage {
            kind: if late { LineKind::Late } else { LineKind::Messages },
            category: Category::read(&group.category),
            usage_month: late.then_some(used),
            unit_price: Units(group.price_units),
            quantity: group.quantity,
        });
    }
    Ok(usage)
}

/// From when to when a number was live; both days in UTC instants.
struct Live {
    from: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
}

async fn live_lines(tx: &mut PgConnection, tenants: &[Uuid]) -> sqlx::Result<HashMap<TenantId, Vec<Live>>> {
    let rows = sqlx::query!(
        r#"select tenant_id as "tenant_id: TenantId", live_at as "live_at!", ended_at from line
           where tenant_id = any($1) and live_at is not null order by live_at, line_id"#,
        tenants
    )
    .fetch_all(tx)
    .await?;
    let mut lines: HashMap<TenantId, Vec<Live>> = HashMap::new();
    for row in rows {
        lines.entry(row.tenant_id).or_default().push(Live { from: row.live_at, until: row.ended_at });
    }
    Ok(lines)
}

/// Base fee from the first live day on, and each number's rent while it lives; days of the tenant's time zone. A cancelled
/// tenant pays until its last line ended.
fn fees(tenant: &Tenant, lines: &[Live], month: Period) -> Result<Vec<Usage>, MoneyError> {
    let day = |at: DateTime<Utc>| at.with_timezone(&zone(tenant)).date_naive();
    let Some(first) = lines.first().map(|line| day(line.from)) else { return Ok(Vec::new()) };
    let ends: Vec<Option<NaiveDate>> = lines.iter().map(|line| line.until.map(day)).collect();
    let over = tenant.status == "cancelled" && ends.iter().all(Option::is_some);
    let last = if over { ends.iter().flatten().max().copied() } else { None };
    let mut fees = Vec::new();
    for (from, until, fee) in spans(tenant, month, |price| price.base_fee_units) {
        let until = last.map_or(until, |last| last.min(until));
        fees.extend(fee_line(LineKind::BaseFee, pro_rata(fee, month, first.max(from), Some(until))?));
    }
    if tenant.billing_mode == "platform" {
        for (line, end) in lines.iter().zip(ends) {
            for (from, until, rent) in spans(tenant, month, |price| price.number_rent_units) {
                let until = end.map_or(until, |end| end.min(until));
                fees.extend(fee_line(LineKind::NumberRent, pro_rata(rent, month, day(line.from).max(from), Some(until))?));
            }
        }
    }
    Ok(fees)
}

fn fee_line(kind: LineKind, amount: Units) -> Option<Usage> {
    (amount > Units::ZERO).then_some(Usage { kind, category: None, usage_month: None, unit_price: amount, quantity: 1 })
}

/// The days of the month on which a monthly price was the same, with that price.
fn spans(tenant: &Tenant, month: Period, price: impl Fn(&tenants::PlanPrice) -> i64) -> Vec<(NaiveDate, NaiveDate, Units)> {
    let mut spans: Vec<(NaiveDate, NaiveDate, Units)> = Vec::new();
    for day in month.first_day().iter_days().take_while(|day| *day <= month.last_day()) {
        let units = Units(tenant.price_on(day).map_or(0, &price));
        match spans.last_mut() {
            Some((_, until, same)) if *same == units => *until = day,
            _ => spans.push((day, day, units)),
        }
    }
    spans
}

async fn adjustments(tx: &mut PgConnection, tenants: &[Uuid]) -> sqlx::Result<HashMap<TenantId, Vec<(Uuid, Line)>>> {
    let rows = sqlx::query!(
        r#"select adjustment_id, tenant_id as "tenant_id: TenantId", amount_units, description from adjustment
           where billing_month is null and tenant_id = any($1) order by created_at, adjustment_id for update"#,
        tenants
    )
    .fetch_all(tx)
    .await?;
    let mut waiting: HashMap<TenantId, Vec<(Uuid, Line)>> = HashMap::new();
    for row in rows {
        let line = Line {
            kind: LineKind::Adjustment,
            category: None,
            usage_month: None,
            description: row.description,
            quantity: 1,
            unit_price: Units(row.amount_units),
            amount: Units(row.amount_units),
        };
        waiting.entry(row.tenant_id).or_default().push((row.adjustment_id, line));
    }
    Ok(waiting)
}

async fn take_adjustments(tx: &mut PgConnection, month: Period, ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!("update adjustment set billing_month = $1 where adjustment_id = any($2)", month.first_day(), ids)
        .execute(tx)
        .await
        .map(drop)
}

/// Puts an amount (net, whole centimes, not zero) on the tenant's next invoice.
pub async fn adjust(db: impl PgExecutor<'_>, tenant: TenantId, amount: Units, description: &str) -> sqlx::Result<Uuid> {
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into adjustment (adjustment_id, tenant_id, amount_units, description) values ($1, $2, $3, $4)",
        id,
        tenant.0,
        amount.0,
        description
    )
    .execute(db)
    .await
    .map(|_| id)
}

macro_rules! select_invoice {
    ($rest:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Invoice,
            r#"select invoice_id as "invoice_id: InvoiceId", kind, tenant_id as "tenant_id: TenantId", month, status, corrects as "corrects: InvoiceId", reason,
                number as "number!", issued_at as "issued_at!", due_at, sent_at, paid_at, net_units, vat_units, total_units, body as "body!",
                encode(hash, 'hex') as "hash!", encode(previous_hash, 'hex') as previous_hash
               from invoice "# + $rest
            $(, $value)*
        )
    };
}

/// An issued document by its number.
pub async fn get(db: impl PgExecutor<'_>, tenant: Option<TenantId>, number: &str) -> sqlx::Result<Option<Invoice>> {
    select_invoice!("where number = $1 and ($2::uuid is null or tenant_id = $2)", number, tenant.map(|tenant| tenant.0))
        .fetch_optional(db)
        .await
}

/// A tenant's invoice of a month.
pub async fn of_month(db: impl PgExecutor<'_>, tenant: TenantId, month: Period) -> sqlx::Result<Option<Invoice>> {
    select_invoice!(
        "where kind = 'invoice' and number is not null and tenant_id = $1 and month = $2",
        tenant.0,
        month.first_day()
    )
    .fetch_optional(db)
    .await
}

pub async fn by_id(db: impl PgExecutor<'_>, id: InvoiceId) -> sqlx::Result<Option<Invoice>> {
    select_invoice!("where invoice_id = $1 and number is not null", id.0).fetch_optional(db).await
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tenant: Option<TenantId>,
    pub month: Option<Period>,
    pub status: Option<String>,
    /// Below this place in the chain.
    pub before: Option<i64>,
    pub limit: i64,
}

/// Issued documents, the youngest first.
pub async fn list(db: impl PgExecutor<'_>, filter: &Filter) -> sqlx::Result<Vec<Invoice>> {
    select_invoice!(
        "where number is not null and ($1::uuid is null or tenant_id = $1) and ($2::date is null or month = $2) and ($3::text is null or status = $3)
            and ($4::bigint is null or seq < $4) order by seq desc limit $5",
        filter.tenant.map(|tenant| tenant.0),
        filter.month.map(Period::first_day),
        filter.status,
        filter.before,
        filter.limit
    )
    .fetch_all(db)
    .await
}

/// The credit notes on an invoice, in the order of issue.
pub async fn credit_notes(db: impl PgExecutor<'_>, invoices: &[Uuid]) -> sqlx::Result<Vec<Invoice>> {
    select_invoice!("where corrects = any($1) and number is not null order by seq", invoices).fetch_all(db).await
}

/// Guarded moves of what may change; `false`: it was further already.
pub async fn sent(db: impl PgExecutor<'_>, id: InvoiceId, now: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query!("update invoice set status = 'sent', sent_at = $2 where invoice_id = $1 and status = 'final'", id.0, now)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

pub async fn overdue(db: impl PgExecutor<'_>, id: InvoiceId) -> sqlx::Result<bool> {
    sqlx::query!("update invoice set status = 'overdue' where invoice_id = $1 and status in ('final', 'sent')", id.0)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

pub async fn paid(db: impl PgExecutor<'_>, id: InvoiceId, at: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query!("update invoice set status = 'paid', paid_at = $2 where invoice_id = $1 and status <> 'paid'", id.0, at)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// A tenant whose month is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    pub id: TenantId,
    pub zone: Tz,
    pub created_at: DateTime<Utc>,
}

/// Everybody whose month is not closed, also those who came after it.
pub async fn open(db: impl PgExecutor<'_>, month: Period) -> sqlx::Result<Vec<Open>> {
    let rows = sqlx::query!(
        r#"select tenant_id as "tenant_id: TenantId", time_zone, created_at from tenant t
           where not exists (select from billing_period p where p.tenant_id = t.tenant_id and p.month = $1) order by tenant_id"#,
        month.first_day()
    )
    .fetch_all(db)
    .await?;
    let open = rows.into_iter().map(|row| Open {
        id: row.tenant_id,
        zone: row.time_zone.parse().unwrap_or(SELLER_ZONE),
        created_at: row.created_at,
    });
    Ok(open.collect())
}

/// What a check of all documents found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Walk {
    Whole {
        links: usize,
        /// SHA-256 in hex.
        last: Option<String>,
    },
    /// The first document that is missing or changed, or whose number leaves a gap.
    Broken { place: i64, number: Option<String> },
}

/// Walks every document in the order of issue: its hash, its columns against what was hashed, its sum, its number.
pub async fn verify(db: &mut PgConnection) -> sqlx::Result<Walk> {
    let head = sqlx::query!("select seq, hash from invoice_head").fetch_one(&mut *db).await?;
    let (mut place, mut previous): (i64, Option<Hash>) = (0, None);
    let mut last: HashMap<(Series, i32), i64> = HashMap::new();
    loop {
        let rows = sqlx::query!(
            r#"select i.seq as "seq!", i.number as "number!", i.kind, i.tenant_id, i.body as "body!", i.hash as "hash!", i.previous_hash,
                i.net_units, i.vat_units, i.total_units, i.month
               from invoice i where i.seq > $1 order by i.seq limit $2"#,
            place,
            WALK
        )
        .fetch_all(&mut *db)
        .await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let hash = hash_chain::link_record(previous, &row.body).ok();
            let number: Option<InvoiceNumber> = row.number.parse().ok();
            let follows = number.is_some_and(|number| {
                let expected = last.entry((number.series, number.year)).or_default();
                *expected += 1;
                number.sequence == *expected && kind(number.series) == row.kind
            });
            let body = &row.body;
            let lines: Vec<Line> = serde_json::from_value(body["lines"].clone()).unwrap_or_default();
            let sum = Units::sum(lines.iter().map(|line| line.amount));
            let says = body["number"] == row.number
                && body["kind"] == row.kind
                && body["place"] == row.seq
                && body["tenant_id"] == json!(row.tenant_id)
                && body["period"] == json!(Period::of_day(row.month))
                && body["net"] == json!(Units(row.net_units))
                && body["vat"] == json!(Units(row.vat_units))
                && body["total"] == json!(Units(row.total_units))
                && sum == Ok(Units(row.net_units));
            let chained = hash.as_ref().map(|hash| hash.as_slice()) == Some(&row.hash)
                && previous.as_ref().map(|hash| hash.as_slice()) == row.previous_hash.as_deref();
            if row.seq != place + 1 || !follows || !says || !chained {
                let number = (row.seq == place + 1).then_some(row.number);
                return Ok(Walk::Broken { place: place + 1, number });
            }
            (place, previous) = (row.seq, hash);
        }
    }
    if place != head.seq || previous.as_ref().map(|hash| hash.as_slice()) != head.hash.as_deref() {
        return Ok(Walk::Broken { place: place.min(head.seq) + 1, number: None });
    }
    Ok(Walk::Whole { links: usize::try_from(place).unwrap_or_default(), last: previous.map(hex::encode) })
}
