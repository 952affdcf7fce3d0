//! How a code sounds, or reads, once a machine has written it down.

use rand::{Rng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// A way in which recognition may write a spoken code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// `quatre sept un zéro neuf deux`
    Words,
    /// `4 7 1 0 9 2`
    Digits,
    /// `471092`
    Joined,
    /// `471-092`
    Hyphen,
    /// `47 10 92`
    Pairs,
    /// Words, three in one utterance and three in the next.
    Split,
    /// Words and nothing around them, said once.
    Bare,
}

impl Style {
    pub const ALL: [Self; 7] = [Self::Words, Self::Digits, Self::Joined, Self::Hyphen, Self::Pairs, Self::Split, Self::Bare];
}

/// The languages in which codes are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    French,
    English,
    Arabic,
}

impl Language {
    /// From a locale such as `fr`, `fr_FR`, `ar-MA`, `en_US`; English if unknown.
    pub(crate) fn of(locale: &str) -> Self {
        match locale.get(..2) {
            Some("fr") => Self::French,
            Some("ar") => Self::Arabic,
            _ => Self::English,
        }
    }

    fn word(self, digit: char) -> &'static str {
        let words = match self {
            Self::French => ["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"],
            Self::English => ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
            Self::Arabic => ["صفر", "واحد", "اثنان", "ثلاثة", "أربعة", "خمسة", "ستة", "سبعة", "ثمانية", "تسعة"],
        };
        words[digit.to_digit(10).map_or(0, |value| value as usize)]
    }

    /// Greeting, what comes before the code, and before its repetition.
    fn phrases(self) -> [&'static str; 3] {
        match self {
            Self::French => ["Bonjour", "votre code de vérification est", "je répète"],
            Self::English => ["Hello", "your verification code is", "once again"],
            Self::Arabic => ["مرحبا", "رمز التحقق الخاص بك هو", "أكرر"],
        }
    }
}

/// One piece of recognised speech.
#[derive(Debug, Clone)]
pub(crate) struct Utterance {
    pub(crate) text: String,
    /// An interim reading, replaced by what follows.
    pub(crate) partial: bool,
}

/// The whole call, in order.
pub(crate) fn spoken(code: &str, language: Language, style: Option<Style>, dice: &mut StdRng) -> Vec<Utterance> {
    let style = style.unwrap_or_else(|| Style::ALL[dice.random_range(0..Style::ALL.len())]);
    let words: Vec<&str> = code.chars().map(|digit| language.word(digit)).collect();
    let [greeting, lead, again] = language.phrases();
    let (head, tail) = code.split_at(code.len().min(3));
    let written = match style {
        Style::Words | Style::Split | Style::Bare => words.join(" "),
        Style::Digits => code.chars().map(String::from).collect::<Vec<_>>().join(" "),
        Style::Joined => code.to_owned(),
        Style::Hyphen => format!("{head}-{tail}"),
        Style::Pairs => format!("{} {} {}", &code[..2], &code[2..4], &code[4..]),
    };
    let last = |text: String| Utterance { text, partial: false };
    let interim = |text: String| Utterance { text, partial: true };
    match style {
        Style::Bare => vec![last(written)],
        Style::Split => vec![
            last(greeting.into()),
            interim(format!("{lead} {}", words[0])),
            last(format!("{lead} {}", words[..3].join(" "))),
            last(words[3..].join(" ")),
            last(format!("{again} {written}")),
        ],
        _ => vec![
            last(greeting.into()),
            interim(lead.into()),
            interim(format!("{lead} {}", words[..2].join(" "))),
            last(format!("{lead} {written}")),
            last(format!("{again} {written}")),
        ],
    }
}

/// The text message, `123-830` and words around it.
pub(crate) fn texted(code: &str, language: Language) -> String {
    let (head, tail) = code.split_at(code.len().min(3));
    match language {
        Language::French => format!("{head}-{tail} est votre code WhatsApp Business. Ne le communiquez à personne."),
        Language::English => format!("{head}-{tail} is your WhatsApp Business code. Do not share it."),
        Language::Arabic => format!("رمز واتساب للأعمال هو \u{200e}{head}-{tail}\u{200e}. لا تشاركه مع أحد."),
    }
}

/// A tenth of a second of silence as a WAV file that names its recording in a comment.
pub(crate) fn wav(recording: &str) -> Vec<u8> {
    const RATE: u32 = 8_000;
    const SAMPLES: u32 = RATE / 10;
    let comment = format!("{recording:\0<36}");
    let list_size = 4 + 8 + comment.len() as u32;
    let mut file = Vec::new();
    let mut chunk = |name: &[u8; 4], number: u32| {
        file.extend_from_slice(name);
        file.extend_from_slice(&number.to_le_bytes());
    };
    chunk(b"RIFF", 4 + 8 + 16 + 8 + list_size + 8 + SAMPLES);
    file.extend_from_slice(b"WAVEfmt ");
    // PCM, one channel, 8 bits.
    for field in [16u32, 0x0001_0001, RATE, RATE, 0x0008_0001] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    file.extend_from_slice(b"LIST");
    file.extend_from_slice(&list_size.to_le_bytes());
    file.extend_from_slice(b"INFOICMT");
    file.extend_from_slice(&(comment.len() as u32).to_le_bytes());
    file.extend_from_slice(comment.as_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&SAMPLES.to_le_bytes());
    file.resize(file.len() + SAMPLES as usize, 0x80);
    file
}
