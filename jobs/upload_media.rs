//! A file given to us to be sent: uploaded to Meta as soon as it is here, so that the first message that names it need not wait.

use crate::{Tools, run_lane};
use domain::{Failure, LineId, TenantId, media::visit};
use durable::{Ctx, Job};
use providers::Meta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use store::{lanes, media};
use uuid::Uuid;

/// Enqueued with the file's row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadMedia {
    pub tenant: TenantId,
    pub media: Uuid,
}

impl Job<Tools> for UploadMedia {
    const QUEUE: &'static str = "upload_media";
    /// A hundred megabytes take their time.
    const PATIENCE: Duration = Duration::from_secs(300);

    async fn run(self, tools: &Tools, _ctx: &Ctx) -> Result<(), Failure> {
        let Some(file) = media::get(&tools.db, self.tenant, self.media).await? else { return Ok(()) };
        let Some(sender) = lanes::sender(&tools.db, file.line_id).await? else { return Ok(()) };
        let Some(number) = &sender.phone_number_id else { return Ok(()) };
        let meta = run_lane::access(tools, &sender, file.line_id)?;
        if file.here && file.meta_media_id.is_none() {
            upload(tools, &meta, number, &file).await?;
        }
        Ok(())
    }
}

/// Uploads a file; answers Meta's id. Twice does no harm: the copy that nobody names expires by itself.
async fn upload(tools: &Tools, meta: &Meta, number: &str, file: &media::Media) -> Result<String, Failure> {
    let gone = || Failure::rejected("the file was erased").code("media_gone");
    let sealed = media::content(&tools.db, file.tenant_id, file.media_id).await?.ok_or_else(gone)?;
    let mut content = tools
        .vault
        .open(&media::content_context(file.media_id), &sealed)
        .map_err(|error| Failure::rejected(error.to_string()).code("media_unreadable"))?;
    drop(sealed);
    let name = file.filename.as_deref().unwrap_or("file");
    let uploaded = meta.upload_media(number, name, &file.mime_type, std::mem::take(&mut *content).into()).await?;
    media::uploaded(&tools.db, file.media_id, &uploaded.id).await?;
    Ok(uploaded.id)
}

/// Puts Meta's ids where a message's body names our files; uploads those that are not there yet, and says whether any was.
pub(crate) async fn resolve(
    tools: &Tools,
    meta: &Meta,
    number: &str,
    tenant: TenantId,
    line: LineId,
    body: &mut Value,
) -> Result<bool, Failure> {
    let mut named: Vec<(Uuid, &mut Value)> = Vec::new();
    visit(body, &mut |_, id| {
        // Meta's own ids are digits.
        if let Some(ours) = id.as_str().and_then(|id| id.parse().ok()) {
            named.push((ours, id));
        }
    });
    if named.is_empty() {
        return Ok(false);
    }
    let mut uploaded = false;
    let files = media::these(&tools.db, tenant, &named.iter().map(|(id, _)| *id).collect::<Vec<_>>()).await?;
    for (ours, id) in named {
        let file = files.iter().find(|file| file.media_id == ours && file.line_id == line && file.erased_at.is_none());
        let file = file.ok_or_else(|| Failure::rejected(format!("the file {ours} is gone")).code("media_gone"))?;
        let theirs = match &file.meta_media_id {
            Some(theirs) => theirs.clone(),
            None => {
                uploaded = true;
                upload(tools, meta, number, file).await?
            }
        };
        *id = json!(theirs);
    }
    Ok(uploaded)
}
