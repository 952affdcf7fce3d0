//! Where everything stands on the invoice: letterhead, parties, dates, lines, totals, payment, foot.

use crate::{
    Invoice,
    faces::Weight,
    french,
    sheet::{Align, Column, HEIGHT, Ink, Page, WIDTH, height},
    text::{self, Style, line, lines},
};
use chrono::Datelike;
use domain::{
    billing::{self, Series},
    legal::Legal,
    money::{Units, VAT_BASIS_POINTS, in_words},
};
use krilla::metadata::{DateTime, Metadata};

const MARGIN: f32 = 48.0;
const BODY: Column = Column { x: MARGIN, width: WIDTH - 2.0 * MARGIN };
/// Nothing but the foot stands below.
const BOTTOM: f32 = HEIGHT - 66.0;
/// Upper edge of a page's first line.
const TOP: f32 = 42.0;
/// Between two blocks.
const GAP: f32 = 18.0;

const INK: Ink = Ink(26, 32, 38);
const MUTED: Ink = Ink(96, 106, 116);
const HAIRLINE: Ink = Ink(208, 215, 221);
const TINT: Ink = Ink(243, 246, 248);
const WHITE: Ink = Ink(255, 255, 255);
const PAID: Ink = Ink(20, 120, 75);
/// What gives invoices and credit notes their colour, so that nobody takes one for the other.
const INVOICE: Ink = Ink(16, 70, 92);
const CREDIT_NOTE: Ink = Ink(128, 38, 56);

const fn regular(size: f32) -> Style {
    Style { size, weight: Weight::Regular }
}
const fn bold(size: f32) -> Style {
    Style { size, weight: Weight::Bold }
}
const TEXT: Style = regular(9.0);
const STRONG: Style = bold(9.0);
const LABEL: Style = regular(7.5);
const SMALL: Style = regular(6.8);

// The columns of the lines.
const DESCRIPTION: Column = Column { x: MARGIN + 8.0, width: 252.0 };
const QUANTITY: Column = Column { x: MARGIN + 268.0, width: 60.0 };
const UNIT_PRICE: Column = Column { x: MARGIN + 336.0, width: 70.0 };
const AMOUNT: Column = Column { x: MARGIN + 410.0, width: BODY.width - 418.0 };
/// Above and below the text of a line.
const ROW_PADDING: f32 = 4.5;
/// A description goes on for at most so many lines of text.
const ROW_LINES_MAX: usize = 12;

/// The sentence that a seller who has none of his own prints.
const LATE_PAYMENT: &str = "Tout retard de paiement entraîne de plein droit, sans mise en demeure préalable, l’application des \
    pénalités prévues par les articles 78-1 et suivants du Code de commerce. Aucun escompte n’est accordé pour paiement anticipé.";

/// What the reader's program shows about the file.
pub(crate) fn metadata(invoice: &Invoice) -> Metadata {
    let day = invoice.issued_on;
    let [month, of_month] = [day.month(), day.day()].map(|part| u8::try_from(part).unwrap_or(1));
    let date = DateTime::new(u16::try_from(day.year()).unwrap_or_default()).month(month).day(of_month);
    Metadata::new()
        .title(format!("{} {}", words(invoice).title, invoice.number))
        .authors(vec![invoice.seller.name.clone()])
        .creator("Ligne".into())
        .language("fr".into())
        .document_id(hex::encode(invoice.hash))
        .creation_date(date.hour(0).minute(0).second(0).utc_offset_hour(0).utc_offset_minute(0))
}

/// The pages, in order; never none.
pub(crate) fn pages(invoice: &Invoice) -> Vec<Page> {
    let words = words(invoice);
    let mut setter = Setter { invoice, words, pages: Vec::new(), page: Page::default(), y: TOP };
    setter.letterhead();
    setter.parties();
    setter.facts();
    setter.table();
    setter.closing();
    setter.pages.push(setter.page);
    let count = setter.pages.len();
    for (index, page) in setter.pages.iter_mut().enumerate() {
        foot(invoice, page, index + 1, count);
    }
    setter.pages
}

/// What differs between the two kinds of document.
#[derive(Clone, Copy)]
struct Words {
    title: &'static str,
    capitals: &'static str,
    closed: &'static str,
    ink: Ink,
}

fn words(invoice: &Invoice) -> Words {
    match invoice.number.series {
        Series::Invoice => {
            Words {
                title: "Facture", capitals: "FACTURE", closed: "Arrêtée la présente facture à la somme de :", ink: INVOICE
            }
        }
        Series::CreditNote => {
            Words { title: "Avoir", capitals: "AVOIR", closed: "Arrêté le présent avoir à la somme de :", ink: CREDIT_NOTE }
        }
    }
}

struct Setter<'a> {
    invoice: &'a Invoice,
    words: Words,
    /// Those that are full.
    pages: Vec<Page>,
    page: Page,
    /// Upper edge of what is free.
    y: f32,
}

impl Setter<'_> {
    fn letterhead(&mut self) {
        let seller = &self.invoice.seller;
        let brand = seller.brand.as_ref().unwrap_or(&seller.name);
        let left = self.page.text(brand, bold(19.0), self.words.ink, Column { x: MARGIN, width: 215.0 }, TOP);
        let contact: Vec<_> = [&seller.email, &seller.phone].into_iter().flatten().map(String::as_str).collect();
        let left = self.page.text(&contact.join("  ·  "), LABEL, MUTED, Column { x: MARGIN, width: 280.0 }, left + 2.0);
        let right = self.page.word(self.words.capitals, bold(22.0), INK, Align::Right, BODY, TOP - 3.0);
        let number = format!("N° {}", self.invoice.number);
        let right = self.page.word(&number, bold(11.0), self.words.ink, Align::Right, BODY, right);
        if let Some(day) = self.invoice.paid_on {
            let (word, below) =
                (if self.invoice.is_credit_note() { "RÉGLÉ" } else { "PAYÉE" }, format!("le {}", french::day(day)));
            self.page.stamp(line(word, bold(20.0)), line(&below, regular(8.0)), PAID, 362.0, TOP + 19.0);
        }
        self.y = left.max(right) + 10.0;
        self.page.rule(BODY, self.y, 1.4, self.words.ink);
        self.y += GAP;
    }

    fn parties(&mut self) {
        let Invoice { seller, buyer, .. } = self.invoice;
        let (heading_seller, heading_buyer) =
            if self.invoice.is_credit_note() { ("Émetteur", "Crédité à") } else { ("Émetteur", "Facturé à") };
        let width = (BODY.width - GAP) / 2.0;
        let (left, right) = (Column { x: MARGIN, width }, Column { x: MARGIN + width + GAP, width });
        let draw = |page: &mut Page, y: f32| {
            let seller = party(page, left.inset(11.0), y + 9.0, heading_seller, &seller.name, &seller.legal);
            let buyer = party(page, right.inset(11.0), y + 9.0, heading_buyer, &buyer.name, &buyer.legal);
            seller.max(buyer) + 9.0 - y
        };
        let tall = draw(&mut Page::default(), 0.0);
        self.page.panel(left, self.y, tall, TINT);
        self.page.panel(right, self.y, tall, TINT);
        self.page.panel(Column { width: 2.0, ..right }, self.y, tall, self.words.ink);
        draw(&mut self.page, self.y);
        self.y += tall + GAP;
    }

    /// Dates, period and total: what is looked for first.
    fn facts(&mut self) {
        let invoice = self.invoice;
        let second = match (&invoice.corrects, invoice.due_on) {
            (Some(corrected), _) => ("Facture corrigée", corrected.number.to_string()),
            (None, Some(due)) => ("Échéance", french::day(due)),
            (None, None) => ("Échéance", "à réception".into()),
        };
        let facts = [
            ("Date d’émission", french::day(invoice.issued_on)),
            second,
            ("Période de service", french::days(invoice.period)),
            ("Total TTC", format!("{} MAD", french::amount(invoice.totals.total))),
        ];
        let mut x = MARGIN;
        let mut below = self.y;
        for ((label, value), width) in facts.iter().zip([112.0, 112.0, 150.0, BODY.width - 374.0]) {
            let align = if x + width > BODY.right() - 1.0 { Align::Right } else { Align::Start };
            let column = Column { x, width };
            let y = self.page.word(label, LABEL, MUTED, align, column, self.y);
            below = below.max(self.page.word(value, STRONG, INK, align, column, y));
            x += width;
        }
        self.y = below + 2.0;
        if let Some(corrected) = &invoice.corrects {
            let day = french::day(corrected.issued_on);
            let text = format!("Avoir sur la facture {} du {day}. Motif : {}", corrected.number, corrected.reason);
            self.y = self.page.text(&text, TEXT, INK, BODY, self.y + 8.0);
        }
        self.y += GAP - 4.0;
    }

    fn table(&mut self) {
        self.table_head();
        let closing = closing(self.invoice, self.words, &mut Page::default(), 0.0);
        let mut rows_here = 0;
        let mut so_far = Units::ZERO;
        for (index, row) in self.invoice.lines.iter().enumerate() {
            let description = description(&row.description);
            let tall = 2.0 * ROW_PADDING + height(TEXT.size) * description.len().max(1) as f32;
            // Under the last line stand the totals, under any other may have to stand what is carried over.
            let is_last = index + 1 == self.invoice.lines.len();
            let below = if is_last { GAP + closing } else { carried_height() };
            if rows_here > 0 && self.y + tall + below > BOTTOM {
                self.carry("À reporter", so_far);
                self.turn();
                self.table_head();
                self.carry("Report", so_far);
                rows_here = 0;
            }
            self.row(row, description, tall);
            // `typeset::pdf` has added all of them up: it cannot overflow.
            so_far = so_far.plus(row.amount).unwrap_or(so_far);
            rows_here += 1;
        }
    }

    fn table_head(&mut self) {
        let tall = 2.0 * ROW_PADDING + height(LABEL.size);
        self.page.panel(BODY, self.y, tall, self.words.ink);
        let columns = [
            ("Désignation", DESCRIPTION, Align::Start),
            ("Quantité", QUANTITY, Align::Right),
            ("Prix unitaire HT", UNIT_PRICE, Align::Right),
            ("Montant HT (MAD)", AMOUNT, Align::Right),
        ];
        for (label, column, align) in columns {
            self.page.word(label, bold(LABEL.size), WHITE, align, column, self.y + ROW_PADDING);
        }
        self.y += tall;
    }

    fn row(&mut self, row: &billing::Line, description: Vec<text::Line>, tall: f32) {
        let top = self.y + ROW_PADDING;
        description.into_iter().fold(top, |y, line| self.page.line(line, INK, Align::Start, DESCRIPTION, y));
        self.page.word(&french::quantity(row.quantity), TEXT, INK, Align::Right, QUANTITY, top);
        self.page.word(&french::amount(row.unit_price), TEXT, INK, Align::Right, UNIT_PRICE, top);
        self.page.word(&french::amount(row.amount), TEXT, INK, Align::Right, AMOUNT, top);
        self.y += tall;
        self.page.rule(BODY, self.y, 0.5, HAIRLINE);
    }

    /// The sum that goes from the foot of one page to the head of the next.
    fn carry(&mut self, label: &str, sum: Units) {
        self.page.panel(BODY, self.y, carried_height(), TINT);
        let top = self.y + ROW_PADDING;
        self.page.word(label, STRONG, MUTED, Align::Start, DESCRIPTION, top);
        self.page.word(&french::amount(sum), STRONG, MUTED, Align::Right, AMOUNT, top);
        self.y += carried_height();
    }

    /// A new page, with a short head.
    fn turn(&mut self) {
        self.pages.push(std::mem::take(&mut self.page));
        let seller = &self.invoice.seller;
        let brand = seller.brand.as_ref().unwrap_or(&seller.name);
        let head = format!("{} N° {} (suite)", self.words.title, self.invoice.number);
        self.page.word(brand, bold(11.0), self.words.ink, Align::Start, BODY, TOP);
        self.y = self.page.word(&head, bold(11.0), INK, Align::Right, BODY, TOP) + 5.0;
        self.page.rule(BODY, self.y, 1.4, self.words.ink);
        self.y += GAP;
    }

    fn closing(&mut self) {
        let tall = closing(self.invoice, self.words, &mut Page::default(), 0.0);
        if self.y + GAP + tall > BOTTOM {
            self.turn();
        } else {
            self.y += GAP;
        }
        closing(self.invoice, self.words, &mut self.page, self.y);
    }
}

fn carried_height() -> f32 {
    2.0 * ROW_PADDING + height(STRONG.size)
}

fn description(text: &str) -> Vec<text::Line> {
    let mut set = lines(text, TEXT, DESCRIPTION.width);
    if set.len() > ROW_LINES_MAX {
        set.truncate(ROW_LINES_MAX - 1);
        set.push(line("…", TEXT));
    }
    set
}

/// Name, address and identifiers; says where they end.
fn party(page: &mut Page, column: Column, y: f32, heading: &str, name: &str, legal: &Legal) -> f32 {
    const LABEL_WIDTH: f32 = 26.0;
    let y = page.word(heading, LABEL, MUTED, Align::Start, column, y) + 1.0;
    let mut y = page.text(name, bold(10.5), INK, column, y);
    if let Some(address) = &legal.address {
        y = page.text(address, TEXT, INK, column, y);
    }
    y += 4.0;
    for (label, value) in identifiers(legal) {
        page.word(label, LABEL, MUTED, Align::Start, column, y + 1.2);
        y = page.word(value, TEXT, INK, Align::Start, Column { x: column.x + LABEL_WIDTH, ..column }, y);
    }
    y
}

fn identifiers(legal: &Legal) -> impl Iterator<Item = (&'static str, &str)> {
    let Legal { ice, tax_id, rc, tp, address: _ } = legal;
    [("ICE", ice), ("IF", tax_id), ("RC", rc), ("TP", tp)]
        .into_iter()
        .filter_map(|(label, value)| Some((label, value.as_deref()?)))
}

/// Totals, the total in words, how to pay; says where they end.
fn closing(invoice: &Invoice, words: Words, page: &mut Page, top: f32) -> f32 {
    let right = Column { x: MARGIN + 290.0, width: BODY.width - 290.0 };
    let figures = right.inset(8.0);
    let mut y = top;
    let vat = format!("TVA {} %", VAT_BASIS_POINTS / 100);
    for (label, amount) in [("Total HT", invoice.totals.net), (vat.as_str(), invoice.totals.vat)] {
        page.word(label, TEXT, MUTED, Align::Start, figures, y);
        y = page.word(&format!("{} MAD", french::amount(amount)), TEXT, INK, Align::Right, figures, y) + 3.0;
    }
    let tall = height(11.0) + 10.0;
    page.panel(right, y + 2.0, tall, words.ink);
    page.word("Total TTC", bold(11.0), WHITE, Align::Start, figures, y + 7.0);
    let total = format!("{} MAD", french::amount(invoice.totals.total));
    page.word(&total, bold(11.0), WHITE, Align::Right, figures, y + 7.0);
    let totals_end = y + 2.0 + tall;

    let left = Column { x: MARGIN, width: 262.0 };
    let mut words_end = top;
    // No words beyond a thousand million dirhams.
    if let Ok(spelled) = in_words(invoice.totals.total) {
        let y = page.text(words.closed, TEXT, MUTED, left, top) + 2.0;
        words_end = page.text(&format!("{}, toutes taxes comprises.", capitalised(&spelled)), bold(9.5), INK, left, y);
    }
    payment(invoice, page, totals_end.max(words_end) + GAP)
}

fn payment(invoice: &Invoice, page: &mut Page, y: f32) -> f32 {
    if let Some(corrected) = &invoice.corrects {
        let text = format!(
            "Le montant de cet avoir vient en déduction de la facture {} ; ce qui en a déjà été réglé en trop est remboursé.",
            corrected.number
        );
        return page.text(&text, TEXT, INK, BODY, y);
    }
    page.rule(BODY, y, 0.5, HAIRLINE);
    let y = page.word("Conditions de règlement", STRONG, INK, Align::Start, BODY, y + 9.0) + 2.0;
    let until = invoice.due_on.map_or("à réception".into(), |due| format!("au plus tard le {}", french::day(due)));
    let how = format!("Paiement par virement {until}, en rappelant le numéro {}.", invoice.number);
    let mut y = page.text(&how, TEXT, INK, BODY, y);
    if let Some(bank) = &invoice.seller.bank {
        y = page.text(&format!("{}, RIB {}", bank.name, spaced_rib(&bank.rib)), STRONG, INK, BODY, y);
    }
    page.text(invoice.seller.late_payment.as_deref().unwrap_or(LATE_PAYMENT), LABEL, MUTED, BODY, y + 4.0)
}

fn foot(invoice: &Invoice, page: &mut Page, number: usize, count: usize) {
    let seller = &invoice.seller;
    let y = HEIGHT - 54.0;
    page.rule(BODY, y, 0.5, HAIRLINE);
    let mut company = vec![seller.name.clone()];
    company.extend(seller.form.clone());
    company.extend(identifiers(&seller.legal).map(|(label, value)| format!("{label} {value}")));
    let y = page.word(&company.join("  ·  "), SMALL, MUTED, Align::Center, BODY, y + 7.0) + 3.0;
    page.word(&format!("Empreinte SHA-256 {}", hex::encode(invoice.hash)), SMALL, MUTED, Align::Start, BODY, y);
    page.word(&format!("Page {number}/{count}"), SMALL, INK, Align::Right, BODY, y);
}

/// Bank, town, account and key, as on a cheque.
fn spaced_rib(rib: &str) -> String {
    match (rib.get(..3), rib.get(3..6), rib.get(6..22), rib.get(22..)) {
        (Some(bank), Some(town), Some(account), Some(key)) => format!("{bank} {town} {account} {key}"),
        _ => rib.to_owned(),
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
