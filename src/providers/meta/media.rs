//! Files: media of messages, and resumable uploads for profiles and templates (contracts/meta-cloud-api.md 4.3, 9).

use super::{Meta, errors};
use crate::{
    loose,
    wire::{Body, Call},
};
use bytes::Bytes;
use domain::Failure;
use reqwest::{
    header::{HeaderName, HeaderValue},
    multipart::{Form, Part},
};
use serde::{Deserialize, Serialize};

/// An upload under way; keep it to resume after a loss.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadSession {
    /// `upload:...`
    pub id: String,
}

/// A file that Meta keeps for us (30 days) or for a user (7 days).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    pub id: String,
}

/// Where a file can be fetched for five minutes, and what it should be.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaLink {
    pub url: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub mime_type: String,
    /// Hex or base64.
    #[serde(default, deserialize_with = "loose::text")]
    pub sha256: String,
    #[serde(default, deserialize_with = "loose::maybe_int")]
    pub file_size: Option<i64>,
}

impl std::fmt::Debug for MediaLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaLink")
            .field("mime_type", &self.mime_type)
            .field("file_size", &self.file_size)
            .finish_non_exhaustive()
    }
}

impl Meta {
    /// Begins a resumable upload (4.3). Types: pdf, jpeg, png, mp4.
    pub async fn upload_start(&self, file_name: &str, mime_type: &str, length: usize) -> Result<UploadSession, Failure> {
        // A session that nobody uses costs nothing, so a lost answer is harmless.
        let call = Call::post("/{app}/uploads", &[self.app_id()])
            .query("file_name", file_name)
            .query("file_length", length)
            .query("file_type", mime_type)
            .repeatable();
        self.get(call).await
    }

    /// Sends the rest of the file, from `offset` on; answers the handle.
    pub async fn upload_send(&self, session: &UploadSession, offset: usize, file: Bytes) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Handle {
            h: String,
        }
        if offset > file.len() {
            return Err(Failure::rejected("Meta has more of the file than there is"));
        }
        let call = Call::post("/{upload}", &[&session.id])
            .header(HeaderName::from_static("file_offset"), HeaderValue::from(offset))
            .body(Body::Bytes(file.slice(offset..)))
            .file()
            .repeatable();
        self.get::<Handle>(call).await.map(|handle| handle.h)
    }

    /// How much of the file Meta has, in bytes.
    pub async fn upload_offset(&self, session: &UploadSession) -> Result<usize, Failure> {
        #[derive(Deserialize)]
        struct At {
            #[serde(default, deserialize_with = "loose::maybe_int")]
            file_offset: Option<i64>,
        }
        let at: At = self.get(Call::get("/{upload}", &[&session.id])).await?;
        Ok(at.file_offset.and_then(|offset| usize::try_from(offset).ok()).unwrap_or(0))
    }

    /// A whole upload, once resumed if its sending broke off; answers the handle for a profile or a template's example.
    pub async fn upload(&self, file_name: &str, mime_type: &str, file: Bytes) -> Result<String, Failure> {
        let session = self.upload_start(file_name, mime_type, file.len()).await?;
        match self.upload_send(&session, 0, file.clone()).await {
            Err(failure) if failure.kind == domain::Kind::Transient => {
                let offset = self.upload_offset(&session).await?;
                self.upload_send(&session, offset, file).await
            }
            answer => answer,
        }
    }

    /// Uploads a file for messages (9). After a lost answer upload again: the other copy expires by itself.
    pub async fn upload_media(&self, number_id: &str, file_name: &str, mime_type: &str, file: Bytes) -> Result<Media, Failure> {
        let part = Part::stream(file)
            .file_name(file_name.to_owned())
            .mime_str(mime_type)
            .map_err(|_| Failure::rejected(format!("{mime_type} is not a media type")))?;
        let form = Form::new().text("messaging_product", "whatsapp").text("type", mime_type.to_owned()).part("file", part);
        self.get(Call::post("/{phone}/media", &[number_id]).body(Body::Multipart(form)).file().repeatable()).await
    }

    pub async fn media(&self, media_id: &str, number_id: &str) -> Result<MediaLink, Failure> {
        self.get(Call::get("/{media}", &[media_id]).query("phone_number_id", number_id)).await
    }

    /// The file itself, from a link not older than five minutes.
    pub async fn download_media(&self, url: &str) -> Result<Bytes, Failure> {
        self.call(Call::download("(media)", url, true)).await.map(|(reply, _)| reply.body)
    }

    /// One that is gone is success.
    pub async fn delete_media(&self, media_id: &str) -> Result<(), Failure> {
        match self.done(Call::delete("/{media}", &[media_id])).await {
            Err(failure) if errors::is_missing(&failure) => Ok(()),
            answer => answer,
        }
    }
}
