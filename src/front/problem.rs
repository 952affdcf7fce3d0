//! Every refusal: an RFC 9457 document with a stable code, all of them listed here.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use domain::{Failure, Invalid};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// One reason to say no. The code is a promise: it never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
}

macro_rules! codes {
    ($($name:ident $status:literal $code:literal $title:literal;)*) => {
        impl Code {
            $(pub(crate) const $name: Self = Self { status: $status, code: $code, title: $title };)*
            /// For the OpenAPI document.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    MALFORMED_JSON 400 "malformed_json" "The body is not JSON";
    BAD_FORM 400 "bad_form" "The form is not understood";
    BODY_BROKEN_OFF 400 "body_broken_off" "The body ended before its time";
    BAD_QUERY 400 "bad_query" "The query is not understood";
    BAD_CURSOR 400 "bad_cursor" "This cursor is not one of ours";
    BAD_IDEMPOTENCY_KEY 400 "bad_idempotency_key" "An Idempotency-Key has 1 to 255 visible characters";
    BAD_LAST_EVENT_ID 400 "bad_last_event_id" "Last-Event-ID is not one of ours";
    NO_KEY 401 "no_key" "This needs Authorization: Bearer with an API key";
    BAD_KEY 401 "bad_key" "This API key opens nothing";
    BAD_SIGNATURE 401 "bad_signature" "The signature does not fit the body";
    BAD_VERIFY_TOKEN 403 "bad_verify_token" "The verify token is not ours";
    ROLE_NOT_ALLOWED 403 "role_not_allowed" "This key's role may not do that";
    NEEDS_TENANT 403 "needs_tenant" "This needs a key that belongs to a tenant";
    SANDBOX_ONLY 403 "sandbox_only" "The clock moves in a sandbox only";
    NOT_FOUND 404 "not_found" "There is no such thing";
    METHOD_NOT_ALLOWED 405 "method_not_allowed" "This address does not take that method";
    BODY_TOO_SLOW 408 "body_too_slow" "The body did not arrive in time";
    IDEMPOTENCY_KEY_REUSED 409 "idempotency_key_reused" "This Idempotency-Key was used for another request";
    IDEMPOTENCY_KEY_IN_FLIGHT 409 "idempotency_key_in_flight" "The first request with this Idempotency-Key is still being worked";
    RUN_NOT_CANCELLABLE 409 "run_not_cancellable" "This run has ended or is being undone";
    RUN_NOT_RETRYABLE 409 "run_not_retryable" "There is nothing to try again";
    RUN_NOT_WAITING 409 "run_not_waiting" "This run does not wait for that signal";
    LINE_NOT_RELEASABLE 409 "line_not_releasable" "This line's provisioning has not come to an end";
    MEDIA_NOT_HERE 409 "media_not_here" "The file is still being fetched: ask again in a moment";
    MEDIA_GONE 410 "media_gone" "The file is no longer kept";
    MEDIA_TOO_LARGE 413 "media_too_large" "The file is too large for what it is sent as";
    BODY_TOO_LARGE 413 "body_too_large" "The body is too large";
    NOT_JSON 415 "unsupported_media_type" "The body must be application/json";
    MEDIA_TYPE 415 "media_type" "WhatsApp does not take files of this type";
    MEDIA_CONTENT 422 "media_content" "The file is not what its type says";
    INVALID_BODY 422 "invalid_body" "The body does not have the right fields";
    NOT_AN_EVENT 422 "not_an_event" "The body is no event of this provider";
    INVALID_NAME 422 "invalid_name" "The name cannot be used";
    INVALID_AMOUNT 422 "invalid_amount" "The amount cannot be used";
    INVALID_EMAIL 422 "invalid_email" "The e-mail address cannot be used";
    INVALID_TIME_ZONE 422 "invalid_time_zone" "This is no IANA time zone";
    INVALID_RETENTION 422 "invalid_retention" "Words of messages cannot be kept that long";
    PRICE_IN_THE_PAST 422 "price_in_the_past" "A price can change from today on";
    UNKNOWN_TENANT 422 "unknown_tenant" "There is no such tenant";
    TENANT_NOT_ACTIVE 422 "tenant_not_active" "The tenant is suspended or cancelled";
    LEGAL_MISSING 422 "legal_missing" "The tenant's legal data are not complete";
    LEGAL_ICE 422 "legal_ice" "This is no ICE";
    LEGAL_IF 422 "legal_if" "This is no IF";
    LEGAL_RC 422 "legal_rc" "This is no RC";
    LEGAL_TP 422 "legal_tp" "This is no TP";
    LEGAL_ADDRESS 422 "legal_address" "The address cannot be used";
    UNKNOWN_COUNTRY 422 "unknown_country" "Lines are not sold in this country";
    UNKNOWN_LANGUAGE 422 "unknown_language" "A language is fr, ar or en";
    PHONE_INVALID 422 "phone_invalid" "This is no phone number in E.164";
    DISPLAY_NAME_LENGTH 422 "display_name_length" "The display name is too short or too long";
    DISPLAY_NAME_CHARACTERS 422 "display_name_characters" "The display name has characters that Meta refuses";
    DISPLAY_NAME_FORMAT 422 "display_name_format" "The display name has a form that Meta refuses";
    DISPLAY_NAME_RESERVED 422 "display_name_reserved" "The display name is not free to use";
    PROFILE_TOO_LONG 422 "profile_too_long" "A field of the profile is too long";
    PROFILE_EMPTY 422 "profile_empty" "A field of the profile is empty";
    PROFILE_EMAIL 422 "profile_email" "The profile's e-mail address cannot be used";
    PROFILE_WEBSITE 422 "profile_website" "A website of the profile cannot be used";
    PROFILE_WEBSITES 422 "profile_websites" "The profile has too many websites";
    LOGO_TOO_BIG 422 "logo_too_big" "The logo has too many bytes";
    LOGO_TYPE 422 "logo_type" "The logo is neither PNG nor JPEG";
    INVALID_LOGO 422 "invalid_logo" "The logo is not base64";
    INVALID_CALLBACK_URL 422 "invalid_callback_url" "The callback address cannot be used";
    INVALID_ADVANCE 422 "invalid_advance" "The clock moves forward, by at most ten years at a time";
    ROLE_NEEDS_TENANT 422 "role_needs_tenant" "A recruiter's key belongs to a tenant";
    BATCH_SIZE 422 "batch_size" "A batch has 1 to 10,000 messages";
    MESSAGES_REFUSED 422 "messages_refused" "Nothing was queued; every problem is listed";
    MESSAGE_NOT_PARKED 409 "message_not_parked" "Nothing about this message waits for a person";
    CREDIT_LIMIT_REACHED 402 "credit_limit_reached" "The month's credit is used up";
    TEMPLATE_INVALID 422 "template_invalid" "The template breaks Meta's rules; every problem is listed";
    TEMPLATE_EXISTS 409 "template_exists" "There is a template of this name and language";
    TEMPLATE_NOT_EDITABLE 409 "template_not_editable" "Only approved, rejected and paused templates can be edited";
    MONTH_NOT_OVER 409 "month_not_over" "The month has not ended for every tenant";
    PAYMENT_REFERENCE_REUSED 409 "payment_reference_reused" "This reference was recorded with another amount";
    INVALID_MONTH 422 "invalid_month" "A month is written like 2026-10";
    NOT_AN_INVOICE 422 "not_an_invoice" "A credit note is not credited or paid";
    CREDIT_TOO_LARGE 422 "credit_too_large" "The credit is above what is left of the invoice";
    PAYMENT_TOO_LARGE 422 "payment_too_large" "The payment is above what is left to pay";
    INTERNAL 500 "internal" "This is our fault";
    UNAVAILABLE 503 "unavailable" "Not now; the same request may work in a moment";
    TIMEOUT 503 "timeout" "This took too long; the work may still be done";
    OVERLOADED 503 "overloaded" "Too much at once; the same request may work in a moment";
}

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: Cow<'static, str>,
    more: Map<String, Value>,
}

impl Problem {
    /// `detail` is a sentence about this one case, without secrets.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), more: Map::new() }
    }
    /// A member of the document beside the standard ones.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
    pub(crate) fn not_found() -> Self {
        Code::NOT_FOUND.into()
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code, code.title)
    }
}

/// Logged here, once: the caller learns no more than that it was not its fault.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let lasting = matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_))
            || error.as_database_error().and_then(|e| e.code()).is_some_and(|code| {
                // Syntax, data and integrity repeat for ever; connections, locks and shutdowns pass.
                ["22", "23", "42"].iter().any(|class| code.starts_with(class))
            });
        tracing::error!(error = &error as &dyn std::error::Error, "The database refused");
        if lasting { Code::INTERNAL.into() } else { Code::UNAVAILABLE.into() }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        tracing::error!(error = &failure as &dyn std::error::Error, "The work could not be begun");
        match failure.kind {
            domain::Kind::Transient | domain::Kind::Throttled | domain::Kind::Unclear => Code::UNAVAILABLE.into(),
            domain::Kind::Rejected | domain::Kind::Unauthorized => Code::INTERNAL.into(),
        }
    }
}

/// Broken rules of the domain keep their own code.
impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let listed = Code::ALL.iter().find(|code| code.code == invalid.code).copied();
        let code = listed.unwrap_or(Code { code: invalid.code, ..Code::INVALID_BODY });
        Self::new(code, invalid.why).with("field", invalid.field)
    }
}

impl From<vault::OpenError> for Problem {
    fn from(error: vault::OpenError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "A seal does not open");
        Code::INTERNAL.into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { code: Code { status, code, title }, detail, more } = self;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut document = json!({
            "type": format!("urn:ligne:problem:{code}"),
            "title": title,
            "status": status.as_u16(),
            "code": code,
            "detail": detail,
        });
        if let Value::Object(document) = &mut document {
            document.extend(more);
        }
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn a_code_means_one_thing() {
        let mut codes: Vec<_> = Code::ALL.iter().map(|code| code.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Code::ALL.len());
    }
}
