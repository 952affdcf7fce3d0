//! What a request says: body, path and query, each refused with its own problem.

use crate::{
    App,
    problem::{Code, Problem},
};
use axum::{
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Multipart, Request, multipart::MultipartError},
    http::{HeaderMap, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use domain::media::{essence, kind_of};
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

/// Time for a file to arrive.
pub(crate) const FILE_PATIENCE: Duration = Duration::from_secs(240);
/// Longest `Idempotency-Key`, in characters.
const IDEMPOTENCY_KEY_MAX_CHARS: usize = 255;

/// The whole body, within `limit` bytes and `patience`.
pub(crate) async fn read_body(request: Request, limit: usize, patience: Duration) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Code::BODY_TOO_LARGE, format!("The body may have {limit} bytes")).with("limit_bytes", limit);
    let told = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let read = async {
        let mut chunks = request.into_body().into_data_stream();
        let mut body = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::from(Code::BODY_BROKEN_OFF))?;
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(patience, read).await.map_err(|_| Code::BODY_TOO_SLOW)?
}

/// JSON of any shape; too deep is malformed too. PostgreSQL keeps no U+0000, so no text may hold one.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let refused = |error: serde_json::Error| {
        let code = match error.classify() {
            serde_json::error::Category::Data => Code::INVALID_BODY,
            _ => Code::MALFORMED_JSON,
        };
        Problem::new(code, error.to_string())
    };
    // Rare, so that only a body that spells one is looked at twice.
    if bytes.windows(NUL.len()).any(|window| window == NUL) && holds_nul(&serde_json::from_slice(bytes).map_err(refused)?) {
        return Err(Problem::new(Code::INVALID_BODY, "A text holds U+0000"));
    }
    serde_json::from_slice(bytes).map_err(refused)
}

const NUL: &[u8] = b"\\u0000";

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

/// What makes two requests the same: `Idempotency-Key`, and a hash of method, path and body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) key: Option<String>,
    pub(crate) hash: [u8; 32],
    bytes: Bytes,
    has_json_type: bool,
}

impl FromRequest<App> for Asked {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let key = idempotency_key(request.headers())?;
        let has_json_type = is_json(request.headers());
        let mut hash = Sha256::new();
        hash.update(request.method().as_str());
        hash.update([0]);
        hash.update(request.uri().path());
        hash.update([0]);
        let limits = &app.front.limits;
        let bytes = read_body(request, limits.body_bytes, limits.body_patience).await?;
        hash.update(&bytes);
        Ok(Self { key, hash: hash.finalize().into(), bytes, has_json_type })
    }
}

/// A JSON body.
#[derive(Debug, Clone)]
pub(crate) struct Body<T> {
    pub(crate) asked: Asked,
    pub(crate) value: T,
}

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let asked = Asked::from_request(request, app).await?;
        if !asked.has_json_type {
            return Err(Code::NOT_JSON.into());
        }
        let value = parse(&asked.bytes)?;
        Ok(Self { asked, value })
    }
}

/// A file to keep: as the body itself, or as the part `file` of a form, with what is told of it.
pub(crate) struct FileBody {
    pub(crate) asked: Asked,
    pub(crate) about: AboutFile,
    pub(crate) bytes: Bytes,
}

/// Told in the query, in a form's fields or by a part's headers; the query goes first.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AboutFile {
    /// The line that will send it.
    pub(crate) line_id: Option<String>,
    /// Shown with documents.
    pub(crate) filename: Option<String>,
    #[serde(skip)]
    pub(crate) mime_type: Option<String>,
}

/// Files that may be on their way in at once: each may have a hundred megabytes.
static FILES: Semaphore = Semaphore::const_new(4);
/// Bytes of a form's field that is no file.
const FIELD_MAX_BYTES: usize = 4 << 10;

impl FromRequest<App> for FileBody {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let _place = FILES.try_acquire().map_err(|_| Code::OVERLOADED)?;
        let key = idempotency_key(request.headers())?;
        let what = format!("{} {}", request.method(), request.uri().path());
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let (mut parts, body) = request.into_parts();
        let Query(mut about) = Query::<AboutFile>::from_request_parts(&mut parts, app).await?;
        let request = Request::from_parts(parts, body);
        let read = async {
            if essence(&content_type) == "multipart/form-data" {
                read_form(request, &mut about).await
            } else {
                let mut body = request.into_body().into_data_stream();
                let limit = file_limit(&content_type)?;
                about.mime_type = Some(content_type);
                read_file(&mut body, limit).await
            }
        };
        let bytes = tokio::time::timeout(FILE_PATIENCE, read).await.map_err(|_| Code::BODY_TOO_SLOW)??;
        // What a form's boundary is called does not matter.
        let mut hash = Sha256::new();
        let told = [about.line_id.as_deref(), about.filename.as_deref(), about.mime_type.as_deref()];
        for part in [what.as_str()].into_iter().chain(told.map(Option::unwrap_or_default)) {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(&bytes);
        let asked = Asked { key, hash: hash.finalize().into(), bytes: Bytes::new(), has_json_type: false };
        Ok(Self { asked, about, bytes })
    }
}

/// A form as Meta takes it: `file` with its own type and name, beside it `type`, `line_id`, `filename`. Other fields are ignored.
async fn read_form(mut request: Request, about: &mut AboutFile) -> Result<Bytes, Problem> {
    let broken = |error: MultipartError| Problem::new(Code::BAD_FORM, error.body_text());
    // Each part is limited where it is read.
    DefaultBodyLimit::disable().apply(&mut request);
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|error| Problem::new(Code::BAD_FORM, error.body_text()))?;
    let mut file = None;
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            if file.is_some() {
                return Err(Problem::new(Code::BAD_FORM, "The form has more than one file"));
            }
            about.filename = about.filename.take().or(field.file_name().map(str::to_owned));
            about.mime_type = about.mime_type.take().or(field.content_type().map(str::to_owned));
            let limit = about.mime_type.as_deref().map_or(Err(Code::MEDIA_TYPE.into()), file_limit)?;
            let mut chunks = std::pin::pin!(field);
            file = Some(read_file(&mut chunks, limit).await?);
            continue;
        }
        let mut text = Vec::new();
        while let Some(chunk) = field.chunk().await.map_err(broken)? {
            if text.len() + chunk.len() > FIELD_MAX_BYTES {
                return Err(Problem::new(Code::BAD_FORM, format!("The field {name} may have {FIELD_MAX_BYTES} bytes")));
            }
            text.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(text).map_err(|_| Problem::new(Code::BAD_FORM, format!("The field {name} is not UTF-8")))?;
        match name.as_str() {
            "line_id" => about.line_id = about.line_id.take().or(Some(text)),
            "filename" => about.filename = Some(text),
            "type" => about.mime_type = Some(text),
            _ => {}
        }
    }
    file.ok_or_else(|| Problem::new(Code::BAD_FORM, "The form has no field named file"))
}

/// How much a file of a type may have, in bytes; a type that is not taken is refused before its file is read.
fn file_limit(mime_type: &str) -> Result<usize, Problem> {
    match kind_of(mime_type) {
        Some(kind) => Ok(kind.max_bytes()),
        None if mime_type.is_empty() => Err(Code::MEDIA_TYPE.into()),
        None => Err(Problem::new(Code::MEDIA_TYPE, format!("WhatsApp takes no files of type {}", essence(mime_type)))),
    }
}

async fn read_file<E>(chunks: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin), limit: usize) -> Result<Bytes, Problem> {
    let mut file = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::from(Code::BODY_BROKEN_OFF))?;
        if file.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        file.extend_from_slice(&chunk);
    }
    Ok(file.freeze())
}

/// A file above what its type may have.
pub(crate) fn too_large(limit: usize) -> Problem {
    Problem::new(Code::MEDIA_TOO_LARGE, format!("A file of this type may have {limit} bytes")).with("limit_bytes", limit)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().map_err(|_| Code::BAD_IDEMPOTENCY_KEY)?.trim();
    let good = (1..=IDEMPOTENCY_KEY_MAX_CHARS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(Some(key.to_owned())) } else { Err(Code::BAD_IDEMPOTENCY_KEY.into()) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let told = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = told.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Path parameters; what is no id names nothing.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.path().contains("%00") {
            return Err(Problem::not_found());
        }
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|_| Problem::not_found())
    }
}

pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.query().is_some_and(|query| query.contains("%00")) {
            return Err(Problem::new(Code::BAD_QUERY, "A text holds U+0000"));
        }
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| Problem::new(Code::BAD_QUERY, error.body_text()))
    }
}
