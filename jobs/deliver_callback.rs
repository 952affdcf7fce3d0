//! Tell a checkout what became of its order: one signed POST, again with back-off for three days until it is heard.

use crate::Tools;
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Failure, TenantId};
use durable::{Ctx, Job, Options, Tx};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{sync::LazyLock, time::Duration};
use store::callbacks;
use tracing::{info, warn};
use uuid::Uuid;

/// Standard Webhooks advises 15 to 30 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// From the first try on; then a person must replay it.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);
/// After the n-th miss, in seconds; the last one repeats.
const GAPS_S: &[i64] = &[5, 30, 120, 600, 1_800, 3_600, 3 * 3_600, 6 * 3_600];
/// Prefix of the secret (Standard Webhooks).
const SECRET_PREFIX: &str = "whsec_";

/// One try to deliver a row of table `callback`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliverCallback {
    pub callback: Uuid,
}

impl Job<Tools> for DeliverCallback {
    const QUEUE: &'static str = "deliver_callback";
    const CONCURRENCY: usize = 32;
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let Some(callback) = callbacks::get(&tools.db, self.callback).await? else { return Ok(()) };
        let Some(due) = callback.next_at else { return Ok(()) };
        let now = ctx.clock.now();
        if let Ok(wait) = (due - now).to_std()
            && !wait.is_zero()
        {
            return Err(ctx.snooze(wait));
        }
        let (status, error) = match post(&tools.settings.callback_secret, self.callback, &callback.url, &callback.body, now).await
        {
            Ok(status) if (200..300).contains(&status) => {
                callbacks::delivered(&tools.db, self.callback, status).await?;
                info!(callback.id = %self.callback, "Delivered {} to {}", callback.event, host(&callback.url));
                return Ok(());
            }
            Ok(status) => (Some(status), format!("answered {status}")),
            Err(why) => (None, why),
        };
        let gap = next_gap(callback.attempts);
        let over = callback.first_tried_at.is_some_and(|first| now + gap > first + GIVE_UP_AFTER);
        let next = (!over).then(|| now + gap);
        callbacks::missed(&tools.db, self.callback, status, &error, next).await?;
        warn!(callback.id = %self.callback, "{} did not take {}: {error}", host(&callback.url), callback.event);
        match gap.to_std() {
            Ok(wait) if !over => Err(ctx.snooze(wait)),
            _ => Ok(()),
        }
    }
}

/// A callback and its delivery, in the transaction of what it tells. `data` is the resource as its GET shows it.
pub async fn call_back(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    url: &str,
    event: &str,
    at: DateTime<Utc>,
    data: &Value,
) -> Result<Uuid, Failure> {
    let body = json!({ "type": event, "timestamp": at.to_rfc3339(), "tenant_id": tenant, "data": data }).to_string();
    let id = callbacks::add(&mut **tx, tenant, url, event, &body).await?;
    durable::enqueue_with(tx, &DeliverCallback { callback: id }, Options::default()).await?;
    Ok(id)
}

/// Headers of the Standard Webhooks convention: the signature is over `id.timestamp.body`.
pub(crate) fn sign(secret: &SecretString, id: &str, timestamp: i64, body: &str) -> Result<String, Failure> {
    let secret = secret.expose_secret();
    let key = BASE64_STANDARD
        .decode(secret.strip_prefix(SECRET_PREFIX).unwrap_or(secret))
        .map_err(|_| Failure::unauthorized("LIGNE_CALLBACK_SECRET is not whsec_ and base64"))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    Ok(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

fn next_gap(misses: i32) -> TimeDelta {
    let place = usize::try_from(misses).unwrap_or(0).min(GAPS_S.len() - 1);
    TimeDelta::seconds(GAPS_S[place])
}

/// The answer's status, or why there is none. The address's path may be a secret: only its host is ever logged.
async fn post(secret: &SecretString, id: Uuid, url: &str, body: &str, now: DateTime<Utc>) -> Result<i16, String> {
    // Redirects are not followed: what is signed goes to the address that was given.
    static CLIENT: LazyLock<Result<Client, String>> = LazyLock::new(|| {
        Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("ligne/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())
    });
    let client = CLIENT.as_ref().map_err(Clone::clone)?;
    let address = reqwest::Url::parse(url).map_err(|_| "the address is not a URL".to_owned())?;
    if !matches!(address.scheme(), "http" | "https") {
        return Err("the address is neither http nor https".to_owned());
    }
    let id = id.to_string();
    let timestamp = now.timestamp();
    let signature = sign(secret, &id, timestamp, body).map_err(|failure| failure.why)?;
    let answer = client
        .post(address)
        .header("content-type", "application/json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(body.to_owned())
        .send()
        .await
        .map_err(|error| if error.is_timeout() { "no answer in time".to_owned() } else { "no connection".to_owned() })?;
    i16::try_from(answer.status().as_u16()).map_err(|error| error.to_string())
}

fn host(url: &str) -> String {
    reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_convention() {
        // Computed by hand: HMAC-SHA256 with key 0x00 * 24 over "msg_1.1700000000.{}".
        let secret = SecretString::from(format!("whsec_{}", BASE64_STANDARD.encode([0; 24])));
        let signed = sign(&secret, "msg_1", 1_700_000_000, "{}").expect("signed");
        let mut mac = Hmac::<Sha256>::new_from_slice(&[0; 24]).expect("key");
        mac.update(b"msg_1.1700000000.{}");
        assert_eq!(signed, format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())));
        assert!(sign(&"whsec_*".into(), "a", 0, "").is_err());
    }

    #[test]
    fn gaps_grow_and_stay() {
        let gaps: Vec<_> = (0..20).map(next_gap).collect();
        assert!(gaps.is_sorted());
        assert_eq!(gaps[19], TimeDelta::hours(6));
    }
}
