//! `/v1/numbers/orphans`: numbers at a provider that no line of ours claims.

use crate::{App, page::Page, problem::Problem};
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use store::lines;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Orphan)]
pub(crate) struct OrphanView {
    /// `telnyx` or `meta`
    pub(crate) provider: String,
    /// The provider's id of the number.
    pub(crate) number_id: String,
    /// E.164
    pub(crate) phone: String,
    pub(crate) customer_reference: Option<String>,
    pub(crate) why: String,
    pub(crate) first_seen_at: DateTime<Utc>,
    pub(crate) last_seen_at: DateTime<Utc>,
}

impl From<lines::Orphan> for OrphanView {
    fn from(orphan: lines::Orphan) -> Self {
        let lines::Orphan { provider, number_id, phone, customer_reference, why, first_seen_at, last_seen_at } = orphan;
        Self { provider, number_id, phone, customer_reference, why, first_seen_at, last_seen_at }
    }
}

/// Numbers that we pay for and no line claims, the oldest first, as the last sweep found them.
#[utoipa::path(get, path = "/v1/numbers/orphans", tag = "lines", responses((status = 200, body = Page<OrphanView>)))]
pub(crate) async fn orphans(State(app): State<App>) -> Result<Json<Page<OrphanView>>, Problem> {
    let orphans = lines::orphans(&app.front.db).await?;
    Ok(Json(Page { data: orphans.into_iter().map(OrphanView::from).collect(), next_cursor: None }))
}
