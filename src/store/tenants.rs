//! Tables `tenant` and `plan_price`: the client companies and what each pays, dated.

use chrono::{DateTime, NaiveDate, Utc};
use domain::{TenantId, legal::Legal};
use sqlx::PgExecutor;
use std::collections::HashMap;
use uuid::Uuid;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contact {
    pub name: Option<String>,
    pub email: Option<String>,
    pub phone: Option<String>,
}

/// What a tenant pays from `valid_from` on. Units of 0.0001 MAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPrice {
    /// `basic`, `pro` or `enterprise`.
    pub plan: String,
    /// A day of the tenant's own time zone.
    pub valid_from: NaiveDate,
    pub base_fee_units: i64,
    pub price_per_message_units: i64,
    pub number_rent_units: i64,
}

#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub legal: Legal,
    pub contact: Contact,
    pub billing_email: Option<String>,
    /// `platform` or `direct`.
    pub billing_mode: String,
    pub credit_limit_units: i64,
    /// `active`, `suspended` or `cancelled`.
    pub status: String,
    pub language: String,
    /// IANA name.
    pub time_zone: String,
    /// How long words and files of messages are kept.
    pub retention_months: i32,
    pub created_at: DateTime<Utc>,
    /// All prices, the oldest first.
    pub prices: Vec<PlanPrice>,
}

impl Tenant {
    /// The price of a day: the youngest that is valid by then; before the first one, the first.
    pub fn price_on(&self, day: NaiveDate) -> Option<&PlanPrice> {
        self.prices.iter().rev().find(|price| price.valid_from <= day).or_else(|| self.prices.first())
    }
}

/// A statement that writes what can be changed: `$1` is the id, `$2` to `$17` the columns in the order of the table.
macro_rules! write_tenant {
    ($statement:literal, $tenant:ident $(, $more:expr)*) => {
        sqlx::query!(
            $statement,
            $tenant.id.0,
            $tenant.name,
            $tenant.legal.ice,
            $tenant.legal.tax_id,
            $tenant.legal.rc,
            $tenant.legal.tp,
            $tenant.legal.address,
            $tenant.contact.name,
            $tenant.contact.email,
            $tenant.contact.phone,
            $tenant.billing_email,
            $tenant.billing_mode,
            $tenant.credit_limit_units,
            $tenant.status,
            $tenant.language,
            $tenant.time_zone,
            $tenant.retention_months
            $(, $more)*
        )
    };
}

/// Writes a new tenant with its first price.
pub async fn create(tx: &mut sqlx::PgConnection, tenant: &Tenant) -> sqlx::Result<()> {
    write_tenant!(
        "insert into tenant (tenant_id, name, ice, fiscal_id, rc, tp, address, contact_name, contact_email, contact_phone, billing_email,
             billing_mode, credit_limit_units, status, language, time_zone, retention_months, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18)",
        tenant,
        tenant.created_at
    )
    .execute(&mut *tx)
    .await?;
    for price in &tenant.prices {
        set_price(&mut *tx, tenant.id, price).await?;
    }
    Ok(())
}

/// Everything but prices and id; `false` if there is no such tenant.
pub async fn update(tx: impl PgExecutor<'_>, tenant: &Tenant) -> sqlx::Result<bool> {
    write_tenant!(
        "update tenant set (name, ice, fiscal_id, rc, tp, address, contact_name, contact_email, contact_phone, billing_email, billing_mode,
             credit_limit_units, status, language, time_zone, retention_months, updated_at)
           = ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, durable.now())
         where tenant_id = $1",
        tenant
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// A price from a day on; a second one for the same day replaces the first. Whether the past may change is the caller's rule.
pub async fn set_price(tx: impl PgExecutor<'_>, tenant: TenantId, price: &PlanPrice) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into plan_price (tenant_id, valid_from, plan, base_fee_units, price_per_message_units, number_rent_units)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (tenant_id, valid_from) do update set plan = excluded.plan, base_fee_units = excluded.base_fee_units,
             price_per_message_units = excluded.price_per_message_units, number_rent_units = excluded.number_rent_units",
        tenant.0,
        price.valid_from,
        price.plan,
        price.base_fee_units,
        price.price_per_message_units,
        price.number_rent_units
    )
    .execute(tx)
    .await
    .map(drop)
}

struct Row {
    tenant_id: Uuid,
    name: String,
    ice: Option<String>,
    fiscal_id: Option<String>,
    rc: Option<String>,
    tp: Option<String>,
    address: Option<String>,
    contact_name: Option<String>,
    contact_email: Option<String>,
    contact_phone: Option<String>,
    billing_email: Option<String>,
    billing_mode: String,
    credit_limit_units: i64,
    status: String,
    language: String,
    time_zone: String,
    retention_months: i32,
    created_at: DateTime<Utc>,
}

impl From<Row> for Tenant {
    fn from(row: Row) -> Self {
        Self {
            id: row.tenant_id.into(),
            name: row.name,
            legal: Legal { ice: row.ice, tax_id: row.fiscal_id, rc: row.rc, tp: row.tp, address: row.address },
            contact: Contact { name: row.contact_name, email: row.contact_email, phone: row.contact_phone },
            billing_email: row.billing_email,
            billing_mode: row.billing_mode,
            credit_limit_units: row.credit_limit_units,
            status: row.status,
            language: row.language,
            time_zone: row.time_zone,
            retention_months: row.retention_months,
            created_at: row.created_at,
            prices: Vec::new(),
        }
    }
}

macro_rules! select_tenant {
    ($rest:literal, $($arg:expr),*) => {
        sqlx::query_as!(
            Row,
            "select tenant_id, name, ice, fiscal_id, rc, tp, address, contact_name, contact_email, contact_phone, billing_email, billing_mode,
                credit_limit_units, status, language, time_zone, retention_months, created_at
             from tenant " + $rest,
            $($arg),*
        )
    };
}

pub async fn get(db: &mut sqlx::PgConnection, id: TenantId) -> sqlx::Result<Option<Tenant>> {
    let row = select_tenant!("where tenant_id = $1", id.0).fetch_optional(&mut *db).await?;
    let Some(row) = row else { return Ok(None) };
    let mut one = [Tenant::from(row)];
    with_prices(db, &mut one).await?;
    let [tenant] = one;
    Ok(Some(tenant))
}

/// [`get`], and nobody else changes this tenant before the transaction ends.
pub async fn lock(tx: &mut sqlx::PgConnection, id: TenantId) -> sqlx::Result<Option<Tenant>> {
    sqlx::query!("select tenant_id from tenant where tenant_id = $1 for update", id.0).fetch_optional(&mut *tx).await?;
    get(tx, id).await
}

/// A page, the youngest first, below `before`. `only` is the tenant of a key that has one.
pub async fn list(
    db: &mut sqlx::PgConnection,
    only: Option<TenantId>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Tenant>> {
    let rows = select_tenant!(
        "where ($1::uuid is null or tenant_id = $1) and ($2::uuid is null or tenant_id < $2)
         order by tenant_id desc limit $3",
        only.map(|id| id.0),
        before,
        limit
    )
    .fetch_all(&mut *db)
    .await?;
    let mut tenants: Vec<_> = rows.into_iter().map(Tenant::from).collect();
    with_prices(db, &mut tenants).await?;
    Ok(tenants)
}

/// All of these, in the order of their ids.
pub async fn of_ids(db: &mut sqlx::PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<Tenant>> {
    let rows = select_tenant!("where tenant_id = any($1) order by tenant_id", ids).fetch_all(&mut *db).await?;
    let mut tenants: Vec<_> = rows.into_iter().map(Tenant::from).collect();
    with_prices(db, &mut tenants).await?;
    Ok(tenants)
}

async fn with_prices(db: &mut sqlx::PgConnection, tenants: &mut [Tenant]) -> sqlx::Result<()> {
    let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id.0).collect();
    let places: HashMap<Uuid, usize> = ids.iter().copied().zip(0..).collect();
    let rows = sqlx::query!(
        "select tenant_id, valid_from, plan, base_fee_units, price_per_message_units, number_rent_units
         from plan_price where tenant_id = any($1) order by valid_from",
        &ids
    )
    .fetch_all(db)
    .await?;
    for row in rows {
        if let Some(tenant) = places.get(&row.tenant_id).and_then(|place| tenants.get_mut(*place)) {
            tenant.prices.push(PlanPrice {
                plan: row.plan,
                valid_from: row.valid_from,
                base_fee_units: row.base_fee_units,
                price_per_message_units: row.price_per_message_units,
                number_rent_units: row.number_rent_units,
            });
        }
    }
    Ok(())
}

/// Names of tenants by id, for pages that show many of them.
pub async fn names(db: impl PgExecutor<'_>, ids: &[Uuid]) -> sqlx::Result<Vec<(Uuid, String)>> {
    sqlx::query!("select tenant_id, name from tenant where tenant_id = any($1)", ids)
        .fetch_all(db)
        .await
        .map(|rows| rows.into_iter().map(|row| (row.tenant_id, row.name)).collect())
}
