//! The demo goes on: a template is approved, five hundred candidates get it at the permitted rate, and their answers come in live.

use crate::{
    books::{self, Entry},
    client::Client,
    progress::Screen,
    stage::Stage,
    talk::Frame,
    terminal::length,
};
use anyhow::{Context as _, bail, ensure};
use domain::LineId;
use serde_json::{Value, json};
use simulators::{MessageBooks, Scene, ScenePlan};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const CANDIDATES: &str = include_str!("../fixtures/candidates.csv");
const TEMPLATE: &str = "offre_de_poste";
/// Sends a second that the number is allowed (contracts/meta-cloud-api.md 7.6).
const LIMIT_PER_S: u32 = 80;
/// Every so many-th candidate cannot be reached, answers, or wants no more.
const FAILS_EVERY: usize = 40;
const ANSWERS_EVERY: usize = 16;
const STOPS_EVERY: usize = 50;
/// Answers shown as they come; the rest is counted.
const SHOWN: usize = 10;
/// What people answer.
const ANSWERS: [&str; 5] = [
    "Bonjour, oui je suis disponible",
    "Quel est le salaire ?",
    "نعم، متى المقابلة؟",
    "Je peux passer demain matin",
    "C'est à temps plein ?",
];
/// The whole campaign, in real time, and the news that comes after it.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked whether the last news is taken.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// How often progress is told off a terminal.
const TELL_PERIOD: Duration = Duration::from_secs(2);

/// What a candidate does when the message has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Quiet,
    Unreachable,
    Answers(&'static str),
    Stops,
}

fn role(place: usize) -> Role {
    match place + 1 {
        n if n % FAILS_EVERY == 0 => Role::Unreachable,
        n if n % STOPS_EVERY == 0 => Role::Stops,
        n if n % ANSWERS_EVERY == 0 => Role::Answers(ANSWERS[n / ANSWERS_EVERY % ANSWERS.len()]),
        _ => Role::Quiet,
    }
}

/// How the campaign stands, as the event stream tells it.
#[derive(Default)]
struct Standing {
    /// Message and its newest status.
    status: HashMap<String, String>,
    /// When somebody wrote, by what Meta calls the message.
    written: HashMap<String, Instant>,
    /// How long each answer took to the screen.
    delays: Vec<Duration>,
}

impl Standing {
    fn out(&self) -> usize {
        self.status.values().filter(|status| !matches!(status.as_str(), "queued" | "sending")).count()
    }

    fn ended(&self) -> usize {
        self.status.values().filter(|status| matches!(status.as_str(), "delivered" | "read" | "failed")).count()
    }
}

/// Plays it on a live line; answers what is told with `--json`.
pub(crate) async fn perform(stage: &Stage, screen: &Screen, line: LineId) -> anyhow::Result<Value> {
    let paint = screen.paint;
    let shown = stage.api.get(&format!("/v1/lines/{line}")).await?;
    let field = |name: &str| shown[name].as_str().map(str::to_owned).with_context(|| format!("the line has no {name}"));
    let (tenant, number) = (field("tenant_id")?, field("phone")?);
    screen.heading(&format!("A campaign from {number}"));
    let key = stage.api.post(&format!("/v1/tenants/{tenant}/keys"), &json!({ "role": "recruiter" }), None).await?;
    let key = key["key"].as_str().context("the new key is missing")?;
    let recruiter = Client::new(stage.api.base(), key.into())?;
    approve(&recruiter, screen).await?;

    let frame = Frame { line: line.0, template: TEMPLATE, language: "fr", campaign: Some("demo") };
    let messages = frame.messages(CANDIDATES).context("the candidates' file cannot be used")?;
    let people: Vec<String> = messages.iter().filter_map(|message| message["to"].as_str().map(str::to_owned)).collect();
    for phone in people.iter().enumerate().filter(|(place, _)| role(*place) == Role::Unreachable).map(|(_, phone)| phone) {
        stage.simulators.scene(ScenePlan { scene: Scene::MessageFails { code: 131_026 }, times: 1, only: Some(phone.clone()) });
    }
    let mut events = listen(&recruiter).await?;
    let begun = Instant::now();
    let queued = recruiter.post("/v1/messages/batch", &json!({ "messages": messages }), None).await?;
    let ids = queued["ids"].as_array().context("the batch has no ids")?;
    let roles: HashMap<String, (String, Role)> = ids
        .iter()
        .filter_map(Value::as_str)
        .zip(&people)
        .enumerate()
        .map(|(place, (id, phone))| (id.to_owned(), (phone.clone(), role(place))))
        .collect();
    let count = people.len();
    screen.fact("queued", &format!("{count} messages in one call"), &length(begun.elapsed()));
    let standing = watch(stage, screen, &mut events, &roles, &number, begun).await?;
    let took = begun.elapsed();
    last_news(stage).await?;

    report(stage, screen, &recruiter, line, &people, &standing, took).await.inspect(|_| {
        screen.say(format!("  {}", paint.green("everybody was written to once, and every answer reached the screen")));
    })
}

async fn approve(recruiter: &Client, screen: &Screen) -> anyhow::Result<()> {
    let template = json!({
        "name": TEMPLATE, "language": "fr", "category": "MARKETING", "parameter_format": "NAMED", "introduces": true,
        "components": [
            { "type": "BODY", "text": "Bonjour {{prenom}}, ici Atlas Recrutement. Nous cherchons pour un poste de {{poste}} à {{ville}} : cela vous intéresse-t-il ?",
              "example": { "body_text_named_params": [{ "param_name": "prenom", "example": "Salma" },
                  { "param_name": "poste", "example": "cariste" }, { "param_name": "ville", "example": "Tanger" }] } },
            { "type": "FOOTER", "text": "Répondez STOP pour ne plus recevoir de messages" }
        ]
    });
    let begun = Instant::now();
    let answer = recruiter.post("/v1/templates", &template, None).await.context("the template was refused")?;
    let run = answer.pointer("/run/id").and_then(Value::as_str).context("the template has no run")?;
    let end =
        tokio::time::timeout(PATIENCE, recruiter.follow(run, |_| ())).await.context("the template's review takes too long")??;
    ensure!(end["status"] == "succeeded", "the template's run ended {}", end["status"]);
    screen.fact("template", &format!("{TEMPLATE} is approved"), &length(begun.elapsed()));
    Ok(())
}

/// The company's own event stream, event by event.
async fn listen(recruiter: &Client) -> anyhow::Result<mpsc::UnboundedReceiver<Value>> {
    let mut stream = recruiter.events().await.context("the event stream does not open")?;
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut text = Vec::new();
        // The end of the demo ends it, too.
        while let Ok(Some(chunk)) = stream.chunk().await {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.windows(2).position(|window| window == b"\n\n") {
                let block: Vec<u8> = text.drain(..end + 2).collect();
                let block = String::from_utf8_lossy(&block);
                let data = block.lines().find_map(|line| line.strip_prefix("data:"));
                if let Some(event) = data.and_then(|data| serde_json::from_str(data.trim()).ok())
                    && send.send(event).is_err()
                {
                    return;
                }
            }
        }
    });
    Ok(receive)
}

/// Until every message has ended and every answer has come.
async fn watch(
    stage: &Stage,
    screen: &Screen,
    events: &mut mpsc::UnboundedReceiver<Value>,
    roles: &HashMap<String, (String, Role)>,
    number: &str,
    begun: Instant,
) -> anyhow::Result<Standing> {
    let bar = screen.bar("sending", roles.len() as u64);
    let (mut standing, mut told) = (Standing::default(), Instant::now());
    let mut spoken: BTreeSet<String> = BTreeSet::new();
    while standing.ended() < roles.len() || standing.delays.len() < standing.written.len() {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let Ok(Some(event)) = tokio::time::timeout(left, events.recv()).await else {
            bail!("after {} only {} of {} messages had ended", length(begun.elapsed()), standing.ended(), roles.len());
        };
        let data = &event["data"];
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str() {
            Some("message.status") => {
                let (id, status) = (text("id"), text("status"));
                let Some((phone, role)) = roles.get(&id) else { continue };
                let words = match role {
                    Role::Answers(words) => Some(*words),
                    Role::Stops => Some("STOP"),
                    _ => None,
                };
                if let Some(words) = words.filter(|_| matches!(status.as_str(), "delivered" | "read"))
                    && spoken.insert(id.clone())
                {
                    let at = Instant::now();
                    let content = json!({ "type": "text", "text": { "body": words } });
                    let wamid = stage.simulators.write(number, phone, content).context("a candidate cannot write")?;
                    standing.written.insert(wamid, at);
                }
                standing.status.insert(id, status);
            }
            Some("message.received") => {
                let Some(written) = standing.written.get(&text("wamid")) else { continue };
                let delay = written.elapsed();
                standing.delays.push(delay);
                if standing.delays.len() <= SHOWN {
                    let words = data.pointer("/content/body").and_then(Value::as_str).unwrap_or_default();
                    screen.event(&format!("{}  \u{ab} {words} \u{bb}  after {} ms", text("from"), delay.as_millis()));
                }
            }
            _ => {}
        }
        bar.at(standing.out() as u64);
        if told.elapsed() > TELL_PERIOD {
            told = Instant::now();
            bar.tell(&format!("{} of {} sent, {} answers", standing.out(), roles.len(), standing.delays.len()));
        }
    }
    bar.end();
    Ok(standing)
}

/// Who was delivered to may read it later: until Meta has told the last of it, and we have taken it.
async fn last_news(stage: &Stage) -> anyhow::Result<()> {
    let begun = Instant::now();
    stage.simulators.settle().await;
    let untaken = "select count(*) from inbox where taken_at is null";
    while sqlx::query_scalar::<_, i64>(untaken).fetch_one(&stage.db).await.context("the inbox cannot be read")? > 0 {
        ensure!(begun.elapsed() < PATIENCE, "after {} there is news that nobody took", length(begun.elapsed()));
        tokio::time::sleep(LOOK_PERIOD).await;
    }
    Ok(())
}

/// Sends a second, as Meta saw them come.
fn rate(stage: &Stage) -> f64 {
    let journal = stage.simulators.journal();
    let mut sends = journal.iter().filter(|entry| entry.operation == "meta.send").map(|entry| entry.at);
    let Some(first) = sends.next() else { return 0.0 };
    let (mut count, mut last) = (0_u32, first);
    for at in sends {
        (count, last) = (count + 1, at);
    }
    let seconds = (last - first).as_seconds_f64();
    if seconds > 0.0 { f64::from(count) / seconds } else { 0.0 }
}

async fn report(
    stage: &Stage,
    screen: &Screen,
    recruiter: &Client,
    line: LineId,
    people: &[String],
    standing: &Standing,
    took: Duration,
) -> anyhow::Result<Value> {
    let rate = rate(stage);
    let theirs = stage.simulators.message_books();
    let peak = theirs.peak_per_second.values().copied().max().unwrap_or(0);
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    standing.status.values().for_each(|status| *ends.entry(status).or_default() += 1);
    let ends: Vec<String> = ends.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let refused = theirs.refused_throughput + theirs.refused_pair;
    screen.fact(
        "rate",
        &format!("{rate:.1} messages/s"),
        &format!("{LIMIT_PER_S} are allowed; {peak} came in the fullest second, {refused} were refused"),
    );
    screen.fact("ended", &ends.join(", "), &length(took));
    let mut delays = standing.delays.clone();
    delays.sort();
    let median = delays.get(delays.len() / 2).copied().unwrap_or_default();
    let slowest = delays.last().copied().unwrap_or_default();
    screen.fact(
        "answers",
        &format!("{} from WhatsApp to the event stream", delays.len()),
        &format!("median {} ms, slowest {} ms", median.as_millis(), slowest.as_millis()),
    );

    let mut wrong = Vec::new();
    let stopped: Vec<&String> = people.iter().enumerate().filter(|(n, _)| role(*n) == Role::Stops).map(|(_, p)| p).collect();
    if let Some(phone) = stopped.first() {
        let frame = Frame { line: line.0, template: TEMPLATE, language: "fr", campaign: None };
        let again = frame.messages(&format!("to,prenom,poste,ville\n{phone},Vous,cariste,Rabat\n"))?;
        match recruiter.post("/v1/messages", &again[0], None).await {
            Ok(_) => wrong.push("somebody who said STOP can be written to".to_owned()),
            Err(refusal) => screen.fact("after a STOP", "the next message is refused", &refusal.to_string()),
        }
    }
    screen.say("");
    let entries = compare(stage, line, &theirs, standing, stopped.len()).await?;
    screen.say(books::show(&entries, screen.paint));
    if !books::balanced(&entries) {
        wrong.push("the message books do not balance".to_owned());
    }
    // They leave at the limit and arrive as the network lets them; what Meta refuses is what counts.
    if refused > 0 {
        wrong.push(format!("{refused} messages were refused as too fast"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(json!({
        "messages": people.len(), "took_ms": took.as_millis() as u64, "rate_per_s": rate, "peak_per_s": peak,
        "answers": delays.len(), "answer_median_ms": median.as_millis() as u64, "answer_slowest_ms": slowest.as_millis() as u64,
        "books": books::to_json(&entries),
    }))
}

/// Our message books beside the simulator's.
async fn compare(
    stage: &Stage,
    line: LineId,
    theirs: &MessageBooks,
    standing: &Standing,
    stops: usize,
) -> anyhow::Result<Vec<Entry>> {
    let (accepted, contacts, inbound, opted_out): (i64, i64, i64, i64) = sqlx::query_as(
        "select count(*) filter (where direction = 'out' and wamid is not null),
                count(distinct m.contact_id) filter (where direction = 'out' and wamid is not null),
                count(*) filter (where direction = 'in'),
                count(distinct m.contact_id) filter (where c.opted_out)
         from message m join contact c using (contact_id) where line_id = $1",
    )
    .bind(line.0)
    .fetch_one(&stage.db)
    .await
    .context("the messages cannot be read")?;
    let told: Vec<(String, i64)> = sqlx::query_as(
        "select s.status, count(*) from message_status s join message m using (message_id) where m.line_id = $1 group by 1",
    )
    .bind(line.0)
    .fetch_all(&stage.db)
    .await
    .context("the statuses cannot be read")?;
    let told: HashMap<String, i64> = told.into_iter().collect();
    // An attempt is named after its message: the same message under two names was sent twice.
    let mut intents: HashMap<&str, u32> = HashMap::new();
    for (attempt, times) in &theirs.per_callback {
        *intents.entry(attempt.split('.').next().unwrap_or_default()).or_default() += times;
    }
    let twice = intents.values().filter(|times| **times > 1).count() as u64;
    let mut entries = vec![
        Entry::equal("messages accepted", accepted.unsigned_abs(), theirs.accepted),
        Entry::equal("people written to", contacts.unsigned_abs(), theirs.per_recipient.len() as u64),
        Entry::equal("written to twice", 0, twice),
    ];
    for (what, status) in
        [("told sent", "sent"), ("told delivered", "delivered"), ("told read", "read"), ("told failed", "failed")]
    {
        let ours = told.get(status).copied().unwrap_or_default().unsigned_abs();
        entries.push(Entry::equal(what, ours, theirs.statuses.get(status).copied().unwrap_or_default()));
    }
    entries.push(Entry::equal("answers", inbound.unsigned_abs(), standing.written.len() as u64));
    entries.push(Entry::equal("said STOP", opted_out.unsigned_abs(), stops as u64));
    Ok(entries)
}
