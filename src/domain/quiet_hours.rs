//! Quiet hours: when a person may be written to, by the clock where that person is.

use crate::{Country, Phone, billing::local, identity::Bsuid};
use chrono::{DateTime, Duration, NaiveTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// Calling codes of several countries or several clocks: a number with one does not tell the time.
const AMBIGUOUS: [&str; 3] = ["1", "7", "61"];

/// Nobody is written to from `from` until `until`, local time; `21:00` until `08:00` goes over midnight. Equal: never quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    pub from: NaiveTime,
    pub until: NaiveTime,
}

impl QuietHours {
    /// Is it quiet at this local time?
    pub fn covers(self, time: NaiveTime) -> bool {
        if self.from <= self.until { self.from <= time && time < self.until } else { self.from <= time || time < self.until }
    }

    /// `at` itself if it is not quiet then in `zone`; else the end of the quiet hours.
    pub fn next_allowed(self, at: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        let here = at.with_timezone(&zone).naive_local();
        if !self.covers(here.time()) {
            return at;
        }
        let days = if here.time() < self.until { 0 } else { 1 };
        let end = local(zone, (here.date() + Duration::days(days)).and_time(self.until));
        // A clock that is put back says the end twice, or may come to it before `at`: then it is over now.
        end.max(at)
    }
}

/// Where a recipient's clock stands: by the phone, else by the BSUID's country, else `fallback` (the tenant's own zone).
/// Codes that several countries or clocks share, such as +1, tell nothing.
pub fn zone_of(phone: Option<&Phone>, bsuid: Option<&Bsuid>, fallback: Tz) -> Tz {
    let by_phone = phone.and_then(Phone::country);
    let by_bsuid = bsuid.and_then(|id| Country::parse(id.country()).ok());
    let known = by_phone.or(by_bsuid).filter(|country| !AMBIGUOUS.contains(&country.calling_code()));
    known.map_or(fallback, Country::time_zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::{Africa, Europe, TZ_VARIANTS};
    use proptest::prelude::*;

    fn hours(from: &str, until: &str) -> QuietHours {
        QuietHours { from: from.parse().unwrap(), until: until.parse().unwrap() }
    }
    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_phone_tells_the_clock_and_an_ambiguous_code_does_not() {
        let fallback = Africa::Casablanca;
        for (phone, zone) in [
            ("+33600000101", Europe::Paris),
            ("+34600000101", Europe::Madrid),
            ("+32470000101", Europe::Brussels),
            ("+21620000101", Africa::Tunis),
            ("+213500000101", Africa::Algiers),
            ("+221700000101", Africa::Dakar),
            ("+2250700000101", Africa::Abidjan),
            ("+212600000101", Africa::Casablanca),
            ("+12025550101", fallback),
            ("+819000000101", fallback),
        ] {
            assert_eq!(zone_of(Some(&phone.parse().unwrap()), None, fallback), zone, "{phone}");
        }
        let hidden: Bsuid = "FR.9".parse().unwrap();
        assert_eq!(zone_of(None, Some(&hidden), fallback), Europe::Paris);
        assert_eq!(zone_of(None, Some(&"US.9".parse().unwrap()), fallback), fallback);
        assert_eq!(zone_of(None, None, fallback), fallback);
    }

    #[test]
    fn quiet_hours_go_over_midnight_by_the_local_clock() {
        let quiet = hours("21:00:00", "08:00:00");
        let next = |text: &str| quiet.next_allowed(at(text), Africa::Casablanca);
        assert_eq!(next("2026-10-10T19:59:59Z"), at("2026-10-10T19:59:59Z"));
        assert_eq!(next("2026-10-10T20:00:00Z"), at("2026-10-11T07:00:00Z"));
        assert_eq!(next("2026-10-11T03:00:00Z"), at("2026-10-11T07:00:00Z"));
        assert_eq!(next("2026-10-11T07:00:00Z"), at("2026-10-11T07:00:00Z"));
        assert_eq!(hours("08:00:00", "08:00:00").next_allowed(at("2026-10-11T07:00:00Z"), Tz::UTC), at("2026-10-11T07:00:00Z"));
        assert_eq!(hours("12:00:00", "14:00:00").next_allowed(at("2026-10-11T13:00:00Z"), Tz::UTC), at("2026-10-11T14:00:00Z"));
    }

    #[test]
    fn the_night_of_a_clock_change_ends_at_the_hour_that_people_see() {
        let quiet = hours("21:00:00", "08:00:00");
        assert_eq!(quiet.next_allowed(at("2026-03-28T22:00:00Z"), Europe::Paris), at("2026-03-29T06:00:00Z"));
        assert_eq!(quiet.next_allowed(at("2026-10-24T22:00:00Z"), Europe::Paris), at("2026-10-25T07:00:00Z"));
    }

    proptest! {
        #[test]
        fn what_is_allowed_is_not_quiet_not_early_and_within_a_day(
            seconds in 1_577_836_800i64..1_893_456_000,
            (from, until) in (0u32..1_440, 0u32..1_440),
            zone in prop::sample::select(TZ_VARIANTS.to_vec()),
        ) {
            let time = |minutes: u32| NaiveTime::from_hms_opt(minutes / 60, minutes % 60, 0).unwrap();
            let quiet = QuietHours { from: time(from), until: time(until) };
            let now = DateTime::from_timestamp(seconds, 0).unwrap();
            let next = quiet.next_allowed(now, zone);
            prop_assert!(next >= now);
            // A day, and what a clock may be moved.
            prop_assert!(next - now <= Duration::hours(50));
            // Only where the clock is put back over the end may the first instant after it read as quiet.
            prop_assert!(next == now || !quiet.covers(next.with_timezone(&zone).time()));
            if !quiet.covers(now.with_timezone(&zone).time()) {
                prop_assert_eq!(next, now);
            }
        }
    }
}
