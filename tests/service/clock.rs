//! The sandbox's clock, told and moved through the front: engine and providers go with it.

use crate::installation::Installation;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use simulators::{Config, Scene};
use std::time::{Duration, Instant};

const HOUR_S: u64 = 3_600;
const MONTH_S: u64 = 31 * 24 * HOUR_S;
/// A month with every schedule registered and lines that live, on a busy machine.
const MONTH_PATIENCE: Duration = Duration::from_secs(600);
/// Real time passes, too; less than what is missing to 72 hours.
const SLACK_S: i64 = 1_800;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_sleeps_three_days_and_a_month_passes_in_moments() {
    let installation = Installation::open(Config::default()).await;
    let _service = installation.spawn(&["serve"]);
    installation.ready().await;
    let (_, before) = installation.call(Method::GET, "/v1/sandbox/clock", None).await;
    assert_eq!(before["advanced_s"], 0);

    // Meta locks the number for 72 hours, which its run sleeps through.
    installation.simulators.scene_next(Scene::RegisterLocked);
    let order = installation.order().await;
    let hours = json!({ "advance_s": 71 * HOUR_S });
    let first = installation.post("/v1/sandbox/clock", &hours, "first-71-hours").await;
    assert_eq!((first.0, &first.1["advanced_s"]), (StatusCode::OK, &json!(71 * HOUR_S)), "{first:?}");
    assert!(since(&before, &first.1) - i64::try_from(71 * HOUR_S).unwrap() < SLACK_S, "{before} {first:?}");
    let run = installation.run(&order).await.expect("the run");
    assert_eq!(run["status"], "waiting", "{run}");

    // Asked again with the same key nothing moves; with the key and other words it is refused.
    let again = installation.post("/v1/sandbox/clock", &hours, "first-71-hours").await;
    assert_eq!(again, first);
    let other = installation.post("/v1/sandbox/clock", &json!({ "advance_s": 1 }), "first-71-hours").await;
    assert_eq!((other.0, &other.1["code"]), (StatusCode::CONFLICT, &json!("idempotency_key_reused")));
    let (_, told) = installation.call(Method::GET, "/v1/sandbox/clock", None).await;
    assert_eq!(told["advanced_s"], json!(71 * HOUR_S));

    let (status, woken) = installation.post("/v1/sandbox/clock", &json!({ "advance_s": 2 * HOUR_S }), "two-more").await;
    assert_eq!(status, StatusCode::OK, "{woken}");
    let run = installation.run(&order).await.expect("the run");
    assert_eq!(run["status"], "succeeded", "{run}");
    let times: Vec<&str> = steps(&run).filter_map(|step| step["ended_at"].as_str()).collect();
    assert!(times.is_sorted(), "steps end in order: {times:?}");
    let books = installation.simulators.books();
    let number = books.numbers.values().find(|number| number.registered).expect("a registered number");
    let slept = number.register_calls[0] - number.code_requests[0].at;
    assert!((72..=73).contains(&slept.num_hours()), "by the providers' clock, too: {slept}");

    // A webhook that falls due on the way is delivered on the way, and signed at a time that we take for now.
    let begun = Instant::now();
    let order = installation.order().await;
    let month = installation.json(&["clock", "advance", "31d"]).await;
    let took = begun.elapsed();
    assert!(took < MONTH_PATIENCE, "a month took {took:?}");
    assert_eq!(month["advanced_s"], json!(73 * HOUR_S + MONTH_S));
    let run = installation.run(&order).await.expect("the run");
    assert_eq!(run["status"], "succeeded", "{run}");
    assert!(!steps(&run).any(|step| step["name"] == "recover code"), "nobody had to look for what was told: {run}");
    println!("31 days with a line in the making took {took:?}");
    let begun = Instant::now();
    installation.json(&["clock", "advance", "31d"]).await;
    println!("31 quiet days took {:?}", begun.elapsed());
    installation.close().await;
}

fn steps(run: &Value) -> impl Iterator<Item = &Value> {
    run["steps"].as_array().into_iter().flatten()
}

/// Seconds between two answers of the clock.
fn since(before: &Value, after: &Value) -> i64 {
    let at =
        |told: &Value| told["now"].as_str().and_then(|now| now.parse::<chrono::DateTime<chrono::Utc>>().ok()).expect("a time");
    (at(after) - at(before)).num_seconds()
}
