//! `/v1/sandbox/clock`: the time that the installation lives in, and the means to move it on.

use crate::{
    App,
    ask::Body,
    caller::Caller,
    once::{Begun, Once},
    problem::{Code, Problem},
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Ten years: a slip of the keyboard should not end the installation.
const ADVANCE_MAX_S: u64 = 10 * 366 * 86_400;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Time {
    now: DateTime<Utc>,
    /// Seconds ahead of real time.
    advanced_s: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Advance {
    #[schema(example = 2_678_400)]
    advance_s: u64,
}

/// The installation's time.
#[utoipa::path(get, path = "/v1/sandbox/clock", tag = "sandbox", responses((status = 200, body = Time)))]
pub(crate) async fn tell(State(app): State<App>) -> Result<Json<Time>, Problem> {
    if app.front.sandbox.is_none() {
        return Err(Code::SANDBOX_ONLY.into());
    }
    Ok(Json(time(&app)))
}

/// Moves time on; timers fire in the order in which they would have. Answers when all that became due is worked.
#[utoipa::path(post, path = "/v1/sandbox/clock", tag = "sandbox", params(("idempotency-key" = Option<String>, Header)), request_body = Advance,
    responses((status = 200, body = Time)))]
pub(crate) async fn advance(
    State(app): State<App>,
    caller: Caller,
    Body { asked, value: Advance { advance_s } }: Body<Advance>,
) -> Result<Response, Problem> {
    let sandbox = app.front.sandbox.clone().ok_or(Code::SANDBOX_ONLY)?;
    if !(1..=ADVANCE_MAX_S).contains(&advance_s) {
        return Err(Code::INVALID_ADVANCE.into());
    }
    let once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(response) => return Ok(response),
    };
    let (db, clock, by) = (&app.front.db, &app.front.clock, Duration::from_secs(advance_s));
    durable::advance_with(db, clock, by, |step| (sandbox.forward)(step), || (sandbox.settle)()).await?;
    once.answer(StatusCode::OK, None, &time(&app)).await
}

fn time(app: &App) -> Time {
    Time { now: app.front.clock.now(), advanced_s: app.front.clock.advanced().as_secs() }
}
