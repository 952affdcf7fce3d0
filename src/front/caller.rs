//! Who calls, and what each role may call: one table, and what is not in it is refused.

use crate::{
    App,
    problem::{Code, Problem},
};
use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::Response,
};
use domain::{KeyId, TenantId};
use secrecy::ExposeSecret as _;
use store::keys::{self, Role};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

const ALL: &[Role] = &Role::ALL;
const ADMIN: &[Role] = &[Role::Admin];
const RECRUITER: &[Role] = &[Role::Recruiter];
const TALK: &[Role] = &[Role::Recruiter, Role::Admin];
const SALES: &[Role] = &[Role::Admin, Role::Checkout];
const MONEY: &[Role] = &[Role::Admin, Role::Finance];

/// Method, route and the roles that may call it. What a role sees behind the route is the tenant's of its key.
pub(crate) const GRANTS: &[(Method, &str, &[Role])] = &[
    (Method::POST, "/v1/tenants", SALES),
    (Method::GET, "/v1/tenants", ALL),
    (Method::GET, "/v1/tenants/{id}", ALL),
    (Method::PATCH, "/v1/tenants/{id}", MONEY),
    (Method::POST, "/v1/tenants/{id}/keys", ADMIN),
    (Method::GET, "/v1/tenants/{id}/keys", ADMIN),
    (Method::DELETE, "/v1/tenants/{id}/keys/{key_id}", ADMIN),
    (Method::POST, "/v1/keys", ADMIN),
    (Method::GET, "/v1/keys", ADMIN),
    (Method::DELETE, "/v1/keys/{key_id}", ADMIN),
    (Method::POST, "/v1/lines", SALES),
    (Method::GET, "/v1/lines", ALL),
    (Method::GET, "/v1/lines/{id}", ALL),
    (Method::DELETE, "/v1/lines/{id}", SALES),
    (Method::POST, "/v1/lines/{id}/resume", ADMIN),
    (Method::POST, "/v1/accounts/{id}/resume", ADMIN),
    (Method::GET, "/v1/lines/{id}/receipt", ALL),
    (Method::GET, "/v1/numbers/orphans", ADMIN),
    (Method::GET, "/v1/runs", ALL),
    (Method::GET, "/v1/runs/{id}", ALL),
    (Method::POST, "/v1/runs/{id}/cancel", ADMIN),
    (Method::POST, "/v1/runs/{id}/retry", ADMIN),
    (Method::POST, "/v1/runs/{id}/signal", ADMIN),
    (Method::GET, "/v1/quarantine", ADMIN),
    (Method::POST, "/v1/quarantine/{id}/replay", ADMIN),
    (Method::GET, "/v1/callbacks", SALES),
    (Method::POST, "/v1/callbacks/{id}/replay", SALES),
    (Method::GET, "/v1/jobs", ADMIN),
    (Method::POST, "/v1/jobs/{id}/retry", ADMIN),
    (Method::GET, "/v1/sandbox/clock", ADMIN),
    (Method::POST, "/v1/sandbox/clock", ADMIN),
    (Method::GET, "/v1/events", ALL),
    (Method::POST, "/v1/templates", TALK),
    (Method::GET, "/v1/templates", TALK),
    (Method::GET, "/v1/templates/{id}", TALK),
    (Method::PATCH, "/v1/templates/{id}", TALK),
    (Method::DELETE, "/v1/templates/{id}", TALK),
    (Method::POST, "/v1/messages", RECRUITER),
    (Method::GET, "/v1/messages", RECRUITER),
    (Method::POST, "/v1/messages/batch", RECRUITER),
    (Method::GET, "/v1/messages/{id}", RECRUITER),
    (Method::POST, "/v1/messages/{id}/decide", RECRUITER),
    (Method::POST, "/v1/media", RECRUITER),
    (Method::GET, "/v1/media/{id}", RECRUITER),
    (Method::GET, "/v1/media/{id}/content", RECRUITER),
    (Method::DELETE, "/v1/media/{id}", RECRUITER),
    (Method::GET, "/v1/conversations", RECRUITER),
    (Method::PATCH, "/v1/conversations/{id}", RECRUITER),
    (Method::GET, "/v1/conversations/{id}/messages", RECRUITER),
    (Method::GET, "/v1/contacts", RECRUITER),
    (Method::GET, "/v1/contacts/{id}", RECRUITER),
    (Method::PATCH, "/v1/contacts/{id}", RECRUITER),
    (Method::DELETE, "/v1/contacts/{id}", RECRUITER),
    (Method::GET, "/v1/contacts/{id}/export", RECRUITER),
    (Method::POST, "/v1/billing/months/{month}/close", MONEY),
    (Method::GET, "/v1/billing/months/{month}/margin", MONEY),
    (Method::GET, "/v1/billing/months/{month}/reconciliation", MONEY),
    (Method::GET, "/v1/billing/months/{month}/rerated", MONEY),
    (Method::GET, "/v1/billing/months/{month}/export.csv", MONEY),
    (Method::GET, "/v1/invoices", MONEY),
    (Method::GET, "/v1/invoices/{number}", MONEY),
    (Method::POST, "/v1/invoices/{number}/credit-notes", MONEY),
    (Method::POST, "/v1/invoices/{number}/payments", MONEY),
];

/// The roles of a route; none for a route that the table has forgotten.
pub(crate) fn granted(method: &Method, route: &str) -> &'static [Role] {
    GRANTS.iter().find(|(m, r, _)| m == method && *r == route).map_or(&[], |(_, _, roles)| roles)
}

/// An API key that was checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// `None`: the bootstrap key of `LIGNE_ADMIN_KEY`.
    pub(crate) key: Option<KeyId>,
    pub(crate) role: Role,
    /// `None`: of the installation, sees every tenant.
    pub(crate) tenant: Option<TenantId>,
}

impl Caller {
    /// Whether what belongs to `tenant` exists for this key.
    pub(crate) fn sees(&self, tenant: TenantId) -> bool {
        self.tenant.is_none_or(|own| own == tenant)
    }
    /// For what belongs to `tenant`: 404 if it is not this key's.
    pub(crate) fn must_see(&self, tenant: TenantId) -> Result<(), Problem> {
        if self.sees(tenant) { Ok(()) } else { Err(Problem::not_found()) }
    }
    /// Idempotency keys of one tenant never meet those of another.
    pub(crate) fn scope(&self) -> Uuid {
        self.tenant.map_or(Uuid::nil(), |tenant| tenant.0)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().copied().ok_or(Code::NO_KEY.into())
    }
}

/// Stands in front of every route of `/v1`.
pub(crate) async fn admit(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, Problem> {
    let secret = bearer(request.headers())?;
    let caller = identify(&app, secret).await?.ok_or(Code::BAD_KEY)?;
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    if !granted(request.method(), &route).contains(&caller.role) {
        return Err(Problem::new(Code::ROLE_NOT_ALLOWED, format!("A {} key may not do that", caller.role)));
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Whose secret this is, if anybody's.
pub(crate) async fn identify(app: &App, secret: &str) -> Result<Option<Caller>, Problem> {
    let hash = keys::hash(secret);
    if let Some(bootstrap) = &app.front.admin_key
        // Hashes of equal length, compared in constant time.
        && bool::from(keys::hash(bootstrap.expose_secret()).ct_eq(&hash))
    {
        return Ok(Some(Caller { key: None, role: Role::Admin, tenant: None }));
    }
    let key = keys::by_hash(&app.front.db, &hash).await?;
    Ok(key.map(|key| Caller { key: Some(key.id), role: key.role, tenant: key.tenant }))
}

pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Code::NO_KEY)?;
    let (scheme, secret) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Code::BAD_KEY)?;
    if scheme.eq_ignore_ascii_case("bearer") && !secret.trim().is_empty() { Ok(secret.trim()) } else { Err(Code::BAD_KEY.into()) }
}
