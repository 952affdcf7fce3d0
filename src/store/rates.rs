//! Tables `rate`, `market_of`, `exchange_rate`, `number_price`, `messaging_account`: what providers charge, dated.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use chrono_tz::Tz;
use domain::{
    billing::{Period, PricingType, Rated, local, rate},
    money::{ExchangeRate, MicroUsd},
    rates::{Category, MarketOf, NumberPrice, Rate, RateError, join_rates, market_at},
};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};
use std::collections::HashMap;

/// Cards are in dollars unless an account says otherwise.
pub const CURRENCY: &str = "USD";

/// Everything needed to say what a message costs us. A few thousand rows at most.
#[derive(Debug, Clone, Default)]
pub struct Card {
    pub rates: Vec<Rate>,
    pub markets: Vec<MarketOf>,
    pub exchange: Vec<ExchangeRate>,
}

/// What a delivered message costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    pub market: Option<String>,
    /// First day of the rate's row.
    pub rate_from: Option<NaiveDate>,
    pub micro: MicroUsd,
    /// None: no exchange rate is loaded for the day.
    pub units: Option<i64>,
}

impl Card {
    /// `None`: no price is loaded for this market, category and day. An untold pricing counts as regular.
    pub fn cost(
        &self,
        pricing: Option<PricingType>,
        category: Option<Category>,
        country: Option<&str>,
        at: DateTime<Utc>,
        zone: Tz,
    ) -> Option<Cost> {
        let market = country.and_then(|country| market_at(&self.markets, country, at, zone)).map(str::to_owned);
        let pricing = Some(pricing.unwrap_or(PricingType::Regular));
        let (rate_from, micro) =
            match rate(&self.rates, pricing, category, market.as_deref().unwrap_or_default(), CURRENCY, at, zone) {
                Rated::Charge(rate) => (Some(rate.valid_from), MicroUsd(rate.price_micro)),
                Rated::Free { .. } => (None, MicroUsd::ZERO),
                Rated::Pending | Rated::NoRate => return None,
            };
        let exchange = ExchangeRate::on(&self.exchange, at.with_timezone(&zone).date_naive());
        let units = match micro {
            MicroUsd::ZERO => Some(0),
            micro => exchange.and_then(|exchange| micro.to_mad(exchange).ok()).map(|units| units.0),
        };
        Some(Cost { market, rate_from, micro, units })
    }
}

/// The card in force, all of its dates: of all countries, or only of these.
pub async fn card(db: &mut PgConnection, countries: Option<&[String]>) -> sqlx::Result<Card> {
    let rates = rows(&mut *db, countries).await?.into_iter().filter(|rate| rate.currency == CURRENCY).collect();
    let markets = sqlx::query_as!(
        MarketOf,
        "select country, market, valid_from, valid_to, source from market_of where $1::text[] is null or country = any($1)",
        countries
    )
    .fetch_all(&mut *db)
    .await?;
    let exchange = sqlx::query_as!(
        ExchangeRate,
        r#"select micro_mad as "micro_mad_per_usd", valid_from, source from exchange_rate where currency = $1 order by valid_from"#,
        CURRENCY
    )
    .fetch_all(db)
    .await?;
    Ok(Card { rates, markets, exchange })
}

async fn rows(db: impl PgExecutor<'_>, countries: Option<&[String]>) -> sqlx::Result<Vec<Rate>> {
    let rows = sqlx::query!(
        "select market, category, currency, price_micro, valid_from, valid_to, source from rate
         where $1::text[] is null or market in (select market from market_of where country = any($1))",
        countries
    )
    .fetch_all(db)
    .await?;
    let read = rows.into_iter().filter_map(|row| {
        Some(Rate {
            market: row.market,
            category: Category::read(&row.category)?,
            currency: row.currency,
            price_micro: row.price_micro,
            valid_from: row.valid_from,
            valid_to: row.valid_to,
            source: row.source,
        })
    });
    Ok(read.collect())
}

/// What one file may hold.
#[derive(Debug, Clone)]
pub enum Table {
    Rates(Vec<Rate>),
    Markets(Vec<MarketOf>),
    Exchange(Vec<ExchangeRate>),
    Numbers(Vec<NumberPrice>),
}

#[derive(Debug)]
pub enum Refused {
    /// Nothing was written.
    Rows(Vec<RateError>),
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Adds a file's rows; those already there stay. Says how many are new. Rows that contradict loaded ones are refused, all of them.
pub async fn load(tx: &mut PgConnection, table: &Table) -> Result<u64, Refused> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('rates', 0))").execute(&mut *tx).await?;
    let done = match table {
        Table::Rates(new) => {
            let loaded = rows(&mut *tx, None).await?;
            join_rates(&loaded, new).map_err(Refused::Rows)?;
            sqlx::query!(
                "insert into rate (market, category, currency, price_micro, valid_from, valid_to, source)
                 select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::date[], $6::date[], $7::text[]) on conflict do nothing",
                &new.iter().map(|r| r.market.clone()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.category.name().to_owned()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.currency.clone()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.price_micro).collect::<Vec<_>>(),
                &new.iter().map(|r| r.valid_from).collect::<Vec<_>>(),
                &new.iter().map(|r| r.valid_to).collect::<Vec<_>>() as _,
                &new.iter().map(|r| r.source.clone()).collect::<Vec<_>>()
            )
            .execute(tx)
            .await?
        }
        Table::Markets(new) => {
            let rows: Vec<_> = new.iter().map(|r| (r.country.clone(), r.valid_from, r.market.clone())).collect();
            let loaded = sqlx::query!("select country, valid_from, market from market_of").fetch_all(&mut *tx).await?;
            no_conflict(
                loaded.into_iter().map(|r| ((r.country, r.valid_from), r.market)),
                rows.iter().map(|r| ((r.0.clone(), r.1), r.2.clone())),
            )?;
            sqlx::query!(
                "insert into market_of (country, market, valid_from, valid_to, source)
                 select * from unnest($1::text[], $2::text[], $3::date[], $4::date[], $5::text[]) on conflict do nothing",
                &new.iter().map(|r| r.country.clone()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.market.clone()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.valid_from).collect::<Vec<_>>(),
                &new.iter().map(|r| r.valid_to).collect::<Vec<_>>() as _,
                &new.iter().map(|r| r.source.clone()).collect::<Vec<_>>()
            )
            .execute(tx)
            .await?
        }
        Table::Exchange(new) => {
            let loaded = sqlx::query!("select currency, valid_from, micro_mad from exchange_rate").fetch_all(&mut *tx).await?;
            no_conflict(
                loaded.into_iter().map(|r| ((r.currency, r.valid_from), r.micro_mad.to_string())),
                new.iter().map(|r| ((CURRENCY.to_owned(), r.valid_from), r.micro_mad_per_usd.to_string())),
            )?;
            sqlx::query!(
                "insert into exchange_rate (currency, valid_from, micro_mad, source)
                 select $1, * from unnest($2::date[], $3::bigint[], $4::text[]) on conflict do nothing",
                CURRENCY,
                &new.iter().map(|r| r.valid_from).collect::<Vec<_>>(),
                &new.iter().map(|r| r.micro_mad_per_usd).collect::<Vec<_>>(),
                &new.iter().map(|r| r.source.clone()).collect::<Vec<_>>()
            )
            .execute(tx)
            .await?
        }
        Table::Numbers(new) => {
            let price = |monthly: i64, upfront: i64| format!("{monthly}+{upfront}");
            let loaded = sqlx::query!("select country, number_type, valid_from, monthly_micro, upfront_micro from number_price")
                .fetch_all(&mut *tx)
                .await?;
            no_conflict(
                loaded.into_iter().map(|r| {
                    ((format!("{} {}", r.country, r.number_type), r.valid_from), price(r.monthly_micro, r.upfront_micro))
                }),
                new.iter().map(|r| ((format!("{} {}", r.country, r.number_type), r.valid_from), price(r.monthly.0, r.upfront.0))),
            )?;
            sqlx::query!(
                "insert into number_price (country, number_type, monthly_micro, upfront_micro, valid_from, valid_to, source)
                 select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::date[], $6::date[], $7::text[]) on conflict do nothing",
                &new.iter().map(|r| r.country.clone()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.number_type.clone()).collect::<Vec<_>>(),
                &new.iter().map(|r| r.monthly.0).collect::<Vec<_>>(),
                &new.iter().map(|r| r.upfront.0).collect::<Vec<_>>(),
                &new.iter().map(|r| r.valid_from).collect::<Vec<_>>(),
                &new.iter().map(|r| r.valid_to).collect::<Vec<_>>() as _,
                &new.iter().map(|r| r.source.clone()).collect::<Vec<_>>()
            )
            .execute(tx)
            .await?
        }
    };
    Ok(done.rows_affected())
}

/// A price that was loaded stays what it was: another one for the same day is an overlap.
fn no_conflict(
    loaded: impl Iterator<Item = ((String, NaiveDate), String)>,
    new: impl Iterator<Item = ((String, NaiveDate), String)>,
) -> Result<(), Refused> {
    let loaded: HashMap<_, _> = loaded.collect();
    let errors: Vec<RateError> = new
        .filter(|(key, value)| loaded.get(key).is_some_and(|there| there != value))
        .map(|((name, from), _)| RateError {
            line: 0,
            code: "overlap",
            message: format!("{name} from {from} is loaded with another value"),
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Refused::Rows(errors)) }
}

/// How an account is billed; unknown ones as in Morocco.
pub async fn zones(db: impl PgExecutor<'_>) -> sqlx::Result<HashMap<String, Tz>> {
    sqlx::query!("select messaging_account, time_zone from messaging_account")
        .fetch_all(db)
        .await
        .map(|rows| rows.into_iter().filter_map(|row| Some((row.messaging_account, row.time_zone.parse().ok()?))).collect())
}

/// Sets the time zone in which Meta's prices change for an account.
pub async fn set_zone(db: impl PgExecutor<'_>, account: &str, zone: Tz) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into messaging_account (messaging_account, time_zone) values ($1, $2)
         on conflict (messaging_account) do update set time_zone = excluded.time_zone",
        account,
        zone.name()
    )
    .execute(db)
    .await
    .map(drop)
}

/// A past month's cost under another card, for one tenant and category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rerated {
    pub tenant_id: uuid::Uuid,
    pub category: String,
    pub messages: i64,
    /// Millionths of a dollar: as charged then, and under the other card.
    pub then_micro: i64,
    pub other_micro: i64,
    /// Messages for which the other card has no price.
    pub without_price: i64,
}

/// Rates a month once more against `card`, as if all of it had happened on the day `on` if there is one; nothing is written.
pub async fn compare(db: &mut PgConnection, month: Period, card: &Card, on: Option<NaiveDate>) -> sqlx::Result<Vec<Rerated>> {
    let zones = zones(&mut *db).await?;
    // One group is one price: messages of an hour, country and category.
    let groups = sqlx::query!(
        r#"select c.tenant_id, c.category, c.pricing_type, c.country, l.messaging_account, date_trunc('hour', c.happened_at) as "hour!",
                count(*) as "messages!", coalesce(sum(c.cost_micro), 0)::bigint as "then_micro!"
           from charge c join line l using (line_id)
           where c.usage_month = $1 and c.state = 'final' group by 1, 2, 3, 4, 5, 6"#,
        month.first_day()
    )
    .fetch_all(db)
    .await?;
    let mut found: std::collections::BTreeMap<(uuid::Uuid, String), Rerated> = Default::default();
    for group in groups {
        let zone =
            group.messaging_account.and_then(|account| zones.get(&account).copied()).unwrap_or(chrono_tz::Africa::Casablanca);
        let pricing = group.pricing_type.as_deref().and_then(PricingType::read);
        let at = on.map_or(group.hour, |day| local(zone, day.and_time(NaiveTime::MIN)));
        let cost = card.cost(pricing, Category::read(&group.category), group.country.as_deref(), at, zone);
        let row = found.entry((group.tenant_id, group.category.clone())).or_insert(Rerated {
            tenant_id: group.tenant_id,
            category: group.category,
            messages: 0,
            then_micro: 0,
            other_micro: 0,
            without_price: 0,
        });
        row.messages += group.messages;
        row.then_micro += group.then_micro;
        match cost {
            Some(cost) => row.other_micro += cost.micro.0 * group.messages,
            None => row.without_price += group.messages,
        }
    }
    Ok(found.into_values().collect())
}
