//! Who a contact is: phones, BSUIDs and their parents, and how one person's aliases come together and apart.
//!
//! contracts/meta-cloud-api.md 11. A phone is known with `+`; a BSUID is an exact string and is never read as digits.

use crate::{ContactId, Invalid, Phone};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{fmt, str::FromStr};

/// Alphanumerics after a BSUID's country.
const BSUID_LENGTH_MAX: usize = 128;

/// A business-scoped user id: `MA.48201937465520193`, or a parent's `MA.ENT.90417726655`. Exact, case kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Bsuid(String);

impl Bsuid {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The user's country, ISO 3166 alpha-2.
    pub fn country(&self) -> &str {
        &self.0[..2]
    }

    pub fn is_parent(&self) -> bool {
        self.0[2..].starts_with(".ENT.")
    }
}

impl FromStr for Bsuid {
    type Err = Invalid;
    /// Anything else than Meta's exact form is `bsuid_invalid`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (country, id) = text.split_once('.').ok_or_else(invalid)?;
        let id = id.strip_prefix("ENT.").unwrap_or(id);
        let sound = country.len() == 2
            && country.bytes().all(|b| b.is_ascii_uppercase())
            && (1..=BSUID_LENGTH_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if sound { Ok(Self(text.to_owned())) } else { Err(invalid()) }
    }
}

impl fmt::Display for Bsuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bsuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

fn invalid() -> Invalid {
    Invalid::new("recipient", "bsuid_invalid", "a BSUID is a country, a point and alphanumerics: MA.48201937465520193")
}

/// One name by which a contact is known; `kind` and `value` are the columns of `contact_alias`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    Phone(Phone),
    Bsuid(Bsuid),
    ParentBsuid(Bsuid),
}

impl Identity {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Phone(_) => "phone",
            Self::Bsuid(_) => "bsuid",
            Self::ParentBsuid(_) => "parent_bsuid",
        }
    }

    pub fn value(&self) -> &str {
        match self {
            Self::Phone(phone) => phone.as_str(),
            Self::Bsuid(id) | Self::ParentBsuid(id) => id.as_str(),
        }
    }

    /// Back from the columns.
    pub fn read(kind: &str, value: &str) -> Result<Self, Invalid> {
        match kind {
            "phone" => value.parse().map(Self::Phone),
            "bsuid" => value.parse().map(Self::Bsuid),
            "parent_bsuid" => value.parse().map(Self::ParentBsuid),
            _ => Err(invalid()),
        }
    }

    fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// An alias that is valid today. An identity has at most one live alias within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    pub identity: Identity,
    pub contact: ContactId,
}

/// What a webhook or a send says about one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// A message, status or send names these, all of one person; any may be missing.
    Seen { phone: Option<Phone>, bsuid: Option<Bsuid>, parent: Option<Bsuid> },
    /// `user_id_update`, or a system message `user_changed_user_id`: the same person has a new BSUID.
    NewBsuid { previous: Bsuid, current: Bsuid },
    /// A system message `user_changed_number`: the same person has a new phone, and with it perhaps a new BSUID.
    NewPhone { previous: Phone, current: Phone, bsuid: Option<Bsuid> },
}

impl Sighting {
    /// All identities named: load their live aliases, and all live aliases of the contacts found, before `resolve`.
    pub fn identities(&self) -> Vec<Identity> {
        let phone = |p: &Phone| Identity::Phone(p.clone());
        let bsuid = |b: &Bsuid| Identity::Bsuid(b.clone());
        match self {
            Self::Seen { phone: p, bsuid: b, parent } => {
                let parent = parent.iter().map(|p| Identity::ParentBsuid(p.clone()));
                b.iter().map(bsuid).chain(p.iter().map(phone)).chain(parent).collect()
            }
            Self::NewBsuid { previous, current } => vec![bsuid(previous), bsuid(current)],
            Self::NewPhone { previous, current, bsuid: b } => {
                [phone(previous), phone(current)].into_iter().chain(b.iter().map(bsuid)).collect()
            }
        }
    }
}

/// Whom a sighting is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Person {
    Known(ContactId),
    /// Nobody yet: the caller makes a contact. `Change::Attach` then means the new one.
    New,
}

/// A change of the alias table, to be applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Ends a live alias (`valid_to`): the identity is no longer this contact's.
    Close(Alias),
    /// Begins an alias of the resolved person.
    Attach(Identity),
    /// Everything of this contact (aliases, conversations, messages) becomes the resolved person's.
    MergeIn(ContactId),
}

/// A sighting judged against the live aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub person: Person,
    pub changes: Vec<Change>,
}

/// Who is it, and what changes? `live` holds the live aliases of every contact that `Sighting::identities` finds.
///
/// The BSUID is the stronger name: Meta gives it to one user of the portfolio, while a phone may be recycled. So two
/// contacts become one only on Meta's word (`NewBsuid`, `NewPhone`), or when a phone-only contact turns out to be the
/// user of a BSUID; a phone that appears with another BSUID than its contact's has changed hands, and moves alone.
pub fn resolve(live: &[Alias], sighting: &Sighting) -> Resolution {
    let mut book = Book { live: live.to_vec(), person: None, changes: Vec::new() };
    match sighting {
        Sighting::Seen { phone, bsuid, parent } => book.seen(phone.as_ref(), bsuid.as_ref(), parent.as_ref()),
        Sighting::NewBsuid { previous, current } => {
            let (previous, current) = (Identity::Bsuid(previous.clone()), Identity::Bsuid(current.clone()));
            book.person = book.owner(&previous).or_else(|| book.owner(&current));
            book.succeed(&previous, current);
        }
        Sighting::NewPhone { previous, current, bsuid } => {
            let (previous, current) = (Identity::Phone(previous.clone()), Identity::Phone(current.clone()));
            let bsuid = bsuid.clone().map(Identity::Bsuid);
            // Should the previous phone have passed on already, the new BSUID knows better.
            let by_bsuid = bsuid.as_ref().and_then(|b| book.owner(b));
            book.person = book.owner(&previous).or(by_bsuid).or_else(|| book.owner(&current));
            if let Some(bsuid) = bsuid {
                book.unite(&bsuid);
                book.replace(bsuid);
            }
            if book.owner(&current).is_some_and(|owner| Some(owner) != book.person) {
                book.take_over(&current);
            }
            book.replace(current);
        }
    }
    Resolution { person: book.person.map_or(Person::New, Person::Known), changes: book.changes }
}

/// The live aliases as they will be, and the changes that lead there.
struct Book {
    live: Vec<Alias>,
    person: Option<ContactId>,
    changes: Vec<Change>,
}

impl Book {
    fn owner(&self, identity: &Identity) -> Option<ContactId> {
        self.live.iter().find(|alias| alias.identity == *identity).map(|alias| alias.contact)
    }

    fn has_bsuid(&self, contact: ContactId) -> bool {
        self.live.iter().any(|alias| alias.contact == contact && matches!(alias.identity, Identity::Bsuid(_)))
    }

    fn seen(&mut self, phone: Option<&Phone>, bsuid: Option<&Bsuid>, parent: Option<&Bsuid>) {
        let phone = phone.cloned().map(Identity::Phone);
        let bsuid = bsuid.cloned().map(Identity::Bsuid);
        let by_bsuid = bsuid.as_ref().and_then(|b| self.owner(b));
        let by_phone = phone.as_ref().and_then(|p| self.owner(p));
        self.person = match (by_bsuid, by_phone) {
            (Some(contact), _) => Some(contact),
            // An unknown BSUID with the phone of somebody who has another BSUID: the phone changed hands.
            (None, Some(contact)) if bsuid.is_some() && self.has_bsuid(contact) => None,
            (None, by_phone) => by_phone,
        };
        if let (Some(phone), Some(other)) = (&phone, by_phone)
            && self.person != Some(other)
        {
            // Known by phone alone, now seen with this person's BSUID: one and the same. Else the phone moves alone.
            if self.person.is_some() && !self.has_bsuid(other) { self.merge_in(other) } else { self.take_over(phone) }
        }
        for identity in [bsuid, phone].into_iter().flatten() {
            self.replace(identity);
        }
        // A parent covers many BSUIDs and decides nothing; the first contact to show it keeps it.
        if let Some(parent) = parent.cloned().map(Identity::ParentBsuid)
            && self.owner(&parent).is_none()
        {
            self.replace(parent);
        }
    }

    /// The person had `previous` and has `current` now.
    fn succeed(&mut self, previous: &Identity, current: Identity) {
        self.unite(&current);
        if *previous != current
            && let Some(contact) = self.owner(previous)
        {
            self.close(Alias { identity: previous.clone(), contact });
        }
        self.replace(current);
    }

    /// Whoever already has `identity` is this person too.
    fn unite(&mut self, identity: &Identity) {
        if let Some(other) = self.owner(identity)
            && Some(other) != self.person
        {
            self.merge_in(other);
        }
    }

    fn merge_in(&mut self, other: ContactId) {
        let Some(person) = self.person else { return };
        // One live alias of a kind: what the other brings is the newer.
        let brought: Vec<Identity> = self.live.iter().filter(|a| a.contact == other).map(|a| a.identity.clone()).collect();
        for identity in brought {
            self.close_kind(&identity);
        }
        self.changes.push(Change::MergeIn(other));
        for alias in self.live.iter_mut().filter(|alias| alias.contact == other) {
            alias.contact = person;
        }
    }

    fn take_over(&mut self, identity: &Identity) {
        if let Some(contact) = self.owner(identity) {
            self.close(Alias { identity: identity.clone(), contact });
        }
    }

    fn close(&mut self, alias: Alias) {
        self.live.retain(|live| *live != alias);
        self.changes.push(Change::Close(alias));
    }

    /// Ends the person's other aliases of this kind.
    fn close_kind(&mut self, identity: &Identity) {
        let others = self.live.iter().filter(|alias| {
            Some(alias.contact) == self.person && alias.identity.same_kind(identity) && alias.identity != *identity
        });
        for alias in others.cloned().collect::<Vec<_>>() {
            self.close(alias);
        }
    }

    /// The person's one alias of this kind is `identity`.
    fn replace(&mut self, identity: Identity) {
        self.close_kind(&identity);
        if self.owner(&identity).is_none() {
            if let Some(contact) = self.person {
                self.live.push(Alias { identity: identity.clone(), contact });
            }
            self.changes.push(Change::Attach(identity));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn contact(n: u128) -> ContactId {
        ContactId(Uuid::from_u128(n))
    }
    fn phone(n: u32) -> Phone {
        format!("+2126000001{n:02}").parse().unwrap()
    }
    fn bsuid(n: u32) -> Bsuid {
        format!("MA.user{n}").parse().unwrap()
    }
    fn seen(p: Option<u32>, b: Option<u32>) -> Sighting {
        Sighting::Seen { phone: p.map(phone), bsuid: b.map(bsuid), parent: None }
    }

    /// The table in small: what the store does with a resolution.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Table {
        live: Vec<Alias>,
        contacts: u128,
    }

    impl Table {
        fn take(&mut self, sighting: &Sighting) -> (ContactId, Vec<Change>) {
            let resolution = resolve(&self.live, sighting);
            let person = match resolution.person {
                Person::Known(id) => id,
                Person::New => {
                    self.contacts += 1;
                    contact(self.contacts)
                }
            };
            for change in &resolution.changes {
                match change {
                    Change::Close(alias) => {
                        let before = self.live.len();
                        self.live.retain(|live| live != alias);
                        assert_eq!(self.live.len() + 1, before, "only live aliases are closed");
                    }
                    Change::Attach(identity) => self.live.push(Alias { identity: identity.clone(), contact: person }),
                    Change::MergeIn(other) => {
                        assert_ne!(*other, person);
                        self.live.iter_mut().filter(|a| a.contact == *other).for_each(|a| a.contact = person);
                    }
                }
            }
            (person, resolution.changes)
        }
        fn of(&self, identity: Identity) -> Option<ContactId> {
            self.live.iter().find(|a| a.identity == identity).map(|a| a.contact)
        }
    }

    #[test]
    fn what_is_neither_phone_nor_bsuid_is_refused() {
        for text in
            ["", "+", "0600000101", "212600000101", "+0600000101", "+123456", "+1234567890123456", "+21260000O101", "MA.1"]
        {
            assert!(text.parse::<Phone>().is_err(), "{text}");
        }
        for text in ["", "MA", "MA.", "ma.1", "MAR.1", "MA.ENT.", "MA.a-b", "bsuid_12", "+212600000101", "MA.é"] {
            assert!(text.parse::<Bsuid>().is_err(), "{text}");
        }
        assert!(format!("MA.{}", "a".repeat(128)).parse::<Bsuid>().is_ok());
        assert!(format!("MA.{}", "a".repeat(129)).parse::<Bsuid>().is_err());
        assert_eq!("+212 6 00-00.01(01)".parse::<Phone>().unwrap().as_str(), "+212600000101");
        assert_eq!(Phone::from_digits("212600000101").unwrap().digits(), "212600000101");
        assert!(Phone::from_digits("MA.212600000101").is_err(), "a BSUID is never stripped to digits");
        let parent: Bsuid = "MA.ENT.90417726655".parse().unwrap();
        assert!(parent.is_parent() && parent.country() == "MA");
        assert!(!"MA.ENT90417726655".parse::<Bsuid>().unwrap().is_parent());
    }

    #[test]
    fn a_phone_only_contact_gains_its_bsuid() {
        let mut table = Table::default();
        let (first, _) = table.take(&seen(Some(1), None));
        assert_eq!(table.take(&seen(Some(1), Some(1))).0, first);
        assert_eq!(table.take(&seen(None, Some(1))), (first, vec![]));
    }

    #[test]
    fn a_hidden_user_whose_phone_appears_is_merged_with_the_phone_only_contact() {
        let mut table = Table::default();
        let (by_phone, _) = table.take(&seen(Some(1), None));
        let (hidden, _) = table.take(&seen(None, Some(1)));
        assert_ne!(by_phone, hidden);
        assert_eq!(table.take(&seen(Some(1), Some(1))), (hidden, vec![Change::MergeIn(by_phone)]));
    }

    #[test]
    fn a_recycled_phone_moves_and_merges_nobody() {
        let mut table = Table::default();
        let (old, _) = table.take(&seen(Some(1), Some(1)));
        let (new, changes) = table.take(&seen(Some(1), Some(2)));
        assert_ne!(old, new);
        assert!(!changes.iter().any(|change| matches!(change, Change::MergeIn(_))));
        assert_eq!(table.of(Identity::Phone(phone(1))), Some(new));
        assert_eq!(table.of(Identity::Bsuid(bsuid(1))), Some(old));
    }

    #[test]
    fn a_new_bsuid_is_the_same_person_whichever_signal_comes_first() {
        let update = Sighting::NewBsuid { previous: bsuid(1), current: bsuid(2) };
        let mut early = Table::default();
        let (person, _) = early.take(&seen(Some(1), Some(1)));
        assert_eq!(early.take(&update).0, person);
        assert_eq!(early.take(&seen(Some(2), Some(2))).0, person);

        let mut late = Table::default();
        let (person, _) = late.take(&seen(Some(1), Some(1)));
        let (stranger, _) = late.take(&seen(Some(2), Some(2)));
        assert_ne!(person, stranger);
        let (merged, changes) = late.take(&update);
        assert_eq!(merged, person);
        assert!(changes.contains(&Change::MergeIn(stranger)));
        assert_eq!(late.of(Identity::Bsuid(bsuid(2))), Some(person));
        assert_eq!(late.of(Identity::Bsuid(bsuid(1))), None);
        assert_eq!(late.take(&update), (person, vec![]), "and a second time changes nothing");
    }

    #[test]
    fn a_new_phone_moves_to_the_person_but_its_old_owner_stays_another() {
        let mut table = Table::default();
        let (person, _) = table.take(&seen(Some(1), Some(1)));
        let (other, _) = table.take(&seen(Some(2), Some(2)));
        let change = Sighting::NewPhone { previous: phone(1), current: phone(2), bsuid: Some(bsuid(3)) };
        assert_eq!(table.take(&change).0, person);
        assert_eq!(table.of(Identity::Phone(phone(2))), Some(person));
        assert_eq!(table.of(Identity::Bsuid(bsuid(3))), Some(person));
        assert_eq!(table.of(Identity::Phone(phone(1))), None);
        assert_eq!(table.of(Identity::Bsuid(bsuid(2))), Some(other));
    }

    fn sighting() -> impl Strategy<Value = Sighting> {
        let n = || 0u32..4;
        prop_oneof![
            4 => (prop::option::of(n()), n()).prop_map(|(p, b)| seen(p, Some(b))),
            2 => n().prop_map(|p| seen(Some(p), None)),
            1 => (n(), n(), n()).prop_map(|(p, b, e)| Sighting::Seen {
                phone: Some(phone(p)), bsuid: Some(bsuid(b)), parent: format!("MA.ENT.{e}").parse().ok(),
            }),
            1 => (n(), n()).prop_filter("different", |(a, b)| a != b)
                .prop_map(|(a, b)| Sighting::NewBsuid { previous: bsuid(a), current: bsuid(b) }),
            1 => (n(), n(), prop::option::of(n())).prop_filter("different", |(a, b, _)| a != b)
                .prop_map(|(a, b, id)| Sighting::NewPhone { previous: phone(a), current: phone(b), bsuid: id.map(bsuid) }),
        ]
    }

    proptest! {
        #[test]
        fn an_identity_is_one_contacts_and_a_repeat_changes_nothing(sightings in prop::collection::vec(sighting(), 1..30)) {
            let mut table = Table::default();
            for sighting in &sightings {
                let (person, _) = table.take(sighting);
                let mut owned: Vec<_> = table.live.iter().map(|a| a.identity.clone()).collect();
                owned.sort();
                let count = owned.len();
                owned.dedup();
                prop_assert_eq!(owned.len(), count, "an identity has one live alias");
                let mut kinds: Vec<_> = table.live.iter().map(|a| (a.contact, a.identity.kind())).collect();
                kinds.sort();
                let count = kinds.len();
                kinds.dedup();
                prop_assert_eq!(kinds.len(), count, "a contact has one live alias of a kind");
                prop_assert_eq!(table.take(sighting), (person, vec![]));
            }
        }

        #[test]
        fn identities_read_back_from_their_columns(digits in "[1-9][0-9]{6,14}") {
            let phone = Identity::Phone(format!("+{digits}").parse().unwrap());
            prop_assert_eq!(Identity::read(phone.kind(), phone.value()), Ok(phone));
        }

        #[test]
        fn nothing_is_both(text in ".*") {
            prop_assert!(text.parse::<Phone>().is_err() || text.parse::<Bsuid>().is_err());
        }
    }
}
