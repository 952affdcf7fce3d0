//! Inbound SMS and the profiles that carry it (contracts/telnyx.md 8).

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{data, missing, not_found, page};
use crate::{
    wire::{Call, Operation, Outcome},
    world::{World, iso},
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "telnyx.profile_create", method: "POST", path: "messaging_profiles", act: create },
    Operation { name: "telnyx.profiles", method: "GET", path: "messaging_profiles", act: list },
    Operation { name: "telnyx.profile", method: "GET", path: "messaging_profiles/{id}", act: show },
    Operation { name: "telnyx.profile_update", method: "PATCH", path: "messaging_profiles/{id}", act: update },
    Operation { name: "telnyx.message", method: "GET", path: "messages/{id}", act: message },
];

pub(super) fn profile(id: &str, name: &str, url: &str, now: DateTime<Utc>) -> Value {
    json!({"id": id, "record_type": "messaging_profile", "name": name, "enabled": true, "webhook_url": url,
        "webhook_failover_url": null, "webhook_api_version": "2", "whitelisted_destinations": ["MA"], "redaction_enabled": false,
        "created_at": iso(now), "updated_at": iso(now)})
}

fn create(world: &mut World, call: &Call) -> Outcome {
    let name = call.need("name", missing)?;
    let id = world.uuid();
    let body = profile(&id, name, call.text("webhook_url").unwrap_or_default(), world.now);
    world.telnyx.profiles.insert(id, body.clone());
    data(world, body)
}

fn list(world: &mut World, call: &Call) -> Outcome {
    let profiles = world.telnyx.profiles.values().cloned().collect();
    page(world, call, profiles)
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let profile = world.telnyx.profiles.get(call.arg(0)).cloned().ok_or_else(|| not_found("messaging profile"))?;
    data(world, profile)
}

fn update(world: &mut World, call: &Call) -> Outcome {
    let profile = world.telnyx.profiles.get_mut(call.arg(0)).ok_or_else(|| not_found("messaging profile"))?;
    for (name, value) in call.input.as_object().into_iter().flatten() {
        profile[name] = value.clone();
    }
    let profile = profile.clone();
    data(world, profile)
}

fn message(world: &mut World, call: &Call) -> Outcome {
    let message = world.telnyx.messages.get(call.arg(0)).cloned().ok_or_else(|| not_found("message"))?;
    data(world, message)
}

/// Somebody texts one of our numbers. Nothing happens unless it is active and has a messaging profile.
pub(crate) fn text_to(world: &mut World, to: &str, from: &str, text: &str) {
    let number = world.telnyx.held(to).filter(|number| number.status == "active" && number.sms);
    let profile = number.and_then(|number| number.profile.clone());
    let Some((profile, settings)) = profile.and_then(|id| world.telnyx.profiles.get(&id).map(|body| (id, body))) else {
        world.telnyx.unheard += 1;
        return;
    };
    let url = settings["webhook_url"].as_str().unwrap_or_default().to_owned();
    let id = world.uuid();
    let encoding = if text.is_ascii() { "GSM-7" } else { "UCS-2" };
    let payload = json!({
        "id": id, "record_type": "message", "direction": "inbound", "type": "SMS", "messaging_profile_id": profile,
        "organization_id": world.telnyx.organization, "from": {"phone_number": from, "carrier": "", "line_type": "", "status": "received"},
        "to": [{"phone_number": to, "carrier": "Telnyx", "line_type": "Wireless", "status": "webhook_delivered"}], "cc": [],
        "text": text, "encoding": encoding, "parts": 1, "media": [], "tags": [], "errors": [], "received_at": iso(world.now),
        "sent_at": null, "completed_at": null, "valid_until": null, "cost": {"amount": "0.0000", "currency": "USD"},
        "webhook_url": url, "webhook_failover_url": null,
    });
    world.telnyx.details.push(json!({"record_type": "messaging", "uuid": id, "cli": from, "cld": to, "direction": "inbound",
        "status": "received", "created_at": iso(world.now), "cost": "0.0000", "currency": "USD", "parts": 1, "profile_id": profile}));
    world.telnyx.messages.insert(id, payload.clone());
    let about = world.aliases(to.trim_start_matches('+'));
    let payload = super::shaped(world, payload);
    world.telnyx_event(&url, &about, "message.received", payload);
}
