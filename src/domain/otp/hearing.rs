//! From what an engine wrote down to tokens: digits, number words, labels, and the gaps between them.

use super::{
    numerals,
    token::{Gap, Label, Token, What},
};

/// Longest text looked at, in characters: ten times the longest SMS, minutes of speech.
const TEXT_MAX_CHARS: usize = 16_000;

/// The tokens of one text. The first one's gap is [`Gap::Utterance`].
pub(super) fn tokens(text: &str, interim: bool) -> Vec<Token> {
    let chars: Vec<char> = text.chars().take(TEXT_MAX_CHARS).flat_map(fold).collect();
    let mut ears = Ears { tokens: Vec::new(), gap: Gap::Utterance, odd: false, phone: false, interim };
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if let Some(end) = link(&chars, at) {
            ears.word(What::Word(Label::Plain));
            at = end;
        } else if c.is_alphanumeric() {
            let end = end_of(&chars, at, |c| c.is_alphanumeric());
            ears.alphanumeric(&chars[at..end]);
            at = end;
        } else {
            ears.mark(c, at.checked_sub(1).map(|before| chars[before]), chars.get(at + 1).copied());
            at += 1;
        }
    }
    ears.tokens
}

struct Ears {
    tokens: Vec<Token>,
    gap: Gap,
    odd: bool,
    phone: bool,
    interim: bool,
}

impl Ears {
    fn word(&mut self, what: What) {
        let (odd, phone) = (std::mem::take(&mut self.odd), std::mem::take(&mut self.phone));
        self.tokens.push(Token { what, gap: self.gap, odd, phone, interim: self.interim });
        self.gap = Gap::Space;
    }

    fn widen(&mut self, gap: Gap) {
        self.gap = self.gap.max(gap);
    }

    /// A stretch of letters and digits. Latin letters glued to digits are a hash, an hour or an ordinal, never the code.
    fn alphanumeric(&mut self, chars: &[char]) {
        let digits = chars.iter().filter(|c| c.is_ascii_digit()).count();
        if digits > 0 && digits < chars.len() && chars.iter().any(|c| !c.is_ascii_digit() && !is_arabic(*c)) {
            return self.word(What::Word(Label::Plain));
        }
        for part in chars.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit()) {
            let part: String = part.iter().collect();
            if part.starts_with(|c: char| c.is_ascii_digit()) { self.digits(&part) } else { self.letters(&part) }
        }
    }

    /// Digits; `471092471092` is the code said twice.
    fn digits(&mut self, digits: &str) {
        let half = digits
            .get(..6)
            .filter(|first| digits.len() > 6 && digits.len().is_multiple_of(6) && digits == first.repeat(digits.len() / 6));
        for _ in 1..half.map_or(1, |_| digits.len() / 6) {
            self.word(What::Digits(half.unwrap_or(digits).to_owned()));
        }
        self.word(What::Digits(half.unwrap_or(digits).to_owned()));
    }

    fn letters(&mut self, word: &str) {
        if let Some(what) = numerals::word(word) {
            return self.word(what);
        }
        // The Arabic "and" is written onto the next word.
        if let Some(what) = word.strip_prefix('و').and_then(numerals::word) {
            self.word(What::And);
            return self.word(what);
        }
        self.word(What::Word(label(word)));
    }

    fn mark(&mut self, c: char, before: Option<char>, after: Option<char>) {
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        match c {
            '\n' | '\r' | '!' | '?' | ';' | '…' | '\u{2028}' | '\u{2029}' => self.widen(Gap::Sentence),
            c if c.is_whitespace() => self.widen(Gap::Space),
            '-' | '\u{2010}'..='\u{2015}' | '−' if is_letter(before) && is_letter(after) => self.widen(Gap::Hyphen),
            '.' | ',' if is_digit(before) && is_digit(after) => self.widen(Gap::Point),
            '.' => self.widen(Gap::Sentence),
            ':' if is_digit(before) && is_digit(after) => self.widen(Gap::Colon),
            '/' if is_letter(before) && is_letter(after) => self.word(What::Word(Label::Plain)),
            '\'' | '’' | '"' | '«' | '»' | '“' | '”' | '*' | '_' | '°' | '~' | '`' => self.widen(Gap::Space),
            '+' => {
                self.widen(Gap::List);
                self.phone = true;
            }
            '#' => {
                self.widen(Gap::List);
                self.odd = is_digit(after);
            }
            '$' | '€' | '£' | '¥' => match self.tokens.last_mut() {
                Some(Token { what: What::Digits(_), odd, .. }) if !is_digit(after) => *odd = true,
                _ => self.odd = true,
            },
            '%' => self.word(What::Word(Label::Unit)),
            _ => self.widen(Gap::List),
        }
    }
}

/// If a link or an address starts here: where it ends. Its digits are nobody's code.
fn link(chars: &[char], at: usize) -> Option<usize> {
    let starts = at == 0 || chars[at - 1].is_whitespace();
    if !starts || chars[at].is_whitespace() {
        return None;
    }
    let end = end_of(chars, at, |c| !c.is_whitespace());
    let has = |wanted: char| chars[at..end].contains(&wanted);
    let letters = chars[at..end].iter().any(char::is_ascii_alphabetic);
    (letters && (has('@') || (has('/') && (has('.') || has(':'))))).then_some(end)
}

fn end_of(chars: &[char], at: usize, belongs: impl Fn(char) -> bool) -> usize {
    chars[at..].iter().position(|c| !belongs(*c)).map_or(chars.len(), |length| at + length)
}

fn is_arabic(c: char) -> bool {
    ('\u{620}'..='\u{6ff}').contains(&c)
}

/// One spelling for each letter and digit: lower case, no accents, no vowel signs, no invisible marks.
fn fold(c: char) -> impl Iterator<Item = char> {
    let one = match c {
        // accents, Arabic vowel signs, tatweel, hamza alone, joiners, direction marks, emoji parts, soft hyphen
        '\u{300}'..='\u{36f}' | '\u{64b}'..='\u{65f}' | '\u{670}' | 'ـ' | 'ء' | '\u{200b}'..='\u{200f}' => None,
        '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{61c}'
        | '\u{feff}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{20e3}'
        | '\u{ad}' => None,
        '٠'..='٩' => char::from_digit(u32::from(c) - u32::from('٠'), 10),
        '۰'..='۹' => char::from_digit(u32::from(c) - u32::from('۰'), 10),
        '０'..='９' => char::from_digit(u32::from(c) - u32::from('０'), 10),
        'أ' | 'إ' | 'آ' | 'ٱ' => Some('ا'),
        'ة' => Some('ه'),
        'ى' | 'ئ' | 'ی' => Some('ي'),
        'ؤ' => Some('و'),
        'ک' => Some('ك'),
        '،' | '٬' | '٫' => Some(','),
        '؟' => Some('?'),
        '؛' => Some(';'),
        c => Some(c),
    };
    one.into_iter().flat_map(char::to_lowercase).map(|c| match c {
        'à' | 'â' | 'ä' | 'á' => 'a',
        'é' | 'è' | 'ê' | 'ë' => 'e',
        'î' | 'ï' | 'í' => 'i',
        'ô' | 'ö' | 'ó' => 'o',
        'û' | 'ù' | 'ü' | 'ú' => 'u',
        'ç' => 'c',
        c => c,
    })
}

/// What a (folded) word says about the numbers near it.
fn label(word: &str) -> Label {
    match word {
        "code" | "codes" | "verification" | "التحقق" | "passcode" | "otp" | "رمز" | "الرمز" | "رمزك" | "رمزكم" | "كود"
        | "الكود" | "كودك" => Label::Code,
        "order" | "orders" | "commande" | "commandes" | "reference" | "ref" | "invoice" | "facture" | "ticket" | "dossier"
        | "account" | "compte" | "client" | "customer" | "phone" | "telephone" | "tel" | "mobile" | "portable" | "fax"
        | "call" | "appelez" | "appeler" | "iban" | "rib" | "ice" | "siret" | "solde" | "balance" | "montant" | "amount"
        | "price" | "prix" | "total" | "costs" | "coute" | "date" | "expire" | "expires" | "expiration" | "avant" | "until"
        | "jusqu" | "valable" | "valid" | "since" | "depuis" | "annee" | "year" | "tracking" | "colis" | "parcel" | "serial"
        | "version" | "id" | "extension" | "poste" | "طلب" | "الطلب" | "طلبك" | "طلبيه" | "الطلبيه" | "فاتوره" | "الفاتوره"
        | "هاتف" | "الهاتف" | "هاتفك" | "اتصل" | "اتصلوا" | "حساب" | "الحساب" | "حسابك" | "مرجع" | "المرجع" | "تاريخ"
        | "رصيد" | "رصيدك" | "الرصيد" | "مبلغ" | "المبلغ" | "الثمن" | "السعر" => Label::Trap,
        "zip" | "postal" | "postcode" | "promo" | "country" | "area" | "البريدي" => Label::Never,
        "press" | "dial" | "push" | "tapez" | "appuyez" | "composez" | "touche" | "اضغط" | "اضغطوا" => Label::Press,
        "dh" | "dhs" | "mad" | "dirham" | "dirhams" | "euro" | "euros" | "dollar" | "dollars" | "usd" | "eur" | "centimes"
        | "درهم" | "دراهم" | "درهما" | "يورو" | "دولار" | "ريال" => Label::Money,
        "digit" | "digits" | "chiffre" | "chiffres" | "step" | "steps" | "etape" | "etapes" | "minute" | "minutes" | "min"
        | "mins" | "hour" | "hours" | "hr" | "hrs" | "heure" | "heures" | "h" | "day" | "days" | "jour" | "jours" | "second"
        | "seconds" | "seconde" | "secondes" | "sec" | "percent" | "pourcent" | "ارقام" | "دقيقه" | "دقايق" | "ثانيه"
        | "ثواني" | "ساعه" | "ساعات" | "يوم" | "ايام" | "خطوه" | "خطوتين" | "خطوات" => {
            Label::Unit
        }
        _ => Label::Plain,
    }
}
