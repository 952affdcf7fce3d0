//! What a country wants to see before a number works (contracts/telnyx.md 5.5).

use serde_json::{Value, json};

use super::{data, missing, not_found, page};
use crate::{
    wire::{Answer, Call, Operation, Outcome, Refusal},
    world::{World, fixed_uuid, iso},
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "telnyx.requirements", method: "GET", path: "requirements", act: requirements },
    Operation { name: "telnyx.group_create", method: "POST", path: "requirement_groups", act: create },
    Operation { name: "telnyx.groups", method: "GET", path: "requirement_groups", act: list },
    Operation { name: "telnyx.group", method: "GET", path: "requirement_groups/{id}", act: show },
    Operation { name: "telnyx.group_update", method: "PATCH", path: "requirement_groups/{id}", act: update },
    Operation { name: "telnyx.group_submit", method: "POST", path: "requirement_groups/{id}/submit_for_approval", act: submit },
    Operation { name: "telnyx.document_upload", method: "POST", path: "documents", act: document },
    Operation { name: "telnyx.address_create", method: "POST", path: "addresses", act: address },
];

/// What every regulated kind wants here: who it is and proof of it.
const WANTED: [(&str, &str); 2] = [("identity", "document"), ("company name", "textual")];

/// The empty requirements of an order line.
pub(super) fn wanted(country: &str, kind: &str) -> Vec<Value> {
    let value = |(what, field): &(&str, &str)| {
        json!({"record_type": "phone_number_regulatory_requirement", "requirement_id": fixed_uuid(&format!("{what} {country} {kind}")),
            "field_type": field, "field_value": ""})
    };
    WANTED.iter().map(value).collect()
}

pub(super) fn is_approved(world: &World, group: &str) -> bool {
    world.telnyx.groups.get(group).is_some_and(|group| group["status"] == "approved")
}

/// The values of a group, as an order line carries them.
pub(super) fn values_of(world: &World, group: &str) -> Option<Vec<Value>> {
    let group = world.telnyx.groups.get(group)?;
    let value = |filled: &Value| {
        json!({"record_type": "phone_number_regulatory_requirement", "requirement_id": filled["requirement_id"],
            "field_type": filled["field_type"], "field_value": filled["field_value"]})
    };
    Some(group["regulatory_requirements"].as_array()?.iter().map(value).collect())
}

fn requirements(world: &mut World, call: &Call) -> Outcome {
    let country = call.filter("country_code").unwrap_or("DE");
    let kind = call.filter("phone_number_type").unwrap_or("local");
    let type_of = |(what, field): &(&str, &str)| {
        json!({"id": fixed_uuid(&format!("{what} {country} {kind}")), "record_type": "requirement_type", "name": what, "type": field,
            "description": format!("The {what} of the end user"), "example": "", "acceptance_criteria": {},
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"})
    };
    let types: Vec<Value> = WANTED.iter().map(type_of).collect();
    let asked = super::numbers::needs_papers(country, kind);
    let rows = asked.then(|| {
        json!({"id": fixed_uuid(&format!("{country} {kind}")), "record_type": "requirement", "country_code": country,
            "phone_number_type": kind, "action": "ordering", "locality": "", "requirements_types": types,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"})
    });
    page(world, call, rows.into_iter().collect())
}

fn create(world: &mut World, call: &Call) -> Outcome {
    let country = call.need("country_code", missing)?;
    let kind = call.need("phone_number_type", missing)?;
    let given = call.input.get("regulatory_requirements").and_then(Value::as_array).cloned().unwrap_or_default();
    let now = iso(world.now);
    let mut values = wanted(country, kind);
    for value in &mut values {
        let filled = given.iter().find(|given| given["requirement_id"] == value["requirement_id"]);
        value["field_value"] = filled.map_or(json!(""), |given| given["field_value"].clone());
        value["status"] = json!("unapproved");
        value["created_at"] = json!(now);
        value["updated_at"] = json!(now);
    }
    let id = world.uuid();
    let group = json!({"id": id, "record_type": "requirement_group", "country_code": country, "phone_number_type": kind,
        "action": call.text("action").unwrap_or("ordering"), "status": "unapproved",
        "customer_reference": call.text("customer_reference").unwrap_or_default(), "created_at": now, "updated_at": now,
        "regulatory_requirements": values});
    world.telnyx.groups.insert(id, group.clone());
    Ok(Answer::json(200, &group))
}

fn list(world: &mut World, _: &Call) -> Outcome {
    let groups: Vec<&Value> = world.telnyx.groups.values().collect();
    Ok(Answer::json(200, &json!(groups)))
}

fn found<'w>(world: &'w mut World, call: &Call) -> Result<&'w mut Value, Refusal> {
    world.telnyx.groups.get_mut(call.arg(0)).ok_or_else(|| not_found("requirement group"))
}

fn show(world: &mut World, call: &Call) -> Outcome {
    found(world, call).map(|group| Answer::json(200, group))
}

fn update(world: &mut World, call: &Call) -> Outcome {
    let given = call.input.get("regulatory_requirements").and_then(Value::as_array).cloned().unwrap_or_default();
    let group = found(world, call)?;
    for value in group["regulatory_requirements"].as_array_mut().into_iter().flatten() {
        if let Some(given) = given.iter().find(|given| given["requirement_id"] == value["requirement_id"]) {
            value["field_value"] = given["field_value"].clone();
        }
    }
    Ok(Answer::json(200, group))
}

fn submit(world: &mut World, call: &Call) -> Outcome {
    let group = found(world, call)?;
    group["status"] = json!("pending-approval");
    let answer = Answer::json(200, group);
    let (id, delay) = (call.arg(0).to_owned(), world.config.delays.papers_ms);
    world.after("group review", delay, move |world| {
        if let Some(group) = world.telnyx.groups.get_mut(&id) {
            group["status"] = json!("approved");
        }
    });
    Ok(answer)
}

fn document(world: &mut World, call: &Call) -> Outcome {
    let id = world.uuid();
    let now = iso(world.now);
    let size = json!({"unit": "bytes", "amount": call.body.len()});
    let body = json!({"id": id, "record_type": "document", "filename": call.text("filename").unwrap_or("document"),
        "content_type": "application/pdf", "size": size, "status": "pending", "av_scan_status": "scanned", "created_at": now, "updated_at": now});
    world.telnyx.documents.insert(id, body.clone());
    data(world, body)
}

fn address(world: &mut World, call: &Call) -> Outcome {
    call.need("street_address", missing)?;
    call.need("locality", missing)?;
    call.need("country_code", missing)?;
    let id = format!("21{}", world.digits(17));
    let mut body = call.input.clone();
    body["id"] = json!(id);
    body["record_type"] = json!("address");
    body["created_at"] = json!(iso(world.now));
    body["updated_at"] = json!(iso(world.now));
    world.telnyx.addresses.insert(id, body.clone());
    data(world, body)
}
