//! What an utterance is made of.

/// What stands between two tokens, from the most to the least binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gap {
    Space,
    /// `quatre-vingt`, `471-092`
    Hyphen,
    /// `471,092` or `471.092`, without a space
    Point,
    /// `4, 7` or `code: 4`
    List,
    /// `47:10`, as in a time
    Colon,
    /// `471. 092`, or a new line
    Sentence,
    /// A new event of the same call.
    Utterance,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Written digits, already ASCII.
    Digits(String),
    /// A number word: 0 to 20, a ten, or an Arabic hundred.
    Number {
        value: u32,
        langs: u8,
    },
    Hundred {
        value: u32,
        langs: u8,
    },
    Thousand {
        langs: u8,
    },
    /// `and`, `et`, `و`
    And,
    /// `uh`, `dash`, `puis`: says nothing between digits.
    Filler,
    /// `double`, `triple`, before a digit.
    Repeat(usize),
    /// `fois`, `times`: between a count and a digit.
    Times,
    /// `مرتين`: before or after a digit.
    Twice,
    /// `to`, `for`, `cette`: a digit only between digits.
    Homophone(u32),
    Word(Label),
}

/// What a word says about a number near it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    Plain,
    /// The number is the code.
    Code,
    /// The number before or after is an order, a phone, a price, a date.
    Trap,
    /// What is called a code here is another one.
    Never,
    /// A single digit that follows is a key.
    Press,
    /// The number before is an amount.
    Money,
    /// The number before counts minutes, digits, steps.
    Unit,
    /// Silence between two events too long to bridge.
    Cut,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) what: What,
    /// What stands before it.
    pub(super) gap: Gap,
    /// Written as an amount or as a number sign (`$471`, `#471`).
    pub(super) odd: bool,
    /// Written with a plus: an international phone number.
    pub(super) phone: bool,
    /// From an interim transcript.
    pub(super) interim: bool,
}

impl Token {
    pub(super) fn cut() -> Self {
        Self { what: What::Word(Label::Cut), gap: Gap::Utterance, odd: false, phone: false, interim: false }
    }
}
