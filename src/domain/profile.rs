//! A line's business profile within Meta's limits (contracts/meta-cloud-api.md 4.2), and its logo (4.3).

use crate::Invalid;
use serde::{Deserialize, Serialize};

/// Limits in characters.
const ABOUT_MAX: usize = 139;
const ADDRESS_MAX: usize = 256;
const DESCRIPTION_MAX: usize = 256;
const EMAIL_MAX: usize = 128;
const WEBSITE_MAX: usize = 256;
/// How many websites a profile has at most.
const WEBSITES_MAX: usize = 2;
/// Largest logo, in bytes: ours, well below Meta's.
pub const LOGO_MAX_BYTES: usize = 1024 * 1024;

/// What WhatsApp shows about the company, in the shape of Meta's own fields; what is missing is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub websites: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vertical: Option<Vertical>,
}

impl Profile {
    /// Checks every limit; what is sent on is what was checked. Codes: `profile_too_long`, `profile_empty`,
    /// `profile_email`, `profile_website`, `profile_websites`.
    pub fn validated(self) -> Result<Self, Invalid> {
        for (field, text, max) in [
            ("profile.about", &self.about, ABOUT_MAX),
            ("profile.address", &self.address, ADDRESS_MAX),
            ("profile.description", &self.description, DESCRIPTION_MAX),
            ("profile.email", &self.email, EMAIL_MAX),
        ] {
            let Some(text) = text else { continue };
            let length = text.chars().count();
            if text.trim().is_empty() {
                return Err(Invalid::new(field, "profile_empty", format!("{field} is empty: leave it out")));
            }
            if length > max {
                return Err(Invalid::new(
                    field,
                    "profile_too_long",
                    format!("{field} has at most {max} characters, not {length}"),
                ));
            }
        }
        if self.email.as_deref().is_some_and(|email| !is_email(email)) {
            return Err(Invalid::new("profile.email", "profile_email", "profile.email is not an e-mail address"));
        }
        if self.websites.len() > WEBSITES_MAX {
            return Err(Invalid::new(
                "profile.websites",
                "profile_websites",
                format!("a profile has at most {WEBSITES_MAX} websites"),
            ));
        }
        if !self.websites.iter().all(|website| is_website(website)) {
            let why = format!("a website starts with https:// or http:// and has at most {WEBSITE_MAX} characters");
            return Err(Invalid::new("profile.websites", "profile_website", why));
        }
        Ok(self)
    }
}

/// Good enough to catch a slip: one `@`, a dot in the domain, nothing invisible.
pub fn is_email(text: &str) -> bool {
    let Some((name, domain)) = text.split_once('@') else { return false };
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control() || "<>,;\"".contains(c));
    let dotted = domain.split('.').count() > 1 && domain.split('.').all(|part| !part.is_empty());
    clean && !name.is_empty() && dotted && !domain.contains('@')
}

fn is_website(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = host.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    text.chars().count() <= WEBSITE_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && host.contains('.')
        && host.split('.').all(|part| !part.is_empty())
        && !host.contains('@')
}

/// Meta's industries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Vertical {
    Alcohol,
    Apparel,
    Auto,
    Beauty,
    Edu,
    Entertain,
    EventPlan,
    Finance,
    Govt,
    Grocery,
    Health,
    Hotel,
    Nonprofit,
    OnlineGambling,
    OtcDrugs,
    Other,
    PhysicalGambling,
    ProfServices,
    Restaurant,
    Retail,
    Travel,
}

/// A profile picture: PNG or JPEG, as its own first bytes say.
#[derive(Clone, PartialEq, Eq)]
pub struct Logo {
    bytes: Vec<u8>,
    content_type: &'static str,
}

impl Logo {
    /// Codes: `logo_too_big`, `logo_type`.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Invalid> {
        if bytes.len() > LOGO_MAX_BYTES {
            return Err(Invalid::new("logo", "logo_too_big", format!("a logo has at most {LOGO_MAX_BYTES} bytes")));
        }
        let content_type = match &bytes[..] {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
            [0xff, 0xd8, 0xff, ..] => "image/jpeg",
            _ => return Err(Invalid::new("logo", "logo_type", "a logo is a PNG or a JPEG image")),
        };
        Ok(Self { bytes, content_type })
    }
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// `image/png` or `image/jpeg`
    pub fn content_type(&self) -> &'static str {
        self.content_type
    }
}

impl std::fmt::Debug for Logo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Logo({}, {} bytes)", self.content_type, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value) -> Result<Profile, &'static str> {
        serde_json::from_value::<Profile>(json).map_err(|_| "json")?.validated().map_err(|bad| bad.code)
    }

    #[test]
    fn limits_are_metas() {
        let text = |length: usize| "é".repeat(length);
        assert!(check(serde_json::json!({})).is_ok());
        let full = serde_json::json!({ "about": text(139), "address": text(256), "description": text(256), "email": "rh@atlas.example",
            "websites": ["https://atlas.example", "http://emploi.atlas.example/a?b=c"], "vertical": "PROF_SERVICES" });
        assert_eq!(serde_json::to_value(check(full.clone()).unwrap()).unwrap(), full);
        for (profile, code) in [
            (serde_json::json!({ "about": text(140) }), "profile_too_long"),
            (serde_json::json!({ "about": " " }), "profile_empty"),
            (serde_json::json!({ "address": text(257) }), "profile_too_long"),
            (serde_json::json!({ "description": text(257) }), "profile_too_long"),
            (serde_json::json!({ "email": format!("{}@a.example", text(120)) }), "profile_too_long"),
            (serde_json::json!({ "email": "atlas.example" }), "profile_email"),
            (serde_json::json!({ "email": "a b@atlas.example" }), "profile_email"),
            (serde_json::json!({ "email": "a@b@atlas.example" }), "profile_email"),
            (serde_json::json!({ "email": "rh@atlas" }), "profile_email"),
            (
                serde_json::json!({ "websites": ["https://a.example", "https://b.example", "https://c.example"] }),
                "profile_websites",
            ),
            (serde_json::json!({ "websites": ["atlas.example"] }), "profile_website"),
            (serde_json::json!({ "websites": ["https://"] }), "profile_website"),
            (serde_json::json!({ "websites": ["javascript://a.example"] }), "profile_website"),
            (serde_json::json!({ "websites": [format!("https://a.example/{}", text(240))] }), "profile_website"),
            (serde_json::json!({ "vertical": "RECRUITING" }), "json"),
            (serde_json::json!({ "abuot": "typo" }), "json"),
        ] {
            assert_eq!(check(profile.clone()), Err(code), "{profile}");
        }
    }

    #[test]
    fn a_logo_is_what_its_bytes_say() {
        assert_eq!(Logo::new(b"\x89PNG\r\n\x1a\n...".to_vec()).unwrap().content_type(), "image/png");
        assert_eq!(Logo::new(b"\xff\xd8\xff\xe0...".to_vec()).unwrap().content_type(), "image/jpeg");
        assert_eq!(Logo::new(b"<svg/>".to_vec()).unwrap_err().code, "logo_type");
        assert_eq!(Logo::new(vec![0; LOGO_MAX_BYTES + 1]).unwrap_err().code, "logo_too_big");
    }
}
