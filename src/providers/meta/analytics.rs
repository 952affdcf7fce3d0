//! What Meta says it delivered and charged, to reconcile with (contracts/meta-cloud-api.md 12.3).

use super::Meta;
use crate::{loose, wire::Call};
use chrono::{DateTime, Utc};
use domain::Failure;
use serde::{Deserialize, Serialize};

/// A span of whole days of the account's time zone; at most a year back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnalyticsQuery {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    /// Digits of the numbers; empty for all.
    pub phone_numbers: Vec<String>,
}

/// One bucket: a day, a number, a country, a category, a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PricingPoint {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    /// Digits.
    pub phone_number: Option<String>,
    pub country: Option<String>,
    /// `REGULAR`, `FREE_CUSTOMER_SERVICE`, `FREE_ENTRY_POINT`.
    pub pricing_type: Option<String>,
    pub pricing_category: Option<String>,
    pub tier: Option<String>,
    pub volume: i64,
    /// Millionths of the account's currency; absent on a partner's credit line.
    pub cost_micros: Option<i64>,
}

#[derive(Deserialize)]
struct Row {
    start: i64,
    end: i64,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    phone_number: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    country: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pricing_type: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pricing_category: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    tier: Option<String>,
    #[serde(default)]
    volume: Option<i64>,
    #[serde(default)]
    cost: Option<f64>,
}

impl Row {
    /// `None` if a time is out of any calendar.
    fn take(self) -> Option<PricingPoint> {
        const MICROS: f64 = 1e6;
        Some(PricingPoint {
            start: DateTime::from_timestamp(self.start, 0)?,
            end: DateTime::from_timestamp(self.end, 0)?,
            phone_number: self.phone_number,
            country: self.country,
            pricing_type: self.pricing_type,
            pricing_category: self.pricing_category,
            tier: self.tier,
            volume: self.volume.unwrap_or(0),
            // Meta's only float: an approximation by its own words, made whole here.
            cost_micros: self.cost.map(|cost| (cost * MICROS).round() as i64),
        })
    }
}

impl Meta {
    /// Volume and cost by day, number, country, category, type and tier. Approximate by Meta's own words.
    pub async fn pricing_analytics(&self, query: &AnalyticsQuery) -> Result<Vec<PricingPoint>, Failure> {
        #[derive(Deserialize)]
        struct Node {
            #[serde(default)]
            pricing_analytics: Option<Sets>,
        }
        #[derive(Deserialize)]
        struct Sets {
            #[serde(default, deserialize_with = "loose::nullable")]
            data: Vec<Set>,
        }
        #[derive(Deserialize)]
        struct Set {
            // A row that cannot be read must not vanish from a reconciliation.
            #[serde(default, deserialize_with = "loose::nullable")]
            data_points: Vec<Row>,
        }
        let numbers = serde_json::json!(query.phone_numbers);
        let fields = format!(
            "pricing_analytics.start({}).end({}).granularity(DAILY).phone_numbers({numbers}).metric_types([\"COST\",\"VOLUME\"])\
             .dimensions([\"PHONE\",\"COUNTRY\",\"PRICING_CATEGORY\",\"PRICING_TYPE\",\"TIER\"])",
            query.start.timestamp(),
            query.end.timestamp()
        );
        let node: Node = self.get(Call::get("/{waba}", &[self.waba_id()]).query("fields", fields)).await?;
        Ok(node
            .pricing_analytics
            .into_iter()
            .flat_map(|sets| sets.data)
            .flat_map(|set| set.data_points)
            .filter_map(Row::take)
            .collect())
    }
}
