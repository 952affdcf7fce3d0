//! The five font files: Latin in two weights, Arabic in two, Tifinagh; and which of them has a character.

use krilla::text::Font;
use rustybuzz::{Direction, Feature, Script, ShapePlan, script, ttf_parser::Tag};
use std::sync::LazyLock;

/// How heavy a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    Regular,
    Bold,
}

/// Printed in place of a character that no face has: part of every Latin face.
pub(crate) const MISSING: char = '\u{25A1}';

/// One font file, read once for the shaper and once for the PDF.
pub(crate) struct Face {
    pub(crate) shaper: rustybuzz::Face<'static>,
    pub(crate) font: Font,
    /// The one that it is for.
    pub(crate) script: Script,
    /// How it is shaped from left to right, and from right to left: the slow part of shaping a short text.
    plans: [ShapePlan; 2],
}

impl Face {
    fn read(file: &'static [u8], script: Script) -> Self {
        let shaper = rustybuzz::Face::from_slice(file, 0).expect("the file is part of the program and a test reads it");
        let font = Font::new(file.into(), 0).expect("the file is part of the program and a test reads it");
        // Figures of one width, or columns of amounts would not stand under each other.
        let features = [Feature::new(Tag::from_bytes(b"tnum"), 1, ..)];
        let plans = [Direction::LeftToRight, Direction::RightToLeft]
            .map(|direction| ShapePlan::new(&shaper, direction, Some(script), None, &features));
        Self { shaper, font, script, plans }
    }

    pub(crate) fn plan(&self, direction: Direction) -> &ShapePlan {
        let [left_to_right, right_to_left] = &self.plans;
        if direction == Direction::RightToLeft { right_to_left } else { left_to_right }
    }

    pub(crate) fn has(&self, c: char) -> bool {
        self.shaper.glyph_index(c).is_some()
    }
}

static LATIN: LazyLock<Face> = LazyLock::new(|| Face::read(include_bytes!("fonts/Inter-Regular.otf"), script::LATIN));
static LATIN_BOLD: LazyLock<Face> = LazyLock::new(|| Face::read(include_bytes!("fonts/Inter-SemiBold.otf"), script::LATIN));
static ARABIC: LazyLock<Face> = LazyLock::new(|| Face::read(include_bytes!("fonts/NotoSansArabic-Regular.ttf"), script::ARABIC));
static ARABIC_BOLD: LazyLock<Face> =
    LazyLock::new(|| Face::read(include_bytes!("fonts/NotoSansArabic-Bold.ttf"), script::ARABIC));
static TIFINAGH: LazyLock<Face> =
    LazyLock::new(|| Face::read(include_bytes!("fonts/NotoSansTifinagh-Regular.ttf"), script::TIFINAGH));

/// The faces of a weight, the preferred one first.
fn faces(weight: Weight) -> [&'static LazyLock<Face>; 3] {
    match weight {
        Weight::Regular => [&LATIN, &ARABIC, &TIFINAGH],
        Weight::Bold => [&LATIN_BOLD, &ARABIC_BOLD, &TIFINAGH],
    }
}

/// The face for `c` within a run set in `current`: that one while it can, so that spaces and marks stay with their word.
pub(crate) fn face_for(c: char, weight: Weight, current: Option<&'static Face>) -> Option<&'static Face> {
    let others = faces(weight).into_iter().map(|face| &**face);
    // A letter of ours goes to its own face even within a run of another: only what belongs to no script stays.
    let stays = current.filter(|_| !c.is_alphanumeric());
    stays.into_iter().chain(others).find(|face| face.has(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_face_is_readable_and_has_what_it_is_for() {
        for weight in [Weight::Regular, Weight::Bold] {
            for text in ["Échéance Œuvre n° 1 234,50 € \u{202F}\u{25A1}·—’", "شركة التوظيف ڭ گ ڤ پ ١٢٣", "ⵜⴰⵎⵙⵙⵓⵎⵏⵜ"]
            {
                assert!(text.chars().all(|c| face_for(c, weight, None).is_some()), "{text}");
            }
            assert!(face_for('漢', weight, None).is_none());
            assert!(face_for(MISSING, weight, None).is_some());
        }
    }
}
