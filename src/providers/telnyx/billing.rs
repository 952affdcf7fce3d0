//! What Telnyx has of our money and what it took (contracts/telnyx.md 10).

use super::{Page, Telnyx};
use crate::{
    loose::{self, Price},
    wire::Call,
};
use chrono::NaiveDate;
use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Largest page of detail records.
const DETAIL_PAGE_SIZE: u32 = 50;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    pub balance: Price,
    pub credit_limit: Price,
    /// What can be spent: balance and credit together.
    pub available_credit: Price,
}

/// A span's charges per number: the monthly truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charges {
    pub currency: String,
    pub numbers: Vec<ChargedNumber>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargedNumber {
    /// E.164.
    pub phone_number: String,
    pub charge_type: String,
    pub services: Vec<ChargedService>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargedService {
    pub name: String,
    pub cost: Price,
    /// `true` monthly, `false` once.
    pub recurring: bool,
}

/// A page of detail records: rows in Telnyx's own fields, which differ by type.
pub type DetailRecords = Page<Map<String, Value>>;

impl Telnyx {
    pub async fn balance(&self) -> Result<Balance, Failure> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default, deserialize_with = "loose::text")]
            balance: String,
            #[serde(default, deserialize_with = "loose::text")]
            credit_limit: String,
            #[serde(default, deserialize_with = "loose::text")]
            available_credit: String,
            #[serde(default, deserialize_with = "loose::text")]
            currency: String,
        }
        let told: Told = self.data(Call::get("/balance", &[])).await?;
        let price = |name: &str, amount: &str| {
            Price::parse(amount, &told.currency)
                .ok_or_else(|| Failure::rejected(format!("Telnyx's {name} is no amount of money")))
        };
        Ok(Balance {
            balance: price("balance", &told.balance)?,
            credit_limit: price("credit limit", if told.credit_limit.is_empty() { "0" } else { &told.credit_limit })?,
            available_credit: price("available credit", &told.available_credit)?,
        })
    }

    /// Charges from `start` up to but without `end`; at most 31 days.
    pub async fn charges(&self, start: NaiveDate, end: NaiveDate) -> Result<Charges, Failure> {
        #[derive(Deserialize)]
        struct Told {
            #[serde(default, deserialize_with = "loose::text")]
            currency: String,
            results: Vec<Row>,
        }
        #[derive(Deserialize)]
        struct Row {
            #[serde(default, deserialize_with = "loose::text")]
            tn: String,
            #[serde(default, deserialize_with = "loose::text")]
            charge_type: String,
            #[serde(default, deserialize_with = "loose::nullable")]
            services: Vec<Service>,
        }
        #[derive(Deserialize)]
        struct Service {
            #[serde(default, deserialize_with = "loose::text")]
            name: String,
            #[serde(deserialize_with = "loose::text")]
            cost: String,
            #[serde(default, deserialize_with = "loose::text")]
            cost_type: String,
        }
        let call = Call::get("/charges_breakdown", &[]).query("start_date", start).query("end_date", end).query("format", "json");
        let told: Told = self.data(call).await?;
        let currency = told.currency;
        let service = |service: Service| {
            // A row that cannot be read must not vanish from a reconciliation.
            let cost = Price::parse(&service.cost, &currency)
                .ok_or_else(|| Failure::rejected(format!("Telnyx's charge for {} is no amount of money", service.name)))?;
            Ok(ChargedService { cost, recurring: service.cost_type.eq_ignore_ascii_case("MRC"), name: service.name })
        };
        let number = |row: Row| {
            let services = row.services.into_iter().map(service).collect::<Result<_, Failure>>()?;
            Ok(ChargedNumber { phone_number: row.tn, charge_type: row.charge_type, services })
        };
        let numbers = told.results.into_iter().map(number).collect::<Result<_, Failure>>()?;
        Ok(Charges { numbers, currency })
    }

    /// `record_type` such as `call-control`, `messaging`, `recording`; `date_range` such as `today`, `last_month`; pages count from 1.
    pub async fn detail_records(&self, record_type: &str, date_range: &str, page: u32) -> Result<DetailRecords, Failure> {
        let call =
            Call::get("/detail_records", &[]).query("filter[record_type]", record_type).query("filter[date_range]", date_range);
        self.page(call, page, DETAIL_PAGE_SIZE).await
    }
}
