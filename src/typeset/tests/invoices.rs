//! Documents read back from their bytes by another library: nothing is missing, nothing moves.

#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use domain::{
    billing::{Line, LineKind, Totals},
    legal::Legal,
    money::{Units, line_amount},
    seller::{Buyer, Seller},
};
use lopdf::Document;
use typeset::{Corrected, Invoice, LINES_MAX, pdf};

fn line(description: &str, quantity: i64, unit_price: &str) -> Line {
    let unit_price = unit_price.parse().unwrap();
    let amount = line_amount(quantity, unit_price).unwrap();
    Line {
        kind: LineKind::Messages,
        category: None,
        usage_month: None,
        description: description.into(),
        quantity,
        unit_price,
        amount,
    }
}

fn invoice(lines: Vec<Line>) -> Invoice {
    Invoice {
        number: "F-2026-000001".parse().unwrap(),
        seller: Seller::demo(),
        buyer: Buyer {
            name: "شركة الأطلس للتوظيف".into(),
            legal: Legal {
                ice: Some("009876543000012".into()),
                tax_id: Some("87654321".into()),
                rc: Some("4567B".into()),
                tp: None,
                address: Some("12، شارع محمد الخامس (الطابق 3)\nالرباط".into()),
            },
        },
        issued_on: "2026-11-01".parse().unwrap(),
        due_on: Some("2026-12-01".parse().unwrap()),
        period: "2026-10".parse().unwrap(),
        totals: Totals::of(&lines).unwrap(),
        lines,
        corrects: None,
        paid_on: None,
        hash: [0xab; 32],
    }
}

fn month() -> Vec<Line> {
    vec![
        line("Abonnement mensuel", 1, "200.00"),
        line("Messages utilitaires", 12_345, "0.1050"),
        line("Messages marketing", 678, "0.4567"),
        line("Messages de service", 910, "0.00"),
        line("Messages utilitaires, remis en 2026-09", 3, "0.10"),
    ]
}

fn many(count: i64) -> Vec<Line> {
    (1..=count).map(|n| line(&format!("Poste {n}"), 10_000 + n, "1.2345")).collect()
}

/// The text of each page, its spaces made plain.
fn read(bytes: &[u8]) -> Vec<String> {
    let document = Document::load_mem(bytes).unwrap();
    let pages: Vec<u32> = document.get_pages().into_keys().collect();
    pages
        .into_iter()
        .map(|page| document.extract_text(&[page]).unwrap().replace(['\u{202F}', '\u{A0}'], " ").replace('\n', " "))
        .collect()
}

#[track_caller]
fn assert_holds(text: &str, wanted: &[&str]) {
    // The reader may part a line where its face changes.
    let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    for one in wanted {
        assert!(plain(text).contains(&plain(one)), "{one:?} is not in {text:?}");
    }
}

#[test]
fn every_figure_is_on_the_page() {
    let invoice = invoice(month());
    let pages = read(&pdf(&invoice).unwrap());
    assert_eq!(pages.len(), 1);
    let hash = "ab".repeat(32);
    assert_holds(
        &pages[0],
        &[
            "FACTURE",
            "N° F-2026-000001",
            "1er novembre 2026",
            "1er décembre 2026",
            "1er au 31 octobre 2026",
            "Ligne Démonstration SARL",
            "7, rue des Essais",
            "001234567000089",
            "12345678",
            "123456",
            "34567890",
            "009876543000012",
            "87654321",
            "4567B",
            "Abonnement mensuel",
            "12 345",
            "0,105",
            "1 296,23",
            "678",
            "0,4567",
            "309,64",
            "910",
            "0,00",
            "remis en 2026-09",
            "0,30",
            "Total HT",
            "1 806,17 MAD",
            "TVA 20 %",
            "361,23 MAD",
            "Total TTC",
            "2 167,40 MAD",
            "Deux mille cent soixante-sept dirhams et quarante centimes, toutes taxes comprises.",
            "Paiement par virement",
            "Tout retard de paiement",
            "RIB 000 000 0000000000000000 00",
            &hash,
            "Page 1/1",
        ],
    );
}

#[test]
fn arabic_is_shaped_and_says_what_was_written() {
    let bytes = pdf(&invoice(month())).unwrap();
    let text = read(&bytes).concat();
    // The order of the glyphs is that of the paper: read from the left, the words stand backwards, but for lam and alef,
    // which are one glyph.
    for word in ["ةكرش", "سلطلأا", "فيظوتلل", "عراش", "دمحم", "طابرلا"] {
        assert!(text.contains(word), "{word} is not in {text:?}");
    }
    let document = Document::load_mem(&bytes).unwrap();
    let fonts: Vec<_> = document
        .objects
        .values()
        .filter_map(|object| object.as_dict().ok()?.get(b"BaseFont").ok()?.as_name().ok())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    for face in ["Inter-Regular", "Inter-SemiBold", "NotoSansArabic-Bold", "NotoSansArabic-Regular"] {
        assert!(fonts.iter().any(|name| name.contains(face)), "{face} is not among {fonts:?}");
    }
}

#[test]
fn long_tables_go_on_under_their_heading_and_carry_their_sum() {
    for (count, least_pages) in [(1, 1), (30, 2), (200, 4)] {
        let invoice = invoice(many(count));
        let pages = read(&pdf(&invoice).unwrap());
        assert!(pages.len() >= least_pages, "{count} lines on {} pages", pages.len());
        for (index, page) in pages.iter().enumerate() {
            assert_holds(
                page,
                &[&format!("Page {}/{}", index + 1, pages.len()), "Désignation", "001234567000089", &"ab".repeat(32)],
            );
            assert_eq!(page.contains("À reporter"), index + 1 < pages.len(), "page {}", index + 1);
        }
        for row in &invoice.lines {
            assert!(pages.iter().any(|page| page.contains(&row.description)), "{}", row.description);
        }
        let all = pages.concat().replace(' ', "");
        for row in &invoice.lines {
            assert!(all.contains(&row.amount.to_string().replace('.', ",")), "{}", row.amount);
        }
        assert_holds(&pages[pages.len() - 1], &["Total TTC"]);
    }
}

#[test]
fn every_number_of_lines_leaves_the_totals_with_a_line_and_below_it() {
    for count in [0, 1, 2].into_iter().chain(12..28) {
        let pages = read(&pdf(&invoice(many(count))).unwrap());
        let last = &pages[pages.len() - 1];
        assert_holds(last, &["Total TTC", "Conditions de règlement"]);
        assert!(count == 0 || last.contains(&format!("Poste {count}")), "{count} lines");
    }
}

#[test]
fn a_credit_note_is_no_invoice() {
    let note = Invoice {
        number: "A-2026-000001".parse().unwrap(),
        due_on: None,
        corrects: Some(Corrected {
            number: "F-2026-000001".parse().unwrap(),
            issued_on: "2026-11-01".parse().unwrap(),
            reason: "Messages remis deux fois".into(),
        }),
        ..invoice(vec![line("Régularisation", 1, "10.00")])
    };
    let text = read(&pdf(&note).unwrap()).concat();
    assert_holds(
        &text,
        &["AVOIR", "A-2026-000001", "F-2026-000001 du 1er novembre 2026", "Messages remis deux fois", "12,00 MAD"],
    );
    assert_holds(&text, &["Arrêté le présent avoir", "Douze dirhams", "vient en déduction"]);
    assert!(!text.contains("FACTURE") && !text.contains("Conditions de règlement"), "{text}");
}

#[test]
fn the_stamp_stands_on_what_is_paid_alone() {
    let open = invoice(month());
    assert!(!read(&pdf(&open).unwrap()).concat().contains("PAYÉE"));
    let paid = Invoice { paid_on: Some("2026-11-15".parse().unwrap()), ..open };
    assert_holds(&read(&pdf(&paid).unwrap()).concat(), &["PAYÉE", "le 15 novembre 2026"]);
}

#[test]
fn the_same_invoice_is_the_same_bytes() {
    let one = invoice(many(40));
    let bytes = pdf(&one).unwrap();
    assert!((0..5).all(|_| pdf(&one.clone()).unwrap() == bytes));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn({
                let one = one.clone();
                move || pdf(&one).unwrap()
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == bytes));
    let other = Invoice { hash: [0; 32], ..one };
    assert_ne!(pdf(&other).unwrap(), bytes);
}

#[test]
fn it_can_be_kept_in_an_archive() {
    let bytes = pdf(&invoice(month())).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("pdfaid:part") && text.contains("OutputIntent"));
    assert!(bytes.len() < 100_000, "{} bytes", bytes.len());
}

#[test]
fn whatever_is_written_can_be_printed() {
    let nasty = [
        "",
        " ",
        "\u{0}\u{7}\t\n\r\n",
        "漢字 😀 \u{FFFE}\u{E000}\u{202E}",
        "\u{0301}\u{064B}",
        "ﷺ ﻻ لا إله",
        "ⵜⴰⵎⵙⵙⵓⵎⵏⵜ Azul",
        "e\u{301}\u{323}",
        "ABC دعم 123, (ست) 45%",
    ];
    for text in nasty {
        for text in [text.to_owned(), text.repeat(300)] {
            let mut one = invoice(vec![line(&text, i64::MAX / 100_000, "1.00"), line(&text, 1, "-0.0001")]);
            one.buyer = Buyer { name: text.clone(), legal: Legal { address: Some(text.clone()), ..Legal::default() } };
            if text.len() > 2_000 {
                one.buyer.legal.address = None;
                one.buyer.name.truncate(0);
            }
            assert!(!read(&pdf(&one).unwrap()).is_empty(), "{text:?}");
        }
    }
}

#[test]
fn what_does_not_add_up_is_not_printed() {
    let code = |invoice: &Invoice| pdf(invoice).unwrap_err().code.unwrap_or_default();
    let mut wrong = invoice(month());
    wrong.totals.net = wrong.totals.net.plus(Units(100)).unwrap();
    assert_eq!(code(&wrong), "invoice_does_not_add_up");
    let mut wrong = invoice(month());
    wrong.totals.total = Units::ZERO;
    assert_eq!(code(&wrong), "invoice_does_not_add_up");
    assert_eq!(code(&invoice(many(LINES_MAX as i64 + 1))), "invoice_too_long");
}
