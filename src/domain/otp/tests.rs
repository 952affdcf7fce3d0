//! What people and machines really say, in three languages, and what is not a code.
use super::*;

fn seconds(at: f64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_790_000_000_000 + (at * 1000.0) as i64).expect("in range")
}
fn heard(at: f64, text: &str) -> Heard {
    Heard { at: seconds(at), text: text.into(), is_final: Some(true), source: Source::Live }
}
fn interim(at: f64, text: &str) -> Heard {
    Heard { is_final: Some(false), ..heard(at, text) }
}
fn code(text: &str) -> Code {
    text.parse().expect("six digits")
}
fn brief(finding: Finding) -> String {
    match finding {
        Finding::Nothing => "-".into(),
        Finding::Ambiguous => "?".into(),
        Finding::Once(code) => format!("1x {}", code.expose()),
        Finding::Confirmed(code) => format!("2x {}", code.expose()),
    }
}

/// One utterance, and what is to be found in it.
const UTTERANCES: &[(&str, &str)] = &[
    // English
    ("four seven one zero nine two", "1x 471092"),
    ("Your WhatsApp code is four seven one oh nine two.", "1x 471092"),
    ("four seven one o nine two", "1x 471092"),
    ("four, seven, one, nought, nine, two", "1x 471092"),
    ("Four. Seven. One. Zero. Nine. Two.", "1x 471092"),
    ("forty-seven ten ninety-two", "1x 471092"),
    ("forty seven ten ninety two", "1x 471092"),
    ("four seventy-one oh ninety-two", "1x 471092"),
    ("four hundred seventy-one zero ninety-two", "1x 471092"),
    ("four hundred and seventy-one thousand and ninety-two", "1x 471092"),
    ("your code is double four seven one zero nine", "1x 447109"),
    ("triple one, nine zero two", "1x 111902"),
    ("double zero double seven double nine", "1x 007799"),
    ("two times seven, four one zero nine", "1x 774109"),
    ("your code is four seven won zero nine two", "1x 471092"),
    ("four to one zero nine for two", "-"),
    ("one two four for six too three", "-"),
    ("nine to one zero nine three", "1x 921093"),
    ("your 6 digit code is 4 7 1 0 9 2", "1x 471092"),
    ("your six digit code is four seven one zero nine two, valid for ten minutes", "1x 471092"),
    ("your two-step verification code is 471-092", "1x 471092"),
    ("Press 1 to repeat. Your code is 471092. Press 2 to hang up.", "1x 471092"),
    ("press one 471092", "1x 471092"),
    ("WhatsApp Business, 24/7. Your code: 471 092", "1x 471092"),
    ("uh four seven uh one zero then nine two", "1x 471092"),
    ("four dash seven dash one dash zero dash nine dash two", "1x 471092"),
    ("471092 471092", "2x 471092"),
    ("471092471092", "2x 471092"),
    ("four seven one zero nine two four seven one zero nine two", "2x 471092"),
    ("Your code is 471092. Again, your code is 471092.", "2x 471092"),
    ("471092. 471092. 471092.", "2x 471092"),
    ("0 9 2. 4 7 1 0 9 2.", "1x 471092"),
    ("471092 471082", "?"),
    ("471 092, 471 082", "?"),
    // smart formatting
    ("471,092", "1x 471092"),
    ("471.092", "1x 471092"),
    ("471092.", "1x 471092"),
    ("47 10 92", "1x 471092"),
    ("47-10-92", "1x 471092"),
    ("4-7-1-0-9-2", "1x 471092"),
    ("(471) 092", "1x 471092"),
    ("your code is $471,092", "1x 471092"),
    ("$471,092", "1x 471092"),
    ("your code is 47:10:92", "1x 471092"),
    ("47:10:92", "1x 471092"),
    // French
    ("votre code est quatre sept un zéro neuf deux", "1x 471092"),
    ("Quatre, sept, un, zéro, neuf, deux.", "1x 471092"),
    ("quarante-sept dix quatre-vingt-douze", "1x 471092"),
    ("quarante sept dix quatre vingt douze", "1x 471092"),
    ("quatre cent soixante et onze zéro quatre-vingt-douze", "1x 471092"),
    ("quatre cent soixante-et-onze, zéro neuf deux", "1x 471092"),
    ("quatre cent soixante et onze mille quatre-vingt-douze", "1x 471092"),
    ("soixante-dix, quatre-vingt-dix-neuf, soixante-dix-sept", "1x 709977"),
    ("septante nonante-neuf huitante-et-un", "1x 709981"),
    ("vingt et un, trente et un, quarante et un", "1x 213141"),
    ("dix-sept dix-huit dix-neuf", "1x 171819"),
    ("deux fois sept, quatre, un, zéro, neuf", "1x 774109"),
    ("deux fois le sept quatre un zéro neuf", "1x 774109"),
    ("double quatre double sept double neuf", "1x 447799"),
    ("votre code à six chiffres est quatre sept un zéro neuf deux", "1x 471092"),
    ("votre code à 6 chiffres : 471 092, valable 10 minutes", "1x 471092"),
    ("quatre cette un zéro neuf deux", "1x 471092"),
    ("tapez 1 pour réécouter. votre code est le quatre sept un zéro neuf deux", "1x 471092"),
    ("le code sera répété deux fois : quatre sept un zéro neuf deux", "1x 471092"),
    ("quatre sept un puis zéro neuf deux", "1x 471092"),
    ("4 sept 1 zéro 9 deux", "1x 471092"),
    ("471 092 est votre code WhatsApp, code valable dix minutes", "1x 471092"),
    // Arabic, standard and Moroccan
    ("أربعة سبعة واحد صفر تسعة اثنان", "1x 471092"),
    ("اربعه سبعه واحد صفر تسعه اثنين", "1x 471092"),
    ("رمزك هو أَرْبَعَة سَبْعَة وَاحِد صِفْر تِسْعَة اِثْنَان", "1x 471092"),
    ("أربعة، سبعة، واحد، صفر، تسعة، اثنان", "1x 471092"),
    ("أربعة وسبعة وواحد وصفر وتسعة واثنان", "1x 471092"),
    ("ربعة سبعة واحد زيرو تسعود جوج", "1x 471092"),
    ("تلاتة زوج تمنية ربعة خمسة ستة", "1x 328456"),
    ("سبعة وأربعون عشرة اثنان وتسعون", "1x 471092"),
    ("سبعة و أربعين، عشرة، اثنين و تسعين", "1x 471092"),
    ("أربعمئة وواحد وسبعون صفر اثنان وتسعون", "1x 471092"),
    ("أربعمائة وواحد وسبعون ألفا", "1x 471000"),
    ("أربعمائة وواحد وسبعون ألف واثنان وتسعون", "1x 471092"),
    ("حداش تلطاش تسعطاش", "1x 111319"),
    ("ثلاثة عشر، أربعة عشر، خمسة عشر", "1x 131415"),
    ("سبعة مرتين أربعة واحد صفر تسعة", "1x 774109"),
    ("رمز التحقق الخاص بك هو ٤٧١٠٩٢", "1x 471092"),
    ("كود ۴۷۱-۰۹۲", "1x 471092"),
    ("الرمز: \u{200f}٤٧١\u{200e} ٠٩٢", "1x 471092"),
    ("رمـــز من 6 أرقام: ٤٧١٠٩٢", "1x 471092"),
    ("اضغط 1 للإعادة. رمزك 471092", "1x 471092"),
    // not a code
    ("", "-"),
    ("Thanks for watching!", "-"),
    ("500", "-"),
    ("cinq cents", "-"),
    ("Your order number is 123456.", "-"),
    ("Votre commande numéro 471092 est prête", "-"),
    ("رقم الطلب 471092", "-"),
    ("ticket #471092", "-"),
    ("Call us at 0522 47 10 92", "-"),
    ("+212 520 000 042", "-"),
    ("+212 471092", "-"),
    ("06 12 34 56 78 90", "-"),
    ("zéro cinq vingt-deux quarante-sept dix quatre-vingt-douze", "-"),
    ("the price is $471,092", "-"),
    ("471 092 dirhams", "-"),
    ("solde 1234,56", "-"),
    ("it was 1234.56 then", "-"),
    ("le 20/11/2026 à 10:05", "-"),
    ("on 20-11-26 we met", "-"),
    ("at 10:05:06 we met", "-"),
    ("2026", "-"),
    ("November 20, 2026 at 10:05", "-"),
    ("four seven one zero nine", "-"),
    ("four seven one zero nine two three", "-"),
    ("4710923", "-"),
    ("24/7, press 1, 2-step, 6-digit", "-"),
    ("one for English, two for French, three for Arabic", "-"),
    ("code 4sgLq1p5sV6", "-"),
    ("https://example.net/471092", "-"),
    ("our code postal 471092", "-"),
    // both
    ("Your WhatsApp account verification: 471092", "1x 471092"),
    ("je vous le dis encore une fois, quatre sept un - zéro neuf deux", "1x 471092"),
    ("I will say it twice: four seven one zero nine two. I repeat: four seven one zero nine two.", "2x 471092"),
    ("Order 123456: your code is 471092", "1x 471092"),
    ("Your code is 471092. Order 471092 and ticket 555555.", "1x 471092"),
    ("code 471092, valid until 20/11/2026 10:05, call 0522 47 10 92", "1x 471092"),
    ("555555 people trust us. Your code is 471092", "1x 471092"),
];

#[test]
fn the_table_of_utterances() {
    let wrong: Vec<String> = UTTERANCES
        .iter()
        .map(|(text, want)| (text, want, brief(find(&[heard(0.0, text)]))))
        .filter(|(_, want, got)| *want != got)
        .map(|(text, want, got)| format!("{text}\n    wanted {want}, found {got}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(UTTERANCES.len() >= 80);
}

#[test]
fn text_messages() {
    for (text, want) in [
        ("471-092 est votre code WhatsApp Business. Ne le partagez pas.", Some("471092")),
        ("<#> Your WhatsApp code: 471-092\n\nYou can also tap on this link: v.whatsapp.com/471092\n4sgLq1p5sV6", Some("471092")),
        ("\u{202d}471\u{a0}092\u{202c} is your code, do not share it", Some("471092")),
        ("رمز واتساب الخاص بك: ٤٧١-٠٩٢", Some("471092")),
        ("Code 471092 (valable 10 min). Questions ? +212 520 00 00 42, 2026", Some("471092")),
        ("G-471092 is your code", Some("471092")),
        ("*471092* is your code", Some("471092")),
        ("Votre facture 471092 de 1234.56 MAD est due le 20-11-26", None),
        ("Rappelez le 0520000042", None),
    ] {
        assert_eq!(find_in_text(text), want.map(code), "{text}");
        let sms = Heard { source: Source::Sms, ..heard(0.0, text) };
        assert_eq!(brief(find(&[sms])), want.map_or("-".into(), |want| format!("2x {want}")), "{text}");
    }
}

#[test]
fn calls_as_they_come_in() {
    let none = |at, text| Heard { is_final: None, ..heard(at, text) };
    let recording = |at, text| Heard { source: Source::Recording, ..heard(at, text) };
    for (what, events, want) in [
        ("split over two finals", vec![heard(1.0, "votre code est quatre sept un"), heard(3.5, "zéro neuf deux")], "1x 471092"),
        ("split inside a number", vec![heard(1.0, "quarante-sept dix quatre"), heard(2.0, "vingt douze")], "1x 471092"),
        ("late and unordered", vec![heard(3.5, "092"), heard(1.0, "code 471")], "1x 471092"),
        ("too far apart", vec![heard(1.0, "471"), heard(40.0, "092")], "-"),
        ("doubled delivery", vec![heard(1.0, "471092"), heard(1.0, "471092")], "1x 471092"),
        ("said twice", vec![heard(1.0, "your code is 471092"), heard(6.0, "your code is 471092")], "2x 471092"),
        ("split and said twice", vec![heard(1.0, "471"), heard(2.0, "092 471"), heard(4.0, "092")], "2x 471092"),
        ("interims are overwritten", vec![interim(1.0, "4 7"), interim(1.5, "4 7 1 0"), heard(2.0, "4 7 1 0 9 2")], "1x 471092"),
        ("an interim is enough to hope", vec![interim(1.0, "471"), interim(2.0, "471092 471092")], "1x 471092"),
        ("the final corrects", vec![interim(1.0, "code 471082"), heard(2.0, "code 471092")], "1x 471092"),
        ("interim of the repeat", vec![heard(1.0, "471092"), interim(2.0, "471")], "1x 471092"),
        ("clipped, then whole", vec![heard(1.0, "zero nine two"), heard(4.0, "four seven one zero nine two")], "1x 471092"),
        ("finality unsaid", vec![none(1.0, "471"), none(1.5, "471 092"), none(2.0, "471 092")], "1x 471092"),
        ("key press, then code", vec![heard(1.0, "to hear it press 1"), heard(2.0, "471092")], "1x 471092"),
        ("phone number over events", vec![heard(1.0, "05"), heard(2.0, "22"), heard(3.0, "47"), heard(4.0, "10 92")], "-"),
        ("rivals", vec![heard(1.0, "code 471092"), heard(9.0, "code 471082")], "?"),
        ("two against one", vec![heard(1.0, "code 471092"), heard(9.0, "code 471082"), heard(20.0, "code 471092")], "2x 471092"),
        ("heard and transcribed again", vec![heard(1.0, "code 471092"), recording(60.0, "Code: 471-092.")], "2x 471092"),
        ("the same transcript twice", vec![recording(60.0, "Code: 471092."), recording(61.0, "Code: 471092.")], "1x 471092"),
        ("two engines disagree", vec![recording(60.0, "code 471092"), recording(61.0, "code 471082")], "?"),
        ("music", vec![heard(1.0, "la la la"), heard(5.0, "Thanks for watching")], "-"),
    ] {
        assert_eq!(brief(find(&events)), want, "{what}");
    }
}

#[test]
fn the_newest_text_message_wins() {
    let sms = |at, text| Heard { source: Source::Sms, ..heard(at, text) };
    let heard = [sms(9.0, "Code 471092"), sms(1.0, "Code 111111"), sms(12.0, "Ne partagez pas ce code")];
    assert_eq!(find(&heard), Finding::Confirmed(code("471092")));
}

#[test]
fn nothing_prints_the_code() {
    let all = format!("{:?} {:?} {:?}", code("471092"), find(&[heard(0.0, "471092")]), heard(0.0, "471092"));
    assert!(!all.contains("471092"), "{all}");
    assert!("47109".parse::<Code>().is_err() && "4710923".parse::<Code>().is_err() && "٤٧١٠٩٢".parse::<Code>().is_err());
    assert_eq!(code(" 471-092 ").expose(), "471092");
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    const EN: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const EN_TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    const FR: [&str; 20] = [
        "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize",
        "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
    ];
    const FR_TENS: [&str; 10] =
        ["", "", "vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt"];
    const AR: [&str; 11] = ["صفر", "واحد", "اثنان", "ثلاثة", "أربعة", "خمسة", "ستة", "سبعة", "ثمانية", "تسعة", "عشرة"];
    const AR_TENS: [&str; 10] = ["", "", "عشرون", "ثلاثون", "أربعون", "خمسون", "ستون", "سبعون", "ثمانون", "تسعون"];
    const AR_HUNDREDS: [&str; 10] = ["", "مئة", "مئتان", "ثلاثمئة", "أربعمئة", "خمسمئة", "ستمئة", "سبعمئة", "ثمانمئة", "تسعمئة"];

    #[derive(Debug, Clone, Copy)]
    enum Language {
        English,
        French,
        Arabic,
    }

    /// 0 to 999 as words, as a careful writer would.
    fn words(language: Language, n: usize) -> String {
        let (hundreds, tens, units) = (n / 100, n / 10 % 10, n % 10);
        let rest = n % 100;
        match language {
            Language::English if n < 20 => EN[n].into(),
            Language::English if n < 100 && units == 0 => EN_TENS[tens].into(),
            Language::English if n < 100 => format!("{}-{}", EN_TENS[tens], EN[units]),
            Language::English if rest == 0 => format!("{} hundred", EN[hundreds]),
            Language::English => format!("{} hundred and {}", EN[hundreds], words(language, rest)),
            Language::French if n < 20 => FR[n].into(),
            Language::French if n < 100 => match (tens, units) {
                (7 | 9, 1) if tens == 7 => "soixante et onze".into(),
                (7 | 9, _) => format!("{}-{}", FR_TENS[tens], FR[10 + units]),
                (_, 0) => FR_TENS[tens].into(),
                (2..=6, 1) => format!("{} et un", FR_TENS[tens]),
                _ => format!("{}-{}", FR_TENS[tens], FR[units]),
            },
            Language::French => {
                let head = if hundreds == 1 { "cent".into() } else { format!("{} cent", FR[hundreds]) };
                if rest == 0 { head } else { format!("{head} {}", words(language, rest)) }
            }
            Language::Arabic if n <= 10 => AR[n].into(),
            Language::Arabic if n == 11 => "أحد عشر".into(),
            Language::Arabic if n == 12 => "اثنا عشر".into(),
            Language::Arabic if n < 20 => format!("{} عشر", AR[units]),
            Language::Arabic if n < 100 && units == 0 => AR_TENS[tens].into(),
            Language::Arabic if n < 100 => format!("{} و{}", AR[units], AR_TENS[tens]),
            Language::Arabic if rest == 0 => AR_HUNDREDS[hundreds].into(),
            Language::Arabic => format!("{} و{}", AR_HUNDREDS[hundreds], words(language, rest)),
        }
    }

    fn language() -> impl Strategy<Value = Language> {
        prop_oneof![Just(Language::English), Just(Language::French), Just(Language::Arabic)]
    }

    /// The code cut into groups of one to three digits; a group never begins with a zero unless it is one.
    fn groups(code: &str, cuts: &[usize]) -> Vec<usize> {
        let (mut groups, mut at) = (Vec::new(), 0);
        for cut in cuts.iter().chain([1; 6].iter()) {
            let length = if code[at..].starts_with('0') { 1 } else { (*cut).min(code.len() - at) };
            groups.push(code[at..at + length].parse().expect("digits"));
            at += length;
            if at == code.len() {
                break;
            }
        }
        groups
    }

    fn spoken(language: Language, groups: &[usize], between: &str) -> String {
        groups.iter().map(|group| words(language, *group)).collect::<Vec<_>>().join(between)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn any_code_in_words_is_found(
            language in language(), code in "[0-9]{6}", cuts in prop::collection::vec(1usize..=3, 6), lead in prop::bool::ANY,
        ) {
            let lead = match (lead, language) {
                (false, _) => "",
                (_, Language::English) => "Your six-digit code is: ",
                (_, Language::French) => "Votre code à 6 chiffres est : ",
                (_, Language::Arabic) => "رمزك هو: ",
            };
            let text = format!("{lead}{}.", spoken(language, &groups(&code, &cuts), ", "));
            prop_assert_eq!(brief(find(&[heard(0.0, &text)])), format!("1x {code}"), "{}", text);
            prop_assert_eq!(find_in_text(&text).map(|code| code.0), Some(code));
        }

        #[test]
        fn single_digits_and_pairs_need_no_commas(language in language(), code in "[0-9]{6}", cuts in prop::collection::vec(1usize..=2, 6)) {
            let text = spoken(language, &groups(&code, &cuts), " ");
            prop_assert_eq!(brief(find(&[heard(0.0, &text)])), format!("1x {code}"), "{}", text);
        }

        #[test]
        fn a_code_may_be_split_anywhere(
            language in language(), code in "[0-9]{6}", cuts in prop::collection::vec(1usize..=2, 6), at in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let text = spoken(language, &groups(&code, &cuts), " ");
            let words: Vec<&str> = text.split(' ').collect();
            let mut splits: Vec<usize> = at.iter().map(|at| at.index(words.len())).chain([0, words.len()]).collect();
            splits.sort_unstable();
            splits.dedup();
            let events: Vec<Heard> = splits.windows(2).enumerate().map(|(n, split)| heard(n as f64, &words[split[0]..split[1]].join(" "))).collect();
            prop_assert_eq!(brief(find(&events)), format!("1x {code}"), "{:?}", text);
        }

        #[test]
        fn a_repeated_code_is_confirmed(language in language(), code in "[0-9]{6}") {
            let digits = spoken(language, &groups(&code, &[]), " ");
            let text = format!("{digits}. {digits}.");
            prop_assert_eq!(brief(find(&[heard(0.0, &text)])), format!("2x {code}"), "{}", text);
        }

        #[test]
        fn written_digits_are_found(code in "[0-9]{6}", style in 0usize..6) {
            let (head, tail) = code.split_at(3);
            let arabic: String = code.chars().map(|c| char::from_u32(0x660 + c.to_digit(10).expect("digit")).expect("char")).collect();
            let text = match style {
                0 => code.clone(),
                1 => format!("{head}-{tail}"),
                2 => format!("{head} {tail}"),
                3 => format!("\u{202b}{head}\u{a0}{tail}\u{202c}"),
                4 => arabic,
                _ => code.chars().map(String::from).collect::<Vec<_>>().join(" "),
            };
            prop_assert_eq!(find_in_text(&format!("code {text}")).map(|code| code.0), Some(code));
        }

        #[test]
        fn fewer_than_six_digits_are_never_a_code(language in language(), digits in prop::collection::vec(0usize..10, 0..6), noise in "[a-z ]{0,12}") {
            let words = spoken(language, &digits, " ");
            let text = format!("{noise}x code {words}");
            prop_assert_eq!(find(&[heard(0.0, &text)]), Finding::Nothing);
            prop_assert_eq!(find_in_text(&text), None);
        }

        #[test]
        fn a_longer_number_is_never_a_code(digits in "[0-9]{7,11}", lead in prop::sample::select(vec!["", "code ", "call "])) {
            prop_assert_eq!(find_in_text(&format!("{lead}{digits}")), None);
        }

        #[test]
        fn anything_at_all_is_survived(texts in prop::collection::vec(("\\PC{0,60}", any::<Option<bool>>(), 0u8..3), 0..6)) {
            let events: Vec<Heard> = texts.into_iter().enumerate().map(|(n, (text, is_final, source))| {
                let source = [Source::Live, Source::Recording, Source::Sms][usize::from(source)];
                Heard { is_final, source, ..heard(n as f64, &text) }
            }).collect();
            let found = find(&events);
            let mut backwards = events;
            backwards.reverse();
            prop_assert_eq!(found, find(&backwards));
        }

        #[test]
        fn any_soup_of_number_words_is_survived(picks in prop::collection::vec(0usize..24, 0..80)) {
            const SOUP: [&str; 24] = ["quatre", "vingt", "cent", "mille", "dix", "sept", "et", "double", "deux fois", "to", "for", "four", "hundred",
                "and", "مئة", "و", "مرتين", "عشر", "471", "471092", ".", ",", "-", "soixante"];
            let text = picks.iter().map(|pick| SOUP[*pick]).collect::<Vec<_>>().join(" ");
            find(&[heard(0.0, &text)]);
        }
    }
}
