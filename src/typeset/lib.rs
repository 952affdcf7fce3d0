//! The invoice as a document: French and Arabic text shaped and set as PDF/A.

mod faces;
mod french;
mod layout;
mod sheet;
mod text;

use chrono::NaiveDate;
use domain::{
    Failure,
    billing::{InvoiceNumber, Line, Period, Series, Totals},
    money::Units,
    seller::{Buyer, Seller},
};
use serde::{Deserialize, Serialize};

/// More lines than this are refused.
pub const LINES_MAX: usize = 5_000;

/// Everything that stands on an invoice or a credit note, as it was on the day of issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// Its series says whether this is an invoice (`F`) or a credit note (`A`).
    pub number: InvoiceNumber,
    pub seller: Seller,
    pub buyer: Buyer,
    /// Date of issue, in the seller's time zone.
    pub issued_on: NaiveDate,
    /// Last day to pay; a credit note has none.
    pub due_on: Option<NaiveDate>,
    /// The month that was served.
    pub period: Period,
    pub lines: Vec<Line>,
    pub totals: Totals,
    /// Of a credit note: what it corrects.
    pub corrects: Option<Corrected>,
    /// The day on which the last of it was paid: stamped on the page.
    pub paid_on: Option<NaiveDate>,
    /// The invoice's link in the chain (`domain::hash_chain`), printed at the foot.
    pub hash: [u8; 32],
}

/// The invoice that a credit note takes back, in part or in whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corrected {
    pub number: InvoiceNumber,
    pub issued_on: NaiveDate,
    pub reason: String,
}

/// The document: PDF/A-2u, A4, in French. The same invoice gives the same bytes.
///
/// # Errors
/// `Rejected`: `invoice_does_not_add_up` if the totals are not those of the lines, `invoice_too_long` above [`LINES_MAX`],
/// `pdf_refused` if it could not be kept in an archive.
pub fn pdf(invoice: &Invoice) -> Result<Vec<u8>, Failure> {
    if invoice.lines.len() > LINES_MAX {
        return Err(Failure::rejected(format!("an invoice has at most {LINES_MAX} lines")).code("invoice_too_long"));
    }
    let Totals { net, vat, total } = invoice.totals;
    let sum = Units::sum(invoice.lines.iter().map(|line| line.amount));
    if sum != Ok(net) || net.plus(vat) != Ok(total) {
        let why = format!("the totals of {} are not those of its lines", invoice.number);
        return Err(Failure::rejected(why).code("invoice_does_not_add_up"));
    }
    sheet::pdf(&layout::pages(invoice), layout::metadata(invoice))
}

impl Invoice {
    fn is_credit_note(&self) -> bool {
        self.number.series == Series::CreditNote
    }
}
