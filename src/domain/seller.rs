//! Who stands on an invoice: the seller, as configured, and the buyer. Both are kept with the invoice, which never changes.

use crate::{Invalid, legal::Legal};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Characters of a name or of any other single line.
const TEXT_MAX: usize = 200;
/// Characters of the sentence about late payment.
const LATE_PAYMENT_MAX: usize = 600;
/// A Moroccan bank account number (RIB): bank, town, account, key.
const RIB_DIGITS: usize = 24;

/// The company that issues the invoices: `LIGNE_SELLER`, one JSON object.
/// `{"name","legal":{"ice","if","rc","tp","address"},"brand"?,"form"?,"email"?,"phone"?,"bank"?:{"name","rib"},"late_payment"?}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seller {
    /// Registered name.
    pub name: String,
    pub legal: Legal,
    /// What stands large at the top of the page, if not the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    /// Legal form and capital, as the law wants them on the foot: `SARL au capital de 100 000,00 MAD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Where to pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bank: Option<Bank>,
    /// What happens when payment is late, in French, in place of the printed default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_payment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bank {
    pub name: String,
    /// 24 digits.
    pub rib: String,
}

/// The tenant as it was on the day of issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buyer {
    pub name: String,
    pub legal: Legal,
}

impl Seller {
    /// Somebody who does not exist, for the demo and the sandbox.
    pub fn demo() -> Self {
        Self {
            name: "Ligne Démonstration SARL".into(),
            legal: Legal {
                ice: Some("001234567000089".into()),
                tax_id: Some("12345678".into()),
                rc: Some("123456".into()),
                tp: Some("34567890".into()),
                address: Some("7, rue des Essais\n20000 Casablanca, Maroc".into()),
            },
            brand: Some("Ligne".into()),
            form: Some("SARL au capital de 100 000,00 MAD".into()),
            email: Some("facturation@ligne.example".into()),
            phone: Some("+212 5 22 00 00 00".into()),
            bank: Some(Bank { name: "Banque de démonstration".into(), rib: "000000000000000000000000".into() }),
            late_payment: None,
        }
    }

    /// Normalises and checks. Codes: those of [`Legal`] and `seller_name`, `seller_text`, `seller_rib`.
    pub fn validated(mut self) -> Result<Self, Invalid> {
        self.legal = self.legal.validated()?;
        self.legal.complete()?;
        if !is_line(&self.name, TEXT_MAX) {
            return Err(Invalid::new("name", "seller_name", format!("the seller's name has 1 to {TEXT_MAX} characters")));
        }
        let bank_name = self.bank.as_ref().map(|bank| &bank.name);
        for text in
            [self.brand.as_ref(), self.form.as_ref(), self.email.as_ref(), self.phone.as_ref(), bank_name].into_iter().flatten()
        {
            if !is_line(text, TEXT_MAX) {
                return Err(Invalid::new(
                    "seller",
                    "seller_text",
                    format!("{text:?} is not a line of 1 to {TEXT_MAX} characters"),
                ));
            }
        }
        if self.late_payment.as_ref().is_some_and(|text| !is_line(text, LATE_PAYMENT_MAX)) {
            let why = format!("the sentence on late payment has 1 to {LATE_PAYMENT_MAX} characters");
            return Err(Invalid::new("late_payment", "seller_text", why));
        }
        if let Some(bank) = &mut self.bank {
            bank.rib.retain(|c| !c.is_whitespace());
            if bank.rib.len() != RIB_DIGITS || !bank.rib.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(Invalid::new("bank.rib", "seller_rib", format!("the RIB has {RIB_DIGITS} digits")));
            }
        }
        Ok(self)
    }
}

/// From JSON, checked.
impl FromStr for Seller {
    type Err = Invalid;
    fn from_str(json: &str) -> Result<Self, Invalid> {
        let seller: Self =
            serde_json::from_str(json).map_err(|error| Invalid::new("seller", "seller_json", error.to_string()))?;
        seller.validated()
    }
}

fn is_line(text: &str, most: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= most && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(change: impl FnOnce(&mut Value)) -> Result<Seller, &'static str> {
        let mut json = serde_json::to_value(Seller::demo()).unwrap();
        change(&mut json);
        json.to_string().parse::<Seller>().map_err(|invalid| invalid.code)
    }

    #[test]
    fn a_seller_is_complete_or_refused() {
        let set = |path: &'static str, value: Value| read(move |json| *json.pointer_mut(path).unwrap() = value);
        assert_eq!(set("/name", json!(" ")), Err("seller_name"));
        assert_eq!(set("/brand", json!("a\nb")), Err("seller_text"));
        assert_eq!(set("/bank/rib", json!("123")), Err("seller_rib"));
        assert_eq!(set("/legal/ice", json!("123")), Err("legal_ice"));
        assert_eq!(set("/legal/rc", Value::Null), Err("legal_missing"));
        assert_eq!(read(|json| json["siret"] = json!("1")), Err("seller_json"));
        assert_eq!("".parse::<Seller>().map_err(|invalid| invalid.code), Err("seller_json"));
        assert_eq!(read(|_| ()), Ok(Seller::demo()));
        assert_eq!(set("/bank/rib", json!("0000 0000 0000 0000 0000 0000")), Ok(Seller::demo()));
    }
}
