//! Money: balance, charges per number, records per call and text (contracts/telnyx.md 10).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{data, dollars, missing, numbers::stock_of, page};
use crate::{
    hooks::Sender,
    wire::{Call, Operation, Outcome, Refusal},
    world::{World, fixed_uuid, iso},
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "telnyx.balance", method: "GET", path: "balance", act: balance },
    Operation { name: "telnyx.charges", method: "GET", path: "charges_breakdown", act: breakdown },
    Operation { name: "telnyx.charges_summary", method: "GET", path: "charges_summary", act: summary },
    Operation { name: "telnyx.detail_records", method: "GET", path: "detail_records", act: details },
    Operation { name: "telnyx.webhook_deliveries", method: "GET", path: "webhook_deliveries", act: deliveries },
    Operation { name: "telnyx.call_events", method: "GET", path: "call_events", act: call_events },
];

/// Why money was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Upfront,
    Monthly,
    Call,
}

/// One debit of the account.
#[derive(Debug, Clone, Serialize)]
pub struct Charge {
    pub at: DateTime<Utc>,
    pub phone: String,
    pub kind: Kind,
    /// In units of 0.0001 USD.
    pub cost: i64,
}

impl World {
    pub(crate) fn charge(&mut self, charge: Charge) {
        self.telnyx.balance -= charge.cost;
        self.telnyx.charges.push(charge);
    }
}

fn balance(world: &mut World, _: &Call) -> Outcome {
    let balance = dollars(world.telnyx.balance);
    let body = json!({"record_type": "balance", "balance": balance, "credit_limit": "0.00", "available_credit": balance,
        "pending": "0.00", "currency": "USD"});
    data(world, body)
}

/// `start_date` included, `end_date` excluded, as RFC 3339 dates.
fn period(call: &Call) -> Result<(&str, &str), Refusal> {
    let date = |name: &'static str| call.param(name).ok_or_else(|| missing(name));
    Ok((date("start_date")?, date("end_date")?))
}

fn within(charge: &Charge, (start, end): (&str, &str)) -> bool {
    let at = iso(charge.at);
    at.as_str() >= start && at.as_str() < end
}

fn breakdown(world: &mut World, call: &Call) -> Outcome {
    let period = period(call)?;
    let mut numbers: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for charge in world.telnyx.charges.iter().filter(|charge| within(charge, period)) {
        let kind = match charge.kind {
            Kind::Upfront => "OTC",
            Kind::Monthly => "MRC",
            Kind::Call => continue,
        };
        let service = json!({"name": "Local DIDs", "cost": dollars(charge.cost), "cost_type": kind});
        numbers.entry(&charge.phone).or_default().push(service);
    }
    let row = |(phone, services): (&str, Vec<Value>)| {
        json!({"tn": phone, "charge_type": stock_of(phone).map_or("local", |stock| stock.kind), "services": services,
            "service_owner_email": "ops@example.net", "service_owner_user_id": fixed_uuid("owner")})
    };
    let results: Vec<Value> = numbers.into_iter().map(row).collect();
    let body = json!({"currency": "USD", "start_date": period.0, "end_date": period.1, "user_email": "ops@example.net",
        "user_id": fixed_uuid("owner"), "results": results});
    data(world, body)
}

fn summary(world: &mut World, call: &Call) -> Outcome {
    let period = period(call)?;
    let sum = |kind: Kind| {
        let wanted = world.telnyx.charges.iter().filter(|charge| charge.kind == kind && within(charge, period));
        wanted.map(|charge| charge.cost).sum::<i64>()
    };
    let (otc, mrc, other) = (sum(Kind::Upfront), sum(Kind::Monthly), sum(Kind::Call));
    let total = json!({"new_mrc": dollars(mrc), "existing_mrc": "0.00", "new_otc": dollars(otc), "other": dollars(other),
        "credits": "0.00", "ledger_adjustments": "0.00", "grand_total": dollars(otc + mrc + other)});
    let body = json!({"currency": "USD", "start_date": period.0, "end_date": period.1, "user_email": "ops@example.net",
        "user_id": fixed_uuid("owner"), "total": total, "summary": {"lines": [], "adjustments": []}});
    data(world, body)
}

fn details(world: &mut World, call: &Call) -> Outcome {
    let kind = call.filter("record_type").ok_or_else(|| missing("filter[record_type]"))?;
    let found = world.telnyx.details.iter().filter(|row| row["record_type"] == kind).cloned().collect();
    page(world, call, found)
}

fn deliveries(world: &mut World, call: &Call) -> Outcome {
    let event = call.filter("event_type");
    let status = call.filter("status][eq");
    let contains = call.filter("webhook][contains");
    let since = call.filter("started_at][gte");
    let mut rows = Vec::new();
    for record in world.hooks.records.iter().rev().filter(|record| record.sender == Sender::Telnyx) {
        let outcome = if record.status == Some(200) { "delivered" } else { "failed" };
        let fits = event.is_none_or(|event| record.event == event)
            && status.is_none_or(|status| outcome == status)
            && since.is_none_or(|since| iso(record.at).as_str() >= since)
            && contains.is_none_or(|text| record.body.to_string().contains(text));
        if !fits {
            continue;
        }
        let http = json!({"request": {"url": record.url}, "response": record.status.map(|status| json!({"status": status}))});
        let attempt = json!({"status": outcome, "started_at": iso(record.at), "finished_at": iso(record.at), "http": http});
        rows.push(json!({"id": record.id, "record_type": "webhook_delivery", "user_id": fixed_uuid("owner"), "status": outcome,
            "started_at": iso(record.at), "finished_at": iso(record.at), "webhook": record.body["data"], "attempts": [attempt]}));
    }
    page(world, call, rows)
}

fn call_events(world: &mut World, call: &Call) -> Outcome {
    let fits = |event: &&Value| {
        let metadata = |name: &str| event.pointer(&format!("/metadata/event/payload/{name}"));
        call.filter("leg_id").is_none_or(|id| event["call_leg_id"] == id)
            && call.filter("application_session_id").is_none_or(|id| event["call_session_id"] == id)
            && call.filter("type").is_none_or(|kind| event["type"] == kind)
            && call.filter("name").is_none_or(|name| event["name"] == name)
            && call.filter("connection_id").is_none_or(|id| metadata("connection_id").is_some_and(|known| known == id))
            && call.filter("to").is_none_or(|to| metadata("to").is_some_and(|known| known == to))
            && call.filter("occurred_at][gte").is_none_or(|since| event["event_timestamp"].as_str() >= Some(since))
    };
    let events = world.telnyx.call_events.iter().filter(fits).cloned().collect();
    page(world, call, events)
}
