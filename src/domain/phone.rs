//! Phone numbers in E.164, the countries that we may serve, and the languages that we speak.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// E.164: at most 15 digits; fewer than 7 is no subscriber anywhere.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// A phone number in E.164: `+212520000042`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
pub struct Phone(String);

impl Phone {
    /// Reads `+212 520-000042` or `00212520000042`. A number without its country is refused: `phone_invalid`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let bare: String =
            text.trim().chars().filter(|c| !matches!(c, ' ' | '\u{a0}' | '\u{202f}' | '-' | '.' | '(' | ')')).collect();
        let digits = bare.strip_prefix('+').or_else(|| bare.strip_prefix("00"));
        let digits = digits.ok_or_else(|| invalid("a phone number starts with + and its country: +212520000042"))?;
        Self::from_digits(digits)
    }

    /// Reads the form without `+`, which is Meta's `wa_id` and Telnyx's filters: `212520000042`.
    pub fn from_digits(digits: &str) -> Result<Self, Invalid> {
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(invalid("a phone number is + and digits"));
        }
        if !DIGITS.contains(&digits.len()) || digits.starts_with('0') {
            return Err(invalid("a phone number has 7 to 15 digits after the +, the first of them not 0"));
        }
        Ok(Self(format!("+{digits}")))
    }

    /// `+212520000042`
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `212520000042`
    pub fn digits(&self) -> &str {
        &self.0[1..]
    }

    /// The country, where it is one that we may serve. Canada's part of +1 is not told from the United States'.
    pub fn country(&self) -> Option<Country> {
        COUNTRIES
            .iter()
            .filter(|row| self.digits().starts_with(row.calling_code))
            .max_by_key(|row| row.calling_code.len())
            .map(Country)
    }

    /// Country calling code and the rest: `("212", "520000042")`. `None` outside the countries that we may serve.
    pub fn split(&self) -> Option<(&'static str, &str)> {
        let code = self.country()?.calling_code();
        Some((code, &self.digits()[code.len()..]))
    }

    /// For logs about people: `+2125•••••42`.
    pub fn masked(&self) -> String {
        let (head, tail) = (&self.0[..5], &self.0[self.0.len() - 2..]);
        format!("{head}{}{tail}", "•".repeat(self.0.len() - 7))
    }
}

fn invalid(why: &str) -> Invalid {
    Invalid::new("phone", "phone_invalid", why)
}

impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for Phone {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}
impl TryFrom<String> for Phone {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}
impl From<Phone> for String {
    fn from(phone: Phone) -> Self {
        phone.0
    }
}

struct Row {
    iso2: &'static str,
    calling_code: &'static str,
    languages: &'static [Language],
    time_zone: chrono_tz::Tz,
}

const fn row(iso2: &'static str, calling_code: &'static str, languages: &'static [Language], time_zone: chrono_tz::Tz) -> Row {
    Row { iso2, calling_code, languages, time_zone }
}

use Language::{Arabic, English, French};
use chrono_tz::{Africa, America, Asia, Europe};

/// The countries that we may serve, and the languages that we speak there, the first one first.
static COUNTRIES: [Row; 20] = [
    row("MA", "212", &[French, Arabic, English], Africa::Casablanca),
    row("FR", "33", &[French, English], Europe::Paris),
    row("BE", "32", &[French, English], Europe::Brussels),
    row("CH", "41", &[French, English], Europe::Zurich),
    row("LU", "352", &[French, English], Europe::Luxembourg),
    row("ES", "34", &[English, French], Europe::Madrid),
    row("PT", "351", &[English, French], Europe::Lisbon),
    row("IT", "39", &[English, French], Europe::Rome),
    row("DE", "49", &[English, French], Europe::Berlin),
    row("NL", "31", &[English, French], Europe::Amsterdam),
    row("GB", "44", &[English], Europe::London),
    row("US", "1", &[English], America::New_York),
    row("TN", "216", &[French, Arabic, English], Africa::Tunis),
    row("DZ", "213", &[French, Arabic, English], Africa::Algiers),
    row("EG", "20", &[Arabic, English], Africa::Cairo),
    row("SN", "221", &[French, English], Africa::Dakar),
    row("CI", "225", &[French, English], Africa::Abidjan),
    row("CM", "237", &[French, English], Africa::Douala),
    row("SA", "966", &[Arabic, English], Asia::Riyadh),
    row("AE", "971", &[Arabic, English], Asia::Dubai),
];

/// A country that we may serve, by its ISO 3166 alpha-2 code. Stored and sent as that code.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country(&'static Row);

impl Country {
    /// `MA`, in any case. Anything else than a country that we may serve is `unknown_country`.
    pub fn parse(iso2: &str) -> Result<Self, Invalid> {
        COUNTRIES.iter().find(|row| row.iso2.eq_ignore_ascii_case(iso2.trim())).map(Country).ok_or_else(|| {
            let known: Vec<&str> = COUNTRIES.iter().map(|row| row.iso2).collect();
            Invalid::new("country", "unknown_country", format!("country is one of {}", known.join(", ")))
        })
    }

    pub fn all() -> impl Iterator<Item = Self> {
        COUNTRIES.iter().map(Self)
    }

    /// `MA`
    pub fn iso2(self) -> &'static str {
        self.0.iso2
    }

    /// `212`
    pub fn calling_code(self) -> &'static str {
        self.0.calling_code
    }

    /// What is spoken unless the tenant says otherwise.
    pub fn language(self) -> Language {
        self.0.languages[0]
    }

    /// What is spoken, the commonest first.
    pub fn languages(self) -> &'static [Language] {
        self.0.languages
    }

    pub fn time_zone(self) -> chrono_tz::Tz {
        self.0.time_zone
    }
}

impl PartialEq for Country {
    fn eq(&self, other: &Self) -> bool {
        self.0.iso2 == other.0.iso2
    }
}
impl Eq for Country {}
impl std::hash::Hash for Country {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.iso2.hash(state);
    }
}
impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iso2)
    }
}
impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.iso2)
    }
}
impl FromStr for Country {
    type Err = Invalid;
    fn from_str(iso2: &str) -> Result<Self, Invalid> {
        Self::parse(iso2)
    }
}
impl TryFrom<String> for Country {
    type Error = Invalid;
    fn try_from(iso2: String) -> Result<Self, Invalid> {
        Self::parse(&iso2)
    }
}
impl From<Country> for String {
    fn from(country: Country) -> Self {
        country.0.iso2.to_owned()
    }
}

/// A language that codes are asked for in and that stop words and sentences exist in. Stored and sent as `fr`, `ar`, `en`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Language {
    French,
    Arabic,
    English,
}

impl Language {
    /// `fr`, `fr_FR` or `fr-MA`, in any case; others are `unknown_language`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let language = text.trim().split(['_', '-']).next().unwrap_or_default().to_ascii_lowercase();
        [Self::French, Self::Arabic, Self::English]
            .into_iter()
            .find(|one| one.as_str() == language)
            .ok_or_else(|| Invalid::new("language", "unknown_language", "language is one of fr, ar, en"))
    }

    /// `fr`: what is stored, and what the transcription engine is set to.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::French => "fr",
            Self::Arabic => "ar",
            Self::English => "en",
        }
    }

    /// What Meta calls it when a code is asked for (contracts/meta-cloud-api.md 3.4).
    pub fn meta_locale(self) -> &'static str {
        match self {
            Self::French => "fr",
            Self::Arabic => "ar",
            Self::English => "en_US",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for Language {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}
impl TryFrom<String> for Language {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}
impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn phones_are_read_as_people_write_them() {
        for text in ["+212520000042", "+212 520-000042", "00212 5 20 00 00 42", " +212 (520) 000.042 ", "+212\u{a0}520000042"] {
            let phone = Phone::parse(text).unwrap();
            assert_eq!(phone.as_str(), "+212520000042");
            assert_eq!(phone.split(), Some(("212", "520000042")));
            assert_eq!(phone.country().unwrap().iso2(), "MA");
        }
        for text in [
            "",
            "+",
            "0520000042",
            "212520000042",
            "+0520000042",
            "+21252",
            "+2125200000421234",
            "+212abc0000042",
            "+٢١٢٥٢٠٠٠٠٠٤٢",
        ] {
            assert_eq!(Phone::parse(text).map_err(|bad| bad.code), Err("phone_invalid"), "{text}");
        }
        assert_eq!(Phone::parse("+212520000042").unwrap().masked(), "+2125••••••42");
        assert_eq!(Phone::parse("+9991234567").unwrap().split(), None);
        assert_eq!(Phone::parse("+35212345678").unwrap().country().unwrap().iso2(), "LU");
    }

    #[test]
    fn phones_countries_and_languages_travel_as_text() {
        let phone: Phone = serde_json::from_str(r#""+212 520000042""#).unwrap();
        assert_eq!(serde_json::to_string(&phone).unwrap(), r#""+212520000042""#);
        assert!(serde_json::from_str::<Phone>(r#""0520000042""#).is_err());
        let country: Country = serde_json::from_str(r#""ma""#).unwrap();
        assert_eq!(serde_json::to_string(&country).unwrap(), r#""MA""#);
        assert!(serde_json::from_str::<Country>(r#""XX""#).is_err());
        assert_eq!(Country::parse("ZZ").unwrap_err().code, "unknown_country");
        assert_eq!(Language::parse("fr_FR").unwrap(), Language::French);
        assert_eq!(Language::parse("es").unwrap_err().code, "unknown_language");
        assert!(Country::all().all(|country| Country::parse(country.iso2()).unwrap() == country));
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_again(text in "\\PC{0,24}|\\+[0-9]{5,17}") {
            if let Ok(phone) = Phone::parse(&text) {
                prop_assert_eq!(&Phone::parse(phone.as_str()).unwrap(), &phone);
                prop_assert_eq!(&Phone::from_digits(phone.digits()).unwrap(), &phone);
                prop_assert_eq!(phone.masked().chars().count(), phone.as_str().len());
            }
        }
    }
}
