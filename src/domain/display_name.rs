//! A line's display name: what of Meta's rules can be checked before Meta reviews it (contracts/meta-cloud-api.md 3.2, 4.1).

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Characters, by `verified_name` of the contract.
const LENGTH: std::ops::RangeInclusive<usize> = 2..=75;
/// So many digits in a row make a phone number and not a name.
const DIGITS_MAX: usize = 6;
/// Names of the network's owner: no business may pass for it.
const RESERVED: [&str; 5] = ["whatsapp", "facebook", "instagram", "messenger", "meta"];

/// A name that Meta may approve. Person names and a missing link to the company are for Meta's review to find.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DisplayName(String);

impl DisplayName {
    /// Codes: `display_name_length`, `display_name_characters`, `display_name_format`, `display_name_reserved`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let name = text.trim();
        let refuse = |code, why: String| Err(Invalid::new("display_name", code, why));
        let length = name.chars().count();
        if !LENGTH.contains(&length) {
            return refuse(
                "display_name_length",
                format!("a display name has {} to {} characters, not {length}", LENGTH.start(), LENGTH.end()),
            );
        }
        if let Some(odd) = name.chars().find(|c| !is_plain(*c)) {
            return refuse("display_name_characters", format!("a display name cannot contain {odd:?}"));
        }
        if !name.chars().any(char::is_alphabetic) {
            return refuse("display_name_format", "a display name contains at least one letter".into());
        }
        let chars: Vec<char> = name.chars().collect();
        if chars.windows(2).any(|pair| pair[0] == pair[1] && !pair[0].is_alphanumeric()) {
            return refuse("display_name_format", "a display name does not repeat spaces or punctuation".into());
        }
        let lower = name.to_lowercase();
        if lower.contains("://") || lower.split_whitespace().any(|word| word.starts_with("www.") || word.contains('@')) {
            return refuse("display_name_format", "a display name is not an address or a link".into());
        }
        let digits = |word: &str| word.chars().filter(char::is_ascii_digit).count();
        if name.split(char::is_alphabetic).any(|part| digits(part) > DIGITS_MAX) {
            return refuse("display_name_format", "a display name does not contain a phone number".into());
        }
        if lower.split(|c: char| !c.is_alphanumeric()).any(|word| RESERVED.contains(&word)) {
            return refuse("display_name_reserved", "a display name cannot use the names of WhatsApp's owner".into());
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Letters and marks of any script, ASCII digits, single spaces and the punctuation that company names have.
fn is_plain(c: char) -> bool {
    c.is_alphabetic()
        || c.is_ascii_digit()
        || matches!(c, '\u{300}'..='\u{36f}' | '\u{64b}'..='\u{652}')
        || " &'’.,-–()+/|:!@".contains(c)
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for DisplayName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}
impl TryFrom<String> for DisplayName {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}
impl From<DisplayName> for String {
    fn from(name: DisplayName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_companies_pass() {
        for name in
            ["Atlas Recrutement", "RH & Co.", "L'Agence (Casablanca)", "أطلس للتوظيف", "3M", "Café-Emploi", "Metalux", " Atlas "]
        {
            assert_eq!(DisplayName::parse(name).unwrap().as_str(), name.trim());
        }
    }

    #[test]
    fn names_that_meta_refuses_have_a_stable_code() {
        let long = "a".repeat(76);
        for (name, code) in [
            ("", "display_name_length"),
            ("A", "display_name_length"),
            (long.as_str(), "display_name_length"),
            ("Atlas 🚀", "display_name_characters"),
            ("Atlas\nRH", "display_name_characters"),
            ("Atlas\u{202e}RH", "display_name_characters"),
            ("Atlas™", "display_name_characters"),
            ("24", "display_name_format"),
            ("Atlas  RH", "display_name_format"),
            ("Atlas!!", "display_name_format"),
            ("https://atlas.example", "display_name_format"),
            ("www.atlas.example", "display_name_format"),
            ("rh@atlas.example", "display_name_format"),
            ("Atlas 0520 000042", "display_name_format"),
            ("Atlas WhatsApp", "display_name_reserved"),
            ("META Jobs", "display_name_reserved"),
        ] {
            assert_eq!(DisplayName::parse(name).map_err(|bad| bad.code), Err(code), "{name}");
        }
    }
}
