//! Every call that was served, with its outcome.

use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// Entries kept; older ones only count.
const KEPT: usize = 50_000;

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub seq: u64,
    pub at: DateTime<Utc>,
    /// Operation name, see [`crate::operations`].
    pub operation: &'static str,
    /// What the call was about: ids, numbers, references. Never codes, PINs or bodies.
    pub about: Vec<String>,
    /// HTTP status of the answer; none if the connection was cut.
    pub status: Option<u16>,
    /// Whether the call took effect; true from that moment on, though no answer may have left yet.
    pub acted: bool,
    /// `open`, `ok`, `refused 85001`, `lose_answer` ...
    pub outcome: String,
}

/// The newest calls and a count of all.
#[derive(Default)]
pub(crate) struct Journal {
    entries: VecDeque<Entry>,
    next: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Journal {
    pub(crate) fn open(&mut self, at: DateTime<Utc>, operation: &'static str, about: Vec<String>) -> u64 {
        let seq = self.next;
        self.next += 1;
        *self.counts.entry(operation).or_default() += 1;
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { seq, at, operation, about, status: None, acted: false, outcome: "open".into() });
        seq
    }

    /// It has taken effect.
    pub(crate) fn acted(&mut self, seq: u64) {
        if let Some(entry) = self.entry(seq) {
            entry.acted = true;
        }
    }

    pub(crate) fn close(&mut self, seq: u64, status: Option<u16>, acted: bool, outcome: String) {
        if let Some(entry) = self.entry(seq) {
            (entry.status, entry.acted, entry.outcome) = (status, acted, outcome);
        }
    }

    /// An entry that is still kept.
    fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let first = self.entries.front().map_or(0, |entry| entry.seq);
        let at = seq.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.entries.get_mut(at))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Calls per operation since the start.
    pub(crate) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }
}
