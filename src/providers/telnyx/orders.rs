//! What a country offers, which numbers are free, and buying one of them (contracts/telnyx.md 3-5).

use super::{Page, Telnyx, errors};
use crate::{
    loose::{self, Price, words},
    wire::Call,
};
use chrono::{DateTime, Utc};
use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

words! {
    /// `longcode`, `tollfree` and `shortcode` are what fresh numbers may still say.
    pub enum NumberType {
        Local = "local",
        National = "national",
        Mobile = "mobile",
        TollFree = "toll_free",
        SharedCost = "shared_cost",
    }
    /// Of an order, a sub-order or a line of one.
    pub enum OrderStatus {
        Pending = "pending",
        Success = "success",
        Failure = "failure",
        Cancelled = "cancelled",
        Deleted = "deleted",
    }
    /// Of an order line's requirements.
    pub enum RequirementStatus {
        Pending = "pending",
        InfoPending = "requirement-info-pending",
        UnderReview = "requirement-info-under-review",
        Exception = "requirement-info-exception",
        Approved = "approved",
        Cancelled = "cancelled",
        Deleted = "deleted",
    }
    pub enum GroupStatus {
        Unapproved = "unapproved",
        PendingApproval = "pending-approval",
        Approved = "approved",
        Declined = "declined",
        Expired = "expired",
        NoLongerEligible = "no-longer-eligible",
    }
    /// What kind of value a requirement wants.
    pub enum FieldType {
        Textual = "textual",
        Address = "address",
        Document = "document",
        DateTime = "datetime",
        Action = "action",
    }
}

impl OrderStatus {
    /// Nothing more will happen to it by itself.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Cancelled | Self::Deleted)
    }
}

/// What a country offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// ISO 3166 alpha-2.
    pub country: String,
    /// Whether numbers are sold there at all.
    pub numbers: bool,
    pub features: Vec<String>,
    /// Only the types that are sold.
    pub types: Vec<TypeCoverage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeCoverage {
    pub number_type: NumberType,
    pub features: Vec<String>,
    pub reservable: bool,
    pub international_sms: bool,
}

/// What to search for; the default of a filter is "any".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// ISO 3166 alpha-2; needed.
    pub country: String,
    pub number_type: Option<NumberType>,
    /// All of these: `voice`, `sms`, ...
    pub features: Vec<String>,
    pub national_destination_code: Option<String>,
    pub locality: Option<String>,
    /// Digits without the country code.
    pub contains: Option<String>,
    /// How many at most; Telnyx decides if `None`.
    pub limit: Option<u32>,
    pub exclude_held: bool,
}

/// A number that was for sale when asked. Prices are told nowhere else: keep them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// E.164.
    pub phone_number: String,
    pub features: Vec<String>,
    pub upfront: Option<Price>,
    pub monthly: Option<Price>,
    pub reservable: bool,
    /// Town or area, if told.
    pub location: Option<String>,
}

/// An order for one number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewOrder {
    /// E.164, from a recent search.
    pub phone_number: String,
    /// Our own reference: what a lost answer is looked up by.
    pub customer_reference: String,
    pub requirement_group_id: Option<String>,
    pub billing_group_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberOrder {
    pub id: String,
    #[serde(default)]
    pub status: OrderStatus,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub customer_reference: Option<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub requirements_met: bool,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub sub_number_orders_ids: Vec<String>,
    /// In lists a line carries only its id and number.
    #[serde(default, deserialize_with = "loose::list")]
    pub phone_numbers: Vec<OrderLine>,
    #[serde(default, deserialize_with = "loose::maybe_time")]
    pub created_at: Option<DateTime<Utc>>,
}

impl NumberOrder {
    pub fn line(&self, phone_number: &str) -> Option<&OrderLine> {
        self.phone_numbers.iter().find(|line| line.phone_number == phone_number)
    }
}

/// A number in an order. Its id is the line's, not the number's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    #[serde(default, deserialize_with = "loose::text")]
    pub id: String,
    pub phone_number: String,
    #[serde(default)]
    pub status: OrderStatus,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub requirements_met: bool,
    #[serde(default)]
    pub requirements_status: RequirementStatus,
    #[serde(default)]
    pub phone_number_type: NumberType,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub country_code: Option<String>,
    #[serde(default, deserialize_with = "loose::list")]
    pub regulatory_requirements: Vec<RequirementState>,
    /// When missing documents cancel the order.
    #[serde(default, deserialize_with = "loose::maybe_time")]
    pub deadline: Option<DateTime<Utc>>,
}

/// One requirement of a line or a group, and what was supplied for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementState {
    pub requirement_id: String,
    #[serde(default)]
    pub field_type: FieldType,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub field_value: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub status: Option<String>,
}

/// The part of an order that is one country and type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubOrder {
    pub id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub order_request_id: String,
    #[serde(default)]
    pub status: OrderStatus,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub country_code: Option<String>,
    #[serde(default)]
    pub phone_number_type: NumberType,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub requirements_met: bool,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub customer_reference: Option<String>,
    #[serde(default, deserialize_with = "loose::list")]
    pub regulatory_requirements: Vec<RequirementState>,
}

/// What a country demands of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    pub id: String,
    pub name: String,
    pub field_type: FieldType,
    pub description: String,
}

/// Papers filled in once, for one country, type and action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementGroup {
    pub id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub country_code: String,
    #[serde(default)]
    pub phone_number_type: NumberType,
    #[serde(default, deserialize_with = "loose::text")]
    pub action: String,
    #[serde(default)]
    pub status: GroupStatus,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub customer_reference: Option<String>,
    #[serde(default, deserialize_with = "loose::list")]
    pub regulatory_requirements: Vec<RequirementState>,
}

impl RequirementGroup {
    /// Good for an order: not refused or run out, and every field filled in.
    pub fn is_usable(&self) -> bool {
        let alive = matches!(self.status, GroupStatus::Unapproved | GroupStatus::PendingApproval | GroupStatus::Approved);
        alive && self.regulatory_requirements.iter().all(|requirement| requirement.field_value.is_some())
    }
}

impl Telnyx {
    /// What the country (ISO alpha-2) offers (3.1). A country that Telnyx does not know offers nothing.
    pub async fn coverage(&self, country: &str) -> Result<Coverage, Failure> {
        let offer: Value = match self.data(Call::get("/country_coverage/countries/{country}", &[country])).await {
            Err(failure) if errors::is_missing(&failure) => Value::Null,
            offer => offer?,
        };
        const TYPES: [NumberType; 5] =
            [NumberType::Local, NumberType::National, NumberType::Mobile, NumberType::TollFree, NumberType::SharedCost];
        let flag = |of: &Value, name: &str| of.get(name).and_then(Value::as_bool).unwrap_or(false);
        let features = |of: &Value| loose::names(of.get("features").unwrap_or(&Value::Null)).unwrap_or_default();
        let types = TYPES.into_iter().filter_map(|number_type| {
            let sold =
                offer.get(number_type.as_str()).filter(|sold| sold.as_object().is_some_and(|fields| !fields.is_empty()))?;
            Some(TypeCoverage {
                features: features(sold),
                reservable: flag(sold, "reservable"),
                international_sms: flag(sold, "international_sms"),
                number_type,
            })
        });
        Ok(Coverage {
            country: offer.get("code").and_then(loose::as_text).unwrap_or_else(|| country.to_owned()),
            numbers: flag(&offer, "numbers"),
            features: features(&offer),
            types: types.collect(),
        })
    }

    /// Numbers for sale (3.2); an empty list is an answer. Masked numbers of trial accounts are left out.
    pub async fn search(&self, search: &Search) -> Result<Vec<Available>, Failure> {
        let mut call = Call::get("/available_phone_numbers", &[])
            .query("filter[country_code]", &search.country)
            .query_if("filter[phone_number_type]", search.number_type.as_ref())
            .query_if("filter[national_destination_code]", search.national_destination_code.as_ref())
            .query_if("filter[locality]", search.locality.as_ref())
            .query_if("filter[phone_number][contains]", search.contains.as_ref())
            .query_if("filter[limit]", search.limit);
        for feature in &search.features {
            call = call.query("filter[features][]", feature);
        }
        if search.exclude_held {
            call = call.query("filter[exclude_held_numbers]", true);
        }
        let found: Vec<Found> = self.data(call).await?;
        Ok(found.into_iter().filter_map(Found::take).collect())
    }

    /// Orders that carry our reference (2.5, step 2). The filter may be inexact: only exact matches are returned.
    pub async fn orders_by_reference(&self, customer_reference: &str) -> Result<Vec<NumberOrder>, Failure> {
        let call = || Call::get("/number_orders", &[]).query("filter[customer_reference]", customer_reference);
        let mut orders: Vec<NumberOrder> = self.all(call).await?;
        orders.retain(|order| order.customer_reference.as_deref() == Some(customer_reference));
        Ok(orders)
    }

    /// Orders, newest pages as Telnyx sorts them.
    pub async fn orders(&self, page: u32) -> Result<Page<NumberOrder>, Failure> {
        self.page(Call::get("/number_orders", &[]), page, super::PAGE_SIZE).await
    }

    /// Buys one number (5.1). `Unclear` if the answer was lost: look up by reference and by number before anything else.
    pub async fn create_order(&self, order: &NewOrder) -> Result<NumberOrder, Failure> {
        let mut line = json!({ "phone_number": order.phone_number });
        if let Some(group) = &order.requirement_group_id {
            line["requirement_group_id"] = json!(group);
        }
        let mut body = json!({
            "phone_numbers": [line],
            "connection_id": self.connection_id(),
            "customer_reference": order.customer_reference,
        });
        if let Some(profile) = self.messaging_profile_id() {
            body["messaging_profile_id"] = json!(profile);
        }
        if let Some(group) = &order.billing_group_id {
            body["billing_group_id"] = json!(group);
        }
        self.data(Call::post("/number_orders", &[]).json(&body)).await
    }

    /// An order with its full lines (5.2).
    pub async fn order(&self, id: &str) -> Result<NumberOrder, Failure> {
        self.data(Call::get("/number_orders/{id}", &[id])).await
    }

    /// The parts of an order (5.2).
    pub async fn sub_orders(&self, order_id: &str) -> Result<Vec<SubOrder>, Failure> {
        self.all(|| Call::get("/sub_number_orders", &[]).query("filter[order_request_id]", order_id)).await
    }

    pub async fn sub_order(&self, id: &str) -> Result<SubOrder, Failure> {
        self.data(Call::get("/sub_number_orders/{id}", &[id])).await
    }

    /// Undoes a pending purchase (5.2); a part that is no longer pending is refused.
    pub async fn cancel_sub_order(&self, id: &str) -> Result<SubOrder, Failure> {
        self.data(Call::patch("/sub_number_orders/{id}/cancel", &[id])).await
    }

    /// Supplies papers to a part of an order (5.2).
    pub async fn attach_requirement_group(&self, sub_order_id: &str, group_id: &str) -> Result<(), Failure> {
        let call = Call::post("/sub_number_orders/{id}/requirement_group", &[sub_order_id]).repeatable();
        self.call(call.json(&json!({ "requirement_group_id": group_id }))).await.map(drop)
    }

    /// What ordering a number of this country and type takes (5.5).
    pub async fn requirements(&self, country: &str, number_type: &NumberType) -> Result<Vec<Requirement>, Failure> {
        #[derive(Deserialize)]
        struct Listed {
            /// Empty: for every type.
            #[serde(default, deserialize_with = "loose::maybe_text")]
            phone_number_type: Option<String>,
            #[serde(default, deserialize_with = "loose::list")]
            requirements_types: Vec<Wanted>,
        }
        #[derive(Deserialize)]
        struct Wanted {
            #[serde(deserialize_with = "loose::text")]
            id: String,
            #[serde(default, deserialize_with = "loose::text")]
            name: String,
            #[serde(default, rename = "type")]
            field_type: FieldType,
            #[serde(default, deserialize_with = "loose::text")]
            description: String,
        }
        // The filter knows three types only; rows of the others are told apart here.
        let filter = Some(number_type).filter(|t| matches!(t, NumberType::Local | NumberType::National | NumberType::TollFree));
        let listed: Vec<Listed> = self
            .all(|| {
                Call::get("/requirements", &[])
                    .query("filter[country_code]", country)
                    .query_if("filter[phone_number_type]", filter)
                    .query("filter[action]", "ordering")
            })
            .await?;
        let ours =
            listed.into_iter().filter(|row| row.phone_number_type.as_deref().is_none_or(|t| NumberType::from(t) == *number_type));
        let requirement = |wanted: Wanted| Requirement {
            id: wanted.id,
            name: wanted.name,
            field_type: wanted.field_type,
            description: wanted.description,
        };
        Ok(ours.flat_map(|row| row.requirements_types).map(requirement).collect())
    }

    /// Every requirement group for ordering in this country (5.5). See [`RequirementGroup::is_usable`].
    pub async fn requirement_groups(&self, country: &str, number_type: &NumberType) -> Result<Vec<RequirementGroup>, Failure> {
        let call = Call::get("/requirement_groups", &[])
            .query("filter[country_code]", country)
            .query("filter[phone_number_type]", number_type)
            .query("filter[action]", "ordering");
        let (reply, effect) = self.call(call).await?;
        // A bare array by its documentation (2.1); a wrapped one would be like the rest.
        let rows = match reply.decode::<Value>(effect)? {
            Value::Object(mut wrapped) => wrapped.remove("data").unwrap_or_default(),
            rows => rows,
        };
        let mut groups: Vec<RequirementGroup> = loose::list(rows).unwrap_or_default();
        groups.retain(|group| {
            group.country_code == country && group.phone_number_type == *number_type && group.action == "ordering"
        });
        Ok(groups)
    }
}

#[derive(Deserialize)]
struct Found {
    phone_number: String,
    #[serde(default, deserialize_with = "loose::names")]
    features: Vec<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    reservable: bool,
    #[serde(default, deserialize_with = "loose::nullable")]
    cost_information: Cost,
    #[serde(default, deserialize_with = "loose::list")]
    region_information: Vec<Region>,
}

#[derive(Deserialize, Default)]
struct Cost {
    #[serde(default, deserialize_with = "loose::maybe_text")]
    upfront_cost: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    monthly_cost: Option<String>,
    #[serde(default, deserialize_with = "loose::text")]
    currency: String,
}

#[derive(Deserialize)]
struct Region {
    #[serde(default, deserialize_with = "loose::text")]
    region_type: String,
    #[serde(default, deserialize_with = "loose::text")]
    region_name: String,
}

impl Found {
    fn take(self) -> Option<Available> {
        let digits = self.phone_number.strip_prefix('+')?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let price = |amount: Option<String>| Price::parse(&amount?, &self.cost_information.currency);
        Some(Available {
            upfront: price(self.cost_information.upfront_cost.clone()),
            monthly: price(self.cost_information.monthly_cost.clone()),
            location: self.region_information.into_iter().find(|r| r.region_type == "location").map(|r| r.region_name),
            phone_number: self.phone_number,
            features: self.features,
            reservable: self.reservable,
        })
    }
}
