//! Writes documents to look at: `cargo run -p typeset --example sample -- DIRECTORY`.

use domain::{
    Failure,
    billing::{Line, LineKind, Totals},
    legal::Legal,
    money::line_amount,
    seller::{Buyer, Seller},
};
use std::{error::Error, fs, path::Path};
use typeset::{Corrected, Invoice, pdf};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let directory = Path::new(&directory);
    fs::create_dir_all(directory)?;
    let month = vec![
        line("Abonnement mensuel", 1, "200.00")?,
        line("Messages utilitaires", 12_345, "0.1050")?,
        line("Messages marketing", 678, "0.4567")?,
        line("Messages de service", 910, "0.00")?,
        line("Messages utilitaires, remis en 2026-09", 3, "0.10")?,
    ];
    let plain = invoice(month.clone())?;
    let arabic = Invoice {
        buyer: Buyer {
            name: "شركة الأطلس للتوظيف Atlas RH ش.م.م".into(),
            legal: Legal {
                address: Some("12، شارع محمد الخامس (الطابق 3)، حي أكدال\n10090 الرباط، المغرب".into()),
                ..plain.buyer.legal.clone()
            },
        },
        paid_on: Some("2026-11-15".parse()?),
        lines: vec![
            line("تسوية رسائل شهر سبتمبر 2026", 4, "12.50")?,
            line("Message d’accueil « مرحبا بكم » en deux langues", 20, "0.4567")?,
        ],
        ..plain.clone()
    };
    let arabic = Invoice { totals: Totals::of(&arabic.lines)?, ..arabic };
    let many: Result<Vec<_>, _> = (1..=200)
        .map(|n| line(&format!("Messages utilitaires, équipe de recrutement n° {n}"), 10_000 + n * 37, "0.1234"))
        .collect();
    let note = Invoice {
        number: "A-2026-000001".parse()?,
        due_on: None,
        corrects: Some(Corrected {
            number: plain.number,
            issued_on: plain.issued_on,
            reason: "messages remis deux fois le 12 octobre, à la suite d’une panne".into(),
        }),
        ..invoice(vec![line("Régularisation", 1, "310.25")?])?
    };
    let documents = [
        ("facture", plain),
        ("arabe", arabic),
        ("longue", invoice(many?)?),
        ("trente", invoice(std::iter::repeat_n(month, 6).flatten().collect())?),
        ("avoir", note),
    ];
    for (name, invoice) in documents {
        fs::write(directory.join(format!("{name}.pdf")), pdf(&invoice)?)?;
    }
    Ok(())
}

fn line(description: &str, quantity: i64, unit_price: &str) -> Result<Line, Failure> {
    let wrong = |error| Failure::rejected(format!("{description}: {error}"));
    let unit_price = unit_price.parse().map_err(wrong)?;
    let amount = line_amount(quantity, unit_price).map_err(wrong)?;
    Ok(Line {
        kind: LineKind::Messages,
        category: None,
        usage_month: None,
        description: description.into(),
        quantity,
        unit_price,
        amount,
    })
}

fn invoice(lines: Vec<Line>) -> Result<Invoice, Box<dyn Error>> {
    Ok(Invoice {
        number: "F-2026-000001".parse()?,
        seller: Seller::demo(),
        buyer: Buyer {
            name: "Atlas Recrutement SARL".into(),
            legal: Legal {
                ice: Some("009876543000012".into()),
                tax_id: Some("87654321".into()),
                rc: Some("45678".into()),
                tp: Some("23456789".into()),
                address: Some("12, avenue Mohammed V, 3e étage, Agdal\n10090 Rabat, Maroc".into()),
            },
        },
        issued_on: "2026-11-01".parse()?,
        due_on: Some("2026-12-01".parse()?),
        period: "2026-10".parse()?,
        totals: Totals::of(&lines)?,
        lines,
        corrects: None,
        paid_on: None,
        hash: std::array::from_fn(|n| (n as u8).wrapping_mul(73)),
    })
}
