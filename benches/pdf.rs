//! Invoices typeset per second on one core: `cargo bench --bench pdf`.
//!
//! Measured: 236/s of one line, 228 of five, 174 of thirty, 73 of two hundred.

use domain::{
    billing::{Line, LineKind, Totals},
    legal::Legal,
    money::{Units, line_amount},
    seller::{Buyer, Seller},
};
use std::time::{Duration, Instant};
use typeset::Invoice;

/// How long each size is measured.
const LENGTH: Duration = Duration::from_secs(3);

fn main() {
    for lines in [1, 5, 30, 200] {
        let invoice = invoice(lines);
        // The first reads the fonts.
        let bytes = set(&invoice);
        let (start, mut count, mut fastest) = (Instant::now(), 0u32, LENGTH);
        while start.elapsed() < LENGTH {
            let before = Instant::now();
            assert_eq!(set(&invoice), bytes);
            fastest = fastest.min(before.elapsed());
            count += 1;
        }
        let rate = f64::from(count) / start.elapsed().as_secs_f64();
        println!(
            "{lines:>4} lines: {rate:>5.0} PDFs/s, the fastest in {:.2} ms, {bytes} bytes each",
            fastest.as_secs_f64() * 1e3
        );
    }
}

fn set(invoice: &Invoice) -> usize {
    typeset::pdf(invoice).expect("the invoice adds up").len()
}

fn invoice(count: i64) -> Invoice {
    let unit_price = Units(1_050);
    let line = |quantity| Line {
        kind: LineKind::Messages,
        category: None,
        usage_month: None,
        description: format!("Messages utilitaires, équipe {quantity}"),
        quantity,
        unit_price,
        amount: line_amount(quantity, unit_price).expect("small"),
    };
    let lines: Vec<_> = (1..=count).map(line).collect();
    Invoice {
        number: "F-2026-000001".parse().expect("a number"),
        seller: Seller::demo(),
        buyer: Buyer {
            name: "شركة الأطلس للتوظيف Atlas Recrutement".into(),
            legal: Legal {
                ice: Some("009876543000012".into()),
                address: Some("شارع محمد الخامس، الرباط".into()),
                ..Legal::default()
            },
        },
        issued_on: "2026-11-01".parse().expect("a day"),
        due_on: "2026-12-01".parse().ok(),
        period: "2026-10".parse().expect("a month"),
        totals: Totals::of(&lines).expect("small"),
        lines,
        corrects: None,
        paid_on: None,
        hash: [0x5a; 32],
    }
}
