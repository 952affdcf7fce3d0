//! Serde for what providers really send: nulls, numbers for strings, strings for numbers, words nobody announced.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Null and absent are the default.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// An id or a word: strings as they are, numbers as written, null as empty.
pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(as_text(&Value::deserialize(from)?).unwrap_or_default())
}

/// As [`text`], with null, absent and empty as `None`.
pub(crate) fn maybe_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(as_text(&Value::deserialize(from)?).filter(|t| !t.is_empty()))
}

/// A whole number, also as a string; anything else is `None`.
pub(crate) fn maybe_int<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    Ok(as_int(&Value::deserialize(from)?))
}

/// A time in RFC 3339; null, empty and unreadable are `None`.
pub(crate) fn maybe_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(as_time(&Value::deserialize(from)?))
}

/// A list whose broken rows are left out; null and absent are empty.
pub(crate) fn list<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(rows) => rows.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect(),
        _ => Vec::new(),
    })
}

/// Words, or objects with a `name` (Telnyx features); anything else is left out.
pub(crate) fn names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(rows) => rows.iter().filter_map(|row| as_text(row.get("name").unwrap_or(row))).collect(),
        _ => Vec::new(),
    })
}

pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(crate) fn as_int(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(crate) fn as_time(value: &Value) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|time| time.to_utc())
}

/// Unix seconds, as a number or a string.
pub(crate) fn as_unix_time(value: &Value) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(as_int(value)?, 0)
}

/// Only the digits of a phone number, as providers compare them.
pub(crate) fn digits(phone: &str) -> String {
    phone.chars().filter(char::is_ascii_digit).collect()
}

/// An amount of money in millionths of its currency, read exactly from a decimal string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub micros: i64,
    /// ISO 4217, as the provider gave it.
    pub currency: String,
}

impl Price {
    /// `None` if the text is no decimal number or has more than six places that count.
    pub fn parse(amount: &str, currency: &str) -> Option<Self> {
        Some(Self { micros: micros(amount)?, currency: currency.to_owned() })
    }
}

/// `"4.50"` is 4,500,000. Exact or nothing: no float is involved.
pub(crate) fn micros(amount: &str) -> Option<i64> {
    const PLACES: usize = 6;
    let amount = amount.trim();
    let (negative, digits) = match amount.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, amount),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let part = part.trim_end_matches('0');
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !all_digits(whole) || !all_digits(part) || part.len() > PLACES {
        return None;
    }
    let scaled: i64 = format!("{whole}{part:0<PLACES$}").parse().ok()?;
    Some(if negative { -scaled } else { scaled })
}

/// An enum of words that a provider may add to: unknown ones are kept, case is forgiven, null is `Other("")`.
macro_rules! words {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// A word that was unknown when this was written; empty if the provider sent none.
            Other(String),
        }
        impl $name {
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }
        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }
        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                $(if word.eq_ignore_ascii_case($word) { return Self::$variant; })*
                Self::Other(word.to_owned())
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::loose::text(from).map(|word| Self::from(word.as_str()))
            }
        }
    )*};
}
pub(crate) use words;
