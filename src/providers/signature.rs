//! Why a webhook is not believed.

use std::fmt;

/// Any of these is answered 401 or 403 and nothing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature or its timestamp is missing")]
    Missing,
    #[error("the signature or its timestamp is malformed")]
    Malformed,
    #[error("the signature does not match the body")]
    Mismatch,
    #[error("the timestamp is too old or too new")]
    Stale,
}

/// A key from the configuration that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the public key is not base64 of 32 bytes that are an Ed25519 key")]
pub struct KeyError;

/// A believed body that is no webhook. Its bytes are not quoted: they may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError(pub(crate) &'static str);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the webhook's body {}", self.0)
    }
}

impl std::error::Error for ParseError {}
