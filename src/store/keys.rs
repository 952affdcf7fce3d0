//! Table `api_key`: who may call, in which role, for which tenant. Only the SHA-256 of a key is kept.

use chrono::{DateTime, Utc};
use domain::{KeyId, TenantId};
use sha2::{Digest as _, Sha256};
use sqlx::PgExecutor;
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The program that sells: orders and gives back lines. Of the installation.
    Checkout,
    /// A company's own tools: templates, messages, conversations. Always of one tenant.
    Recruiter,
    /// Money: of one tenant, or the operator's.
    Finance,
    /// Everything. Of the installation.
    Admin,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Checkout, Self::Recruiter, Self::Finance, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checkout => "checkout",
            Self::Recruiter => "recruiter",
            Self::Finance => "finance",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No role has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownRole;

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a role is checkout, recruiter, finance or admin")
    }
}
impl std::error::Error for UnknownRole {}

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// A key without its secret.
#[derive(Debug, Clone)]
pub struct Key {
    pub id: KeyId,
    pub hint: String,
    pub role: Role,
    pub tenant: Option<TenantId>,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// What is kept of a key.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

pub async fn create(db: impl PgExecutor<'_>, key: &Key, hash: &[u8; 32]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into api_key (key_id, hash, hint, role, tenant_id, created_at) values ($1, $2, $3, $4, $5, $6)",
        key.id.0,
        hash.as_slice(),
        key.hint,
        key.role.as_str(),
        key.tenant.map(|id| id.0),
        key.created_at
    )
    .execute(db)
    .await
    .map(drop)
}

struct Row {
    key_id: Uuid,
    hint: String,
    role: String,
    tenant_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for Key {
    type Error = sqlx::Error;
    fn try_from(row: Row) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.key_id.into(),
            hint: row.hint,
            role: row.role.parse().map_err(|error: UnknownRole| sqlx::Error::Decode(error.into()))?,
            tenant: row.tenant_id.map(TenantId),
            created_at: row.created_at,
            revoked_at: row.revoked_at,
        })
    }
}

/// The key with this hash, unless it was revoked.
pub async fn by_hash(db: impl PgExecutor<'_>, hash: &[u8; 32]) -> sqlx::Result<Option<Key>> {
    sqlx::query_as!(
        Row,
        "select key_id, hint, role, tenant_id, created_at, revoked_at from api_key where hash = $1 and revoked_at is null",
        hash.as_slice()
    )
    .fetch_optional(db)
    .await?
    .map(Key::try_from)
    .transpose()
}

/// A page of a tenant's keys (`None`: of all keys), the youngest first, below `before`; revoked ones too.
pub async fn list(db: impl PgExecutor<'_>, tenant: Option<TenantId>, before: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Key>> {
    sqlx::query_as!(
        Row,
        "select key_id, hint, role, tenant_id, created_at, revoked_at from api_key
         where ($1::uuid is null or tenant_id = $1) and ($2::uuid is null or key_id < $2)
         order by key_id desc limit $3",
        tenant.map(|id| id.0),
        before,
        limit
    )
    .fetch_all(db)
    .await?
    .into_iter()
    .map(Key::try_from)
    .collect()
}

/// Ends a key at once and for good; `None` if there is none, else the key. A second time changes nothing.
pub async fn revoke(db: impl PgExecutor<'_>, id: KeyId, tenant: Option<TenantId>) -> sqlx::Result<Option<Key>> {
    sqlx::query_as!(
        Row,
        "update api_key set revoked_at = coalesce(revoked_at, durable.now()) where key_id = $1 and ($2::uuid is null or tenant_id = $2)
         returning key_id, hint, role, tenant_id, created_at, revoked_at",
        id.0,
        tenant.map(|id| id.0)
    )
    .fetch_optional(db)
    .await?
    .map(Key::try_from)
    .transpose()
}

/// Whether the key exists and was not revoked: asked again and again by open streams.
pub async fn is_good(db: impl PgExecutor<'_>, id: KeyId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from api_key where key_id = $1 and revoked_at is null) as "good!""#, id.0)
        .fetch_one(db)
        .await
}
