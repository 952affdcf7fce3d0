//! Finds the six digits that Meta speaks or texts to a new line, or says that there are none yet.
//!
//! Follows contracts/telnyx.md 7.5 and 8. Everything is pure: the same things heard give the same finding.

mod hearing;
mod numerals;
#[cfg(test)]
mod tests;
mod token;

use chrono::{DateTime, TimeDelta, Utc};
use hearing::tokens;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, ops::Range, str::FromStr};
use token::{Gap, Label, Token, What};

/// Two events of one call further apart than this do not share a code.
const JOIN_GAP: TimeDelta = TimeDelta::seconds(12);
/// Longest run of number words that is read as one, in tokens; a longer one is not a code.
const RUN_MAX_TOKENS: usize = 400;
/// Most events one code may be split over.
const SPLIT_MAX: usize = 12;
/// How many words before a number may name it, and after.
const LABEL_REACH_WORDS: usize = 6;

/// A one-time code: six digits that nothing prints.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(String);

impl Code {
    /// The six ASCII digits. Never log, store unsealed or answer with them.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A text that is not six ASCII digits; for what people type, `471-092` and `471 092` are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code is six digits")]
pub struct NotACode;

impl FromStr for Code {
    type Err = NotACode;
    fn from_str(text: &str) -> Result<Self, NotACode> {
        let digits: String = text.trim().chars().filter(|c| !matches!(c, '-' | ' ')).collect();
        let six = digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_digit());
        six.then_some(Self(digits)).ok_or(NotACode)
    }
}

/// Where something was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Live transcription of the call.
    Live,
    /// Transcription of the call's whole recording, by any engine.
    Recording,
    /// The body of a text message.
    Sms,
}

/// One event of a call leg, or one text message. As secret as the code in it: seal it, and `Debug` does not show the text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    pub at: DateTime<Utc>,
    pub text: String,
    /// `None` where the event does not say: then it counts, but confirms nothing by itself.
    pub is_final: Option<bool>,
    pub source: Source,
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, text, is_final, source } = self;
        write!(f, "Heard {{ {at}, *** ({} bytes), is_final: {is_final:?}, {source:?} }}", text.len())
    }
}

/// What is known about the code so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// No six digits yet.
    Nothing,
    /// Heard once, without a rival: use it when the call is over.
    Once(Code),
    /// Heard twice, or read in a text message: use it now.
    Confirmed(Code),
    /// Different codes, none heard more often: take a second opinion or ask for a new code.
    Ambiguous,
}

impl Finding {
    /// The code, however sure.
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Once(code) | Self::Confirmed(code) => Some(code),
            Self::Nothing | Self::Ambiguous => None,
        }
    }
}

/// The code in everything that was heard so far on one call leg, or in the text messages since the code was asked for.
///
/// The order of `heard` does not matter: events are sorted by time, doubled ones count once.
pub fn find(heard: &[Heard]) -> Finding {
    let mut heard: Vec<&Heard> = heard.iter().collect();
    heard.sort_by_key(|one| (one.at, one.source, &one.text));
    heard.dedup();
    let mut evidence = live(&heard);
    let mut recordings: Vec<&str> = texts(&heard, Source::Recording).collect();
    recordings.sort_unstable();
    recordings.dedup();
    evidence.extend(recordings.into_iter().flat_map(|text| listen(&tokens(text, false))));
    // A newer code makes the older ones invalid: the last message that has one is the one that counts.
    let sms = texts(&heard, Source::Sms).map(|text| listen(&tokens(text, false))).filter(|found| !found.is_empty()).last();
    evidence.extend(sms.unwrap_or_default().into_iter().map(|found| Evidence { times: found.times.max(2), ..found }));
    weigh(&evidence)
}

/// The code in the body of one text message.
pub fn find_in_text(text: &str) -> Option<Code> {
    weigh(&listen(&tokens(text, false))).code()
}

fn texts<'a>(heard: &[&'a Heard], source: Source) -> impl Iterator<Item = &'a str> {
    heard.iter().filter(move |one| one.source == source).map(|one| one.text.as_str())
}

/// Six digits heard somewhere, with what speaks for them.
#[derive(Debug, Clone)]
struct Evidence {
    /// More than one where the words can be read in several ways.
    codes: Vec<String>,
    times: usize,
    /// Named a code by a word near it.
    labelled: bool,
    /// Fetched from words that read more easily as something else: alone it confirms nothing.
    forced: bool,
}

/// What the live transcript holds: finals in order, and the interim that no final has replaced yet.
fn live(heard: &[&Heard]) -> Vec<Evidence> {
    let mut kept: Vec<&Heard> = Vec::new();
    for one in heard.iter().filter(|one| one.source == Source::Live) {
        // An interim is overwritten by whatever comes next; where nothing is said of finality, by a text that continues it.
        let overwritten = kept.last().is_some_and(|last| match last.is_final {
            Some(is_final) => !is_final,
            None => one.is_final.is_none() && one.text.trim_start().starts_with(last.text.trim()),
        });
        if overwritten {
            kept.pop();
        }
        kept.push(one);
    }
    let mut all = Vec::new();
    for (place, one) in kept.iter().enumerate() {
        if place > 0 && one.at - kept[place - 1].at > JOIN_GAP {
            all.push(Token::cut());
        }
        all.extend(tokens(&one.text, one.is_final != Some(true)));
    }
    listen(&all)
}

/// Weighs the evidence: the code heard most often wins, those called a code before those that are just six digits.
fn weigh(evidence: &[Evidence]) -> Finding {
    #[derive(Default)]
    struct Weight {
        times: usize,
        sure: bool,
        labelled: bool,
    }
    let mut weights: BTreeMap<&str, Weight> = BTreeMap::new();
    for one in evidence {
        for code in &one.codes {
            let weight = weights.entry(code).or_default();
            weight.times += one.times;
            weight.sure |= !one.forced;
            weight.labelled |= one.labelled;
        }
    }
    let any_labelled = weights.values().any(|weight| weight.labelled);
    let contenders = || weights.iter().filter(|(_, weight)| weight.labelled || !any_labelled || weight.times > 1);
    let most = contenders().map(|(_, weight)| weight.times).max().unwrap_or(0);
    let mut best = contenders().filter(|(_, weight)| weight.times == most);
    match (best.next(), best.next()) {
        (None, _) => Finding::Nothing,
        (Some((code, weight)), None) if weight.labelled || !any_labelled => {
            let code = Code((*code).to_owned());
            if weight.times > 1 && weight.sure { Finding::Confirmed(code) } else { Finding::Once(code) }
        }
        _ => Finding::Ambiguous,
    }
}

/// Everything in these tokens that could be the code.
fn listen(tokens: &[Token]) -> Vec<Evidence> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut end = at;
        while end < tokens.len() && in_run(tokens, end) {
            end += 1;
        }
        if end > at {
            found.extend(hear_run(tokens, at..end));
        }
        at = end + 1;
    }
    found
}

/// Whether this token belongs to a run of numbers. Homophones only do between numbers.
fn in_run(tokens: &[Token], at: usize) -> bool {
    let is_number = |token: &Token| matches!(token.what, What::Digits(_) | What::Number { .. } | What::Hundred { .. });
    match tokens[at].what {
        What::Word(_) => false,
        What::Homophone(_) => {
            let homophone = |token: &&Token| matches!(token.what, What::Homophone(_));
            let before = tokens[..at].iter().rev().find(|token| !homophone(token));
            let after = tokens[at..].iter().find(|token| !homophone(token));
            before.is_some_and(is_number) && after.is_some_and(is_number)
        }
        _ => true,
    }
}

fn hear_run(tokens: &[Token], run: Range<usize>) -> Vec<Evidence> {
    let Some(mut run) = trim(tokens, run) else { return Vec::new() };
    let after = tokens.get(run.end).filter(|token| token.gap < Gap::List);
    match after.map(|token| &token.what) {
        Some(What::Word(Label::Money)) => return Vec::new(),
        Some(What::Word(Label::Unit)) => {
            run.end = before_last_number(tokens, &run);
            match trim(tokens, run) {
                Some(rest) => run = rest,
                None => return Vec::new(),
            }
        }
        _ => {}
    }
    if run.len() > RUN_MAX_TOKENS || tokens[run.clone()].iter().any(|token| token.phone) {
        return Vec::new();
    }
    let words_before = tokens[..run.start].iter().rev().map_while(label_of).take(LABEL_REACH_WORDS);
    let labels: Vec<Label> = words_before.take_while(|label| *label != Label::Cut).collect();
    let code = labels.iter().position(|label| *label == Label::Code);
    let trap = labels.iter().position(|label| *label == Label::Trap);
    let words_after = tokens[run.end..].iter().take_while(|token| token.gap < Gap::Sentence).map_while(label_of);
    let code_after = words_after.take(LABEL_REACH_WORDS).any(|label| label == Label::Code);
    if labels.iter().take(2).any(|label| *label == Label::Never) {
        return Vec::new();
    }
    let labelled = match (code, trap) {
        (Some(code), Some(trap)) => code < trap,
        (Some(_), None) => true,
        (None, Some(_)) => return Vec::new(),
        (None, None) => code_after,
    };

    let mut readings = read(&tokens[run.clone()]);
    if readings.is_empty() && labels.first().is_some_and(|_| labels.iter().take(3).any(|label| *label == Label::Press)) {
        // "press one 471092": the key is not part of the code
        run.start += 1;
        match trim(tokens, run.clone()) {
            Some(rest) => run = rest,
            None => return Vec::new(),
        }
        readings = read(&tokens[run.clone()]);
    }
    let alone = alone(tokens, &run);
    readings
        .into_iter()
        .filter(|reading| labelled || alone || !looks_odd(&tokens[run.clone()][reading.place.clone()]))
        .filter_map(|reading| {
            let interim = tokens[run.clone()][reading.place].iter().any(|token| token.interim);
            let forced = reading.cost > 0 || reading.codes.len() > 1;
            let times = if interim { 1 } else { reading.times };
            (!interim || !forced).then_some(Evidence { codes: reading.codes, times, labelled, forced })
        })
        .collect()
}

/// What a token between numbers says; `None` for a number, where the search for names ends.
fn label_of(token: &Token) -> Option<Label> {
    match token.what {
        What::Word(label) => Some(label),
        What::Homophone(_) | What::And | What::Filler | What::Twice | What::Times | What::Repeat(_) => Some(Label::Plain),
        _ => None,
    }
}

/// Whether the run is all that its utterances say.
fn alone(tokens: &[Token], run: &Range<usize>) -> bool {
    let starts = tokens[run.start].gap == Gap::Utterance;
    let ends = tokens.get(run.end).is_none_or(|next| next.gap == Gap::Utterance);
    starts && ends
}

/// Without connectors at its ends; `None` where nothing is left.
fn trim(tokens: &[Token], run: Range<usize>) -> Option<Range<usize>> {
    let says = |token: &Token| !matches!(token.what, What::And | What::Filler | What::Times);
    let first = tokens[run.clone()].iter().position(says)?;
    let last = tokens[run.clone()].iter().rposition(says)?;
    Some(run.start + first..run.start + last + 1)
}

/// Where the number that a unit counts begins: `10` of `471092, 10 minutes`, `vingt-quatre` of `vingt-quatre heures`.
fn before_last_number(tokens: &[Token], run: &Range<usize>) -> usize {
    let mut start = run.end - 1;
    let part = |at: usize| match tokens[at].what {
        What::Number { value, .. } => value >= 10 || tokens[at + 1].gap == Gap::Hyphen,
        What::Hundred { .. } | What::Thousand { .. } | What::And => true,
        _ => false,
    };
    while start > run.start && !matches!(tokens[start].what, What::Digits(_)) && part(start - 1) && tokens[start].gap < Gap::Point
    {
        start -= 1;
    }
    start
}

/// A date, a time, a price: six digits only if something says so.
fn looks_odd(run: &[Token]) -> bool {
    let digits = |token: &Token| match &token.what {
        What::Digits(digits) => Some((digits.len(), digits.parse::<u32>().unwrap_or(0))),
        _ => None,
    };
    if run.iter().any(|token| token.odd) || run[1..].iter().any(|token| token.gap == Gap::Colon) {
        return true;
    }
    match run {
        // 1234.56, and 20, 2026
        [first, second] => match (digits(first), digits(second)) {
            (Some((_, _)), Some((1 | 2, _))) => second.gap == Gap::Point,
            (Some((2, 1..=31)), Some((4, 1900..2100))) => true,
            _ => false,
        },
        // 20-11-26
        [day, month, year] => {
            let joined = |token: &Token| matches!(token.gap, Gap::Hyphen | Gap::Point);
            let dated = |(day, month)| matches!((day, month), (Some((2, 1..=31)), Some((2, 1..=12))));
            joined(month) && joined(year) && (dated((digits(day), digits(month))) || dated((digits(year), digits(month))))
        }
        _ => false,
    }
}

/// A part of a run that reads as one code, once or several times.
#[derive(Debug)]
struct Reading {
    codes: Vec<String>,
    times: usize,
    cost: u32,
    place: Range<usize>,
}

/// A run is a code, a code repeated, or pieces that are: nothing is ever cut out of the middle of longer digits.
fn read(run: &[Token]) -> Vec<Reading> {
    if let Some(reading) = whole(run, 0..run.len()) {
        return vec![reading];
    }
    pieces_by_pause(run).or_else(|| pieces_by_comma(run)).unwrap_or_default()
}

/// Splits at sentences and events. What is left over must be a stray key or a code that was cut short.
fn pieces_by_pause(run: &[Token]) -> Option<Vec<Reading>> {
    let pieces = split(run, |token, _| token.gap >= Gap::Sentence);
    let (mut readings, mut left): (Vec<Reading>, Vec<(usize, String)>) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < pieces.len() {
        let ends = at + 1..=pieces.len().min(at + SPLIT_MAX);
        let window = ends.filter_map(|end| Some((end, whole(run, pieces[at].start..pieces[end - 1].end)?))).next();
        match window {
            Some((end, reading)) => {
                readings.push(reading);
                at = end;
            }
            None => {
                left.push((readings.len(), numerals::plain_digits(&run[pieces[at].clone()])));
                at += 1;
            }
        }
    }
    let stray = |(place, digits): &(usize, String)| {
        let is = |code: Option<&Reading>, cut: fn(&str, &str) -> bool| {
            code.is_some_and(|code| code.codes.iter().any(|code| cut(code, digits)))
        };
        digits.len() < 2
            || is(readings.get(*place), |code, digits| code.ends_with(digits))
            || is(place.checked_sub(1).and_then(|before| readings.get(before)), |code, digits| code.starts_with(digits))
    };
    (!readings.is_empty() && left.iter().all(stray)).then_some(readings)
}

/// Splits at commas, and between two groups of six digits. Nothing may be left over.
fn pieces_by_comma(run: &[Token]) -> Option<Vec<Reading>> {
    let six = |token: &Token| matches!(&token.what, What::Digits(digits) if digits.len() == 6);
    let pieces = split(run, |token, before| token.gap >= Gap::List || (six(token) && six(before)));
    pieces.into_iter().map(|piece| whole(run, piece)).collect()
}

fn split(run: &[Token], here: impl Fn(&Token, &Token) -> bool) -> Vec<Range<usize>> {
    let cuts = (1..run.len()).filter(|at| here(&run[*at], &run[at - 1]));
    let edges: Vec<usize> = std::iter::once(0).chain(cuts).chain([run.len()]).collect();
    edges.windows(2).filter_map(|edge| trim(run, edge[0]..edge[1])).collect()
}

/// Codes, how far fetched, and how often.
type Codes = BTreeMap<String, (u32, usize)>;

/// This whole part as one code, once or repeated, in the least fetched way.
fn whole(run: &[Token], place: Range<usize>) -> Option<Reading> {
    let part = &run[place.clone()];
    // For each place that a reading reaches: the codes read so far, how fetched, how often.
    let mut reached: BTreeMap<usize, Codes> = BTreeMap::new();
    let step = |from: Option<(usize, &Codes)>| {
        let mut next: Vec<(usize, String, u32, usize)> = Vec::new();
        for (code, end, cost) in numerals::six_digits(part, from.map_or(0, |(at, _)| at)) {
            match from {
                None => next.push((end, code, cost, 1)),
                Some((_, codes)) => {
                    if let Some((so_far, times)) = codes.get(&code) {
                        next.push((end, code, cost.max(*so_far), times + 1));
                    }
                }
            }
        }
        next
    };
    let mut todo = step(None);
    loop {
        for (end, code, cost, times) in todo {
            let best = reached.entry(end).or_default().entry(code).or_insert((cost, times));
            *best = (*best).min((cost, times));
        }
        match reached.pop_first()? {
            (end, codes) if end == part.len() => {
                let cost = codes.values().map(|(cost, _)| *cost).min()?;
                let times = codes.values().filter(|one| one.0 == cost).map(|(_, times)| *times).min()?;
                let codes = codes.into_iter().filter(|(_, one)| one.0 == cost).map(|(code, _)| code).collect();
                return Some(Reading { codes, times, cost, place });
            }
            (end, codes) => todo = step(Some((end, &codes))),
        }
    }
}
