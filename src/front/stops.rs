//! `POST …/resume`: an operator says that what stopped a line, or an account, is over.

use crate::{App, ask::Path, problem::Problem};
use axum::{Json, extract::State};
use domain::LineId;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Resumed {
    /// False: nothing had stopped it.
    resumed: bool,
}

/// Lets a stopped or restricted line send again, at once.
#[utoipa::path(post, path = "/v1/lines/{id}/resume", tag = "lines", params(("id" = Uuid, Path)), responses((status = 200, body = Resumed)))]
pub(crate) async fn line(State(app): State<App>, Path(id): Path<LineId>) -> Result<Json<Resumed>, Problem> {
    store::lines::get_any(&app.front.db, id).await?.ok_or_else(Problem::not_found)?;
    let mut tx = app.front.db.begin().await?;
    let resumed = jobs::resume_line(&mut tx, id).await?;
    tx.commit().await?;
    tracing::info!(line.id = %id, "An operator lets line {id} send again");
    Ok(Json(Resumed { resumed }))
}

/// Lets every line of a messaging account send again, at once.
#[utoipa::path(post, path = "/v1/accounts/{id}/resume", tag = "lines", params(("id" = String, Path, description = "Meta's id of the messaging account")),
    responses((status = 200, body = Resumed)))]
pub(crate) async fn account(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Resumed>, Problem> {
    let mut tx = app.front.db.begin().await?;
    if !store::lanes::is_known(&mut *tx, &id).await? {
        return Err(Problem::not_found());
    }
    let resumed = jobs::free_account(&mut tx, &id).await?;
    tx.commit().await?;
    tracing::info!(meta.account = id, "An operator lets account {id} send again");
    Ok(Json(Resumed { resumed }))
}
