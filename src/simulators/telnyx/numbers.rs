//! Coverage, search, and the numbers that we hold (contracts/telnyx.md 3 and 6).

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{SEARCH_LASTS, data, dollars, missing, not_found, page};
use crate::{
    wire::{Answer, Call, Operation, Outcome, Refusal},
    world::{World, iso},
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "telnyx.coverage", method: "GET", path: "country_coverage", act: coverage },
    Operation { name: "telnyx.coverage_of", method: "GET", path: "country_coverage/countries/{country}", act: coverage_of },
    Operation { name: "telnyx.search", method: "GET", path: "available_phone_numbers", act: search },
    Operation { name: "telnyx.numbers", method: "GET", path: "phone_numbers", act: list },
    Operation { name: "telnyx.numbers_slim", method: "GET", path: "phone_numbers/slim", act: slim },
    Operation { name: "telnyx.number", method: "GET", path: "phone_numbers/{id}", act: show },
    Operation { name: "telnyx.number_update", method: "PATCH", path: "phone_numbers/{id}", act: update },
    Operation { name: "telnyx.number_messaging", method: "PATCH", path: "phone_numbers/{id}/messaging", act: set_messaging },
    Operation { name: "telnyx.number_messaging_get", method: "GET", path: "phone_numbers/{id}/messaging", act: messaging },
    Operation { name: "telnyx.number_voice", method: "PATCH", path: "phone_numbers/{id}/voice", act: set_voice },
    Operation { name: "telnyx.number_voice_get", method: "GET", path: "phone_numbers/{id}/voice", act: voice },
    Operation { name: "telnyx.release", method: "DELETE", path: "phone_numbers/{id}", act: release },
];

/// A kind of number that is sold here. Prices in units of 0.0001 USD. All invented.
pub(super) struct Stock {
    pub(super) country: &'static str,
    name: &'static str,
    region: &'static str,
    code: &'static str,
    prefix: &'static str,
    /// Digits after the country code.
    length: usize,
    pub(super) kind: &'static str,
    sms: bool,
    pub(super) upfront: i64,
    pub(super) monthly: i64,
    /// Documents are wanted before it becomes active.
    pub(super) papers: bool,
    place: &'static str,
}

impl Stock {
    fn features(&self) -> &'static [&'static str] {
        if self.sms { &["voice", "sms"] } else { &["voice"] }
    }
    pub(super) fn has_sms(&self) -> bool {
        self.sms
    }
    fn sells(&self, phone: &str) -> bool {
        let national = phone.strip_prefix('+').and_then(|digits| digits.strip_prefix(self.code));
        national.is_some_and(|digits| {
            digits.len() == self.length && digits.starts_with(self.prefix) && digits.bytes().all(|b| b.is_ascii_digit())
        })
    }
    /// The index-th number of this kind; the factor spreads neighbours apart.
    fn invent(&self, index: u64, seed: u64) -> String {
        let free = self.length - self.prefix.len();
        let space = 10u64.pow(u32::try_from(free).unwrap_or(0));
        let part = (index.wrapping_mul(7_919) + seed % 1_000) % space;
        format!("+{}{}{part:0free$}", self.code, self.prefix)
    }
}

#[rustfmt::skip]
const CATALOGUE: &[Stock] = &[
    Stock { country: "MA", name: "Morocco", region: "EMEA", code: "212", prefix: "52", length: 9, kind: "local", sms: true, upfront: 10_000, monthly: 45_000, papers: false, place: "CASABLANCA" },
    Stock { country: "MA", name: "Morocco", region: "EMEA", code: "212", prefix: "80", length: 9, kind: "national", sms: false, upfront: 10_000, monthly: 60_000, papers: false, place: "RABAT" },
    Stock { country: "FR", name: "France", region: "EMEA", code: "33", prefix: "1", length: 9, kind: "local", sms: false, upfront: 10_000, monthly: 10_000, papers: false, place: "PARIS" },
    Stock { country: "FR", name: "France", region: "EMEA", code: "33", prefix: "7", length: 9, kind: "mobile", sms: true, upfront: 10_000, monthly: 30_000, papers: false, place: "FRANCE" },
    Stock { country: "ES", name: "Spain", region: "EMEA", code: "34", prefix: "91", length: 9, kind: "local", sms: true, upfront: 10_000, monthly: 15_000, papers: false, place: "MADRID" },
    Stock { country: "SN", name: "Senegal", region: "EMEA", code: "221", prefix: "33", length: 9, kind: "local", sms: false, upfront: 20_000, monthly: 120_000, papers: false, place: "DAKAR" },
    Stock { country: "US", name: "United States", region: "AMER", code: "1", prefix: "312", length: 10, kind: "local", sms: true, upfront: 10_000, monthly: 10_000, papers: false, place: "CHICAGO" },
    Stock { country: "GB", name: "United Kingdom", region: "EMEA", code: "44", prefix: "7", length: 10, kind: "mobile", sms: true, upfront: 10_000, monthly: 20_000, papers: false, place: "LONDON" },
    Stock { country: "DE", name: "Germany", region: "EMEA", code: "49", prefix: "30", length: 10, kind: "local", sms: false, upfront: 10_000, monthly: 12_000, papers: true, place: "BERLIN" },
];

/// The kind of a number, if it is one that exists here.
pub(super) fn stock_of(phone: &str) -> Option<&'static Stock> {
    CATALOGUE.iter().find(|stock| stock.sells(phone))
}

/// A number that we hold, held or wait for.
#[derive(Debug, Clone)]
pub(crate) struct Number {
    pub(crate) id: String,
    pub(crate) phone: String,
    pub(crate) country: &'static str,
    pub(super) kind: &'static str,
    pub(super) sms: bool,
    pub(crate) status: &'static str,
    pub(crate) connection: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) reference: Option<String>,
    pub(super) billing_group: Option<String>,
    pub(super) tags: Vec<Value>,
    pub(super) screening: String,
    pub(super) forwarding: Value,
    pub(super) purchased: DateTime<Utc>,
    pub(super) activated: Option<DateTime<Utc>>,
    pub(super) updated: DateTime<Utc>,
}

impl Number {
    fn json(&self, world: &World) -> Value {
        let app = self.connection.as_ref().and_then(|id| world.telnyx.apps.get(id));
        let profile = self.profile.as_ref().and_then(|id| world.telnyx.profiles.get(id));
        json!({
            "id": self.id, "record_type": "phone_number", "phone_number": self.phone, "country_iso_alpha2": self.country,
            "status": self.status, "phone_number_type": self.kind, "tags": self.tags, "customer_reference": self.reference,
            "connection_id": self.connection, "connection_name": app.map(|app| &app["application_name"]),
            "messaging_profile_id": self.profile, "messaging_profile_name": profile.map(|profile| &profile["name"]),
            "billing_group_id": self.billing_group, "external_pin": null, "emergency_enabled": false, "emergency_address_id": null,
            "emergency_status": "disabled", "call_forwarding_enabled": self.forwarding["call_forwarding_enabled"],
            "call_recording_enabled": false, "caller_id_name_enabled": false, "cnam_listing_enabled": false,
            "t38_fax_gateway_enabled": false, "hd_voice_enabled": false, "inbound_call_screening": self.screening,
            "deletion_lock_enabled": false, "source_type": "number_order", "purchased_at": iso(self.purchased),
            "activated_at": self.activated.map(iso), "created_at": iso(self.purchased), "updated_at": iso(self.updated),
        })
    }
}

fn coverage_json(country: &str) -> Option<(&'static str, Value)> {
    let sold: Vec<&Stock> = CATALOGUE.iter().filter(|stock| stock.country.eq_ignore_ascii_case(country)).collect();
    let first = *sold.first()?;
    let sms = sold.iter().any(|stock| stock.sms);
    let kinds: Vec<&str> = sold.iter().map(|stock| stock.kind).collect();
    let mut body = json!({
        "code": first.country, "numbers": true, "features": if sms { json!(["voice", "sms"]) } else { json!(["voice"]) },
        "phone_number_type": kinds, "region": first.region, "reservable": true, "quickship": false, "international_sms": sms,
        "inventory_coverage": false, "p2p": false, "local": {}, "national": {}, "mobile": {}, "toll_free": {}, "shared_cost": {},
    });
    for stock in sold {
        body[stock.kind] = json!({"features": stock.features(), "reservable": true, "quickship": false,
            "full_pstn_replacement": false, "international_sms": stock.sms, "p2p": false});
    }
    Some((first.name, body))
}

fn coverage(world: &mut World, _: &Call) -> Outcome {
    let all: serde_json::Map<String, Value> =
        CATALOGUE.iter().filter_map(|stock| coverage_json(stock.country)).map(|(name, body)| (name.to_owned(), body)).collect();
    data(world, Value::Object(all))
}

fn coverage_of(world: &mut World, call: &Call) -> Outcome {
    let (_, body) = coverage_json(call.arg(0)).ok_or_else(|| not_found("country"))?;
    data(world, body)
}

fn search(world: &mut World, call: &Call) -> Outcome {
    /// Results when no limit is given, and at most.
    const LIMIT: usize = 10;
    const LIMIT_MAX: usize = 100;
    /// Numbers looked at per kind before a search gives up.
    const LOOKED_AT: u64 = 20_000;
    let limit = call.filter("limit").and_then(|text| text.parse().ok()).unwrap_or(LIMIT).min(LIMIT_MAX);
    let country = call.filter("country_code").ok_or_else(|| missing("filter[country_code]"))?;
    let features = call.filters("features");
    let place = |key: &str| {
        let spellings = [format!("phone_number][{key}"), key.to_owned()];
        spellings.iter().find_map(|name| call.filter(name)).map(str::to_owned)
    };
    let [starts, ends, contains] = ["starts_with", "ends_with", "contains"].map(place);
    let fits = |national: &str| {
        starts.as_ref().is_none_or(|part| national.starts_with(part))
            && ends.as_ref().is_none_or(|part| national.ends_with(part))
            && contains.as_ref().is_none_or(|part| national.contains(part))
            && call.filter("national_destination_code").is_none_or(|part| national.starts_with(part))
    };
    let mut results = Vec::new();
    for stock in CATALOGUE {
        let wanted = stock.country.eq_ignore_ascii_case(country)
            && call.filter("phone_number_type").is_none_or(|kind| kind == stock.kind)
            && call.filter("locality").is_none_or(|place| place.eq_ignore_ascii_case(stock.place))
            && features.iter().all(|feature| stock.features().contains(feature));
        if !wanted {
            continue;
        }
        // A whole number in a filter is looked up, not hoped for.
        let named = [&starts, &ends, &contains].into_iter().flatten().map(|part| format!("+{}{part}", stock.code));
        let named: Vec<String> = named.filter(|phone| stock.sells(phone)).collect();
        let seed = world.config.seed;
        let from = world.telnyx.cursor;
        let invented = (from..from + LOOKED_AT).map(|index| stock.invent(index, seed));
        for phone in named.into_iter().chain(invented) {
            if results.len() >= limit {
                break;
            }
            let free = !world.telnyx.taken.contains(&phone) && world.telnyx.held(&phone).is_none();
            if !free || !fits(&phone[1 + stock.code.len()..]) {
                continue;
            }
            world.telnyx.found.insert(phone.clone(), world.now + SEARCH_LASTS);
            let features: Vec<Value> = stock.features().iter().map(|name| json!({"name": name})).collect();
            results.push(json!({
                "record_type": "available_phone_number", "phone_number": phone, "best_effort": false, "quickship": false,
                "reservable": true, "vanity_format": "", "features": features,
                "cost_information": {"upfront_cost": dollars(stock.upfront), "monthly_cost": dollars(stock.monthly), "currency": "USD"},
                "region_information": [{"region_type": "country_code", "region_name": stock.country},
                    {"region_type": "location", "region_name": stock.place}],
            }));
        }
    }
    // The next search shows others, so that two buyers rarely want the same number.
    world.telnyx.cursor += limit as u64;
    let meta = json!({"total_results": results.len(), "best_effort_results": 0});
    Ok(Answer::json(200, &json!({"data": results, "meta": meta, "metadata": meta})))
}

fn list(world: &mut World, call: &Call) -> Outcome {
    let found = listed(world, call, |number, world| number.json(world))?;
    page(world, call, found)
}

fn slim(world: &mut World, call: &Call) -> Outcome {
    let found = listed(world, call, |number, _| {
        json!({"id": number.id, "record_type": "phone_number_slim", "phone_number": number.phone, "status": number.status,
            "country_iso_alpha2": number.country, "phone_number_type": number.kind, "customer_reference": number.reference,
            "connection_id": number.connection, "purchased_at": iso(number.purchased), "created_at": iso(number.purchased),
            "updated_at": iso(number.updated)})
    })?;
    page(world, call, found)
}

fn listed(world: &World, call: &Call, show: fn(&Number, &World) -> Value) -> Result<Vec<Value>, Refusal> {
    // Non-digits find nothing (contracts/telnyx.md 6.1); digits may be part of a number.
    let phone = call.filter("phone_number");
    let readable = phone.is_none_or(|digits| digits.len() >= 3 && digits.bytes().all(|b| b.is_ascii_digit()));
    let fits = |number: &&Number| {
        readable
            && phone.is_none_or(|digits| number.phone.contains(digits))
            && call.filter("status").is_none_or(|status| number.status == status)
            && call.filter("customer_reference").is_none_or(|text| number.reference.as_deref() == Some(text))
            && call.filter("connection_id").is_none_or(|id| number.connection.as_deref() == Some(id))
            && call.filter("country_iso_alpha2").is_none_or(|country| number.country == country)
            && call.filter("tag").is_none_or(|tag| number.tags.iter().any(|known| known == tag))
    };
    let mut found: Vec<&Number> = world.telnyx.numbers.values().filter(fits).collect();
    found.sort_by_key(|number| number.purchased);
    Ok(found.into_iter().map(|number| show(number, world)).collect())
}

fn known<'w>(world: &'w mut World, call: &Call) -> Result<&'w mut Number, Refusal> {
    if !call.arg(0).bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::new(404, 10006, "Phone number ids are decimal."));
    }
    world.telnyx.numbers.get_mut(call.arg(0)).ok_or_else(|| not_found("phone number"))
}

/// As `known`, and not given back.
fn owned<'w>(world: &'w mut World, call: &Call) -> Result<&'w mut Number, Refusal> {
    known(world, call).and_then(|number| if number.status == "deleted" { Err(not_found("phone number")) } else { Ok(number) })
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let number = known(world, call)?.clone();
    data(world, number.json(world))
}

fn update(world: &mut World, call: &Call) -> Outcome {
    let connection = call.input.get("connection_id").map(|id| id.as_str().unwrap_or_default().to_owned());
    if connection.as_ref().is_some_and(|id| !id.is_empty() && !world.telnyx.apps.contains_key(id)) {
        return Err(Refusal::new(422, 85004, "No such connection.").at("/connection_id"));
    }
    let now = world.now;
    let number = owned(world, call)?;
    if let Some(id) = connection {
        number.connection = Some(id).filter(|id| !id.is_empty());
    }
    if let Some(reference) = call.text("customer_reference") {
        number.reference = Some(reference.to_owned());
    }
    if let Some(group) = call.text("billing_group_id") {
        number.billing_group = Some(group.to_owned());
    }
    if let Some(tags) = call.input.get("tags").and_then(Value::as_array) {
        number.tags.clone_from(tags);
    }
    number.updated = now;
    let number = number.clone();
    data(world, number.json(world))
}

fn messaging_json(number: &Number, world: &World) -> Value {
    let sms = json!({"domestic_two_way": true, "international_inbound": true, "international_outbound": false});
    json!({
        "id": number.id, "record_type": "messaging_settings", "phone_number": number.phone, "country_code": number.country,
        "type": if number.kind == "toll_free" { "tollfree" } else { "longcode" }, "messaging_profile_id": number.profile,
        "messaging_product": "A2P", "traffic_type": "A2P", "eligible_messaging_products": ["A2P"],
        "organization_id": world.telnyx.organization, "tags": number.tags,
        "features": {"sms": if number.sms { sms } else { Value::Null }, "mms": null},
        "health": {"message_count": 0, "inbound_outbound_ratio": 0, "success_ratio": 0, "spam_ratio": 0},
        "created_at": iso(number.purchased), "updated_at": iso(number.updated),
    })
}

fn messaging(world: &mut World, call: &Call) -> Outcome {
    let number = owned(world, call)?.clone();
    data(world, messaging_json(&number, world))
}

fn set_messaging(world: &mut World, call: &Call) -> Outcome {
    let wanted = call.text("messaging_profile_id").map(str::to_owned);
    if wanted.as_ref().is_some_and(|id| !id.is_empty() && !world.telnyx.profiles.contains_key(id)) {
        return Err(Refusal::new(422, 85005, "No such messaging profile.").at("/messaging_profile_id"));
    }
    let now = world.now;
    let number = owned(world, call)?;
    if wanted.as_ref().is_some_and(|id| !id.is_empty()) && !number.sms {
        return Err(Refusal::new(422, 40323, "This number carries no messages."));
    }
    if let Some(id) = wanted {
        number.profile = Some(id).filter(|id| !id.is_empty());
    }
    number.updated = now;
    let number = number.clone();
    data(world, messaging_json(&number, world))
}

fn voice_json(number: &Number) -> Value {
    json!({
        "id": number.id, "record_type": "voice_settings", "phone_number": number.phone, "connection_id": number.connection,
        "customer_reference": number.reference, "tech_prefix_enabled": false, "translated_number": "",
        "call_forwarding": number.forwarding, "inbound_call_screening": number.screening, "usage_payment_method": "pay-per-minute",
        "call_recording": {"inbound_call_recording_enabled": false, "inbound_call_recording_format": "wav",
            "inbound_call_recording_channels": "single"},
    })
}

fn voice(world: &mut World, call: &Call) -> Outcome {
    let number = owned(world, call)?.clone();
    data(world, voice_json(&number))
}

fn set_voice(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let number = owned(world, call)?;
    if let Some(screening) = call.text("inbound_call_screening") {
        number.screening = screening.to_owned();
    }
    if let Some(forwarding) = call.input.get("call_forwarding") {
        number.forwarding = forwarding.clone();
    }
    number.updated = now;
    let number = number.clone();
    data(world, voice_json(&number))
}

fn release(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let number = owned(world, call)?;
    number.status = "deleted";
    number.updated = now;
    let number = number.clone();
    if world.meta.is_registered(number.phone.trim_start_matches('+')) {
        world.telnyx.released_registered.insert(number.phone.clone());
    }
    data(world, number.json(world))
}

/// Whether this kind of number waits for documents.
pub(super) fn needs_papers(country: &str, kind: &str) -> bool {
    CATALOGUE.iter().any(|stock| stock.country.eq_ignore_ascii_case(country) && stock.kind == kind && stock.papers)
}
