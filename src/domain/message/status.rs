//! Where an outbound message stands: statuses that merge in any order, and the window that must be open.
//!
//! contracts/meta-cloud-api.md 7.6 and 10.5.

use super::Type;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where an outbound message stands, in rising order: news merges upwards only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Queued,
    Sending,
    /// The answer was lost; a webhook may still settle it.
    Unknown,
    /// Nothing settled it: a person decides. A late webhook still does.
    Parked,
    Accepted,
    /// Held for quality assessment; never sent again by us.
    Held,
    Sent,
    /// Below `delivered`: one that was delivered was not lost, whatever came in between.
    Failed,
    Delivered,
    Read,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Unknown => "unknown",
            Self::Parked => "parked",
            Self::Accepted => "accepted",
            Self::Held => "held",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }

    /// Back from the column.
    pub fn read(name: &str) -> Option<Self> {
        use Status::*;
        [Queued, Sending, Unknown, Parked, Accepted, Held, Sent, Failed, Delivered, Read].into_iter().find(|s| s.name() == name)
    }

    /// A webhook's `status` or an answer's `message_status`; `played` is a kind of read. None if unknown.
    pub fn of_meta(name: &str) -> Option<Self> {
        Some(match name {
            "accepted" => Self::Accepted,
            "held_for_quality_assessment" => Self::Held,
            "sent" => Self::Sent,
            "delivered" => Self::Delivered,
            "read" | "played" => Self::Read,
            "failed" => Self::Failed,
            _ => return None,
        })
    }

    /// Nothing more is expected; `delivered` may still become `read`.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Delivered | Self::Read)
    }

    /// The message reached its reader: what is billed.
    pub fn is_billed(self) -> bool {
        matches!(self, Self::Delivered | Self::Read)
    }

    /// The two together: the higher.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        self.max(other)
    }
}

/// All distinct news about one message. Merging is associative, commutative and idempotent, so every order of arrival,
/// with any repeats, ends the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History(BTreeMap<Status, i64>);

impl History {
    /// Adds a status with the provider's own time (Unix ms). Of one status the earliest time counts. Says whether it was news.
    pub fn note(&mut self, status: Status, at_ms: i64) -> bool {
        match self.0.get_mut(&status) {
            Some(first) if *first <= at_ms => false,
            Some(first) => {
                *first = at_ms;
                true
            }
            None => {
                self.0.insert(status, at_ms);
                true
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (status, at_ms) in &other.0 {
            self.note(*status, *at_ms);
        }
    }

    pub fn status(&self) -> Option<Status> {
        self.0.last_key_value().map(|(status, _)| *status)
    }

    /// When it was first known to have reached its reader: the instant that decides period and price.
    pub fn billed_at_ms(&self) -> Option<i64> {
        self.0.iter().filter(|(status, _)| status.is_billed()).map(|(_, at)| *at).min()
    }

    /// In rising order of status.
    pub fn entries(&self) -> impl Iterator<Item = (Status, i64)> {
        self.0.iter().map(|(status, at)| (*status, *at))
    }
}

/// The customer service window lasts this long after a user's message.
pub const WINDOW_MS: i64 = 24 * 3_600_000;
/// We close it this much early: clocks differ.
pub const WINDOW_MARGIN_MS: i64 = 5 * 60_000;
/// A free entry point lasts this long after our reply, if that came within `WINDOW_MS` of the user's message.
pub const FREE_ENTRY_POINT_MS: i64 = 72 * 3_600_000;

/// When the window that an inbound message opens ends, in Unix ms, the margin taken off.
pub fn window_until_ms(inbound_ms: i64) -> i64 {
    inbound_ms.saturating_add(WINDOW_MS - WINDOW_MARGIN_MS)
}

/// Does an inbound message of this type open the window? Where Meta does not say, no: a refusal costs more than a wait.
pub fn opens_window(inbound_type: &str) -> bool {
    !matches!(inbound_type, "system" | "edit" | "revoke" | "reaction")
}

/// May a message of this type go at `now_ms`? `window_until_ms` is that of the newest inbound message.
pub fn may_send(kind: Type, window_until_ms: Option<i64>, now_ms: i64) -> bool {
    !kind.needs_open_window() || window_until_ms.is_some_and(|until| now_ms < until)
}

/// End of the free entry point, in Unix ms, if our first reply came in time.
pub fn free_entry_point_until_ms(entered_ms: i64, replied_ms: i64) -> Option<i64> {
    let in_time = (entered_ms..entered_ms.saturating_add(WINDOW_MS)).contains(&replied_ms);
    in_time.then(|| replied_ms.saturating_add(FREE_ENTRY_POINT_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_window_closes_early_and_holds_everything_but_templates() {
        let until = window_until_ms(1_000);
        assert_eq!(until, 1_000 + 24 * 3_600_000 - 300_000);
        assert!(may_send(Type::Text, Some(until), until - 1));
        assert!(!may_send(Type::Text, Some(until), until));
        assert!(!may_send(Type::Reaction, None, 0));
        assert!(may_send(Type::Template, None, 0) && may_send(Type::Read, None, 0));
        assert!(opens_window("button") && !opens_window("system"));
        assert_eq!(free_entry_point_until_ms(0, WINDOW_MS), None);
        assert_eq!(free_entry_point_until_ms(0, 5), Some(5 + FREE_ENTRY_POINT_MS));
    }

    fn news() -> impl Strategy<Value = Vec<(Status, i64)>> {
        let status = prop::sample::select(vec![
            Status::Accepted,
            Status::Held,
            Status::Sent,
            Status::Failed,
            Status::Delivered,
            Status::Read,
        ]);
        prop::collection::vec((status, 0i64..5), 0..12)
    }

    fn history(news: &[(Status, i64)]) -> History {
        let mut history = History::default();
        for (status, at) in news {
            history.note(*status, *at);
        }
        history
    }

    proptest! {
        #[test]
        fn every_order_with_repeats_ends_the_same((first, shuffled) in news().prop_flat_map(|news| {
            let doubled: Vec<_> = news.iter().chain(&news).copied().collect();
            (Just(news), Just(doubled).prop_shuffle())
        })) {
            prop_assert_eq!(history(&first), history(&shuffled));
            let highest = first.iter().map(|(status, _)| *status).reduce(Status::merge);
            prop_assert_eq!(history(&shuffled).status(), highest);
        }

        #[test]
        fn merging_is_a_monoid(a in news(), b in news(), c in news()) {
            let (a, b, c) = (history(&a), history(&b), history(&c));
            let merged = |x: &History, y: &History| { let mut x = x.clone(); x.merge(y); x };
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert_eq!(merged(&a, &History::default()), a);
        }
    }
}
