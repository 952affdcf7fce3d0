//! A company's legal identity in Morocco: ICE, IF, RC, TP and address, as they stand on an invoice.

use crate::Invalid;
use serde::{Deserialize, Serialize};

/// The ICE is 9 digits for the company, 4 for the establishment and 2 to check.
const ICE_DIGITS: usize = 15;
/// Digits of a tax identifier (identifiant fiscal): older ones are shorter.
const IF_DIGITS: std::ops::RangeInclusive<usize> = 5..=9;
/// Digits of a trade register number (registre de commerce); a letter may follow.
const RC_DIGITS: std::ops::RangeInclusive<usize> = 1..=9;
/// Digits of a professional tax number (taxe professionnelle).
const TP_DIGITS: std::ops::RangeInclusive<usize> = 5..=9;
/// Characters of an address.
const ADDRESS_MAX: usize = 300;

/// As in `POST /v1/tenants`: `{"ice","if","rc","tp","address"}`, each checked if given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Legal {
    /// Identifiant commun de l'entreprise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ice: Option<String>,
    /// Identifiant fiscal.
    #[serde(rename = "if", skip_serializing_if = "Option::is_none")]
    pub tax_id: Option<String>,
    /// Registre de commerce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rc: Option<String>,
    /// Taxe professionnelle (patente).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl Legal {
    /// Normalises (spaces and dots out of the numbers) and checks what is given. Codes: `legal_ice`, `legal_if`,
    /// `legal_rc`, `legal_tp`, `legal_address`.
    pub fn validated(self) -> Result<Self, Invalid> {
        let ice = numeral(self.ice, ICE_DIGITS..=ICE_DIGITS, "legal.ice", "legal_ice", "the ICE has 15 digits")?;
        if ice.as_deref().is_some_and(|ice| ice.bytes().all(|digit| digit == b'0')) {
            return Err(Invalid::new("legal.ice", "legal_ice", "the ICE is not all zeros"));
        }
        let tax_id = numeral(self.tax_id, IF_DIGITS, "legal.if", "legal_if", "the IF has 5 to 9 digits")?;
        let tp = numeral(self.tp, TP_DIGITS, "legal.tp", "legal_tp", "the TP has 5 to 9 digits")?;
        let rc = self.rc.map(|rc| compact(&rc).to_uppercase());
        if let Some(rc) = &rc {
            let digits = rc.trim_end_matches(|c: char| c.is_ascii_uppercase());
            if !is_numeral(digits, RC_DIGITS) || rc.len() > digits.len() + 1 {
                return Err(Invalid::new("legal.rc", "legal_rc", "the RC has 1 to 9 digits, perhaps with a letter after them"));
            }
        }
        let address = self.address.map(|address| address.trim().to_owned());
        if address.as_deref().is_some_and(|address| address.is_empty() || address.chars().count() > ADDRESS_MAX) {
            return Err(Invalid::new("legal.address", "legal_address", format!("the address has 1 to {ADDRESS_MAX} characters")));
        }
        Ok(Self { ice, tax_id, rc, tp, address })
    }

    /// Whether an invoice may be made out to this company and a line ordered for it: `legal_missing` names what lacks.
    pub fn complete(&self) -> Result<(), Invalid> {
        let missing: Vec<&str> = [("ice", &self.ice), ("if", &self.tax_id), ("rc", &self.rc), ("address", &self.address)]
            .into_iter()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Invalid::new("legal", "legal_missing", format!("the company's legal data lack: {}", missing.join(", "))))
    }
}

fn numeral(
    text: Option<String>,
    length: std::ops::RangeInclusive<usize>,
    field: &'static str,
    code: &'static str,
    why: &str,
) -> Result<Option<String>, Invalid> {
    let text = text.map(|text| compact(&text));
    match &text {
        Some(text) if !is_numeral(text, length) => Err(Invalid::new(field, code, why)),
        _ => Ok(text),
    }
}

fn is_numeral(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit())
}

fn compact(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '.' | '-')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value) -> Result<Legal, &'static str> {
        serde_json::from_value::<Legal>(json).map_err(|_| "json")?.validated().map_err(|bad| bad.code)
    }

    #[test]
    fn numbers_are_checked_and_normalised() {
        let legal =
            check(serde_json::json!({ "ice": "001 234 567 000 089", "if": "12345678", "rc": "123456 b", "tp": "12345678",
            "address": " 1, rue A, Casablanca " }))
            .unwrap();
        assert_eq!(legal.ice.as_deref(), Some("001234567000089"));
        assert_eq!(legal.rc.as_deref(), Some("123456B"));
        assert_eq!(legal.address.as_deref(), Some("1, rue A, Casablanca"));
        assert_eq!(legal.complete(), Ok(()));
        for (legal, code) in [
            (serde_json::json!({ "ice": "00123456700008" }), "legal_ice"),
            (serde_json::json!({ "ice": "0012345670000890" }), "legal_ice"),
            (serde_json::json!({ "ice": "00123456700008A" }), "legal_ice"),
            (serde_json::json!({ "ice": "000000000000000" }), "legal_ice"),
            (serde_json::json!({ "ice": "٠٠١٢٣٤٥٦٧٠٠٠٠٨٩" }), "legal_ice"),
            (serde_json::json!({ "if": "12" }), "legal_if"),
            (serde_json::json!({ "rc": "B123" }), "legal_rc"),
            (serde_json::json!({ "rc": "" }), "legal_rc"),
            (serde_json::json!({ "rc": "123BB" }), "legal_rc"),
            (serde_json::json!({ "tp": "x" }), "legal_tp"),
            (serde_json::json!({ "address": "" }), "legal_address"),
            (serde_json::json!({ "siret": "1" }), "json"),
        ] {
            assert_eq!(check(legal.clone()), Err(code), "{legal}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = check(serde_json::json!({ "ice": "001234567000089", "address": "Rabat" })).unwrap().complete().unwrap_err();
        assert_eq!((missing.code, missing.why.as_str()), ("legal_missing", "the company's legal data lack: if, rc"));
    }
}
