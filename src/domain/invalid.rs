//! Input that breaks a rule: which field, which rule, and a sentence for the person who sent it.

use crate::{Failure, failure};

/// One broken rule. `code` is stable and goes into problem documents; `why` never repeats secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Invalid {
    /// The field as the API names it: `"display_name"`, `"profile.about"`.
    pub field: &'static str,
    pub code: &'static str,
    pub why: String,
}

impl Invalid {
    pub fn new(field: &'static str, code: &'static str, why: impl Into<String>) -> Self {
        Self { field, code, why: why.into() }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::new(failure::Kind::Rejected, invalid.why).code(invalid.code)
    }
}
