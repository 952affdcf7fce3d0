//! Media: uploaded, linked for five minutes, fetched, deleted (contracts/meta-cloud-api.md 9).

use axum::body::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{answer, missing, numbers::known, success, unknown};
use crate::{
    wire::{Answer, Call, Operation, Outcome, Refusal},
    world::World,
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "meta.media_upload", method: "POST", path: "{phone}/media", act: upload },
    Operation { name: "meta.media_download", method: "GET", path: "media_storage/{media}", act: download },
    Operation { name: "meta.media", method: "GET", path: "{media}", act: show },
    Operation { name: "meta.media_delete", method: "DELETE", path: "{media}", act: delete },
];

const LINK_LASTS: TimeDelta = TimeDelta::minutes(5);
/// Ours are kept longer than those that users sent.
const OURS_LAST: TimeDelta = TimeDelta::days(30);
const THEIRS_LAST: TimeDelta = TimeDelta::days(7);
const MEGABYTE: usize = 1024 * 1024;

/// A stored file.
pub(crate) struct Media {
    kind: String,
    bytes: Bytes,
    until: DateTime<Utc>,
}

/// Keeps a file that a user sent; its id.
pub(crate) fn receive(world: &mut World, kind: &str, bytes: Vec<u8>) -> String {
    keep(world, kind, bytes.into(), THEIRS_LAST)
}

fn keep(world: &mut World, kind: &str, bytes: Bytes, lasts: TimeDelta) -> String {
    let id = world.digits(16);
    let media = Media { kind: kind.to_owned(), bytes, until: world.now + lasts };
    world.meta.media.insert(id.clone(), media);
    id
}

fn find<'w>(world: &'w World, id: &str) -> Result<&'w Media, Refusal> {
    world.meta.media.get(id).filter(|media| media.until > world.now).ok_or_else(|| unknown(id))
}

/// A part's header lines, in lower case, and its bytes.
type Part = (String, Bytes);

/// The parts of a multipart body.
fn parts(call: &Call) -> Option<Vec<Part>> {
    let kind = call.headers.get("content-type")?.to_str().ok()?;
    let boundary = kind.split("boundary=").nth(1)?.trim_matches('"');
    let fence = format!("--{boundary}");
    let find = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).position(|window| window == wanted);
    let mut rest = call.body.clone();
    let mut parts = Vec::new();
    rest = rest.slice(find(&rest, fence.as_bytes())? + fence.len()..);
    while let Some(until) = find(&rest, fence.as_bytes()) {
        let part = rest.slice(..until);
        let head = find(&part, b"\r\n\r\n")?;
        let body = part.slice(head + 4..part.len().saturating_sub(2).max(head + 4));
        parts.push((String::from_utf8_lossy(&part[..head]).to_lowercase(), body));
        rest = rest.slice(until + fence.len()..);
    }
    Some(parts)
}

/// The largest file of a kind, if the kind is taken at all.
fn largest(kind: &str) -> Option<usize> {
    match kind {
        "image/jpeg" | "image/png" => Some(5 * MEGABYTE),
        "image/webp" => Some(500 * 1024),
        "video/mp4" | "video/3gpp" => Some(16 * MEGABYTE),
        kind if kind.starts_with("audio/") => Some(16 * MEGABYTE),
        kind if kind.starts_with("application/") || kind == "text/plain" => Some(100 * MEGABYTE),
        _ => None,
    }
}

fn upload(world: &mut World, call: &Call) -> Outcome {
    known(world, call)?;
    let parts = parts(call).ok_or_else(|| missing("file"))?;
    let named = |name: &str| parts.iter().find(|(head, _)| head.contains(&format!("name=\"{name}\"")));
    if named("messaging_product").is_none_or(|(_, value)| value != "whatsapp") {
        return Err(missing("messaging_product"));
    }
    let (head, bytes) = named("file").ok_or_else(|| missing("file"))?;
    let of_part = head.split("content-type:").nth(1).and_then(|rest| rest.lines().next()).map(|kind| kind.trim().to_owned());
    let of_field = named("type").map(|(_, kind)| String::from_utf8_lossy(kind).into_owned());
    let kind = of_part.filter(|kind| kind != "application/octet-stream").or(of_field).unwrap_or_default();
    let bare = kind.split(';').next().unwrap_or_default();
    let largest = largest(bare).ok_or_else(|| Refusal::new(400, 100, "This type of file is not taken."))?;
    if bytes.len() > largest {
        return Err(Refusal::new(400, 131_053, "The file is too large."));
    }
    let id = keep(world, &kind, bytes.clone(), OURS_LAST);
    answer(&json!({"id": id}))
}

fn show(world: &mut World, call: &Call) -> Outcome {
    let media = find(world, call.arg(0))?;
    let expires = (world.now + LINK_LASTS).timestamp();
    answer(
        &json!({"messaging_product": "whatsapp", "id": call.arg(0), "mime_type": media.kind, "file_size": media.bytes.len().to_string(),
        "sha256": hex::encode(Sha256::digest(&media.bytes)), "url": format!("{}/media_storage/{}?expires={expires}", call.base, call.arg(0))}),
    )
}

fn download(world: &mut World, call: &Call) -> Outcome {
    let expires = call.param("expires").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    match find(world, call.arg(0)) {
        Ok(media) if world.now.timestamp() <= expires => Ok(Answer::bytes("application/octet-stream", media.bytes.clone())),
        _ => Ok(Answer::json(404, &Value::Null)),
    }
}

fn delete(world: &mut World, call: &Call) -> Outcome {
    find(world, call.arg(0))?;
    world.meta.media.remove(call.arg(0));
    success()
}
