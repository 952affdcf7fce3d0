//! `/v1/tenants`: the client companies, what each pays and may spend.

use crate::{
    App,
    ask::{Body, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, NaiveDate, SubsecRound as _, Utc};
use domain::{Language, TenantId, billing::Period, legal::Legal, money::Units, profile::is_email};
use serde::{Deserialize, Serialize};
use store::{
    keys::Role,
    tenants::{self, Contact, PlanPrice, Tenant},
};
use utoipa::ToSchema;
use uuid::Uuid;

/// Longest name, in characters.
const NAME_MAX_CHARS: usize = 200;
/// Largest amount: a thousand million dirhams.
const AMOUNT_MAX: Units = Units(1_000_000_000 * domain::money::UNITS_PER_DIRHAM);
const TIME_ZONE: &str = "Africa/Casablanca";
/// How long words of messages are kept unless a company says otherwise, and the longest it may say.
const RETENTION_MONTHS: i32 = 24;
const RETENTION_MAX_MONTHS: i32 = 120;

/// ICE (15 digits), IF, RC, TP and address. A line needs all but TP.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Legal)]
struct LegalView {
    #[schema(example = "001234567000089")]
    ice: Option<String>,
    r#if: Option<String>,
    rc: Option<String>,
    tp: Option<String>,
    address: Option<String>,
}

/// Who speaks for the company.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct ContactView {
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PlanName {
    Basic,
    Pro,
    Enterprise,
}

impl PlanName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BillingMode {
    /// Meta bills us; messages and base fee are invoiced.
    Platform,
    /// The tenant pays Meta itself; the base fee alone is invoiced.
    Direct,
}

impl BillingMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Direct => "direct",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TenantStatus {
    Active,
    Suspended,
    Cancelled,
}

impl TenantStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Prices in MAD, up to four places.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewPlan {
    name: Option<PlanName>,
    /// A month.
    #[schema(value_type = String, example = "200.00")]
    base_fee: Units,
    /// A delivered message.
    #[schema(value_type = String, example = "0.10")]
    price_per_message: Units,
    /// A month's rent of a number; none unless said.
    #[schema(value_type = Option<String>)]
    number_rent: Option<Units>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewTenant {
    #[schema(example = "Atlas Recrutement")]
    name: String,
    #[serde(default)]
    #[schema(value_type = LegalView)]
    legal: Legal,
    #[serde(default)]
    contact: ContactView,
    billing_email: Option<String>,
    billing_mode: Option<BillingMode>,
    plan: NewPlan,
    /// Net MAD a month.
    #[schema(value_type = String, example = "1000.00")]
    credit_limit: Units,
    /// `fr` (default), `ar` or `en`
    language: Option<String>,
    /// IANA name; `Africa/Casablanca` unless said.
    time_zone: Option<String>,
    /// Words and files of messages are erased after so many months: 1 to 120, 24 unless said.
    retention_months: Option<i32>,
}

/// Prices from a day on; what is missing stays as it is on that day.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct PlanChange {
    name: Option<PlanName>,
    #[schema(value_type = Option<String>)]
    base_fee: Option<Units>,
    #[schema(value_type = Option<String>)]
    price_per_message: Option<Units>,
    #[schema(value_type = Option<String>)]
    number_rent: Option<Units>,
    /// A day of the tenant's time zone, today unless said; never in the past.
    valid_from: Option<NaiveDate>,
}

/// What is missing stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TenantChange {
    name: Option<String>,
    #[schema(value_type = Option<LegalView>)]
    legal: Option<Legal>,
    contact: Option<ContactView>,
    billing_email: Option<String>,
    billing_mode: Option<BillingMode>,
    plan: Option<PlanChange>,
    #[schema(value_type = Option<String>)]
    credit_limit: Option<Units>,
    status: Option<TenantStatus>,
    language: Option<String>,
    time_zone: Option<String>,
    retention_months: Option<i32>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub(crate) struct PlanView {
    name: String,
    #[schema(value_type = String)]
    base_fee: Units,
    #[schema(value_type = String)]
    price_per_message: Units,
    #[schema(value_type = String)]
    number_rent: Units,
    valid_from: NaiveDate,
}

impl From<&PlanPrice> for PlanView {
    fn from(price: &PlanPrice) -> Self {
        Self {
            name: price.plan.clone(),
            base_fee: Units(price.base_fee_units),
            price_per_message: Units(price.price_per_message_units),
            number_rent: Units(price.number_rent_units),
            valid_from: price.valid_from,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub(crate) struct TenantView {
    id: Uuid,
    name: String,
    #[schema(value_type = LegalView)]
    legal: Legal,
    contact: ContactView,
    billing_email: Option<String>,
    billing_mode: String,
    /// Today's.
    plan: Option<PlanView>,
    /// All prices, the oldest first.
    prices: Vec<PlanView>,
    #[schema(value_type = String)]
    credit_limit: Units,
    /// Of the month, where one company is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageView>,
    status: String,
    language: String,
    time_zone: String,
    retention_months: i32,
    created_at: DateTime<Utc>,
}

/// What of the month's credit is used, net MAD.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub(crate) struct UsageView {
    #[schema(value_type = String, example = "2026-10")]
    month: Period,
    /// Delivered.
    #[schema(value_type = String)]
    charged: Units,
    /// Accepted, not finished.
    #[schema(value_type = String)]
    reserved: Units,
    #[schema(value_type = String)]
    left: Units,
}

impl TenantView {
    async fn with_usage(db: &mut sqlx::PgConnection, tenant: Tenant, now: DateTime<Utc>) -> Result<Self, Problem> {
        let (id, limit) = (tenant.id, tenant.credit_limit_units);
        let month = Period::of(now, store::charges::zone(&tenant));
        let used = store::credit::usage(db, id, month).await?;
        let left = Units((limit - used.charged - used.reserved).max(0));
        let usage = UsageView { month, charged: Units(used.charged), reserved: Units(used.reserved), left };
        Ok(Self { usage: Some(usage), ..Self::new(tenant, now) })
    }

    fn new(tenant: Tenant, now: DateTime<Utc>) -> Self {
        let plan = tenant.price_on(day(now, &tenant.time_zone)).map(PlanView::from);
        let prices = tenant.prices.iter().map(PlanView::from).collect();
        let Contact { name, email, phone } = tenant.contact;
        Self {
            id: tenant.id.0,
            name: tenant.name,
            legal: tenant.legal,
            contact: ContactView { name, email, phone },
            billing_email: tenant.billing_email,
            billing_mode: tenant.billing_mode,
            plan,
            prices,
            credit_limit: Units(tenant.credit_limit_units),
            usage: None,
            status: tenant.status,
            language: tenant.language,
            time_zone: tenant.time_zone,
            retention_months: tenant.retention_months,
            created_at: tenant.created_at,
        }
    }
}

/// A new client company.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", request_body = NewTenant,
    params(("idempotency-key" = Option<String>, Header)), responses((status = 201, body = TenantView)))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Body { asked, value: new }: Body<NewTenant>,
) -> Result<Response, Problem> {
    // As precise as what is stored.
    let now = app.front.clock.now().trunc_subsecs(6);
    let time_zone = time_zone(new.time_zone.as_deref().unwrap_or(TIME_ZONE))?;
    let tenant = Tenant {
        id: TenantId(Uuid::now_v7()),
        name: name(new.name)?,
        legal: new.legal.validated()?,
        contact: contact(new.contact)?,
        billing_email: email(new.billing_email)?,
        billing_mode: new.billing_mode.unwrap_or(BillingMode::Platform).as_str().to_owned(),
        credit_limit_units: amount("credit_limit", new.credit_limit)?,
        status: TenantStatus::Active.as_str().to_owned(),
        language: new.language.as_deref().map_or(Ok(Language::French), Language::parse)?.as_str().to_owned(),
        prices: vec![PlanPrice {
            plan: new.plan.name.unwrap_or(PlanName::Basic).as_str().to_owned(),
            valid_from: day(now, &time_zone),
            base_fee_units: amount("plan.base_fee", new.plan.base_fee)?,
            price_per_message_units: amount("plan.price_per_message", new.plan.price_per_message)?,
            number_rent_units: amount("plan.number_rent", new.plan.number_rent.unwrap_or_default())?,
        }],
        time_zone,
        retention_months: new.retention_months.map_or(Ok(RETENTION_MONTHS), months)?,
        created_at: now,
    };
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    tenants::create(&mut once.tx, &tenant).await?;
    let location = format!("/v1/tenants/{}", tenant.id);
    let view = TenantView::with_usage(&mut once.tx, tenant, now).await?;
    once.answer(StatusCode::CREATED, Some(&location), &view).await
}

/// Client companies, the youngest first; a tenant's key sees its own.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", params(Paging), responses((status = 200, body = Page<TenantView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<TenantView>>, Problem> {
    let mut db = app.front.db.acquire().await?;
    let rows = tenants::list(&mut db, caller.tenant, paging.before()?, paging.ask()).await?;
    let now = app.front.clock.now();
    Ok(Json(paging.page(rows.into_iter().map(|tenant| TenantView::new(tenant, now)).collect(), |tenant| tenant.id)))
}

/// One client company.
#[utoipa::path(get, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = Uuid, Path)), responses((status = 200, body = TenantView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<TenantId>) -> Result<Json<TenantView>, Problem> {
    caller.must_see(id)?;
    let mut db = app.front.db.acquire().await?;
    let tenant = tenants::get(&mut db, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(TenantView::with_usage(&mut db, tenant, app.front.clock.now()).await?))
}

/// Changes a company: limit, plan from a day on, status and the rest. Of finance keys, the operator's alone.
#[utoipa::path(patch, path = "/v1/tenants/{id}", tag = "tenants", params(("id" = Uuid, Path)), request_body = TenantChange,
    responses((status = 200, body = TenantView)))]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TenantId>,
    Body { value: change, .. }: Body<TenantChange>,
) -> Result<Response, Problem> {
    caller.must_see(id)?;
    if caller.role == Role::Finance && caller.tenant.is_some() {
        return Err(Problem::new(Code::ROLE_NOT_ALLOWED, "A company does not change its own limit and prices"));
    }
    let now = app.front.clock.now();
    let mut tx = app.front.db.begin().await?;
    let mut tenant = tenants::lock(&mut tx, id).await?.ok_or_else(Problem::not_found)?;
    if let Some(new) = change.name {
        tenant.name = name(new)?;
    }
    if let Some(new) = change.legal {
        let new = new.validated()?;
        let old = std::mem::take(&mut tenant.legal);
        tenant.legal = Legal {
            ice: new.ice.or(old.ice),
            tax_id: new.tax_id.or(old.tax_id),
            rc: new.rc.or(old.rc),
            tp: new.tp.or(old.tp),
            address: new.address.or(old.address),
        };
    }
    if let Some(new) = change.contact {
        let new = contact(new)?;
        let old = std::mem::take(&mut tenant.contact);
        tenant.contact = Contact { name: new.name.or(old.name), email: new.email.or(old.email), phone: new.phone.or(old.phone) };
    }
    if let Some(new) = change.billing_email {
        tenant.billing_email = email(Some(new))?;
    }
    if let Some(new) = change.billing_mode {
        tenant.billing_mode = new.as_str().to_owned();
    }
    if let Some(new) = change.credit_limit {
        tenant.credit_limit_units = amount("credit_limit", new)?;
    }
    if let Some(new) = change.status {
        tenant.status = new.as_str().to_owned();
    }
    if let Some(new) = change.language {
        tenant.language = Language::parse(&new)?.as_str().to_owned();
    }
    if let Some(new) = change.time_zone {
        tenant.time_zone = time_zone(&new)?;
    }
    if let Some(new) = change.retention_months {
        tenant.retention_months = months(new)?;
    }
    tenants::update(&mut *tx, &tenant).await?;
    if let Some(plan) = change.plan {
        let price = changed_price(&tenant, plan, now)?;
        tenants::set_price(&mut *tx, id, &price).await?;
    }
    let tenant = tenants::get(&mut tx, id).await?.ok_or_else(Problem::not_found)?;
    let view = TenantView::with_usage(&mut tx, tenant, now).await?;
    tx.commit().await?;
    Ok(Json(view).into_response())
}

fn changed_price(tenant: &Tenant, change: PlanChange, now: DateTime<Utc>) -> Result<PlanPrice, Problem> {
    let today = day(now, &tenant.time_zone);
    let valid_from = change.valid_from.unwrap_or(today);
    if valid_from < today {
        return Err(Problem::new(Code::PRICE_IN_THE_PAST, format!("A price can change from {today} on")));
    }
    let mut price = tenant.price_on(valid_from).cloned().ok_or(Code::INTERNAL)?;
    price.valid_from = valid_from;
    if let Some(name) = change.name {
        price.plan = name.as_str().to_owned();
    }
    if let Some(new) = change.base_fee {
        price.base_fee_units = amount("plan.base_fee", new)?;
    }
    if let Some(new) = change.price_per_message {
        price.price_per_message_units = amount("plan.price_per_message", new)?;
    }
    if let Some(new) = change.number_rent {
        price.number_rent_units = amount("plan.number_rent", new)?;
    }
    Ok(price)
}

/// The day in a tenant's time zone; names were checked when they were stored.
fn day(now: DateTime<Utc>, time_zone: &str) -> NaiveDate {
    let zone = time_zone.parse().unwrap_or(chrono_tz::Africa::Casablanca);
    now.with_timezone(&zone).date_naive()
}

fn time_zone(name: &str) -> Result<String, Problem> {
    match name.parse::<chrono_tz::Tz>() {
        Ok(zone) => Ok(zone.name().to_owned()),
        Err(_) => Err(Code::INVALID_TIME_ZONE.into()),
    }
}

fn months(months: i32) -> Result<i32, Problem> {
    if (1..=RETENTION_MAX_MONTHS).contains(&months) {
        return Ok(months);
    }
    let detail = format!("Words of messages are kept 1 to {RETENTION_MAX_MONTHS} months");
    Err(Problem::new(Code::INVALID_RETENTION, detail).with("field", "retention_months"))
}

fn name(text: String) -> Result<String, Problem> {
    let name = text.trim();
    let good = (1..=NAME_MAX_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if good {
        Ok(name.to_owned())
    } else {
        Err(Problem::new(Code::INVALID_NAME, format!("A name has 1 to {NAME_MAX_CHARS} characters")).with("field", "name"))
    }
}

fn contact(contact: ContactView) -> Result<Contact, Problem> {
    let ContactView { name: who, email: address, phone } = contact;
    Ok(Contact {
        name: who.map(name).transpose()?,
        email: email(address)?,
        phone: phone.as_deref().map(domain::Phone::parse).transpose()?.map(|phone| phone.as_str().to_owned()),
    })
}

fn email(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if !is_email(&text) => Err(Code::INVALID_EMAIL.into()),
        text => Ok(text),
    }
}

fn amount(field: &'static str, amount: Units) -> Result<i64, Problem> {
    if (Units::ZERO..=AMOUNT_MAX).contains(&amount) {
        return Ok(amount.0);
    }
    Err(Problem::new(Code::INVALID_AMOUNT, format!("{field} is 0 to {AMOUNT_MAX} MAD")).with("field", field))
}
