//! Idempotency-Key: the work and its answer commit together, so the same request again finds the answer or nothing.

use crate::{
    App,
    ask::Asked,
    caller::Caller,
    problem::{Code, Problem},
};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use durable::Tx;
use serde::Serialize;
use store::idempotency::{self, Answer, Standing};
use uuid::Uuid;

/// The transaction of a request's work.
pub(crate) struct Once {
    pub(crate) tx: Tx<'static>,
    claim: Option<(Uuid, String, [u8; 32])>,
    app: App,
}

pub(crate) enum Begun {
    /// Do the work in `tx`, then `answer`.
    First(Once),
    /// It was done; this is what was answered.
    Again(Response),
}

impl Once {
    pub(crate) async fn begin(app: &App, caller: &Caller, asked: &Asked) -> Result<Begun, Problem> {
        let mut tx = app.front.db.begin().await?;
        let Some(key) = asked.key.clone() else {
            return Ok(Begun::First(Self { tx, claim: None, app: app.clone() }));
        };
        let scope = caller.scope();
        match idempotency::claim(&mut tx, scope, &key).await? {
            Standing::Ours => Ok(Begun::First(Self { tx, claim: Some((scope, key, asked.hash)), app: app.clone() })),
            Standing::InFlight => Err(Code::IDEMPOTENCY_KEY_IN_FLIGHT.into()),
            Standing::Answered(first) if first.request_hash != asked.hash => Err(Code::IDEMPOTENCY_KEY_REUSED.into()),
            Standing::Answered(first) => {
                let body = app.front.vault.open(&idempotency::context(scope, &key), &first.body_sealed)?;
                let status = u16::try_from(first.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
                let mut again = response(status.unwrap_or(StatusCode::OK), first.location.as_deref(), body.to_vec());
                again.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
                Ok(Begun::Again(again))
            }
        }
    }

    /// Keeps the answer, commits it with the work, gives it.
    pub(crate) async fn answer(
        mut self,
        status: StatusCode,
        location: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Response, Problem> {
        let body = serde_json::to_vec(body).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "An answer cannot be written");
            Problem::from(Code::INTERNAL)
        })?;
        if let Some((scope, key, request_hash)) = self.claim {
            let body_sealed = self.app.front.vault.seal(&idempotency::context(scope, &key), &body);
            let status = i16::try_from(status.as_u16()).unwrap_or(i16::MAX);
            let answer = Answer { request_hash, status, location: location.map(str::to_owned), body_sealed };
            idempotency::keep(&mut *self.tx, scope, &key, &answer).await?;
        }
        self.tx.commit().await?;
        Ok(response(status, location, body))
    }
}

fn response(status: StatusCode, location: Option<&str>, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(location) = location.and_then(|text| HeaderValue::from_str(text).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
