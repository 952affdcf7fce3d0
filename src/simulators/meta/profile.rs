//! Business profile and the resumable upload of its picture (contracts/meta-cloud-api.md 4.2 and 4.3).

use serde_json::{Value, json};

use super::{answer, missing, numbers::known, success, unknown};
use crate::{
    wire::{Call, Operation, Outcome, Refusal},
    world::World,
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "meta.profile_set", method: "POST", path: "{phone}/whatsapp_business_profile", act: set },
    Operation { name: "meta.profile", method: "GET", path: "{phone}/whatsapp_business_profile", act: show },
    Operation { name: "meta.upload_start", method: "POST", path: "{app}/uploads", act: start },
    Operation { name: "meta.upload", method: "POST", path: "{upload}", act: upload },
    Operation { name: "meta.upload_status", method: "GET", path: "{upload}", act: status },
];

#[rustfmt::skip]
const VERTICALS: [&str; 21] = ["ALCOHOL", "APPAREL", "AUTO", "BEAUTY", "EDU", "ENTERTAIN", "EVENT_PLAN", "FINANCE", "GOVT", "GROCERY",
    "HEALTH", "HOTEL", "NONPROFIT", "ONLINE_GAMBLING", "OTC_DRUGS", "OTHER", "PHYSICAL_GAMBLING", "PROF_SERVICES", "RESTAURANT",
    "RETAIL", "TRAVEL"];
/// Text fields and their longest values.
const TEXTS: [(&str, usize); 4] = [("about", 139), ("address", 256), ("description", 512), ("email", 128)];

/// An upload that is under way.
pub(super) struct Upload {
    length: usize,
    got: usize,
}

fn set(world: &mut World, call: &Call) -> Outcome {
    if call.text("messaging_product") != Some("whatsapp") {
        return Err(missing("messaging_product"));
    }
    for (field, longest) in TEXTS {
        if call.text(field).is_some_and(|text| text.chars().count() > longest) {
            return Err(Refusal::new(400, 100, format!("{field} is longer than {longest} characters.")));
        }
    }
    if call.text("vertical").is_some_and(|vertical| !VERTICALS.contains(&vertical)) {
        return Err(Refusal::new(400, 100, "vertical is not one of the known ones."));
    }
    let sites = call.input["websites"].as_array().map_or(&[][..], Vec::as_slice);
    let good = |site: &Value| site.as_str().is_some_and(|url| url.starts_with("http") && url.len() <= 256);
    if sites.len() > 2 || !sites.iter().all(good) {
        return Err(Refusal::new(400, 100, "websites are at most two URLs."));
    }
    if let Some(handle) = call.text("profile_picture_handle")
        && !world.meta.handles.contains_key(handle)
    {
        return Err(Refusal::new(400, 100, "profile_picture_handle is unknown."));
    }
    let number = known(world, call)?;
    let fields = TEXTS.iter().map(|(field, _)| *field).chain(["websites", "vertical"]);
    for field in fields {
        if let Some(value) = call.input.get(field) {
            number.profile[field] = value.clone();
        }
    }
    if let Some(handle) = call.text("profile_picture_handle") {
        number.profile["profile_picture_url"] = json!(format!("https://pps.example.net/{}.png", handle.len()));
    }
    success()
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let profile = known(world, call)?.profile.clone();
    answer(&json!({"data": [profile]}))
}

fn start(world: &mut World, call: &Call) -> Outcome {
    if call.arg(0) != world.config.meta.app_id && call.arg(0) != "app" {
        return Err(unknown(call.arg(0)));
    }
    let length = match &call.input["file_length"] {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64().and_then(|length| usize::try_from(length).ok()),
    };
    let length = length.filter(|length| *length > 0).ok_or_else(|| missing("file_length"))?;
    let kind = call.need("file_type", missing)?;
    if !["application/pdf", "image/jpeg", "image/jpg", "image/png", "video/mp4"].contains(&kind) {
        return Err(Refusal::new(400, 100, "This file type cannot be uploaded."));
    }
    let id = format!("upload:{}", world.uuid().replace('-', ""));
    world.meta.uploads.insert(id.clone(), Upload { length, got: 0 });
    answer(&json!({"id": id}))
}

fn upload(world: &mut World, call: &Call) -> Outcome {
    let session = world.meta.uploads.get_mut(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))?;
    let offset = call.headers.get("file_offset").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    if offset != Some(session.got) {
        return Err(Refusal::new(400, 100, format!("file_offset must be {}.", session.got)));
    }
    session.got += call.body.len();
    let (got, length) = (session.got, session.length);
    if got > length {
        return Err(Refusal::new(400, 100, "More bytes than announced."));
    }
    if got < length {
        return answer(&json!({"id": call.arg(0), "file_offset": got}));
    }
    world.meta.uploads.remove(call.arg(0));
    let handle = format!("4::{}", world.uuid().replace('-', ""));
    world.meta.handles.insert(handle.clone(), length);
    answer(&json!({"h": handle}))
}

fn status(world: &mut World, call: &Call) -> Outcome {
    let session = world.meta.uploads.get(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))?;
    answer(&json!({"id": call.arg(0), "file_offset": session.got}))
}
