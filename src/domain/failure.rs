//! The five kinds of failure that clients sort and the engine acts on.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// What may be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It did not happen; the same act again later may work. Costs an attempt.
    Transient,
    /// Asked too fast. Wait as told; costs no attempt.
    Throttled,
    /// It may have happened: look before it is repeated. Costs an attempt.
    Unclear,
    /// The answer is no, and will stay no.
    Rejected,
    /// Our own credentials or account are refused: stop and call a person.
    Unauthorized,
}

/// A failed act: its kind decides what follows, its words are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    /// Stable machine code: the provider's (`"85001"`, `"133016"`) or ours (`"name_declined"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// One sentence, without secrets.
    pub why: String,
    /// How long the provider asked us to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    pub fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, code: None, why: why.into(), retry_after_ms: None }
    }
    pub fn transient(why: impl Into<String>) -> Self {
        Self::new(Kind::Transient, why)
    }
    pub fn throttled(why: impl Into<String>, wait: Duration) -> Self {
        Self::new(Kind::Throttled, why).after(wait)
    }
    pub fn unclear(why: impl Into<String>) -> Self {
        Self::new(Kind::Unclear, why)
    }
    pub fn rejected(why: impl Into<String>) -> Self {
        Self::new(Kind::Rejected, why)
    }
    pub fn unauthorized(why: impl Into<String>) -> Self {
        Self::new(Kind::Unauthorized, why)
    }
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self
    }
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(Duration::from_millis)
    }
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} ({code})", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl std::error::Error for Failure {}

/// A database error is transient unless the statement itself is wrong.
impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned());
        // Classes 21 (cardinality), 22 (data), 23 (integrity) and 54 (too long, too deep) repeat the same way for ever.
        let kind = match code.as_deref() {
            Some(c) if ["21", "22", "23", "54"].iter().any(|class| c.starts_with(class)) => Kind::Rejected,
            _ => Kind::Transient,
        };
        let failure = Failure::new(kind, format!("database: {error}"));
        match code {
            Some(code) => failure.code(format!("sql_{code}")),
            None => failure,
        }
    }
}
