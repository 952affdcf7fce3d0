//! Stop words: a whole message that says "no more" in French, Arabic, Moroccan or English, and the words that undo it.
//!
//! Only whole messages count: "je ne peux pas m'arrêter avant lundi" is a reply, not an opt-out. Words that in hiring
//! mean something else ("annuler", "mabghitch", "inscription", "resume") are left out: they are about the job.

/// What a whole message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Never write again.
    OptOut,
    /// Write again after all.
    OptIn,
}

/// A longer message is no stop word, in characters.
const LENGTH_MAX: usize = 80;

/// In normal form (see `normal`): lower case, no accents, one space between words.
const OPT_OUT: &[&str] = &[
    // English, with what carriers know
    "stop",
    "stop all",
    "stopall",
    "stop it",
    "stop messages",
    "stop messaging me",
    "stop texting me",
    "unsubscribe",
    "unsubscribe me",
    "unsub",
    "opt out",
    "optout",
    "remove me",
    "do not contact me",
    "dont contact me",
    "don t contact me",
    "do not message me",
    "no more messages",
    "leave me alone",
    // French
    "arret",
    "arreter",
    "arretez",
    "arrete",
    "stop pub",
    "stop sms",
    "stop whatsapp",
    "desabonner",
    "desabonnez moi",
    "me desabonner",
    "se desabonner",
    "desabonnement",
    "desinscrire",
    "desinscrivez moi",
    "me desinscrire",
    "desinscription",
    "ne plus me contacter",
    "ne me contactez plus",
    "ne m ecrivez plus",
    "ne plus recevoir",
    "ne plus recevoir de messages",
    "je ne veux plus recevoir de messages",
    "je ne veux plus de messages",
    "plus de messages",
    "plus de message",
    "supprimez moi",
    "supprimez mon numero",
    "retirez moi de la liste",
    "laissez moi tranquille",
    // Arabic, in the normal form of its letters
    "توقف",
    "توقفوا",
    "قف",
    "ستوب",
    "ايقاف",
    "اوقف",
    "اوقفوا",
    "اوقف الرسائل",
    "اوقفوا الرسائل",
    "ايقاف الرسائل",
    "الغاء الاشتراك",
    "الغ الاشتراك",
    "الغوا اشتراكي",
    "الغاء اشتراكي",
    "لا تراسلني",
    "لا تراسلوني",
    "لا تتصل بي",
    "لا ترسل لي",
    "لا ترسلوا لي",
    "لا اريد رسائل",
    "لا اريد رسائلكم",
    "كفي",
    // Moroccan, in Arabic and in Latin letters
    "حبس",
    "حبسو",
    "حبسوا",
    "وقف",
    "وقفو",
    "وقفوا",
    "باراكا",
    "ما تصيفطوش",
    "ماتصيفطوش",
    "ما تصيفطوليش",
    "ما تبقاوش تصيفطو",
    "ماتبقاوش تصيفطو ليا",
    "ما بغيتش رسائل",
    "بعدو مني",
    "hbes",
    "hbess",
    "7bes",
    "7bess",
    "7bsso",
    "7bso",
    "7absso",
    "we9fo",
    "wa9fo",
    "we9ef",
    "wa9ef",
    "baraka",
    "ma tsiftoch",
    "ma tsiftouch",
    "matsiftoch",
    "matsiftouch",
    "matsiftoliyach",
    "ma b9itoch tsifto",
    "b3do meni",
    "b3do mni",
    "ba3do mni",
];

const OPT_IN: &[&str] = &[
    "start",
    "unstop",
    "subscribe",
    "resubscribe",
    "opt in",
    "optin",
    "reprendre",
    "reprenez",
    "reabonner",
    "me reabonner",
    "reabonnez moi",
    "m abonner",
    "abonner",
    "abonnez moi",
    "recontactez moi",
    "ابدا",
    "اشترك",
    "اشتراك",
    "الاشتراك",
    "استئناف",
    "استيناف",
    "اعاده الاشتراك",
    "كمل",
    "كملو",
    "رجعوني",
    "kemmel",
    "kemlo",
];

/// Words of courtesy at either end, which change nothing.
const COURTESY: &[&str] = &[
    "svp",
    "stp",
    "s il vous plait",
    "s il te plait",
    "merci",
    "please",
    "pls",
    "plz",
    "thanks",
    "thank you",
    "من فضلك",
    "من فضلكم",
    "رجاء",
    "شكرا",
    "عافاك",
    "عفاك",
    "عافاكم",
    "3afak",
    "afak",
    "3afakom",
    "chokran",
    "bonjour",
    "bonsoir",
    "salam",
    "سلام",
    "السلام عليكم",
];

/// What does this whole message ask for, if it is a stop word (or the contrary)?
pub fn wish(message: &str) -> Option<Wish> {
    if message.chars().count() > LENGTH_MAX {
        return None;
    }
    let words = normal(message);
    let mut words: Vec<&str> = words.split(' ').filter(|word| !word.is_empty()).collect();
    // "STOP STOP STOP" is one stop.
    words.dedup();
    let whole = words.join(" ");
    let bare = without_courtesy(&whole);
    let says = |list: &[&str]| list.contains(&whole.as_str()) || list.contains(&bare);
    if says(OPT_OUT) {
        Some(Wish::OptOut)
    } else if says(OPT_IN) {
        Some(Wish::OptIn)
    } else {
        None
    }
}

fn without_courtesy(words: &str) -> &str {
    let mut bare = words;
    loop {
        let shorter = COURTESY.iter().find_map(|word| {
            let before = bare.strip_prefix(word).and_then(|rest| rest.strip_prefix(' '));
            before.or_else(|| bare.strip_suffix(word).and_then(|rest| rest.strip_suffix(' ')))
        });
        match shorter {
            Some(shorter) => bare = shorter,
            None => return bare,
        }
    }
}

/// One spelling for all: lower case, without accents, vowel signs, punctuation and emoji; one space between words.
pub fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars().flat_map(char::to_lowercase) {
        let plain = match letter {
            'à' | 'á' | 'â' | 'ä' | 'ã' | 'å' => 'a',
            'ç' => 'c',
            'è' | 'é' | 'ê' | 'ë' => 'e',
            'ì' | 'í' | 'î' | 'ï' => 'i',
            'ñ' => 'n',
            'ò' | 'ó' | 'ô' | 'ö' | 'õ' => 'o',
            'ù' | 'ú' | 'û' | 'ü' => 'u',
            'ÿ' => 'y',
            'أ' | 'إ' | 'آ' | 'ٱ' => 'ا',
            'ى' => 'ي',
            'ة' => 'ه',
            'ؤ' => 'و',
            'ک' => 'ك',
            'ی' => 'ي',
            // Combining accents, Arabic vowel signs, the tatweel, and marks of direction and width say nothing here.
            '\u{300}'..='\u{36f}' | '\u{640}' | '\u{64b}'..='\u{65f}' | '\u{670}' | '\u{200b}'..='\u{200f}' | '\u{feff}' => {
                continue;
            }
            letter if letter.is_alphanumeric() => letter,
            _ => ' ',
        };
        if plain != ' ' || !(out.is_empty() || out.ends_with(' ')) {
            out.push(plain);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sentence_with_a_stop_word_in_it_is_a_reply() {
        for text in [
            "",
            " ",
            "🙂",
            "Je ne peux pas m'arrêter avant lundi",
            "L'arrêt de bus est loin ?",
            "Is this a full stop?",
            "Non stop",
            "merci",
            "Bonjour",
            "safi",
            "annuler",
            "mabghitch",
            "resume",
            "Je dois annuler l'entretien",
            "oui",
            "لا يمكنني التوقف عن العمل الآن",
            "واش نوقف فالباب؟",
            "stopover",
            "start lundi ?",
        ] {
            assert_eq!(wish(text), None, "{text}");
        }
        assert_eq!(wish(&"stop ".repeat(17)), None, "a long message is not read as a word");
    }

    #[test]
    fn a_stop_word_counts_however_it_is_written() {
        for text in [
            "STOP",
            " stop. ",
            "Stop !!!",
            "stop 🛑",
            "STOP STOP",
            "stop svp",
            "Bonjour, stop merci",
            "Arrêtez",
            "ARRE\u{302}T",
            "Désabonner",
            "me désinscrire",
            "Ne plus me contacter, s'il vous plaît",
            "Unsubscribe",
            "opt-out",
            "Don't contact me",
            "توقف",
            "تَوَقَّف",
            "إيقاف",
            "إلغاء الاشتراك",
            "الغاء الإشتراك",
            "كفى",
            "حبس",
            "حبـــس عافاك",
            "ما تصيفطوش",
            "7bess",
            "3afak we9fo",
        ] {
            assert_eq!(wish(text), Some(Wish::OptOut), "{text}");
        }
        for text in ["START", "réabonner", "Reprendre svp", "ابدأ", "إعادة الاشتراك"] {
            assert_eq!(wish(text), Some(Wish::OptIn), "{text}");
        }
    }

    #[test]
    fn every_word_of_the_lists_is_in_normal_form_and_says_one_thing() {
        for word in OPT_OUT.iter().chain(OPT_IN).chain(COURTESY) {
            assert_eq!(normal(word), *word);
        }
        for word in OPT_OUT {
            assert_eq!(wish(word), Some(Wish::OptOut), "{word}");
        }
        for word in OPT_IN {
            assert_eq!(wish(word), Some(Wish::OptIn), "{word}");
        }
        assert!(COURTESY.iter().all(|word| wish(word).is_none()));
    }

    proptest! {
        #[test]
        fn the_normal_form_stays_as_it_is(text in ".{0,40}") {
            let once = normal(&text);
            prop_assert_eq!(normal(&once), once);
        }

        #[test]
        fn another_word_beside_it_makes_it_a_sentence(at in any::<prop::sample::Index>(), word in "zz[a-z]{3,8}", before: bool) {
            let stop = OPT_OUT[at.index(OPT_OUT.len())];
            let text = if before { format!("{word} {stop}") } else { format!("{stop} {word}") };
            prop_assert_eq!(wish(&text), None);
        }

        #[test]
        fn case_and_marks_change_nothing(at in any::<prop::sample::Index>(), marks in "[ .!?…]{0,4}") {
            let stop = OPT_OUT[at.index(OPT_OUT.len())];
            let text = format!("{marks}{}{marks}", stop.to_uppercase());
            prop_assert_eq!(wish(&text), Some(Wish::OptOut));
        }
    }
}
