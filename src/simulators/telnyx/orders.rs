//! Reservations, orders and their lines, from pending to success or failure (contracts/telnyx.md 4 and 5).

use chrono::{DateTime, Months, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    billing::{Charge, Kind},
    data, missing, not_found,
    numbers::{Number, stock_of},
    page, regulation,
};
use crate::{
    faults::Scene,
    wire::{Call, Operation, Outcome, Refusal},
    world::{World, iso},
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "telnyx.reserve", method: "POST", path: "number_reservations", act: reserve },
    Operation { name: "telnyx.reservations", method: "GET", path: "number_reservations", act: reservations },
    Operation { name: "telnyx.order", method: "POST", path: "number_orders", act: order },
    Operation { name: "telnyx.orders", method: "GET", path: "number_orders", act: list },
    Operation { name: "telnyx.order_get", method: "GET", path: "number_orders/{id}", act: show },
    Operation { name: "telnyx.order_update", method: "PATCH", path: "number_orders/{id}", act: update },
    Operation { name: "telnyx.sub_orders", method: "GET", path: "sub_number_orders", act: sub_orders },
    Operation { name: "telnyx.sub_order", method: "GET", path: "sub_number_orders/{id}", act: sub_order },
    Operation { name: "telnyx.sub_order_update", method: "PATCH", path: "sub_number_orders/{id}", act: update },
    Operation { name: "telnyx.sub_order_cancel", method: "PATCH", path: "sub_number_orders/{id}/cancel", act: cancel },
    Operation {
        name: "telnyx.sub_order_group",
        method: "POST",
        path: "sub_number_orders/{id}/requirement_group",
        act: set_group,
    },
    Operation { name: "telnyx.order_lines", method: "GET", path: "number_order_phone_numbers", act: lines },
    Operation { name: "telnyx.order_line", method: "GET", path: "number_order_phone_numbers/{id}", act: line },
    Operation { name: "telnyx.order_line_update", method: "PATCH", path: "number_order_phone_numbers/{id}", act: update },
    Operation {
        name: "telnyx.order_line_group",
        method: "POST",
        path: "number_order_phone_numbers/{id}/requirement_group",
        act: set_group,
    },
];

/// How long missing documents may stay missing.
const PAPERS_PATIENCE: TimeDelta = TimeDelta::days(14);
const RESERVATION_LASTS: TimeDelta = TimeDelta::minutes(30);

/// Where an order stands; its one sub-order and line stand there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    Success,
    Failure,
    Cancelled,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
    /// Order lines know no `cancelled`.
    fn of_line(self) -> &'static str {
        if self == Self::Cancelled { "failure" } else { self.name() }
    }
}

/// An order of one number.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) sub_id: String,
    pub(crate) line_id: String,
    pub(crate) phone: String,
    pub(crate) reference: Option<String>,
    pub(crate) state: State,
    pub(crate) requirements: &'static str,
    values: Vec<Value>,
    connection: Option<String>,
    profile: Option<String>,
    billing_group: Option<String>,
    created: DateTime<Utc>,
    updated: DateTime<Utc>,
    fails: bool,
}

impl Order {
    fn met(&self) -> bool {
        self.requirements == "approved"
    }

    fn line_json(&self) -> Value {
        let stock = stock_of(&self.phone).expect("only numbers of the catalogue are ordered");
        json!({
            "id": self.line_id, "record_type": "number_order_phone_number", "phone_number": self.phone,
            "phone_number_type": stock.kind, "country_code": stock.country, "country_iso_alpha2": stock.country,
            "status": self.state.of_line(), "requirements_met": self.met(), "requirements_status": self.requirements,
            "bundle_id": null, "regulatory_requirements": self.values,
        })
    }

    fn json(&self, brief: bool) -> Value {
        let line = if brief { json!({"id": self.line_id, "phone_number": self.phone}) } else { self.line_json() };
        json!({
            "id": self.id, "record_type": "number_order", "status": self.state.name(), "phone_numbers_count": 1,
            "requirements_met": self.met(), "connection_id": self.connection, "messaging_profile_id": self.profile,
            "billing_group_id": self.billing_group, "customer_reference": self.reference, "created_at": iso(self.created),
            "updated_at": iso(self.updated), "sub_number_orders_ids": [self.sub_id], "phone_numbers": [line],
        })
    }

    fn sub_json(&self, with_lines: bool) -> Value {
        let stock = stock_of(&self.phone).expect("only numbers of the catalogue are ordered");
        let lines = with_lines.then(|| json!([self.line_json()]));
        json!({
            "id": self.sub_id, "record_type": "sub_number_order", "order_request_id": self.id, "country_code": stock.country,
            "phone_number_type": stock.kind, "phone_numbers_count": 1, "status": self.state.name(),
            "requirements_met": self.met(), "is_block_sub_number_order": false, "customer_reference": self.reference,
            "regulatory_requirements": self.values, "created_at": iso(self.created), "updated_at": iso(self.updated),
            "phone_numbers": lines,
        })
    }
}

fn is_e164(phone: &str) -> bool {
    phone.strip_prefix('+').is_some_and(|digits| (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn wanted_phones(call: &Call) -> Result<Vec<(String, Option<String>)>, Refusal> {
    let lines = call.input.get("phone_numbers").and_then(Value::as_array).filter(|lines| !lines.is_empty());
    let lines = lines.ok_or_else(|| missing("phone_numbers"))?;
    let read = |(at, line): (usize, &Value)| match line["phone_number"].as_str() {
        Some(phone) if is_e164(phone) => Ok((phone.to_owned(), line["requirement_group_id"].as_str().map(str::to_owned))),
        _ => Err(Refusal::new(422, 10016, "Phone numbers are written +E.164.").at(format!("/phone_numbers/{at}/phone_number"))),
    };
    lines.iter().enumerate().map(read).collect()
}

fn reserve(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let mut lines = Vec::new();
    for (phone, _) in wanted_phones(call)? {
        let mut held = world.telnyx.reservations.iter().flat_map(|r| r["phone_numbers"].as_array().into_iter().flatten());
        if held.any(|line| line["phone_number"] == phone.as_str() && line["expired_at"].as_str() > Some(&iso(now))) {
            return Err(Refusal::new(422, 85006, format!("{phone} is reserved.")));
        }
        let id = world.uuid();
        lines.push(json!({"id": id, "record_type": "reserved_phone_number", "phone_number": phone, "status": "success",
            "created_at": iso(now), "updated_at": iso(now), "expired_at": iso(now + RESERVATION_LASTS)}));
    }
    let id = world.uuid();
    let body = json!({"id": id, "record_type": "number_reservation", "status": "success",
        "customer_reference": call.text("customer_reference"), "created_at": iso(now), "updated_at": iso(now), "phone_numbers": lines});
    world.telnyx.reservations.push(body.clone());
    data(world, body)
}

fn reservations(world: &mut World, call: &Call) -> Outcome {
    let wanted = call.filter("customer_reference");
    let fits = |r: &&Value| wanted.is_none_or(|reference| r["customer_reference"] == reference);
    let found = world.telnyx.reservations.iter().filter(fits).cloned().collect();
    page(world, call, found)
}

fn order(world: &mut World, call: &Call) -> Outcome {
    let phones = wanted_phones(call)?;
    let [(phone, group)] = phones.as_slice() else {
        return Err(Refusal::new(422, 10015, "This simulator takes one number per order."));
    };
    let at = "/phone_numbers/0/phone_number";
    let account = world.config.telnyx.clone();
    let reference = call.text("customer_reference").map(str::to_owned);
    let mut about = world.aliases(phone.trim_start_matches('+'));
    about.extend(reference.clone());
    let stock = stock_of(phone).filter(|_| world.telnyx.found.get(phone).is_some_and(|until| *until > world.now));
    let stock = stock.ok_or_else(|| Refusal::new(422, 85000, format!("{phone} was not searched for.")).at(at))?;
    about.push(stock.country.to_owned());
    // The scene's number goes to somebody else for good.
    if world.telnyx.held(phone).is_none() && world.happens(&about, Scene::NumberTaken) {
        world.telnyx.taken.insert(phone.clone());
    }
    let pending = world.telnyx.orders.iter().any(|order| order.phone == *phone && order.state == State::Pending);
    if pending || world.telnyx.taken.contains(phone) || world.telnyx.held(phone).is_some() {
        return Err(Refusal::new(account.taken_status, 85001, format!("{phone} is no longer available.")).at(at));
    }
    let connection = call.text("connection_id").map(str::to_owned);
    if connection.as_ref().is_some_and(|id| !world.telnyx.apps.contains_key(id)) {
        return Err(Refusal::new(422, 85004, "No such connection.").at("/connection_id"));
    }
    let profile = call.text("messaging_profile_id").map(str::to_owned);
    if profile.as_ref().is_some_and(|id| !world.telnyx.profiles.contains_key(id)) {
        return Err(Refusal::new(422, 85005, "No such messaging profile.").at("/messaging_profile_id"));
    }
    if world.telnyx.balance < stock.upfront + stock.monthly {
        return Err(Refusal::new(account.poor_status, 20100, "The balance does not cover this order."));
    }
    let papers = stock.papers || world.happens(&about, Scene::RequirementsOpen);
    let approved = group.as_ref().is_some_and(|id| regulation::is_approved(world, id));
    let requirements = if !papers || approved { "approved" } else { "requirement-info-pending" };
    let values = if papers { regulation::wanted(stock.country, stock.kind) } else { Vec::new() };
    let lost = world.happens(&about, Scene::SettingsLost);
    let order = Order {
        id: world.uuid(),
        sub_id: world.uuid(),
        line_id: world.uuid(),
        phone: phone.clone(),
        reference,
        state: State::Pending,
        requirements,
        values,
        connection: connection.filter(|_| !lost),
        profile: profile.filter(|_| !lost),
        billing_group: call.text("billing_group_id").map(str::to_owned),
        created: world.now,
        updated: world.now,
        fails: world.happens(&about, Scene::OrderFails),
    };
    let (body, id, met) = (order.json(false), order.id.clone(), order.met());
    world.telnyx.orders.push(order);
    let delay = world.config.delays.order_ms;
    if met {
        world.after("order settles", delay, move |world| settle(world, &id));
    } else {
        wait_for_papers(world, &id);
    }
    data(world, body)
}

/// A regulated number is visible, and billed later, while its documents are missing.
fn wait_for_papers(world: &mut World, id: &str) {
    let Some(order) = world.telnyx.orders.iter().find(|order| order.id == id).cloned() else { return };
    hold(world, &order, "requirement-info-pending");
    let id = id.to_owned();
    let patience = u64::try_from(PAPERS_PATIENCE.num_milliseconds()).unwrap_or(0);
    world.timer("requirements deadline", patience, move |world| end(world, &id, State::Cancelled));
}

/// The order comes to its end, whichever that is.
fn settle(world: &mut World, id: &str) {
    let Some(order) = world.telnyx.orders.iter().find(|order| order.id == id).cloned() else { return };
    if order.state != State::Pending {
        return;
    }
    if order.fails {
        return end(world, id, State::Failure);
    }
    end(world, id, State::Success);
    let gap = world.config.delays.number_ms;
    world.after("number appears", gap, move |world| {
        hold(world, &order, "active");
        rent(world, &order.phone, true);
    });
}

fn end(world: &mut World, id: &str, state: State) {
    let now = world.now;
    let Some(order) = world.telnyx.orders.iter_mut().find(|order| order.id == id && order.state == State::Pending) else {
        return;
    };
    order.state = state;
    order.updated = now;
    let order = order.clone();
    if state != State::Success
        && let Some(number) = world.telnyx.held_mut(&order.phone)
    {
        number.status = "deleted";
    }
    let about = world.aliases(order.phone.trim_start_matches('+'));
    let url = world.config.hooks.telnyx_orders.clone();
    let payload = super::shaped(world, order.json(false));
    world.telnyx_event(&url, &about, "number_order.complete", payload);
}

/// The number's record, made or moved on.
fn hold(world: &mut World, order: &Order, status: &'static str) {
    let now = world.now;
    if let Some(number) = world.telnyx.held_mut(&order.phone) {
        number.status = status;
        number.updated = now;
        number.activated = (status == "active").then_some(now);
        return;
    }
    let Some(stock) = stock_of(&order.phone) else { return };
    // 19 digits, beyond what a double holds exactly.
    let id = format!("29{}", world.digits(17));
    let number = Number {
        id: id.clone(),
        phone: order.phone.clone(),
        country: stock.country,
        kind: stock.kind,
        sms: stock.has_sms(),
        status,
        connection: order.connection.clone(),
        profile: order.profile.clone().filter(|_| stock.has_sms()),
        reference: order.reference.clone(),
        billing_group: order.billing_group.clone(),
        tags: Vec::new(),
        screening: "disabled".into(),
        forwarding: json!({"call_forwarding_enabled": false}),
        purchased: order.created,
        activated: (status == "active").then_some(now),
        updated: now,
    };
    world.telnyx.by_phone.insert(order.phone.clone(), id.clone());
    world.telnyx.numbers.insert(id, number);
}

/// Charges one month, the first with its upfront fee, and comes back in a month while the number is held.
fn rent(world: &mut World, phone: &str, first: bool) {
    let (Some(stock), Some(number)) = (stock_of(phone), world.telnyx.held(phone)) else { return };
    let id = number.id.clone();
    if first {
        world.charge(Charge { at: world.now, phone: phone.to_owned(), kind: Kind::Upfront, cost: stock.upfront });
    }
    world.charge(Charge { at: world.now, phone: phone.to_owned(), kind: Kind::Monthly, cost: stock.monthly });
    let month = world.now.checked_add_months(Months::new(1)).map_or(TimeDelta::days(30), |then| then - world.now);
    let phone = phone.to_owned();
    world.timer("monthly rent", u64::try_from(month.num_milliseconds()).unwrap_or(0), move |world| {
        // A number bought again has its own rent.
        if world.telnyx.held(&phone).is_some_and(|number| number.id == id) {
            rent(world, &phone, false);
        }
    });
}

fn found<'w>(world: &'w mut World, call: &Call) -> Result<&'w mut Order, Refusal> {
    let id = call.arg(0);
    let mut orders = world.telnyx.orders.iter_mut();
    orders.find(|order| order.id == id || order.sub_id == id || order.line_id == id).ok_or_else(|| not_found("order"))
}

fn list(world: &mut World, call: &Call) -> Outcome {
    let fits = |order: &&Order| {
        call.filter("status").is_none_or(|status| order.state.name() == status)
            && call.filter("customer_reference").is_none_or(|text| order.reference.as_deref() == Some(text))
            && call.filter("requirements_met").is_none_or(|met| order.met().to_string() == met)
    };
    let orders = world.telnyx.orders.iter().rev().filter(fits).map(|order| order.json(true)).collect();
    page(world, call, orders)
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let body = found(world, call)?.json(false);
    data(world, body)
}

fn sub_orders(world: &mut World, call: &Call) -> Outcome {
    let fits = |order: &&Order| {
        call.filter("status").is_none_or(|status| order.state.name() == status)
            && call.filter("order_request_id").is_none_or(|id| order.id == id)
    };
    let orders = world.telnyx.orders.iter().rev().filter(fits).map(|order| order.sub_json(false)).collect();
    page(world, call, orders)
}

fn sub_order(world: &mut World, call: &Call) -> Outcome {
    let with_lines = call.filter("include_phone_numbers") == Some("true");
    let body = found(world, call)?.sub_json(with_lines);
    data(world, body)
}

fn long_line(order: &Order) -> Value {
    let mut body = order.line_json();
    body["deadline"] = json!(iso(order.created + PAPERS_PATIENCE));
    body["sub_number_order_id"] = json!(order.sub_id);
    body["order_request_id"] = json!(order.id);
    body["is_block_number"] = json!(false);
    body
}

fn lines(world: &mut World, call: &Call) -> Outcome {
    let lines = world.telnyx.orders.iter().rev().map(long_line).collect();
    page(world, call, lines)
}

fn line(world: &mut World, call: &Call) -> Outcome {
    let body = long_line(found(world, call)?);
    data(world, body)
}

/// As the path asks: an order, a sub-order or a line, after a change.
fn as_asked(world: &mut World, call: &Call) -> Outcome {
    let order = found(world, call)?.clone();
    let body = match call.operation {
        "telnyx.order_update" => order.json(false),
        "telnyx.order_line_update" | "telnyx.order_line_group" => long_line(&order),
        _ => order.sub_json(false),
    };
    data(world, body)
}

fn update(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let order = found(world, call)?;
    if let Some(reference) = call.text("customer_reference") {
        order.reference = Some(reference.to_owned());
    }
    order.updated = now;
    let given = call.input.get("regulatory_requirements").and_then(Value::as_array).cloned().unwrap_or_default();
    if !given.is_empty() && order.met() {
        return Err(Refusal::new(422, 85003, "The requirements are already met."));
    }
    for value in given {
        let known = order.values.iter_mut().find(|known| known["requirement_id"] == value["requirement_id"]);
        let known = known.ok_or_else(|| Refusal::new(422, 10015, "No such requirement on this order."))?;
        known["field_value"] = value["field_value"].clone();
    }
    let complete = !order.values.is_empty() && order.values.iter().all(|value| value["field_value"] != "");
    if complete && order.requirements != "approved" {
        let id = order.id.clone();
        review(world, &id);
    }
    as_asked(world, call)
}

fn set_group(world: &mut World, call: &Call) -> Outcome {
    let group = call.need("requirement_group_id", missing)?;
    let filled = regulation::values_of(world, group).ok_or_else(|| not_found("requirement group"))?;
    let order = found(world, call)?;
    order.values = filled;
    let id = order.id.clone();
    review(world, &id);
    as_asked(world, call)
}

/// Somebody looks at the documents and finds them good.
fn review(world: &mut World, id: &str) {
    judge(world, id, "requirement-info-under-review");
    let (delay, id) = (world.config.delays.papers_ms, id.to_owned());
    world.after("requirements review", delay, move |world| decide(world, &id, true));
}

fn judge(world: &mut World, id: &str, requirements: &'static str) {
    let Some(order) = world.telnyx.orders.iter_mut().find(|order| order.id == id) else { return };
    order.requirements = requirements;
    let phone = order.phone.clone();
    if let Some(number) = world.telnyx.held_mut(&phone) {
        number.status = if requirements == "approved" { "provision-pending" } else { requirements };
    }
}

/// The reviewer's word on an order's documents, by itself or through the control API.
pub(crate) fn decide(world: &mut World, id: &str, approve: bool) {
    if !world.telnyx.orders.iter().any(|order| order.id == id && order.state == State::Pending) {
        return;
    }
    if !approve {
        return judge(world, id, "requirement-info-exception");
    }
    judge(world, id, "approved");
    let (delay, id) = (world.config.delays.order_ms, id.to_owned());
    world.after("order settles", delay, move |world| settle(world, &id));
}

fn cancel(world: &mut World, call: &Call) -> Outcome {
    let order = found(world, call)?;
    if order.state != State::Pending {
        return Err(Refusal::new(422, 10015, "Only pending orders can be cancelled."));
    }
    let id = order.id.clone();
    end(world, &id, State::Cancelled);
    as_asked(world, call)
}
