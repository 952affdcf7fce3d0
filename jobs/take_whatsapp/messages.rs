//! Messages from people: into their conversation, once; the window opens, a stop word is obeyed.

use super::{Event, Touched, people};
use crate::{FetchMedia, Tools};
use chrono::{DateTime, Utc};
use domain::{Failure, LineId, MessageId, TenantId, identity::Sighting, message::window_until_ms, stopword};
use durable::Tx;
use providers::meta_hook::{Content, InboundMessage};
use serde_json::json;
use std::collections::HashSet;
use store::{
    conversations,
    media::{self, Arrived},
    messages::content_context,
    news::{self, Received},
    people::Wish,
};
use uuid::Uuid;

/// A message, the tenant and line it came to, and its event.
pub(super) type Inbound<'e> = (TenantId, LineId, Box<InboundMessage>, &'e Event);

pub(super) async fn apply(tools: &Tools, tx: &mut Tx<'_>, inbound: &[Inbound<'_>], touched: &mut Touched) -> Result<(), Failure> {
    if inbound.is_empty() {
        return Ok(());
    }
    let wamids: Vec<String> = inbound.iter().map(|(_, _, message, _)| message.id.clone()).collect();
    let erased = news::of_erased(tx, &wamids).await?;
    // Told again, it would bring back a person who asked to be forgotten.
    let inbound: Vec<&Inbound<'_>> = inbound.iter().filter(|(_, _, message, _)| !erased.contains(&message.id)).collect();
    let seen: Vec<_> = inbound.iter().map(|(tenant, _, message, _)| (*tenant, sighting(message))).collect();
    let mut rows = Vec::with_capacity(inbound.len());
    for ((tenant, line, message, event), contact) in inbound.into_iter().zip(people::see(tx, &seen).await?) {
        match contact {
            Some(contact) => rows.push((*tenant, *line, contact, message, *event)),
            None => touched.put_aside(event, &message.id, "a message that names nobody"),
        }
    }
    let pairs: Vec<_> = rows.iter().map(|(tenant, line, contact, ..)| (*tenant, *line, *contact)).collect();
    let talks = conversations::with(&mut **tx, &pairs).await?;
    let (mut received, mut files, mut wishes) = (Vec::new(), Vec::new(), Vec::new());
    for (tenant_id, line_id, contact_id, message, event) in rows {
        let Some(conversation_id) = talks.get(&(line_id, contact_id)).copied() else { continue };
        let message_id = MessageId(Uuid::now_v7());
        let mut raw = event.event.value.pointer("/messages/0").cloned().unwrap_or_default();
        if let Content::Media(file) = &message.content {
            // Ours from here on: Meta's lives seven days and opens with our token alone.
            let media_id = Uuid::now_v7();
            if let Some(shown) = raw.get_mut(&message.kind).and_then(serde_json::Value::as_object_mut) {
                shown.insert("id".to_owned(), json!(media_id));
                shown.remove("url");
            }
            let arrived = Arrived {
                media_id,
                tenant_id,
                line_id,
                message_id,
                meta_media_id: file.id.clone(),
                mime_type: file.mime_type.clone(),
                filename: file.filename.clone(),
            };
            files.push((arrived, file.sha256.clone()));
        }
        if let Some(wish) = message.words().and_then(stopword::wish) {
            wishes.push((message_id, Wish { tenant_id, contact_id, out: wish == stopword::Wish::OptOut, at: message.timestamp }));
        }
        received.push(Received {
            message_id,
            tenant_id,
            line_id,
            contact_id,
            conversation_id,
            kind: message.kind.clone(),
            content_sealed: tools.vault.seal(&content_context(message_id), raw.to_string().as_bytes()),
            wamid: message.id.clone(),
            context_wamid: message.context.as_ref().and_then(|context| context.id.clone()),
            at: message.timestamp,
            window_until: message.opens_window().then(|| window_until(message.timestamp)).flatten(),
            name: message.contact.as_ref().and_then(|contact| contact.name.clone()),
        });
    }
    let new = news::receive(tx, &received).await?;
    // What was said before was heeded before.
    let is_new: HashSet<MessageId> = new.iter().copied().collect();
    let wishes = wishes.into_iter().filter(|(id, _)| is_new.contains(id)).map(|(_, wish)| wish);
    store::people::opt_out(tx, &people::last_words(wishes)).await?;
    files.retain(|(file, _)| is_new.contains(&file.message_id));
    keep_files(tx, files).await?;
    touched.received.extend(new);
    Ok(())
}

/// Files are fetched by jobs of their own, at once and beside the messages that follow.
async fn keep_files(tx: &mut Tx<'_>, files: Vec<(Arrived, String)>) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    let (arrived, hashes): (Vec<Arrived>, Vec<String>) = files.into_iter().unzip();
    media::arrived(tx, &arrived).await?;
    for (file, sha256) in arrived.iter().zip(hashes) {
        durable::enqueue::<Tools, _>(tx, &FetchMedia { tenant: file.tenant_id, media: file.media_id, sha256 }).await?;
    }
    Ok(())
}

fn window_until(at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(window_until_ms(at.timestamp_millis()))
}

/// Who wrote; or, where WhatsApp itself tells of a change, who somebody has become.
fn sighting(message: &InboundMessage) -> Sighting {
    let phone = message.from.as_deref().and_then(people::phone);
    let bsuid = message.from_user_id.as_deref().and_then(people::bsuid);
    if let Content::System(notice) = &message.content {
        let current_phone = notice.wa_id.as_deref().and_then(people::phone);
        let current_id = notice.user_id.as_deref().and_then(people::bsuid);
        match (notice.kind.as_str(), &phone, &bsuid, current_phone, current_id) {
            ("user_changed_number", Some(previous), _, Some(current), bsuid) if *previous != current => {
                return Sighting::NewPhone { previous: previous.clone(), current, bsuid };
            }
            ("user_changed_user_id", _, Some(previous), _, Some(current)) => {
                return Sighting::NewBsuid { previous: previous.clone(), current };
            }
            _ => {}
        }
    }
    let parent = message.from_parent_user_id.as_deref().and_then(people::bsuid);
    Sighting::Seen { phone, bsuid, parent }
}
