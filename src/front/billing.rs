//! `/v1/billing` and `/v1/invoices`: the month closed, shown, credited, paid, exported and compared.

use crate::{
    App,
    ask::{Asked, Body, Path, Query},
    caller::Caller,
    invoice_pdf,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
    runs::RunRef,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, NaiveDate, Utc};
use domain::{
    TenantId,
    billing::{BillingError, Line, LineKind, Period},
    money::{MicroUsd, Units},
    rates::Category,
};
use jobs::{
    Tools,
    reconcile::{Difference, reconcile},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::HashMap, fmt::Write as _};
use store::{
    invoices::{self, Credit, Filter, Invoice, Refused, VAT_RATE},
    payments, rates, reconciliation, tenants,
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use workflows::{CloseMonth, CloseNow, InvoicePaid};

/// Characters of a reason, a description or a reference.
const TEXT_MAX_CHARS: usize = 300;
/// Lines of a credit note.
const LINES_MAX: usize = 100;
/// Documents of one export, read a page at a time.
const EXPORT_PAGE: i64 = 500;
const CURRENCY: &str = "MAD";
/// Name of an invoice's document.
const PDF: &str = ".pdf";
const CSV_HEADER: &str =
    "number,kind,tenant_id,tenant_name,ice,period,issued_at,line_kind,category,quantity,unit_price,amount,net,vat,total\r\n";

/// An invoice or a credit note; it never changes, but for its status.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invoice)]
pub(crate) struct InvoiceView {
    number: String,
    /// `invoice` or `credit_note`
    kind: String,
    tenant_id: Uuid,
    #[schema(value_type = String, example = "2026-10")]
    period: Period,
    /// `final`, `sent`, `paid` or `overdue`
    status: String,
    issued_at: DateTime<Utc>,
    due_at: Option<DateTime<Utc>>,
    paid_at: Option<DateTime<Utc>>,
    /// `{"kind","category"?,"usage_month"?,"description","quantity","unit_price","amount"}`
    lines: Value,
    #[schema(value_type = String)]
    net: Units,
    vat_rate: &'static str,
    #[schema(value_type = String)]
    vat: Units,
    #[schema(value_type = String)]
    total: Units,
    currency: &'static str,
    /// SHA-256 in hex, over the hash before and the document.
    hash: String,
    previous_hash: Option<String>,
    /// Of a credit note: the invoice, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrects: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// `{"number","issued_at","net","vat","total","reason"}`
    credit_notes: Vec<Value>,
}

impl InvoiceView {
    fn new(invoice: &Invoice, notes: &[Invoice]) -> Self {
        let notes = notes.iter().filter(|note| note.corrects == Some(invoice.invoice_id));
        let note = |note: &Invoice| {
            json!({ "number": note.number, "issued_at": note.issued_at, "net": Units(note.net_units), "vat": Units(note.vat_units),
                "total": Units(note.total_units), "reason": note.reason })
        };
        Self {
            number: invoice.number.clone(),
            kind: invoice.kind.clone(),
            tenant_id: invoice.tenant_id.0,
            period: Period::of_day(invoice.month),
            status: invoice.status.clone(),
            issued_at: invoice.issued_at,
            due_at: invoice.due_at,
            paid_at: invoice.paid_at,
            lines: invoice.body["lines"].clone(),
            net: Units(invoice.net_units),
            vat_rate: VAT_RATE,
            vat: Units(invoice.vat_units),
            total: Units(invoice.total_units),
            currency: CURRENCY,
            hash: invoice.hash.clone(),
            previous_hash: invoice.previous_hash.clone(),
            corrects: invoice.body["corrects"].as_str().map(str::to_owned),
            reason: invoice.reason.clone(),
            credit_notes: notes.map(note).collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Closing {
    #[schema(value_type = String)]
    period: Period,
    run: RunRef,
}

/// Closes a month that has ended everywhere. Asked again, it is the same run.
#[utoipa::path(post, path = "/v1/billing/months/{month}/close", tag = "billing",
    params(("month" = String, Path, example = "2026-10"), ("idempotency-key" = Option<String>, Header)), responses((status = 202, body = Closing)))]
pub(crate) async fn close(
    State(app): State<App>,
    caller: Caller,
    Path(month): Path<String>,
    asked: Asked,
) -> Result<Response, Problem> {
    let month = operators_month(&caller, &month)?;
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let open = invoices::open(&mut *once.tx, month).await?;
    let ends = open.iter().filter(|tenant| tenant.created_at < month.end(tenant.zone)).map(|tenant| month.end(tenant.zone));
    let end = ends.chain([month.end(chrono_tz::Africa::Casablanca)]).max().unwrap_or(DateTime::<Utc>::MAX_UTC);
    if app.front.clock.now() < end {
        let detail = format!("{month} ends at {} for the last tenant", end.to_rfc3339());
        return Err(Problem::new(Code::MONTH_NOT_OVER, detail).with("ends_at", json!(end)));
    }
    let run = durable::start::<Tools, _>(&mut once.tx, &CloseMonth { month }).await?;
    if !open.is_empty() {
        // It may be waiting for 02:00.
        durable::signal(&mut once.tx, month, &CloseNow {}).await?;
    }
    once.answer(StatusCode::ACCEPTED, Some(&format!("/v1/runs/{run}")), &Closing { period: month, run: RunRef { id: run } }).await
}

/// Which documents to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    tenant_id: Option<Uuid>,
    /// `2026-10`
    period: Option<String>,
    /// `final`, `sent`, `paid` or `overdue`
    status: Option<String>,
}

/// Invoices and credit notes, the youngest first; a tenant's key sees its own.
#[utoipa::path(get, path = "/v1/invoices", tag = "billing", params(Wanted, Paging), responses((status = 200, body = Page<InvoiceView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<InvoiceView>>, Problem> {
    let asked = wanted.tenant_id.map(TenantId);
    if let Some(tenant) = asked {
        caller.must_see(tenant)?;
    }
    let filter = Filter {
        tenant: asked.or(caller.tenant),
        month: wanted.period.as_deref().map(period).transpose()?,
        status: wanted.status,
        before: paging.before()?.and_then(|cursor| i64::try_from(cursor.as_u128()).ok()),
        limit: paging.ask(),
    };
    let rows = invoices::list(&app.front.db, &filter).await?;
    let notes = notes_of(&app, &rows).await?;
    let places: HashMap<String, u128> =
        rows.iter().map(|row| (row.number.clone(), row.body["place"].as_u64().unwrap_or_default().into())).collect();
    let views = rows.iter().map(|row| InvoiceView::new(row, &notes)).collect();
    Ok(Json(paging.page(views, |view: &InvoiceView| Uuid::from_u128(places.get(&view.number).copied().unwrap_or_default()))))
}

async fn notes_of(app: &App, rows: &[Invoice]) -> Result<Vec<Invoice>, Problem> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.invoice_id.0).collect();
    Ok(invoices::credit_notes(&app.front.db, &ids).await?)
}

async fn one(app: &App, caller: &Caller, number: &str) -> Result<Invoice, Problem> {
    invoices::get(&app.front.db, caller.tenant, number).await?.ok_or_else(Problem::not_found)
}

/// One document by its number, as JSON; with `.pdf` after the number, as it is printed.
#[utoipa::path(get, path = "/v1/invoices/{number}", tag = "billing", params(("number" = String, Path, example = "F-2026-000001")),
    responses((status = 200, body = InvoiceView), (status = 200, content_type = "application/pdf")))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(number): Path<String>) -> Result<Response, Problem> {
    if let Some(number) = number.strip_suffix(PDF) {
        return printed(&app, one(&app, &caller, number).await?).await;
    }
    let invoice = one(&app, &caller, &number).await?;
    let notes = notes_of(&app, std::slice::from_ref(&invoice)).await?;
    Ok(Json(InvoiceView::new(&invoice, &notes)).into_response())
}

async fn printed(app: &App, invoice: Invoice) -> Result<Response, Problem> {
    let corrected = match invoice.corrects {
        Some(id) => invoices::by_id(&app.front.db, id).await?,
        None => None,
    };
    let disposition =
        HeaderValue::from_str(&format!("inline; filename=\"{}{PDF}\"", invoice.number)).map_err(|_| Code::INTERNAL)?;
    // Setting type takes milliseconds of pure work: not on a thread that answers others.
    let pages = tokio::task::spawn_blocking(move || invoice_pdf::pdf(&invoice, corrected.as_ref()));
    let pages = pages.await.map_err(|_| Problem::from(Code::INTERNAL))??;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/pdf")), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, pages).into_response())
}

/// An amount with TVA, or lines; and why.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewCredit {
    /// With TVA.
    #[schema(example = "24.00")]
    amount: Option<String>,
    lines: Option<Vec<CreditLine>>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct CreditLine {
    description: String,
    quantity: i64,
    /// Net, up to four places.
    #[schema(value_type = String)]
    unit_price: Units,
    /// As on the invoice; `adjustment` unless said.
    #[schema(value_type = Option<String>)]
    kind: Option<LineKind>,
    #[schema(value_type = Option<String>)]
    category: Option<Category>,
}

/// Takes back a part of an invoice, or all that is left of it.
#[utoipa::path(post, path = "/v1/invoices/{number}/credit-notes", tag = "billing",
    params(("number" = String, Path), ("idempotency-key" = Option<String>, Header)), request_body = NewCredit, responses((status = 201, body = InvoiceView)))]
pub(crate) async fn credit(
    State(app): State<App>,
    caller: Caller,
    Path(number): Path<String>,
    Body { asked, value: new }: Body<NewCredit>,
) -> Result<Response, Problem> {
    let invoice = one(&app, &caller, &number).await?;
    operator(&caller)?;
    let reason = text("reason", new.reason.as_deref().unwrap_or("Avoir"))?;
    let credit = match (new.amount, new.lines) {
        (Some(amount), None) => Credit::Amount(amount_of(&amount)?),
        (None, Some(lines)) if (1..=LINES_MAX).contains(&lines.len()) => {
            Credit::Lines(lines.into_iter().map(credit_line).collect::<Result<_, _>>()?)
        }
        _ => {
            return Err(Problem::new(
                Code::INVALID_BODY,
                format!("A credit note has either an amount or 1 to {LINES_MAX} lines"),
            ));
        }
    };
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let now = app.front.clock.now();
    let issued = invoices::credit(&mut once.tx, invoice.tenant_id, &number, credit, &reason, now).await?;
    tell_if_paid(&mut once, &number).await?;
    let note = invoices::get(&mut *once.tx, None, &issued.number).await?.ok_or(Code::INTERNAL)?;
    once.answer(StatusCode::CREATED, Some(&format!("/v1/invoices/{}", note.number)), &InvoiceView::new(&note, &[])).await
}

fn credit_line(line: CreditLine) -> Result<Line, Problem> {
    let amount = domain::money::line_amount(line.quantity, line.unit_price).map_err(BillingError::from).map_err(Refused::from)?;
    Ok(Line {
        kind: line.kind.unwrap_or(LineKind::Adjustment),
        category: line.category,
        usage_month: None,
        description: text("description", &line.description)?,
        quantity: line.quantity,
        unit_price: line.unit_price,
        amount,
    })
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewPayment {
    #[schema(example = "240.00")]
    amount: String,
    /// A day or an instant; now unless said.
    #[schema(example = "2026-11-05")]
    paid_at: Option<String>,
    /// The bank's; the same reference again is the same payment.
    reference: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Payment)]
pub(crate) struct PaymentView {
    id: Uuid,
    invoice: String,
    #[schema(value_type = String)]
    amount: Units,
    paid_at: DateTime<Utc>,
    reference: String,
    /// Of the invoice, now.
    status: String,
    /// What is left to pay.
    #[schema(value_type = String)]
    left: Units,
}

/// Records money that came in for an invoice, never more than is left to pay.
#[utoipa::path(post, path = "/v1/invoices/{number}/payments", tag = "billing",
    params(("number" = String, Path), ("idempotency-key" = Option<String>, Header)), request_body = NewPayment, responses((status = 201, body = PaymentView)))]
pub(crate) async fn pay(
    State(app): State<App>,
    caller: Caller,
    Path(number): Path<String>,
    Body { asked, value: new }: Body<NewPayment>,
) -> Result<Response, Problem> {
    let invoice = one(&app, &caller, &number).await?;
    operator(&caller)?;
    let now = app.front.clock.now();
    let amount = amount_of(&new.amount)?;
    if amount <= Units::ZERO {
        return Err(Problem::new(Code::INVALID_AMOUNT, "A payment is above zero").with("field", "amount"));
    }
    let paid_at = new.paid_at.as_deref().map_or(Ok(now), instant)?;
    let reference = text("reference", &new.reference)?;
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let payment = payments::record(&mut once.tx, invoice.tenant_id, &number, amount, paid_at, &reference, now).await?;
    tell_if_paid(&mut once, &number).await?;
    let invoice = invoices::by_id(&mut *once.tx, invoice.invoice_id).await?.ok_or(Code::INTERNAL)?;
    let left = payments::left_to_pay(&mut once.tx, &invoice).await?;
    let view = PaymentView {
        id: payment.payment_id,
        invoice: number,
        amount: Units(payment.amount_units),
        paid_at: payment.paid_at,
        reference: payment.reference,
        status: invoice.status,
        left,
    };
    once.answer(StatusCode::CREATED, None, &view).await
}

/// Wakes the run that would otherwise remind of it.
async fn tell_if_paid(once: &mut Once, number: &str) -> Result<(), Problem> {
    let paid = invoices::get(&mut *once.tx, None, number).await?.is_some_and(|invoice| invoice.status == "paid");
    if paid {
        durable::signal(&mut once.tx, number, &InvoicePaid {}).await?;
    }
    Ok(())
}

/// A tenant's month: what it brought in and what it cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Margin)]
pub(crate) struct MarginView {
    tenant_id: Uuid,
    #[schema(value_type = String)]
    revenue: Units,
    #[schema(value_type = String)]
    cost: Units,
    #[schema(value_type = String)]
    margin: Units,
    currency: &'static str,
    /// The plan loses money.
    loss: bool,
    /// Messages whose cost is unknown: no rate card was loaded.
    without_cost: i64,
}

/// What each tenant's month brought in and cost; a plan that loses money is flagged.
#[utoipa::path(get, path = "/v1/billing/months/{month}/margin", tag = "billing", params(("month" = String, Path)), responses((status = 200, body = Page<MarginView>)))]
pub(crate) async fn margin(
    State(app): State<App>,
    caller: Caller,
    Path(month): Path<String>,
) -> Result<Json<Page<MarginView>>, Problem> {
    let month = operators_month(&caller, &month)?;
    let rows = reconciliation::margin(&app.front.db, month).await?;
    let view = |row: reconciliation::Margin| {
        let rounded = |units: i64| Units(units).rounded().map_err(BillingError::from).map_err(Refused::from);
        let (revenue, cost) = (rounded(row.revenue_units)?, rounded(row.cost_units)?);
        let margin = revenue.minus(cost).map_err(BillingError::from).map_err(Refused::from)?;
        Ok(MarginView {
            tenant_id: row.tenant_id.0,
            revenue,
            cost,
            margin,
            currency: CURRENCY,
            loss: margin < Units::ZERO,
            without_cost: row.without_cost,
        })
    };
    let data = rows.into_iter().map(view).collect::<Result<_, Problem>>()?;
    Ok(Json(Page { data, next_cursor: None }))
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reconciliation)]
pub(crate) struct ReconciliationView {
    /// `{"source","day","line_id","category","ours","theirs","class","tolerated","rows","proposal"}`
    #[schema(value_type = Vec<Object>)]
    data: Vec<Difference>,
    /// Every account answered, and nothing but what is tolerated differs.
    balanced: bool,
    /// Messaging accounts that Meta does not let us see.
    unasked: Vec<String>,
}

/// Our month beside Meta's and Telnyx's own, asked now.
#[utoipa::path(get, path = "/v1/billing/months/{month}/reconciliation", tag = "billing", params(("month" = String, Path)),
    responses((status = 200, body = ReconciliationView)))]
pub(crate) async fn reconciled(
    State(app): State<App>,
    caller: Caller,
    Path(month): Path<String>,
) -> Result<Json<ReconciliationView>, Problem> {
    let month = operators_month(&caller, &month)?;
    let tools = app.front.tools.as_ref().ok_or(Code::UNAVAILABLE)?;
    let found = reconcile(tools, month).await?;
    Ok(Json(ReconciliationView { data: found.data, balanced: found.balanced, unasked: found.unasked }))
}

/// A past month's cost under other prices, for one tenant and category; US dollars.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rerated)]
pub(crate) struct ReratedView {
    tenant_id: Uuid,
    category: String,
    messages: i64,
    /// As it was charged.
    #[schema(value_type = String)]
    then: MicroUsd,
    #[schema(value_type = String)]
    other: MicroUsd,
    #[schema(value_type = String)]
    difference: MicroUsd,
    currency: &'static str,
    /// Messages for which no price was in force.
    without_price: i64,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CardOf {
    /// As if the whole month had happened on this day; else each message on its own day, under the cards as they are loaded now
    #[param(value_type = Option<String>, example = "2026-10-01")]
    card_of: Option<NaiveDate>,
}

/// Rates a month once more; nothing is written.
#[utoipa::path(get, path = "/v1/billing/months/{month}/rerated", tag = "billing", params(("month" = String, Path), CardOf),
    responses((status = 200, body = Page<ReratedView>)))]
pub(crate) async fn rerated(
    State(app): State<App>,
    caller: Caller,
    Path(month): Path<String>,
    Query(CardOf { card_of }): Query<CardOf>,
) -> Result<Json<Page<ReratedView>>, Problem> {
    let month = operators_month(&caller, &month)?;
    let mut db = app.front.db.acquire().await?;
    let card = rates::card(&mut db, None).await?;
    let rows = rates::compare(&mut db, month, &card, card_of).await?;
    let view = |row: rates::Rerated| ReratedView {
        tenant_id: row.tenant_id,
        category: row.category,
        messages: row.messages,
        then: MicroUsd(row.then_micro),
        other: MicroUsd(row.other_micro),
        difference: MicroUsd(row.other_micro - row.then_micro),
        currency: rates::CURRENCY,
        without_price: row.without_price,
    };
    Ok(Json(Page { data: rows.into_iter().map(view).collect(), next_cursor: None }))
}

/// The month's documents for accounting: CSV (RFC 4180), one row a line.
#[utoipa::path(get, path = "/v1/billing/months/{month}/export.csv", tag = "billing", params(("month" = String, Path)),
    responses((status = 200, content_type = "text/csv")))]
pub(crate) async fn export(State(app): State<App>, caller: Caller, Path(month): Path<String>) -> Result<Response, Problem> {
    let month = period(&month)?;
    let mut csv = CSV_HEADER.to_owned();
    let mut documents = Vec::new();
    let mut filter = Filter { tenant: caller.tenant, month: Some(month), limit: EXPORT_PAGE, ..Filter::default() };
    loop {
        let page = invoices::list(&app.front.db, &filter).await?;
        let Some(last) = page.last() else { break };
        filter.before = last.body["place"].as_i64();
        documents.extend(page);
    }
    let ids: Vec<Uuid> = documents.iter().map(|document| document.tenant_id.0).collect();
    let names: HashMap<Uuid, String> = tenants::names(&app.front.db, &ids).await?.into_iter().collect();
    // In the order of issue.
    for document in documents.iter().rev() {
        for line in document.lines()? {
            let buyer = &document.body["buyer"];
            let name = buyer["name"].as_str().or(names.get(&document.tenant_id.0).map(String::as_str)).unwrap_or_default();
            let cells = [
                document.number.clone(),
                document.kind.clone(),
                document.tenant_id.to_string(),
                name.to_owned(),
                buyer["legal"]["ice"].as_str().unwrap_or_default().to_owned(),
                month.to_string(),
                document.issued_at.to_rfc3339(),
                json!(line.kind).as_str().unwrap_or_default().to_owned(),
                line.category.map(|category| category.to_string()).unwrap_or_default(),
                line.quantity.to_string(),
                line.unit_price.to_string(),
                line.amount.to_string(),
                Units(document.net_units).to_string(),
                Units(document.vat_units).to_string(),
                Units(document.total_units).to_string(),
            ];
            let row = cells.map(|cell| csv_cell(&cell)).join(",");
            let _ = write!(csv, "{row}\r\n");
        }
    }
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{month}.csv\"")).map_err(|_| Code::INTERNAL)?;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, csv).into_response())
}

/// Quoted where RFC 4180 wants it; a name that a spreadsheet would take for a formula is made text.
fn csv_cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@', '\t', '\r']) || (text.starts_with('-') && text.parse::<f64>().is_err());
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn period(text: &str) -> Result<Period, Problem> {
    text.parse().map_err(|error: BillingError| Problem::new(Code::INVALID_MONTH, error.to_string()))
}

/// What concerns every tenant is the operator's.
fn operator(caller: &Caller) -> Result<(), Problem> {
    match caller.tenant {
        None => Ok(()),
        Some(_) => Err(Problem::new(Code::ROLE_NOT_ALLOWED, "This is for the operator's finance keys")),
    }
}

fn operators_month(caller: &Caller, month: &str) -> Result<Period, Problem> {
    let month = period(month)?;
    operator(caller)?;
    Ok(month)
}

fn amount_of(text: &str) -> Result<Units, Problem> {
    Units::amount(text).map_err(|error| Problem::new(Code::INVALID_AMOUNT, error.to_string()).with("field", "amount"))
}

fn text(field: &'static str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    let good = (1..=TEXT_MAX_CHARS).contains(&text.chars().count()) && !text.contains(char::is_control);
    let refused =
        || Problem::new(Code::INVALID_BODY, format!("{field} has 1 to {TEXT_MAX_CHARS} characters")).with("field", field);
    if good { Ok(text.to_owned()) } else { Err(refused()) }
}

fn instant(text: &str) -> Result<DateTime<Utc>, Problem> {
    let at = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).ok();
    let day = || text.parse::<NaiveDate>().ok().and_then(|day| day.and_hms_opt(12, 0, 0)).map(|noon| noon.and_utc());
    at.or_else(day).ok_or_else(|| Problem::new(Code::INVALID_BODY, "paid_at is a day or an instant").with("field", "paid_at"))
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::Unknown => Self::not_found(),
            Refused::NotAnInvoice => Self::new(Code::NOT_AN_INVOICE, detail),
            Refused::Billing(BillingError::CreditTooLarge { left }) => {
                Self::new(Code::CREDIT_TOO_LARGE, detail).with("left", left.to_string())
            }
            Refused::Billing(_) | Refused::NoLines => Self::new(Code::INVALID_AMOUNT, detail),
            Refused::TooMuch { left } => Self::new(Code::PAYMENT_TOO_LARGE, detail).with("left", left.to_string()),
            Refused::OtherPayment => Self::new(Code::PAYMENT_REFERENCE_REUSED, detail),
            Refused::Database(error) => error.into(),
        }
    }
}
