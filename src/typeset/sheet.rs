//! Paper: pages on which text, rules and panels are placed, and the PDF/A that they become.

use crate::text::{Line, Style, line, lines};
use domain::Failure;
use krilla::{
    Document, SerializeSettings,
    color::rgb,
    configure::{Archival, Configuration, ConfigurationBuilder},
    geom::{PathBuilder, Point, Rect, Size, Transform},
    metadata::Metadata,
    num::NormalizedF32,
    page::PageSettings,
    paint::{Fill, Stroke},
    surface::Surface,
};

/// A4, in points.
pub(crate) const WIDTH: f32 = 595.28;
pub(crate) const HEIGHT: f32 = 841.89;

/// Distance between two lines, in sizes of the text.
const LEADING: f32 = 1.4;
/// Where the baseline lies within a line, in sizes of the text.
const BASELINE: f32 = 1.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ink(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// A column: its left edge and its width, in points.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) x: f32,
    pub(crate) width: f32,
}

impl Column {
    pub(crate) fn right(self) -> f32 {
        self.x + self.width
    }

    /// The same, narrower by `by` on both sides.
    pub(crate) fn inset(self, by: f32) -> Self {
        Self { x: self.x + by, width: self.width - 2.0 * by }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Where the text begins: left, for Arabic right.
    Start,
    Right,
    Center,
}

enum Mark {
    Text {
        x: f32,
        baseline: f32,
        line: Line,
        ink: Ink,
    },
    Panel {
        area: Rect,
        ink: Ink,
    },
    /// A framed word, turned around its centre.
    Stamp {
        center: Point,
        word: Line,
        below: Line,
        ink: Ink,
    },
}

/// One page. The origin is the upper left corner; every `y` is the upper edge of what is placed.
#[derive(Default)]
pub(crate) struct Page {
    marks: Vec<Mark>,
}

impl Page {
    /// Places text in a column, in as many lines as it needs, and says where it ends.
    pub(crate) fn text(&mut self, text: &str, style: Style, ink: Ink, column: Column, y: f32) -> f32 {
        lines(text, style, column.width).into_iter().fold(y, |y, line| self.line(line, ink, Align::Start, column, y))
    }

    /// Places text in one line, and says where it ends.
    pub(crate) fn word(&mut self, text: &str, style: Style, ink: Ink, align: Align, column: Column, y: f32) -> f32 {
        self.line(line(text, style), ink, align, column, y)
    }

    pub(crate) fn line(&mut self, line: Line, ink: Ink, align: Align, column: Column, y: f32) -> f32 {
        let free = column.width - line.width;
        let x = match align {
            Align::Start if !line.rtl => column.x,
            Align::Start | Align::Right => column.x + free,
            Align::Center => column.x + free / 2.0,
        };
        let below = y + height(line.size);
        self.marks.push(Mark::Text { x, baseline: y + line.size * BASELINE, line, ink });
        below
    }

    pub(crate) fn panel(&mut self, column: Column, y: f32, height: f32, ink: Ink) {
        self.marks.extend(Rect::from_xywh(column.x, y, column.width, height).map(|area| Mark::Panel { area, ink }));
    }

    pub(crate) fn rule(&mut self, column: Column, y: f32, thickness: f32, ink: Ink) {
        self.panel(column, y, thickness, ink);
    }

    pub(crate) fn stamp(&mut self, word: Line, below: Line, ink: Ink, x: f32, y: f32) {
        self.marks.push(Mark::Stamp { center: Point::from_xy(x, y), word, below, ink });
    }

    fn draw(&self, surface: &mut Surface<'_>) {
        for mark in &self.marks {
            match mark {
                Mark::Text { x, baseline, line, ink } => draw_line(surface, *x, *baseline, line, *ink),
                Mark::Panel { area, ink } => {
                    surface.set_fill(Some(fill(*ink)));
                    let mut path = PathBuilder::new();
                    path.push_rect(*area);
                    if let Some(path) = path.finish() {
                        surface.draw_path(&path);
                    }
                }
                Mark::Stamp { center, word, below, ink } => draw_stamp(surface, *center, word, below, *ink),
            }
        }
    }
}

/// Height of a line of text of `size` points.
pub(crate) fn height(size: f32) -> f32 {
    size * LEADING
}

fn draw_line(surface: &mut Surface<'_>, x: f32, baseline: f32, line: &Line, ink: Ink) {
    surface.set_fill(Some(fill(ink)));
    let mut x = x;
    for piece in &line.pieces {
        surface.draw_glyphs(Point::from_xy(x, baseline), &piece.glyphs, piece.face.font.clone(), &piece.text, line.size, false);
        x += piece.width;
    }
}

/// Degrees by which a stamp is turned.
const STAMP_TURN: f32 = -8.0;
/// Between the frame of a stamp and what it says.
const STAMP_PADDING: f32 = 9.0;

fn draw_stamp(surface: &mut Surface<'_>, center: Point, word: &Line, below: &Line, ink: Ink) {
    let (width, text_height) = (word.width.max(below.width), height(word.size) + height(below.size));
    let frame = Rect::from_xywh(
        center.x - width / 2.0 - STAMP_PADDING,
        center.y - text_height / 2.0 - STAMP_PADDING / 2.0,
        width + 2.0 * STAMP_PADDING,
        text_height + STAMP_PADDING,
    );
    surface.push_transform(&Transform::from_rotate_at(STAMP_TURN, center.x, center.y));
    let top = center.y - text_height / 2.0;
    draw_line(surface, center.x - word.width / 2.0, top + word.size * BASELINE, word, ink);
    draw_line(surface, center.x - below.width / 2.0, top + height(word.size) + below.size * BASELINE, below, ink);
    let mut path = PathBuilder::new();
    frame.into_iter().for_each(|frame| path.push_rect(frame));
    if let Some(path) = path.finish() {
        surface.set_fill(None);
        surface.set_stroke(Some(Stroke { paint: color(ink).into(), width: 1.6, ..Stroke::default() }));
        surface.draw_path(&path);
        surface.set_stroke(None);
    }
    surface.pop();
}

fn color(ink: Ink) -> rgb::Color {
    rgb::Color::new(ink.0, ink.1, ink.2)
}

fn fill(ink: Ink) -> Fill {
    Fill { paint: color(ink).into(), opacity: NormalizedF32::ONE, ..Fill::default() }
}

/// PDF/A-2u: everything needed to show it and to read its text is within, for as long as books must be kept.
fn archival() -> Result<Configuration, Failure> {
    let configuration = ConfigurationBuilder::new().with_archival_validator(Archival::A2_U).finish();
    configuration.map_err(|error| Failure::rejected(format!("PDF/A-2u is not to be had: {error:?}")))
}

/// The same bytes for the same pages: nothing is taken from the clock or from chance.
pub(crate) fn pdf(pages: &[Page], metadata: Metadata) -> Result<Vec<u8>, Failure> {
    let settings = SerializeSettings { configuration: archival()?, enable_tagging: false, ..SerializeSettings::default() };
    let size = Size::from_wh(WIDTH, HEIGHT).ok_or_else(|| Failure::rejected("A4 has no size"))?;
    let mut document = Document::new_with(settings);
    document.set_metadata(metadata);
    for page in pages {
        let mut paper = document.start_page_with(PageSettings::new(size));
        let mut surface = paper.surface();
        page.draw(&mut surface);
        surface.finish();
        paper.finish();
    }
    document.finish().map_err(|error| Failure::rejected(format!("the PDF is refused: {error:?}")).code("pdf_refused"))
}
