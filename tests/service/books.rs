//! After each test, both sides must tell the same story.

use crate::installation::{Installation, Order, eventually};
use chrono::TimeDelta;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};
use uuid::Uuid;

/// Two below the ten after which Meta locks a number.
const REGISTER_BUDGET: usize = 8;
/// After so many code requests for one number the next must be this long after the first of them, by the providers' clock.
/// Ours is a second safer.
const CODE_BUDGET: [(usize, TimeDelta); 3] =
    [(1, TimeDelta::seconds(59)), (3, TimeDelta::seconds(3_599)), (5, TimeDelta::seconds(86_399))];

/// For the last news to be taken.
const NEWS_PATIENCE: Duration = Duration::from_secs(300);

/// Each order ended with exactly one number, live or given back, or with none; nothing was paid twice, no budget was passed, the receipts hold.
pub(crate) async fn balance(installation: &Installation, orders: &[Order]) {
    let books = installation.simulators.books();
    let mut live = BTreeSet::new();
    for order in orders {
        let line = installation.line(order).await;
        let run = installation.run(order).await.expect("the run");
        match run["status"].as_str() {
            Some("succeeded") if line["status"] == "released" => {}
            Some("succeeded") => {
                assert_eq!(line["status"], "live", "{line}");
                let phone = line["phone"].as_str().expect("a live line has its number").to_owned();
                assert!(live.insert(phone.clone()), "two lines have {phone}");
                let number = books.numbers.get(phone.trim_start_matches('+')).expect("Meta knows the number");
                assert_eq!(
                    (number.status.as_str(), Value::from(number.id.as_str())),
                    ("CONNECTED", line["phone_number_id"].clone())
                );
            }
            Some("undone" | "cancelled") => assert_eq!(line["status"], "failed", "{line}"),
            other => panic!("the run ended {other:?}: {run}"),
        }
    }
    let owned: BTreeSet<String> = books.owned.iter().map(|number| number.phone.clone()).collect();
    assert_eq!(owned, live, "we pay for exactly the numbers that are live");
    let pending: Vec<_> = books.orders.values().flatten().filter(|order| order.status == "pending").collect();
    assert!(pending.is_empty(), "orders are still open: {pending:?}");
    assert!(books.released_registered.is_empty(), "given back while registered: {:?}", books.released_registered);

    let mut bought: BTreeMap<&str, usize> = BTreeMap::new();
    for order in books.orders.values().flatten().filter(|order| order.status == "success") {
        *bought.entry(&order.phone).or_default() += 1;
    }
    assert!(bought.values().all(|times| *times == 1), "a number was bought twice: {bought:?}");
    for (digits, number) in &books.numbers {
        assert!(number.register_calls.len() <= REGISTER_BUDGET, "{digits} was registered {} times", number.register_calls.len());
        for (requests, time) in CODE_BUDGET {
            let spread = number.code_requests.windows(requests + 1).map(|asked| asked[requests].at - asked[0].at).min();
            assert!(
                spread.is_none_or(|spread| spread >= time),
                "{} codes for {digits} were asked for within {spread:?}",
                requests + 1
            );
        }
        assert!(number.registered == live.contains(&format!("+{digits}")), "{digits} is {} at Meta", number.status);
    }

    let paid: Vec<String> =
        sqlx::query_scalar("select phone from purchase where outcome in ('owned', 'released') order by phone")
            .fetch_all(&installation.db)
            .await
            .expect("the purchases");
    let sold: Vec<String> = bought.keys().map(|phone| (*phone).to_owned()).collect();
    assert_eq!(paid, sold, "what we say we bought is what was sold");
    let verified = installation.json(&["verify"]).await;
    assert!(verified.pointer("/receipts/links").and_then(Value::as_u64).is_some_and(|links| links > 0), "{verified}");
}

/// A message's end: id, status, and two columns that may be empty.
type Ended = (Uuid, String, Option<String>, Option<String>);

/// So many messages went out and each has its end, with a reason unless it arrived; Meta accepted none of them twice and nothing
/// else, and all that it told was taken. How many ended how.
pub(crate) async fn messages(installation: &Installation, sent: usize) -> BTreeMap<String, usize> {
    let books = installation.simulators.message_books();
    let rows: Vec<Ended> =
        sqlx::query_as("select message_id, status, error_code, waiting_for from message where direction = 'out'")
            .fetch_all(&installation.db)
            .await
            .expect("the messages");
    assert_eq!(rows.len(), sent, "messages that are there");
    let mut accepted: HashMap<Uuid, u32> = HashMap::new();
    for (attempt, times) in &books.per_callback {
        let (id, _) = attempt.split_once('.').expect("message and number");
        *accepted.entry(id.parse().expect("a message's id")).or_default() += times;
    }
    let twice: Vec<_> = accepted.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "Meta accepted these more than once: {twice:?}");
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for (id, status, error, waiting_for) in rows {
        let known = accepted.remove(&id).is_some();
        match status.as_str() {
            "delivered" | "read" => assert!(known, "{id} is {status}, Meta does not know it"),
            "failed" => assert!(error.is_some(), "{id} failed without a reason"),
            "parked" | "unknown" => assert!(waiting_for.is_some(), "{id} is {status} without a reason"),
            open => panic!("{id} is still {open}, Meta knows it: {known}, it waits for {waiting_for:?}"),
        }
        *ends.entry(status).or_default() += 1;
    }
    assert!(accepted.is_empty(), "Meta accepted what we never had: {accepted:?}");
    // The last status of all may tell of no new end, so that nobody above waited for it to be taken.
    let untaken = async || {
        let open = sqlx::query_scalar::<_, i64>("select count(*) from inbox where taken_at is null");
        (open.fetch_one(&installation.db).await.ok()? == 0).then_some(())
    };
    eventually(NEWS_PATIENCE, untaken).await.expect("news nobody took");
    ends
}
