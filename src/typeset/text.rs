//! From a text to lines of placed glyphs: direction, line breaks, faces, shaping.

use crate::faces::{Face, MISSING, Weight, face_for};
use krilla::text::{GlyphId, KrillaGlyph};
use rustybuzz::{Direction, UnicodeBuffer};
use std::{ops::Range, ptr};
use unicode_bidi::{BidiInfo, Level, ParagraphInfo};

/// How a text is set: size in points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Style {
    pub(crate) size: f32,
    pub(crate) weight: Weight,
}

/// Glyphs of one face and direction, in the order in which they stand on the paper.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) face: &'static Face,
    /// What the glyphs say, so that the text can be copied and searched.
    pub(crate) text: String,
    /// Where in the paragraph it stands, in bytes.
    start: usize,
    pub(crate) glyphs: Vec<KrillaGlyph>,
    /// In points.
    pub(crate) width: f32,
}

/// One line of text, from left to right.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) size: f32,
    /// In points.
    pub(crate) width: f32,
    /// Whether the paragraph reads from right to left, and so begins at the right edge of its column.
    pub(crate) rtl: bool,
}

/// Sets `text` in lines of at most `width` points; its own line breaks stay. Every character that stands on paper comes
/// out, those without a glyph as a box.
pub(crate) fn lines(text: &str, style: Style, width: f32) -> Vec<Line> {
    text.lines()
        .map(|paragraph| clean(paragraph, style.weight))
        .filter(|p| !p.is_empty())
        .flat_map(|p| wrap(&p, style, width))
        .collect()
}

/// Sets `text` in one line, however long.
pub(crate) fn line(text: &str, style: Style) -> Line {
    let text = clean(&text.replace('\n', " "), style.weight);
    wrap(&text, style, f32::INFINITY).pop().unwrap_or(Line { pieces: Vec::new(), size: style.size, width: 0.0, rtl: false })
}

/// Single spaces, nothing invisible. Marks that turn text around go: an invoice shows what is stored, in the order in
/// which it is stored.
fn clean(text: &str, weight: Weight) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\u{200E}'
            | '\u{200F}'
            | '\u{061C}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2066}'..='\u{2069}'
            | '\u{FEFF}'
            | '\u{00AD}' => {}
            ' ' | '\t' if clean.ends_with(' ') => {}
            '\t' => clean.push(' '),
            c if c.is_control() => {}
            c if face_for(c, weight, None).is_some() => clean.push(c),
            _ => clean.push(MISSING),
        }
    }
    clean
}

/// Breaks at spaces, and within a word only where it alone is wider than the line.
fn wrap(text: &str, style: Style, width: f32) -> Vec<Line> {
    let bidi = BidiInfo::new(text, None);
    let Some(paragraph) = bidi.paragraphs.first() else { return Vec::new() };
    let whole = set(&bidi, paragraph, 0..text.len(), style);
    if whole.width <= width {
        return vec![whole];
    }
    let before = widths(&whole, text.len());
    let mut lines = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let end = fitting(text, start, |end| before[end] - before[start] <= width);
        let shown = start + text[start..end].trim_end().len();
        lines.push(set(&bidi, paragraph, start..shown, style));
        start = end + (text[end..].len() - text[end..].trim_start().len());
    }
    lines
}

/// For each byte of the text the width of what is read before it, so that no part has to be shaped to be measured.
fn widths(line: &Line, length: usize) -> Vec<f32> {
    let mut before = vec![0.0; length + 1];
    for piece in &line.pieces {
        for glyph in &piece.glyphs {
            before[piece.start + glyph.text_range.start + 1] += glyph.x_advance * line.size;
        }
    }
    let mut sum = 0.0;
    for width in &mut before {
        sum += *width;
        *width = sum;
    }
    before
}

/// Where the line that begins at `start` ends: after the last word that fits, else after the last character, at least one.
fn fitting(text: &str, start: usize, fits: impl Fn(usize) -> bool) -> usize {
    let rest = &text[start..];
    let words = rest.match_indices(' ').map(|(at, _)| start + at).chain([text.len()]);
    if let Some(end) = words.take_while(|end| fits(*end)).last() {
        return end;
    }
    let mut characters = rest.char_indices().skip(1).map(|(at, _)| start + at).chain([text.len()]);
    let first = characters.next().unwrap_or(text.len());
    characters.take_while(|end| fits(*end)).last().unwrap_or(first)
}

fn set(bidi: &BidiInfo<'_>, paragraph: &ParagraphInfo, range: Range<usize>, style: Style) -> Line {
    let (levels, runs) = bidi.visual_runs(paragraph, range);
    let mut pieces = Vec::new();
    for run in runs {
        let rtl = levels.get(run.start).is_some_and(Level::is_rtl);
        let mut parts = same_face(bidi.text, run, style.weight);
        if rtl {
            parts.reverse();
        }
        pieces.extend(parts.into_iter().map(|(face, part)| shape(face, bidi.text, part, rtl, style.size)));
    }
    let width = pieces.iter().map(|piece| piece.width).sum();
    Line { pieces, size: style.size, width, rtl: paragraph.level.is_rtl() }
}

/// Cuts a run where its face changes. What comes before its first letter goes with that letter.
fn same_face(text: &str, run: Range<usize>, weight: Weight) -> Vec<(&'static Face, Range<usize>)> {
    let mut current = text[run.clone()].chars().find(|c| c.is_alphanumeric()).and_then(|c| face_for(c, weight, None));
    let mut parts: Vec<(&'static Face, Range<usize>)> = Vec::new();
    for (at, c) in text[run.clone()].char_indices() {
        // `clean` has replaced what no face has.
        let Some(face) = face_for(c, weight, current) else { continue };
        let at = run.start + at;
        match parts.last_mut() {
            Some((last, part)) if ptr::eq(*last, face) => part.end = at + c.len_utf8(),
            _ => parts.push((face, at..at + c.len_utf8())),
        }
        current = Some(face);
    }
    parts
}

fn shape(face: &'static Face, text: &str, part: Range<usize>, rtl: bool, size: f32) -> Piece {
    let (text, start) = (&text[part.clone()], part.start);
    let direction = if rtl { Direction::RightToLeft } else { Direction::LeftToRight };
    let mut buffer = UnicodeBuffer::new();
    buffer.push_str(text);
    buffer.set_direction(direction);
    buffer.set_script(face.script);
    let shaped = rustybuzz::shape_with_plan(&face.shaper, face.plan(direction), buffer);

    let em = f64::from(face.shaper.units_per_em());
    let scaled = |units: i32| (f64::from(units) / em) as f32;
    // The text of a glyph ends where that of the next cluster begins, whichever side it stands on.
    let mut starts: Vec<usize> = shaped.glyph_infos().iter().map(|info| info.cluster as usize).collect();
    starts.sort_unstable();
    let end_of = |start: usize| starts.get(starts.partition_point(|other| *other <= start)).copied().unwrap_or(text.len());
    let glyphs: Vec<_> = shaped
        .glyph_infos()
        .iter()
        .zip(shaped.glyph_positions())
        .map(|(info, position)| {
            let cluster = info.cluster as usize;
            KrillaGlyph::new(
                GlyphId::new(info.glyph_id),
                scaled(position.x_advance),
                scaled(position.x_offset),
                scaled(position.y_offset),
                scaled(position.y_advance),
                cluster..end_of(cluster),
                None,
            )
        })
        .collect();
    let width = glyphs.iter().map(|glyph| glyph.x_advance * size).sum();
    Piece { face, text: text.to_owned(), start, glyphs, width }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style { size: 10.0, weight: Weight::Regular };

    fn said(line: &Line) -> Vec<&str> {
        line.pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn mixed_text_stands_in_the_order_of_its_reading() {
        // An Arabic paragraph begins at the right: what is read first stands last.
        let line = line("شركة Ligne للتوظيف", STYLE);
        assert!(line.rtl);
        assert_eq!(said(&line), [" للتوظيف", "Ligne", "شركة "]);
        let line = super::line("Société شركة SARL", STYLE);
        assert!(!line.rtl);
        assert_eq!(said(&line).concat(), "Société شركة SARL");
    }

    #[test]
    fn arabic_letters_are_joined() {
        let glyphs =
            |text| line(text, STYLE).pieces.iter().flat_map(|p| p.glyphs.clone()).map(|g| g.glyph_id).collect::<Vec<_>>();
        let (alone, joined) = (glyphs("ع"), glyphs("ععع"));
        assert_eq!(joined.len(), 3);
        assert!(!joined.contains(&alone[0]), "initial, medial and final forms differ from the letter alone");
        assert_eq!(glyphs("لا").len(), 1, "lam-alef is one glyph");
    }

    #[test]
    fn lines_break_at_words_and_lose_nothing() {
        let text = "Messages d'authentification remis à l'étranger, mois antérieur";
        let set = lines(text, STYLE, 120.0);
        assert!(set.len() > 1 && set.iter().all(|line| line.width <= 120.0));
        assert_eq!(set.iter().map(|line| said(line).concat()).collect::<Vec<_>>().join(" "), text);
        let word = "x".repeat(200);
        let set = lines(&word, STYLE, 100.0);
        assert_eq!(set.iter().map(|line| said(line).concat()).collect::<String>(), word);
        // Narrower than a character: one a line, never none.
        assert_eq!(lines("abc", STYLE, 0.1).len(), 3);
    }

    #[test]
    fn what_cannot_be_set_is_seen_and_what_turns_text_is_not_obeyed() {
        assert_eq!(said(&line("漢\u{202E}100\u{202C}\u{0}\t 1", STYLE)).concat(), "\u{25A1}100 1");
        assert!(lines("\n \n", STYLE, 100.0).is_empty());
        assert!(line("", STYLE).pieces.is_empty());
    }

    #[test]
    fn figures_have_one_width() {
        assert!((line("1111,11", STYLE).width - line("8888,88", STYLE).width).abs() < 0.001);
    }
}
