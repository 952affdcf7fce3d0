//! `ligne demo`: three orders on one machine, one smooth, one through faults, one undone; a kill in the middle; a campaign; the
//! month closed; and the books of each.

use crate::{
    books::{self, Side},
    checkout::{Callback, Checkout},
    cli,
    client::{Client, has_ended, is_work, sentence, steps},
    config, demo_campaign, demo_month,
    progress::{Screen, Track},
    rates,
    stage::{Database, Stage},
    terminal::length,
    verify, wiring,
};
use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use domain::LineId;
use serde_json::{Value, json};
use simulators::{Fault, FaultPlan, Scene, ScenePlan, Simulators};
use std::time::{Duration, Instant};

/// How often the runs are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Nothing has moved for this long: what the runs wait for is time, and the sandbox's clock may bring it.
const STILL_PATIENCE: Duration = Duration::from_secs(4);
/// It was moved and still nothing happened.
const STILL_AGAIN: Duration = Duration::from_millis(1_500);
/// By how much: the gap that Meta wants between two codes, and a little.
const CLOCK_STEP: Duration = Duration::from_secs(61);
/// The whole play, in real time.
const PATIENCE: Duration = Duration::from_secs(900);
/// Width of what is wrapped.
const LINE_CHARS: usize = 100;
/// From the end of a run to its callback.
const CALLBACK_PATIENCE: Duration = Duration::from_secs(180);

/// An order, and what is to become of it.
struct Order {
    company: &'static str,
    ice: &'static str,
    story: &'static str,
    /// What the world has in store for the company of this display name.
    plot: fn(&Simulators, &'static str),
    /// How the run and the line must end.
    ends: (&'static str, &'static str),
}

const ORDERS: [Order; 3] = [
    Order {
        company: "Rif Intérim",
        ice: "002345678000056",
        story: "through faults: the order's answer is lost, Meta throttles, nobody calls, the next code is a wrong one",
        plot: |simulators, company| {
            simulators.fault_next("telnyx.order", Fault::LoseAnswer);
            let throttle = Fault::Throttle { headers: true, retry_after_s: 1 };
            let plan = |operation: &str, fault| FaultPlan {
                operation: operation.into(),
                fault,
                skip: 0,
                times: 1,
                only: Some(company.into()),
            };
            simulators.fault(plan("meta.number_add", throttle));
            // The code of the call that never comes counts as the first wrong one.
            for (scene, times) in [(Scene::NobodyCalls, 1), (Scene::WrongCode, 2)] {
                simulators.scene(ScenePlan { scene, times, only: Some(company.into()) });
            }
        },
        ends: ("succeeded", "live"),
    },
    Order { company: "Atlas Recrutement", ice: "001234567000089", story: "smooth", plot: |_, _| (), ends: ("succeeded", "live") },
    Order {
        company: "Souss Talents",
        ice: "003456789000023",
        story: "paid for, then found to be on WhatsApp already: it must be undone",
        plot: |simulators, company| {
            simulators.scene(ScenePlan { scene: Scene::OnWhatsApp, times: 1, only: Some(company.into()) })
        },
        ends: ("undone", "failed"),
    },
];

/// An order that was placed.
struct Placed<'a> {
    order: &'static Order,
    line: LineId,
    run: String,
    since: Instant,
    took: Option<Duration>,
    last: Value,
    track: Track<'a>,
}

pub(crate) async fn perform(options: cli::Demo, json: bool) -> anyhow::Result<()> {
    let screen = Screen::new(json);
    let stop = wiring::until_told_to_stop()?;
    screen.say(format!("{}  a line from checkout to live, with nothing configured", screen.paint.bold("ligne demo")));
    screen.heading("The stage");
    let begun = Instant::now();
    let database = tokio::select! {
        database = Database::open(config::environment("DATABASE_URL")) => database?,
        () = stop.cancelled() => bail!("interrupted"),
    };
    screen.fact("PostgreSQL", &database.origin, &length(begun.elapsed()));
    let mut stage = Stage::set(database).await?;

    let played = tokio::select! {
        played = play(&mut stage, &screen, &options) => played,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Ok(report) = &played {
        if json {
            say!("{report}");
        }
        if options.stay {
            stay(&stage, &screen);
            stop.cancelled().await;
        }
    }
    let log = stage.log();
    let closed = stage.close(played.is_err()).await;
    match played {
        Ok(_) => closed,
        Err(error) => Err(error.context(format!("the demo failed; the service's log is {}", log.display()))),
    }
}

fn stay(stage: &Stage, screen: &Screen) {
    screen.heading("It stays up until you press Ctrl-C");
    let base = stage.api.base();
    screen.fact("console", &format!("{base}/console"), "");
    screen.fact("API", &format!("{base}/docs"), "");
    screen.fact("admin key", &stage.admin_key, "");
    screen.fact("simulators", &stage.simulators.control_url(), "faults, scenes, books, time");
    screen.fact("in a shell", &format!("LIGNE_URL={base} LIGNE_ADMIN_KEY={} ligne run list", stage.admin_key), "");
}

async fn play(stage: &mut Stage, screen: &Screen, options: &cli::Demo) -> anyhow::Result<Value> {
    let theatre = format!("{} and {}", stage.simulators.telnyx_url(), stage.simulators.meta_url());
    screen.fact("Telnyx and Meta", "simulated", &theatre);
    let (pid, took) = stage.start_service().await?;
    screen.fact("service", &format!("{}, process {pid}", stage.api.base()), &length(took));
    let rows = rates::load_examples(&stage.db).await?;
    screen.fact("rates", &format!("{rows} prices of Meta, Telnyx and the bank"), "examples; `ligne rates load` takes yours");
    let checkout = Checkout::open(&stage.callback_secret, false).await?;
    screen.fact("checkout", &checkout.url(), "receives signed callbacks");

    screen.heading("Three orders");
    for order in &ORDERS {
        screen.fact(order.company, order.story, "");
    }
    screen.say("");
    let mut placed = place(stage, screen, &checkout).await?;
    follow(stage, screen, &mut placed, options).await?;
    let mut told = report(stage, screen, &checkout, &placed).await?;
    let sender = placed.iter().rfind(|one| one.order.ends.1 == "live").context("no line is live")?;
    told["campaign"] = demo_campaign::perform(stage, screen, sender.line).await?;
    told["month"] = demo_month::perform(stage, screen, sender.line).await?;
    Ok(told)
}

/// A checkout's key, three companies, three orders.
async fn place<'a>(stage: &Stage, screen: &'a Screen, checkout: &Checkout) -> anyhow::Result<Vec<Placed<'a>>> {
    let mut placed = Vec::new();
    for order in &ORDERS {
        (order.plot)(&stage.simulators, order.company);
        let tenant = text(&stage.api.post("/v1/tenants", &company(order), None).await?, "/id")?;
        let api = checkout_key(stage).await?;
        let body = json!({
            "tenant_id": tenant,
            "country": "MA",
            "display_name": order.company,
            "profile": { "about": "Recrutement et intérim au Maroc", "email": "contact@example.ma", "vertical": "PROF_SERVICES" },
            "callback_url": checkout.url(),
        });
        let answer = api
            .post("/v1/lines", &body, Some(&format!("demo-{}", order.ice)))
            .await
            .with_context(|| format!("{} cannot order", order.company))?;
        let line = text(&answer, "/line/id")?.parse().context("the line's id is no UUID")?;
        let (run, track) = (text(&answer, "/run/id")?, screen.track(order.company));
        placed.push(Placed { order, line, run, since: Instant::now(), took: None, last: Value::Null, track });
        // A lost answer holds for the first order that reaches Telnyx: the others wait until it has.
        if placed.len() == 1 {
            first_order_reached(&stage.simulators).await?;
        }
    }
    Ok(placed)
}

async fn first_order_reached(simulators: &Simulators) -> anyhow::Result<()> {
    tokio::time::timeout(PATIENCE, async {
        while !simulators.books().calls.contains_key("telnyx.order") {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    })
    .await
    .context("the first order never reached Telnyx")
}

fn company(order: &Order) -> Value {
    json!({
        "name": order.company,
        "legal": { "ice": order.ice, "if": "12345678", "rc": "98765", "address": "12, rue Tarik Ibn Ziad, Casablanca" },
        "plan": { "base_fee": "200.00", "price_per_message": "0.60" },
        "credit_limit": "1000.00",
        "language": "fr",
    })
}

/// A client with the key of a checkout.
async fn checkout_key(stage: &Stage) -> anyhow::Result<Client> {
    let answer = stage.api.post("/v1/keys", &json!({ "role": "checkout" }), None).await.context("no key for the checkout")?;
    Client::new(stage.api.base(), text(&answer, "/key")?.into())
}

/// Looks at all runs until they have ended; kills the service once on the way; moves the clock when only time is missing.
async fn follow(stage: &mut Stage, screen: &Screen, placed: &mut [Placed<'_>], options: &cli::Demo) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut moved = Instant::now();
    let mut kill_due = !options.no_kill;
    let mut patience = STILL_PATIENCE;
    while placed.iter().any(|one| one.took.is_none()) {
        for one in placed.iter_mut().filter(|one| one.took.is_none()) {
            // Unreachable while it is down: then there is nothing to see.
            let Ok(run) = stage.api.get(&format!("/v1/runs/{}", one.run)).await else { continue };
            if one.track.look(&run) {
                (moved, patience) = (Instant::now(), STILL_PATIENCE);
            }
            if has_ended(&run) {
                one.took = Some(one.since.elapsed());
                one.track.end(&run);
            }
            one.last = run;
        }
        if kill_due && placed.iter().all(in_the_middle) {
            kill_due = false;
            let pid = stage.kill_service().await?;
            screen.event(&format!("kill -9 {pid}: the service is gone, with three orders in flight"));
            let (pid, took) = stage.start_service().await?;
            screen.event(&format!("started again as {pid}, ready after {}", length(took)));
            moved = Instant::now();
        }
        stage.check_service()?;
        if moved.elapsed() > patience {
            stage.advance(CLOCK_STEP).await.context("the sandbox's clock does not move")?;
            screen.event(&format!("only time is missing: the sandbox's clock goes on by {}", length(CLOCK_STEP)));
            (moved, patience) = (Instant::now(), STILL_AGAIN);
        }
        if begun.elapsed() > PATIENCE {
            let open = placed.iter().find(|one| one.took.is_none()).map_or(Value::Null, |one| one.last.clone());
            bail!("a run did not end in time: {open}");
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(())
}

/// Money may be on its way, and the run has not ended.
fn in_the_middle(one: &Placed<'_>) -> bool {
    one.took.is_none() && steps(&one.last).len() >= 3
}

async fn report(stage: &Stage, screen: &Screen, checkout: &Checkout, placed: &[Placed<'_>]) -> anyhow::Result<Value> {
    let paint = screen.paint;
    let mut told = Vec::new();
    let mut wrong = Vec::new();
    for one in placed {
        let line = stage.api.get(&format!("/v1/lines/{}", one.line)).await?;
        let field = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        let status = one.last["status"].as_str().unwrap_or("-");
        screen.heading(one.order.company);
        screen.fact("line", &format!("{}, run {}", paint.status(&field("status")), paint.status(status)), &one.run);
        if !one.last["error"].is_null() {
            screen.fact("because", &sentence(&one.last["error"]), "");
        }
        screen.fact("number", &field("phone"), "");
        screen.fact("phone_number_id", &field("phone_number_id"), "");
        let took = one.took.unwrap_or_default();
        screen.fact("took", &length(took), &format!("{} steps", steps(&one.last).iter().filter(|step| is_work(step)).count()));
        for lines in timings(&one.last) {
            screen.say(format!("    {}", paint.dim(lines)));
        }
        let heard = checkout.expect(|callback| concerns(callback, one.line), CALLBACK_PATIENCE).await;
        match &heard {
            Some(callback) => {
                let told = |path: &str| callback.body.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
                screen.fact("callback", &format!("{}: {}", told("/type"), told("/data/status")), "its signature is right");
            }
            None => wrong.push(format!("{} got no callback", one.order.company)),
        }
        let receipts = store::purchases::receipts(&stage.db, one.line).await.context("the receipts cannot be read")?;
        screen.fact("receipt", &format!("{} links", receipts.len()), "each hash covers the one before");
        for receipt in &receipts {
            let kind = receipt.record["kind"].as_str().unwrap_or("-");
            screen.say(format!(
                "    {:>3}  {kind:8} {}  {}",
                receipt.seq,
                paint.cyan(receipt.hash.get(..16).unwrap_or_default()),
                paint.dim(words(&receipt.record))
            ));
        }
        if (status, field("status").as_str()) != one.order.ends {
            let (run, line) = one.order.ends;
            wrong.push(format!("{} should end {run} and {line}, not {status} and {}", one.order.company, field("status")));
        }
        told.push(json!({
            "company": one.order.company, "line": line, "run": one.last, "took_ms": took.as_millis() as u64,
            "callback": heard.map(|callback| callback.body), "receipt": receipts,
        }));
    }

    screen.heading("The books");
    let theirs = stage.simulators.books();
    let entries = books::compare(&Side::ours(&stage.db).await?, &Side::theirs(&theirs));
    screen.say(books::show(&entries, paint));
    let (links, _) = verify::receipts(&stage.db).await?;
    screen.say(format!("\n  {} links of receipts hold", links));
    if !books::balanced(&entries) {
        wrong.push("the books do not balance".into());
    }
    if !theirs.released_registered.is_empty() {
        wrong.push("a number was given back while it was registered".into());
    }
    wrong.extend(checkout.refused().into_iter().map(|why| format!("a callback was refused: {why}")));
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    screen.say(format!("  {}", paint.green("two lines live, one order undone, nothing lost, the books balance")));
    Ok(json!({ "lines": told, "books": books::to_json(&entries), "receipt_links": links }))
}

/// What a receipt says, without its ids.
fn words(record: &Value) -> String {
    let detail = &record["detail"];
    let text = |name: &str| detail[name].as_str().unwrap_or("-");
    match record["kind"].as_str() {
        Some("intent") => format!("to buy {}, under {}", text("phone"), text("reference")),
        Some("call") => format!("order call {}", detail["number"]),
        Some("answer") if detail["status"].is_string() => format!("order {}, {}", text("order_id"), text("status")),
        Some("answer") => format!("{}: {}", text("failure"), text("why")),
        Some("outcome") => format!("{}: {}", text("outcome"), text("why")),
        _ => detail.to_string(),
    }
}

/// Each step with the time that it took, as many to a line as fit.
fn timings(run: &Value) -> Vec<String> {
    let mut lines = vec![String::new()];
    for step in steps(run).iter().filter(|step| is_work(step)) {
        let time = |name: &str| step[name].as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
        let took = time("started_at").zip(time("ended_at")).and_then(|(from, to)| (to - from).to_std().ok()).unwrap_or_default();
        let told = format!("{} {}", step["name"].as_str().unwrap_or("-"), length(took));
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&told),
            Some(line) if line.chars().count() + told.chars().count() < LINE_CHARS => {
                line.push_str(" · ");
                line.push_str(&told);
            }
            _ => lines.push(told),
        }
    }
    lines
}

fn concerns(callback: &Callback, line: LineId) -> bool {
    callback.body.to_string().contains(&line.to_string())
}

fn text(answer: &Value, pointer: &str) -> anyhow::Result<String> {
    let text = answer.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("the service's answer has no {pointer}: {answer}"))
}
