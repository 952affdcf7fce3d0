//! What the workflows of a line share: waiting for the world outside, ending with a callback, and the acts at the providers.

pub(crate) mod ownership;
pub(crate) mod purchase;
pub(crate) mod registration;

use domain::{Failure, LineId, TenantId};
use durable::{Flow, Run, Signal, Tx};
use jobs::Tools;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;
use store::lines;

/// How long a run waits for a person before it undoes what it did.
pub const PERSON_PATIENCE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Between looks at something that only the outside can change: doubled from the first to the longest.
const FIRST_GAP: Duration = Duration::from_secs(30);
const LONGEST_GAP: Duration = Duration::from_secs(6 * 3_600);

/// What a look at the world outside says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Look<R> {
    Ready(R),
    /// Why not, for people.
    NotYet(String),
}

/// Looks until it is ready: at once, at every signal, and at growing intervals. `patience` is up: the run is undone.
///
/// Webhook for speed, poll for truth: a signal only says "look", what it carries goes to the next look.
pub(crate) async fn until<S, R, F>(
    run: &mut Run<'_>,
    tools: &Tools,
    line: LineId,
    what: &str,
    key: &str,
    patience: Duration,
    mut look: impl FnMut(Option<S>) -> F + Send,
) -> Flow<R>
where
    S: Signal,
    R: Serialize + DeserializeOwned + Send,
    F: Future<Output = Result<Look<R>, Failure>> + Send,
{
    let began = run.now().await?;
    let mut gap = FIRST_GAP;
    let mut news = None;
    loop {
        let seen = look(news.take());
        let noted = async {
            let seen = seen.await?;
            let reason = match &seen {
                Look::Ready(_) => None,
                Look::NotYet(why) => Some(why.as_str()),
            };
            lines::waits(&tools.db, line, reason).await?;
            Ok::<_, Failure>(seen)
        };
        let why = match run.step(what, noted).await? {
            Look::Ready(answer) => return Ok(answer),
            Look::NotYet(why) => why,
        };
        let waited = (run.now().await? - began).to_std().unwrap_or_default();
        let Some(left) = patience.checked_sub(waited).filter(|left| !left.is_zero()) else {
            return run.fail(Failure::rejected(why).code("waited_too_long"));
        };
        news = run.wait::<S>(key, gap.min(left), &why).await?;
        gap = (gap * 2).min(LONGEST_GAP);
    }
}

/// Tells the checkout, if it wants to know, in the transaction of the change.
pub(crate) async fn tell_checkout(tx: &mut Tx<'_>, tools: &Tools, line: LineId) -> Result<(), Failure> {
    let Some(line) = lines::get_any(&mut **tx, line).await? else { return Ok(()) };
    let Some(url) = &line.callback_url else { return Ok(()) };
    let data = serde_json::to_value(&line).map_err(|error| Failure::rejected(format!("a line cannot be written: {error}")))?;
    jobs::call_back(tx, TenantId(line.tenant_id), url, "line.status", tools.clock.now(), &data).await?;
    Ok(())
}
