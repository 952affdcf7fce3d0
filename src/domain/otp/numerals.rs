//! Number words of French, English and Arabic (standard and Moroccan), and every way to read a run of them.

use super::token::{Gap, Token, What};

const EN: u8 = 1;
const FR: u8 = 2;
const AR: u8 = 4;
/// Marks the Arabic ten that follows a unit: `ثلاثة عشر`.
const TEEN: u8 = 8;

/// Splitting where the words could have been one number: `soixante dix` as 60 10.
const SPLIT_COST: u32 = 1;
/// Splitting at a spoken "and": `vingt et un` as 20 1.
const SPLIT_AND_COST: u32 = 3;
/// Joining what careful speech keeps apart.
const STRETCH_COST: u32 = 1;
/// Taking a homophone for a digit.
const HOMOPHONE_COST: u32 = 1;
/// Passing over a "double" or "twice" that belongs to something else.
const SKIP_COST: u32 = 2;
/// Readings dearer than this are guesses.
pub(super) const COST_MAX: u32 = 8;

/// The number word, connector or filler that a folded word is.
pub(super) fn word(word: &str) -> Option<What> {
    let number = |value, langs| Some(What::Number { value, langs });
    match word {
        "zero" | "zeros" => number(0, EN | FR),
        "oh" | "o" | "nought" | "naught" | "nil" => number(0, EN),
        "one" => number(1, EN),
        "two" => number(2, EN),
        "three" => number(3, EN),
        "four" => number(4, EN),
        "five" => number(5, EN),
        "six" => number(6, EN | FR),
        "seven" => number(7, EN),
        "eight" => number(8, EN),
        "nine" => number(9, EN),
        "ten" => number(10, EN),
        "eleven" => number(11, EN),
        "twelve" => number(12, EN),
        "thirteen" => number(13, EN),
        "fourteen" => number(14, EN),
        "fifteen" => number(15, EN),
        "sixteen" => number(16, EN),
        "seventeen" => number(17, EN),
        "eighteen" => number(18, EN),
        "nineteen" => number(19, EN),
        "twenty" => number(20, EN),
        "thirty" => number(30, EN),
        "forty" | "fourty" => number(40, EN),
        "fifty" => number(50, EN),
        "sixty" => number(60, EN),
        "seventy" => number(70, EN),
        "eighty" => number(80, EN),
        "ninety" => number(90, EN),
        "hundred" => Some(What::Hundred { value: 100, langs: EN }),
        "thousand" => Some(What::Thousand { langs: EN }),

        "un" => number(1, FR),
        "deux" => number(2, FR),
        "trois" => number(3, FR),
        "quatre" => number(4, FR),
        "cinq" => number(5, FR),
        "sept" => number(7, FR),
        "huit" => number(8, FR),
        "neuf" => number(9, FR),
        "dix" => number(10, FR),
        "onze" => number(11, FR),
        "douze" => number(12, FR),
        "treize" => number(13, FR),
        "quatorze" => number(14, FR),
        "quinze" => number(15, FR),
        "seize" => number(16, FR),
        "vingt" | "vingts" => number(20, FR),
        "trente" => number(30, FR),
        "quarante" => number(40, FR),
        "cinquante" => number(50, FR),
        "soixante" => number(60, FR),
        "septante" => number(70, FR),
        "huitante" | "octante" => number(80, FR),
        "nonante" => number(90, FR),
        "cent" | "cents" => Some(What::Hundred { value: 100, langs: FR }),
        "mille" => Some(What::Thousand { langs: FR }),

        "صفر" | "زيرو" => number(0, AR),
        "واحد" | "واحده" | "واحدا" | "وحده" | "احد" | "احدي" => number(1, AR),
        "اثنان" | "اثنين" | "اتنين" | "اتنان" | "اثنتان" | "اثنتين" | "اثنا" | "اثني" | "اثنتا" | "جوج" | "زوج" => {
            number(2, AR)
        }
        "ثلاثه" | "ثلاث" | "تلاته" | "تلاثه" | "ثلاته" | "تلات" => number(3, AR),
        "اربعه" | "اربع" | "ربعه" => number(4, AR),
        "خمسه" | "خمس" => number(5, AR),
        "سته" | "ست" => number(6, AR),
        "سبعه" | "سبع" => number(7, AR),
        "ثمانيه" | "ثماني" | "ثمان" | "تمانيه" | "تمنيه" | "تمنيا" => number(8, AR),
        "تسعه" | "تسع" | "تسعود" => number(9, AR),
        "عشره" => number(10, AR),
        "عشر" => number(10, AR | TEEN),
        "حداش" | "حضاش" => number(11, AR),
        "طناش" | "تناش" | "اطناش" => number(12, AR),
        "تلطاش" | "تلتاش" | "تلاتاش" => number(13, AR),
        "ربعطاش" | "اربعطاش" => number(14, AR),
        "خمسطاش" | "خمستاش" => number(15, AR),
        "سطاش" | "ستاش" => number(16, AR),
        "سبعطاش" | "سبعتاش" => number(17, AR),
        "تمنطاش" | "تمنتاش" => number(18, AR),
        "تسعطاش" | "تسعتاش" => number(19, AR),
        "عشرون" | "عشرين" => number(20, AR),
        "ثلاثون" | "ثلاثين" | "تلاتين" => number(30, AR),
        "اربعون" | "اربعين" | "ربعين" => number(40, AR),
        "خمسون" | "خمسين" => number(50, AR),
        "ستون" | "ستين" => number(60, AR),
        "سبعون" | "سبعين" => number(70, AR),
        "ثمانون" | "ثمانين" | "تمانين" => number(80, AR),
        "تسعون" | "تسعين" => number(90, AR),
        "الف" | "الفا" | "الاف" => Some(What::Thousand { langs: AR }),

        "and" | "et" | "و" => Some(What::And),
        "uh" | "um" | "euh" | "heu" | "hmm" | "ah" | "then" | "puis" | "ensuite" | "ثم" | "dash" | "hyphen" | "tiret"
        | "شرطه" | "comma" | "virgule" | "فاصله" | "space" | "espace" | "le" => Some(What::Filler),
        "double" | "دوبل" => Some(What::Repeat(2)),
        "triple" | "treble" => Some(What::Repeat(3)),
        "fois" | "times" | "مرات" => Some(What::Times),
        "twice" | "مرتين" | "مرتان" | "مكرر" => Some(What::Twice),

        "to" | "too" => Some(What::Homophone(2)),
        "for" | "fore" => Some(What::Homophone(4)),
        "won" => Some(What::Homophone(1)),
        "sex" | "sis" => Some(What::Homophone(6)),
        "cette" | "cet" | "set" => Some(What::Homophone(7)),
        "ate" | "oui" => Some(What::Homophone(8)),
        "new" => Some(What::Homophone(9)),
        _ => arabic_hundred(word),
    }
}

/// `مئة`, `مئتان`, `أربعمئة` and their spellings.
fn arabic_hundred(word: &str) -> Option<What> {
    let stem = ["ميه", "مايه"].into_iter().find_map(|hundred| word.strip_suffix(hundred));
    let value = match (stem, word) {
        (_, "ميتان" | "ميتين" | "مايتان" | "مايتين") => 200,
        (Some(""), _) => 100,
        (Some("ثلاث" | "تلت" | "تلات"), _) => 300,
        (Some("اربع" | "ربع"), _) => 400,
        (Some("خمس"), _) => 500,
        (Some("ست"), _) => 600,
        (Some("سبع"), _) => 700,
        (Some("ثمان" | "ثماني" | "تمن"), _) => 800,
        (Some("تسع"), _) => 900,
        _ => return None,
    };
    Some(What::Hundred { value, langs: AR })
}

/// One way to go on from a place in a run.
struct Way {
    digits: String,
    end: usize,
    cost: u32,
}

/// Every way to read exactly six digits from `start`: the digits, where they end, and how far the reading was fetched.
pub(super) fn six_digits(run: &[Token], start: usize) -> Vec<(String, usize, u32)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), start, 0)];
    while let Some((digits, at, cost)) = open.pop() {
        for way in ways(run, at) {
            let (digits, cost) = (format!("{digits}{}", way.digits), cost + way.cost);
            match digits.len() {
                _ if cost > COST_MAX => {}
                6 => found.push((digits, way.end, cost)),
                0..6 => open.push((digits, way.end, cost)),
                _ => {}
            }
        }
    }
    found
}

/// The digits of a piece that is not a code, read in the most natural way.
pub(super) fn plain_digits(run: &[Token]) -> String {
    let (mut digits, mut at) = (String::new(), 0);
    while at < run.len() {
        match ways(run, at).into_iter().min_by_key(|way| way.cost) {
            Some(way) => {
                digits += &way.digits;
                at = way.end;
            }
            None => at += 1,
        }
    }
    digits
}

fn ways(run: &[Token], at: usize) -> Vec<Way> {
    let Some(token) = run.get(at) else { return Vec::new() };
    let mut ways = Vec::new();
    let mut way = |digits: String, end, cost| ways.push(Way { digits, end, cost });
    match token.what {
        What::And | What::Filler => way(String::new(), at + 1, 0),
        What::Homophone(value) => way(value.to_string(), at + 1, HOMOPHONE_COST),
        What::Repeat(count) => {
            if let Some((digit, end)) = single_digit(run, at + 1) {
                way(digit.repeat(count), end, 0);
            }
            way(String::new(), at + 1, SKIP_COST);
        }
        What::Twice => {
            if let Some((digit, end)) = single_digit(run, at + 1) {
                way(digit.repeat(2), end, SPLIT_COST);
            }
            way(String::new(), at + 1, SKIP_COST);
        }
        What::Number { value: count @ 2..=4, .. } if matches!(run.get(at + 1), Some(Token { what: What::Times, .. })) => {
            if let Some((digit, end)) = single_digit(run, at + 2) {
                way(digit.repeat(count as usize), end, 0);
            }
            way(String::new(), at + 2, SKIP_COST);
        }
        What::Digits(ref digits) => way(digits.clone(), at + 1, 0),
        What::Number { .. } | What::Hundred { .. } | What::Thousand { .. } => {
            let numbers = numbers(run, at);
            let longest = numbers.iter().filter(|number| number.stretch == 0).map(|number| number.end).max().unwrap_or(at);
            for Number { value, end, stretch, .. } in numbers {
                let torn = || (at..end).any(|from| reaches_past(run, from, end));
                let cost = match run.get(end) {
                    // What a hyphen joins is one number.
                    Some(next) if next.gap == Gap::Hyphen && torn() => continue,
                    Some(Token { what: What::And, .. }) if torn() => SPLIT_AND_COST,
                    _ if end >= longest => stretch,
                    _ => SPLIT_COST,
                };
                way(value.to_string(), end, cost);
            }
        }
        What::Times | What::Word(_) => {}
    }
    if let Some((digit, end)) = single_digit(run, at)
        && matches!(run.get(end), Some(Token { what: What::Twice, .. }))
    {
        ways.push(Way { digits: digit.repeat(2), end: end + 1, cost: 0 });
    }
    ways
}

/// A digit on its own, after fillers: what "double" may double.
fn single_digit(run: &[Token], at: usize) -> Option<(String, usize)> {
    match &run.get(at)?.what {
        What::Number { value: value @ 0..10, .. } => Some((value.to_string(), at + 1)),
        What::Digits(digits) if digits.len() == 1 => Some((digits.clone(), at + 1)),
        What::Filler if at > 0 => single_digit(run, at + 1),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Number {
    value: u32,
    end: usize,
    langs: u8,
    /// How unusual this way of saying it is.
    stretch: u32,
}

/// Whether the words from `from` make a number that goes on after `end`.
fn reaches_past(run: &[Token], from: usize, end: usize) -> bool {
    numbers(run, from).iter().any(|number| number.end > end && number.stretch == 0)
}

/// All numbers up to 999,999 that the words at `at` can be read as.
fn numbers(run: &[Token], at: usize) -> Vec<Number> {
    let mut all = below_thousand(run, at);
    let mut heads: Vec<Number> = all.iter().copied().filter(|head| head.value > 0).collect();
    heads.push(Number { value: 1, end: at, langs: EN | FR | AR, stretch: 0 });
    for head in heads {
        let Some(Token { what: What::Thousand { langs }, .. }) = next(run, head.end, head.end > at) else { continue };
        if langs & head.langs == 0 {
            continue;
        }
        let thousands = Number { value: head.value * 1000, end: head.end + 1, langs: langs & head.langs, stretch: head.stretch };
        all.push(thousands);
        all.extend(sums(run, thousands, below_thousand));
    }
    all
}

fn below_thousand(run: &[Token], at: usize) -> Vec<Number> {
    let mut all = below_hundred(run, at);
    let head = match (run.get(at).map(|token| &token.what), next(run, at + 1, true).map(|token| &token.what)) {
        (Some(What::Hundred { value, langs }), _) => Some(Number { value: *value, end: at + 1, langs: *langs, stretch: 0 }),
        (Some(What::Number { value: count @ 1..10, langs }), Some(What::Hundred { value: 100, langs: also }))
            if langs & also != 0 =>
        {
            Some(Number { value: count * 100, end: at + 2, langs: langs & also, stretch: 0 })
        }
        _ => None,
    };
    if let Some(hundreds) = head {
        all.push(hundreds);
        all.extend(sums(run, hundreds, below_hundred));
    }
    all
}

/// What may follow hundreds or thousands; Arabic says "and" before it.
fn sums(run: &[Token], head: Number, rest: fn(&[Token], usize) -> Vec<Number>) -> Vec<Number> {
    let linked = matches!(next(run, head.end, true), Some(Token { what: What::And, .. }));
    let from = head.end + usize::from(linked);
    // "and eleven" (وأحد عشر) is spelt like "one" (واحد) once its hamza is gone: there the "and" is heard inside the word.
    let inside = number(run, from, AR) == Some(1);
    let langs = if linked || inside { head.langs } else { head.langs & !AR };
    if next(run, from, true).is_none() {
        return Vec::new();
    }
    let rest = rest(run, from).into_iter().filter(|more| more.value > 0 && more.langs & langs != 0);
    rest.map(|more| Number {
        value: head.value + more.value,
        end: more.end,
        langs: more.langs & langs,
        stretch: head.stretch + more.stretch,
    })
    .collect()
}

fn below_hundred(run: &[Token], at: usize) -> Vec<Number> {
    let Some(Token { what: What::Number { value, langs }, .. }) = run.get(at) else { return Vec::new() };
    let (value, langs) = (*value, *langs);
    let mut all = vec![Number { value, end: at + 1, langs, stretch: 0 }];
    let mut add = |value, end, langs| all.push(Number { value, end, langs, stretch: 0 });
    match value {
        1..10 => {
            // quatre-vingt(-douze)
            if value == 4 && langs & FR != 0 && number(run, at + 1, FR) == Some(20) {
                add(80, at + 2, FR);
                for (more, end) in french_below_twenty(run, at + 2) {
                    add(80 + more, end, FR);
                }
            }
            if langs & AR != 0 {
                // سبعة وأربعون
                if let (Some(Token { what: What::And, .. }), Some(ten @ 20..)) =
                    (next(run, at + 1, true), number(run, at + 2, AR))
                {
                    add(ten + value, at + 3, AR);
                }
                // ثلاثة عشر, and more loosely ثلاثة عشرة
                if number(run, at + 1, AR) == Some(10) {
                    let stretch = if number(run, at + 1, TEEN) == Some(10) { 0 } else { STRETCH_COST };
                    all.push(Number { value: 10 + value, end: at + 2, langs: AR, stretch });
                }
            }
        }
        10 if langs & FR != 0 => {
            if let Some(more @ 7..10) = number(run, at + 1, FR) {
                add(10 + more, at + 2, FR);
            }
        }
        20.. => {
            if let Some(more @ 1..10) = number(run, at + 1, langs & EN) {
                add(value + more, at + 2, EN);
            }
            if langs & FR != 0 {
                let linked = matches!(next(run, at + 1, true), Some(Token { what: What::And, .. }));
                for (more, end) in french_below_twenty(run, at + 1 + usize::from(linked)) {
                    if more < 10 || value == 60 {
                        add(value + more, end, FR);
                    }
                }
            }
        }
        _ => {}
    }
    all
}

/// 1 to 19 in French: `sept`, `onze`, `dix-sept`.
fn french_below_twenty(run: &[Token], at: usize) -> Vec<(u32, usize)> {
    match number(run, at, FR) {
        Some(10) => {
            let longer = number(run, at + 1, FR).filter(|more| (7..10).contains(more)).map(|more| (10 + more, at + 2));
            std::iter::once((10, at + 1)).chain(longer).collect()
        }
        Some(value @ 1..20) => vec![(value, at + 1)],
        _ => Vec::new(),
    }
}

/// The number word at `at`, if it can continue a number of one of these languages.
fn number(run: &[Token], at: usize, langs: u8) -> Option<u32> {
    match next(run, at, true)?.what {
        What::Number { value, langs: also } if also & langs != 0 => Some(value),
        _ => None,
    }
}

/// The token at `at`; where it must join the one before, only over a space, a hyphen or into the next utterance.
fn next(run: &[Token], at: usize, joined: bool) -> Option<&Token> {
    run.get(at).filter(|token| !joined || matches!(token.gap, Gap::Space | Gap::Hyphen | Gap::Utterance))
}
