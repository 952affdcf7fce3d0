//! How fast a line may send: its number's rate, its pairs' buckets, and when a failed try may be repeated.
//!
//! Instants are microseconds (of a line) or milliseconds (of a pair) of any one clock that never goes back; a limiter asked about
//! an earlier instant treats it as the latest one it knows. One lane's holder owns these values: nothing here is shared.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// Sends a second of an ordinary number (contracts/meta-cloud-api.md 8, spec.md 2.5).
pub const RATE_STANDARD: u32 = 80;
/// Sends a second of an upgraded number.
pub const RATE_HIGH: u32 = 1_000;

const SECOND_US: i64 = 1_000_000;
/// How long an arrival counts: a second, and what two good clocks may disagree about it.
const WINDOW_US: i64 = SECOND_US + 200;
/// A call without an answer is taken to have arrived this long after it was released.
pub const ARRIVES_WITHIN_US: i64 = SECOND_US;
/// What may be given away, on average, because nobody knows when between its release and its answer a call arrived.
const DOUBT_US: f64 = 4_000.0;
/// Answers after which it is known how quick the provider can be.
const ANSWERS_KNOWN: u32 = 8;
/// The quickest answer is forgotten by this share a second.
const QUICKEST_FADES: f64 = 0.05;
/// An answer's own time is never taken for more than this many times the quickest whole call, and for nothing if that is near.
const THINKS_AT_MOST: f64 = 2.0;
const NEAR_US: f64 = 2_000.0;
/// The even pace is this much above the rate, in percent: what a stall lost is caught up without a bunch.
const PACE_PERCENT: i64 = 105;
/// How late a send may be without delaying the next.
const CATCH_UP_US: i64 = 4_000;
/// A refusal (130429) lowers the rate by this much, in percent.
const SLOW_DOWN_PERCENT: u32 = 20;
/// Refusals this close together are one: they were in flight at once.
const REFUSALS_ARE_ONE_US: i64 = SECOND_US;
/// How long the line rests after the first, second and later refusals in a row.
const REST_US: [i64; 3] = [SECOND_US, 2 * SECOND_US, 4 * SECOND_US];
/// A quiet time after which the rate rises by one step.
const RECOVERY_EVERY_US: i64 = 10 * SECOND_US;
/// One step of recovery is the level divided by this.
const RECOVERY_STEPS: u32 = 20;

/// A send that was let go; its answer is told with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What a lane hands to its next holder: so many sends may count until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counting {
    pub sends: u32,
    pub until_us: i64,
}

/// The rate of one number as the provider counts it: never more arrivals than its level in any second, 99 % of it when always asked.
///
/// A send arrives at some time between its release and its answer. It holds one of `rate` places from its release until a second
/// after its answer: the next in its place arrives more than a second after it, whatever the way and the load did to either.
/// An answer takes its own time, which would be lost at a distant provider. So much of it is left out that the rest of the doubt
/// costs [`DOUBT_US`] on average, and never more than [`THINKS_AT_MOST`] quickest calls: nothing at all while calls are quick.
#[derive(Debug, Clone)]
pub struct LineLimiter {
    level: u32,
    rate: u32,
    /// Release instants of calls without an answer, by ticket; `None` once there is one.
    flying: VecDeque<Option<i64>>,
    first_ticket: u64,
    aloft: usize,
    /// When each other send stops counting.
    counting: BinaryHeap<Reverse<i64>>,
    answers: u32,
    quickest_us: f64,
    /// The part of a call's time that is its answer's own.
    answer_us: f64,
    /// When the next send is due if sends are spread evenly.
    even_us: i64,
    rests_until_us: i64,
    refused_us: Option<i64>,
    refusals: usize,
    recovers_us: i64,
    latest_us: i64,
}

impl LineLimiter {
    /// A limiter for `level` sends a second (at least 1), of which none has been sent.
    pub fn new(level: u32) -> Self {
        let level = level.max(1);
        Self {
            level,
            rate: level,
            flying: VecDeque::new(),
            first_ticket: 0,
            aloft: 0,
            counting: BinaryHeap::new(),
            answers: 0,
            quickest_us: f64::MAX,
            answer_us: 0.0,
            even_us: i64::MIN,
            rests_until_us: i64::MIN,
            refused_us: None,
            refusals: 0,
            recovers_us: i64::MIN,
            latest_us: i64::MIN,
        }
    }

    /// After a hand-over: what somebody else sent may still count, and he may have learned a lower rate.
    pub fn resumed(level: u32, slowed_to: Option<u32>, before: Counting, now_us: i64) -> Self {
        let mut limiter = Self::new(level);
        let now = limiter.at(now_us);
        if before.until_us > now {
            let places = usize::try_from(before.sends).unwrap_or(usize::MAX);
            limiter.counting.extend(std::iter::repeat_n(Reverse(before.until_us), places.min(RATE_HIGH as usize)));
        }
        if let Some(rate) = slowed_to {
            limiter.rate = rate.clamp(1, limiter.level);
            limiter.recovers_us = now + RECOVERY_EVERY_US;
        }
        limiter
    }

    /// What the next holder must know; calls without an answer are taken to arrive late.
    pub fn counting(&self) -> Counting {
        let answered = self.counting.iter().map(|Reverse(until)| *until);
        let aloft = self.flying.iter().flatten().map(|released| released + ARRIVES_WITHIN_US + WINDOW_US);
        let until_us = answered.chain(aloft).max().unwrap_or(i64::MIN);
        Counting { sends: u32::try_from(self.counting.len() + self.aloft).unwrap_or(u32::MAX), until_us }
    }

    /// Sends a second at this moment.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// The learned rate to keep with the lane; none while the number's own level holds.
    pub fn slowed_to(&self) -> Option<u32> {
        (self.rate < self.level).then_some(self.rate)
    }

    /// The number was upgraded or downgraded.
    pub fn set_level(&mut self, level: u32) {
        let level = level.max(1);
        let was_slowed = self.slowed_to();
        self.level = level;
        self.rate = was_slowed.map_or(level, |rate| rate.min(level));
    }

    /// May one message go now? `Ok` counts it as sent; `Err` says when to ask again.
    pub fn take(&mut self, now_us: i64) -> Result<Ticket, i64> {
        let now = self.at(now_us);
        self.recover(now);
        let free_at = self.free_at(now);
        if free_at > now {
            return Err(free_at);
        }
        let pace = SECOND_US * 100 / (i64::from(self.rate) * PACE_PERCENT);
        self.even_us = self.even_us.max(now - CATCH_UP_US) + pace;
        self.flying.push_back(Some(now));
        self.aloft += 1;
        Ok(Ticket(self.first_ticket + self.flying.len() as u64 - 1))
    }

    /// The call has its answer, or has failed.
    pub fn answered(&mut self, ticket: Ticket, now_us: i64) {
        let now = self.at(now_us);
        let Some(released) = self.land(ticket) else { return };
        let took_us = (now - released) as f64;
        let doubt_us = (took_us - self.answer_us).max(0.0);
        #[allow(clippy::cast_possible_truncation, reason = "a call takes minutes at most")]
        self.counting.push(Reverse(released + doubt_us as i64 + WINDOW_US));
        let rate = f64::from(self.rate);
        self.quickest_us = (self.quickest_us * (1.0 + QUICKEST_FADES / rate)).min(took_us);
        self.answers = self.answers.saturating_add(1);
        let learned_us = match self.answers.cmp(&ANSWERS_KNOWN) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => self.quickest_us - DOUBT_US,
            std::cmp::Ordering::Greater => self.answer_us + (doubt_us.min(ARRIVES_WITHIN_US as f64) - DOUBT_US) / (2.0 * rate),
        };
        self.answer_us = learned_us.min((self.quickest_us - NEAR_US) * THINKS_AT_MOST).max(0.0);
    }

    /// The call was not made after all.
    pub fn unsent(&mut self, ticket: Ticket) {
        self.land(ticket);
    }

    /// When the next message may go if nothing is sent before; `now_us` or earlier means at once.
    pub fn next_us(&mut self, now_us: i64) -> i64 {
        let now = self.at(now_us);
        self.recover(now);
        self.free_at(now)
    }

    /// The provider refused for speed (130429): a fifth slower, after a rest. Returns when the rest ends.
    pub fn slow_down(&mut self, now_us: i64) -> i64 {
        let now = self.at(now_us);
        if self.refused_us.is_none_or(|last| now - last >= REFUSALS_ARE_ONE_US) {
            self.rate = (self.rate * (100 - SLOW_DOWN_PERCENT) / 100).max(1);
            let rest_us = REST_US[self.refusals.min(REST_US.len() - 1)];
            self.refusals += 1;
            self.rests_until_us = self.rests_until_us.max(now + rest_us);
            self.refused_us = Some(now);
        }
        self.recovers_us = now + RECOVERY_EVERY_US;
        self.rests_until_us
    }

    fn at(&mut self, now_us: i64) -> i64 {
        self.latest_us = self.latest_us.max(now_us);
        self.latest_us
    }

    fn recover(&mut self, now: i64) {
        while self.rate < self.level && now >= self.recovers_us {
            self.rate = (self.rate + (self.level / RECOVERY_STEPS).max(1)).min(self.level);
            self.recovers_us = self.recovers_us.saturating_add(RECOVERY_EVERY_US);
            self.refusals = 0;
        }
    }

    /// Takes a call out of the air; when it was released, unless it has been taken out before.
    fn land(&mut self, ticket: Ticket) -> Option<i64> {
        let place = usize::try_from(ticket.0.checked_sub(self.first_ticket)?).ok()?;
        let released = self.flying.get_mut(place)?.take()?;
        self.aloft -= 1;
        while let Some(None) = self.flying.front() {
            self.flying.pop_front();
            self.first_ticket += 1;
        }
        Some(released)
    }

    fn free_at(&mut self, now: i64) -> i64 {
        while let Some(Some(released)) = self.flying.front()
            && *released + ARRIVES_WITHIN_US <= now
        {
            let until = *released + ARRIVES_WITHIN_US + WINDOW_US;
            self.land(Ticket(self.first_ticket));
            self.counting.push(Reverse(until));
        }
        while self.counting.peek().is_some_and(|Reverse(until)| *until <= now) {
            self.counting.pop();
        }
        let full = self.counting.len() + self.aloft >= usize::try_from(self.rate).unwrap_or(usize::MAX);
        let place = match (full, self.counting.peek(), self.flying.front()) {
            (false, ..) => i64::MIN,
            (true, Some(Reverse(until)), _) => *until,
            // An answer comes before, or none does.
            (true, None, Some(Some(released))) => released + ARRIVES_WITHIN_US,
            (true, None, _) => now + 1,
        };
        place.max(self.even_us).max(self.rests_until_us)
    }
}

/// Messages a pair (our number, one user) may burst.
pub const PAIR_BURST: i64 = 45;
/// A pair's burst is paid back by one message per this long.
pub const PAIR_REFILL_MS: i64 = 6_000;
/// After a refusal (131056) a pair rests 4^x seconds, x up to this.
const PAIR_REST_POWER_MAX: u32 = 5;

/// One pair's bucket: 45 messages, refilled by one per 6 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairBucket {
    /// When the bucket will be full again; what is missing follows from it.
    full_at_ms: i64,
    rests_until_ms: i64,
    refusals: u32,
}

impl PairBucket {
    pub fn full() -> Self {
        Self { full_at_ms: i64::MIN, rests_until_ms: i64::MIN, refusals: 0 }
    }

    /// What an earlier holder's bucket said of itself with [`PairBucket::full_at_ms`].
    pub fn until(full_at_ms: i64) -> Self {
        Self { full_at_ms, ..Self::full() }
    }

    /// After a hand-over, when nobody knows what was sent: empty, and one message may go at the next refill.
    pub fn empty(now_ms: i64) -> Self {
        Self { full_at_ms: now_ms + PAIR_BURST * PAIR_REFILL_MS, ..Self::full() }
    }

    /// May one message go to this user now? `Ok` counts it; `Err` says when to ask again, in milliseconds.
    pub fn take(&mut self, now_ms: i64) -> Result<(), i64> {
        let free_at = self.next_ms();
        if free_at > now_ms {
            return Err(free_at);
        }
        self.full_at_ms = self.full_at_ms.max(now_ms) + PAIR_REFILL_MS;
        Ok(())
    }

    /// When the next message may go, in milliseconds; any past instant means at once.
    pub fn next_ms(&self) -> i64 {
        self.full_at_ms.saturating_sub((PAIR_BURST - 1) * PAIR_REFILL_MS).max(self.rests_until_ms)
    }

    /// When nothing is owed any more.
    pub fn full_at_ms(&self) -> i64 {
        self.full_at_ms.max(self.rests_until_ms)
    }

    /// Nothing is owed: the bucket need not be kept.
    pub fn is_full(&self, now_ms: i64) -> bool {
        self.full_at_ms <= now_ms && self.rests_until_ms <= now_ms
    }

    /// The provider refused for speed (131056): empty, and 4^x seconds of rest. Returns when it ends, in milliseconds.
    pub fn slow_down(&mut self, now_ms: i64) -> i64 {
        let rest_ms = 1_000 * 4_i64.pow(self.refusals.min(PAIR_REST_POWER_MAX));
        self.refusals += 1;
        *self = Self { full_at_ms: now_ms + PAIR_BURST * PAIR_REFILL_MS, rests_until_ms: now_ms + rest_ms, ..*self };
        self.next_ms()
    }

    /// A call was answered: it arrived by now, and perhaps only now. A bucket that was full at its release begins to refill then.
    /// Holds as long as a pair has one call under way at a time.
    pub fn answered(&mut self, now_ms: i64) {
        self.full_at_ms = self.full_at_ms.max(now_ms + PAIR_REFILL_MS);
    }

    /// The provider took a message: refusals in a row are over.
    pub fn accepted(&mut self) {
        self.refusals = 0;
    }
}

/// Delays before the repeated tries of a retryable failure, in seconds (spec.md 2.5).
pub const RETRY_DELAYS_S: [i64; 5] = [1, 4, 16, 60, 60];
/// A delay is up to this share longer, so that failures together are not tried together, in percent.
const JITTER_PERCENT: f64 = 20.0;

/// How long to wait after the `failed`th failed try (from 1), in milliseconds; none when it was the last.
/// `jitter` is 0.0..1.0 and comes from the caller.
pub fn retry_delay_ms(failed: u32, jitter: f64) -> Option<i64> {
    let delay_s = *RETRY_DELAYS_S.get(usize::try_from(failed.checked_sub(1)?).ok()?)?;
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    #[allow(clippy::cast_possible_truncation, reason = "between 0 and 12 000")]
    let longer_ms = (delay_s as f64 * 10.0 * JITTER_PERCENT * jitter) as i64;
    Some(delay_s * 1_000 + longer_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The most arrivals in any half-open second.
    fn busiest_second(arrived_us: &[i64]) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (index, at) in arrived_us.iter().enumerate() {
            while at - arrived_us[first] >= SECOND_US {
                first += 1;
            }
            most = most.max(index - first + 1);
        }
        most
    }

    /// A lane that always has more, looks every millisecond, and whose n-th call arrives and is answered after `way(n)`.
    fn greedy(level: u32, length_ms: i64, mut way: impl FnMut(usize) -> (i64, i64)) -> Vec<i64> {
        let mut limiter = LineLimiter::new(level);
        let (mut arrived, mut answers) = (Vec::new(), BinaryHeap::<Reverse<(i64, u64)>>::new());
        for now in (0..length_ms * 1_000).step_by(1_000) {
            while let Some(Reverse((at, ticket))) = answers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
                answers.pop();
                limiter.answered(Ticket(ticket), at.max(limiter.latest_us));
            }
            while let Ok(ticket) = limiter.take(now) {
                let (arrives, answered) = way(arrived.len());
                arrived.push(now + arrives);
                answers.push(Reverse((now + answered, ticket.0)));
            }
        }
        arrived.sort_unstable();
        arrived
    }

    #[test]
    fn a_minute_at_the_limit_is_99_percent_of_it_and_never_above() {
        for level in [RATE_STANDARD, RATE_HIGH] {
            let sent = greedy(level, 60_000, |n| (n as i64 % 7 * 300, 2_000));
            assert!(busiest_second(&sent) <= level as usize, "{}", busiest_second(&sent));
            assert!(sent.len() * 100 >= level as usize * 60 * 99, "{} of {}", sent.len(), level * 60);
        }
    }

    #[test]
    fn a_distant_provider_gets_99_percent_of_the_rate() {
        // 20 ms there, and 100 to 219 ms until it has answered.
        let sent = greedy(80, 120_000, |n| (20_000, 120_000 + n as i64 * 37 % 120 * 1_000));
        let late = sent.iter().filter(|at| **at >= 60_000_000).count();
        assert!(late * 100 >= 80 * 60 * 99, "{late} in the second minute");
        assert!(busiest_second(&sent) <= 80, "{}", busiest_second(&sent));
    }

    #[test]
    fn a_stall_is_caught_up_without_a_bunch() {
        let mut limiter = LineLimiter::new(1_000);
        let took = |limiter: &mut LineLimiter, now| std::iter::from_fn(|| limiter.take(now).ok()).count();
        for now in (0..500_000).step_by(1_000) {
            took(&mut limiter, now);
        }
        let after = took(&mut limiter, 600_000);
        assert!(after <= 6, "{after} at once");
    }

    #[test]
    fn calls_without_an_answer_hold_their_places_for_two_seconds_and_no_longer() {
        let mut limiter = LineLimiter::new(2);
        assert!(limiter.take(0).is_ok());
        let second = limiter.next_us(0);
        assert!(limiter.take(second).is_ok());
        assert_eq!(limiter.take(700_000), Err(ARRIVES_WITHIN_US), "an answer may come before");
        assert_eq!(limiter.take(ARRIVES_WITHIN_US), Err(ARRIVES_WITHIN_US + WINDOW_US));
        assert!(limiter.take(ARRIVES_WITHIN_US + WINDOW_US).is_ok());
    }

    #[test]
    fn a_call_that_was_not_made_gives_its_place_back() {
        let mut limiter = LineLimiter::new(1);
        let ticket = limiter.take(0).unwrap();
        limiter.unsent(ticket);
        let again = limiter.next_us(0);
        assert!(again <= SECOND_US && limiter.take(again).is_ok(), "{again}");
    }

    #[test]
    fn refusals_in_flight_count_once_and_the_rate_comes_back() {
        let mut limiter = LineLimiter::new(80);
        assert_eq!(limiter.slow_down(0), 1_000_000);
        assert_eq!(limiter.slow_down(100_000), 1_000_000);
        assert_eq!((limiter.rate(), limiter.slowed_to()), (64, Some(64)));
        assert_eq!(limiter.take(999_000), Err(1_000_000));
        assert!(limiter.take(1_000_000).is_ok());
        assert_eq!(limiter.slow_down(1_500_000), 3_500_000, "the second rest is longer");
        assert_eq!(limiter.rate(), 51);
        limiter.next_us(11_500_000);
        assert_eq!(limiter.rate(), 55);
        limiter.next_us(1_000_000_000);
        assert_eq!(limiter.slowed_to(), None);
        limiter.set_level(1_000);
        assert_eq!(limiter.rate(), 1_000);
    }

    #[test]
    fn a_resumed_lane_waits_out_what_another_may_have_sent() {
        let before = Counting { sends: 80, until_us: 6_000_000 };
        let mut limiter = LineLimiter::resumed(80, Some(40), before, 5_000_000);
        assert_eq!(limiter.take(5_000_000), Err(6_000_000));
        assert_eq!(limiter.take(5_999_999), Err(6_000_000));
        assert!(limiter.take(6_000_000).is_ok());
        assert_eq!(limiter.rate(), 40);
    }

    #[test]
    fn a_resumed_lane_uses_at_once_what_its_last_holder_left() {
        let mut before = LineLimiter::new(3);
        let ticket = before.take(0).unwrap();
        before.answered(ticket, 1_000);
        let mut limiter = LineLimiter::resumed(3, None, before.counting(), 2_000);
        let mut sent = Vec::new();
        for now in (2_000..900_000).step_by(1_000) {
            sent.extend(limiter.take(now).map(|_| now));
        }
        assert_eq!((sent.len(), sent[0]), (2, 2_000), "one of three places is taken: {sent:?}");
    }

    #[test]
    fn a_pair_bursts_45_and_then_gets_one_per_6_s() {
        let mut pair = PairBucket::full();
        for _ in 0..45 {
            assert_eq!(pair.take(1_000), Ok(()));
        }
        assert_eq!(pair.take(1_000), Err(7_000));
        assert_eq!(pair.take(7_000), Ok(()));
        assert_eq!(pair.take(12_999), Err(13_000));
        assert!(!pair.is_full(13_000) && pair.is_full(1_000 + 46 * 6_000));
        assert_eq!(PairBucket::empty(0).take(0), Err(6_000));
    }

    #[test]
    fn a_refused_pair_rests_longer_each_time() {
        let mut pair = PairBucket::full();
        assert_eq!(pair.slow_down(0), 6_000, "the empty bucket outlasts 1 s");
        assert_eq!(pair.slow_down(6_000), 12_000);
        assert_eq!(pair.slow_down(12_000), 28_000);
        pair.accepted();
        assert_eq!(pair.slow_down(28_000), 34_000);
    }

    #[test]
    fn retries_are_five() {
        let delays: Vec<_> = (0..8).map(|failed| retry_delay_ms(failed, 0.0)).collect();
        let expected = [None, Some(1_000), Some(4_000), Some(16_000), Some(60_000), Some(60_000), None, None];
        assert_eq!(delays, expected);
        assert_eq!(retry_delay_ms(1, 1.0), Some(1_200));
        assert_eq!(retry_delay_ms(1, f64::NAN), Some(1_000));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Ask(usize),
        Refuse,
        Level(u32),
    }

    fn event() -> impl Strategy<Value = (i64, Event)> {
        let event = prop_oneof![
            20 => (1usize..200).prop_map(Event::Ask),
            1 => Just(Event::Refuse),
            1 => (1u32..300).prop_map(Event::Level),
        ];
        (0i64..400_000, event)
    }

    /// How long a call takes, and which share of it passes before it arrives: mostly quick, at times stalled.
    fn way() -> impl Strategy<Value = (i64, f64)> {
        (prop_oneof![8 => 0i64..2_000, 2 => 0i64..60_000, 1 => 0i64..ARRIVES_WITHIN_US], 0.0f64..=1.0)
    }

    proptest! {
        #[test]
        fn a_pair_is_never_refused_however_long_its_calls_are_on_their_way(
            calls in prop::collection::vec((0i64..9_000, 0i64..30_000, 0.0f64..=1.0), 1..200)
        ) {
            let (mut ours, mut theirs, mut now) = (PairBucket::full(), PairBucket::full(), 0);
            for (pause, took, share) in calls {
                // Now and then, or a burst would never end.
                now += if pause < 8_000 { 0 } else { pause * 10 };
                if let Err(at) = ours.take(now) {
                    now = at;
                    prop_assert_eq!(ours.take(now), Ok(()));
                }
                let took = if took < 25_000 { took / 1_000 } else { took };
                let arrived = now + (took as f64 * share) as i64;
                prop_assert_eq!(theirs.take(arrived), Ok(()), "arrived at {}", arrived);
                now += took;
                ours.answered(now);
            }
        }

        #[test]
        fn no_second_sees_more_than_the_highest_level_in_it(
            events in prop::collection::vec(event(), 1..300), ways in prop::collection::vec(way(), 1..100)
        ) {
            let mut limiter = LineLimiter::new(80);
            let (mut now, mut arrived, mut levels) = (0, Vec::new(), vec![(0, 80u32)]);
            let (mut ways, mut answers) = (ways.iter().cycle(), BinaryHeap::<Reverse<(i64, u64)>>::new());
            for (pause, event) in events {
                now += pause;
                while let Some(Reverse((at, ticket))) = answers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
                    answers.pop();
                    limiter.answered(Ticket(ticket), at);
                }
                match event {
                    Event::Ask(wanted) => for _ in 0..wanted {
                        let Ok(ticket) = limiter.take(now) else { break };
                        let (took, share) = ways.next().copied().unwrap_or_default();
                        arrived.push(now + (took as f64 * share) as i64);
                        answers.push(Reverse((now + took, ticket.0)));
                    }
                    Event::Refuse => { limiter.slow_down(now); }
                    Event::Level(level) => { limiter.set_level(level); levels.push((now, level)); }
                }
            }
            arrived.sort_unstable();
            for (place, at) in arrived.iter().enumerate() {
                let within = arrived[..=place].iter().rev().take_while(|before| at - **before < SECOND_US).count();
                // The levels in force when one of these was released: at most its way earlier.
                let since = at - SECOND_US - ARRIVES_WITHIN_US;
                let started = levels.iter().rposition(|(set, _)| *set <= since).unwrap_or(0);
                let highest = levels[started..].iter().filter(|(set, _)| set <= at).map(|(_, level)| *level).max().unwrap_or(80);
                prop_assert!(within <= highest as usize, "{} above {}", within, highest);
            }
        }

        #[test]
        fn whoever_waits_as_told_is_served(level in 1u32..2_000, start in 0i64..1_000_000_000, took in 0i64..2_000) {
            let mut limiter = LineLimiter::new(level);
            let (mut now, mut served, mut aloft) = (start, 0u32, VecDeque::new());
            while served < level.min(300) * 3 {
                while let Some((at, ticket)) = aloft.pop_front_if(|(at, _)| *at <= now) {
                    limiter.answered(ticket, at);
                }
                match limiter.take(now) {
                    Ok(ticket) => { served += 1; aloft.push_back((now + took, ticket)); }
                    Err(next) => {
                        prop_assert!(next > now);
                        now = aloft.front().map_or(next, |(at, _)| next.min(*at));
                    }
                }
            }
            // Work-conserving: no slower than 99 % of the level, one spacing and two milliseconds apart.
            let ideal_us = i64::from(served) * SECOND_US / i64::from(level);
            prop_assert!((now - start) * 99 <= ideal_us * 100 + 200_000, "{} for {}", now - start, ideal_us);
        }

        #[test]
        fn a_pair_never_passes_its_bucket(pauses in prop::collection::vec(0i64..20_000, 1..300)) {
            let (mut pair, mut now, mut sent) = (PairBucket::full(), 0, Vec::new());
            for pause in pauses {
                now += pause;
                if pair.take(now).is_ok() {
                    sent.push(now);
                }
            }
            for (first, from) in sent.iter().enumerate() {
                for (last, to) in sent.iter().enumerate().skip(first) {
                    prop_assert!((last - first + 1) as i64 <= PAIR_BURST + (to - from) / PAIR_REFILL_MS);
                }
            }
        }
    }
}
