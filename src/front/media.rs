//! `/v1/media`: files to be sent, and files that came with messages.

use crate::{
    App,
    ask::{AboutFile, FileBody, Path, too_large},
    caller::Caller,
    messages::own,
    once::{Begun, Once},
    problem::{Code, Problem},
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    LineId,
    media::{essence, kind_of, looks_like},
};
use jobs::{Tools, UploadMedia};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use store::{
    lines,
    media::{self, Media, Upload, content_context},
};
use utoipa::ToSchema;
use uuid::Uuid;

/// A file given to us is kept as long as Meta keeps its copy.
const KEPT: TimeDelta = TimeDelta::days(30);
/// Longest file name, in characters.
const FILENAME_MAX_CHARS: usize = 240;

/// A file that may be sent by its id until it expires.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Uploaded {
    id: Uuid,
    expires_at: DateTime<Utc>,
}

/// A file as a form; its type is `type`, or its part's own.
#[derive(Serialize, ToSchema)]
struct FileForm {
    /// The line that will send it; or in the query.
    line_id: Uuid,
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    r#type: Option<String>,
    filename: Option<String>,
}

/// Takes a file: as the body, with its type in `Content-Type`, or as a form with the field `file`.
#[utoipa::path(post, path = "/v1/media", tag = "messages", params(AboutFile, ("idempotency-key" = Option<String>, Header)),
    request_body(content((FileForm = "multipart/form-data"), (Vec<u8> = "application/octet-stream"))), responses((status = 201, body = Uploaded)))]
pub(crate) async fn upload(
    State(app): State<App>,
    caller: Caller,
    FileBody { asked, about, bytes }: FileBody,
) -> Result<Response, Problem> {
    let tenant = own(&caller)?;
    let mime_type = about.mime_type.unwrap_or_default();
    let kind = kind_of(&mime_type).ok_or(Code::MEDIA_TYPE)?;
    if bytes.is_empty() || !looks_like(&mime_type, &bytes) {
        return Err(Problem::new(Code::MEDIA_CONTENT, format!("The file is not of type {}", essence(&mime_type))));
    }
    if bytes.len() > kind.max_bytes_of(&bytes) {
        return Err(too_large(kind.max_bytes_of(&bytes)));
    }
    let line_id = about.line_id.as_deref().and_then(|id| id.parse().ok());
    let line_id = line_id.ok_or_else(|| Problem::new(Code::BAD_QUERY, "line_id names the line that will send the file"))?;
    let filename = about.filename.filter(|name| !name.is_empty());
    if filename.as_ref().is_some_and(|name| name.chars().count() > FILENAME_MAX_CHARS || name.contains(['/', '\\', '\0'])) {
        return Err(Problem::new(
            Code::INVALID_NAME,
            format!("A file name has up to {FILENAME_MAX_CHARS} characters and no path"),
        ));
    }
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let line = lines::get(&mut *once.tx, tenant, LineId(line_id)).await?.ok_or_else(Problem::not_found)?;
    let id = Uuid::now_v7();
    let expires_at = app.front.clock.now() + KEPT;
    let new = Upload {
        media_id: id,
        line_id: LineId(line.line_id),
        mime_type: essence(&mime_type),
        filename,
        size_bytes: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        sha256: hex::encode(Sha256::digest(&bytes)),
        content_sealed: app.front.vault.seal(&content_context(id), &bytes),
        expires_at,
    };
    media::keep(&mut *once.tx, tenant, &new).await?;
    durable::enqueue::<Tools, _>(&mut once.tx, &UploadMedia { tenant, media: id }).await?;
    once.answer(StatusCode::CREATED, Some(&format!("/v1/media/{id}")), &Uploaded { id, expires_at }).await
}

/// A file, without its content.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Media)]
pub(crate) struct MediaView {
    id: Uuid,
    line_id: Uuid,
    /// The message it came with; null: it was given to us.
    message_id: Option<Uuid>,
    /// `ready`, `fetching`, `failed` or `erased`
    status: &'static str,
    /// Why it can never be had.
    reason: Option<String>,
    mime_type: String,
    filename: Option<String>,
    size_bytes: Option<i64>,
    /// Hex.
    sha256: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

fn status(file: &Media, now: DateTime<Utc>) -> &'static str {
    if file.erased_at.is_some() || file.expires_at.is_some_and(|until| until <= now) {
        "erased"
    } else if file.here {
        "ready"
    } else if file.failed.is_some() {
        "failed"
    } else {
        "fetching"
    }
}

/// What a file is and whether it is here.
#[utoipa::path(get, path = "/v1/media/{id}", tag = "messages", params(("id" = Uuid, Path)), responses((status = 200, body = MediaView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Json<MediaView>, Problem> {
    let file = media::get(&app.front.db, own(&caller)?, id).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(MediaView {
        id: file.media_id,
        line_id: file.line_id.0,
        message_id: file.message_id.map(|id| id.0),
        status: status(&file, app.front.clock.now()),
        reason: file.failed,
        mime_type: file.mime_type,
        filename: file.filename,
        size_bytes: file.size_bytes,
        sha256: file.sha256,
        expires_at: file.expires_at,
        created_at: file.created_at,
    }))
}

/// The file itself, as its own type.
#[utoipa::path(get, path = "/v1/media/{id}/content", tag = "messages", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The file", content_type = "application/octet-stream")))]
pub(crate) async fn content(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Response, Problem> {
    let (tenant, db) = (own(&caller)?, &app.front.db);
    let file = media::get(db, tenant, id).await?.ok_or_else(Problem::not_found)?;
    match status(&file, app.front.clock.now()) {
        "ready" => {}
        "fetching" => return Err(Code::MEDIA_NOT_HERE.into()),
        _ => return Err(Problem::new(Code::MEDIA_GONE, file.failed.unwrap_or_else(|| Code::MEDIA_GONE.title.to_owned()))),
    }
    let sealed = media::content(db, tenant, id).await?.ok_or(Code::MEDIA_GONE)?;
    let mut plain = app.front.vault.open(&content_context(id), &sealed)?;
    let mut response = Response::new(Body::from(std::mem::take(&mut *plain)));
    let headers = response.headers_mut();
    let mime_type = HeaderValue::from_str(&file.mime_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, mime_type);
    // A stranger chose it: nothing of it may run in our name.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(response)
}

/// Erases a file; the message it belongs to stays.
#[utoipa::path(delete, path = "/v1/media/{id}", tag = "messages", params(("id" = Uuid, Path)), responses((status = 204, description = "Erased, now or before")))]
pub(crate) async fn erase(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, Problem> {
    if media::erase(&app.front.db, own(&caller)?, id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found()) }
}
