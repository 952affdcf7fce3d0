//! Who is at the console: an admin key, sealed into a cookie, asked about on every request; and the token that forms carry.

use crate::{
    App,
    caller::{Caller, identify},
    problem::Problem,
};
use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use store::keys::Role;
use subtle::ConstantTimeEq as _;

const COOKIE: &str = "ligne_console";
/// A working day.
const LIFE_S: i64 = 12 * 3_600;
const SEAL: &str = "console:cookie:session";

/// A person who has shown an admin key.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) caller: Caller,
    /// What every form of this session carries.
    pub(crate) token: String,
}

/// A cookie for this secret, if it is an admin's.
pub(super) async fn open(app: &App, headers: &HeaderMap, secret: &str) -> Result<Option<HeaderValue>, Problem> {
    if identify(app, secret).await?.is_none_or(|caller| caller.role != Role::Admin) {
        return Ok(None);
    }
    let until = app.front.clock.now().timestamp() + LIFE_S;
    let sealed = app.front.vault.seal_str(SEAL, &format!("{until} {secret}"));
    let secure = if is_https(headers) { "; Secure" } else { "" };
    let value = BASE64_URL_SAFE_NO_PAD.encode(sealed);
    Ok(HeaderValue::from_str(&format!("{COOKIE}={value}; Path=/console; Max-Age={LIFE_S}; HttpOnly; SameSite=Strict{secure}"))
        .ok())
}

/// The cookie that ends a session.
pub(super) fn close() -> HeaderValue {
    HeaderValue::from_static("ligne_console=; Path=/console; Max-Age=0; HttpOnly; SameSite=Strict")
}

pub(super) async fn find(app: &App, headers: &HeaderMap) -> Result<Option<Session>, Problem> {
    let Some(cookie) = cookie(headers) else { return Ok(None) };
    let Some(secret) = BASE64_URL_SAFE_NO_PAD.decode(cookie).ok().and_then(|sealed| app.front.vault.open_str(SEAL, &sealed).ok())
    else {
        return Ok(None);
    };
    let Some((until, secret)) = secret.expose_secret().split_once(' ') else { return Ok(None) };
    let until = until.parse().ok().and_then(|until| DateTime::<Utc>::from_timestamp(until, 0));
    if until.is_none_or(|until| until < app.front.clock.now()) {
        return Ok(None);
    }
    let caller = identify(app, secret).await?.filter(|caller| caller.role == Role::Admin);
    Ok(caller.map(|caller| Session { caller, token: token(cookie) }))
}

impl Session {
    /// Whether a form came from a page that we made for this session.
    pub(super) fn made(&self, token: &str) -> bool {
        bool::from(self.token.as_bytes().ct_eq(token.as_bytes()))
    }
}

/// Nobody who cannot read the cookie can make it.
fn token(cookie: &str) -> String {
    hex::encode(Sha256::new().chain_update("console form ").chain_update(cookie).finalize())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Behind a proxy that speaks TLS for us.
fn is_https(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}
