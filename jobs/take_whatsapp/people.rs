//! Who somebody is: phones, user ids, and Meta's word that they have changed (contracts/meta-cloud-api.md 11).

use crate::Tools;
use domain::{
    ContactId, Failure, TenantId,
    identity::{Alias, Bsuid, Change, Identity, Person, Resolution, Sighting, resolve},
    phone::Phone,
};
use durable::Tx;
use providers::MetaNews;
use std::collections::{BTreeSet, HashMap};
use store::people::{self, Changes, Name, Wish};
use uuid::Uuid;

/// Applies preferences and new user ids.
pub(super) async fn apply(tools: &Tools, tx: &mut Tx<'_>, about: &[(TenantId, MetaNews)]) -> Result<(), Failure> {
    if about.is_empty() {
        return Ok(());
    }
    let mut seen = Vec::new();
    let mut wished = Vec::new();
    for (tenant, news) in about {
        match news {
            MetaNews::Preference(told) => {
                let out = match told.value.as_str() {
                    "stop" => Some(true),
                    "resume" | "signup" => Some(false),
                    _ => None,
                };
                wished.extend(out.map(|out| (seen.len(), out, told.timestamp.unwrap_or_else(|| tools.clock.now()))));
                let (phone, bsuid) = (told.wa_id.as_deref().and_then(phone), told.user_id.as_deref().and_then(bsuid));
                seen.push((*tenant, Sighting::Seen { phone, bsuid, parent: None }));
            }
            MetaNews::UserId(update) => {
                if let (Ok(previous), Ok(current)) = (update.previous.parse(), update.current.parse()) {
                    seen.push((*tenant, Sighting::NewBsuid { previous, current }));
                }
            }
            _ => {}
        }
    }
    let contacts = see(tx, &seen).await?;
    let wishes = wished
        .into_iter()
        .filter_map(|(place, out, at)| Some(Wish { tenant_id: seen[place].0, contact_id: contacts[place]?, out, at }));
    Ok(people::opt_out_of_marketing(tx, &last_words(wishes)).await?)
}

/// The last wish of each: by its own time, and of the same time the last told.
pub(super) fn last_words(wishes: impl IntoIterator<Item = Wish>) -> Vec<Wish> {
    let mut last: HashMap<ContactId, Wish> = HashMap::new();
    for wish in wishes {
        if last.get(&wish.contact_id).is_none_or(|known| known.at <= wish.at) {
            last.insert(wish.contact_id, wish);
        }
    }
    last.into_values().collect()
}

/// The contacts that sightings are about, in their order, made where nobody is known, with their names put right. `None`: one
/// that names nobody. However many there are, a few statements; two people that turn out to be one cost some more.
pub(super) async fn see(tx: &mut Tx<'_>, seen: &[(TenantId, Sighting)]) -> Result<Vec<Option<ContactId>>, Failure> {
    let known = Book::read(tx, seen.iter()).await?;
    // Whoever is known whole and unchanged: nothing to write, no lock to take.
    let changing: BTreeSet<TenantId> = seen
        .iter()
        .filter(|(tenant, sighting)| known.unchanged(*tenant, sighting).is_none())
        .map(|(tenant, _)| *tenant)
        .collect();
    let mut book = Book::default();
    if !changing.is_empty() {
        people::lock(tx, &changing.iter().copied().collect::<Vec<_>>()).await?;
        book = Book::read(tx, seen.iter().filter(|(tenant, _)| changing.contains(tenant))).await?;
    }
    let mut contacts = Vec::with_capacity(seen.len());
    for (tenant, sighting) in seen {
        contacts.push(if changing.contains(tenant) {
            book.take(tx, *tenant, sighting).await?
        } else {
            known.unchanged(*tenant, sighting).flatten()
        });
    }
    book.write(tx).await?;
    Ok(contacts.into_iter().map(|contact| contact.map(|contact| book.today(contact))).collect())
}

/// The live names of everybody that a batch is about, and what it has changed of them.
#[derive(Default)]
struct Book {
    owners: HashMap<(TenantId, Identity), ContactId>,
    names: HashMap<ContactId, Vec<Identity>>,
    /// Who has become whom.
    merged: HashMap<ContactId, ContactId>,
    unwritten: Changes,
}

impl Book {
    async fn read<'s>(tx: &mut Tx<'_>, seen: impl Iterator<Item = &'s (TenantId, Sighting)>) -> Result<Self, Failure> {
        let wanted: Vec<Name> = seen
            .flat_map(|(tenant, sighting)| sighting.identities().into_iter().map(|identity| name(*tenant, &identity)))
            .collect();
        let mut book = Self::default();
        if wanted.is_empty() {
            return Ok(book);
        }
        for (name, contact) in people::named(tx, &wanted).await? {
            if let Ok(identity) = Identity::read(&name.kind, &name.value) {
                book.begin(name.tenant_id, identity, contact);
            }
        }
        Ok(book)
    }

    fn begin(&mut self, tenant: TenantId, identity: Identity, contact: ContactId) {
        self.names.entry(contact).or_default().push(identity.clone());
        self.owners.insert((tenant, identity), contact);
    }

    fn resolve(&self, tenant: TenantId, sighting: &Sighting) -> Resolution {
        let owners: BTreeSet<ContactId> =
            sighting.identities().into_iter().filter_map(|identity| self.owners.get(&(tenant, identity)).copied()).collect();
        let names = |contact| self.names.get(&contact).into_iter().flatten().map(move |n| Alias { identity: n.clone(), contact });
        resolve(&owners.into_iter().flat_map(names).collect::<Vec<_>>(), sighting)
    }

    /// Whom it is about, if that changes nothing: somebody known, or `Some(None)`, nobody.
    fn unchanged(&self, tenant: TenantId, sighting: &Sighting) -> Option<Option<ContactId>> {
        if sighting.identities().is_empty() {
            return Some(None);
        }
        let resolution = self.resolve(tenant, sighting);
        match resolution.person {
            Person::Known(contact) if resolution.changes.is_empty() => Some(Some(contact)),
            _ => None,
        }
    }

    async fn take(&mut self, tx: &mut Tx<'_>, tenant: TenantId, sighting: &Sighting) -> Result<Option<ContactId>, Failure> {
        if let Some(person) = self.unchanged(tenant, sighting) {
            return Ok(person);
        }
        let resolution = self.resolve(tenant, sighting);
        let contact = match resolution.person {
            Person::Known(contact) => contact,
            Person::New => {
                let contact = ContactId(Uuid::now_v7());
                self.unwritten.contacts.push((tenant, contact));
                contact
            }
        };
        for change in resolution.changes {
            match change {
                Change::Close(alias) => {
                    let ended = name(tenant, &alias.identity);
                    // Begun in this very batch: it must be there to be ended.
                    if self.unwritten.begun.iter().any(|(begun, _)| *begun == ended) {
                        self.write(tx).await?;
                    }
                    self.unwritten.ended.push(ended);
                    self.names.entry(alias.contact).or_default().retain(|identity| *identity != alias.identity);
                    self.owners.remove(&(tenant, alias.identity));
                }
                Change::Attach(identity) => {
                    self.unwritten.begun.push((name(tenant, &identity), contact));
                    self.begin(tenant, identity, contact);
                }
                Change::MergeIn(other) => {
                    self.write(tx).await?;
                    people::merge(tx, tenant, other, contact).await?;
                    for identity in self.names.remove(&other).unwrap_or_default() {
                        self.begin(tenant, identity, contact);
                    }
                    self.merged.insert(other, contact);
                }
            }
        }
        Ok(Some(contact))
    }

    async fn write(&mut self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        Ok(people::write(tx, &std::mem::take(&mut self.unwritten)).await?)
    }

    /// Who somebody is after all merges.
    fn today(&self, mut contact: ContactId) -> ContactId {
        while let Some(into) = self.merged.get(&contact) {
            contact = *into;
        }
        contact
    }
}

fn name(tenant: TenantId, identity: &Identity) -> Name {
    Name { tenant_id: tenant, kind: identity.kind().to_owned(), value: identity.value().to_owned() }
}

/// Digits as webhooks have them.
pub(super) fn phone(digits: &str) -> Option<Phone> {
    format!("+{}", digits.trim_start_matches('+')).parse().ok()
}

pub(super) fn bsuid(text: &str) -> Option<Bsuid> {
    text.parse().ok()
}
