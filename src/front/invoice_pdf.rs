//! `GET /v1/invoices/{number}.pdf`: an issued document from its own record, as it was on its day.

use chrono::{DateTime, NaiveDate, Utc};
use domain::{Failure, billing::Period, seller::Buyer, seller::Seller};
use serde::de::DeserializeOwned;
use store::invoices::Invoice;
use typeset::Corrected;

/// The calendar of the dates on paper: the seller's.
const SELLER_ZONE: chrono_tz::Tz = chrono_tz::Africa::Casablanca;

/// `corrected` is the invoice that a credit note names.
///
/// # Errors
/// `Rejected` with `invoice_unreadable` if the record is not one of ours, else those of [`typeset::pdf`].
pub(crate) fn pdf(invoice: &Invoice, corrected: Option<&Invoice>) -> Result<Vec<u8>, Failure> {
    typeset::pdf(&document(invoice, corrected)?)
}

fn document(invoice: &Invoice, corrected: Option<&Invoice>) -> Result<typeset::Invoice, Failure> {
    let corrects = match corrected {
        Some(other) => Some(Corrected {
            number: number(other)?,
            issued_on: day(other.issued_at),
            reason: invoice.reason.clone().unwrap_or_default(),
        }),
        None => None,
    };
    Ok(typeset::Invoice {
        number: number(invoice)?,
        seller: part::<Seller>(invoice, "seller")?,
        buyer: part::<Buyer>(invoice, "buyer")?,
        issued_on: day(invoice.issued_at),
        due_on: invoice.due_at.map(day),
        period: Period::of_day(invoice.month),
        lines: part(invoice, "lines")?,
        totals: invoice.totals(),
        corrects,
        paid_on: invoice.paid_at.map(day),
        hash: hash(invoice)?,
    })
}

fn part<T: DeserializeOwned>(invoice: &Invoice, name: &str) -> Result<T, Failure> {
    T::deserialize(&invoice.body[name]).map_err(|error| unreadable(invoice, &format!("{name}: {error}")))
}

fn number(invoice: &Invoice) -> Result<domain::billing::InvoiceNumber, Failure> {
    invoice.number.parse().map_err(|error| unreadable(invoice, &format!("{error}")))
}

fn hash(invoice: &Invoice) -> Result<domain::hash_chain::Hash, Failure> {
    let mut hash = domain::hash_chain::Hash::default();
    hex::decode_to_slice(&invoice.hash, &mut hash).map_err(|error| unreadable(invoice, &format!("hash: {error}")))?;
    Ok(hash)
}

fn day(at: DateTime<Utc>) -> NaiveDate {
    at.with_timezone(&SELLER_ZONE).date_naive()
}

fn unreadable(invoice: &Invoice, why: &str) -> Failure {
    Failure::rejected(format!("the record of {} cannot be read: {why}", invoice.number)).code("invoice_unreadable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{InvoiceId, TenantId, billing::Totals, money::Units};
    use serde_json::json;
    use uuid::Uuid;

    fn issued(number: &str) -> Invoice {
        let totals = Totals::of_net(Units(1_000_000)).unwrap();
        Invoice {
            invoice_id: InvoiceId(Uuid::from_u128(1)),
            kind: "invoice".into(),
            tenant_id: TenantId(Uuid::from_u128(2)),
            month: "2026-10-01".parse().unwrap(),
            status: "final".into(),
            corrects: None,
            reason: None,
            number: number.into(),
            // Past midnight in Casablanca, not yet in UTC.
            issued_at: "2026-10-31T23:30:00Z".parse().unwrap(),
            due_at: "2026-11-30T23:30:00Z".parse().ok(),
            sent_at: None,
            paid_at: None,
            net_units: totals.net.0,
            vat_units: totals.vat.0,
            total_units: totals.total.0,
            body: json!({
                "seller": Seller::demo(),
                "buyer": { "name": "شركة الأطلس", "legal": { "ice": "009876543000012", "address": "الرباط" } },
                "lines": [{ "kind": "base_fee", "description": "Abonnement mensuel", "quantity": 1, "unit_price": "100.00", "amount": "100.00" }],
            }),
            hash: "0f".repeat(32),
            previous_hash: None,
        }
    }

    #[test]
    fn a_record_that_is_not_ours_is_told_and_not_printed() {
        let broken = |change: fn(&mut Invoice)| {
            let mut invoice = issued("F-2026-000001");
            change(&mut invoice);
            pdf(&invoice, None).unwrap_err().code.unwrap_or_default()
        };
        assert_eq!(broken(|invoice| invoice.body = json!({})), "invoice_unreadable");
        assert_eq!(broken(|invoice| invoice.hash = "0f".into()), "invoice_unreadable");
        assert_eq!(broken(|invoice| invoice.number = "7".into()), "invoice_unreadable");
        assert_eq!(broken(|invoice| invoice.net_units += 100), "invoice_does_not_add_up");
    }

    #[test]
    fn the_dates_are_the_sellers_and_the_bytes_do_not_change() {
        let invoice = issued("F-2026-000001");
        let document = document(&invoice, None).unwrap();
        assert_eq!(document.issued_on.to_string(), "2026-11-01");
        assert_eq!(document.due_on.unwrap().to_string(), "2026-12-01");
        let bytes = pdf(&invoice, None).unwrap();
        assert!(bytes.starts_with(b"%PDF-1.7"));
        assert_eq!(pdf(&invoice, None).unwrap(), bytes);
        let note = Invoice { reason: Some("doublon".into()), ..issued("A-2026-000001") };
        assert_ne!(pdf(&note, Some(&invoice)).unwrap(), bytes);
    }
}
