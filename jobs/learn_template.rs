//! News about a template, from a webhook or a look: kept, told, and the sends that use it moved.

use crate::{Tools, run_lane, signals::TemplateReviewed};
use chrono::Duration;
use domain::{Failure, LineId, TemplateId};
use durable::Tx;
use providers::{MetaEvent, MetaNews, meta::TemplateStatus};
use store::{
    events,
    templates::{self, News},
};
use tracing::info;

/// How long Meta pauses a template the first and the second time; the third it is disabled for good (6.3).
const PAUSES: [(&str, i64); 2] = [("FIRST_PAUSE", 3), ("SECOND_PAUSE", 6)];

/// Applies news, tells the tenant, and wakes or holds the sends that wait for the template. Older news changes nothing.
pub async fn learn_template(tools: &Tools, id: TemplateId, news: &News) -> Result<bool, Failure> {
    let mut tx = tools.db.begin().await?;
    let learnt = learn(&mut tx, id, news).await?;
    tx.commit().await?;
    Ok(learnt)
}

async fn learn(tx: &mut Tx<'_>, id: TemplateId, news: &News) -> Result<bool, Failure> {
    if !templates::learn(&mut **tx, id, news).await? {
        return Ok(false);
    }
    let Some(template) = templates::by_id(&mut **tx, id).await? else { return Ok(false) };
    let data = serde_json::to_value(&template).map_err(|error| Failure::rejected(error.to_string()))?;
    events::append(tx, template.tenant_id, "template.status", &data).await?;
    if news.status.is_some() && template.status != "PENDING" {
        // Approved: they go. Gone for good: they fail with the reason. Both are for the lane to say.
        let lines: Vec<LineId> = templates::wake_sends(&mut **tx, id).await?.into_iter().map(LineId).collect();
        run_lane::wake(tx, &lines).await?;
    }
    Ok(true)
}

/// What a webhook says about a template; `false` if we have no such template.
pub(crate) async fn take(tx: &mut Tx<'_>, event: &MetaEvent) -> Result<bool, Failure> {
    let (meta_id, name, language, news) = match event.news() {
        MetaNews::Template(change) => {
            // Flags and locks leave a template sendable; reinstated and unarchived ones are approved again.
            let status = match change.event.as_str() {
                "FLAGGED" | "LOCKED" => None,
                "REINSTATED" | "UNARCHIVED" => Some(TemplateStatus::Approved.as_str().to_owned()),
                word => Some(word.to_owned()),
            };
            let pause = change.pause.as_deref().and_then(|pause| PAUSES.iter().find(|(title, _)| *title == pause));
            let reason = change.reason.clone().or(change.recommendation.clone()).or(change.pause.clone());
            let news = News {
                status,
                reason: reason.filter(|reason| reason != "NONE"),
                meta_template_id: Some(change.id.clone()),
                paused_until: pause.and_then(|(_, hours)| Some(event.time? + Duration::hours(*hours))),
                at: event.time,
                ..News::default()
            };
            (change.id, change.name, change.language, news)
        }
        MetaNews::TemplateQuality(quality) => {
            let news = News { quality: Some(quality.new.as_str().to_owned()), ..News::default() };
            (quality.id, quality.name, quality.language, news)
        }
        MetaNews::TemplateRecategorised(change) => {
            // Impending changes name the right category for later; only a done one changes the price.
            let done = change.previous.is_some() && change.correct.is_none();
            let news = News { category: done.then(|| change.new.as_str().to_owned()), ..News::default() };
            (change.id, change.name, change.language, news)
        }
        _ => return Ok(false),
    };
    let Some((id, _)) = templates::at_meta(&mut **tx, &event.account, &meta_id, &name, &language).await? else {
        return Ok(false);
    };
    info!(template.id = %id, "Meta says of template {id}: {}", news.status.as_deref().unwrap_or("news"));
    learn(tx, id, &news).await?;
    durable::signal(tx, id, &TemplateReviewed::default()).await?;
    Ok(true)
}
