//! What the providers would testify: numbers, orders, money, registrations, codes, messages.

use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::BTreeMap;

use crate::{telnyx::Charge, world::World};

/// The providers' side of every drill. Read it after [`crate::Simulators::settle`].
#[derive(Debug, Clone, Serialize)]
pub struct Books {
    /// Numbers that we hold at Telnyx now.
    pub owned: Vec<OwnedNumber>,
    /// Every order, by customer reference (orders without one under the empty text), oldest first.
    pub orders: BTreeMap<String, Vec<PlacedOrder>>,
    /// Everything that Telnyx charged, in units of 0.0001 USD.
    pub spent: i64,
    pub charges: Vec<Charge>,
    /// Per number at Meta, by its digits.
    pub numbers: BTreeMap<String, MetaNumber>,
    /// Calls and texts that found no active number with something attached.
    pub unheard: u64,
    /// Numbers given back while still registered on WhatsApp.
    pub released_registered: Vec<String>,
    /// Served calls per operation.
    pub calls: BTreeMap<String, u64>,
}

/// A number that we pay for.
#[derive(Debug, Clone, Serialize)]
pub struct OwnedNumber {
    pub phone: String,
    pub id: String,
    pub status: String,
    pub customer_reference: Option<String>,
    pub connection_id: Option<String>,
    pub messaging_profile_id: Option<String>,
}

/// An order and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct PlacedOrder {
    pub id: String,
    pub phone: String,
    /// `pending`, `success`, `failure` or `cancelled`.
    pub status: String,
}

/// A number at Meta, with every call that spends a budget.
#[derive(Debug, Clone, Serialize)]
pub struct MetaNumber {
    pub id: String,
    pub status: String,
    pub verified_name: String,
    pub name_status: String,
    pub registered: bool,
    pub has_pin: bool,
    /// Every register call that reached Meta, failed ones too.
    pub register_calls: Vec<DateTime<Utc>>,
    pub deregister_calls: Vec<DateTime<Utc>>,
    pub code_requests: Vec<CodeRequest>,
}

#[derive(Debug, Clone, Serialize)]
pub struct CodeRequest {
    pub at: DateTime<Utc>,
    /// `SMS` or `VOICE`.
    pub method: String,
    pub accepted: bool,
}

/// What Meta accepted and delivered, and how fast it came.
#[derive(Debug, Clone, Serialize)]
pub struct MessageBooks {
    pub accepted: u64,
    /// Accepted messages by the recipient's business-scoped id.
    pub per_recipient: BTreeMap<String, u32>,
    /// Accepted messages by `biz_opaque_callback_data`: more than one is a message sent twice.
    pub per_callback: BTreeMap<String, u32>,
    /// Status webhooks by status.
    pub statuses: BTreeMap<&'static str, u64>,
    /// Most sends of a number within any second, refused ones too, by phone number id.
    pub peak_per_second: BTreeMap<String, u32>,
    /// Sends refused with 131056 and with 130429.
    pub refused_pair: u64,
    pub refused_throughput: u64,
    /// Most users that were written to outside their windows within 24 hours.
    pub most_reached: usize,
    /// Meta's bill, in micro-USD.
    pub cost: u64,
}

impl MessageBooks {
    pub(crate) fn of(world: &World) -> Self {
        let traffic = &world.meta.traffic;
        Self {
            accepted: traffic.accepted,
            per_recipient: traffic.per_recipient.clone().into_iter().collect(),
            per_callback: traffic.per_callback.clone().into_iter().collect(),
            statuses: traffic.statuses.clone().into_iter().collect(),
            peak_per_second: traffic.paces.iter().map(|(id, pace)| (id.clone(), pace.peak)).collect(),
            refused_pair: traffic.refused_pair,
            refused_throughput: traffic.refused_throughput,
            most_reached: traffic.most_reached,
            cost: crate::meta::prices::total(world),
        }
    }
}

impl Books {
    /// Whether nothing is held, pending or registered: what a clean undo leaves.
    pub fn is_empty_handed(&self) -> bool {
        self.owned.is_empty()
            && self.orders.values().flatten().all(|order| order.status != "pending")
            && self.numbers.values().all(|number| !number.registered)
    }

    /// Orders that ended in a purchase, for one reference.
    pub fn purchases(&self, customer_reference: &str) -> usize {
        let placed = self.orders.get(customer_reference).map_or(&[][..], Vec::as_slice);
        placed.iter().filter(|order| order.status == "success").count()
    }

    pub(crate) fn of(world: &World) -> Self {
        let mut orders: BTreeMap<String, Vec<PlacedOrder>> = BTreeMap::new();
        for order in &world.telnyx.orders {
            let (id, phone, status) = (order.id.clone(), order.phone.clone(), order.state.name().to_owned());
            orders.entry(order.reference.clone().unwrap_or_default()).or_default().push(PlacedOrder { id, phone, status });
        }
        let owned = world.telnyx.numbers.values().filter(|number| number.status != "deleted").map(|number| OwnedNumber {
            phone: number.phone.clone(),
            id: number.id.clone(),
            status: number.status.to_owned(),
            customer_reference: number.reference.clone(),
            connection_id: number.connection.clone(),
            messaging_profile_id: number.profile.clone(),
        });
        let numbers = world.meta.numbers.values().map(|number| {
            let request = |(at, method, accepted): &(DateTime<Utc>, String, bool)| CodeRequest {
                at: *at,
                method: method.clone(),
                accepted: *accepted,
            };
            let seen = MetaNumber {
                id: number.id.clone(),
                status: number.status.to_owned(),
                verified_name: number.name.clone(),
                name_status: number.name_status.to_owned(),
                registered: matches!(number.status, "CONNECTED" | "PENDING"),
                has_pin: number.pin.is_some(),
                register_calls: number.register_calls.clone(),
                deregister_calls: number.deregister_calls.clone(),
                code_requests: number.code_requests.iter().map(request).collect(),
            };
            (number.digits.clone(), seen)
        });
        Self {
            owned: owned.collect(),
            orders,
            spent: world.telnyx.charges.iter().map(|charge| charge.cost).sum(),
            charges: world.telnyx.charges.clone(),
            numbers: numbers.collect(),
            unheard: world.telnyx.unheard,
            released_registered: world.telnyx.released_registered.iter().cloned().collect(),
            calls: world.journal.counts().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }
}
