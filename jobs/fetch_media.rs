//! A file that came with a message: fetched from Meta while it is there (seven days), checked against its hash, kept sealed.

use crate::{Tools, run_lane};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use domain::{Failure, Kind, TenantId, media::MAX_BYTES};
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use store::{lanes, media};
use tracing::warn;
use uuid::Uuid;

/// Enqueued with the message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchMedia {
    pub tenant: TenantId,
    pub media: Uuid,
    /// Of the file, as the webhook tells: base64 or hex; empty if it does not.
    pub sha256: String,
}

impl Job<Tools> for FetchMedia {
    const QUEUE: &'static str = "fetch_media";
    const PATIENCE: Duration = Duration::from_secs(300);

    async fn run(self, tools: &Tools, _ctx: &Ctx) -> Result<(), Failure> {
        let Some(file) = media::get(&tools.db, self.tenant, self.media).await? else { return Ok(()) };
        if file.here || file.erased_at.is_some() {
            return Ok(());
        }
        match self.fetch(tools, &file).await {
            Err(failure) if failure.kind == Kind::Rejected => {
                warn!(media.id = %self.media, "A file of a message cannot be fetched: {failure}");
                Ok(media::lost(&tools.db, self.media, &failure.why).await?)
            }
            fetched => fetched,
        }
    }
}

impl FetchMedia {
    async fn fetch(&self, tools: &Tools, file: &media::Media) -> Result<(), Failure> {
        let (Some(sender), Some(theirs)) = (lanes::sender(&tools.db, file.line_id).await?, &file.meta_media_id) else {
            return Ok(());
        };
        let number = sender.phone_number_id.as_deref().ok_or_else(|| Failure::rejected("the line has no number any more"))?;
        let meta = run_lane::access(tools, &sender, file.line_id)?;
        // A new link each time: it lives five minutes.
        let link = meta.media(theirs, number).await?;
        let content = match meta.download_media(&link.url).await {
            Err(failure) if failure.kind == Kind::Rejected => {
                return Err(Failure::transient(format!("a fresh link to a file leads nowhere: {failure}")));
            }
            content => content?,
        };
        if content.len() > MAX_BYTES {
            return Err(Failure::rejected(format!("the file has {} bytes", content.len())));
        }
        let hash = Sha256::digest(&content);
        for told in [&self.sha256, &link.sha256] {
            if !told.is_empty() && !fits(told, &hash) {
                return Err(Failure::transient("a file is not what its hash says: it may have broken off"));
            }
        }
        let sealed = tools.vault.seal(&media::content_context(self.media), &content);
        let mime_type = if link.mime_type.is_empty() { &file.mime_type } else { &link.mime_type };
        let size = i64::try_from(content.len()).unwrap_or(i64::MAX);
        Ok(media::fetched(&tools.db, self.media, mime_type, size, &hex::encode(hash), &sealed).await?)
    }
}

fn fits(told: &str, hash: &[u8]) -> bool {
    told.eq_ignore_ascii_case(&hex::encode(hash)) || told == BASE64_STANDARD.encode(hash)
}
