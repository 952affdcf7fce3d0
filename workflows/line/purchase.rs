//! One number bought, at most once: intent, look, call, look (contracts/telnyx.md 2.5); and the way back to none.

use super::Look;
use domain::{Failure, Kind, LineId};
use jobs::Tools;
use providers::{
    Price,
    telnyx::{
        Available, GroupStatus, NewOrder, NumberOrder, NumberPatch, NumberStatus, NumberType, OrderStatus, OwnedNumber, Release,
        RequirementStatus, Search,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use store::purchases::{self, Intent, Purchase};
use uuid::Uuid;

/// How long an order may take to show up in Telnyx's lists: before that, "not there" means nothing.
pub const ORDER_GRACE: Duration = Duration::from_secs(120);
/// A number that has just been ordered shows up, or becomes active, after a moment.
const APPEARS_AFTER: Duration = Duration::from_secs(2);
/// Numbers asked for in one search.
const OFFERS: u32 = 50;
/// The types that WhatsApp takes, the best first: mobile numbers get texts and calls.
const TYPES: [NumberType; 3] = [NumberType::Mobile, NumberType::Local, NumberType::National];

/// What Telnyx keeps with the order and the number: one per run, whatever number it is for.
pub(crate) fn reference(run: Uuid) -> String {
    format!("ligne-{run}")
}

fn purchase_id(run: Uuid, phone: &str) -> Uuid {
    Uuid::new_v5(&run, phone.as_bytes())
}

/// What to look for, after it was seen that it can be bought.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    number_type: NumberType,
    /// The papers to order with.
    group: Option<String>,
}

/// A number for sale.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) phone: String,
    pub(crate) upfront: Option<Price>,
    pub(crate) monthly: Option<Price>,
}

/// Before any money: does Telnyx sell such numbers in this country, and have we the papers it wants?
pub(crate) async fn plan(tools: &Tools, country: &str) -> Result<Look<Plan>, Failure> {
    let coverage = tools.telnyx.coverage(country).await?;
    let reachable = |features: &[String]| features.is_empty() || features.iter().any(|one| one == "voice" || one == "sms");
    let sold = |wanted: &NumberType| {
        coverage.types.iter().any(|sold| sold.number_type == *wanted && reachable(&sold.features)) && coverage.numbers
    };
    let mut missing = None;
    for number_type in TYPES.into_iter().filter(sold) {
        let groups = tools.telnyx.requirement_groups(country, &number_type).await?;
        let approved = groups.iter().find(|group| group.status == GroupStatus::Approved && group.is_usable());
        let group = approved.or_else(|| groups.iter().find(|group| group.is_usable())).map(|group| group.id.clone());
        if group.is_some() || tools.telnyx.requirements(country, &number_type).await?.is_empty() {
            return Ok(Look::Ready(Plan { number_type, group }));
        }
        missing.get_or_insert(number_type);
    }
    match missing {
        Some(number_type) => Ok(Look::NotYet(format!(
            "Telnyx wants documents for {number_type} numbers in {country}: fill in a requirement group"
        ))),
        None => {
            Err(Failure::rejected(format!("Telnyx sells no numbers in {country} that WhatsApp could use")).code("no_coverage"))
        }
    }
}

/// Numbers for sale; those that can get texts and calls first, then the cheapest. Among equals each run begins elsewhere, or runs
/// that begin together would all go after the same one.
pub(crate) async fn search(tools: &Tools, run: Uuid, country: &str, plan: &Plan) -> Result<Vec<Offer>, Failure> {
    let search = Search {
        country: country.to_owned(),
        number_type: Some(plan.number_type.clone()),
        limit: Some(OFFERS),
        ..Search::default()
    };
    let has = |offer: &Available, feature: &str| offer.features.iter().any(|one| one == feature);
    let mut found = tools.telnyx.search(&search).await?;
    found.retain(|offer| offer.features.is_empty() || has(offer, "voice") || has(offer, "sms"));
    found.sort_by_key(|offer| {
        let ways = u8::from(has(offer, "voice")) + u8::from(has(offer, "sms"));
        let monthly = offer.monthly.as_ref().map_or(i64::MAX, |price| price.micros);
        (std::cmp::Reverse(ways), monthly, purchase_id(run, &offer.phone_number))
    });
    let offers: Vec<Offer> = found
        .into_iter()
        .map(|offer| Offer { phone: offer.phone_number, upfront: offer.upfront, monthly: offer.monthly })
        .collect();
    if offers.is_empty() {
        return Err(Failure::rejected(format!("Telnyx has no numbers for sale in {country}")).code("none_for_sale"));
    }
    Ok(offers)
}

/// Before any money: is there enough of it for the dearest of them?
pub(crate) async fn funds(tools: &Tools, offers: &[Offer]) -> Result<Look<()>, Failure> {
    let available = tools.telnyx.balance().await?.available_credit;
    let cost = |offer: &Offer| {
        let parts = offer.upfront.iter().chain(&offer.monthly).filter(|price| price.currency == available.currency);
        parts.map(|price| price.micros).sum::<i64>()
    };
    let dearest = offers.iter().map(cost).max().unwrap_or_default();
    if available.micros < dearest {
        return Ok(Look::NotYet("the balance at Telnyx does not cover the number: top it up".to_owned()));
    }
    Ok(Look::Ready(()))
}

/// Before any call: what we are about to buy. `false`: another run is after it.
pub(crate) async fn intend(tools: &Tools, run: Uuid, line: LineId, offer: &Offer) -> Result<bool, Failure> {
    let currency = offer.monthly.as_ref().or(offer.upfront.as_ref()).map(|price| price.currency.as_str());
    let intent = Intent {
        purchase_id: purchase_id(run, &offer.phone),
        run_id: run,
        line_id: line,
        customer_reference: &reference(run),
        phone: &offer.phone,
        upfront_micro: offer.upfront.as_ref().map(|price| price.micros),
        monthly_micro: offer.monthly.as_ref().map(|price| price.micros),
        currency,
    };
    Ok(purchases::intend(&tools.db, &intent).await?)
}

/// How an attempt to buy a number ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bought {
    /// The order is placed; it may still fail.
    Ordered { order_id: String },
    /// The number is ours although no order of ours is listed.
    Owned,
    /// Surely neither ours nor pending: another number may be tried.
    Taken,
}

/// The order under our reference for this number, if Telnyx has it.
async fn our_order(tools: &Tools, purchase: &Purchase) -> Result<Option<NumberOrder>, Failure> {
    if let Some(id) = &purchase.order_id {
        return tools.telnyx.order(id).await.map(Some);
    }
    let orders = tools.telnyx.orders_by_reference(&purchase.customer_reference).await?;
    Ok(orders.into_iter().find(|order| order.line(&purchase.phone).is_some()))
}

/// The number, if our account holds it and not for another line.
async fn our_number(tools: &Tools, purchase: &Purchase) -> Result<Option<OwnedNumber>, Failure> {
    let number = tools.telnyx.find_number(&purchase.phone).await?;
    // The reference may not have been copied to the number; one that names another run is another run's.
    let foreign = |number: &OwnedNumber| {
        number.customer_reference.as_ref().is_some_and(|told| told.starts_with("ligne-") && *told != purchase.customer_reference)
    };
    Ok(number.filter(|number| !foreign(number) && purchase.called_at.is_some()))
}

/// Looks, and only if nothing is there and no call is in doubt, calls. May be repeated at any time.
pub(crate) async fn buy(tools: &Tools, run: Uuid, offer: &Offer, plan: &Plan) -> Result<Bought, Failure> {
    let id = purchase_id(run, &offer.phone);
    let purchase = purchases::get(&tools.db, id).await?;
    let purchase = purchase.ok_or_else(|| Failure::rejected("a purchase without an intent is not made").code("no_intent"))?;
    if let Some(order) = our_order(tools, &purchase).await? {
        return ordered(tools, id, &order).await;
    }
    if our_number(tools, &purchase).await?.is_some() {
        purchases::settle(&tools.db, id, "owned", None, "the number is ours, its order is not listed").await?;
        return Ok(Bought::Owned);
    }
    if purchase.in_doubt {
        grace(tools, &purchase)?;
        if purchase.refusal.as_deref() == Some(TAKEN) {
            return taken(tools, id).await;
        }
    }
    let new = NewOrder {
        phone_number: offer.phone.clone(),
        customer_reference: purchase.customer_reference.clone(),
        requirement_group_id: plan.group.clone(),
        billing_group_id: None,
    };
    purchases::calling(&tools.db, id).await?;
    let answer = tools.telnyx.create_order(&new).await;
    match answer {
        Ok(order) => {
            let detail = json!({ "order_id": order.id, "status": order.status.as_str() });
            purchases::answered(&tools.db, id, false, None, detail).await?;
            ordered(tools, id, &order).await
        }
        Err(failure) => {
            let refused = failure.kind != Kind::Unclear;
            let detail = json!({ "failure": failure.kind, "code": failure.code, "why": failure.why });
            // "Taken" after a call in doubt may mean taken by ourselves.
            let in_doubt = !refused || purchase.in_doubt;
            purchases::answered(&tools.db, id, in_doubt, failure.code.as_deref(), detail).await?;
            refusal(tools, &purchase, offer, failure).await
        }
    }
}

/// The number was sold a moment before (contracts/telnyx.md 2.3).
const TAKEN: &str = "85001";
/// The number was not searched for lately.
const NOT_SEARCHED: &str = "85000";

async fn refusal(tools: &Tools, purchase: &Purchase, offer: &Offer, failure: Failure) -> Result<Bought, Failure> {
    let id = purchase.purchase_id;
    if failure.has_code(TAKEN) && purchase.in_doubt {
        return Err(Failure::throttled("it is not known yet whether the number was taken by us", ORDER_GRACE));
    }
    if failure.has_code(TAKEN) {
        return taken(tools, id).await;
    }
    if failure.has_code(NOT_SEARCHED) {
        let national = domain::Phone::parse(&offer.phone)?.split().map(|(_, rest)| rest.to_owned());
        let country = domain::Phone::parse(&offer.phone)?.country().map(|country| country.iso2().to_owned());
        let search = Search { country: country.unwrap_or_default(), contains: national, ..Search::default() };
        tools.telnyx.search(&search).await?;
        return Err(Failure::transient("the number had to be searched for again").code(NOT_SEARCHED));
    }
    if failure.kind == Kind::Rejected && !purchase.in_doubt {
        purchases::settle(&tools.db, id, "void", None, &failure.why).await?;
    }
    Err(failure)
}

async fn ordered(tools: &Tools, id: Uuid, order: &NumberOrder) -> Result<Bought, Failure> {
    purchases::settle(&tools.db, id, "ordered", Some(&order.id), "the order is placed").await?;
    Ok(Bought::Ordered { order_id: order.id.clone() })
}

async fn taken(tools: &Tools, id: Uuid) -> Result<Bought, Failure> {
    purchases::settle(&tools.db, id, "taken", None, "somebody else was faster; it is neither ours nor pending").await?;
    Ok(Bought::Taken)
}

/// Not before a lost order would have shown up.
fn grace(tools: &Tools, purchase: &Purchase) -> Result<(), Failure> {
    let since = purchase.called_at.map(|called| (tools.clock.now() - called).to_std().unwrap_or_default());
    match since.and_then(|since| ORDER_GRACE.checked_sub(since)).filter(|left| !left.is_zero()) {
        Some(left) => Err(Failure::throttled("an order without an answer may still show up", left)),
        None => Ok(()),
    }
}

/// How an order stands.
pub(crate) async fn order_state(
    tools: &Tools,
    run: Uuid,
    offer: &Offer,
    order_id: &str,
    country: &str,
    plan: &Plan,
) -> Result<Look<()>, Failure> {
    let order = tools.telnyx.order(order_id).await?;
    let id = purchase_id(run, &offer.phone);
    match &order.status {
        OrderStatus::Success => Ok(Look::Ready(())),
        OrderStatus::Failure | OrderStatus::Cancelled | OrderStatus::Deleted => {
            purchases::settle(&tools.db, id, "void", None, &format!("the order ended as {}", order.status)).await?;
            Err(Failure::rejected(format!("Telnyx could not deliver {}: the order ended as {}", offer.phone, order.status))
                .code("order_failed"))
        }
        OrderStatus::Pending | OrderStatus::Other(_) => {
            let line = order.line(&offer.phone);
            let wants = line.is_some_and(|line| {
                !line.requirements_met
                    && matches!(line.requirements_status, RequirementStatus::InfoPending | RequirementStatus::Exception)
            });
            if !wants {
                return Ok(Look::NotYet(format!("Telnyx prepares {}", offer.phone)));
            }
            // Papers that were filed meanwhile go to the order by themselves.
            let groups = tools.telnyx.requirement_groups(country, &plan.number_type).await?;
            if let Some(group) = groups.iter().find(|group| group.is_usable())
                && let Some(sub_order) = order.sub_number_orders_ids.first()
            {
                match tools.telnyx.attach_requirement_group(sub_order, &group.id).await {
                    Err(failure) if failure.kind != Kind::Rejected => return Err(failure),
                    _ => {}
                }
            }
            Ok(Look::NotYet(format!("Telnyx wants documents for {}: fill in a requirement group", offer.phone)))
        }
    }
}

/// The number's own record, active; its id is not the order line's. Documents may be wanted even after the order succeeded.
pub(crate) async fn number(tools: &Tools, run: Uuid, phone: &str) -> Result<Look<OwnedNumber>, Failure> {
    let number = tools.telnyx.find_number(phone).await?;
    let number = number.ok_or_else(|| Failure::transient(format!("Telnyx does not list {phone} yet")).after(APPEARS_AFTER))?;
    match &number.status {
        NumberStatus::Active => {
            purchases::settle(&tools.db, purchase_id(run, phone), "owned", None, "the number is active").await?;
            Ok(Look::Ready(number))
        }
        NumberStatus::RequirementInfoPending
        | NumberStatus::RequirementInfoUnderReview
        | NumberStatus::RequirementInfoException => {
            Ok(Look::NotYet(format!("Telnyx wants documents for {phone} ({}): fill in a requirement group", number.status)))
        }
        status => Err(Failure::transient(format!("{phone} is {status}, not active yet")).after(APPEARS_AFTER)),
    }
}

/// What was bought, in the words of the line's row.
pub(crate) async fn note(tools: &Tools, line: LineId, run: Uuid, phone: &str, number_id: &str) -> Result<(), Failure> {
    let purchase = purchases::get(&tools.db, purchase_id(run, phone)).await?;
    let purchase = purchase.ok_or_else(|| Failure::rejected("a number without a purchase").code("no_intent"))?;
    let mut tx = tools.db.begin().await?;
    let bought = store::lines::Bought {
        phone,
        number_id,
        upfront_micro: purchase.upfront_micro,
        monthly_micro: purchase.monthly_micro,
        currency: purchase.currency.as_deref(),
    };
    store::lines::bought(&mut tx, line, &bought).await?;
    Ok(tx.commit().await?)
}

/// Calls come to our voice app, whatever became of the order's wish (contracts/telnyx.md 11.2); read back.
pub(crate) async fn set_connection(tools: &Tools, number_id: &str, run: Uuid) -> Result<(), Failure> {
    let patch = NumberPatch {
        connection_id: Some(tools.telnyx.connection_id().to_owned()),
        customer_reference: Some(reference(run)),
        ..NumberPatch::default()
    };
    tools.telnyx.patch_number(number_id, &patch).await?;
    let number = tools.telnyx.number(number_id).await?;
    if number.connection_id.as_deref() != Some(tools.telnyx.connection_id()) {
        return Err(Failure::transient("the number has not taken our voice application yet"));
    }
    Ok(())
}

/// Texts come to our messaging profile. Says whether the number can get any.
pub(crate) async fn set_messaging(tools: &Tools, number_id: &str) -> Result<bool, Failure> {
    match tools.telnyx.patch_messaging(number_id).await {
        Ok(settings) => Ok(settings.sms().is_some() && tools.telnyx.messaging_profile_id().is_some()),
        // A number without SMS may refuse the profile.
        Err(failure) if failure.kind == Kind::Rejected => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// The undo of every purchase of a run: nothing bought, pending orders cancelled, numbers given back, in doubt looked for.
pub(crate) async fn undo(tools: &Tools, run: Uuid) -> Result<(), Failure> {
    for purchase in purchases::of_run(&tools.db, run).await? {
        undo_one(tools, &purchase).await?;
    }
    Ok(())
}

async fn undo_one(tools: &Tools, purchase: &Purchase) -> Result<(), Failure> {
    let id = purchase.purchase_id;
    if purchase.called_at.is_none() {
        purchases::settle(&tools.db, id, "void", None, "nothing was ordered").await?;
        return Ok(());
    }
    if matches!(purchase.outcome.as_str(), "taken" | "released") {
        return Ok(());
    }
    let order = our_order(tools, purchase).await?;
    let pending = order.as_ref().is_some_and(|order| !order.status.is_final());
    if let Some(order) = order.as_ref().filter(|_| pending) {
        for sub_order in tools.telnyx.sub_orders(&order.id).await? {
            if sub_order.status == OrderStatus::Pending {
                match tools.telnyx.cancel_sub_order(&sub_order.id).await {
                    // It became active, or ended, a moment ago: look again.
                    Err(failure) if failure.kind == Kind::Rejected => {
                        return Err(Failure::transient(format!("the order can no longer be cancelled: {}", failure.why)));
                    }
                    answer => answer.map(drop)?,
                }
            }
        }
        // What was cancelled may hold a number for a moment longer: the next look decides.
        let again = tools.telnyx.order(&order.id).await?;
        if !again.status.is_final() {
            return Err(Failure::transient("the cancelled order is still pending").after(APPEARS_AFTER));
        }
        return settle_undone(tools, purchase, "the order was cancelled").await;
    }
    match our_number(tools, purchase).await? {
        Some(number) => {
            give_back(tools, &number).await?;
            settle_undone(tools, purchase, "the number was given back").await
        }
        // The order succeeded, and its number is about to appear.
        None if order.is_some_and(|order| order.status == OrderStatus::Success) && purchase.outcome == "ordered" => {
            let called = purchase.called_at.map(|called| (tools.clock.now() - called).to_std().unwrap_or_default());
            match called.and_then(|called| ORDER_GRACE.checked_sub(called)).filter(|left| !left.is_zero()) {
                Some(_) => Err(Failure::throttled("the ordered number has not appeared yet", APPEARS_AFTER)),
                None => settle_undone(tools, purchase, "the ordered number never appeared").await,
            }
        }
        None => {
            if purchase.in_doubt {
                grace(tools, purchase)?;
            }
            settle_undone(tools, purchase, "there is no order and no number").await
        }
    }
}

async fn settle_undone(tools: &Tools, purchase: &Purchase, why: &str) -> Result<(), Failure> {
    let outcome = if why.contains("given back") { "released" } else { "void" };
    purchases::settle(&tools.db, purchase.purchase_id, outcome, None, why).await?;
    Ok(())
}

/// Gives a number back and makes sure of it.
async fn give_back(tools: &Tools, number: &OwnedNumber) -> Result<(), Failure> {
    if number.deletion_lock_enabled {
        let why = format!("{} has a deletion lock at Telnyx: unlock it", number.phone_number);
        return Err(Failure::rejected(why).code("deletion_lock"));
    }
    if tools.telnyx.delete_number(&number.id).await? == Release::Released {
        return Ok(());
    }
    match tools.telnyx.find_number(&number.phone_number).await? {
        Some(_) => Err(Failure::transient(format!("{} is still listed as ours", number.phone_number)).after(APPEARS_AFTER)),
        None => Ok(()),
    }
}

/// The end of a line: its number given back. A number that is gone already is given back.
pub(crate) async fn release(tools: &Tools, provision_run: Option<Uuid>, phone: &str) -> Result<Look<()>, Failure> {
    if let Some(number) = tools.telnyx.find_number(phone).await? {
        match give_back(tools, &number).await {
            Err(failure) if failure.kind == Kind::Rejected => return Ok(Look::NotYet(failure.why)),
            answer => answer?,
        }
    }
    if let Some(run) = provision_run {
        purchases::settle(&tools.db, purchase_id(run, phone), "released", None, "the line ended").await?;
    }
    Ok(Look::Ready(()))
}
